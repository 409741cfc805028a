#include "defib/process/service_spec.h"

#include <gtest/gtest.h>

#include <functional>

namespace defib::process {
namespace {

ServiceSpec good() {
  ServiceSpec spec;
  spec.name = "engine";
  spec.argv = {"/bin/true"};
  return spec;
}

TEST(ServiceSpec, TheDefaultsAreValid) {
  EXPECT_TRUE(validate(good()));
}

TEST(ServiceSpec, EveryImpossibleValueIsRefusedByItsName) {
  struct Case {
    const char* field;
    std::function<void(ServiceSpec&)> spoil;
  };
  const std::vector<Case> cases = {
      {"name", [](auto& s) { s.name = ""; }},
      {"name", [](auto& s) { s.name = "../etc"; }},
      {"name", [](auto& s) { s.name = ".hidden"; }},
      {"name", [](auto& s) { s.name = std::string(kMaxServiceName + 1, 'a'); }},
      {"command", [](auto& s) { s.argv.clear(); }},
      {"command", [](auto& s) { s.argv.push_back(std::string("a\0b", 3)); }},
      {"env", [](auto& s) { s.env = {{"A=B", "c"}}; }},
      {"user", [](auto& s) { s.user = std::string("a\0b", 3); }},
      {"supplementary_groups", [](auto& s) { s.supplementary_groups.emplace(65, "1"); }},
      {"umask", [](auto& s) { s.umask = 01000; }},
      {"nice", [](auto& s) { s.nice = 20; }},
      {"oom_score_adjust", [](auto& s) { s.oom_score_adjust = 1001; }},
      {"limits", [](auto& s) { s.limits = {{"nofiles", 100}}; }},
      {"limits", [](auto& s) { s.limits = {{"nofile", 31}}; }},
      {"memory_limit", [](auto& s) { s.memory_limit_bytes = 1; }},
      {"control_groups",
       [](auto& s) {
         s.control_groups = false;
         s.max_processes = 5;
       }},
      {"pre_start", [](auto& s) { s.pre_start = {""}; }},
      {"cleanup", [](auto& s) { s.cleanup = {std::string("a\0b", 3)}; }},
      {"hook_timeout", [](auto& s) { s.hook_timeout = os::Duration(0); }},
      {"stop_sequence", [](auto& s) { s.stop_sequence.resize(9); }},
      {"stop_sequence", [](auto& s) { s.stop_sequence = {{99, os::Duration(1)}}; }},
      {"max_restarts", [](auto& s) { s.max_restarts = -1; }},
      {"restart_window", [](auto& s) { s.restart_window = os::Duration(0); }},
      {"restart_delay", [](auto& s) { s.restart_delay = os::Duration(-1); }},
      {"restart_delay_cap", [](auto& s) { s.restart_delay_cap = os::Duration(1); }},
      {"healthy_after", [](auto& s) { s.healthy_after = os::Duration(-1); }},
      {"ready_timeout", [](auto& s) { s.ready_timeout = os::Duration(-1); }},
      {"heartbeat_timeout", [](auto& s) { s.heartbeat_timeout = os::Duration(-1); }},
      {"heartbeat_healthy", [](auto& s) { s.heartbeat_healthy = os::Duration(0); }},
      {"stop_signal", [](auto& s) { s.stop_signal = 0; }},
      {"stop_signal", [](auto& s) { s.stop_signal = 1000; }},
      {"stop_timeout", [](auto& s) { s.stop_timeout = os::Duration(-1); }},
      {"capture_timeout", [](auto& s) { s.capture_timeout = std::chrono::hours(1); }},
      {"max_cpu", [](auto& s) { s.max_cpu_percent = -1; }},
      {"sample_interval", [](auto& s) { s.sample_interval = os::Duration(1); }},
      {"log_max_bytes", [](auto& s) { s.log_max_bytes = 1; }},
      {"log_files", [](auto& s) { s.log_files = 0; }},
  };
  for (const Case& one : cases) {
    ServiceSpec spec = good();
    one.spoil(spec);
    const auto checked = validate(spec);
    ASSERT_FALSE(checked) << one.field;
    EXPECT_EQ(checked.error().code(), Code::kConfigBadValue);
    EXPECT_EQ(checked.error().field("field"), one.field);
  }
}

TEST(ServiceSpec, TheWordsAreReadAndWrittenAlike) {
  for (const std::string_view word : {"always", "on-failure", "never"}) {
    EXPECT_EQ(to_string(*parse_restart_policy(word)), word);
  }
  for (const std::string_view word : {"live", "ptrace", "core", "none"}) {
    EXPECT_EQ(to_string(*parse_capture_mode(word)), word);
  }
  for (const std::string_view word : {"alert", "restart"}) {
    EXPECT_EQ(to_string(*parse_limit_action(word)), word);
  }
  const auto wrong = parse_restart_policy("sometimes");
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().field("allowed"), "always, on-failure, never");
}

TEST(ServiceSpec, ItsJsonHoldsNoValueOfTheEnvironment) {
  ServiceSpec spec = good();
  spec.env = {{"API_SECRET", "hunter2"}};
  const std::string text = to_json(spec).dump();
  EXPECT_NE(text.find("API_SECRET"), std::string::npos);
  EXPECT_EQ(text.find("hunter2"), std::string::npos);
}

}  // namespace
}  // namespace defib::process
