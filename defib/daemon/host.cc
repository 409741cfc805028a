#include "defib/daemon/host.h"

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "defib/daemon/alert_events.h"
#include "defib/daemon/exit_cause.h"
#include "defib/daemon/status.h"
#include "defib/obs/log.h"
#include "defib/os/memory.h"
#include "defib/process/guardian.h"

namespace defib::daemon {
namespace {

using process::ServiceState;

constexpr std::string_view kComponent = "daemon";
constexpr std::size_t kMaxWaiting = 64;
constexpr os::Duration kRequestTime = std::chrono::minutes(2);
// How often the end of a service's last incident is looked for once the service is at rest.
constexpr os::Duration kRestPoll = std::chrono::milliseconds(20);
constexpr os::Duration kReleaseAfter = std::chrono::seconds(2);

bool at_rest(ServiceState state) {
  return state == ServiceState::kStopped || state == ServiceState::kFailed;
}

wire::Json ok() {
  return wire::Json::object({{"ok", true}});
}

wire::Json failure(const Error& error) {
  return wire::Json::object({{"error", wire::to_json(error)}});
}

}  // namespace

Host::Host(os::EventLoop& loop, Options options)
    : loop_(loop),
      options_(std::move(options)),
      started_mono_ns_(options_.started_mono_ns != 0 ? options_.started_mono_ns
                                                     : loop.clock().mono_ns()) {}

Result<std::unique_ptr<Host>> Host::create(os::EventLoop& loop, Options options) {
  std::unique_ptr<Host> host(new Host(loop, std::move(options)));
  os::Files& files = host->options_.files != nullptr ? *host->options_.files : os::real_files();
  process::Supervisor::Options supervisor_options;
  supervisor_options.state_dir = host->options_.state_dir;
  supervisor_options.files = &files;
  DEFIB_TRY_ASSIGN(host->supervisor_,
                   process::Supervisor::create(loop, std::move(supervisor_options), *host));
  const auto log_tail = [raw = host.get()](const std::string& service, std::int64_t from,
                                           std::int64_t until) {
    return raw->supervisor_->run_output(service, {.from_mono_ns = from, .until_mono_ns = until});
  };
  DEFIB_TRY_ASSIGN(host->recorder_,
                   IncidentRecorder::create(loop, files, host->options_.state_dir, log_tail));
  host->recorder_->redact_with([raw = host.get()](const std::string& service) {
    postmortem::Redactor redactor;
    const auto found = raw->services_.find(service);
    if (found == raw->services_.end()) return redactor;
    const process::ServiceSpec& spec = found->second.config.spec;
    redactor.learn(started_environment(spec.env, spec.clear_environment));
    redactor.learn_arguments(spec.argv);
    return redactor;
  });
  if (auto watch = os::FileWatch::create(loop)) {
    host->file_watch_ = std::move(*watch);
  } else {
    obs::log(obs::Level::kWarning, kComponent, "core files are not watched",
             {{"error", watch.error()}});
  }
  // The supervisor has made the directory by now.
  const std::string& state_dir = host->options_.state_dir;
  std::string& counters = host->options_.counters_path;
  if (counters.empty()) counters = os::join_path(state_dir, kCountersFile);
  host->metrics_ = std::make_unique<Metrics>(counters);
  // Beside the counters, and named like them: "counters.engine", "samples.engine".
  const std::string file = counters.substr(counters.rfind('/') + 1);
  const std::string machine_samples = os::join_path(
      os::parent_dir(counters), "samples" + file.substr(std::min(file.find('.'), file.size())));
  host->samples_ =
      std::make_unique<SampleKeeper>(host->supervisor_->sampler(), loop.clock(), machine_samples);
  host->bundler_ = std::make_unique<Bundler>(
      loop, state_dir, machine_samples,
      [raw = host.get()](const BundleRequest& request, const Result<>& made) {
        raw->bundled(request, made);
      });
  host->bundler_->set_rules(host->options_.bundles);
  host->runs_ = std::make_unique<RunKeeper>(
      loop,
      [raw = host.get()](const std::string& service) { return !raw->recorder_->has_open(service); },
      [raw = host.get()](const std::string& service, pid_t pid, std::uint64_t generation,
                         bool live) {
        const auto found = raw->services_.find(service);
        if (found == raw->services_.end()) return;
        raw->bundler_->good(found->second.config, pid, generation, live);
      });
  const bool alerted_before = files.exists(alert::queue_path(state_dir));
  host->alerter_ = std::make_unique<Alerter>(loop, files, state_dir);
  // Whatever is wrong with alerts, services are supervised.
  if (const auto alerting = host->alert_to(host->options_.receivers); !alerting) {
    obs::log(obs::Level::kError, kComponent, "alerts may not reach anybody",
             {{"error", alerting.error()}});
  }
  host->recorder_->on_news([raw = host.get()](const IncidentNews& news) { raw->on_news(news); },
                           alerted_before && host->alerter_->on());
  return host;
}

Host::~Host() {
  control_.reset();
  for (auto& [name, service] : services_) {
    service.sensors.reset();
    if (service.rest_timer != 0) loop_.cancel(service.rest_timer);
  }
  for (Waiting& waiting : waiting_) {
    if (waiting.timer != 0) loop_.cancel(waiting.timer);
  }
  if (release_timer_ != 0) loop_.cancel(release_timer_);
  samples_.reset();
  supervisor_.reset();
  runs_.reset();
  recorder_.reset();  // its last news are still told
}

Result<> Host::alert_to(const std::vector<alert::Receiver>& receivers) {
  return alerter_->set_receivers(receivers);
}

void Host::on_news(const IncidentNews& news) {
  using What = IncidentNews::What;
  if (!news.again && news.opens) metrics_->incident_opened(news.service);
  if (!news.again && news.what == What::kClosed) {
    metrics_->incident_closed(news.service, news.outcome);
  }
  if (news.detected && news.cause == "health_check_failed") metrics_->unhealthy(news.service);
  if (news.detected && news.cause == "log_pattern") metrics_->log_matched(news.service);
  if (const auto found = services_.find(news.service); found != services_.end() && supervisor_) {
    const auto status = supervisor_->known_status(news.service);
    bundler_->hear(news, found->second.config, status ? status->pid : 0,
                   status ? status->generation : 0);
  }
  if (auto event = event_of(news)) tell(std::move(*event));
}

void Host::bundled(const BundleRequest& request, const Result<>& made) {
  if (!recorder_ || recorder_->last_incident(request.service) != request.incident ||
      !recorder_->has_open(request.service)) {
    return;
  }
  wire::Json fields = wire::Json::object(
      {{"failure", request.failure}, {"path", request.directory()}, {"ok", made.has_value()}});
  if (!made) fields.set("error", wire::to_json(made.error()));
  recorder_->note(request.service, "bundled", fields);
}

void Host::keep_run(const std::string& service, pid_t pid, std::uint64_t generation) {
  const auto found = services_.find(service);
  if (found == services_.end()) return;
  runs_->started(service, pid, generation, found->second.config.spec.healthy_after);
}

void Host::keep_samples(const std::string& service, pid_t pid, std::uint64_t generation) {
  const auto found = services_.find(service);
  if (!samples_ || found == services_.end()) return;
  samples_->watch(service, os::join_path(supervisor_->state_dir().service_dir(service), "samples"),
                  pid, generation, found->second.config.spec.sample_interval);
}

void Host::tell(alert::Event event) {
  if (!alerter_->on()) return;
  const std::uint64_t dropped = alerter_->dropped();
  metrics_->alert_told(to_string(event.severity));
  alerter_->tell(std::move(event));
  if (alerter_->dropped() > dropped) metrics_->alert_dropped(alerter_->dropped() - dropped);
}

// The status of a hundred services takes a megabyte for a moment, which the heap would keep.
void Host::release_memory_soon() {
  if (release_timer_ != 0) return;
  release_timer_ = loop_.run_after(kReleaseAfter, [this] {
    release_timer_ = 0;
    os::release_startup_memory();
  });
}

Result<> Host::listen(std::string path) {
  DEFIB_TRY_ASSIGN(control_, ControlServer::listen(
                                 loop_, std::move(path),
                                 [this](const wire::Json& request, ControlServer::Answer answer) {
                                   handle(request, std::move(answer));
                                 }));
  return {};
}

Result<> Host::add(const ServiceConfig& config) {
  DEFIB_TRY(take(config));
  const std::string& name = config.spec.name;
  DEFIB_TRY_ASSIGN(const process::ServiceStatus status, supervisor_->known_status(name));
  const bool waits = status.state == ServiceState::kStopped && status.pid == 0;
  // One that an earlier supervisor left stopped stays so, until somebody asks for it.
  const bool rests = status.ended_before || (options_.resumed && status.generation > 0);
  if (config.start && waits && !rests) want_start(name);
  return {};
}

// Supervises it, and starts nothing.
Result<> Host::take(const ServiceConfig& config) {
  DEFIB_TRY(validate(config));
  const std::string& name = config.spec.name;
  Service& service = services_[name];
  service.config = config;
  if (auto added = supervisor_->add(config.spec); !added) {
    services_.erase(name);
    return added;
  }
  order_.reset();
  recorder_->begin(name);
  note_ready(name);
  return watch_service(service);
}

// Probes, log patterns and core files, anew.
Result<> Host::watch_service(Service& service) {
  const std::string& name = service.config.spec.name;
  service.sensors.reset();
  os::Files& files = options_.files != nullptr ? *options_.files : os::real_files();
  DEFIB_TRY_ASSIGN(
      service.sensors,
      Sensors::create({loop_, files, *supervisor_, *recorder_, file_watch_.get()}, service.config));
  DEFIB_TRY_ASSIGN(const process::ServiceStatus status, supervisor_->known_status(name));
  if (status.pid != 0) service.sensors->started(status.pid, status.ready);
  return supervisor_->feed_log(name, service.sensors->wants_log());
}

Result<> Host::change(Service& service, const ServiceConfig& config) {
  DEFIB_TRY(supervisor_->update(config.spec));
  const bool watches = all_probes(service.config) != all_probes(config) ||
                       service.config.sensors != config.sensors ||
                       service.config.spec.ready_probe != config.spec.ready_probe;
  service.config = config;
  return watches ? watch_service(service) : Result<>();
}

Result<wire::Json> Host::apply(const std::vector<ServiceConfig>& configs, bool restart) {
  for (const ServiceConfig& config : configs) DEFIB_TRY(validate(config));
  wire::Json added = wire::Json::array(), removed = wire::Json::array();
  wire::Json answer = wire::Json::object({{"ok", true}});
  DEFIB_TRY(add_all(configs, added));
  change_all(configs, restart, answer);
  for (auto& [name, service] : services_) {
    const bool stays = std::ranges::any_of(
        configs, [&](const ServiceConfig& config) { return config.spec.name == name; });
    if (stays || service.leaving) continue;
    service.leaving = true;
    removed.push(name);
  }
  order_.reset();
  for (const wire::Json& name : removed.items()) {
    const std::string leaving(name.as_string());
    to_start_.erase(leaving);
    to_stop_.emplace(leaving, false);
    rest_if_settled(leaving);
  }
  for (const wire::Json& name : added.items()) {
    const auto config = std::ranges::find(configs, name.as_string(), [](const ServiceConfig& one) {
      return std::string_view(one.spec.name);
    });
    if (config->start) want_start(config->spec.name);
  }
  schedule_order();
  answer.set("added", std::move(added));
  answer.set("removed", std::move(removed));
  return answer;
}

// All or none: a name may be taken by another supervisor.
Result<> Host::add_all(const std::vector<ServiceConfig>& configs, wire::Json& added) {
  for (const ServiceConfig& config : configs) {
    if (services_.contains(config.spec.name)) continue;
    if (auto taken = take(config); !taken) {
      for (const wire::Json& name : added.items()) remove(std::string(name.as_string()));
      return taken;
    }
    added.push(config.spec.name);
  }
  return {};
}

void Host::change_all(const std::vector<ServiceConfig>& configs, bool restart, wire::Json& answer) {
  wire::Json changed = wire::Json::array(), outdated = wire::Json::array(),
             restarted = wire::Json::array(), failed = wire::Json::array();
  for (const ServiceConfig& config : configs) {
    const std::string& name = config.spec.name;
    const auto found = services_.find(name);
    if (found == services_.end()) continue;
    Service& service = found->second;
    if (std::exchange(service.leaving, false)) {
      // It was leaving and shall stay: it ends as asked, and comes back.
      to_stop_.erase(name);
      if (config.start) to_start_.insert(name);
    }
    const bool same = service.config == config;
    const auto status = supervisor_->known_status(name);
    const bool runs = status && status->pid != 0;
    if (!same) {
      if (runs && needs_restart(service.config, config)) {
        service.outdated_generation = status->generation;
      }
      if (const auto done = change(service, config); !done) {
        failed.push(wire::Json::object({{"name", name}, {"error", wire::to_json(done.error())}}));
        continue;
      }
      changed.push(name);
    }
    if (!runs || service.outdated_generation != status->generation) continue;
    if (!restart) {
      outdated.push(name);
      continue;
    }
    restarted.push(name);
  }
  order_.reset();
  // Dependants stop before what they require, and start behind it.
  for (const wire::Json& name : restarted.items()) {
    to_stop_.emplace(std::string(name.as_string()), false);
    to_start_.insert(std::string(name.as_string()));
  }
  answer.set("changed", std::move(changed));
  answer.set("needs_restart", std::move(outdated));
  answer.set("restarted", std::move(restarted));
  if (failed.size() > 0) answer.set("failed", std::move(failed));
}

void Host::remove(const std::string& name) {
  if (const auto removed = supervisor_->remove(name); !removed) {
    obs::log(obs::Level::kWarning, kComponent, "a service cannot be removed",
             {{"service", name}, {"error", removed.error()}});
    return;
  }
  recorder_->end(name);
  tell(removed_event(name));
  services_.erase(name);
  to_start_.erase(name);
  to_stop_.erase(name);
  order_.reset();
}

void Host::shutdown(std::function<void()> done) {
  to_start_.clear();
  for (const auto& [name, service] : services_) to_stop_.emplace(name, false);
  shutdown_done_ = std::move(done);
  schedule_order();
}

void Host::handle(const wire::Json& request, ControlServer::Answer answer) {
  const std::string op(request["op"].as_string());
  const std::string name(request["name"].as_string());
  if (op == "status") {
    answer(status_answer());
    return release_memory_soon();
  }
  if (op == "metrics") {
    wire::Json rows = wire::Json::array();
    // What no sample told is read by who shows it.
    for (const process::ServiceStatus& status : supervisor_->known_status()) {
      rows.push(metrics_row(status));
    }
    return answer(wire::Json::object({{"rows", std::move(rows)}}));
  }
  if (op == "alerts") {
    alerter_->wake();
    return answer(alerter_->on() ? ok()
                                 : failure(Error(Code::kUnavailable, "no alerts are configured")));
  }
  if (op == "about") {
    return answer(wire::Json::object({{"ok", true},
                                      {"pid", getpid()},
                                      {"public_pid", process::public_pid()},
                                      {"started_mono_ns", started_mono_ns_},
                                      {"supervising_mono_ns", supervising_mono_ns_},
                                      {"resumed", options_.resumed}}));
  }
  if (op == "upgrade" && options_.on_upgrade) {
    return options_.on_upgrade([answer](const Result<std::string>& tried) {
      answer(tried ? wire::Json::object({{"ok", true}, {"program", *tried}})
                   : failure(tried.error()));
    });
  }
  if (op == "reload") {
    if (!options_.on_reload) {
      return answer(failure(Error(Code::kInvalidArgument, "`defib run` has nothing to reload")));
    }
    auto reloaded = options_.on_reload(request["restart"].as_bool());
    return answer(reloaded ? *reloaded : failure(reloaded.error()));
  }
  if (op == "stop" && name.empty()) {
    for (const auto& [service, entry] : services_) want_stop(service);
    return answer(ok());
  }
  handle_service_request(op, name, std::move(answer));
}

void Host::handle_service_request(const std::string& op, const std::string& name,
                                  ControlServer::Answer answer) {
  const auto status = supervisor_->known_status(name);
  if (!status) return answer(failure(status.error()));
  if (waiting_.size() >= kMaxWaiting) {
    return answer(failure(Error(Code::kLimitExceeded, "too many requests wait already")));
  }
  Result<> done;
  if (op == "start") {
    // One that is being stopped is started when it rests; what it requires comes first.
    if (status->state == ServiceState::kStopping || order().with_required(name).size() > 1) {
      to_stop_.erase(name);
      if (status->pid != 0) done = supervisor_->start(name);
      want_start(name);
    } else {
      to_stop_.erase(name);
      to_start_.erase(name);
      done = supervisor_->start(name);
    }
  } else if (op == "stop") {
    want_stop(name);
    follow_order();
  } else if (op == "restart") {
    done = supervisor_->restart(name);
  } else if (op == "reset") {
    done = supervisor_->reset(name);
  } else {
    done = Error(Code::kInvalidArgument, fmt::format("there is no request '{}'", op));
  }
  if (!done) return answer(failure(done.error()));
  Waiting waiting;
  waiting.op = op;
  waiting.service = name;
  waiting.generation = status->generation;
  waiting.was_failed = status->state == ServiceState::kFailed;
  waiting.answer = std::move(answer);
  waiting.timer = loop_.run_after(kRequestTime, [this, name] {
    std::erase_if(waiting_, [&](Waiting& one) {
      if (one.service != name) return false;
      bool for_good = false;
      const std::string why = to_start_.contains(name) ? blocked(name, for_good) : std::string();
      one.answer(
          failure(Error(Code::kTimeout, fmt::format("'{}' is not done with '{}' yet{}", name,
                                                    one.op, why.empty() ? "" : ": " + why))));
      return true;
    });
  });
  waiting_.push_back(std::move(waiting));
  answer_waiting(name);
}

wire::Json Host::status_answer() const {
  wire::Json services = wire::Json::array();
  for (const process::ServiceStatus& status : supervisor_->status()) {
    wire::Json json = status_to_json(status, recorder_->last_incident(status.name));
    const auto found = services_.find(status.name);
    if (found != services_.end()) {
      json.set("needs_restart",
               status.pid != 0 && found->second.outdated_generation == status.generation);
    }
    if (to_start_.contains(status.name)) {
      bool for_good = false;
      json.set("waits_for", blocked(status.name, for_good));
    }
    services.push(std::move(json));
  }
  return wire::Json::object({{"services", std::move(services)}});
}

void Host::answer_waiting(const std::string& name) {
  const auto status = supervisor_->known_status(name);
  if (!status) return;
  std::vector<std::pair<ControlServer::Answer, wire::Json>> answers;
  std::erase_if(waiting_, [&](Waiting& one) {
    if (one.service != name) return false;
    const bool rests = at_rest(status->state);
    const bool runs = status->pid != 0 && status->state != ServiceState::kStarting &&
                      status->state != ServiceState::kStopping &&
                      // A restart is done when another process runs.
                      (one.op != "restart" || status->generation > one.generation);
    bool blocked_for_good = false;
    const std::string why = one.op == "start" && to_start_.contains(name)
                                ? blocked(name, blocked_for_good)
                                : std::string();
    if (blocked_for_good) {
      if (one.timer != 0) loop_.cancel(one.timer);
      answers.emplace_back(std::move(one.answer), failure(Error(Code::kStartFailed, why)));
      return true;
    }
    const bool failed = status->state == ServiceState::kFailed &&
                        (!one.was_failed || status->generation > one.generation);
    const bool done = one.op == "stop" ? rests && !to_stop_.contains(name) : runs || failed;
    if (!done) return false;
    if (one.timer != 0) loop_.cancel(one.timer);
    const bool good = one.op == "stop" || runs;
    Error error = status->last_error.value_or(
        Error(Code::kStartFailed, fmt::format("the service '{}' failed", name)));
    answers.emplace_back(std::move(one.answer), good ? ok() : failure(error));
    return true;
  });
  for (auto& [answer, json] : answers) answer(json);
}

void Host::report_rest(const std::string& name) {
  const auto status = supervisor_->known_status(name);
  if (status && at_rest(status->state)) rest_if_settled(name);
}

// Tells that a service came to rest once its incident says all that it will say.
void Host::rest_if_settled(const std::string& name) {
  const auto found = services_.find(name);
  if (found == services_.end() || found->second.rest_timer != 0) return;
  found->second.rest_timer = loop_.run_after(kRestPoll, [this, name] {
    const auto still = services_.find(name);
    if (still == services_.end()) return;
    still->second.rest_timer = 0;
    const auto status = supervisor_->known_status(name);
    if (!status || !at_rest(status->state)) return;
    if (!recorder_->settled(name)) return rest_if_settled(name);
    const ServiceState state = status->state;
    if (still->second.leaving) remove(name);
    if (options_.on_rest) options_.on_rest(name, state);
  });
}

void Host::started(const process::StartInfo& info) {
  obs::log(obs::Level::kInfo, kComponent, "service started",
           {{"service", info.service}, {"pid", info.pid}});
  metrics_->started(info);
  keep_samples(info.service, info.pid, info.generation);
  // Said once, not again at each restart.
  const auto status = supervisor_ && !info.automatic ? supervisor_->known_status(info.service)
                                                     : Result<process::ServiceStatus>({});
  if (status && status->agent.starts_with("not covered")) {
    obs::log(obs::Level::kWarning, kComponent, "the agent cannot be preloaded",
             {{"service", info.service}, {"agent", status->agent}});
  }
  recorder_->started(info);
  keep_run(info.service, info.pid, info.generation);
  if (options_.on_started) options_.on_started(info.service);
  const auto found = services_.find(info.service);
  if (found != services_.end() && found->second.sensors) {
    found->second.sensors->started(info.pid, false);
  }
  answer_waiting(info.service);
}

void Host::start_failed(const std::string& service, const Error& error) {
  metrics_->start_failed(service);
  recorder_->start_failed(service, error);
}

void Host::exited(const process::ExitReport& report) {
  if (samples_) samples_->forget(report.service, report.generation);
  metrics_->exited(report, classify_exit(exit_facts(report, {})).cause);
  recorder_->exited(report);
  runs_->ended(
      report.service, report.generation,
      (report.clean || report.status.success()) && report.reason == process::StopReason::kNone);
  const auto found = services_.find(report.service);
  if (found == services_.end()) return;
  if (found->second.sensors) found->second.sensors->exited(report);
  tell_how_it_stopped(found->second.config.spec, report);
}

// A stop on request is no incident; that it took force, its operator should know.
void Host::tell_how_it_stopped(const process::ServiceSpec& spec,
                               const process::ExitReport& report) {
  const bool forced = report.reason == process::StopReason::kRequested && report.status.known &&
                      report.status.signal == SIGKILL;
  const std::vector<process::StopStep> steps = process::stop_steps(spec);
  if (!forced || steps.back().signal == SIGKILL) return;
  std::string asked;
  for (const process::StopStep& step : steps) {
    asked += fmt::format("{}{} for {}", asked.empty() ? "" : ", ", os::signal_name(step.signal),
                         os::format_duration(step.wait));
  }
  obs::log(obs::Level::kWarning, kComponent, "the service did not end when asked, and was killed",
           {{"service", spec.name},
            {"pid", report.pid},
            {"asked", asked},
            {"try", "let it end at that signal, or give it longer with stop_timeout"}});
}

void Host::dying(const process::DyingReport& report) {
  recorder_->dying(report);
}

void Host::standby_started(const process::StartInfo& info) {
  obs::log(obs::Level::kInfo, kComponent, "standby started",
           {{"service", info.service}, {"pid", info.pid}});
}

void Host::standby_exited(const process::ExitReport& report) {
  obs::log(
      obs::Level::kInfo, kComponent, "the standby ended",
      {{"service", report.service}, {"pid", report.pid}, {"status", report.status.to_string()}});
}

// No incident: the service itself has not failed. What it lost is told, and stands in the status.
void Host::standby_lost(const std::string& service, const Error& error) {
  obs::log(obs::Level::kWarning, kComponent, "the service has no standby that is ready",
           {{"service", service}, {"error", error}, {"try", error.suggested_action()}});
  tell(standby_lost_event(service, error));
}

void Host::promoted(const process::PromotionReport& report) {
  obs::log(obs::Level::kWarning, kComponent, "the standby is active now",
           {{"service", report.service}, {"pid", report.pid}});
  metrics_->promoted(report);
  recorder_->promoted(report);
  keep_samples(report.service, report.pid, report.generation);
  keep_run(report.service, report.pid, report.generation);
  const auto found = services_.find(report.service);
  // The process that is watched from now on is the one that stood by.
  if (found != services_.end() && found->second.sensors) {
    found->second.sensors->started(report.pid, false);
  }
  answer_waiting(report.service);
}

void Host::captured(const process::CaptureReport& report) {
  recorder_->captured(report);
}
void Host::hung(const process::HangReport& report) {
  metrics_->hung(report);
  recorder_->hung(report);
}
void Host::heartbeat_held(const process::HangReport& report) {
  obs::log(obs::Level::kWarning, kComponent, "the service is silent, and does not hang",
           {{"service", report.service},
            {"stage", report.stage},
            {"silent", os::format_duration(report.silent_for)},
            {"verdict", process::explain_briefly(report.decision)}});
}
void Host::limit_exceeded(const process::LimitReport& report) {
  metrics_->limit_exceeded(report);
  recorder_->limit_exceeded(report);
}
void Host::limit_cleared(const process::LimitReport& report) {
  recorder_->limit_cleared(report);
}
void Host::out_of_memory(const std::string& service, std::uint64_t kills) {
  recorder_->out_of_memory(service, kills);
}
void Host::ready(const std::string& service) {
  recorder_->ready(service);
}

void Host::hook_finished(const process::HookReport& report) {
  recorder_->hook_finished(report);
  if (report.ok) return;
  obs::log(obs::Level::kWarning, kComponent, "a hook failed",
           {{"service", report.service}, {"hook", report.hook}, {"error", *report.error}});
}
void Host::oom_killed(const process::OomReport& report) {
  recorder_->oom_killed(report);
  obs::log(obs::Level::kWarning, kComponent, "the kernel killed a part of the service for memory",
           {{"service", report.service}, {"kills", report.kills}, {"limit", report.limit_bytes}});
}
void Host::warned(const std::string& service, const Error& warning, bool asked_for) {
  obs::log(asked_for ? obs::Level::kWarning : obs::Level::kInfo, kComponent,
           "the system refuses a part of the service's setting",
           {{"service", service}, {"error", warning}});
}

void Host::state_changed(const std::string& service, ServiceState from, ServiceState to) {
  obs::log(obs::Level::kDebug, kComponent, "state changed",
           {{"service", service}, {"from", to_string(from)}, {"to", to_string(to)}});
  recorder_->state_changed(service, from, to);
  // The supervisor is in the middle of the change: look at it when it is done.
  loop_.post([this, service, alive = std::weak_ptr<int>(alive_)] {
    if (alive.expired()) return;
    note_ready(service);
    follow_order();
    answer_waiting(service);
    // Who waits for this one may be told that it does not come.
    for (const std::string& other : order().behind(service)) answer_waiting(other);
  });
  if (at_rest(to)) rest_if_settled(service);
}

void Host::notified(const process::NotifyEvent& event) {
  recorder_->notified(event);
}

void Host::log(const std::string& service, int stream, std::string_view bytes, std::uint64_t lost) {
  const auto found = services_.find(service);
  if (found != services_.end() && found->second.sensors) {
    found->second.sensors->log(stream, bytes, lost);
  }
}

void Host::crash_loop(const std::string& service, const Error& error) {
  metrics_->crash_loop(service);
  recorder_->crash_loop(service, error);
}

void Host::slow_lane(const std::string& service, const Error& error, os::Duration delay) {
  metrics_->slow_lane(service);
  recorder_->slow_lane(service, error, delay);
}

void Host::trouble(const std::string& service, const Error& error) {
  obs::log(obs::Level::kError, kComponent, "the service goes on, but not all is well",
           {{"service", service}, {"error", error}});
}

void Host::adopted(const std::string& service, pid_t pid, std::uint64_t generation) {
  obs::log(obs::Level::kInfo, kComponent, "a running service was taken over",
           {{"service", service}, {"pid", pid}});
  metrics_->adopted(service);
  keep_samples(service, pid, generation);
  keep_run(service, pid, generation);
  const auto status = supervisor_->status(service);
  recorder_->adopted(service, pid, generation, status ? status->started_mono_ns : 0);
}

void Host::shim_replaced(const std::string& service, pid_t old_shim, pid_t new_shim) {
  obs::log(obs::Level::kWarning, kComponent, "a shim died and was replaced; the service went on",
           {{"service", service}, {"old", old_shim}, {"new", new_shim}});
  metrics_->shim_replaced(service);
  tell(shim_lost_event(service, fmt::format("pid {}, now {}", old_shim, new_shim)));
}

}  // namespace defib::daemon
