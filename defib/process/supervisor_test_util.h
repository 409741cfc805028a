// What the supervisor's tests share: a temporary state directory, a supervisor on a loop of the
// test's own, an observer that records, and the check that nothing is left behind.

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "defib/os/event_loop.h"
#include "defib/process/supervisor.h"

namespace defib::process {

class Recorder : public SupervisorObserver {
 public:
  std::vector<StartInfo> starts;
  std::vector<ExitReport> exits;
  std::vector<DyingReport> deaths;
  std::vector<StartInfo> standby_starts;
  std::vector<ExitReport> standby_exits;
  std::vector<Error> standby_losses;
  std::vector<PromotionReport> promotions;
  std::vector<Error> start_failures;
  std::vector<HangReport> hangs;
  std::vector<HangReport> held;
  std::vector<LimitReport> limits;
  std::vector<LimitReport> cleared;
  std::uint64_t oom_kills = 0;
  std::vector<NotifyEvent> notifications;
  std::vector<CaptureReport> captures;
  std::vector<std::pair<ServiceState, ServiceState>> changes;
  std::vector<Error> loops;
  std::vector<pid_t> adoptions;
  std::vector<pid_t> new_shims;
  std::vector<HookReport> hooks;
  std::vector<OomReport> oom_reports;
  std::vector<Error> warnings;
  std::string log_bytes;
  int ready_count = 0;
  std::function<void()> on_exit;

  void started(const StartInfo& info) override { starts.push_back(info); }
  void start_failed(const std::string&, const Error& error) override {
    start_failures.push_back(error);
  }
  void ready(const std::string&) override { ++ready_count; }
  void exited(const ExitReport& report) override {
    exits.push_back(report);
    if (on_exit) on_exit();
  }
  void dying(const DyingReport& report) override { deaths.push_back(report); }
  void standby_started(const StartInfo& info) override { standby_starts.push_back(info); }
  void standby_exited(const ExitReport& report) override { standby_exits.push_back(report); }
  void standby_lost(const std::string&, const Error& error) override {
    standby_losses.push_back(error);
  }
  void promoted(const PromotionReport& report) override { promotions.push_back(report); }
  void captured(const CaptureReport& report) override { captures.push_back(report); }
  void hung(const HangReport& report) override { hangs.push_back(report); }
  void heartbeat_held(const HangReport& report) override { held.push_back(report); }
  void limit_exceeded(const LimitReport& report) override { limits.push_back(report); }
  void limit_cleared(const LimitReport& report) override { cleared.push_back(report); }
  void out_of_memory(const std::string&, std::uint64_t kills) override { oom_kills = kills; }
  void state_changed(const std::string&, ServiceState from, ServiceState to) override {
    changes.emplace_back(from, to);
  }
  void notified(const NotifyEvent& event) override { notifications.push_back(event); }
  void log(const std::string&, int, std::string_view bytes, std::uint64_t) override {
    log_bytes += bytes;
  }
  void hook_finished(const HookReport& report) override { hooks.push_back(report); }
  void oom_killed(const OomReport& report) override { oom_reports.push_back(report); }
  void warned(const std::string&, const Error& error, bool) override { warnings.push_back(error); }
  void crash_loop(const std::string&, const Error& error) override { loops.push_back(error); }
  void adopted(const std::string&, pid_t pid, std::uint64_t) override { adoptions.push_back(pid); }
  void shim_replaced(const std::string&, pid_t, pid_t shim) override { new_shims.push_back(shim); }
};

class SupervisorTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // A spec that runs the victim with these arguments; without back-off and capture.
  ServiceSpec victim(std::vector<std::string> arguments) const;
  // Makes the supervisor if there is none, adds the service and starts it.
  void start(const ServiceSpec& spec);
  void make_supervisor();
  // As after a kill of the supervisor: all it holds is gone, nothing is stopped.
  void abandon_supervisor();
  // Runs the loop until `condition` holds; a failure after ten seconds.
  void run_until(const std::function<bool()>& condition);
  void stop_all();
  ServiceStatus status() const;
  std::string service_dir() const;
  // Everything in logs/, oldest first.
  std::string all_logs() const;
  // The processes that carry this test's state directory in their environment or command line.
  std::vector<pid_t> processes() const;
  bool ignores_sigterm() const;  // the victim, by now: a start does not tell
  bool duplicated() const;
  // Never a process group, nor the test itself. False where there is no such process.
  bool kill_one(pid_t pid, int signal) const;
  // Waits until there is one.
  void kill_service(int signal);
  void kill_shim();
  std::string program(const std::string& name) const;

  std::string dir_;
  std::string state_dir_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<Recorder> seen_ = std::make_unique<Recorder>();
  std::unique_ptr<Supervisor> supervisor_;
};

}  // namespace defib::process
