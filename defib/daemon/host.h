// Host: a supervising process. `defib daemon` and `defib run` are both one.
//
// It joins the supervisor with what surrounds it: incidents, health checks, log patterns, and the
// control socket. It holds nothing that it cannot rebuild, so it may be killed at any moment.
// Thread rule: the loop's thread.

#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "defib/alert/receiver.h"
#include "defib/base/error.h"
#include "defib/daemon/alerter.h"
#include "defib/daemon/bundler.h"
#include "defib/daemon/control.h"
#include "defib/daemon/dependencies.h"
#include "defib/daemon/incident_recorder.h"
#include "defib/daemon/metrics.h"
#include "defib/daemon/run_keeper.h"
#include "defib/daemon/sample_keeper.h"
#include "defib/daemon/sensors.h"
#include "defib/daemon/service_config.h"
#include "defib/os/event_loop.h"
#include "defib/process/supervisor.h"

namespace defib::daemon {

class Host : private process::SupervisorObserver {
 public:
  struct Options {
    std::string state_dir;
    os::Files* files = nullptr;        // nullptr: the kernel's
    std::string counters_path;         // empty: STATE/counters
    std::int64_t started_mono_ns = 0;  // of the program; 0: now
    std::vector<alert::Receiver> receivers;
    postmortem::BundleRules bundles;
    // A service came to rest: stopped or failed, and its incident is closed or needs a human.
    std::function<void(const std::string& service, process::ServiceState state)> on_rest;
    // {"op":"reload"}, with "restart" true or not; empty: not possible here.
    std::function<Result<wire::Json>(bool restart)> on_reload;
    // A supervisor before this one was at work: what it let rest goes on resting.
    bool resumed = false;
    std::function<void(const std::string& service)> on_started;
    // {"op":"upgrade"}: told what the new program says, before it takes this one's place.
    std::function<void(const std::function<void(Result<std::string>)>& answer)> on_upgrade;
  };
  static Result<std::unique_ptr<Host>> create(os::EventLoop& loop, Options options);
  ~Host() override;
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Listens on the control socket at `path`.
  Result<> listen(std::string path);
  // Supervises the service: adopts it where it runs already, else starts it where the
  // configuration says so, when those that it waits for are ready.
  Result<> add(const ServiceConfig& config);
  // Makes the services those of `configs`: adds, changes, and stops and removes. What cannot be had
  // is told before anything is touched. What changed and takes effect only with a start is told as
  // "needs_restart", and restarted where `restart` says so.
  Result<wire::Json> apply(const std::vector<ServiceConfig>& configs, bool restart = false);
  // From now on alerts go to these.
  Result<> alert_to(const std::vector<alert::Receiver>& receivers);
  void keep_bundles(const postmortem::BundleRules& rules) { bundler_->set_rules(rules); }
  // Stops all gracefully, those first that need others, then calls `done`.
  void shutdown(std::function<void()> done);

  // All services were added; for {"op":"about"}.
  void supervising() { supervising_mono_ns_ = loop_.clock().mono_ns(); }
  // Calls on_rest where the service is at rest, as if it had come to rest now.
  void report_rest(const std::string& service);

  process::Supervisor& supervisor() { return *supervisor_; }

 private:
  struct Service {
    ServiceConfig config;
    std::unique_ptr<Sensors> sensors;
    os::EventLoop::TimerId rest_timer = 0;
    bool leaving = false;                   // removed from the configuration, still stopping
    std::uint64_t outdated_generation = 0;  // the process that was started before a change
    std::uint64_t ready_generation = 0;     // the last process that was seen ready
    std::string blocked_told;               // what it waited for when that was last told
  };
  // A request that waits for its service.
  struct Waiting {
    std::string op;
    std::string service;
    std::uint64_t generation = 0;  // of the service when it was asked
    bool was_failed = false;       // when it was asked
    ControlServer::Answer answer;
    os::EventLoop::TimerId timer = 0;
  };

  Host(os::EventLoop& loop, Options options);
  Result<> watch_service(Service& service);
  Result<> change(Service& service, const ServiceConfig& config);
  Result<> take(const ServiceConfig& config);
  Result<> add_all(const std::vector<ServiceConfig>& configs, wire::Json& added);
  void change_all(const std::vector<ServiceConfig>& configs, bool restart, wire::Json& answer);
  void remove(const std::string& name);
  const Dependencies& order() const;

  // Starts and stops in order; host_order.cc.
  void want_start(const std::string& name);
  void want_stop(const std::string& name);
  void schedule_order();
  void follow_order();
  void stop_in_order();
  void start_in_order();
  bool is_ready(const std::string& name) const;
  bool is_at_rest(const std::string& name) const;
  // What keeps it from being started: empty, or a sentence; `for_good` where a human must act.
  std::string blocked(const std::string& name, bool& for_good) const;
  void note_ready(const std::string& name);
  void handle(const wire::Json& request, ControlServer::Answer answer);
  void handle_service_request(const std::string& op, const std::string& name,
                              ControlServer::Answer answer);
  wire::Json status_answer() const;
  void answer_waiting(const std::string& service);
  void rest_if_settled(const std::string& service);
  void on_news(const IncidentNews& news);
  void tell(alert::Event event);
  void release_memory_soon();
  static void tell_how_it_stopped(const process::ServiceSpec& spec,
                                  const process::ExitReport& report);
  void bundled(const BundleRequest& request, const Result<>& made);
  void keep_run(const std::string& service, pid_t pid, std::uint64_t generation);
  void keep_samples(const std::string& service, pid_t pid, std::uint64_t generation);

  // SupervisorObserver.
  void started(const process::StartInfo& info) override;
  void start_failed(const std::string& service, const Error& error) override;
  void dying(const process::DyingReport& report) override;
  void ready(const std::string& service) override;
  void exited(const process::ExitReport& report) override;
  void standby_started(const process::StartInfo& info) override;
  void standby_exited(const process::ExitReport& report) override;
  void standby_lost(const std::string& service, const Error& error) override;
  void promoted(const process::PromotionReport& report) override;
  void captured(const process::CaptureReport& report) override;
  void hung(const process::HangReport& report) override;
  void heartbeat_held(const process::HangReport& report) override;
  void limit_exceeded(const process::LimitReport& report) override;
  void hook_finished(const process::HookReport& report) override;
  void oom_killed(const process::OomReport& report) override;
  void warned(const std::string& service, const Error& warning, bool asked_for) override;
  void limit_cleared(const process::LimitReport& report) override;
  void out_of_memory(const std::string& service, std::uint64_t kills) override;
  void state_changed(const std::string& service, process::ServiceState from,
                     process::ServiceState to) override;
  void notified(const process::NotifyEvent& event) override;
  void log(const std::string& service, int stream, std::string_view bytes,
           std::uint64_t lost) override;
  void crash_loop(const std::string& service, const Error& error) override;
  void adopted(const std::string& service, pid_t pid, std::uint64_t generation) override;
  void shim_replaced(const std::string& service, pid_t old_shim, pid_t new_shim) override;
  void slow_lane(const std::string& service, const Error& error, os::Duration delay) override;
  void trouble(const std::string& service, const Error& error) override;

  os::EventLoop& loop_;
  Options options_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<Alerter> alerter_;
  std::int64_t started_mono_ns_;
  std::int64_t supervising_mono_ns_ = 0;
  std::unique_ptr<IncidentRecorder> recorder_;
  std::unique_ptr<os::FileWatch> file_watch_;  // nullptr: the kernel gave none
  std::map<std::string, Service> services_;
  std::vector<Waiting> waiting_;
  mutable std::optional<Dependencies> order_;  // of services_; empty: they changed since
  std::set<std::string> to_start_;             // as soon as what they wait for is ready
  std::map<std::string, bool> to_stop_;        // as soon as those behind them rest; true: asked to
  bool order_posted_ = false;
  os::EventLoop::TimerId release_timer_ = 0;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);  // for what is posted
  std::function<void()> shutdown_done_;
  std::unique_ptr<Bundler> bundler_;
  std::unique_ptr<RunKeeper> runs_;
  std::unique_ptr<process::Supervisor> supervisor_;
  std::unique_ptr<SampleKeeper> samples_;  // on the supervisor's timer
  std::unique_ptr<ControlServer> control_;
};

}  // namespace defib::daemon
