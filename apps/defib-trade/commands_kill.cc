// `defib kill`: engages a kill switch, cancels at the venues, proves it by reading, and records it.

#include <fmt/core.h>

#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "apps/defib-trade/commands.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/recovery/incident.h"
#include "defib/trading/config.h"
#include "defib/trading/intents.h"
#include "defib/trading/kill_switch.h"

namespace defib::trade_program {
namespace {

using trading::KillOutcome;
using trading::KillSwitch;
using wire::Json;

Json records_json(const std::vector<trading::KillRecord>& records) {
  Json list = Json::array();
  for (const trading::KillRecord& record : records) list.push(record.to_json());
  return list;
}

Result<int> show(const Arguments& arguments, const KillSwitch& kill_switch) {
  DEFIB_TRY_ASSIGN(const std::vector<trading::KillRecord> records, kill_switch.read());
  if (arguments.json) {
    fmt::print("{}\n",
               Json::object({{"schema", "defib.kill_status/1"}, {"engaged", records_json(records)}})
                   .dump(2));
    return kDone;
  }
  for (const trading::KillRecord& record : records) {
    fmt::print("{:<24} by {} at {}: {}\n", record.scope, record.by,
               os::format_time(record.at_wall_ns), record.reason);
  }
  if (records.empty()) fmt::print("no kill switch is engaged\n");
  return kDone;
}

Result<std::string> scope_of(const Arguments& arguments) {
  const int given = (arguments.all ? 1 : 0) + (arguments.venue.empty() ? 0 : 1) +
                    (arguments.strategy.empty() ? 0 : 1);
  if (given != 1) {
    return Error(Code::kWrongUsage, "give one of --all, --venue NAME and --strategy NAME");
  }
  if (arguments.all) return std::string("all");
  if (!arguments.venue.empty()) return "venue:" + arguments.venue;
  return "strategy:" + arguments.strategy;
}

// The client ids of a strategy's orders that may be open, as the ledger tells beside its engine.
Result<std::vector<std::string>> orders_of(const std::string& store, const std::string& strategy) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> stored,
                   store::Store::open_read_only(store, {}));
  DEFIB_TRY_ASSIGN(const auto intents, trading::read_open_intents(*stored));
  std::vector<std::string> ids;
  for (const auto& [id, intent] : intents) {
    if (intent.strategy == strategy) ids.push_back(id);
  }
  return ids;
}

KillOutcome kill_account(const Arguments& arguments, const trading::TradingConfig& config,
                         const trading::VenueConfig& account) {
  KillOutcome outcome;
  outcome.venue = account.name;
  trading::KillOptions options;
  options.symbols = account.symbols;
  options.arm_switch =
      arguments.arm_switch.empty() ? os::Duration(0) : os::parse_duration(arguments.arm_switch);
  if (!arguments.strategy.empty()) {
    options.only_listed = true;
    auto ids = orders_of(trading::account_store_dir(arguments.state_dir, config, account.name),
                         arguments.strategy);
    if (!ids) {
      outcome.errors.push_back(ids.error());
      return outcome;
    }
    options.client_ids = std::move(*ids);
  }
  const auto venue = trading::open_venue(account);
  if (!venue) {
    outcome.errors.push_back(venue.error());
    return outcome;
  }
  return trading::kill_venue(**venue, os::real_clock(), options);
}

// All venues at the same time: a dead one holds up no other.
std::vector<KillOutcome> kill_accounts(const Arguments& arguments,
                                       const trading::TradingConfig& config) {
  std::vector<trading::VenueConfig> accounts;
  for (const trading::VenueConfig& account : trading::all_venues(config)) {
    if (arguments.venue.empty() || account.name == arguments.venue) accounts.push_back(account);
  }
  std::vector<KillOutcome> outcomes(accounts.size());
  {
    std::vector<std::jthread> threads;
    threads.reserve(accounts.size());
    for (std::size_t i = 0; i < accounts.size(); ++i) {
      threads.emplace_back([&, i] { outcomes[i] = kill_account(arguments, config, accounts[i]); });
    }
  }
  return outcomes;
}

void print(const std::vector<KillOutcome>& outcomes, const std::string& incident) {
  for (const KillOutcome& outcome : outcomes) {
    fmt::print("{:<16} {}  {} orders outlived a cancel, {} are open, {} readings\n", outcome.venue,
               outcome.verified ? "verified: nothing is open" : "NOT VERIFIED", outcome.cancelled,
               outcome.still_open.size(), outcome.rounds);
    for (const Error& error : outcome.errors) fmt::print("  {}\n", error.to_line());
  }
  fmt::print("recorded in incident {}\n", incident);
}

}  // namespace

Result<int> kill(const Arguments& arguments) {
  const os::Clock& clock = os::real_clock();
  KillSwitch kill_switch(os::real_files(), clock, arguments.state_dir);
  if (arguments.status) return show(arguments, kill_switch);
  if (!arguments.release.empty()) {
    DEFIB_TRY(kill_switch.release(arguments.release, arguments.by, arguments.reason));
    return show(arguments, kill_switch);
  }
  if (!arguments.arm_switch.empty() && os::parse_duration(arguments.arm_switch).count() <= 0) {
    return Error(Code::kWrongUsage, "--arm-switch needs a time such as 60s");
  }
  DEFIB_TRY_ASSIGN(const std::string scope, scope_of(arguments));
  // Before anything can fail: what runs sends nothing more from here on.
  DEFIB_TRY(kill_switch.engage(scope, arguments.by, arguments.reason));
  DEFIB_TRY_ASSIGN(const trading::TradingConfig config,
                   trading::load_trading_config(arguments.config));
  if (!arguments.venue.empty() && trading::find_venue(config, arguments.venue) == nullptr) {
    return Error(
        Code::kInvalidArgument,
        fmt::format("the configuration has no venue {}; its switch is engaged all the same",
                    arguments.venue));
  }
  DEFIB_TRY_ASSIGN(recovery::IncidentLog log,
                   recovery::IncidentLog::open(os::real_files(), clock, arguments.state_dir));
  DEFIB_TRY_ASSIGN(
      recovery::Incident incident,
      log.create(
          "kill",
          Json::object({{"scope", scope}, {"by", arguments.by}, {"reason", arguments.reason}})));
  const std::vector<KillOutcome> outcomes = kill_accounts(arguments, config);
  Json list = Json::array();
  for (const KillOutcome& outcome : outcomes) {
    DEFIB_TRY(incident.append("kill_venue", outcome.to_json(), recovery::Durability::kSync));
    list.push(outcome.to_json());
  }
  const std::optional<Error> failure = trading::kill_error(outcomes);
  DEFIB_TRY(incident.close(failure ? "failed" : "stopped"));
  if (arguments.json) {
    Json document = Json::object({{"schema", "defib.kill_report/1"},
                                  {"scope", scope},
                                  {"verified", !failure.has_value()},
                                  {"incident", incident.id()},
                                  {"venues", std::move(list)}});
    if (failure) document.set("error", wire::to_json(*failure));
    fmt::print("{}\n", document.dump(2));
    return failure ? kFailed : kDone;
  }
  print(outcomes, incident.id());
  if (failure) return *failure;
  return kDone;
}

}  // namespace defib::trade_program
