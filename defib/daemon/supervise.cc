#include "defib/daemon/supervise.h"

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <memory>
#include <optional>

#include "defib/daemon/host.h"
#include "defib/daemon/status.h"
#include "defib/obs/log.h"
#include "defib/os/files.h"
#include "defib/os/memory.h"
#include "defib/os/process.h"

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
  GracefulStop(os::EventLoop& loop, std::unique_ptr<Host>& host) : loop_(loop), host_(host) {}

  void request(std::string_view why) {
    if (!host_) return loop_.stop();
    if (stopping_) {
      obs::log(obs::Level::kWarning, kComponent, "asked again: killing what still runs");
      for (const process::ServiceStatus& status : host_->supervisor().status()) {
        (void)host_->supervisor().signal(status.name, SIGKILL);
      }
      return;
    }
    stopping_ = true;
    obs::log(obs::Level::kInfo, kComponent, "stopping", {{"why", why}});
    host_->shutdown([this] { loop_.stop(); });
  }
  bool stopping() const { return stopping_; }

 private:
  os::EventLoop& loop_;
  std::unique_ptr<Host>& host_;
  bool stopping_ = false;
};

}  // namespace

Result<int> run_in_foreground(const RunOptions& options) {
  DEFIB_TRY(validate(options.service));
  DEFIB_TRY(ignore_broken_pipes());
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::EventLoop> loop, os::EventLoop::create());
  const std::string name = options.service.spec.name;
  std::unique_ptr<Host> host;
  GracefulStop stop(*loop, host);
  int exit_code = 0;
  DEFIB_TRY(loop->watch_signals({SIGTERM, SIGINT, SIGHUP},
                                [&](int signal) { stop.request(os::signal_name(signal)); }));
  Host::Options host_options;
  host_options.state_dir = options.state_dir;
  host_options.on_rest = [&](const std::string&, ServiceState state) {
    if (stop.stopping()) return;
    if (state == ServiceState::kFailed) exit_code = 1;
    stop.request(process::to_string(state));
  };
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
  DEFIB_TRY_ASSIGN(const process::ServiceStatus status, host->supervisor().status(name));
  if (status.pid == 0 && status.state != ServiceState::kBackingOff) {
    DEFIB_TRY(host->supervisor().start(name));
  }
  release_memory_when_quiet(*loop);
  DEFIB_TRY(loop->run());
  host.reset();
  return exit_code;
}

Result<int> run_daemon(const DaemonOptions& options) {
  DEFIB_TRY(ignore_broken_pipes());
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::EventLoop> loop, os::EventLoop::create());
  std::unique_ptr<Host> host;
  GracefulStop stop(*loop, host);
  const ConfigChecks checks = {true, [&](const std::string& name) {
                                 return service_runs(os::real_files(), options.state_dir, name);
                               }};
  const auto reload = [&](bool restart) -> Result<wire::Json> {
    DEFIB_TRY_ASSIGN(const Config config, load_config(options.config_path, checks));
    DEFIB_TRY_ASSIGN(wire::Json answer, host->apply(config.services, restart));
    wire::Json warnings = wire::Json::array();
    for (const std::string& warning : config.warnings) warnings.push(warning);
    if (warnings.size() > 0) answer.set("warnings", std::move(warnings));
    return answer;
  };
  DEFIB_TRY(loop->watch_signals({SIGTERM, SIGINT, SIGHUP}, [&](int signal) {
    if (signal != SIGHUP) return stop.request(os::signal_name(signal));
    if (const auto reloaded = reload(false); !reloaded) {
      obs::log(obs::Level::kError, kComponent, "the configuration was not reloaded",
               {{"error", reloaded.error()}});
    }
  }));
  Host::Options host_options;
  host_options.state_dir = options.state_dir;
  host_options.on_reload = reload;
  DEFIB_TRY_ASSIGN(host, Host::create(*loop, std::move(host_options)));
  take_priority();
  os::Files& files = os::real_files();
  DEFIB_TRY_ASSIGN(
      const std::unique_ptr<os::File> lock,
      files.open(os::join_path(options.state_dir, "daemon.lock"), os::OpenMode::kCreate));
  if (!lock->try_lock()) {
    return Error(Code::kAlreadySupervised, "a daemon for this state directory is running already")
        .with("state_dir", options.state_dir);
  }
  DEFIB_TRY(host->listen(os::join_path(options.state_dir, kControlSocket)));
  // A service that cannot be had does not keep the others from being supervised.
  for (const ServiceConfig& config : options.config.services) {
    if (const auto added = host->add(config); !added) {
      obs::log(obs::Level::kError, kComponent, "a service is not supervised",
               {{"service", config.spec.name}, {"error", added.error()}});
    }
  }
  obs::log(obs::Level::kInfo, kComponent, "supervising",
           {{"state_dir", options.state_dir}, {"services", options.config.services.size()}});
  release_memory_when_quiet(*loop);
  DEFIB_TRY(loop->run());
  host.reset();
  return 0;
}

}  // namespace defib::daemon
