#include "defib/daemon/incident_recorder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "defib/daemon/incident_view.h"
#include "defib/obs/log.h"
#include "defib/os/process.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;
using process::ServiceState;
using process::StopReason;

class Recorder : public ::testing::Test {
 protected:
  Recorder() {
    obs::set_log_level(obs::Level::kOff);
    char name[] = "/tmp/recorder-XXXXXX";
    dir_ = mkdtemp(name);
    loop_ = std::move(*os::EventLoop::create());
    open();
  }
  ~Recorder() override {
    recorder_.reset();
    (void)os::run_command({"rm", "-r", dir_}, 5000);
  }
  void open() {
    recorder_.reset();
    recorder_ = std::move(*IncidentRecorder::create(
        *loop_, os::real_files(), dir_,
        [this](const std::string&, std::int64_t from_mono_ns, std::int64_t until_mono_ns) {
          asked_from_ = from_mono_ns;
          asked_until_ = until_mono_ns;
          return process::RunOutput{{}, output_};
        },
        [this](const ExitFacts&) { return kernel_; }));
    recorder_->begin("engine");
  }
  // Gone in an instant: what was written stays, nothing is finished.
  void kill() {
    // Reachable for ever, as memory of a killed process is nobody's leak.
    static auto& killed = *new std::vector<IncidentRecorder*>;
    static auto& killed_loops = *new std::vector<os::EventLoop*>;
    killed.push_back(recorder_.release());
    killed_loops.push_back(loop_.release());
    loop_ = std::move(*os::EventLoop::create());
    open();
  }
  void run_until(const std::function<bool()>& condition) {
    const std::int64_t deadline = os::real_clock().mono_ns() + 20'000'000'000;
    std::function<void()> check = [&] {
      if (condition() || os::real_clock().mono_ns() > deadline) {
        loop_->stop();
      } else {
        loop_->run_after(2ms, check);
      }
    };
    loop_->post(check);
    EXPECT_TRUE(loop_->run());
    EXPECT_TRUE(condition());
  }
  void run_until_closed() {
    run_until([this] { return !recorder_->has_open("engine"); });
  }

  process::ExitReport crash(std::uint64_t generation, int signal = SIGKILL) {
    process::ExitReport report;
    report.service = "engine";
    report.generation = generation;
    report.pid = 4711;
    report.status = {
        .known = true, .exited = false, .code = 0, .signal = signal, .core_dumped = false};
    report.noticed_mono_ns = loop_->clock().mono_ns();
    report.noticed_wall_ns = loop_->clock().wall_ns();
    report.restarts = true;
    return report;
  }
  void start(std::uint64_t generation) {
    process::StartInfo info;
    info.service = "engine";
    info.generation = generation;
    info.pid = 4712;
    info.mono_ns = loop_->clock().mono_ns();
    info.wall_ns = loop_->clock().wall_ns();
    info.automatic = info.by_ticket = true;
    recorder_->started(info);
  }
  void tell(const std::string& key, const std::string& value) {
    process::NotifyEvent event;
    event.service = "engine";
    event.key = key;
    event.value = value;
    recorder_->notified(event);
  }

  std::vector<recovery::IncidentSummary> list() {
    auto log = recovery::IncidentLog::open(os::real_files(), os::real_clock(), dir_);
    return std::move(*log->list());
  }
  wire::Json newest() {
    auto log = recovery::IncidentLog::open(os::real_files(), os::real_clock(), dir_);
    const std::string id = *log->find("latest");
    EXPECT_TRUE(log->verify(id, {})->intact);
    return incident_document(*log->read(id));
  }
  // An end whose report is on its way.
  process::ExitReport reported_crash(std::uint64_t generation, int signal) {
    process::ExitReport report = crash(generation, signal);
    report.capture_path = fmt::format("{}/crash-{}.json", dir_, generation);
    return report;
  }
  std::string write_report(const std::string& name, const std::string& cause) {
    const std::string path = fmt::format("{}/{}.json", dir_, name);
    std::ofstream(path) << wire::Json::object(
                               {{"classification", wire::Json::object({{"cause", cause}})},
                                {"signature", wire::Json::object({{"id", "of " + cause},
                                                                  {"text", cause + " in f"}})}})
                               .dump();
    return path;
  }
  void captured(std::uint64_t generation, const std::string& path, bool ok = true) {
    process::CaptureReport report;
    report.service = "engine";
    report.generation = generation;
    report.path = path;
    report.ok = ok;
    recorder_->captured(report);
  }
  process::HangReport hang(std::uint64_t generation, bool kills) {
    process::HangReport report;
    report.service = "engine";
    report.generation = generation;
    report.pid = 4712;
    report.stage = "loop";
    report.silent_for = 300ms;
    report.deadline = 200ms;
    report.kills = kills;
    return report;
  }
  // "2 abort crash-2.json, "; an asterisk where it is not the incident's cause.
  static std::string verdicts(const wire::Json& incident) {
    std::string text;
    for (const wire::Json& entry : incident["timeline"].items()) {
      if (entry["event"].as_string() != "classified") continue;
      const std::string_view report = entry["report"].as_string();
      text += fmt::format("{}{} {} {}, ", entry["generation"].as_int(),
                          entry["earlier"].as_bool() ? "*" : "", entry["cause"].as_string(),
                          report.substr(report.rfind('/') + 1));
    }
    return text;
  }
  static std::string events(const wire::Json& incident) {
    std::string text;
    for (const wire::Json& entry : incident["timeline"].items()) {
      text += (text.empty() ? "" : " ") + std::string(entry["event"].as_string());
    }
    return text;
  }

  std::string dir_, output_;
  postmortem::KernelLines kernel_;
  std::int64_t asked_from_ = -1, asked_until_ = -1;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<IncidentRecorder> recorder_;
};

TEST_F(Recorder, ACrashAndItsReplacementAreOneIncidentThatEndsRestarted) {
  recorder_->exited(crash(1));
  EXPECT_TRUE(recorder_->has_open("engine"));
  start(2);
  run_until_closed();
  const wire::Json incident = newest();
  EXPECT_EQ(events(incident), "opened detected restarted classified closed");
  EXPECT_EQ(incident["outcome"].as_string(), "restarted");
  EXPECT_EQ(incident["cause"].as_string(), "killed_externally");
  EXPECT_EQ(incident["classification"]["signal"].as_string(), "SIGKILL");
  EXPECT_EQ(list()[0].cause, "killed_externally");
  EXPECT_EQ(recorder_->last_incident("engine"), incident["id"].as_string());
}

TEST_F(Recorder, AServiceThatSaysReadyIsRestartedWhenItSaysSoAgain) {
  tell("READY", "1");
  recorder_->exited(crash(1));
  start(2);
  run_until([this] { return recorder_->settled("engine"); });
  EXPECT_TRUE(recorder_->has_open("engine"));
  tell("READY", "1");
  EXPECT_FALSE(recorder_->has_open("engine"));
  EXPECT_EQ(newest()["outcome"].as_string(), "restarted");
}

TEST_F(Recorder, AServiceThatReportsItsRecoveryDecidesWhenTheIncidentEnds) {
  recorder_->exited(crash(1));
  start(2);
  tell("X_DEFIB_STATE", "recovering");
  tell("READY", "1");
  tell("X_DEFIB_EVENT", R"({"event":"stage_started","stage":"load","seq":99,"at":"x"})");
  tell("X_DEFIB_EVENT", R"({"event":"decision","verdict":"allow"})");
  run_until([this] { return recorder_->settled("engine"); });
  EXPECT_TRUE(recorder_->has_open("engine"));
  tell("X_DEFIB_EVENT", R"({"event":"recovery_closed","outcome":"recovered"})");
  const wire::Json incident = newest();
  EXPECT_EQ(incident["outcome"].as_string(), "recovered");
  EXPECT_EQ(events(incident),
            "opened detected restarted service_state stage_started decision classified "
            "recovery_closed closed");
  EXPECT_EQ(incident["timeline"].items()[4]["service_seq"].as_int(), 99);
}

TEST_F(Recorder, WhatTheServiceSaidAndNobodyHeardIsNamedAsLost) {
  recorder_->exited(crash(1));
  start(2);
  tell("X_DEFIB_EVENT", R"({"event":"stage_started","stage":"load"})");
  tell("X_DEFIB_DROPPED", "3");
  run_until([this] { return recorder_->settled("engine"); });
  tell("X_DEFIB_EVENT", R"({"event":"recovery_closed","outcome":"recovered"})");
  const wire::Json incident = newest();
  EXPECT_THAT(events(incident), testing::HasSubstr("stage_started messages_lost"));
  for (const wire::Json& line : incident["timeline"].items()) {
    if (line["event"].as_string() != "messages_lost") continue;
    EXPECT_EQ(line["since_start"].as_string(), "3");
  }
}

TEST_F(Recorder, StateRunningAfterAReportedRecoveryEndsItToo) {
  recorder_->exited(crash(1));
  start(2);
  tell("X_DEFIB_STATE", "recovering");
  tell("X_DEFIB_STATE", "ramping");
  tell("X_DEFIB_STATE", "running");
  run_until_closed();
  EXPECT_EQ(newest()["outcome"].as_string(), "recovered");
}

TEST_F(Recorder, AnIncidentThatWaitsForAnApprovalStaysOpenAndSaysSo) {
  recorder_->exited(crash(1));
  start(2);
  run_until([this] { return recorder_->settled("engine"); });
  tell("X_DEFIB_EVENT", R"({"event":"recovery_closed","outcome":"awaiting_approval"})");
  EXPECT_TRUE(recorder_->has_open("engine"));
  EXPECT_EQ(list()[0].outcome, "awaiting_approval");
  EXPECT_EQ(newest()["outcome"].as_string(), "awaiting_approval");
}

TEST_F(Recorder, APlanThatAsksForApprovalIsToldAndShownUntilItIsAnswered) {
  std::vector<IncidentNews> news;
  recorder_->on_news([&](const IncidentNews& one) { news.push_back(one); }, false);
  recorder_->exited(crash(1));
  start(2);
  run_until([this] { return recorder_->settled("engine"); });
  tell("X_DEFIB_EVENT", R"({"event":"approval_required","plan":"abc"})");
  EXPECT_EQ(news.back().what, IncidentNews::What::kApprovalNeeded);
  EXPECT_EQ(news.back().incident, list()[0].id);
  tell("X_DEFIB_STATE", "awaiting_approval");
  tell("X_DEFIB_EVENT", R"({"event":"trading_report","outcome":"needs_approval"})");
  EXPECT_EQ(list()[0].outcome, "awaiting_approval");
  EXPECT_EQ(newest()["outcome"].as_string(), "awaiting_approval");
  kill();
  EXPECT_EQ(list()[0].outcome, "awaiting_approval");
  tell("X_DEFIB_EVENT", R"({"event":"approval_used","by":"ada"})");
  EXPECT_EQ(list()[0].outcome, "open");
  EXPECT_EQ(newest()["outcome"].as_string(), "open");
  tell("X_DEFIB_STATE", "running");
  run_until_closed();
  EXPECT_EQ(newest()["outcome"].as_string(), "recovered");
}

TEST_F(Recorder, TheSlowLaneIsToldOnceAnIncidentWithReasonAndNextAction) {
  std::vector<IncidentNews> news;
  recorder_->on_news([&](const IncidentNews& one) { news.push_back(one); }, false);
  recorder_->exited(crash(1));
  const Error why(Code::kCrashLoop, "it crashed 3 times in a row in the same way");
  recorder_->slow_lane("engine", why, 5min);
  ASSERT_EQ(news.size(), 2u);
  EXPECT_EQ(news.back().what, IncidentNews::What::kSlowLane);
  EXPECT_EQ(news.back().cause, "slow_lane");
  EXPECT_NE(news.back().message.find("3 times in a row"), std::string::npos);
  EXPECT_NE(news.back().message.find("next in 5.00 min"), std::string::npos);
  EXPECT_NE(news.back().message.find("defib reset engine"), std::string::npos);
  recorder_->slow_lane("engine", why, 5min);
  EXPECT_FALSE(news.back().id.empty());
  EXPECT_EQ(news.back().id, news[1].id) << "who has heard it hears nothing new";
}

TEST_F(Recorder, NonsenseOfTheServiceIsNotRecorded) {
  recorder_->exited(crash(1));
  start(2);
  for (const char* text : {"", "x", "[]", "{}", R"({"event":7})", R"({"event":""})"}) {
    tell("X_DEFIB_EVENT", text);
  }
  tell("X_DEFIB_EVENT", R"({"event":"closed","outcome":"recovered"})");
  tell("X_DEFIB_EVENT", R"({"event":"recovery_closed","outcome":"wonderful"})");
  run_until_closed();
  const wire::Json incident = newest();
  EXPECT_EQ(events(incident),
            "opened detected restarted service_closed recovery_closed classified closed");
  EXPECT_EQ(incident["outcome"].as_string(), "failed");
}

TEST_F(Recorder, FurtherCrashesBelongToTheOpenIncidentAndTheLoopEndsItFailed) {
  for (std::uint64_t generation = 1; generation <= 3; ++generation) {
    recorder_->exited(crash(generation, SIGSEGV));
    start(generation + 1);
  }
  recorder_->crash_loop("engine", Error(Code::kCrashLoop, "it crashes"));
  run_until_closed();
  EXPECT_EQ(list().size(), 1u);
  EXPECT_EQ(newest()["outcome"].as_string(), "failed");
  EXPECT_EQ(newest()["cause"].as_string(), "segmentation_fault");
}

TEST_F(Recorder, ACleanEndAndARequestedStopAreNoIncidents) {
  process::ExitReport clean = crash(1);
  clean.status = {.known = true, .exited = true, .code = 0, .signal = 0, .core_dumped = false};
  clean.restarts = false;
  recorder_->exited(clean);
  process::ExitReport asked = crash(2);
  asked.reason = StopReason::kRequested;
  recorder_->exited(asked);
  EXPECT_TRUE(list().empty());
  clean.generation = 3;
  clean.restarts = true;  // --restart always
  recorder_->exited(clean);
  start(4);
  run_until_closed();
  EXPECT_EQ(list()[0].cause, "clean_exit");
}

TEST_F(Recorder, AStopWhileItIsOpenEndsItStopped) {
  recorder_->exited(crash(1));
  start(2);
  process::ExitReport asked = crash(2, SIGTERM);
  asked.reason = StopReason::kRequested;
  recorder_->exited(asked);
  run_until_closed();
  EXPECT_EQ(newest()["outcome"].as_string(), "stopped");
}

TEST_F(Recorder, TheReportOfTheCaptureIsTheClassification) {
  process::ExitReport report = crash(1, SIGSEGV);
  report.capture_path = dir_ + "/crash-1.json";
  std::ofstream(report.capture_path)
      << R"({"classification":{"cause":"null_dereference","subtype":"","signal":"SIGSEGV",
             "fault_address":"0x0","evidence":["read of 0x0"],"confidence":0.99},
            "threads":[{"tid":7,"name":"main","crashed":true,"frames":[]}]})";
  recorder_->exited(report);
  start(2);
  tell("READY", "1");
  EXPECT_TRUE(recorder_->has_open("engine"));  // its cause is not known yet
  process::CaptureReport captured;
  captured.service = "engine";
  captured.generation = 1;
  captured.path = report.capture_path;
  captured.ok = true;
  recorder_->captured(captured);
  const wire::Json incident = newest();
  EXPECT_EQ(incident["cause"].as_string(), "null_dereference");
  EXPECT_EQ(incident["classification"]["fault_address"].as_string(), "0x0");
  EXPECT_EQ(incident["threads"].items()[0]["tid"].as_int(), 7);
  EXPECT_EQ(incident["outcome"].as_string(), "restarted");
}

TEST_F(Recorder, AFailedCaptureLeavesTheExitStatusToTell) {
  process::ExitReport report = crash(1, SIGSEGV);
  report.capture_path = dir_ + "/nothing.json";
  recorder_->exited(report);
  start(2);
  process::CaptureReport captured;
  captured.service = "engine";
  captured.generation = 1;
  captured.path = report.capture_path;
  captured.error = Error(Code::kCaptureFailed, "may not attach");
  recorder_->captured(captured);
  run_until_closed();
  EXPECT_EQ(newest()["cause"].as_string(), "segmentation_fault");
}

TEST_F(Recorder, AnUncaughtExceptionIsReadFromTheOutput) {
  output_ = "Traceback (most recent call last):\n  File \"x\"\nKeyError: 'x'\n";
  process::ExitReport report = crash(1);
  report.status = {.known = true, .exited = true, .code = 1, .signal = 0, .core_dumped = false};
  recorder_->exited(report);
  start(2);
  run_until_closed();
  const wire::Json incident = newest();
  EXPECT_EQ(incident["cause"].as_string(), "uncaught_exception");
  EXPECT_EQ(incident["classification"]["subtype"].as_string(), "KeyError");
  EXPECT_NE(events(incident).find("output"), std::string::npos);
}

TEST_F(Recorder, OnlyTheOutputOfTheRunThatEndedIsAskedFor) {
  start(1);
  const std::int64_t started = loop_->clock().mono_ns();
  process::ExitReport report = crash(1);
  report.status = {.known = true, .exited = true, .code = 1, .signal = 0, .core_dumped = false};
  recorder_->exited(report);
  const std::int64_t ended = loop_->clock().mono_ns();
  start(2);
  const std::int64_t replaced = loop_->clock().mono_ns();
  run_until_closed();
  EXPECT_GT(asked_from_, 0);
  EXPECT_LE(asked_from_, started);
  EXPECT_GE(asked_until_, ended);
  EXPECT_LE(asked_until_, replaced);
}

// The second one fails before the last output of the first one has been waited for.
TEST_F(Recorder, EachOfTwoQuickEndsHasAVerdictOfItsOwn) {
  process::ExitReport report = crash(1);
  report.status = {.known = true, .exited = true, .code = 1, .signal = 0, .core_dumped = false};
  output_ = "Traceback (most recent call last):\n  File \"x\"\nKeyError: 'x'\n";
  start(1);
  recorder_->exited(report);
  start(2);
  report.generation = 2;
  report.status.code = 7;  // with which no runtime ends that has told of an exception
  recorder_->exited(report);
  start(3);
  run_until_closed();
  std::string verdicts;
  const wire::Json incident = newest();
  for (const wire::Json& entry : incident["timeline"].items()) {
    if (entry["event"].as_string() != "classified") continue;
    verdicts += fmt::format("{} {}, ", entry["cause"].as_string(), entry["subtype"].as_string());
  }
  EXPECT_EQ(verdicts, "uncaught_exception KeyError, exit_failure exit_code_7, ");
}

TEST_F(Recorder, AReportThatComesAfterTheNextEndIsThatOfItsOwnEnd) {
  ASSERT_TRUE(os::real_files().create_dirs(dir_ + "/services/engine"));
  recorder_->exited(reported_crash(1, SIGSEGV));
  start(2);
  recorder_->exited(reported_crash(2, SIGABRT));
  start(3);
  tell("READY", "1");
  captured(1, write_report("crash-1", "null_dereference"));
  EXPECT_TRUE(recorder_->has_open("engine")) << "the newest one has no verdict yet";
  EXPECT_EQ(list()[0].cause, "unknown") << "the cause is that of the newest";
  captured(2, write_report("crash-2", "abort"));
  const wire::Json incident = newest();
  EXPECT_EQ(verdicts(incident), "1* null_dereference crash-1.json, 2 abort crash-2.json, ");
  EXPECT_EQ(incident["cause"].as_string(), "abort");
  EXPECT_EQ(incident["outcome"].as_string(), "restarted");
  EXPECT_EQ(CrashGroups::read(os::real_files(), dir_ + "/services/engine").groups().size(), 2U);
}

TEST_F(Recorder, ALateVerdictOnAnEarlierEndIsNotTheCause) {
  ASSERT_TRUE(os::real_files().create_dirs(dir_ + "/services/engine"));
  recorder_->exited(reported_crash(1, SIGSEGV));
  start(2);
  recorder_->exited(reported_crash(2, SIGABRT));
  captured(2, write_report("crash-2", "abort"));
  EXPECT_FALSE(recorder_->settled("engine")) << "something more will be written";
  captured(1, write_report("crash-1", "null_dereference"));
  EXPECT_EQ(list()[0].cause, "abort");
  EXPECT_EQ(newest()["cause"].as_string(), "abort");
  EXPECT_EQ(newest()["classification"]["generation"].as_int(), 2);
  EXPECT_TRUE(recorder_->settled("engine"));
  start(3);
  run_until_closed();
  EXPECT_EQ(verdicts(newest()), "2 abort crash-2.json, 1* null_dereference crash-1.json, ");
  EXPECT_EQ(list()[0].cause, "abort");
  EXPECT_EQ(CrashGroups::read(os::real_files(), dir_ + "/services/engine").groups().size(), 2U);
}

TEST_F(Recorder, AKilledRecorderIsContinuedWithEachEndsOwnReport) {
  recorder_->exited(reported_crash(1, SIGSEGV));
  start(2);
  recorder_->exited(reported_crash(2, SIGABRT));
  start(3);
  kill();
  captured(1, write_report("crash-1", "null_dereference"));
  EXPECT_EQ(verdicts(newest()), "1* null_dereference crash-1.json, ");
  EXPECT_FALSE(recorder_->settled("engine"));
  kill();  // an earlier one's verdict is not the newest one's
  EXPECT_FALSE(recorder_->settled("engine"));
  write_report("crash-2", "abort");
  kill();  // the report was written while nobody was here
  recorder_->adopted("engine", 4712, 3);
  run_until_closed();
  EXPECT_EQ(verdicts(newest()), "1* null_dereference crash-1.json, 2 abort crash-2.json, ");
  EXPECT_EQ(newest()["cause"].as_string(), "abort");
}

TEST_F(Recorder, AnIncidentThatIsClosedHasAVerdictOnEachEnd) {
  recorder_->exited(reported_crash(1, SIGSEGV));
  start(2);
  process::ExitReport second = crash(2);
  second.status = {.known = true, .exited = true, .code = 7, .signal = 0, .core_dumped = false};
  recorder_->exited(second);
  recorder_->crash_loop("engine", Error(Code::kCrashLoop, "it crashes"));
  run_until_closed();
  EXPECT_EQ(verdicts(newest()), "2 exit_failure , 1* segmentation_fault crash-1.json, ");
  EXPECT_EQ(newest()["cause"].as_string(), "exit_failure");
  EXPECT_EQ(list()[0].cause, "exit_failure");
}

TEST_F(Recorder, MoreEndsThanMayWaitHaveAVerdictEach) {
  for (std::uint64_t end = 1; end <= 7; ++end) recorder_->exited(reported_crash(end, SIGSEGV));
  EXPECT_THAT(verdicts(newest()), testing::HasSubstr("1* segmentation_fault"));
  captured(7, write_report("crash-7", "abort"));
  recorder_->crash_loop("engine", Error(Code::kCrashLoop, "it crashes"));
  EXPECT_FALSE(recorder_->has_open("engine"));
  EXPECT_THAT(verdicts(newest()), testing::HasSubstr("6* segmentation_fault"));
  EXPECT_EQ(newest()["cause"].as_string(), "abort");
}

TEST_F(Recorder, AStartThatFailsLeavesTheCrashBeforeItsOwnReport) {
  recorder_->exited(reported_crash(1, SIGSEGV));
  recorder_->start_failed("engine", Error(Code::kStartFailed, "no such program"));
  captured(1, write_report("crash-1", "null_dereference"));
  recorder_->state_changed("engine", ServiceState::kStarting, ServiceState::kFailed);
  EXPECT_EQ(verdicts(newest()), "0 start_failed , 1* null_dereference crash-1.json, ");
  EXPECT_EQ(newest()["cause"].as_string(), "start_failed");
}

TEST_F(Recorder, AReportOfAHangThatComesLateIsNotThatOfTheNextEnd) {
  process::HangReport first = hang(1, true);
  first.capture_path = dir_ + "/hang-1.json";
  recorder_->hung(first);
  recorder_->exited(crash(1));  // it ended by itself while it was looked at
  start(2);
  recorder_->exited(reported_crash(2, SIGABRT));
  captured(1, write_report("hang-1", "busy_loop"));
  start(3);
  captured(2, write_report("crash-2", "abort"));
  run_until_closed();
  EXPECT_EQ(verdicts(newest()), "1* busy_loop hang-1.json, 2 abort crash-2.json, ");
  EXPECT_EQ(newest()["cause"].as_string(), "abort");
}

TEST_F(Recorder, AFindingIsNotTheVerdictOnAnEndThatWaitsForItsReport) {
  recorder_->exited(reported_crash(1, SIGSEGV));
  start(2);
  Finding finding;
  finding.cause = "log_pattern";
  finding.fields = wire::Json::object({{"what", "log_pattern"}});
  recorder_->found("engine", finding);
  kill();
  captured(1, write_report("crash-1", "null_dereference"));
  EXPECT_EQ(verdicts(newest()), "1 null_dereference crash-1.json, ");
}

TEST_F(Recorder, TheEndOfAHungReplacementIsRecordedAndTold) {
  for (const bool killed : {false, true}) {
    recorder_->exited(crash(1, SIGSEGV));
    start(2);
    run_until([this] { return recorder_->settled("engine"); });
    recorder_->hung(hang(2, true));
    if (killed) {
      kill();
      recorder_->adopted("engine", 4712, 2);
    }
    std::vector<IncidentNews> news;
    recorder_->on_news([&](const IncidentNews& one) { news.push_back(one); }, false);
    process::ExitReport end = crash(2);
    end.reason = StopReason::kHung;
    end.restarts = false;
    recorder_->exited(end);
    recorder_->exited(end);  // told twice
    ASSERT_EQ(news.size(), 1U);
    EXPECT_TRUE(news[0].down);
    EXPECT_EQ(news[0].generation, 2U);
    recorder_->state_changed("engine", ServiceState::kStopping, ServiceState::kFailed);
    run_until_closed();
    EXPECT_EQ(newest()["outcome"].as_string(), "failed");
    EXPECT_EQ(verdicts(newest()), "1 segmentation_fault , 2 heartbeat_lost , ");
    recorder_->on_news({}, false);
  }
}

TEST_F(Recorder, AServiceThatIsKilledForAHangIsNotRestartedByItsTimeBefore) {
  tell("READY", "1");
  recorder_->exited(crash(1, SIGSEGV));
  start(2);
  process::HangReport report = hang(2, true);
  report.capture_path = dir_ + "/hang-2.json";
  recorder_->hung(report);
  tell("READY", "1");
  captured(2, write_report("hang-2", "busy_loop"));
  EXPECT_TRUE(recorder_->has_open("engine")) << "it is about to be killed";
  kill();
  recorder_->ready("engine");
  EXPECT_TRUE(recorder_->has_open("engine"));
  run_until([this] { return recorder_->settled("engine"); });
  EXPECT_TRUE(recorder_->has_open("engine"));
  EXPECT_EQ(verdicts(newest()), "2 busy_loop hang-2.json, 1* segmentation_fault , ");
}

TEST_F(Recorder, AllIncidentsThatFailedInARowAreToldToRunAgain) {
  const auto fail_to_start = [this] {
    recorder_->start_failed("engine", Error(Code::kStartFailed, "no such program"));
    recorder_->state_changed("engine", ServiceState::kStarting, ServiceState::kFailed);
    return recorder_->last_incident("engine");
  };
  std::vector<IncidentNews> news;
  const auto listen = [&] {
    recorder_->on_news([&](const IncidentNews& one) { news.push_back(one); }, false);
  };
  const auto told = [&] {
    std::vector<std::string> incidents;
    for (const IncidentNews& one : std::exchange(news, {})) {
      if (one.what != IncidentNews::What::kRunsAgain) continue;
      EXPECT_EQ(one.head, "") << "that is another incident's";
      incidents.push_back(one.incident);
    }
    return incidents;
  };
  recorder_->exited(crash(1, SIGSEGV));
  recorder_->crash_loop("engine", Error(Code::kCrashLoop, "it crashes"));
  run_until_closed();
  std::vector<std::string> row = {recorder_->last_incident("engine")};
  row.push_back(fail_to_start());
  listen();
  start(2);
  EXPECT_THAT(told(), testing::UnorderedElementsAreArray(row));
  start(3);
  EXPECT_THAT(told(), testing::IsEmpty());
  // The same over a kill; what failed before the last start is not of this row.
  recorder_->exited(crash(3, SIGSEGV));
  recorder_->crash_loop("engine", Error(Code::kCrashLoop, "it crashes"));
  run_until_closed();
  row = {recorder_->last_incident("engine")};
  row.push_back(fail_to_start());
  row.push_back(fail_to_start());
  recorder_->start_failed("engine", Error(Code::kStartFailed, "no such program"));
  kill();
  listen();
  start(4);
  EXPECT_THAT(told(), testing::UnorderedElementsAreArray(row));
}

TEST_F(Recorder, AKillForMemoryOfLongAgoDoesNotExplainAnEnd) {
  // A child of it was the kernel's victim, and it went on; then somebody killed it.
  process::OomReport child;
  child.service = "engine";
  child.generation = 1;
  child.kills = 1;
  child.noticed_mono_ns = loop_->clock().mono_ns() - 60'000'000'000;
  recorder_->oom_killed(child);
  process::ExitReport report = crash(1);
  report.oom_kills = 1;
  recorder_->exited(report);
  start(2);
  run_until_closed();
  EXPECT_EQ(newest()["cause"].as_string(), "killed_externally");
  // The next one is its own.
  report = crash(2);
  report.oom_kills = 1;
  recorder_->exited(report);
  start(3);
  run_until_closed();
  EXPECT_EQ(newest()["cause"].as_string(), "out_of_memory");
}

TEST_F(Recorder, TheKernelsLogDecidesWhoWasKilledForMemory) {
  kernel_.complete = true;
  process::ExitReport report = crash(1);
  report.oom_kills = 1;
  recorder_->exited(report);
  start(2);
  run_until_closed();
  EXPECT_EQ(newest()["cause"].as_string(), "killed_externally");
}

TEST_F(Recorder, ARunThatWasTakenOverIsKnownByItsStart) {
  recorder_->adopted("engine", 4711, 1, 1234);
  process::ExitReport report = crash(1);
  recorder_->exited(report);
  start(2);
  run_until_closed();
  EXPECT_EQ(asked_from_, 1234);
}

TEST_F(Recorder, AHangIsDetectedBeforeItsProcessEnds) {
  process::HangReport hang;
  hang.service = "engine";
  hang.generation = 1;
  hang.stage = "loop";
  hang.silent_for = 300ms;
  hang.deadline = 200ms;
  hang.kills = true;
  recorder_->hung(hang);
  process::ExitReport report = crash(1);
  report.reason = StopReason::kHung;
  recorder_->exited(report);
  start(2);
  run_until_closed();
  EXPECT_EQ(newest()["cause"].as_string(), "heartbeat_lost");
  EXPECT_EQ(events(newest()), "opened detected detected restarted classified closed");
}

TEST_F(Recorder, ADegradedServiceThatIsHealthyAgainHasRecovered) {
  Finding finding;
  finding.cause = "health_check_failed";
  finding.fields = wire::Json::object({{"what", "health_check"}, {"failures", 3}});
  finding.evidence = {"'http' failed 3 times in a row: HTTP 503 in 1 ms"};
  finding.source = "health_check";
  recorder_->found("engine", finding);
  recorder_->state_changed("engine", ServiceState::kRunning, ServiceState::kDegraded);
  EXPECT_TRUE(recorder_->has_open("engine"));
  recorder_->state_changed("engine", ServiceState::kDegraded, ServiceState::kRunning);
  EXPECT_EQ(newest()["outcome"].as_string(), "recovered");
  EXPECT_EQ(newest()["cause"].as_string(), "health_check_failed");
  process::LimitReport limit;
  limit.service = "engine";
  limit.what = "memory";
  limit.value = 200 << 20;
  limit.limit = 100 << 20;
  recorder_->limit_exceeded(limit);
  recorder_->state_changed("engine", ServiceState::kDegraded, ServiceState::kRunning);
  EXPECT_EQ(newest()["cause"].as_string(), "memory_limit");
}

TEST_F(Recorder, AClearedLimitIsAnEventWithItsNumbers) {
  process::LimitReport limit;
  limit.service = "engine";
  limit.what = "threads";
  limit.value = 40;
  limit.limit = 32;
  limit.processes = 3;
  recorder_->limit_exceeded(limit);
  recorder_->limit_cleared(limit);
  recorder_->state_changed("engine", ServiceState::kDegraded, ServiceState::kRunning);
  EXPECT_EQ(newest()["cause"].as_string(), "resource_limit");
  EXPECT_EQ(events(newest()), "opened detected classified limit_cleared closed");
  EXPECT_EQ(newest()["timeline"].items()[1]["amount"].as_double(), 40);
  EXPECT_EQ(newest()["timeline"].items()[1]["processes"].as_int(), 3);
}

TEST_F(Recorder, AnEndForAPatternKeepsThePatternAsItsCause) {
  Finding finding;
  finding.cause = "log_pattern";
  finding.fields = wire::Json::object({{"what", "log_pattern"}});
  finding.evidence = {"a line of output matches 'FATAL'"};
  finding.closes_when_quiet = true;
  recorder_->found("engine", finding);
  process::ExitReport report = crash(1);
  report.reason = StopReason::kPattern;
  recorder_->exited(report);
  start(2);
  run_until_closed();
  EXPECT_EQ(newest()["cause"].as_string(), "log_pattern");
  EXPECT_EQ(newest()["outcome"].as_string(), "restarted");
  EXPECT_EQ(events(newest()), "opened detected classified detected restarted closed");
}

TEST_F(Recorder, AFloodOfMatchesIsAFewEventsAndANumber) {
  Finding finding;
  finding.cause = "log_pattern";
  finding.fields = wire::Json::object({{"what", "log_pattern"}});
  finding.closes_when_quiet = true;
  for (int i = 0; i < 5000; ++i) recorder_->found("engine", finding);
  run_until_closed();
  EXPECT_LT(newest()["timeline"].size(), 30u);
  const wire::Json& items = newest()["timeline"];
  EXPECT_EQ(items.items()[items.size() - 2]["matched_lines"].as_int(), 5000);
}

TEST_F(Recorder, ACoreBelongsToTheIncidentOfItsEndWhicheverComesFirst) {
  recorder_->core_dumped("engine", wire::Json::object({{"path", "/x/core.1"}, {"bytes", 17}}));
  EXPECT_FALSE(recorder_->has_open("engine"));
  recorder_->exited(crash(1));
  recorder_->core_dumped("engine", wire::Json::object({{"path", "/x/core.2"}, {"bytes", 18}}));
  start(2);
  run_until_closed();
  EXPECT_EQ(events(newest()),
            "opened detected core_dumped core_dumped restarted classified closed");
  EXPECT_EQ(newest()["timeline"].items()[2]["path"].as_string(), "/x/core.1");
  EXPECT_EQ(newest()["timeline"].items()[3]["bytes"].as_int(), 18);
}

TEST_F(Recorder, AKillAfterTheKernelsWordIsOutOfMemory) {
  recorder_->out_of_memory("engine", 1);
  recorder_->exited(crash(1));
  start(2);
  run_until_closed();
  EXPECT_EQ(newest()["cause"].as_string(), "out_of_memory");
  // The word is used up: another kill is another matter.
  recorder_->exited(crash(2));
  start(3);
  run_until_closed();
  EXPECT_EQ(newest()["cause"].as_string(), "killed_externally");
}

TEST_F(Recorder, AProgramThatCannotBeStartedIsAnIncidentThatFailed) {
  recorder_->start_failed("engine", Error(Code::kStartFailed, "no such program"));
  recorder_->state_changed("engine", ServiceState::kStarting, ServiceState::kFailed);
  EXPECT_EQ(newest()["outcome"].as_string(), "failed");
  EXPECT_EQ(newest()["cause"].as_string(), "start_failed");
}

TEST_F(Recorder, AKilledRecorderIsContinuedAndAnExitToldTwiceCountsOnce) {
  const process::ExitReport report = crash(1);
  recorder_->exited(report);
  kill();
  EXPECT_TRUE(recorder_->has_open("engine"));
  recorder_->exited(report);  // the shim did not hear that it was heard
  start(2);
  kill();
  recorder_->adopted("engine", 4712, 2);
  run_until_closed();
  EXPECT_EQ(list().size(), 1u);
  EXPECT_EQ(newest()["outcome"].as_string(), "restarted");
  EXPECT_EQ(events(newest()),
            "opened detected writer_restarted restarted writer_restarted adopted classified "
            "closed");
}

TEST_F(Recorder, AnIncidentOfAnotherServiceIsLeftAlone) {
  recorder_->exited(crash(1));
  recorder_->begin("other");
  EXPECT_FALSE(recorder_->has_open("other"));
  EXPECT_EQ(recorder_->last_incident("other"), "");
}

TEST_F(Recorder, EqualFailuresAreCountedOnceEachAlsoOverKills) {
  ASSERT_TRUE(os::real_files().create_dirs(dir_ + "/services/engine"));
  const auto count = [this] {
    const auto groups = CrashGroups::read(os::real_files(), dir_ + "/services/engine").groups();
    return groups.size() == 1 ? groups.front().count : 0;
  };
  for (std::uint64_t generation = 1; generation <= 4; ++generation) {
    recorder_->exited(crash(generation));
    run_until([&] { return count() == generation; });
    if (generation == 2) kill();
    if (generation == 3) {
      // Killed before it was written down: the incident still tells.
      (void)os::real_files().remove(dir_ + "/services/engine/groups.json");
      kill();
    }
    start(generation + 1);
  }
  run_until_closed();
  EXPECT_EQ(count(), 4U);
  const wire::Json found = newest()["classification"];
  EXPECT_EQ(found["seen"]["count"].as_int(), 4);
  EXPECT_EQ(found["signature"]["id"].as_string().size(), 16U);
  wire::Json shown = newest();
  add_context(shown, dir_);
  EXPECT_EQ(shown["group"]["count"].as_int(), 4);
  EXPECT_GT(shown["advice"]["steps"].size(), 0U);
}

TEST_F(Recorder, SecretsInTheOutputDoNotReachTheIncident) {
  recorder_->redact_with([](const std::string&) {
    postmortem::Redactor redactor;
    redactor.learn({{"API_KEY", "k3y-of-the-venue"}});
    return redactor;
  });
  output_ =
      "connecting with k3y-of-the-venue\nTraceback (most recent call last):\n  File x\n"
      "ValueError: password=hunter2hunter2 is wrong for k3y-of-the-venue\n";
  process::ExitReport report = crash(1);
  report.status = {.known = true, .exited = true, .code = 1, .signal = 0, .core_dumped = false};
  recorder_->exited(report);
  start(2);
  run_until_closed();
  Finding finding;
  finding.cause = "log_pattern";
  finding.fields = wire::Json::object({{"line", "again k3y-of-the-venue"}});
  finding.evidence = {"token=abcdefghijk and k3y-of-the-venue"};
  recorder_->found("engine", std::move(finding));
  std::string texts;
  for (const auto& summary : list()) {
    texts += *os::read_file(os::real_files(), summary.path);
  }
  EXPECT_EQ(texts.find("k3y-of-the-venue"), texts.npos);
  EXPECT_EQ(texts.find("hunter2"), texts.npos);
  EXPECT_EQ(texts.find("abcdefghijk"), texts.npos);
  EXPECT_NE(texts.find("uncaught_exception"), texts.npos);
  EXPECT_NE(texts.find("[redacted]"), texts.npos);
}

}  // namespace
}  // namespace defib::daemon
