// Clients that are made anew, what is counted, and what is recorded.

#include "defib/call/recovering.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "defib/call/testcases/victims_api.h"
#include "defib/os/files.h"

namespace defib::call {
namespace {

using testcases::EchoApi;
using testcases::VictimApi;
using ::testing::HasSubstr;

const std::string kPlugins = DEFIB_PLUGINS "/";

ClientOptions quick() {
  ClientOptions options;
  options.call_timeout = Milliseconds(2000);
  options.backtrace = false;
  return options;
}

TEST(Recovering, AFreshClientTakesOverAfterACrash) {
  const auto metrics = obs::Registry::in_memory();
  ClientOptions options = quick();
  options.metrics = metrics.get();
  Recovering<EchoApi> echo(kPlugins + "echo.so", options, {.attempts = 1});
  EXPECT_EQ(echo.call<EchoApi::Double>(1).value(), 2);
  EXPECT_EQ(echo.call<EchoApi::Log>(Secret{"crash"}, "u").error().code(), Code::kNativeCrash);
  EXPECT_EQ(echo.call<EchoApi::Double>(2).value(), 4);
  EXPECT_EQ(echo.counts().clients_created, 2U);
  EXPECT_EQ(echo.counts().recovered, 1U);
  const std::string text = metrics->render_prometheus();
  EXPECT_THAT(text,
              HasSubstr("defib_call_native_crashes_total{plugin=\"echo.so\",failure=\"abort\"} 1"));
  EXPECT_THAT(text, HasSubstr("defib_call_clients_created_total{plugin=\"echo.so\"} 2"));
  EXPECT_THAT(text, HasSubstr("defib_call_clients_recovered_total{plugin=\"echo.so\"} 1"));
  EXPECT_THAT(text, HasSubstr("defib_call_operation_duration_seconds_count{plugin=\"echo.so\","
                              "method=\"double\"} 2"));
}

TEST(Recovering, AnOrdinaryErrorIsNoFault) {
  Recovering<EchoApi> echo(kPlugins + "echo.so", quick(), {.attempts = 5});
  EXPECT_EQ(echo.call<EchoApi::Throw>("x").error().code(), Code::kMethodThrew);
  EXPECT_EQ(echo.counts().clients_created, 1U);
}

TEST(Recovering, TheFallbackGivesWhatTheLibraryCannot) {
  Recovering<VictimApi> victim(kPlugins + "victim_abort.so", quick(), {.attempts = 2});
  const auto cached = [](const Error& error) -> Result<int> {
    EXPECT_TRUE(is_fault(error));
    return 77;
  };
  EXPECT_EQ((victim.call_or<VictimApi::Break>(cached, "x", 1).value()), 77);
  EXPECT_EQ(victim.counts().crashes, 2U);
  EXPECT_EQ(victim.counts().fallbacks, 1U);
}

TEST(Recovering, TheBreakerOpensAfterCrashesInARowAndClosesAfterAProbe) {
  const os::FakeClock clock;
  RecoveryOptions options{.attempts = 1};
  options.breaker = {.failures = 3, .open_for = std::chrono::seconds(10)};
  options.clock = &clock;
  Recovering<VictimApi> victim(kPlugins + "victim_abort.so", quick(), options);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(victim.call<VictimApi::Break>("x", 1).error().code(), Code::kNativeCrash);
  }
  const auto refused = victim.call<VictimApi::Add>(1, 2);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kBreakerOpen);
  EXPECT_THAT(refused.error().to_text(), HasSubstr("Native library crashed during break"));
  EXPECT_EQ(victim.counts().clients_created, 3U);
  clock.advance(std::chrono::seconds(11));
  EXPECT_EQ(victim.call<VictimApi::Add>(1, 2).value(), 3);
  EXPECT_EQ(victim.counts().recovered, 1U);
}

TEST(Recovering, APoisonousItemIsSkippedAndReported) {
  Recovering<EchoApi> echo(kPlugins + "echo.so", quick(), {.skip_after = 2});
  const std::vector<std::string> items{"a", "crash", "b"};
  std::vector<std::string> done;
  std::vector<std::size_t> skipped;
  const auto all = echo.each(
      items,
      [&](Client<EchoApi>& client, const std::string& item) -> Result<> {
        DEFIB_TRY(client.call<EchoApi::Log>(Secret{item}, "u"));
        done.push_back(item);
        return {};
      },
      [&](std::size_t place, const Error& error) {
        skipped.push_back(place);
        EXPECT_EQ(error.code(), Code::kPoisonousItem);
        EXPECT_THAT(error.to_text(), HasSubstr("crashed the native library 2 times"));
      });
  EXPECT_TRUE(all);
  EXPECT_EQ(done, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(skipped, (std::vector<std::size_t>{1}));
}

TEST(Incidents, EveryCrashIsOneWithItsBacktrace) {
  char dir[] = "/tmp/defib-call-XXXXXX";
  ASSERT_NE(mkdtemp(dir), nullptr);
  auto log = recovery::IncidentLog::open(os::real_files(), os::real_clock(), dir).value();
  ClientOptions options = quick();
  options.backtrace = true;
  options.incidents = &log;
  options.incident_service = "pricer";
  std::string backtrace;
  {
    auto client = Client<VictimApi>::create(kPlugins + "victim_null_write.so", options).value();
    ASSERT_FALSE(client.call<VictimApi::Break>("ESM4", 3));
    const auto report = client.report(Milliseconds(20'000));
    ASSERT_TRUE(report);
    backtrace = report->backtrace;
    // The incident is written on the host's thread, after the report is there.
    for (int i = 0; log.list().value().empty() || log.list().value()[0].outcome == "open"; ++i) {
      ASSERT_LT(i, 2000);
      os::real_clock().sleep_for(std::chrono::milliseconds(1));
    }
  }
  const auto incidents = log.list().value();
  ASSERT_EQ(incidents.size(), 1U);
  EXPECT_EQ(incidents[0].cause, "null_dereference");
  EXPECT_EQ(incidents[0].service, "pricer");
  EXPECT_EQ(incidents[0].outcome, "stopped");
  std::string text;
  const auto lines = log.read(incidents[0].id).value();
  for (const auto& line : lines) text += line.dump() + "\n";
  // As the report has it; Fault.TheReportHasTheWorkersBacktrace looks at what that is.
  EXPECT_THAT(text, HasSubstr(backtrace.substr(0, backtrace.find('\n'))));
  EXPECT_THAT(text, HasSubstr("\\\"ESM4\\\", 3"));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace defib::call
