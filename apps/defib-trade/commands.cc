#include "apps/defib-trade/commands.h"

#include <fmt/core.h>

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/trading/recovery_steps.h"

namespace defib::trade_program {
namespace {

using trading::Discrepancy;
using trading::TradingConfig;
using wire::Json;

void print_json(const Json& document) {
  fmt::print("{}\n", document.dump(2));
}

// A program that only recovers may wait for the venue's rate budget.
constexpr os::Duration kPatience = std::chrono::minutes(10);

std::string store_dir(const Arguments& arguments) {
  return arguments.store_dir.empty() ? trading::trading_store_dir(arguments.state_dir)
                                     : arguments.store_dir;
}
std::string store_dir(const Arguments& arguments, const TradingConfig& config) {
  if (!arguments.store_dir.empty()) return arguments.store_dir;
  return trading::account_store_dir(arguments.state_dir, config, config.venue.name);
}

// The configuration with the account that --venue names as its first.
Result<TradingConfig> load_config(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(TradingConfig config, trading::load_trading_config(arguments.config));
  trading::keep_rates_in(arguments.state_dir, config);
  if (arguments.venue.empty() || arguments.venue == config.venue.name) return config;
  for (trading::VenueConfig& other : config.others) {
    if (other.name != arguments.venue) continue;
    std::swap(config.venue, other);
    config.checkpoint.venue = config.venue.name;
    return config;
  }
  return Error(Code::kInvalidArgument,
               fmt::format("the configuration has no venue {}", arguments.venue));
}

Result<std::unique_ptr<venue::Venue>> make_venue(const trading::VenueConfig& config) {
  DEFIB_TRY_ASSIGN(std::unique_ptr<venue::Venue> venue, trading::open_venue(config));
  venue->set_patience(kPatience);
  return venue;
}

// The ledger of the first account, DIR/trading, is begun by its engine, one beside it by a
// recovery.
Error no_ledger(const std::string& account, const std::string& path) {
  Error error = Error(Code::kNotFound, fmt::format("the account {} has no ledger yet", account))
                    .with("path", path);
  if (path.ends_with("/trading")) {
    return std::move(error).suggest(
        "start its engine, which takes the baseline from the venue; or check --state-dir");
  }
  return std::move(error).suggest(
      fmt::format("take its baseline with `defib recover --venue {}`", account));
}

// Everything that a recovery works on, opened in order.
struct Session {
  TradingConfig config;
  std::unique_ptr<store::Store> store;
  std::string store_path;
  std::optional<trading::Damage> damage;
  std::unique_ptr<venue::Venue> venue;
  std::unique_ptr<trading::KillSwitch> kill_switch;
  std::unique_ptr<trading::IdSource> ids;
  std::unique_ptr<trading::IntentLog> intents;
  std::unique_ptr<trading::Ledger> ledger;
  std::unique_ptr<trading::OrderGateway> gateway;
};

// `look_only`: no boot is recorded.
Result<Session> open_session(const Arguments& arguments, bool look_only) {
  Session session;
  DEFIB_TRY_ASSIGN(const TradingConfig plain, trading::load_trading_config(arguments.config));
  DEFIB_TRY_ASSIGN(session.config, load_config(arguments));
  session.store_path =
      arguments.store_dir.empty()
          ? trading::account_store_dir(arguments.state_dir, plain, session.config.venue.name)
          : arguments.store_dir;
  store::Options options;
  // A mistyped directory is no new account. The first account's ledger is begun by its engine;
  // those beside it, which the configuration names, by the first recovery.
  options.create =
      !look_only && arguments.store_dir.empty() && session.config.venue.name != plain.venue.name;
  options.lock_wait = std::chrono::seconds(1);
  if (!options.create && !os::real_files().is_dir(session.store_path)) {
    return no_ledger(session.config.venue.name, session.store_path);
  }
  DEFIB_TRY_ASSIGN(session.store, store::Store::open(session.store_path, options));
  session.damage = trading::read_damage(os::real_files(), session.store_path);
  const os::Clock& clock = os::real_clock();
  if (look_only) {
    session.ids = std::make_unique<trading::IdSource>(
        trading::IdSource::for_inspection(clock, session.config.owner));
  } else {
    DEFIB_TRY_ASSIGN(
        trading::IdSource ids,
        trading::IdSource::begin_boot(*session.store, clock, session.config.owner,
                                      session.damage ? trading::epoch_after_damage(clock) : 0));
    session.ids = std::make_unique<trading::IdSource>(std::move(ids));
  }
  DEFIB_TRY_ASSIGN(session.venue, make_venue(session.config.venue));
  session.kill_switch =
      std::make_unique<trading::KillSwitch>(os::real_files(), clock, arguments.state_dir);
  DEFIB_TRY_ASSIGN(session.intents,
                   trading::IntentLog::open(*session.store, session.config.intent_durability));
  DEFIB_TRY_ASSIGN(session.ledger, trading::Ledger::open(*session.store, *session.intents));
  trading::OrderGateway::Parts parts;
  parts.venue = session.venue.get();
  parts.ledger = session.ledger.get();
  parts.ids = session.ids.get();
  parts.clock = &clock;
  parts.limits = session.config.limits;
  parts.kill_switch = session.kill_switch.get();
  parts.valuation = session.config.valuation;
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
  parts.kill_switch = session.kill_switch.get();
  parts.damage = session.damage;
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
  if (!arguments.manual.empty()) return manual_checklist(arguments);
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
  DEFIB_TRY_ASSIGN(const TradingConfig plain, trading::load_trading_config(arguments.config));
  DEFIB_TRY_ASSIGN(const TradingConfig config, load_config(arguments));
  store::Options options;
  options.create = false;
  options.lock_wait = std::chrono::seconds(1);
  const std::string path =
      arguments.store_dir.empty()
          ? trading::account_store_dir(arguments.state_dir, plain, config.venue.name)
          : arguments.store_dir;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Store> store, store::Store::open(path, options));
  DEFIB_TRY_ASSIGN(const auto intents, trading::IntentLog::open(*store, config.intent_durability));
  DEFIB_TRY_ASSIGN(const auto ledger, trading::Ledger::open(*store, *intents));
  DEFIB_TRY_ASSIGN(const auto venue, make_venue(config.venue));
  DEFIB_TRY_ASSIGN([[maybe_unused]] const std::int64_t now, venue->server_time_ms());
  DEFIB_TRY_ASSIGN(const auto stored, store->snapshot());
  const trading::LedgerView believed = ledger->view();
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

// One account, read beside whoever runs on it.
struct Account {
  std::string name;
  std::optional<trading::VenueSnapshot> snapshot;
  std::vector<Discrepancy> found;
  std::optional<Error> error;
};

Result<> read_once(venue::Venue& venue, const trading::VenueConfig& config, const std::string& path,
                   const trading::Tolerance& tolerance, Account& account) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored,
                   store::Store::open_read_only(path, {}));
  DEFIB_TRY_ASSIGN(const trading::LedgerState believed, trading::read_ledger_state(*stored));
  DEFIB_TRY_ASSIGN(account.snapshot,
                   trading::read_venue(venue, believed, *stored, {.symbols = config.symbols}));
  account.found = trading::reconcile(believed, *account.snapshot, tolerance);
  return {};
}

// Again while something is unexplained that the reading before did not show.
Result<> read_account(const trading::VenueConfig& config, const std::string& path,
                      const trading::Tolerance& tolerance, Account& account) {
  constexpr int kReadings = 5;
  if (!os::real_files().is_dir(path)) {
    return no_ledger(config.name, path);
  }
  DEFIB_TRY_ASSIGN(const auto venue, make_venue(config));
  DEFIB_TRY_ASSIGN([[maybe_unused]] const std::int64_t now, venue->server_time_ms());
  DEFIB_TRY(read_once(*venue, config, path, tolerance, account));
  if (tolerance.strict) return {};
  for (int reading = 2; reading <= kReadings; ++reading) {
    if (trading::summarize(account.found).unexplained == 0) return {};
    const std::vector<Discrepancy> before = std::exchange(account.found, {});
    os::real_clock().sleep_for(std::chrono::milliseconds(config.visibility_lag_ms));
    DEFIB_TRY(read_once(*venue, config, path, tolerance, account));
    std::vector<Discrepancy> standing = account.found;
    trading::explain_movements(standing, before);
    const bool settled =
        trading::summarize(standing).unexplained == trading::summarize(account.found).unexplained;
    if (!settled && reading < kReadings) continue;
    account.found = std::move(standing);
    return {};
  }
  return {};
}

int print_accounts(const Arguments& arguments, const std::vector<Account>& accounts) {
  std::map<std::string, std::vector<Discrepancy>> by_account;
  for (const Account& account : accounts) by_account[account.name] = account.found;
  const std::vector<trading::AccountFinding> found = trading::reconcile_accounts(by_account);
  Json list = Json::array();
  std::size_t unexplained = 0;
  for (const trading::AccountFinding& finding : found) {
    Json item = finding.discrepancy.to_json();
    item.set("account", finding.account);
    unexplained += finding.discrepancy.explained ? 0 : 1;
    list.push(std::move(item));
  }
  Json unread = Json::array();
  for (const Account& account : accounts) {
    if (!account.error) continue;
    unread.push(
        Json::object({{"account", account.name}, {"error", wire::to_json(*account.error)}}));
  }
  const bool complete = unread.size() == 0;
  if (arguments.json) {
    print_json(Json::object({{"schema", "defib.reconcile_accounts/1"},
                             {"accounts", accounts.size()},
                             {"total", found.size()},
                             {"unexplained", unexplained},
                             {"discrepancies", std::move(list)},
                             {"unread", std::move(unread)}}));
  } else {
    for (const trading::AccountFinding& finding : found) {
      fmt::print("{}: ", finding.account);
      print_discrepancies({finding.discrepancy});
    }
    for (const Account& account : accounts) {
      if (account.error)
        fmt::print("{} was not read: {}\n", account.name, account.error->to_line());
    }
    fmt::print("{} accounts, {} differences, {} unexplained\n", accounts.size(), found.size(),
               unexplained);
  }
  return unexplained == 0 && complete ? kDone : kFailed;
}

}  // namespace

// All accounts, unless one is named; one that cannot be read holds up no other.
Result<int> reconcile(const Arguments& arguments) {
  if (arguments.apply) return reconcile_and_apply(arguments);
  DEFIB_TRY_ASSIGN(const TradingConfig config, trading::load_trading_config(arguments.config));
  trading::Tolerance tolerance = config.tolerance;
  tolerance.strict = config.reconcile_mode == trading::ReconcileMode::kStrict;
  if (config.others.empty()) {
    Account account;
    DEFIB_TRY(read_account(config.venue, store_dir(arguments, config), tolerance, account));
    return print_reconciliation(arguments, account.found, *account.snapshot, std::nullopt);
  }
  std::vector<Account> accounts;
  for (const trading::VenueConfig& one : trading::all_venues(config)) {
    if (!arguments.venue.empty() && one.name != arguments.venue) continue;
    Account account;
    account.name = one.name;
    const std::string path = trading::account_store_dir(arguments.state_dir, config, one.name);
    const Result<> read = read_account(one, path, tolerance, account);
    if (!read) {
      account.found.clear();
      account.error = read.error();
    }
    accounts.push_back(std::move(account));
  }
  if (accounts.empty()) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the configuration has no venue {}", arguments.venue));
  }
  return print_accounts(arguments, accounts);
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
    const std::size_t next = lines.find(' ', space + 1);
    list.push(Json::object({{"id", lines.substr(from, space - from)},
                            {"verdict", lines.substr(space + 1, next - space - 1)}}));
    from = lines.find('\n', next) + 1;
  }
  print_json(Json::object({{"schema", "defib.intents/1"}, {"intents", std::move(list)}}));
  return kDone;
}

namespace {

// A decision's document, or the newest fitting decision among the lines of an incident.
Result<recovery::Decision> verdict_from_file(const std::string& path, const std::string& subject) {
  constexpr std::size_t kMaxFile = 64 << 20;
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(os::real_files(), path, kMaxFile));
  if (const Result<Json> whole = Json::parse(text); whole && whole->has("findings")) {
    return recovery::Decision::from_json(*whole);
  }
  std::optional<recovery::Decision> newest;
  for (std::size_t from = 0; from < text.size();) {
    const std::size_t end = std::min(text.find('\n', from), text.size());
    const Result<Json> line = Json::parse(std::string_view(text).substr(from, end - from));
    from = end + 1;
    if (!line || (*line)["event"].as_string() != "decision") continue;
    Result<recovery::Decision> decision = recovery::Decision::from_json(*line);
    if (!decision) return decision;
    const bool fits =
        subject == "latest" || decision->rule == subject || decision->id.starts_with(subject);
    if (fits) newest = std::move(*decision);
  }
  if (newest) return *newest;
  return Error(Code::kNotFound, fmt::format("{} holds no decision {}", path, subject));
}

Result<int> explain_gates(const Arguments& arguments) {
  trading::GateThresholds thresholds;
  if (const auto config = trading::load_trading_config(arguments.config)) {
    thresholds = config->gates;
  }
  const Json tree = trading::describe_gates(thresholds);
  if (arguments.json) {
    print_json(Json::object({{"schema", "defib.gates/1"}, {"gates", tree}}));
    return kDone;
  }
  for (const Json& gate : tree.items()) {
    fmt::print("{:<20} {:<14} {}\n{:<35} {}\n", gate["gate"].as_string(),
               gate["verdict"].as_string(), gate["threshold"].as_string(), "",
               gate["flips"].as_string());
  }
  return kDone;
}

}  // namespace

// The last resort of `defib explain`: what is no code and no verdict of the store is unknown here.
Result<recovery::Decision> find_verdict(const Arguments& arguments) {
  if (!arguments.from.empty()) return verdict_from_file(arguments.from, arguments.subject);
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored,
                   store::Store::open_read_only(store_dir(arguments), {}));
  return trading::find_decision(*stored, arguments.subject);
}

Result<int> explain(const Arguments& arguments) {
  if (arguments.subject == "gates") return explain_gates(arguments);
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
  // Offline: from the evidence that was saved with it, and nothing else.
  const Result<recovery::Decision> again = trading::reproduce(decision);
  if (arguments.json) {
    Json document = decision.to_json();
    document.set("reproduced", again.has_value());
    if (!again) document.set("error", wire::to_json(again.error()));
    print_json(document);
    return again ? kDone : kFailed;
  }
  fmt::print("{}", decision.explain());
  if (!again) return again.error();
  fmt::print("reproduced from its own evidence: the same verdict, byte for byte\n");
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
    case Code::kKillSwitchEngaged:
    case Code::kChecklistIncomplete:
      return kRefused;
    default:
      return kFailed;
  }
}

}  // namespace defib::trade_program
