#include "defib/daemon/sensors.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "defib/obs/log.h"

namespace defib::daemon {
namespace {

constexpr std::string_view kComponent = "sensors";
constexpr os::Duration kLossesPeriod = std::chrono::minutes(1);

Finding finding_of(const LogMatch& match) {
  Finding finding;
  finding.cause = "log_pattern";
  finding.fields = wire::Json::object({{"what", "log_pattern"},
                                       {"pattern", match.pattern.match},
                                       {"line", match.line},
                                       {"stream", match.stream == 2 ? "stderr" : "stdout"},
                                       {"lines", match.lines},
                                       {"over_ns", match.over.count()},
                                       {"needed", match.pattern.count},
                                       {"window_ns", match.pattern.window.count()},
                                       {"action", to_string(match.pattern.action)}});
  finding.evidence = {match.lines == 1
                          ? fmt::format("a line of output matches '{}'", match.pattern.match)
                          : fmt::format("{} lines of output within {} match '{}'", match.lines,
                                        os::format_duration(match.over), match.pattern.match),
                      match.line};
  finding.source = "output";
  finding.detail = match.pattern.match;
  finding.message = "a line of output matches a pattern";
  finding.closes_when_quiet = true;
  return finding;
}

}  // namespace

Sensors::Sensors(Context context, const ServiceConfig& config)
    : context_(context),
      name_(config.spec.name),
      working_directory_(config.spec.working_directory),
      recover_(config.sensors.recover),
      healthy_after_(config.spec.healthy_after) {}

Sensors::~Sensors() = default;

Result<std::unique_ptr<Sensors>> Sensors::create(Context context, const ServiceConfig& config) {
  std::unique_ptr<Sensors> sensors(new Sensors(context, config));
  DEFIB_TRY(sensors->make_probes(config));
  if (!config.sensors.log_patterns.empty()) {
    DEFIB_TRY_ASSIGN(
        sensors->log_watch_,
        LogWatch::create(context.loop.clock(), config.sensors.log_patterns,
                         [raw = sensors.get()](const LogMatch& match) { raw->matched(match); }));
  }
  sensors->make_core_watch(config);
  return sensors;
}

Result<> Sensors::make_probes(const ServiceConfig& config) {
  for (ProbeConfig& probe : all_probes(config)) {
    const std::size_t index = probes_.size();
    if (probe.working_directory.empty()) probe.working_directory = config.spec.working_directory;
    HealthChecker::Observer observer;
    observer.on_change = [this, index](const HealthChange& change) {
      health_changed(index, change);
    };
    if (probe.name == config.spec.ready_probe) {
      ready_probe_ = index + 1;
      observer.on_first_pass = [this] {
        static_cast<void>(context_.supervisor.report_ready(name_).has_value());
      };
    }
    DEFIB_TRY_ASSIGN(auto checker, HealthChecker::create(context_.loop, std::move(probe), name_,
                                                         std::move(observer)));
    probes_.push_back(std::move(checker));
  }
  return {};
}

void Sensors::make_core_watch(const ServiceConfig& config) {
  if (context_.file_watch == nullptr) return;
  CoreWatch::Options options;
  options.list_path =
      os::join_path(context_.supervisor.state_dir().service_dir(name_), "cores.json");
  options.working_directory = config.spec.working_directory;
  options.limits = config.sensors.cores;
  core_watch_ = std::make_unique<CoreWatch>(
      context_.loop, *context_.file_watch, context_.files, std::move(options),
      [this](const CoreReport& report) { core_found(report); });
}

void Sensors::started(pid_t pid, bool ready) {
  pid_ = pid;
  for (std::size_t i = 0; i < probes_.size(); ++i) {
    probes_[i]->restart(i + 1 == ready_probe_ && !ready);
  }
  if (core_watch_) core_watch_->started(pid);
}

void Sensors::exited(const process::ExitReport& report) {
  if (report.pid == pid_) {
    pid_ = 0;
    for (const auto& probe : probes_) probe->pause();
    recovery_.reset();
    if (log_watch_) log_watch_->flush();
  }
  tell_losses();
  if (core_watch_) core_watch_->ended(report.pid, report.status.core_dumped);
}

void Sensors::log(int stream, std::string_view bytes, std::uint64_t lost) {
  if (!log_watch_) return;
  log_watch_->push(stream, bytes, lost);
  const std::int64_t since = context_.loop.clock().mono_ns() - losses_told_mono_ns_;
  if (log_watch_->lost_bytes() > losses_told_ &&
      (losses_told_mono_ns_ == 0 || since > kLossesPeriod.count())) {
    tell_losses();
  }
}

void Sensors::tell_losses() {
  if (!log_watch_ || log_watch_->lost_bytes() <= losses_told_) return;
  const std::uint64_t lost = log_watch_->lost_bytes();
  obs::log(obs::Level::kWarning, kComponent, "output was too fast to look at all of it",
           {{"service", name_}, {"bytes", lost - losses_told_}, {"bytes_in_all", lost}});
  context_.recorder.note(name_, "output_not_looked_at",
                         wire::Json::object({{"bytes", lost - losses_told_}, {"in_all", lost}}));
  losses_told_ = lost;
  losses_told_mono_ns_ = context_.loop.clock().mono_ns();
}

// A service is healthy again when none of its probes says otherwise.
void Sensors::health_changed(std::size_t probe, const HealthChange& change) {
  const ProbeConfig config = probes_[probe]->config();
  if (change.health == recovery::Health::kUnhealthy) {
    Finding finding;
    finding.cause = "health_check_failed";
    finding.fields = wire::Json::object({{"what", "health_check"},
                                         {"probe", config.name},
                                         {"kind", to_string(config.kind)},
                                         {"detail", change.detail},
                                         {"failures", change.failures},
                                         {"interval_ns", config.policy.interval.count()},
                                         {"timeout_ns", config.policy.timeout.count()}});
    finding.evidence = {"the health check failed again and again",
                        fmt::format("'{}' failed {} times in a row: {}", config.name,
                                    change.failures, change.detail)};
    finding.source = "health_check";
    finding.detail = config.name;
    finding.message = "the service is unhealthy";
    context_.recorder.found(name_, std::move(finding));
    static_cast<void>(context_.supervisor
                          .report_health(name_, change.health,
                                         fmt::format("{}: {}", config.name, change.detail),
                                         config.action)
                          .has_value());
    return;
  }
  context_.recorder.note(name_, "health_check_passed",
                         wire::Json::object({{"probe", config.name}, {"detail", change.detail}}));
  const bool all = std::ranges::none_of(
      probes_, [](const auto& one) { return one->health() == recovery::Health::kUnhealthy; });
  if (all) {
    static_cast<void>(
        context_.supervisor.report_health(name_, change.health, change.detail).has_value());
  }
}

void Sensors::matched(const LogMatch& match) {
  context_.recorder.found(name_, finding_of(match));
  if (match.pattern.action == PatternAction::kRecover) return recover(match);
  if (match.pattern.action == PatternAction::kRestart) {
    replace(fmt::format("its output matches '{}'", match.pattern.match));
  }
}

void Sensors::replace(const std::string& why) {
  static_cast<void>(context_.supervisor
                        .replace(name_, process::StopReason::kPattern,
                                 Error(Code::kProbeFailed,
                                       fmt::format("the service '{}' is replaced: {}", name_, why)))
                        .has_value());
}

// Asks so many times in a row; a service that needs it once more is replaced.
void Sensors::recover(const LogMatch& match) {
  if (pid_ == 0 || recovery_) return;
  const std::int64_t now = context_.loop.clock().mono_ns();
  if (asked_mono_ns_ != 0 && now - asked_mono_ns_ > healthy_after_.count()) recoveries_asked_ = 0;
  asked_mono_ns_ = now;
  if (recoveries_asked_ >= recover_.attempts) {
    recoveries_asked_ = 0;
    return replace(fmt::format("it was asked to recover {} times in a row", recover_.attempts));
  }
  ++recoveries_asked_;
  wire::Json command = wire::Json::array();
  for (const std::string& word : recover_.command) command.push(word);
  context_.recorder.note(
      name_, "recovery_asked",
      wire::Json::object(
          {{"attempt", recoveries_asked_},
           {"of", recover_.attempts},
           {"signal",
            recover_.signal != 0 ? wire::Json(os::signal_name(recover_.signal)) : wire::Json()},
           {"command", std::move(command)}}));
  obs::log(obs::Level::kWarning, kComponent, "the service is asked to recover",
           {{"service", name_}, {"attempt", recoveries_asked_}, {"line", match.line}});
  if (recover_.signal != 0) {
    static_cast<void>(context_.supervisor.signal(name_, recover_.signal).has_value());
  }
  if (recover_.command.empty()) return;
  os::SpawnOptions options;
  options.argv = recover_.command;
  options.working_directory = working_directory_;
  options.env = {{"DEFIB_SERVICE", name_},
                 {"DEFIB_SERVICE_PID", std::to_string(pid_)},
                 {"DEFIB_ATTEMPT", std::to_string(recoveries_asked_)},
                 {"DEFIB_PATTERN", match.pattern.match},
                 {"DEFIB_LINE", match.line.substr(0, match.line.find('\0'))}};
  auto run = CommandRun::start(context_.loop, std::move(options), recover_.timeout,
                               [this](const CommandRun::Result& result) { recovered(result); });
  if (run) {
    recovery_ = std::move(*run);
  } else {
    context_.recorder.note(name_, "recovery_command",
                           wire::Json::object({{"error", wire::to_json(run.error())}}));
    replace(run.error().message());
  }
}

void Sensors::recovered(const CommandRun::Result& result) {
  const std::unique_ptr<CommandRun> ended = std::move(recovery_);  // destroyed behind us
  const std::string status =
      result.timed_out ? fmt::format("killed after {}", os::format_duration(recover_.timeout))
                       : result.status.to_string();
  context_.recorder.note(name_, "recovery_command",
                         wire::Json::object({{"status", status}, {"output", result.output}}));
  if (!result.status.success()) {
    replace(fmt::format("its recover_command ended with {}", status));
  }
}

void Sensors::core_found(const CoreReport& report) {
  wire::Json removed = wire::Json::array();
  for (const CoreList::Removed& one : report.removed) {
    removed.push(wire::Json::object({{"path", one.path}, {"bytes", one.bytes}}));
  }
  wire::Json fields = wire::Json::object({{"path", report.path},
                                          {"bytes", report.bytes},
                                          {"disk_bytes", report.disk_bytes},
                                          {"pid", report.identity.pid},
                                          {"session", report.identity.session},
                                          {"program", report.identity.program},
                                          {"signal", os::signal_name(report.identity.signal)},
                                          {"removed", std::move(removed)}});
  if (report.error) fields.set("error", wire::to_json(*report.error));
  obs::log(obs::Level::kWarning, kComponent, "a core file was written",
           {{"service", name_}, {"path", report.path}, {"bytes", report.bytes}});
  context_.recorder.core_dumped(name_, fields);
}

}  // namespace defib::daemon
