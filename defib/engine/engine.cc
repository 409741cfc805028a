#include "defib/engine/engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <vector>

#include "defib/obs/log.h"
#include "defib/os/files.h"
#include "defib/recovery/policy.h"
#include "defib/store/store.h"
#include "defib/trading/checkpoint.h"
#include "defib/trading/damage.h"
#include "defib/trading/gateway.h"
#include "defib/trading/ids.h"
#include "defib/trading/intents.h"
#include "defib/trading/kill_switch.h"
#include "defib/trading/ledger.h"
#include "defib/trading/recovery_steps.h"

namespace defib::engine {

using trading::TradingRecovery;
using wire::Json;

struct Engine::State {
  State(EngineConfig the_config, process::Agent& the_agent, const os::Clock& the_clock)
      : config(std::move(the_config)), agent(the_agent), clock(the_clock) {}

  EngineConfig config;
  process::Agent& agent;
  const os::Clock& clock;
  FaultInjector faults;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<venue::Venue> venue;
  std::optional<trading::KillSwitch> kill_switch;
  std::optional<trading::IdSource> ids;
  std::unique_ptr<trading::IntentLog> intents;
  std::unique_ptr<trading::Ledger> ledger;
  std::unique_ptr<trading::OrderGateway> gateway;
  std::unique_ptr<TradingRecovery> recovery;
  std::optional<trading::Damage> damage;  // that a person must deal with before anything trades
  std::optional<Error> unreadable;        // the ledger cannot be opened: nothing of it is there
  std::vector<std::unique_ptr<Strategy>> strategies;
  std::map<std::string, venue::Quote> quotes;
  std::string state_word;
  std::set<std::string> killed;  // scopes of kill switches that were met
  bool crashed_before = false;
  bool recovered = false;    // the ten steps ended well at least once
  bool first_order = false;  // reported
  int quote_failures = 0;
  std::size_t sync_turn = 0;
  std::int64_t next_sync = 0;
  std::int64_t next_checkpoint = 0;
  std::int64_t next_recovery = 0;
  std::int64_t next_fault_look = 0;
  std::optional<recovery::Backoff> backoff;

  Result<> open();
  Result<> open_ledger();
  Result<> hold_damaged(const Error& error);
  void event(std::string name, const Json& fields);
  void set_state(const std::string& word);
  void tell_status(std::string_view word);
  std::unique_ptr<TradingRecovery> make_recovery(bool dry_run);
  void try_recovery();
  trading::HealthResult health() const;
  void look_for_fault();
  void tick();
  void read_quotes();
  void run_strategies();
  void run_strategy(Strategy& strategy, const MarketView& market);
  void on_kill_switch(const Error& error);
  void submit(const trading::OrderDraft& draft);
  void sync_in_turn();
  void write_checkpoint();
  void wait_until(std::int64_t next_tick, const process::Shutdown& shutdown);
  Result<> stop();
};

namespace {

constexpr int kQuoteFailuresToDegraded = 3;
constexpr std::size_t kMaxOrdersPerTick = 64;
// How long an event may wait for a supervisor that is behind: the one of a recovery is evidence.
constexpr os::Duration kEventPatience = std::chrono::milliseconds(50);
constexpr os::Duration kRecoveryEventPatience = std::chrono::milliseconds(250);

// Tells the incident about every step as it starts and ends.
class StepReporter final : public recovery::Procedure::Observer {
 public:
  using Sink = std::function<void(std::string, Json)>;
  explicit StepReporter(Sink sink) : sink_(std::move(sink)) {}
  void stage_started(const recovery::StageRecord& stage) override {
    sink_("stage_started", Json::object({{"stage", stage.name}}));
  }
  void stage_finished(const recovery::StageRecord& stage) override {
    Json fields = Json::object({{"stage", stage.name},
                                {"outcome", recovery::to_string(stage.outcome)},
                                {"duration_ns", stage.duration.count()}});
    Json metrics = Json::object();
    for (const auto& [name, value] : stage.metrics) metrics.set(name, value);
    fields.set("metrics", std::move(metrics));
    if (stage.error) fields.set("error", wire::to_json(*stage.error));
    sink_("stage_finished", std::move(fields));
  }

 private:
  Sink sink_;
};

void warn(std::string_view what, const Error& error) {
  obs::log(obs::Level::kWarning, "engine", fmt::format("{}: {}", what, error.to_line()));
}

}  // namespace

Engine::Engine(std::unique_ptr<State> state) : state_(std::move(state)) {}
Engine::~Engine() = default;

Result<std::unique_ptr<Engine>> Engine::create(EngineConfig config, process::Agent& agent,
                                               const os::Clock& clock) {
  auto state = std::make_unique<State>(std::move(config), agent, clock);
  DEFIB_TRY(state->open());
  return std::unique_ptr<Engine>(new Engine(std::move(state)));
}

Result<> Engine::State::open_ledger() {
  store::Options options;
  options.clock = &clock;
  const std::int64_t started = clock.mono_ns();
  const std::string store_dir = trading::trading_store_dir(config.state_dir);
  damage = trading::read_damage(os::real_files(), store_dir);
  DEFIB_TRY_ASSIGN(store, store::Store::open(store_dir, options));
  Json stages = Json::array();
  for (const recovery::StageRecord& stage : store->recovery_result().stages) {
    stages.push(Json::object({{"stage", stage.name},
                              {"outcome", recovery::to_string(stage.outcome)},
                              {"duration_ns", stage.duration.count()}}));
  }
  event("store_recovered",
        Json::object({{"duration_ns", clock.mono_ns() - started}, {"stages", std::move(stages)}}));
  // The epoch comes before everything else: from here on no id of an earlier boot can be reused.
  DEFIB_TRY_ASSIGN(ids,
                   trading::IdSource::begin_boot(*store, clock, config.trading.owner,
                                                 damage ? trading::epoch_after_damage(clock) : 0));
  DEFIB_TRY_ASSIGN(const auto snapshot, store->snapshot());
  DEFIB_TRY_ASSIGN(const auto boots, trading::read_boots(*snapshot, 2));
  crashed_before = boots.size() > 1 && !boots.front().clean;
  DEFIB_TRY_ASSIGN(intents, trading::IntentLog::open(*store, config.trading.intent_durability));
  DEFIB_TRY_ASSIGN(ledger, trading::Ledger::open(*store, *intents));
  return {};
}

Result<> Engine::State::open() {
  set_state("recovering");
  if (config.fault) faults.arm(*config.fault);
  DEFIB_TRY(os::real_files().create_dirs(config.state_dir));
  trading::keep_rates_in(config.state_dir, config.trading);
  DEFIB_TRY_ASSIGN(venue, trading::open_venue(config.trading.venue, &clock,
                                              [this] { faults.reached("request_sent"); }));
  kill_switch.emplace(os::real_files(), clock, config.state_dir);
  DEFIB_TRY(kill_switch->prepare());
  if (Result<> opened = open_ledger(); !opened) {
    if (!trading::is_state_damage(opened.error())) return opened;
    return hold_damaged(opened.error());
  }

  trading::OrderGateway::Parts parts;
  parts.venue = venue.get();
  parts.ledger = ledger.get();
  parts.ids = &*ids;
  parts.clock = &clock;
  parts.limits = config.trading.limits;
  parts.kill_switch = &*kill_switch;
  parts.valuation = config.trading.valuation;
  parts.failure_points = [this](std::string_view point) { faults.reached(point); };
  gateway = std::make_unique<trading::OrderGateway>(std::move(parts));
  for (const std::string& name : config.trading.strategies) {
    StrategyOptions own = config.strategies;
    own.seed += ids->epoch();
    DEFIB_TRY_ASSIGN(auto strategy, make_strategy(name, own));
    strategies.push_back(std::move(strategy));
  }
  recovery::BackoffOptions waits;
  waits.base = config.retry_recovery;
  waits.cap = std::chrono::seconds(30);
  backoff.emplace(waits, os::Random(ids->epoch()));
  return {};
}

// Nothing of the ledger stays open, so that it can be repaired beside the running engine. What is
// decided here stands in an incident of its own; the supervisor may have none open.
Result<> Engine::State::hold_damaged(const Error& error) {
  recovery.reset();
  gateway.reset();
  ledger.reset();
  intents.reset();
  ids.reset();
  store.reset();
  unreadable = error;
  const std::string& dir = config.incident_dir.empty() ? config.state_dir : config.incident_dir;
  os::Files& files = os::real_files();
  DEFIB_TRY_ASSIGN(
      damage, trading::record_damage(files, clock, trading::trading_store_dir(config.state_dir),
                                     dir, error));
  trading::GateEvidence evidence;
  evidence.damage = error.to_line();
  evidence.limits_loaded = config.trading.limits.has_value();
  evidence.start_in_monitoring = config.start_in_monitoring;
  if (config.crash_cause) evidence.crash_cause = config.crash_cause().cause;
  if (const auto engaged = kill_switch->stops(venue->name(), {})) {
    evidence.kill_switch = engaged->scope;
  }
  const auto venue_status = venue->status();
  evidence.venue_status = venue_status ? venue::to_string(*venue_status) : "unreachable";
  DEFIB_TRY_ASSIGN(
      const recovery::Decision decision,
      trading::decide_on_damage(files, clock, *damage, evidence, config.trading.gates));
  event("state_damaged", Json::object({{"error", wire::to_json(error)},
                                       {"incident", damage->incident},
                                       {"decision", decision.to_json()}}));
  set_state("monitoring");
  agent.status(fmt::format("no order leaves: the ledger is damaged (incident {}): {}; {}",
                           damage->incident, error.to_line(), error.suggested_action()));
  obs::log(obs::Level::kError, "engine",
           fmt::format("the ledger is damaged, and nothing trades: {}", error.to_line()),
           {{"incident", damage->incident},
            {"try", fmt::format("{}; put the repaired store in place of {}; restart the engine; "
                                "then `defib checklist --manual {} --by NAME`",
                                error.suggested_action(), damage->store_dir, damage->incident)}});
  agent.ready();
  return {};
}

os::Duration sync_interval(os::Duration wished, const venue::RebuildModel& model) {
  constexpr std::int64_t kShare = 2;  // one part in so many
  // One symbol's open orders alone cost little, where they can be had alone.
  const std::int64_t cost = model.fills_cost + (model.filtered ? 0 : model.orders_cost);
  return std::max(wished, model.limit.per_unit() * kShare * cost);
}

void Engine::State::event(std::string name, const Json& fields) {
  Json line = Json::object({{"event", std::move(name)}});
  for (const Json::Member& member : fields.members()) line.set(member.first, member.second);
  const bool trades = state_word == "running" || state_word == "ramping";
  agent.event(line, trades ? kEventPatience : kRecoveryEventPatience);
}

void Engine::State::set_state(const std::string& word) {
  if (word == state_word) return;
  state_word = word;
  agent.state(word);
  obs::log(obs::Level::kInfo, "engine", fmt::format("state {}", word));
  if (word == "running" && recovered) {
    event("recovery_closed", Json::object({{"outcome", "recovered"}}));
  }
}

// The state in a sentence, for `defib status`; what a person must do is said in the log too.
void Engine::State::tell_status(std::string_view word) {
  if (recovery == nullptr) return;
  const auto& plan = recovery->plan();
  const bool held = word == "monitoring" || word == "awaiting_approval" || word == "stopped";
  const auto closed = held && recovery->decision() ? trading::gate_error(*recovery->decision())
                                                   : std::optional<Error>();
  const bool asks = plan && recovery->outcome() == trading::GateOutcome::kNeedsApproval;
  if (closed && !asks) {
    const std::string text = fmt::format("no order leaves: {}", closed->message());
    agent.status(text);
    obs::log(obs::Level::kWarning, "engine", text, {{"try", closed->suggested_action()}});
    return;
  }
  if (!held || !asks) {
    agent.status(word == "running" ? trading_text(config.trading) : std::string(word));
    return;
  }
  const std::string text = fmt::format("no order leaves until a person approves: {} ({})",
                                       fmt::join(plan->asked_because, ", "), plan->hash());
  agent.status(text);
  obs::log(obs::Level::kWarning, "engine", text,
           {{"try", fmt::format("defib approve {} --by NAME", plan->hash().substr(0, 12))}});
}

std::unique_ptr<TradingRecovery> Engine::State::make_recovery(bool dry_run) {
  TradingRecovery::Parts parts;
  parts.store = store.get();
  parts.venue = venue.get();
  parts.clock = &clock;
  parts.files = &os::real_files();
  parts.state_dir = config.state_dir;
  parts.config = config.trading;
  parts.intents = intents.get();
  parts.ledger = ledger.get();
  parts.ids = &*ids;
  parts.gateway = gateway.get();
  parts.kill_switch = &*kill_switch;
  parts.crash_cause = config.crash_cause;
  parts.damage = damage;
  parts.events = [this](std::string name, const Json& fields, bool) {
    event(std::move(name), fields);
  };
  parts.states = [this](const std::string& word) {
    set_state(word);
    tell_status(word);
  };
  parts.health_checks.push_back([this] { return health(); });
  parts.start_in_monitoring = config.start_in_monitoring;
  parts.dry_run = dry_run;
  return std::make_unique<TradingRecovery>(std::move(parts));
}

void Engine::State::try_recovery() {
  recovery = make_recovery(false);
  StepReporter reporter(
      [this](std::string name, const Json& fields) { event(std::move(name), fields); });
  const recovery::ProcedureResult result = recovery->procedure().execute(clock, &reporter);
  recovered = result.success();
  if (recovered) {
    backoff->reset();
    agent.ready();
    return;
  }
  if (trading::is_state_damage(*result.error)) {
    const auto held = hold_damaged(*result.error);
    if (held) return;
    warn("the damage cannot be recorded", held.error());
  }
  const os::Duration wait = std::max(backoff->next(), config.retry_recovery);
  next_recovery = clock.mono_ns() + wait.count();
  set_state("monitoring");
  agent.status(fmt::format("recovery failed, next attempt in {}: {}", os::format_duration(wait),
                           result.error->message()));
  warn("recovery failed", *result.error);
  agent.ready();  // The process is up; it only does not trade.
}

trading::HealthResult Engine::State::health() const {
  if (quote_failures >= kQuoteFailuresToDegraded) {
    return {false, "market_data",
            fmt::format("{} reads of quotes failed in a row", quote_failures)};
  }
  return {true, "market_data", fmt::format("{} quotes", quotes.size())};
}

void Engine::State::look_for_fault() {
  if (config.fault_file.empty() || clock.mono_ns() < next_fault_look) return;
  next_fault_look = clock.mono_ns() + 20'000'000;
  if (!os::real_files().exists(config.fault_file)) return;
  const auto text = os::read_file(os::real_files(), config.fault_file, 256);
  if (!os::real_files().remove(config.fault_file) || !text) return;  // Another took it.
  const auto plan = parse_fault(*text);
  if (!plan) return warn("fault file", plan.error());
  obs::log(obs::Level::kWarning, "engine",
           fmt::format("drill: will fail by {} at {}", to_string(plan->kind), plan->point));
  faults.arm(*plan);
}

void Engine::State::read_quotes() {
  const auto fresh = venue->quotes();
  if (!fresh) {
    if (++quote_failures == kQuoteFailuresToDegraded) {
      warn("quotes", fresh.error());
      if (state_word == "running") set_state("degraded");
    }
    return;
  }
  if (quote_failures >= kQuoteFailuresToDegraded && state_word == "degraded") set_state("running");
  quote_failures = 0;
  const auto& wanted = config.trading.venue.symbols;
  for (const venue::Quote& quote : *fresh) {
    if (std::ranges::find(wanted, quote.symbol) == wanted.end()) continue;
    gateway->set_mark(quote.symbol, quote.mid());
    quotes[quote.symbol] = quote;
  }
}

// Said once for each scope; whoever engaged it cancels and proves it from outside, and the next
// health check stops the engine's own trading for good where it is more than one strategy.
void Engine::State::on_kill_switch(const Error& error) {
  if (!killed.insert(std::string(error.field("scope"))).second) return;
  event("kill_switch", Json::object({{"scope", error.field("scope")},
                                     {"by", error.field("by")},
                                     {"message", error.message()}}));
  warn("kill switch", error);
}

void Engine::State::submit(const trading::OrderDraft& draft) {
  const auto sent = gateway->submit(draft);
  if (!sent) {
    // A closed permit or a limit is the ramp at work, not a fault.
    const Code code = sent.error().code();
    if (code == Code::kKillSwitchEngaged) return on_kill_switch(sent.error());
    if (code != Code::kTradingHalted && code != Code::kLimitBreached) warn("order", sent.error());
    return;
  }
  if (first_order) return;
  first_order = true;
  event("first_order", Json::object({{"client_id", sent->client_id},
                                     {"symbol", draft.symbol},
                                     {"strategy", draft.strategy},
                                     {"sent_mono_ns", clock.mono_ns()}}));
}

void Engine::State::run_strategy(Strategy& strategy, const MarketView& market) {
  std::vector<const trading::TrackedOrder*> own;
  for (const auto& [key, tracked] : ledger->orders()) {
    if (tracked.strategy == strategy.name() && !tracked.external) own.push_back(&tracked);
  }
  const Wish wish = strategy.on_tick(market, own);
  for (const std::string& id : wish.cancel) {
    const auto cancelled = gateway->cancel(id);
    if (!cancelled && cancelled.error().code() != Code::kOrderNotFound) {
      warn("cancel", cancelled.error());
    }
  }
  const std::size_t count = std::min(wish.place.size(), kMaxOrdersPerTick);
  for (std::size_t i = 0; i < count; ++i) submit(wish.place[i]);
}

void Engine::State::run_strategies() {
  const trading::TradingPermit& permit = gateway->permit();
  if (!permit.open || quote_failures > 0) return;
  const MarketView market = {&quotes, &ledger->instruments(), &ledger->positions(),
                             gateway->venue_now_ms()};
  for (const auto& strategy : strategies) {
    if (strategy->risk() <= permit.max_risk) run_strategy(*strategy, market);
  }
}

void Engine::State::sync_in_turn() {
  const auto& symbols = config.trading.venue.symbols;
  if (symbols.empty() || clock.mono_ns() < next_sync) return;
  next_sync = clock.mono_ns() + sync_interval(config.sync_every, venue->rebuild_model()).count();
  const std::string& symbol = symbols[sync_turn++ % symbols.size()];
  if (const auto changed = gateway->sync_orders(symbol); !changed) warn("sync", changed.error());
}

void Engine::State::write_checkpoint() {
  if (clock.mono_ns() < next_checkpoint) return;
  next_checkpoint = clock.mono_ns() + config.trading.checkpoint_every.count();
  const auto written = trading::write_checkpoint(
      *store,
      trading::make_checkpoint(ledger->view(), gateway->marks(), ids->epoch(), clock.wall_ns(),
                               config.trading.venue.name),
      store::Durability::kProcess);
  if (!written) warn("checkpoint", written.error());
}

void Engine::State::tick() {
  if (unreadable) return;
  look_for_fault();
  faults.reached("tick");
  if (!recovered) {
    if (clock.mono_ns() >= next_recovery) try_recovery();
    return;
  }
  read_quotes();
  if (const auto polled = recovery->poll(); !polled) warn("recovery", polled.error());
  run_strategies();
  sync_in_turn();
  write_checkpoint();
}

Result<> Engine::run(const process::Shutdown& shutdown) {
  State& state = *state_;
  auto heartbeat = state.agent.stage("loop", state.config.heartbeat);
  heartbeat.beat();
  state.event(
      "engine_started",
      Json::object({{"epoch", state.ids ? state.ids->epoch() : 0},
                    {"after_crash", state.crashed_before},
                    {"start_mode", state.config.start_in_monitoring ? "monitoring" : "normal"}}));
  while (!shutdown.requested()) {
    const std::int64_t next = state.clock.mono_ns() + state.config.tick.count();
    heartbeat.beat();
    state.tick();
    heartbeat.beat();
    state.wait_until(next, shutdown);
  }
  heartbeat.pause();
  return state.stop();
}

// The ramp's checks and the fences have times of their own, which a slow tick must not miss.
void Engine::State::wait_until(std::int64_t next_tick, const process::Shutdown& shutdown) {
  while (!shutdown.requested()) {
    const std::int64_t now = clock.mono_ns();
    if (now >= next_tick) return;
    const std::int64_t poll = recovered ? recovery->next_poll_mono_ns() : 0;
    if (poll != 0 && poll <= now) {
      if (const auto polled = recovery->poll(); !polled) warn("recovery", polled.error());
      if (recovery->next_poll_mono_ns() <= now) return;  // It could do nothing now.
      continue;
    }
    const std::int64_t until = poll != 0 ? std::min(poll, next_tick) : next_tick;
    shutdown.wait_for(os::Duration(until - now));
  }
}

Result<> Engine::State::stop() {
  agent.stopping();
  set_state("stopping");
  if (unreadable) return {};
  gateway->set_permit({});
  next_checkpoint = 0;
  write_checkpoint();
  DEFIB_TRY(ids->end_boot_cleanly(*store, clock));
  return store->close();
}

Result<Json> Engine::check_only() {
  State& state = *state_;
  if (state.unreadable) return *state.unreadable;
  const auto recovery = state.make_recovery(true);
  const recovery::ProcedureResult result = recovery->procedure().execute(state.clock);
  Json report = recovery->report();
  DEFIB_TRY(state.ids->end_boot_cleanly(*state.store, state.clock));
  DEFIB_TRY(state.store->close());
  if (!result.success()) return *result.error;
  if (recovery->decision()) {
    if (const auto closed = trading::gate_error(*recovery->decision())) return *closed;
  }
  return report;
}

}  // namespace defib::engine
