#include "defib/daemon/supervise.h"

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <optional>

#include "defib/daemon/host.h"
#include "defib/daemon/manager.h"
#include "defib/daemon/status.h"
#include "defib/daemon/upgrade.h"
#include "defib/obs/log.h"
#include "defib/os/files.h"
#include "defib/os/memory.h"
#include "defib/os/process.h"
#include "defib/process/guardian.h"
#include "defib/process/state_dir.h"

namespace defib::daemon {
namespace {

using process::ServiceState;

constexpr std::string_view kComponent = "daemon";

// The supervisor is a child's helper at times; none of ours may become a zombie.
Result<> ignore_broken_pipes() {
  struct sigaction action = {};
  action.sa_handler = SIG_IGN;
  if (sigaction(SIGPIPE, &action, nullptr) != 0) return os::system_error("sigaction");
  return {};
}

// What the start needed once is not held for months.
void release_memory_when_quiet(os::EventLoop& loop) {
  constexpr os::Duration kStartupTime = std::chrono::seconds(2);
  loop.run_after(kStartupTime, [] { os::release_startup_memory(); });
}

// So that a loaded machine does not keep us from looking at heartbeats in time. Services are not
// affected: what we start is of the ordinary priority.
void take_priority() {
  const os::OwnPriority own = os::raise_own_priority();
  if (own.raised || own.refused.empty()) return;
  obs::log(obs::Level::kWarning, kComponent,
           "the supervisor has no better priority than what it supervises", {{"why", own.refused}});
}

// Stops everything at the first request; at the second one, services are killed.
class GracefulStop {
 public:
  GracefulStop(os::EventLoop& loop, std::unique_ptr<Host>& host, Manager& manager)
      : loop_(loop), host_(host), manager_(manager) {}

  void request(std::string_view why) {
    if (!host_) return loop_.stop();
    if (stopping_) {
      obs::log(obs::Level::kWarning, kComponent, "asked again: killing what still runs");
      for (const process::ServiceStatus& status : host_->supervisor().known_status()) {
        (void)host_->supervisor().signal(status.name, SIGKILL);
      }
      return;
    }
    stopping_ = true;
    manager_.stopping();
    obs::log(obs::Level::kInfo, kComponent, "stopping", {{"why", why}});
    host_->shutdown([this] { loop_.stop(); });
  }
  bool stopping() const { return stopping_; }

 private:
  os::EventLoop& loop_;
  std::unique_ptr<Host>& host_;
  Manager& manager_;
  bool stopping_ = false;
};

// Of a supervisor of one service; the service's directory may not be there yet.
std::string run_counters_path(const std::string& state_dir, const std::string& name) {
  return os::join_path(state_dir, fmt::format("{}.{}", kCountersFile, name));
}
// Puts the program on disk in this one's place, once it has proven that it can start.
class Replacement {
 public:
  Replacement(os::EventLoop& loop, std::unique_ptr<Host>& host, const GracefulStop& stop,
              std::vector<std::string> command)
      : loop_(loop), host_(host), stop_(stop), upgrade_(loop, std::move(command)) {}

  void request(const std::function<void(Result<std::string>)>& answer) {
    if (stop_.stopping() || !host_) {
      return answer(Error(Code::kUnavailable, "the supervisor is being started or stopped"));
    }
    upgrade_.try_program([this, answer](Result<std::string> tried) {
      if (!tried) {
        obs::log(obs::Level::kError, kComponent, "no upgrade", {{"error", tried.error()}});
        return answer(std::move(tried));
      }
      obs::log(obs::Level::kInfo, kComponent, "upgrading", {{"to", *tried}});
      answer(std::move(tried));
      if (stop_.stopping()) return;
      wanted_ = true;
      host_->supervisor().keep_locks_for_upgrade();
      loop_.stop();
    });
  }
  // After the loop, with the host gone. Without a guardian it returns only where it failed.
  Result<int> finish(int exit_code) {
    if (!wanted_) return exit_code;
    if (!process::is_guarded()) return process::exec_upgraded(upgrade_.command());
    process::tell_guardian(process::shim::GuardianRequest::kStartAgain);
    return 0;
  }
  bool wanted() const { return wanted_; }

 private:
  os::EventLoop& loop_;
  std::unique_ptr<Host>& host_;
  const GracefulStop& stop_;
  Upgrade upgrade_;
  bool wanted_ = false;
};

// How long a resumed supervisor hears its shim before it takes a service that is at rest for one
// that has done its work.
constexpr os::Duration kResumeTime = std::chrono::milliseconds(300);

}  // namespace

Result<int> run_in_foreground(const RunOptions& options) {
  DEFIB_TRY(validate(options.service));
  DEFIB_TRY(ignore_broken_pipes());
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::EventLoop> loop, os::EventLoop::create());
  const std::string name = options.service.spec.name;
  Manager manager(*loop);
  std::unique_ptr<Host> host;
  GracefulStop stop(*loop, host, manager);
  Replacement replacement(*loop, host, stop, options.command);
  int exit_code = 0;
  DEFIB_TRY(loop->watch_signals({SIGTERM, SIGINT, SIGHUP, SIGUSR2}, [&](int signal) {
    if (signal != SIGUSR2) return stop.request(os::signal_name(signal));
    replacement.request([](const Result<std::string>&) {});
  }));
  Host::Options host_options;
  host_options.state_dir = options.state_dir;
  host_options.started_mono_ns = options.started_mono_ns;
  host_options.receivers = options.receivers;
  host_options.counters_path = run_counters_path(options.state_dir, name);
  host_options.resumed = process::is_resumed();
  host_options.on_rest = [&](const std::string&, ServiceState state) {
    if (stop.stopping() || replacement.wanted()) return;
    if (state == ServiceState::kFailed) exit_code = 1;
    stop.request(process::to_string(state));
  };
  host_options.on_started = [](const std::string&) {
    process::tell_guardian(process::shim::GuardianRequest::kBegun);
  };
  host_options.on_upgrade = [&](const auto& answer) { replacement.request(answer); };
  DEFIB_TRY_ASSIGN(host, Host::create(*loop, std::move(host_options)));
  take_priority();
  // The output is passed through from the first byte on.
  ServiceConfig config = options.service;
  config.start = false;
  DEFIB_TRY(host->add(config));
  if (!options.quiet) {
    DEFIB_TRY(host->supervisor().pass_through(name, STDOUT_FILENO, STDERR_FILENO));
  }
  DEFIB_TRY(host->listen(
      os::join_path(host->supervisor().state_dir().service_dir(name), kControlSocket)));
  DEFIB_TRY_ASSIGN(const process::ServiceStatus status, host->supervisor().known_status(name));
  const bool rests = status.pid == 0 && status.state != ServiceState::kBackingOff;
  if (rests && process::is_resumed()) {
    // It came to rest while the supervisor before us died: that is the end of this run too.
    loop->run_after(kResumeTime, [&] { host->report_rest(name); });
  } else if (rests) {
    DEFIB_TRY(host->supervisor().start(name));
  }
  process::forget_untaken_locks();
  host->supervising();
  process::tell_guardian(process::shim::GuardianRequest::kReady);
  manager.ready();
  release_memory_when_quiet(*loop);
  DEFIB_TRY(loop->run());
  host.reset();
  return replacement.finish(exit_code);
}

namespace {

Result<std::unique_ptr<os::File>> lock_daemon(const std::string& state_dir) {
  const std::string path = os::join_path(state_dir, "daemon.lock");
  auto lock = process::take_lock(os::real_files(), path);
  if (lock) {
    process::keep_lock(**lock);
    return lock;
  }
  if (lock.error().code() != Code::kDatabaseLocked) return lock;
  const pid_t holder = process::lock_holder(path);
  return Error(Code::kAlreadySupervised,
               fmt::format("a daemon for this state directory is running already{}",
                           holder > 0 ? fmt::format(": process {}", holder) : ""))
      .with("state_dir", state_dir)
      .with("holder", holder)
      .suggest("use that one (`defib status`, `defib reload`), or choose another --state-dir");
}

// Takes over, or starts in order, what the configuration names.
void add_services(Host& host, const std::vector<ServiceConfig>& services) {
  std::vector<process::ServiceSpec> specs;
  specs.reserve(services.size());
  for (const ServiceConfig& config : services) specs.push_back(config.spec);
  host.supervisor().begin(specs);
  // A service that cannot be had does not keep the others from being supervised.
  for (const ServiceConfig& config : services) {
    if (const auto added = host.add(config); !added) {
      obs::log(obs::Level::kError, kComponent, "a service is not supervised",
               {{"service", config.spec.name}, {"error", added.error()}});
    }
  }
}

}  // namespace

Result<int> run_daemon(DaemonOptions options) {
  DEFIB_TRY(ignore_broken_pipes());
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::EventLoop> loop, os::EventLoop::create());
  HttpHelper http(*loop, options.state_dir);
  Manager manager(*loop);
  std::unique_ptr<Host> host;
  GracefulStop stop(*loop, host, manager);
  Replacement replacement(*loop, host, stop, options.command);
  const ConfigChecks checks = {true, [&](const Config&, const std::string& name) {
                                 return service_runs(os::real_files(), options.state_dir, name);
                               }};
  const auto reload = [&](bool restart) -> Result<wire::Json> {
    DEFIB_TRY_ASSIGN(const Config config, load_config(options.config_path, checks));
    manager.reloading();
    auto answer = host->apply(config.services, restart);
    manager.ready();
    DEFIB_TRY(answer);
    DEFIB_TRY(host->alert_to(config.receivers));
    host->keep_bundles(config.bundles);
    http.serve(config.http);
    wire::Json warnings = wire::Json::array();
    for (const std::string& warning : config.warnings) warnings.push(warning);
    if (warnings.size() > 0) answer->set("warnings", std::move(warnings));
    return answer;
  };
  DEFIB_TRY(loop->watch_signals({SIGTERM, SIGINT, SIGHUP, SIGUSR2}, [&](int signal) {
    if (signal == SIGUSR2) return replacement.request([](const Result<std::string>&) {});
    if (signal != SIGHUP) return stop.request(os::signal_name(signal));
    if (const auto reloaded = reload(false); !reloaded) {
      obs::log(obs::Level::kError, kComponent, "the configuration was not reloaded",
               {{"error", reloaded.error()}});
    }
  }));
  Host::Options host_options;
  host_options.state_dir = options.state_dir;
  host_options.started_mono_ns = options.started_mono_ns;
  host_options.resumed = process::is_resumed();
  host_options.on_reload = reload;
  host_options.receivers = options.config.receivers;
  host_options.bundles = options.config.bundles;
  host_options.on_upgrade = [&](const auto& answer) { replacement.request(answer); };
  // Before anything of the state is touched: another daemon may be at work there.
  DEFIB_TRY(process::StateDir::open(os::real_files(), options.state_dir));
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> lock, lock_daemon(options.state_dir));
  DEFIB_TRY_ASSIGN(host, Host::create(*loop, std::move(host_options)));
  take_priority();
  DEFIB_TRY(host->listen(os::join_path(options.state_dir, kControlSocket)));
  add_services(*host, options.config.services);
  obs::log(obs::Level::kInfo, kComponent, "supervising",
           {{"state_dir", options.state_dir}, {"services", options.config.services.size()}});
  process::forget_untaken_locks();
  process::tell_guardian(process::shim::GuardianRequest::kBegun);
  host->supervising();
  process::tell_guardian(process::shim::GuardianRequest::kReady);
  http.serve(options.config.http);
  options.config = {};  // each part has what it needs of it
  manager.ready();
  release_memory_when_quiet(*loop);
  DEFIB_TRY(loop->run());
  if (replacement.wanted()) process::keep_lock_for_upgrade(*lock);
  http.end();
  host.reset();
  return replacement.finish(0);
}

}  // namespace defib::daemon
