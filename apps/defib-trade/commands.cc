#include "apps/defib-trade/commands.h"

#include <fmt/core.h>

#include <cstdio>
#include <memory>
#include <utility>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/trading/recovery_steps.h"
#include "defib/venue/binance.h"

namespace defib::trade_program {
namespace {

using trading::Discrepancy;
using trading::TradingConfig;
using wire::Json;

void print_json(const Json& document) {
  fmt::print("{}\n", document.dump(2));
}

std::string store_dir(const Arguments& arguments) {
  return arguments.store_dir.empty() ? trading::trading_store_dir(arguments.state_dir)
                                     : arguments.store_dir;
}

std::unique_ptr<venue::BinanceVenue> make_venue(const trading::VenueConfig& config) {
  venue::BinanceOptions options;
  options.base_url = config.url;
  options.api_key = config.api_key.reveal();
  options.api_secret = config.api_secret.reveal();
  options.recv_window_ms = config.recv_window_ms;
  options.visibility_lag_ms = config.visibility_lag_ms;
  options.timeout = config.timeout;
  return std::make_unique<venue::BinanceVenue>(std::move(options));
}

// Everything that a recovery works on, opened in order.
struct Session {
  TradingConfig config;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<venue::BinanceVenue> venue;
  std::unique_ptr<trading::IdSource> ids;
  std::unique_ptr<trading::IntentLog> intents;
  std::unique_ptr<trading::Ledger> ledger;
  std::unique_ptr<trading::OrderGateway> gateway;
};

// `look_only`: no boot is recorded.
Result<Session> open_session(const Arguments& arguments, bool look_only) {
  Session session;
  DEFIB_TRY_ASSIGN(session.config, trading::load_trading_config(arguments.config));
  store::Options options;
  options.create = false;  // A mistyped directory is no new account.
  options.lock_wait = std::chrono::seconds(1);
  DEFIB_TRY_ASSIGN(session.store, store::Store::open(store_dir(arguments), options));
  const os::Clock& clock = os::real_clock();
  if (look_only) {
    session.ids = std::make_unique<trading::IdSource>(
        trading::IdSource::for_inspection(clock, session.config.owner));
  } else {
    DEFIB_TRY_ASSIGN(trading::IdSource ids,
                     trading::IdSource::begin_boot(*session.store, clock, session.config.owner));
    session.ids = std::make_unique<trading::IdSource>(std::move(ids));
  }
  session.venue = make_venue(session.config.venue);
  DEFIB_TRY_ASSIGN(session.intents,
                   trading::IntentLog::open(*session.store, session.config.intent_durability));
  DEFIB_TRY_ASSIGN(session.ledger, trading::Ledger::open(*session.store, *session.intents));
  trading::OrderGateway::Parts parts;
  parts.venue = session.venue.get();
  parts.ledger = session.ledger.get();
  parts.ids = session.ids.get();
  parts.clock = &clock;
  parts.limits = session.config.limits;
  session.gateway = std::make_unique<trading::OrderGateway>(std::move(parts));
  return session;
}

// Tells a person at a terminal what goes on.
class Narrator : public recovery::Procedure::Observer {
 public:
  explicit Narrator(bool quiet) : quiet_(quiet) {}
  void stage_finished(const recovery::StageRecord& stage) override {
    if (quiet_) return;
    std::string metrics;
    for (const auto& [name, value] : stage.metrics) {
      metrics += fmt::format("  {}={}", name, value);
    }
    fmt::print("{:<24} {:<12} {:>9}{}\n", stage.name, recovery::to_string(stage.outcome),
               os::format_duration(stage.duration), metrics);
  }

 private:
  bool quiet_;
};

void print_discrepancies(const std::vector<Discrepancy>& discrepancies) {
  for (const Discrepancy& item : discrepancies) {
    fmt::print("{} {:<24} {}\n  believed: {}\n  venue:    {}\n  {}: {}\n", item.id,
               trading::to_string(item.kind), item.subject, item.believed, item.venue,
               item.explained ? "explained" : "UNEXPLAINED", item.explanation);
  }
}

trading::TradingRecovery make_recovery(const Arguments& arguments, Session& session,
                                       bool look_only) {
  trading::TradingRecovery::Parts parts;
  parts.store = session.store.get();
  parts.venue = session.venue.get();
  parts.clock = &os::real_clock();
  parts.files = &os::real_files();
  parts.state_dir = arguments.state_dir;
  parts.config = session.config;
  parts.intents = session.intents.get();
  parts.ledger = session.ledger.get();
  parts.ids = session.ids.get();
  parts.gateway = session.gateway.get();
  parts.dry_run = look_only;
  parts.resume = false;
  return trading::TradingRecovery(std::move(parts));
}

// Until every fence has told, or the time is up.
Result<> settle(trading::TradingRecovery& recovery, Session& session, os::Duration wait) {
  const os::Clock& clock = os::real_clock();
  const std::int64_t deadline = clock.mono_ns() + wait.count();
  while (!session.intents->unresolved().empty() && clock.mono_ns() < deadline) {
    DEFIB_TRY(recovery.poll());
    const std::int64_t next = std::min(recovery.next_poll_mono_ns(), deadline);
    if (next > clock.mono_ns()) clock.sleep_for(os::Duration(next - clock.mono_ns()));
  }
  return {};
}

Json stages_json(const recovery::ProcedureResult& result) {
  Json stages = Json::array();
  for (const recovery::StageRecord& stage : result.stages) {
    Json metrics = Json::object();
    for (const auto& [name, value] : stage.metrics) metrics.set(name, value);
    Json item = Json::object({{"name", stage.name},
                              {"outcome", recovery::to_string(stage.outcome)},
                              {"duration_ns", stage.duration.count()},
                              {"metrics", std::move(metrics)}});
    if (stage.error) item.set("error", wire::to_json(*stage.error));
    stages.push(std::move(item));
  }
  return stages;
}

Result<int> finish(const Arguments& arguments, trading::TradingRecovery& recovery,
                   const recovery::ProcedureResult& result) {
  if (!arguments.json && result.error) return *result.error;
  const trading::GateOutcome outcome = recovery.outcome();
  const bool open = result.success() && outcome == trading::GateOutcome::kOpen;
  if (arguments.json) {
    Json document = Json::object({{"schema", "defib.recover/1"}, {"success", result.success()}});
    document.set("duration_ns", result.duration.count());
    document.set("stages", stages_json(result));
    document.set("report", recovery.report());
    if (result.error) {
      document.set("error", wire::to_json(*result.error));
    } else if (const auto closed = trading::gate_error(*recovery.decision())) {
      document.set("error", wire::to_json(*closed));
    }
    print_json(document);
    if (result.error) return kFailed;
    return open ? kDone : kRefused;
  }
  print_discrepancies(recovery.discrepancies());
  fmt::print("gate: {}\n{}", trading::to_string(outcome), recovery.decision()->explain());
  if (open) return kDone;
  if (recovery.plan()) fmt::print("plan: {}\n", recovery.plan()->hash());
  std::fflush(stdout);
  return report(trading::gate_error(*recovery.decision()).value(), false);
}

}  // namespace

Result<int> recover(const Arguments& arguments) {
  const os::Duration wait = os::parse_duration(arguments.wait);
  if (wait.count() < 0) {
    return Error(Code::kWrongUsage, fmt::format("--wait {} is no duration", arguments.wait));
  }
  DEFIB_TRY_ASSIGN(Session session, open_session(arguments, false));
  trading::TradingRecovery recovery = make_recovery(arguments, session, false);
  Narrator narrator(arguments.json);
  const recovery::ProcedureResult result =
      recovery.procedure().execute(os::real_clock(), &narrator);
  if (result.success()) DEFIB_TRY(settle(recovery, session, wait));
  // This program ends by its own decision: it is no crash of the engine.
  DEFIB_TRY(session.ids->end_boot_cleanly(*session.store, os::real_clock()));
  DEFIB_TRY_ASSIGN(const int code, finish(arguments, recovery, result));
  DEFIB_TRY(session.store->close());
  return code;
}

Result<int> checklist(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(Session session, open_session(arguments, true));
  trading::TradingRecovery recovery = make_recovery(arguments, session, true);
  Narrator narrator(arguments.json);
  const recovery::ProcedureResult result =
      recovery.procedure().execute(os::real_clock(), &narrator);
  return finish(arguments, recovery, result);
}

namespace {

Json reconcile_json(const std::vector<Discrepancy>& discrepancies,
                    const trading::VenueSnapshot& snapshot, std::optional<int> corrections) {
  const trading::ReconcileSummary summary = trading::summarize(discrepancies);
  Json list = Json::array();
  for (const Discrepancy& item : discrepancies) list.push(item.to_json());
  Json document = Json::object({{"schema", "defib.reconcile/1"},
                                {"total", summary.total},
                                {"unexplained", summary.unexplained},
                                {"duplicates", summary.duplicates},
                                {"unresolved_intents", summary.unresolved_intents},
                                {"stable", snapshot.stable},
                                {"readings", snapshot.readings},
                                {"discrepancies", std::move(list)}});
  if (corrections) document.set("corrections", *corrections);
  return document;
}

int print_reconciliation(const Arguments& arguments, const std::vector<Discrepancy>& discrepancies,
                         const trading::VenueSnapshot& snapshot, std::optional<int> corrections) {
  const trading::ReconcileSummary summary = trading::summarize(discrepancies);
  if (arguments.json) {
    print_json(reconcile_json(discrepancies, snapshot, corrections));
  } else {
    print_discrepancies(discrepancies);
    fmt::print("{} differences, {} unexplained, {} duplicates, {} unresolved intents{}\n",
               summary.total, summary.unexplained, summary.duplicates, summary.unresolved_intents,
               snapshot.stable ? "" : " (the market moved while it was read)");
    if (corrections) fmt::print("{} corrections journaled\n", *corrections);
  }
  if (corrections) return kDone;
  return summary.unexplained + summary.duplicates == 0 ? kDone : kFailed;
}

Result<int> reconcile_and_apply(const Arguments& arguments) {
  if (arguments.reason.empty() || arguments.by.empty()) {
    return Error(Code::kWrongUsage, "--apply needs --reason TEXT and --by NAME");
  }
  DEFIB_TRY_ASSIGN(const TradingConfig config, trading::load_trading_config(arguments.config));
  store::Options options;
  options.create = false;
  options.lock_wait = std::chrono::seconds(1);
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Store> store,
                   store::Store::open(store_dir(arguments), options));
  DEFIB_TRY_ASSIGN(const auto intents, trading::IntentLog::open(*store, config.intent_durability));
  DEFIB_TRY_ASSIGN(const auto ledger, trading::Ledger::open(*store, *intents));
  const auto venue = make_venue(config.venue);
  DEFIB_TRY_ASSIGN([[maybe_unused]] const std::int64_t now, venue->server_time_ms());
  DEFIB_TRY_ASSIGN(const auto stored, store->snapshot());
  const trading::LedgerState believed = ledger->state();
  DEFIB_TRY_ASSIGN(
      const trading::VenueSnapshot snapshot,
      trading::read_venue(*venue, believed, *stored, {.symbols = config.venue.symbols}));
  const std::vector<Discrepancy> found = trading::reconcile(believed, snapshot, config.tolerance);
  DEFIB_TRY_ASSIGN(const int corrections,
                   trading::apply_reconciliation(
                       *ledger, snapshot, found,
                       {.reason = arguments.reason, .by = arguments.by, .unexplained = true},
                       os::real_clock().wall_ns()));
  DEFIB_TRY(store->close());
  return print_reconciliation(arguments, found, snapshot, corrections);
}

}  // namespace

Result<int> reconcile(const Arguments& arguments) {
  if (arguments.apply) return reconcile_and_apply(arguments);
  DEFIB_TRY_ASSIGN(const TradingConfig config, trading::load_trading_config(arguments.config));
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored,
                   store::Store::open_read_only(store_dir(arguments), {}));
  DEFIB_TRY_ASSIGN(const trading::LedgerState believed, trading::read_ledger_state(*stored));
  const auto venue = make_venue(config.venue);
  DEFIB_TRY_ASSIGN([[maybe_unused]] const std::int64_t now, venue->server_time_ms());
  DEFIB_TRY_ASSIGN(
      const trading::VenueSnapshot snapshot,
      trading::read_venue(*venue, believed, *stored, {.symbols = config.venue.symbols}));
  return print_reconciliation(arguments, trading::reconcile(believed, snapshot, config.tolerance),
                              snapshot, std::nullopt);
}

Result<int> approve(const Arguments& arguments) {
  const os::Duration ttl = os::parse_duration(arguments.ttl);
  trading::ApprovalDesk desk(os::real_files(), os::real_clock(), arguments.state_dir);
  DEFIB_TRY_ASSIGN(const trading::Approval approval,
                   desk.approve(arguments.subject, arguments.by, ttl));
  if (arguments.json) {
    print_json(approval.to_json());
    return kDone;
  }
  DEFIB_TRY_ASSIGN(const Json plan, desk.read_plan(approval.plan));
  fmt::print("{}\nplan {} approved by {} until {}\n", plan["plan"].dump(2), approval.plan,
             approval.by, os::format_time(approval.expires_wall_ns));
  return kDone;
}

Result<int> intents(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored,
                   store::Store::open_read_only(store_dir(arguments), {}));
  DEFIB_TRY_ASSIGN(const std::string lines, trading::export_intents(*stored));
  if (!arguments.json) {
    fmt::print("{}", lines);
    return kDone;
  }
  Json list = Json::array();
  for (std::size_t from = 0; from < lines.size();) {
    const std::size_t space = lines.find(' ', from);
    const std::size_t end = lines.find('\n', space);
    list.push(Json::object({{"id", lines.substr(from, space - from)},
                            {"verdict", lines.substr(space + 1, end - space - 1)}}));
    from = end + 1;
  }
  print_json(Json::object({{"schema", "defib.intents/1"}, {"intents", std::move(list)}}));
  return kDone;
}

// The last resort of `defib explain`: what is no code and no verdict of the store is unknown here.
Result<recovery::Decision> find_verdict(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored,
                   store::Store::open_read_only(store_dir(arguments), {}));
  return trading::find_decision(*stored, arguments.subject);
}

Result<int> explain(const Arguments& arguments) {
  auto found = find_verdict(arguments);
  if (!found) {
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is no error code, no error name, and no verdict known here",
                             arguments.subject))
        .because(std::move(found.error()))
        .suggest(
            "write a number such as -73, a name such as DatabaseLocked, or a decision's id "
            "from `defib incident show`");
  }
  const recovery::Decision decision = std::move(*found);
  if (arguments.json) {
    print_json(decision.to_json());
  } else {
    fmt::print("{}", decision.explain());
  }
  return kDone;
}

int report(const Error& error, bool json) {
  if (json) {
    print_json(Json::object({{"schema", "defib.error/1"}, {"error", wire::to_json(error)}}));
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  switch (error.code()) {
    case Code::kWrongUsage:
    case Code::kInvalidArgument:
    case Code::kConfigSyntax:
    case Code::kConfigUnknownKey:
    case Code::kConfigWrongType:
    case Code::kConfigBadValue:
    case Code::kConfigMissing:
    case Code::kConfigSecretExposed:
      return kWrongUsage;
    case Code::kDatabaseLocked:
    case Code::kGateClosed:
    case Code::kApprovalRequired:
    case Code::kApprovalInvalid:
    case Code::kLimitsNotLoaded:
    case Code::kTradingHalted:
    case Code::kDuplicateOrder:
      return kRefused;
    default:
      return kFailed;
  }
}

}  // namespace defib::trade_program
