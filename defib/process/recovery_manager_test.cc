#include "defib/process/recovery_manager.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <latch>
#include <stdexcept>
#include <thread>

#include "defib/obs/log.h"
#include "defib/process/manager_test_util.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;
using Strings = std::vector<std::string>;

class RecoveryManagerTest : public testing::Test {
 protected:
  RecoveryManagerTest() { obs::set_log_level(obs::Level::kOff); }
  ~RecoveryManagerTest() override {
    manager_.reset();
    obs::set_log_level(obs::Level::kInfo);
  }
  RecoveryOptions options() {
    RecoveryOptions options;
    options.state_file = dir_ / "system_state.json";
    options.handle_signals = false;
    options.attempt_delay = 0ms;
    options.callback_timeout = 5s;
    options.files = &files_;
    return options;
  }
  RecoveryManager& make(RecoveryOptions options) {
    manager_.reset();
    auto made = RecoveryManager::create(std::move(options), Agent());
    EXPECT_TRUE(made) << (made ? "" : made.error().to_text());
    manager_ = std::move(*made);
    return *manager_;
  }
  RecoveryManager& make() { return make(options()); }
  // What is on the disk.
  wire::Json saved() {
    const auto state = PersistedState::open(os::real_files(), dir_ / "system_state.json");
    EXPECT_TRUE(state);
    return state ? state->value() : wire::Json();
  }
  // Adds a callback that notes its name and fails so many times.
  void note(const std::string& name, int failures = 0) {
    manager_->add_recovery(name, [this, name, failures]() mutable -> Result<> {
      const std::lock_guard lock(mutex_);
      calls_.push_back(name);
      if (failures-- > 0) return Error(Code::kUnavailable, name + " is not there yet");
      return {};
    });
  }

  TemporaryDirectory dir_;
  FailingFiles files_;
  std::mutex mutex_;
  Strings calls_;
  std::unique_ptr<RecoveryManager> manager_;
};

TEST_F(RecoveryManagerTest, TheDefaultsAreThoseOfTheDocumentation) {
  const RecoveryOptions defaults;
  EXPECT_EQ(defaults.state_file, "system_state.json");
  EXPECT_EQ(defaults.max_restarts, 5);
  EXPECT_EQ(defaults.restart_delay, 30s);
  EXPECT_EQ(defaults.health_check_interval, 60s);
  EXPECT_EQ(defaults.max_recovery_attempts, 3);
  EXPECT_EQ(defaults.health.memory_percent, 80);
  EXPECT_EQ(defaults.health.cpu_percent, 90);
  EXPECT_EQ(defaults.health.disk_percent, 90);
}

TEST_F(RecoveryManagerTest, AScopeReturnsWhatItsFunctionReturns) {
  RecoveryManager& manager = make();
  EXPECT_EQ(manager.exception_scope("a", [] { return 7; }).value_or(0), 7);
  EXPECT_TRUE(manager.exception_scope("b", [] {}));
  EXPECT_EQ(manager.exception_scope("c", []() -> Result<std::string> { return "x"; }).value_or(""),
            "x");
  const std::string text = "by reference";
  EXPECT_EQ(manager.exception_scope("d", [&]() -> const std::string& { return text; }).value_or(""),
            text);
  EXPECT_EQ(manager.failure_count(), 0u);
}

TEST_F(RecoveryManagerTest, AnExceptionIsRecordedWithItsContextAndRecoveredFrom) {
  RecoveryManager& manager = make();
  note("first");
  note("second");
  const auto outcome = manager.exception_scope(
      "order_execution", []() -> int { throw std::out_of_range("no such lot"); });
  ASSERT_FALSE(outcome);
  const Error& error = outcome.error();
  EXPECT_EQ(error.code(), Code::kCallbackThrew);
  EXPECT_EQ(error.field("operation"), "order_execution");
  EXPECT_EQ(error.field("type"), "std::out_of_range");
  EXPECT_NE(error.message().find("no such lot"), std::string::npos);
  EXPECT_TRUE(was_recovered(error));
  EXPECT_EQ(calls_, (Strings{"first", "second"}));

  const auto failures = manager.failures();
  ASSERT_EQ(failures.size(), 1u);
  EXPECT_EQ(failures[0].operation, "order_execution");
  EXPECT_EQ(failures[0].what, "no such lot");
  EXPECT_EQ(failures[0].type, "std::out_of_range");
  EXPECT_EQ(failures[0].tid, gettid());
  EXPECT_EQ(failures[0].count, 1u);
  EXPECT_GT(failures[0].at_wall_ns, 0);
  // A success clears both.
  EXPECT_TRUE(saved()["last_error"].is_null());
  EXPECT_EQ(saved()["recovery_attempts"].as_int(-1), 0);
  EXPECT_EQ(saved()["status"].as_string(), "running");
}

TEST_F(RecoveryManagerTest, AnErrorAsTheResultIsAFailureTooAndKeepsItsCode) {
  RecoveryManager& manager = make();
  note("callback");
  const auto outcome = manager.exception_scope(
      "load", []() -> Result<int> { return Error(Code::kTimeout, "the venue is silent"); });
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code(), Code::kTimeout);
  EXPECT_EQ(outcome.error().root().message(), "the venue is silent");
  EXPECT_TRUE(was_recovered(outcome.error()));
  EXPECT_EQ(manager.failures().at(0).type, "Timeout");
}

TEST_F(RecoveryManagerTest, EveryKindOfExceptionIsDescribed) {
  RecoveryManager& manager = make();
  struct Odd {};
  static_cast<void>(manager.exception_scope("a", [] { throw Odd(); }).has_value());
  static_cast<void>(manager.exception_scope("b", [] { throw 7; }).has_value());
  static_cast<void>(manager.exception_scope("c", [] { throw "text"; }).has_value());
  static_cast<void>(manager.exception_scope("d", [] { throw std::string("string"); }).has_value());
  static_cast<void>(
      manager.exception_scope("e", [] { throw Error(Code::kIoError, "disk"); }).has_value());
  static_cast<void>(manager
                        .exception_scope("f",
                                         [] {
                                           try {
                                             throw std::runtime_error("inner");
                                           } catch (...) {
                                             std::throw_with_nested(std::logic_error("outer"));
                                           }
                                         })
                        .has_value());
  const auto failures = manager.failures();
  ASSERT_EQ(failures.size(), 6u);
  EXPECT_NE(failures[0].type.find("Odd"), std::string::npos);
  EXPECT_EQ(failures[1].type, "int");
  EXPECT_EQ(failures[2].what, "text");
  EXPECT_EQ(failures[3].what, "string");
  EXPECT_EQ(failures[4].what, "[-25 IoError] disk");
  EXPECT_EQ(failures[5].what, "outer: inner");
}

TEST_F(RecoveryManagerTest, RethrowPassesTheSameExceptionOnAndAnOuterScopeDoesNotRecoverAgain) {
  RecoveryManager& manager = make();
  note("callback");
  EXPECT_THROW(static_cast<void>(
                   manager.exception_scope(
                              "a", [] { throw std::domain_error("x"); }, Rethrow::kYes)
                       .has_value()),
               std::domain_error);
  EXPECT_EQ(calls_.size(), 1u);
  const auto outer = manager.exception_scope("outer", [&] {
    static_cast<void>(
        manager.exception_scope(
                   "inner", [] { throw std::domain_error("y"); }, Rethrow::kYes)
            .has_value());
  });
  ASSERT_FALSE(outer);
  EXPECT_EQ(outer.error().field("operation"), "inner");
  EXPECT_EQ(calls_.size(), 2u);
  const auto passed_on = manager.exception_scope("outer", [&]() -> Result<> {
    return manager.exception_scope("inner", [] { throw std::domain_error("z"); });
  });
  EXPECT_EQ(passed_on.error().field("operation"), "inner");
  EXPECT_EQ(calls_.size(), 3u);
  EXPECT_EQ(manager.failure_count(), 3u);
  // An outer scope with a failure of its own handles that one.
  const auto another = manager.exception_scope("outer", [&] {
    static_cast<void>(manager.exception_scope("inner", [] { throw 1; }).has_value());
    throw 2;
  });
  EXPECT_EQ(another.error().field("operation"), "outer");
  EXPECT_EQ(calls_.size(), 5u);
}

TEST_F(RecoveryManagerTest, AnAttemptThatFailsIsRepeatedWholeUntilAllSucceed) {
  RecoveryManager& manager = make();
  note("steady");
  note("late", 2);
  const auto outcome = manager.exception_scope("work", [] { throw std::runtime_error("x"); });
  EXPECT_TRUE(was_recovered(outcome.error()));
  EXPECT_EQ(calls_, (Strings{"steady", "late", "steady", "late", "steady", "late"}));
  EXPECT_EQ(manager.recovery_attempts(), 0);
  // Each failure of a callback is recorded.
  EXPECT_EQ(manager.failure_count(), 3u);
  EXPECT_EQ(manager.failures().at(1).operation, "recovery callback 'late'");
  EXPECT_EQ(manager.failures().at(2).count, 2u);
}

TEST_F(RecoveryManagerTest, UsedUpAttemptsStayUsedUpUntilAForcedRecoverySucceeds) {
  RecoveryManager& manager = make();
  note("broken", 4);
  const auto outcome = manager.exception_scope("work", [] { throw std::runtime_error("boom"); });
  EXPECT_FALSE(was_recovered(outcome.error()));
  EXPECT_EQ(calls_.size(), 3u);
  EXPECT_EQ(saved()["recovery_attempts"].as_int(), 3);
  EXPECT_EQ(saved()["status"].as_string(), "degraded");
  EXPECT_FALSE(saved()["last_error"].is_null());
  const auto again = manager.exception_scope("work", [] { throw std::runtime_error("boom"); });
  EXPECT_NE(again.error().field("recovery").find("used up"), std::string::npos);
  EXPECT_EQ(calls_.size(), 3u);
  EXPECT_TRUE(manager.force_recovery("the operator said so"));  // fails once more, then succeeds
  EXPECT_EQ(calls_.size(), 5u);
  EXPECT_EQ(manager.recovery_attempts(), 0);
  EXPECT_TRUE(saved()["last_error"].is_null());
  EXPECT_EQ(manager.status(), "running");
}

TEST_F(RecoveryManagerTest, ALongTimeWithoutAFailureGivesTheAttemptsBack) {
  const os::FakeClock clock;
  RecoveryOptions with_clock = options();
  with_clock.clock = &clock;
  RecoveryManager& manager = make(with_clock);
  note("broken", 3);
  static_cast<void>(manager.exception_scope("work", [] { throw 1; }).has_value());
  EXPECT_EQ(manager.recovery_attempts(), 3);
  clock.advance(6min);
  EXPECT_TRUE(was_recovered(manager.exception_scope("work", [] { throw 1; }).error()));
}

TEST_F(RecoveryManagerTest, WithoutCallbacksAFailureIsRecordedOnly) {
  RecoveryManager& manager = make();
  const auto outcome = manager.exception_scope("work", [] { throw std::runtime_error("boom"); });
  EXPECT_FALSE(was_recovered(outcome.error()));
  EXPECT_EQ(manager.recovery_attempts(), 0);
  EXPECT_EQ(saved()["last_error"].as_string(), "work: std::runtime_error: boom");
  EXPECT_EQ(manager.force_recovery("x").error().code(), Code::kNotFound);
}

TEST_F(RecoveryManagerTest, ACallbackThatOverrunsIsReportedAndLeftToEndByItself) {
  auto release = std::make_shared<std::promise<void>>();
  auto held = std::make_shared<std::atomic<bool>>(false);
  std::shared_future<void> released = release->get_future().share();
  std::atomic<bool> asked_to_stop{false};
  RecoveryOptions once = options();
  once.max_recovery_attempts = 1;
  RecoveryManager& manager = make(once);
  manager.add_recovery(
      "slow",
      [released, held, &asked_to_stop](const CallbackContext& context) {
        released.wait();
        asked_to_stop = context.stop.stop_requested();
        *held = true;
      },
      20ms);
  note("after");
  const auto outcome = manager.exception_scope("work", [] { throw 1; });
  EXPECT_FALSE(was_recovered(outcome.error()));
  EXPECT_EQ(calls_, Strings{"after"});
  EXPECT_EQ(manager.overruns(), 1);
  EXPECT_EQ(manager.failures().at(1).type, "Timeout");
  // As long as it runs it is not called again.
  const auto again = manager.force_recovery("again");
  ASSERT_FALSE(again);
  EXPECT_NE(again.error().to_line().find("still runs"), std::string::npos);
  EXPECT_FALSE(manager.wait_for_overruns(1ms));
  release->set_value();
  EXPECT_TRUE(manager.wait_for_overruns(5s));
  EXPECT_TRUE(*held);
  EXPECT_TRUE(asked_to_stop);
  EXPECT_TRUE(manager.force_recovery("now it can"));
}

TEST_F(RecoveryManagerTest, ACallbackMayOutliveItsManager) {
  auto release = std::make_shared<std::promise<void>>();
  auto ended = std::make_shared<std::promise<void>>();
  auto future = ended->get_future();
  RecoveryManager& manager = make();
  manager.add_cleanup(
      "stuck",
      [released = release->get_future().share(),
       ended](const CallbackContext& context) -> Result<> {
        released.wait();
        // What it was given is still there.
        if (context.reason != "end" || !context.stop.stop_requested()) abort();
        ended->set_value();
        return {};
      },
      10ms);
  const auto outcome = manager.shutdown("end");
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code(), Code::kTimeout);
  manager_.reset();
  release->set_value();
  EXPECT_EQ(future.wait_for(5s), std::future_status::ready);
}

TEST_F(RecoveryManagerTest, OverrunsAreBounded) {
  auto release = std::make_shared<std::promise<void>>();
  auto released = release->get_future().share();
  RecoveryOptions once = options();
  once.max_recovery_attempts = 1;
  RecoveryManager& manager = make(once);
  std::atomic<int> called{0};
  for (int i = 0; i < CallbackList::kMaxOverruns + 3; ++i) {
    manager.add_recovery(
        "stuck",
        [&called, released] {
          ++called;
          released.wait();
        },
        5ms);
  }
  EXPECT_FALSE(manager.force_recovery("x"));
  EXPECT_EQ(manager.overruns(), CallbackList::kMaxOverruns);
  release->set_value();
  EXPECT_TRUE(manager.wait_for_overruns(5s));
  EXPECT_EQ(called, CallbackList::kMaxOverruns);
}

TEST_F(RecoveryManagerTest, AFailureInsideOfACallbackIsRecordedAndDoesNotRecoverAgain) {
  RecoveryManager& manager = make();
  std::optional<Error> inner, forced, stopped;
  manager.add_recovery("nested", [&] {
    inner = manager.exception_scope("inside", [] { throw 1; }).error();
    forced = manager.force_recovery("inside").error();
    stopped = manager.run_cleanup().error();
  });
  EXPECT_TRUE(was_recovered(manager.exception_scope("outside", [] { throw 2; }).error()));
  ASSERT_TRUE(inner && forced && stopped);
  EXPECT_FALSE(was_recovered(*inner));
  EXPECT_EQ(forced->code(), Code::kUnavailable);
  EXPECT_EQ(stopped->code(), Code::kUnavailable);
  EXPECT_EQ(manager.failure_count(), 2u);
}

TEST_F(RecoveryManagerTest, ACallbackThatThrowsIsAFailureOfItsOwn) {
  RecoveryOptions once = options();
  once.max_recovery_attempts = 1;
  RecoveryManager& manager = make(once);
  manager.add_recovery("throws", [] { throw std::bad_alloc(); });
  note("after");
  EXPECT_FALSE(was_recovered(manager.exception_scope("work", [] { throw 1; }).error()));
  EXPECT_EQ(calls_, Strings{"after"});
  EXPECT_EQ(manager.failures().at(1).type, "std::bad_alloc");
}

TEST_F(RecoveryManagerTest, ManyThreadsThatFailAtOnceShareTheRecoveries) {
  RecoveryManager& manager = make();
  std::atomic<int> runs{0}, inside{0};
  std::atomic<bool> overlapped{false};
  std::promise<void> open;
  auto opened = open.get_future().share();
  manager.add_recovery("shared", [&, opened] {
    if (++inside != 1) overlapped = true;
    ++runs;
    opened.wait();
    --inside;
  });
  constexpr int kThreads = 16;
  std::atomic<int> recovered{0}, failing{0};
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      const auto outcome = manager.exception_scope("work", [&] {
        ++failing;
        throw std::runtime_error("x");
      });
      if (was_recovered(outcome.error())) ++recovered;
    });
  }
  while (manager.failure_count() < kThreads || runs == 0) std::this_thread::yield();
  open.set_value();
  threads.clear();
  EXPECT_EQ(recovered, kThreads);
  EXPECT_FALSE(overlapped);
  // The first one's, and the one that began after all had failed; one more where a thread came late
  // between two.
  EXPECT_GE(runs, 1);
  EXPECT_LE(runs, 3);
}

TEST_F(RecoveryManagerTest, ARecoveryCoversOnlyFailuresFromBeforeItsBegin) {
  RecoveryManager& manager = make();
  std::atomic<int> runs{0};
  std::promise<void> open;
  auto opened = open.get_future().share();
  manager.add_recovery("slow", [&, opened] {
    if (++runs == 1) opened.wait();
  });
  std::jthread first(
      [&] { static_cast<void>(manager.exception_scope("a", [] { throw 1; }).has_value()); });
  while (runs == 0) std::this_thread::yield();
  std::jthread second(
      [&] { static_cast<void>(manager.exception_scope("b", [] { throw 1; }).has_value()); });
  while (manager.failure_count() < 2) std::this_thread::yield();
  open.set_value();
  first.join();
  second.join();
  EXPECT_EQ(runs, 2);
}

TEST_F(RecoveryManagerTest, CleanUpsRunInReverseOnceAndAgainOnRequest) {
  RecoveryManager& manager = make();
  int failures = 1;
  for (const std::string name : {"a", "b", "c"}) {
    manager.add_cleanup(name, [&, name]() -> Result<> {
      calls_.push_back(name);
      if (name == "b" && failures-- > 0) return Error(Code::kIoError, "busy");
      return {};
    });
  }
  const auto first = manager.run_cleanup();
  ASSERT_FALSE(first);
  EXPECT_EQ(first.error().field("callback"), "b");
  EXPECT_EQ(calls_, (Strings{"c", "b", "a"}));
  EXPECT_EQ(manager.failures().at(0).operation, "clean-up callback 'b'");
  EXPECT_TRUE(manager.run_cleanup());  // only what failed
  EXPECT_EQ(calls_, (Strings{"c", "b", "a", "b"}));
  EXPECT_TRUE(manager.run_cleanup(true));
  EXPECT_EQ(calls_.size(), 7u);
  EXPECT_TRUE(manager.shutdown("end"));
  EXPECT_EQ(calls_.size(), 7u);
  EXPECT_TRUE(manager.shutdown("end"));
}

TEST_F(RecoveryManagerTest, ShutdownEndsARunningRecoveryAfterItsCallback) {
  RecoveryManager& manager = make();
  std::atomic<bool> inside{false}, cleaned{false};
  manager.add_recovery("waits", [&](const CallbackContext& context) {
    inside = true;
    while (!context.stop.stop_requested()) std::this_thread::yield();
  });
  note("never");
  manager.add_cleanup("clean", [&] { cleaned = true; });
  std::jthread failing(
      [&] { static_cast<void>(manager.exception_scope("a", [] { throw 1; }).has_value()); });
  while (!inside) std::this_thread::yield();
  EXPECT_TRUE(manager.shutdown("end"));
  failing.join();
  EXPECT_TRUE(cleaned);
  EXPECT_TRUE(calls_.empty());
  EXPECT_TRUE(manager.shutdown_requested());
  const auto late = manager.exception_scope("late", [] { throw 1; });
  EXPECT_FALSE(was_recovered(late.error()));
}

TEST_F(RecoveryManagerTest, TheStateHasItsFieldsAndTheServicesOwn) {
  RecoveryManager& manager = make();
  manager.ready();
  manager.set_active_connections(3);
  manager.set_active_positions(2);
  ASSERT_TRUE(manager.set("epoch", 17));
  ASSERT_TRUE(manager.set("epoch", 18));
  EXPECT_EQ(manager.set("status", "mine").error().code(), Code::kInvalidArgument);
  ASSERT_TRUE(manager.save());
  const wire::Json state = saved();
  for (const char* name : {"timestamp", "status", "uptime", "memory_usage", "cpu_usage",
                           "active_connections", "active_positions", "last_error", "restart_count",
                           "max_restarts", "recovery_attempts", "max_recovery_attempts", "epoch"}) {
    EXPECT_TRUE(state.has(name)) << name;
  }
  EXPECT_GT(os::parse_time(state["timestamp"].as_string()), 0);
  EXPECT_EQ(state["status"].as_string(), "running");
  EXPECT_GT(state["memory_usage"].as_double(), 0.5);
  EXPECT_EQ(state["active_connections"].as_int(), 3);
  EXPECT_EQ(state["active_positions"].as_int(), 2);
  EXPECT_EQ(state["max_restarts"].as_int(), 5);
  EXPECT_EQ(state["max_recovery_attempts"].as_int(), 3);
  EXPECT_EQ(state["epoch"].as_int(), 18);
  struct stat info{};
  ASSERT_EQ(stat((dir_ / "system_state.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
}

TEST_F(RecoveryManagerTest, UncleanEndsAreCountedAndACleanOneEndsTheCount) {
  RecoveryOptions two = options();
  two.max_restarts = 2;
  EXPECT_TRUE(make(two).restart_report().first_start);
  manager_->set_active_positions(4);
  EXPECT_TRUE(manager_->set("epoch", 5));
  EXPECT_TRUE(manager_->save());
  for (int end = 1; end <= 3; ++end) {
    const RestartReport& report = make(two).restart_report();  // as after a kill
    EXPECT_TRUE(report.unclean);
    EXPECT_EQ(report.restart_count, end);
    EXPECT_EQ(report.limit_reached, end > 2);
    EXPECT_EQ(report.wait > 0s, end > 1);
    EXPECT_LE(report.wait, 30s);
    EXPECT_EQ(saved()["restart_count"].as_int(), end);
    EXPECT_EQ(manager_->get("epoch").as_int(), 5);
    EXPECT_EQ(manager_->state()["active_positions"].as_int(), 4);
    EXPECT_EQ(manager_->restored()["epoch"].as_int(), 5);
  }
  ASSERT_TRUE(manager_->shutdown("end"));
  EXPECT_EQ(saved()["status"].as_string(), "stopped");
  EXPECT_FALSE(make(two).restart_report().unclean);
  EXPECT_EQ(manager_->restart_report().restart_count, 0);
}

TEST_F(RecoveryManagerTest, ANewProcessAlwaysHasAnAttemptLeft) {
  RecoveryManager& manager = make();
  note("broken", 3);
  static_cast<void>(manager.exception_scope("work", [] { throw 1; }).has_value());
  EXPECT_EQ(saved()["recovery_attempts"].as_int(), 3);
  make();
  EXPECT_EQ(manager_->recovery_attempts(), 2);
  EXPECT_FALSE(manager_->state()["last_error"].is_null());
  note("works");
  EXPECT_TRUE(was_recovered(manager_->exception_scope("work", [] { throw 1; }).error()));
}

TEST_F(RecoveryManagerTest, ADamagedStateIsSetAsideAndTheServiceStarts) {
  ASSERT_TRUE(os::write_file_atomically(files_, dir_ / "system_state.json", "{\"schema\":"));
  RecoveryManager& manager = make();
  EXPECT_TRUE(manager.restored().is_null());
  EXPECT_TRUE(os::real_files().exists(dir_ / "system_state.json.damaged-1"));
  EXPECT_EQ(saved()["restart_count"].as_int(-1), 0);
}

TEST_F(RecoveryManagerTest, HostileValuesInAValidFileDoNoHarm) {
  auto state = PersistedState::open(files_, dir_ / "system_state.json");
  ASSERT_TRUE(state->save(wire::Json::object({{"restart_count", INT64_MAX},
                                              {"recovery_attempts", -5},
                                              {"last_error", 7},
                                              {"active_positions", "many"}})));
  RecoveryManager& manager = make();
  EXPECT_TRUE(manager.restart_report().limit_reached);
  EXPECT_EQ(manager.recovery_attempts(), 0);
  EXPECT_TRUE(manager.state()["last_error"].is_null());
  ASSERT_TRUE(state->save(wire::Json::array({1, 2})));
  EXPECT_TRUE(make().restart_report().first_start);
}

TEST_F(RecoveryManagerTest, AFullOrReadOnlyDiskIsReportedAndTheServiceGoesOn) {
  for (const int fault : {ENOSPC, EIO, EROFS}) {
    files_.fault = fault;
    RecoveryManager& manager = make();
    note("callback");
    EXPECT_FALSE(manager.save()) << fault;
    EXPECT_TRUE(was_recovered(manager.exception_scope("work", [] { throw 1; }).error()));
    files_.fault = 0;
    EXPECT_TRUE(manager.save());
    EXPECT_TRUE(manager.shutdown("end"));
  }
}

TEST_F(RecoveryManagerTest, AMissingDirectoryIsReportedAndTheServiceGoesOn) {
  RecoveryOptions lost = options();
  lost.state_file = dir_ / "none/state.json";
  RecoveryManager& manager = make(lost);
  EXPECT_FALSE(manager.save());
  EXPECT_FALSE(manager.shutdown("end"));
  RecoveryOptions without = options();
  without.state_file = "";
  EXPECT_TRUE(make(without).save());
}

TEST_F(RecoveryManagerTest, AForkedChildLeavesTheStateAlone) {
  RecoveryManager& manager = make();
  EXPECT_TRUE(manager.set("who", "parent"));
  EXPECT_TRUE(manager.save());
  EXPECT_TRUE(in_child([&] { return manager.set("who", "child") && !manager.save(); }));
  EXPECT_EQ(saved()["who"].as_string(), "parent");
}

TEST_F(RecoveryManagerTest, ImpossibleOptionsAreRefusedByName) {
  for (const auto& [name, change] :
       std::vector<std::pair<std::string, std::function<void(RecoveryOptions&)>>>{
           {"max_restarts", [](RecoveryOptions& o) { o.max_restarts = -1; }},
           {"max_recovery_attempts", [](RecoveryOptions& o) { o.max_recovery_attempts = -1; }},
           {"restart_delay", [](RecoveryOptions& o) { o.restart_delay = -1s; }},
           {"callback_timeout", [](RecoveryOptions& o) { o.callback_timeout = 0s; }},
           {"attempt_delay", [](RecoveryOptions& o) { o.attempt_delay = -1s; }},
           {"attempts_reset_after", [](RecoveryOptions& o) { o.attempts_reset_after = -1s; }},
           {"health_check_interval", [](RecoveryOptions& o) { o.health_check_interval = 0s; }},
           {"memory_percent", [](RecoveryOptions& o) { o.health.memory_percent = 200; }}}) {
    RecoveryOptions bad = options();
    change(bad);
    const auto made = RecoveryManager::create(bad, Agent());
    ASSERT_FALSE(made) << name;
    EXPECT_EQ(made.error().field("field"), name);
  }
}

TEST_F(RecoveryManagerTest, AShortResourceShowsInTheStatus) {
  RecoveryOptions low = options();
  low.health.memory_percent = 0.001;
  RecoveryManager& manager = make(low);
  manager.ready();
  ASSERT_TRUE(manager.health().check());
  EXPECT_EQ(saved()["status"].as_string(), "degraded");
  EXPECT_EQ(manager.system_info()["status"].as_string(), "degraded");
  EXPECT_EQ(manager.status(), "running");
}

TEST_F(RecoveryManagerTest, SystemInfoHasWhatOperatorsAskFor) {
  const wire::Json info = make().system_info();
  for (const char* name : {"status", "memory_usage_mb", "cpu_percent", "disk_percent", "uptime",
                           "restart_count", "recovery_attempts", "last_error"}) {
    EXPECT_TRUE(info.has(name)) << name;
  }
}

TEST_F(RecoveryManagerTest, AFloodOfFailuresIsCountedWholeAndToldInPart) {
  RecoveryOptions without = options();
  without.state_file = "";
  RecoveryManager& manager = make(without);
  const std::string log = dir_ / "log";
  ASSERT_TRUE(obs::set_log_file({.path = log}));
  obs::set_log_level(obs::Level::kInfo);
  for (int i = 0; i < 2000; ++i) {
    static_cast<void>(
        manager.exception_scope("op" + std::to_string(i), [] { throw 1; }).has_value());
  }
  obs::set_log_level(obs::Level::kOff);
  ASSERT_TRUE(obs::set_log_file({}));
  EXPECT_EQ(manager.failure_count(), 2000u);
  EXPECT_EQ(manager.failures().size(), RecoveryManager::kKeptFailures);
  const std::string text = os::read_file(os::real_files(), log).value_or("");
  const auto lines = std::ranges::count(text, '\n');
  EXPECT_GT(lines, 0);
  EXPECT_LT(lines, 500);
}

TEST_F(RecoveryManagerTest, ASignalOrARequestAsksForTheShutdown) {
  RecoveryOptions with_signals = options();
  with_signals.handle_signals = true;
  for (const int number : {SIGTERM, SIGINT}) {
    EXPECT_TRUE(in_child([&] {
      auto manager = RecoveryManager::create(with_signals, Agent());
      if (!manager || (*manager)->shutdown_requested()) return false;
      if ((*manager)->wait_for_shutdown(1ms)) return false;
      raise(number);
      return (*manager)->wait_for_shutdown(10s) && (*manager)->shutdown("signal").has_value();
    }));
  }
  EXPECT_TRUE(in_child([&] {
    auto manager = RecoveryManager::create(with_signals, Agent());
    (*manager)->request_shutdown();
    return (*manager)->wait_for_shutdown(10s);
  }));
  RecoveryManager& manager = make();
  std::jthread asks([&] { manager.request_shutdown(); });
  EXPECT_TRUE(manager.wait_for_shutdown(10s));
}

// A service's threads keep their signals: none is delivered to a thread of the manager.
TEST_F(RecoveryManagerTest, ItsThreadsTakeNoSignals) {
  RecoveryManager& manager = make();
  sigset_t mask;
  sigemptyset(&mask);
  manager.add_recovery("looks", [&] { pthread_sigmask(SIG_SETMASK, nullptr, &mask); });
  EXPECT_TRUE(manager.force_recovery("x"));
  EXPECT_EQ(sigismember(&mask, SIGTERM), 1);
  EXPECT_EQ(sigismember(&mask, SIGUSR1), 1);
  EXPECT_EQ(sigismember(&mask, SIGSEGV), 0);
  sigset_t own;
  pthread_sigmask(SIG_SETMASK, nullptr, &own);
  EXPECT_EQ(sigismember(&own, SIGTERM), 0);
}

TEST_F(RecoveryManagerTest, IsSmallAndCheap) {
  const auto in_use = [] { return mallinfo2().uordblks; };
  const auto before = in_use();
  RecoveryManager& manager = make();
  const auto used = in_use() - before;
  constexpr int kScopes = 1'000'000;
  const std::int64_t start = os::real_clock().mono_ns();
  for (int i = 0; i < kScopes; ++i) {
    manager.beat();
    static_cast<void>(manager.exception_scope("hot", [] {}).has_value());
  }
  const double each = static_cast<double>(os::real_clock().mono_ns() - start) / kScopes;
  printf("a manager takes %zu bytes; a beat and a scope without a failure %.1f ns\n", used, each);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LT(used, 64u * 1024);
  EXPECT_LT(each, 1000);
#endif
}

}  // namespace
}  // namespace defib::process
