// The engine that its supervisor starts in monitoring: everything recovers, and no order leaves
// before a person has approved the plan. The real engine, supervisor and paper venue.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "defib/testbed/testbed.h"

namespace defib {
namespace {

using namespace std::chrono_literals;
using testbed::Testbed;
using testing::HasSubstr;

class MonitoringTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "defib-monitoring-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override {
    bed_.reset();
    if (!HasFailure()) std::filesystem::remove_all(dir_);
  }
  void start(std::vector<std::string> run_options) {
    testbed::TestbedOptions options;
    options.dir = dir_;
    options.max_crashes = 100;  // so that no other rule asks for a person
    options.restart_delay = 100ms;
    options.run_options = std::move(run_options);
    auto bed = Testbed::create(std::move(options));
    ASSERT_TRUE(bed) << bed.error().to_text();
    bed_ = std::move(*bed);
    expect(bed_->start_venue());
    expect(bed_->start_supervisor());
  }
  static void expect(const Result<>& done) { ASSERT_TRUE(done) << done.error().to_text(); }
  void wait_for(const std::string& state) {
    const auto reached = bed_->wait_for_state({state}, 30s);
    ASSERT_TRUE(reached) << reached.error().to_text();
  }
  // Kills the engine and waits for the next process.
  void crash() {
    const pid_t old = bed_->engine_pid();
    expect(bed_->kill(old));
    const auto next = bed_->wait_for_new_engine(old, 30s);
    ASSERT_TRUE(next) << next.error().to_text();
  }
  std::int64_t intents() {
    const auto proof = bed_->prove_running();
    EXPECT_TRUE(proof) << proof.error().to_text();
    EXPECT_TRUE(proof && proof->holds);
    return proof ? proof->intents : -1;
  }
  // The last line of this name in the engine's incidents, after waiting for it.
  wire::Json event(const std::string& name) {
    for (int i = 0; i < 3'000; ++i) {
      for (testbed::IncidentLine& one : bed_->new_incident_lines()) {
        seen_[std::string(one.line["event"].as_string())] = std::move(one.line);
      }
      if (seen_.contains(name)) return seen_[name];
      os::real_clock().sleep_for(10ms);
    }
    ADD_FAILURE() << "there is no event " << name;
    return {};
  }

  std::string dir_;
  std::unique_ptr<Testbed> bed_;
  std::map<std::string, wire::Json> seen_;
};

TEST_F(MonitoringTest, NoOrderLeavesBeforeAPersonHasApproved) {
  start({"--start-in", "monitoring"});
  wait_for("monitoring");
  const auto first = bed_->status();
  ASSERT_TRUE(first);
  EXPECT_THAT(std::string((*first)["status_text"].as_string()),
              HasSubstr("no order leaves until a person approves: start_mode"));
  crash();  // So that the incident tells what the recovery did.
  EXPECT_EQ(event("trading_recovery_started")["start_mode"].as_string(), "monitoring");
  EXPECT_THAT(event("approval_required")["content"]["asked_because"].dump(),
              HasSubstr("start_mode"));
  const wire::Json report = event("trading_report");
  EXPECT_EQ(report["start_mode"].as_string(), "monitoring");
  // Killed before its first checkpoint, another rule may ask for a person too, and come first.
  EXPECT_EQ(report["decision"]["verdict"].as_string(), "need_approval");
  wait_for("monitoring");
  EXPECT_EQ(intents(), 0);

  expect(bed_->approve("ada"));
  wait_for("running");
  EXPECT_EQ(event("approval_used")["by"].as_string(), "ada");
  EXPECT_EQ(event("first_order")["event"].as_string(), "first_order");
  const std::int64_t traded = intents();
  EXPECT_GT(traded, 0);

  // The approval was for that start alone.
  crash();
  wait_for("monitoring");
  const auto settled = bed_->settle_intents(30s);
  EXPECT_TRUE(settled) << settled.error().to_text();
  const std::int64_t before = intents();
  seen_.clear();
  crash();
  event("trading_report");
  wait_for("monitoring");
  EXPECT_EQ(intents(), before);
  expect(bed_->stop_supervisor());
  const auto proof = bed_->prove();
  ASSERT_TRUE(proof) << proof.error().to_text();
  EXPECT_TRUE(proof->holds) << proof->document.dump();
}

TEST_F(MonitoringTest, AfterTooManyRestartsItIsStartedAllTheSameAndOnlyWatches) {
  start({"--monitoring-after", "2"});
  wait_for("running");
  crash();
  wait_for("running");
  crash();
  wait_for("monitoring");
  const auto status = bed_->status();
  ASSERT_TRUE(status);
  EXPECT_GT((*status)["pid"].as_int(), 0);
  EXPECT_THAT(std::string((*status)["status_text"].as_string()), HasSubstr("start_mode"));
  expect(bed_->approve("ada"));
  wait_for("running");
}

}  // namespace
}  // namespace defib
