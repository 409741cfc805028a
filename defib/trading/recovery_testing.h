// A recovery over a scripted venue, on the test's clock, with everything that it told.

#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "defib/os/files.h"
#include "defib/trading/recovery_steps.h"
#include "defib/trading/testing.h"

namespace defib::trading::testing_util {

using namespace std::chrono_literals;

inline TradingConfig make_config() {
  TradingConfig config;
  config.venue.symbols = {"BTCUSDT", "ETHUSDT"};
  config.owner = "tst";
  config.strategies = {"maker"};
  config.limits = Limits();
  config.ramp.check_after = 0s;
  return config;
}

// One recovery over one engine, with what it told.
struct Recovery {
  Recovery(Engine& engine, ScriptedVenue& venue, const os::Clock& clock, const std::string& dir,
           TradingConfig config, bool dry_run = false,
           std::function<void(const std::string&)> on_event = {}, bool start_in_monitoring = false,
           std::optional<Damage> damage = {})
      : kill_switch(os::real_files(), clock, dir) {
    TradingRecovery::Parts parts;
    parts.store = engine.store.get();
    parts.venue = &venue;
    parts.clock = &clock;
    parts.files = &os::real_files();
    parts.state_dir = dir;
    parts.config = std::move(config);
    parts.intents = engine.intents.get();
    parts.ledger = engine.ledger.get();
    parts.ids = engine.ids.get();
    parts.gateway = engine.gateway.get();
    parts.dry_run = dry_run;
    parts.start_in_monitoring = start_in_monitoring;
    parts.damage = std::move(damage);
    parts.events = [this, on_event](std::string event, wire::Json fields, bool) {
      events.emplace_back(event, std::move(fields));
      if (on_event) on_event(event);
    };
    parts.crash_cause = [this] { return cause; };
    parts.kill_switch = &kill_switch;
    parts.states = [this](std::string state) { states.push_back(std::move(state)); };
    parts.health_checks = {[this] { return health; }};
    recovery = std::make_unique<TradingRecovery>(std::move(parts));
  }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& [name, fields] : events) all.push_back(name);
    return all;
  }
  const wire::Json& last(const std::string& name) const {
    static const wire::Json kNone;
    for (auto event = events.rbegin(); event != events.rend(); ++event) {
      if (event->first == name) return event->second;
    }
    return kNone;
  }
  static inline CrashCause cause{"killed_externally", "", ""};
  KillSwitch kill_switch;
  HealthResult health{true, {}, {}};
  std::vector<std::pair<std::string, wire::Json>> events;
  std::vector<std::string> states;
  std::unique_ptr<TradingRecovery> recovery;
};

class RecoveryTest : public testing::Test {
 protected:
  void SetUp() override {
    Recovery::cause = {"killed_externally", "", ""};
    restart();
  }
  void restart() {
    run_.reset();
    engine_.reset();  // killed
    engine_ = Engine::start(store_dir(), clock_, venue_);
  }
  void restart_after_clean_end() {
    run_.reset();
    ASSERT_TRUE(engine_->ids->end_boot_cleanly(*engine_->store, clock_));
    restart();
  }
  std::string store_dir() const { return dir_.path() + "/store"; }
  recovery::ProcedureResult recover(bool dry_run = false) {
    run_ = std::make_unique<Recovery>(*engine_, venue_, clock_, dir_.path(), config_, dry_run,
                                      std::function<void(const std::string&)>(), false, damage_);
    return run_->recovery->procedure().execute(clock_);
  }
  void expect_recovers() {
    const auto result = recover();
    ASSERT_TRUE(result.success()) << result.error->to_text();
    EXPECT_EQ(run_->recovery->outcome(), GateOutcome::kOpen) << explanation();
  }
  std::string explanation() const {
    return run_->recovery->decision() ? run_->recovery->decision()->explain() : "no decision";
  }
  std::string rule() const { return run_->recovery->decision()->rule; }
  // Lets the engine's loop run for so long, exactly at the times when something is due.
  void live(os::Duration duration) {
    const std::int64_t end = clock_.mono_ns() + duration.count();
    while (clock_.mono_ns() < end) {
      const std::int64_t next = run_->recovery->next_poll_mono_ns();
      const std::int64_t until = next == 0 ? end : std::min(end, std::max(next, clock_.mono_ns()));
      if (until > clock_.mono_ns()) {
        clock_.advance(os::Duration(until - clock_.mono_ns()));
      }
      const auto polled = run_->recovery->poll();
      ASSERT_TRUE(polled) << polled.error().to_text();
      if (next != 0 && run_->recovery->next_poll_mono_ns() <= clock_.mono_ns()) {
        clock_.advance(1ms);
      }
    }
  }
  void approve(const std::string& by = "ada") {
    ApprovalDesk desk(os::real_files(), clock_, dir_.path());
    const auto approval = desk.approve("latest", by, 10min);
    ASSERT_TRUE(approval) << approval.error().to_text();
  }

  TemporaryDir dir_;
  os::FakeClock clock_;
  ScriptedVenue venue_{clock_};
  TradingConfig config_ = make_config();
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<Recovery> run_;
  std::optional<Damage> damage_;
};

}  // namespace defib::trading::testing_util
