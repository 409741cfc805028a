#include "defib/process/recovery_manager.h"

#include <fmt/core.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <thread>

#include "defib/obs/log.h"

namespace defib::process {
namespace {

constexpr std::string_view kComponent = "recovery";
constexpr std::size_t kMaxOperations = 256;  // counted by name; more share "(other)"
constexpr std::size_t kMaxReasonBytes = 512;
// Failures beyond so many a second are counted, and the next one that is told names how many.
constexpr int kMaxToldPerSecond = 20;
constexpr os::Duration kSampleAge = std::chrono::seconds(1);
constexpr os::Duration kSaveErrorAgain = std::chrono::minutes(1);
constexpr os::Duration kMainDeadline = std::chrono::seconds(10);

constexpr std::array<std::string_view, 12> kOwnFields = {"timestamp",
                                                         "status",
                                                         "uptime",
                                                         "memory_usage",
                                                         "cpu_usage",
                                                         "active_connections",
                                                         "active_positions",
                                                         "last_error",
                                                         "restart_count",
                                                         "max_restarts",
                                                         "recovery_attempts",
                                                         "max_recovery_attempts"};

std::string cut(std::string_view text, std::size_t size) {
  return std::string(text.substr(0, size));
}

double seconds(std::int64_t ns) {
  const std::int64_t milliseconds = ns / 1'000'000;
  return static_cast<double>(milliseconds) / 1000.0;
}

// What the scopes of this thread have handled, so that an outer one does not recover again.
struct ThreadScopes {
  int depth = 0;
  std::exception_ptr handled;
  const void* manager = nullptr;
  std::optional<Error> error;  // what the inner scope made of it
};
thread_local ThreadScopes scopes;

std::atomic<std::uint64_t> next_manager{1};

}  // namespace

RecoveryManager::Scope::Scope() {
  ++scopes.depth;
}
RecoveryManager::Scope::~Scope() {
  if (--scopes.depth == 0) scopes = ThreadScopes();
}

Result<> validate(const RecoveryOptions& options) {
  constexpr os::Duration kNone{0};
  const auto bad = [](std::string_view name, std::string_view rule) {
    return Error(Code::kConfigBadValue, fmt::format("{} must be {}", name, rule))
        .with("field", name);
  };
  if (options.max_restarts < 0) return bad("max_restarts", "0 or more");
  if (options.max_recovery_attempts < 0) return bad("max_recovery_attempts", "0 or more");
  if (options.restart_delay < kNone) return bad("restart_delay", "0 or more");
  if (options.callback_timeout <= kNone) return bad("callback_timeout", "more than 0");
  if (options.attempt_delay < kNone) return bad("attempt_delay", "0 or more");
  if (options.attempts_reset_after < kNone) return bad("attempts_reset_after", "0 or more");
  if (options.state_file.find('\0') != std::string::npos) {
    return bad("state_file", "a path without a zero byte");
  }
  HealthOptions health = options.health;
  health.interval = options.health_check_interval;
  if (auto valid = validate(health); !valid) {
    if (valid.error().field("field") == "interval") {
      return bad("health_check_interval", "10ms or more");
    }
    return valid;
  }
  return {};
}

wire::Json to_json(const FailureRecord& record) {
  return wire::Json::object({{"failure", record.number},
                             {"operation", record.operation},
                             {"what", record.what},
                             {"type", record.type},
                             {"at", os::format_time(record.at_wall_ns)},
                             {"tid", record.tid},
                             {"thread", record.thread},
                             {"count", record.count}});
}

bool was_recovered(const Error& error) {
  for (const Error* one = &error; one != nullptr; one = one->cause()) {
    const std::string_view recovered = one->field("recovered");
    if (!recovered.empty()) return recovered == "true";
  }
  return false;
}

struct RecoveryManager::Core {
  // One recovery, and those who wait for it.
  struct Flight {
    bool forced = false;
    bool done = false;
    std::string reason;
    Result<> outcome;
  };

  Core(RecoveryOptions the_options, Agent the_agent)
      : options(std::move(the_options)),
        files(options.files != nullptr ? *options.files : os::real_files()),
        clock(options.clock != nullptr ? *options.clock : os::real_clock()),
        agent(the_agent),
        recoveries(this),
        cleanups(this),
        sampler({.disk_path = options.health.disk_path, .root = {}}, os::real_files(), clock) {
    started_mono_ns = clock.mono_ns();
  }

  Result<> open();
  void restore();
  FailureRecord record(std::string_view operation, std::string what, std::string type);
  void tell(const FailureRecord& failure);
  Error handle(std::string_view operation, std::string what, std::string type, Error error);
  Result<> recover(const std::string& reason, bool forced);
  Result<> fly(Flight& flight);
  Result<> attempt(const Flight& flight, int number);
  Result<> cleanup(const std::string& reason, bool again);
  void on_crossing(const HealthCrossing& crossing);
  void told_failure(std::string_view kind, const CallbackFailure& failure);
  Result<SystemSample> sample();
  wire::Json value();
  Result<> save(bool stopped = false);
  void note_save(const Result<>& saved);
  void set_status(std::string_view word) {
    const std::lock_guard lock(mutex);
    status = word;
  }
  void event(std::string_view name, const wire::Json& fields) {
    wire::Json all = wire::Json::object({{"event", name}});
    for (const auto& [key, member] : fields.members()) all.set(key, member);
    agent.event(all);
  }

  const RecoveryOptions options;
  os::Files& files;
  const os::Clock& clock;
  Agent agent;
  const pid_t owner = ::getpid();
  const std::uint64_t id = next_manager.fetch_add(1);
  std::int64_t started_mono_ns = 0;

  std::optional<Shutdown> signals;
  std::atomic<bool> stop_requested{false};
  std::atomic<bool> stopping{false};
  std::condition_variable stop_wake;  // with `mutex`

  mutable std::mutex mutex;  // guards what follows
  std::string status = "starting";
  std::int64_t active_connections = 0, active_positions = 0;
  std::vector<std::pair<std::string, wire::Json>> own_fields;
  std::optional<std::string> last_error;
  std::map<std::string, std::uint64_t, std::less<>> counts;
  std::deque<FailureRecord> kept;
  std::uint64_t failures = 0;
  int attempts = 0;
  int restart_count = 0;
  std::int64_t last_failure_mono_ns = 0;
  std::int64_t told_since_mono_ns = 0;
  int told = 0;
  std::uint64_t untold = 0;

  std::mutex flight_mutex;  // guards the two; never held while a callback runs
  std::condition_variable flight_ended;
  std::shared_ptr<Flight> running, next;

  std::mutex cleanup_mutex;   // held over a clean-up
  std::mutex shutdown_mutex;  // held over shutdown()
  std::optional<Result<>> shut_down;

  std::mutex save_mutex;  // guards what follows, and orders the writes
  std::optional<PersistedState> persisted;
  bool save_failing = false;
  std::int64_t save_told_mono_ns = 0;

  std::mutex sample_mutex;  // guards what follows
  std::optional<SystemSample> sampled;
  std::int64_t sampled_mono_ns = 0;

  CallbackList recoveries, cleanups;
  SystemSampler sampler;  // guarded by sample_mutex
  wire::Json restored;
  RestartReport restart;

  std::int64_t watchdog_ns = 0;  // half of WATCHDOG_USEC, where beats go by message; 0: they do not
  std::atomic<std::int64_t> watchdog_beat_ns{0};
  Heartbeat main_stage;
  std::unique_ptr<HealthMonitor> health;  // last: its thread uses the rest
};

Result<> RecoveryManager::Core::open() {
  if (options.handle_signals) {
    DEFIB_TRY_ASSIGN(signals, Shutdown::watch());
  }
  restore();
  HealthOptions watched = options.health;
  watched.interval = options.health_check_interval;
  DEFIB_TRY_ASSIGN(health, HealthMonitor::create(watched, [this] { return sample(); }));
  health->on_crossing([this](const HealthCrossing& crossing) { on_crossing(crossing); });
  main_stage = agent.stage("main", kMainDeadline);
  if (!main_stage.watched()) watchdog_ns = agent.watchdog_interval().count() / 2;
  // Unclean from now on, until shutdown() says otherwise.
  static_cast<void>(save().has_value());
  if (options.monitor_thread) DEFIB_TRY(health->start());
  return {};
}

void RecoveryManager::Core::restore() {
  if (options.state_file.empty()) return;
  auto opened = PersistedState::open_or_set_aside(files, options.state_file);
  if (!opened.damage) {
    obs::log(obs::Level::kError, kComponent, "the persisted state was not restored",
             {{"error", opened.damage.error()},
              {"set_aside", opened.damage.error().field("set_aside")}});
    event("state_damaged",
          wire::Json::object({{"what", opened.damage.error().to_line()},
                              {"set_aside", opened.damage.error().field("set_aside")}}));
  }
  restored = opened.state.value();
  const bool clean = opened.state.stopped_cleanly();
  const std::int64_t saved_wall_ns = opened.state.saved_wall_ns();
  persisted = std::move(opened.state);
  if (!restored.is_object()) return;

  restart.first_start = false;
  restart.unclean = !clean;
  const std::int64_t before =
      std::clamp<std::int64_t>(restored["restart_count"].as_int(), 0, 1 << 30);
  restart_count = clean ? 0 : static_cast<int>(before) + 1;
  restart.restart_count = restart_count;
  restart.limit_reached = restart_count > options.max_restarts;
  // As a supervisor does: the first restart is at once, each further one waits.
  if (restart_count > 1 && !agent.attached() && saved_wall_ns >= 0) {
    const std::int64_t gone = std::max<std::int64_t>(clock.wall_ns() - saved_wall_ns, 0);
    restart.wait = std::max(os::Duration(options.restart_delay.count() - gone), os::Duration(0));
  }
  active_positions = restored["active_positions"].as_int();
  if (restored["last_error"].is_string()) last_error = restored["last_error"].as_string();
  // A new process always has an attempt left: used-up attempts must not disarm it for ever.
  const std::int64_t used = restored["recovery_attempts"].as_int();
  attempts = static_cast<int>(
      std::clamp<std::int64_t>(used, 0, std::max(options.max_recovery_attempts - 1, 0)));
  for (const auto& [name, member] : restored.members()) {
    if (std::ranges::find(kOwnFields, name) == kOwnFields.end())
      own_fields.emplace_back(name, member);
  }
  if (!restart.unclean) return;
  obs::log(obs::Level::kWarning, kComponent, "the process before did not stop on purpose",
           {{"restart_count", restart_count}, {"max_restarts", options.max_restarts}});
  if (restart.limit_reached) {
    status = "degraded";
    obs::log(obs::Level::kError, kComponent, "more restarts than allowed; a human must look",
             {{"restart_count", restart_count}, {"last_error", last_error.value_or("")}});
    event("restart_limit_reached", wire::Json::object({{"restart_count", restart_count},
                                                       {"max_restarts", options.max_restarts}}));
  }
}

FailureRecord RecoveryManager::Core::record(std::string_view operation, std::string what,
                                            std::string type) {
  FailureRecord failure;
  failure.operation = operation;
  failure.what = std::move(what);
  failure.type = std::move(type);
  failure.at_wall_ns = clock.wall_ns();
  failure.tid = static_cast<int>(::syscall(SYS_gettid));
  char name[32] = {};
  if (pthread_getname_np(pthread_self(), name, sizeof name) == 0) failure.thread = name;
  const std::lock_guard lock(mutex);
  failure.number = ++failures;
  const bool known = counts.size() < kMaxOperations || counts.contains(operation);
  failure.count = ++counts[std::string(known ? operation : "(other)")];
  last_error = fmt::format("{}: {}: {}", failure.operation, failure.type, failure.what);
  const std::int64_t now = clock.mono_ns();
  // A long time without one: what was tried then says nothing about now.
  if (last_failure_mono_ns != 0 && options.attempts_reset_after.count() > 0 &&
      now - last_failure_mono_ns > options.attempts_reset_after.count()) {
    attempts = 0;
  }
  last_failure_mono_ns = now;
  kept.push_back(failure);
  if (kept.size() > kKeptFailures) kept.pop_front();
  return failure;
}

// To the log and to the supervisor, but no flood of either.
void RecoveryManager::Core::tell(const FailureRecord& failure) {
  std::uint64_t left_out = 0;
  {
    const std::lock_guard lock(mutex);
    const std::int64_t now = clock.mono_ns();
    if (now - told_since_mono_ns >= 1'000'000'000 || told_since_mono_ns == 0) {
      told_since_mono_ns = now;
      told = 0;
    }
    if (++told > kMaxToldPerSecond) {
      ++untold;
      return;
    }
    left_out = std::exchange(untold, 0);
  }
  obs::log(obs::Level::kError, kComponent, "an operation failed",
           {{"operation", failure.operation},
            {"type", failure.type},
            {"what", failure.what},
            {"thread", failure.thread},
            {"tid", failure.tid},
            {"count", failure.count},
            {"failure", failure.number},
            {"not_told", left_out}});
  wire::Json fields = to_json(failure);
  // "at" is the recorder's own word in an incident's line.
  wire::Json said = wire::Json::object({});
  for (const auto& [key, member] : fields.members()) {
    said.set(key == "at" ? "failed_at" : key, member);
  }
  if (left_out > 0) said.set("not_told", left_out);
  event("operation_failed", said);
}

Error RecoveryManager::Core::handle(std::string_view operation, std::string what, std::string type,
                                    Error error) {
  const FailureRecord failure = record(operation, std::move(what), std::move(type));
  tell(failure);
  const std::string reason =
      cut(fmt::format("{}: {}", failure.operation, failure.what), kMaxReasonBytes);
  auto recovered = recover(reason, false);
  error = std::move(error)
              .with("operation", failure.operation)
              .with("type", failure.type)
              .with("failure", fmt::format("{}-{}", id, failure.number))
              .with("recovered", recovered ? "true" : "false");
  if (!recovered) error = std::move(error).with("recovery", recovered.error().to_line());
  return error;
}

// Joins the recovery that begins next, or makes it.
Result<> RecoveryManager::Core::recover(const std::string& reason, bool forced) {
  if (in_callback_of(this)) {
    return Error(Code::kUnavailable, "a recovery or clean-up callback runs in this thread");
  }
  if (stopping.load()) return Error(Code::kCancelled, "the service is shutting down");
  if (recoveries.empty()) {
    static_cast<void>(save().has_value());
    return Error(Code::kNotFound, "no recovery callback is registered");
  }
  std::unique_lock lock(flight_mutex);
  std::shared_ptr<Flight> flight;
  if (running == nullptr && next == nullptr) {
    flight = std::make_shared<Flight>();
  } else {
    if (next == nullptr) next = std::make_shared<Flight>();
    flight = next;
  }
  flight->forced |= forced;
  if (flight->reason.empty()) flight->reason = reason;
  if (flight == next) {
    flight_ended.wait(lock, [&] { return flight->done || (running == nullptr && next == flight); });
    if (flight->done) return flight->outcome;
    next = nullptr;  // Ours to make.
  }
  running = flight;
  lock.unlock();
  Result<> outcome = fly(*flight);
  lock.lock();
  flight->outcome = outcome;
  flight->done = true;
  running = nullptr;
  flight_ended.notify_all();
  return outcome;
}

Result<> RecoveryManager::Core::fly(Flight& flight) {
  int limit = options.max_recovery_attempts;
  if (flight.forced) {
    limit = std::max(limit, 1);
    const std::lock_guard lock(mutex);
    attempts = 0;
  }
  const auto used = [this] {
    const std::lock_guard lock(mutex);
    return attempts;
  };
  if (used() >= limit) {
    set_status("degraded");
    static_cast<void>(save().has_value());
    return Error(Code::kBudgetExhausted, fmt::format("all {} recovery attempts are used up", limit))
        .suggest("cure the cause, then force a recovery or restart the service");
  }
  set_status("recovering");
  agent.state("recovering");
  obs::log(obs::Level::kWarning, kComponent, "recovery begins",
           {{"reason", flight.reason}, {"forced", flight.forced}});
  event("recovery_started",
        wire::Json::object({{"reason", flight.reason}, {"forced", flight.forced}}));
  Result<> outcome;
  while (true) {
    int number = 0;
    {
      const std::lock_guard lock(mutex);
      number = ++attempts;
    }
    // Before the callbacks: should one end the process, the next process knows of the attempt.
    static_cast<void>(save().has_value());
    outcome = attempt(flight, number);
    if (outcome || stopping.load() || number >= limit) break;
    clock.sleep_for(options.attempt_delay);
    if (stopping.load()) break;
  }
  {
    const std::lock_guard lock(mutex);
    status = outcome ? "running" : "degraded";
    if (outcome) {
      last_error.reset();
      attempts = 0;
    }
  }
  static_cast<void>(save().has_value());
  agent.state(outcome ? "running" : "degraded");
  if (outcome) {
    obs::log(obs::Level::kWarning, kComponent, "recovered", {{"reason", flight.reason}});
    event("recovery_closed", wire::Json::object({{"outcome", "recovered"}}));
    return {};
  }
  obs::log(obs::Level::kError, kComponent, "the recovery failed",
           {{"reason", flight.reason}, {"attempts", used()}, {"error", outcome.error()}});
  event("recovery_failed",
        wire::Json::object({{"attempts", used()}, {"what", outcome.error().to_line()}}));
  return Error(Code::kStageFailed, fmt::format("the recovery failed after {} attempts", used()))
      .because(std::move(outcome.error()));
}

Result<> RecoveryManager::Core::attempt(const Flight& flight, int number) {
  CallbackList::Run run;
  run.reason = flight.reason;
  run.attempt = number;
  run.interrupted = [this] { return stopping.load(); };
  run.failed = [this](const CallbackFailure& failure) { told_failure("recovery", failure); };
  return recoveries.run(run);
}

void RecoveryManager::Core::told_failure(std::string_view kind, const CallbackFailure& failure) {
  const std::string operation = fmt::format("{} callback '{}'", kind, failure.name);
  const Error* cause = failure.error.cause();
  const std::string_view thrown = cause != nullptr ? cause->field("type") : std::string_view();
  tell(record(operation, failure.error.to_line(),
              std::string(thrown.empty() ? failure.error.kind() : thrown)));
}

Result<> RecoveryManager::Core::cleanup(const std::string& reason, bool again) {
  if (in_callback_of(this)) {
    return Error(Code::kUnavailable, "a recovery or clean-up callback runs in this thread");
  }
  const std::lock_guard one(cleanup_mutex);
  CallbackList::Run run;
  run.reason = reason;
  run.reverse = true;
  run.skip_succeeded = !again;
  run.failed = [this](const CallbackFailure& failure) { told_failure("clean-up", failure); };
  return cleanups.run(run);
}

void RecoveryManager::Core::on_crossing(const HealthCrossing& crossing) {
  obs::log(crossing.alarmed ? obs::Level::kWarning : obs::Level::kInfo, kComponent,
           crossing.alarmed ? "a resource runs short" : "a resource is well again",
           {{"resource", to_string(crossing.resource)},
            {"percent", crossing.percent},
            {"threshold", crossing.threshold}});
  event(crossing.alarmed ? "resource_short" : "resource_well",
        wire::Json::object({{"resource", to_string(crossing.resource)},
                            {"percent", crossing.percent},
                            {"threshold", crossing.threshold}}));
  static_cast<void>(save().has_value());
}

Result<SystemSample> RecoveryManager::Core::sample() {
  const std::lock_guard lock(sample_mutex);
  const std::int64_t now = clock.mono_ns();
  if (sampled && now - sampled_mono_ns < kSampleAge.count()) return *sampled;
  DEFIB_TRY_ASSIGN(sampled, sampler.sample());
  sampled_mono_ns = now;
  return *sampled;
}

wire::Json RecoveryManager::Core::value() {
  const SystemSample now = sample().value_or(SystemSample());
  const bool short_of = health != nullptr && !health->healthy();
  const std::lock_guard lock(mutex);
  const std::string word = status == "running" && short_of ? "degraded" : status;
  wire::Json all = wire::Json::object({
      {"timestamp", os::format_time(clock.wall_ns())},
      {"status", word},
      {"uptime", seconds(clock.mono_ns() - started_mono_ns)},
      {"memory_usage", static_cast<double>(now.rss_bytes) / (1 << 20)},
      {"cpu_usage", now.cpu_percent},
      {"active_connections", active_connections},
      {"active_positions", active_positions},
      {"last_error", last_error ? wire::Json(*last_error) : wire::Json()},
      {"restart_count", restart_count},
      {"max_restarts", options.max_restarts},
      {"recovery_attempts", attempts},
      {"max_recovery_attempts", options.max_recovery_attempts},
  });
  for (const auto& [name, member] : own_fields) all.set(name, member);
  return all;
}

Result<> RecoveryManager::Core::save(bool stopped) {
  const std::lock_guard lock(save_mutex);
  if (!persisted) return {};
  if (::getpid() != owner) {
    return Error(Code::kUnavailable, "a forked child does not save the state of its parent");
  }
  wire::Json now = value();
  auto saved = stopped ? persisted->save_stopped(std::move(now), clock)
                       : persisted->save(std::move(now), clock);
  note_save(saved);
  return saved;
}

void RecoveryManager::Core::note_save(const Result<>& saved) {
  const std::int64_t now = clock.mono_ns();
  if (saved) {
    if (std::exchange(save_failing, false)) {
      obs::log(obs::Level::kWarning, kComponent, "the state can be saved again",
               {{"path", options.state_file}});
    }
    return;
  }
  const bool again = save_failing && now - save_told_mono_ns < kSaveErrorAgain.count();
  save_failing = true;
  if (again) return;
  save_told_mono_ns = now;
  obs::log(obs::Level::kError, kComponent, "the state cannot be saved; the service goes on",
           {{"path", options.state_file}, {"error", saved.error()}});
  event("state_not_saved", wire::Json::object({{"what", saved.error().to_line()}}));
}

RecoveryManager::RecoveryManager(std::unique_ptr<Core> core) : core_(std::move(core)) {}

Result<std::unique_ptr<RecoveryManager>> RecoveryManager::create(RecoveryOptions options,
                                                                 Agent agent) {
  DEFIB_TRY(validate(options));
  auto core = std::make_unique<Core>(std::move(options), agent);
  DEFIB_TRY(core->open());
  return std::unique_ptr<RecoveryManager>(new RecoveryManager(std::move(core)));
}

RecoveryManager::~RecoveryManager() {
  core_->stopping.store(true);
  core_->recoveries.request_stop();
  core_->cleanups.request_stop();
  core_->health->stop();
  {
    std::unique_lock lock(core_->flight_mutex);
    core_->flight_ended.wait(lock, [&] { return core_->running == nullptr; });
  }
  if (!wait_for_overruns(kGrace)) {
    obs::log(obs::Level::kError, kComponent,
             "callbacks that overran still run; they are left alone", {{"callbacks", overruns()}});
  }
}

Error RecoveryManager::failed(std::string_view operation, const Error& error) {
  const std::string own = fmt::format("{}-", core_->id);
  for (const Error* one = &error; one != nullptr; one = one->cause()) {
    if (one->field("failure").starts_with(own)) return error;  // An inner scope did it all.
  }
  Error told =
      Error(error.code(), fmt::format("the operation '{}' failed: {}", operation, error.message()))
          .because(error);
  return core_->handle(operation, error.to_line(), std::string(error.kind()), std::move(told));
}

Error RecoveryManager::failed(std::string_view operation, std::exception_ptr thrown) {
  if (scopes.manager == core_.get() && scopes.handled == thrown && scopes.error) {
    return *scopes.error;
  }
  const ExceptionText text = describe(thrown);
  Error told = Error(Code::kCallbackThrew, fmt::format("the operation '{}' threw {}: {}", operation,
                                                       text.type, text.what))
                   .suggest("see the recovery's outcome in this error's fields");
  told = core_->handle(operation, text.what, text.type, std::move(told));
  scopes.handled = std::move(thrown);
  scopes.manager = core_.get();
  scopes.error = told;
  return told;
}

void RecoveryManager::add(Kind kind, std::string name, RecoveryCallback callback,
                          os::Duration timeout) {
  if (timeout.count() <= 0) timeout = core_->options.callback_timeout;
  (kind == Kind::kRecovery ? core_->recoveries : core_->cleanups)
      .add(std::move(name), std::move(callback), timeout);
}

Result<> RecoveryManager::force_recovery(std::string_view reason) {
  return core_->recover(cut(reason, kMaxReasonBytes), true);
}

Result<> RecoveryManager::run_cleanup(bool again) {
  return core_->cleanup("by request", again);
}

Result<> RecoveryManager::shutdown(std::string_view reason) {
  if (in_callback_of(core_.get())) {
    request_shutdown();
    return Error(Code::kUnavailable,
                 "a callback asked for the shutdown; the service's loop does it");
  }
  const std::lock_guard one(core_->shutdown_mutex);
  if (core_->shut_down) return *core_->shut_down;
  core_->stop_requested.store(true);
  core_->stopping.store(true);
  core_->set_status("stopping");
  core_->agent.stopping();
  core_->agent.status(fmt::format("stopping: {}", reason));
  obs::log(obs::Level::kInfo, kComponent, "shutting down", {{"reason", reason}});
  core_->recoveries.request_stop();
  {
    // Bounded by the timeout of the callback that runs.
    std::unique_lock lock(core_->flight_mutex);
    core_->flight_ended.wait(lock, [&] { return core_->running == nullptr; });
  }
  Result<> outcome = core_->cleanup(cut(reason, kMaxReasonBytes), false);
  core_->health->stop();
  {
    const std::lock_guard lock(core_->mutex);
    core_->status = "stopped";
    core_->restart_count = 0;
    core_->active_connections = 0;
  }
  auto saved = core_->save(true);
  if (outcome && !saved) outcome = std::move(saved);
  core_->shut_down = outcome;
  return outcome;
}

bool RecoveryManager::shutdown_requested() const {
  return core_->stop_requested.load() || (core_->signals && core_->signals->requested());
}

bool RecoveryManager::wait_for_shutdown(os::Duration time) const {
  if (shutdown_requested()) return true;
  if (core_->signals) {
    core_->signals->wait_for(time);
  } else {
    std::unique_lock lock(core_->mutex);
    core_->stop_wake.wait_for(lock, time, [&] { return core_->stop_requested.load(); });
  }
  return shutdown_requested();
}

void RecoveryManager::request_shutdown() {
  core_->stop_requested.store(true);
  if (core_->signals) core_->signals->request();
  const std::lock_guard lock(core_->mutex);
  core_->stop_wake.notify_all();
}

void RecoveryManager::ready() {
  {
    const std::lock_guard lock(core_->mutex);
    if (core_->status == "starting") core_->status = "running";
  }
  core_->agent.ready();
}

void RecoveryManager::set_status(std::string_view status) {
  core_->set_status(cut(status, 64));
}

std::string RecoveryManager::status() const {
  const std::lock_guard lock(core_->mutex);
  return core_->status;
}

void RecoveryManager::set_active_connections(std::int64_t count) {
  const std::lock_guard lock(core_->mutex);
  core_->active_connections = count;
}

void RecoveryManager::set_active_positions(std::int64_t count) {
  const std::lock_guard lock(core_->mutex);
  core_->active_positions = count;
}

Result<> RecoveryManager::set(std::string_view name, wire::Json value) {
  if (name.empty() || std::ranges::find(kOwnFields, name) != kOwnFields.end()) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the state's field '{}' is not the service's to "
                             "set",
                             name))
        .suggest("choose another name");
  }
  const std::lock_guard lock(core_->mutex);
  for (auto& [known, held] : core_->own_fields) {
    if (known != name) continue;
    held = std::move(value);
    return {};
  }
  core_->own_fields.emplace_back(name, std::move(value));
  return {};
}

wire::Json RecoveryManager::get(std::string_view name) const {
  const std::lock_guard lock(core_->mutex);
  for (const auto& [known, held] : core_->own_fields) {
    if (known == name) return held;
  }
  return {};
}

void RecoveryManager::beat() {
  core_->main_stage.beat();
  if (core_->watchdog_ns == 0) return;
  const std::int64_t now = core_->clock.mono_ns();
  if (now - core_->watchdog_beat_ns.load(std::memory_order_relaxed) < core_->watchdog_ns) return;
  core_->watchdog_beat_ns.store(now, std::memory_order_relaxed);
  core_->agent.watchdog();
}

Heartbeat RecoveryManager::stage(std::string_view name, os::Duration deadline) {
  return core_->agent.stage(name, deadline);
}

Result<> RecoveryManager::save() {
  return core_->save();
}
wire::Json RecoveryManager::state() const {
  return core_->value();
}
const wire::Json& RecoveryManager::restored() const {
  return core_->restored;
}
const RestartReport& RecoveryManager::restart_report() const {
  return core_->restart;
}

wire::Json RecoveryManager::system_info() {
  const wire::Json state = core_->value();
  wire::Json info = to_json(core_->sample().value_or(SystemSample()), state["status"].as_string(),
                            state["uptime"].as_double());
  for (const std::string_view name : kOwnFields) {
    if (name != "status" && name != "uptime" && name != "memory_usage" && name != "cpu_usage") {
      info.set(name, state[name]);
    }
  }
  return info;
}

HealthMonitor& RecoveryManager::health() {
  return *core_->health;
}

std::vector<FailureRecord> RecoveryManager::failures() const {
  const std::lock_guard lock(core_->mutex);
  return {core_->kept.begin(), core_->kept.end()};
}
std::uint64_t RecoveryManager::failure_count() const {
  const std::lock_guard lock(core_->mutex);
  return core_->failures;
}
int RecoveryManager::recovery_attempts() const {
  const std::lock_guard lock(core_->mutex);
  return core_->attempts;
}

int RecoveryManager::overruns() const {
  return core_->recoveries.overruns() + core_->cleanups.overruns();
}
bool RecoveryManager::wait_for_overruns(os::Duration time) const {
  const std::int64_t until = os::real_clock().mono_ns() + time.count();
  if (!core_->recoveries.wait_for_overruns(time)) return false;
  const os::Duration left(std::max<std::int64_t>(until - os::real_clock().mono_ns(), 0));
  return core_->cleanups.wait_for_overruns(left);
}
Agent& RecoveryManager::agent() {
  return core_->agent;
}

}  // namespace defib::process
