#include "defib/trading/checkpoint.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "defib/base/bytes.h"
#include "defib/trading/amounts.h"
#include "defib/trading/codec.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

constexpr int kOldestVersion = 1;

wire::Json without_checksum(const wire::Json& json) {
  wire::Json rest = wire::Json::object();
  for (const auto& [name, value] : json.members()) {
    if (name != "checksum") rest.set(name, value);
  }
  return rest;
}

wire::Json amounts(const std::map<std::string, Decimal>& values) {
  wire::Json json = wire::Json::object();
  for (const auto& [name, value] : values) json.set(name, value.to_string());
  return json;
}

Result<Decimal> read_amount(const wire::Json& json, std::string_view name) {
  DEFIB_TRY_ASSIGN(const std::string text, json.require_string(name));
  return Decimal::parse(text);
}

Result<std::map<std::string, Decimal>> read_amounts(const wire::Json& json) {
  std::map<std::string, Decimal> values;
  for (const auto& [name, value] : json.members()) {
    DEFIB_TRY_ASSIGN(values[name], Decimal::parse(value.as_string()));
  }
  return values;
}

Result<Position> read_position(const std::string& symbol, const wire::Json& json) {
  Position position;
  position.symbol = symbol;
  DEFIB_TRY_ASSIGN(position.quantity, read_amount(json, "quantity"));
  DEFIB_TRY_ASSIGN(position.cost, read_amount(json, "cost"));
  DEFIB_TRY_ASSIGN(position.realized, read_amount(json, "realized"));
  DEFIB_TRY_ASSIGN(position.baseline, read_amount(json, "baseline"));
  position.updated_ms = json["updated_ms"].as_int();
  return position;
}

// Collects findings in the order of the rules.
class Validation {
 public:
  Validation(const LedgerView& state, const std::vector<venue::Fill>& fills,
             const CheckpointRules& rules, std::int64_t now)
      : state_(state), fills_(fills), rules_(rules), now_(now) {}

  CheckpointVerdict run(const std::optional<std::string>& text) {
    if (!text) {
      add("exists", state_.initialized ? Severity::kWarning : Severity::kInfo, "", "absent",
          "present",
          state_.initialized ? "the ledger is there, but no checkpoint of it"
                             : "nothing was ever recorded here: the first start");
      return std::move(verdict_);
    }
    if (!parse(*text)) return std::move(verdict_);
    const Checkpoint& checkpoint = *verdict_.checkpoint;
    check_venue(checkpoint);
    check_time(checkpoint);
    check_amounts(checkpoint);
    check_ledger(checkpoint);
    return std::move(verdict_);
  }

 private:
  void add(std::string rule, Severity severity, std::string subject, std::string input,
           std::string threshold, std::string detail) {
    const auto own = rules_.severity.find(rule);
    if (own != rules_.severity.end() && severity_is_configurable(rule)) severity = own->second;
    verdict_.worst = std::max(verdict_.worst, severity);
    verdict_.findings.push_back({std::move(rule), severity, std::move(subject), std::move(input),
                                 std::move(threshold), std::move(detail)});
  }

  bool parse(const std::string& text) {
    const Result<wire::Json> json = wire::Json::parse(text);
    if (!json || !json->is_object()) {
      add("checksum", Severity::kCritical, "", "not JSON", "a JSON object",
          json ? "" : json.error().message());
      return false;
    }
    const std::int64_t version = (*json)["version"].as_int();
    if (version < kOldestVersion || version > kCheckpointVersion) {
      add("version", Severity::kCritical, "", std::to_string(version),
          fmt::format("{} to {}", kOldestVersion, kCheckpointVersion),
          "written by another version of defib");
      return false;
    }
    const std::string wanted = sha256_hex(without_checksum(*json).dump());
    if ((*json)["checksum"].as_string() != wanted) {
      add("checksum", Severity::kCritical, "", std::string((*json)["checksum"].as_string()), wanted,
          "its content was changed or cut");
      return false;
    }
    Result<Checkpoint> checkpoint = Checkpoint::from_json(*json);
    if (!checkpoint) {
      add("checksum", Severity::kCritical, "", "unreadable", "complete",
          checkpoint.error().to_line());
      return false;
    }
    if (version != kCheckpointVersion) {
      checkpoint->version = kCheckpointVersion;  // version 1 said nothing of its venue
      add("version", Severity::kInfo, "", std::to_string(version),
          std::to_string(kCheckpointVersion), "migrated as it was read");
    }
    verdict_.checkpoint = std::move(*checkpoint);
    return true;
  }

  void check_venue(const Checkpoint& checkpoint) {
    if (rules_.venue.empty() || checkpoint.venue.empty() || checkpoint.venue == rules_.venue) {
      return;
    }
    add("venue", Severity::kCritical, "", checkpoint.venue, rules_.venue,
        "the checkpoint of another venue's account");
  }

  bool may_be_negative(const std::string& symbol) const {
    return rules_.prices_may_be_negative || rules_.negative_prices_for.contains(symbol);
  }

  void check_time(const Checkpoint& checkpoint) {
    const std::int64_t age = now_ - checkpoint.wall_ns;
    if (-age > rules_.future_allowance.count()) {
      add("timestamp_future", Severity::kCritical, "",
          os::format_duration(os::Duration(-age)) + " ahead",
          os::format_duration(rules_.future_allowance), "this machine's clock went back");
    }
    if (age > rules_.max_age.count()) {
      add("age", Severity::kWarning, "", os::format_duration(os::Duration(age)),
          os::format_duration(rules_.max_age), "the venue's truth counts for more");
    }
  }

  void check_amounts(const Checkpoint& checkpoint) {
    for (const auto& [symbol, position] : checkpoint.positions) {
      const auto own = rules_.max_quantity_by_symbol.find(symbol);
      const Decimal cap =
          own == rules_.max_quantity_by_symbol.end() ? rules_.max_quantity : own->second;
      if (position.quantity.abs() > cap) {
        add("quantity", Severity::kCritical, symbol, position.quantity.to_string(), cap.to_string(),
            "no position of this size is plausible");
      }
      const Decimal average = position.average_price();
      const auto mark = checkpoint.marks.find(symbol);
      const Decimal price = mark == checkpoint.marks.end() ? average : mark->second;
      const Decimal notional = saturating_product(position.quantity, price).abs();
      if (notional > rules_.max_notional) {
        add("notional", Severity::kCritical, symbol, notional.to_string(),
            rules_.max_notional.to_string(), "no exposure of this size is plausible");
      }
      // What is worth less than one unit of money may have cost nothing after rounding.
      const bool free_of_cost = average.is_zero() && notional >= Decimal::from_integer(1);
      const bool bad_price = average < Decimal() || free_of_cost;
      if (bad_price && !may_be_negative(symbol)) {
        add("price", Severity::kCritical, symbol, average.to_string(), "positive",
            "the average price of a position");
      }
      if (price <= Decimal() && mark != checkpoint.marks.end() && !may_be_negative(symbol)) {
        add("price", Severity::kCritical, symbol, price.to_string(), "positive", "the mark");
      }
    }
    for (const auto& [asset, total] : checkpoint.balances) {
      if (total >= Decimal()) continue;
      add("balance", rules_.margin_account ? Severity::kWarning : Severity::kCritical, asset,
          total.to_string(), "not negative",
          rules_.margin_account ? "a margin account may owe" : "a spot account cannot owe");
    }
  }

  void check_ledger(const Checkpoint& checkpoint) {
    for (const auto& [symbol, cursor] : checkpoint.cursors) {
      const auto now = state_.cursors.find(symbol);
      const std::string here = now == state_.cursors.end() ? std::string() : now->second;
      if (cursor.empty() || (!here.empty() && !trade_id_less(here, cursor))) continue;
      add("cursor_regressed", Severity::kCritical, symbol, here.empty() ? "none" : here, cursor,
          "the ledger is older than its checkpoint");
    }
    const std::map<std::string, Position> derived =
        derive_positions(checkpoint, state_.instruments, fills_);
    for (const auto& [symbol, position] : derived) {
      const auto now = state_.positions.find(symbol);
      const Decimal here = now == state_.positions.end() ? Decimal() : now->second.quantity;
      if (here == position.quantity) continue;
      add("ledger_follows", Severity::kCritical, symbol, here.to_string(),
          position.quantity.to_string(), "checkpoint plus booked trades give another position");
    }
  }

  const LedgerView state_;
  const std::vector<venue::Fill>& fills_;
  const CheckpointRules& rules_;
  std::int64_t now_;
  CheckpointVerdict verdict_;
};

}  // namespace

wire::Json Checkpoint::to_json() const {
  wire::Json all_positions = wire::Json::object();
  for (const auto& [symbol, position] : positions) {
    all_positions.set(symbol, wire::Json::object({{"quantity", position.quantity.to_string()},
                                                  {"cost", position.cost.to_string()},
                                                  {"realized", position.realized.to_string()},
                                                  {"baseline", position.baseline.to_string()},
                                                  {"updated_ms", position.updated_ms}}));
  }
  wire::Json all_cursors = wire::Json::object();
  for (const auto& [symbol, cursor] : cursors) all_cursors.set(symbol, cursor);
  wire::Json recent_keys = wire::Json::array();
  for (const std::string& key : recent) recent_keys.push(key);
  wire::Json json = wire::Json::object({{"schema", "defib.trading_checkpoint/1"},
                                        {"version", version},
                                        {"venue", venue},
                                        {"epoch", epoch},
                                        {"wall_ns", wall_ns},
                                        {"at", os::format_time(wall_ns)},
                                        {"positions", std::move(all_positions)},
                                        {"balances", amounts(balances)},
                                        {"cursors", std::move(all_cursors)},
                                        {"recent", std::move(recent_keys)},
                                        {"marks", amounts(marks)},
                                        {"open_orders", open_orders}});
  json.set("checksum", sha256_hex(json.dump()));
  return json;
}

Result<Checkpoint> Checkpoint::from_json(const wire::Json& json) {
  Checkpoint checkpoint;
  checkpoint.version = static_cast<int>(json["version"].as_int());
  checkpoint.venue = json["venue"].as_string();
  DEFIB_TRY_ASSIGN(const std::int64_t epoch, json.require_int("epoch"));
  checkpoint.epoch = static_cast<std::uint64_t>(epoch);
  DEFIB_TRY_ASSIGN(checkpoint.wall_ns, json.require_int("wall_ns"));
  for (const auto& [symbol, value] : json["positions"].members()) {
    DEFIB_TRY_ASSIGN(checkpoint.positions[symbol], read_position(symbol, value));
  }
  DEFIB_TRY_ASSIGN(checkpoint.balances, read_amounts(json["balances"]));
  DEFIB_TRY_ASSIGN(checkpoint.marks, read_amounts(json["marks"]));
  for (const auto& [symbol, value] : json["cursors"].members()) {
    checkpoint.cursors[symbol] = value.as_string();
  }
  for (const wire::Json& key : json["recent"].items()) {
    checkpoint.recent.emplace_back(key.as_string());
  }
  checkpoint.open_orders = static_cast<int>(json["open_orders"].as_int());
  return checkpoint;
}

Checkpoint make_checkpoint(const LedgerView& state, std::map<std::string, Decimal> marks,
                           std::uint64_t epoch, std::int64_t wall_ns, std::string venue) {
  Checkpoint checkpoint;
  checkpoint.venue = std::move(venue);
  checkpoint.epoch = epoch;
  checkpoint.wall_ns = wall_ns;
  checkpoint.positions = state.positions;
  checkpoint.balances = state.balances;
  checkpoint.cursors = state.cursors;
  checkpoint.marks = std::move(marks);
  checkpoint.open_orders = static_cast<int>(state.orders.size());
  for (const auto& [key, fill] : state.recent_fills) {
    checkpoint.recent.push_back(to_hex(as_bytes(key)));
  }
  return checkpoint;
}

Result<> write_checkpoint(store::Store& store, const Checkpoint& checkpoint,
                          store::Durability durability) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, store.begin());
  DEFIB_TRY(transaction->put(kCheckpointTable, kLatestKey, checkpoint.to_json().dump()));
  const Result<std::uint64_t> committed = transaction->commit(durability);
  if (!committed) return committed.error();
  return {};
}

Result<std::optional<std::string>> read_checkpoint_text(const store::Snapshot& snapshot) {
  return snapshot.get(kCheckpointTable, kLatestKey);
}

Result<std::vector<venue::Fill>> fills_since(const store::Snapshot& snapshot,
                                             const Checkpoint& checkpoint) {
  const std::set<std::string> seen(checkpoint.recent.begin(), checkpoint.recent.end());
  std::vector<venue::Fill> fills;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kFillTable));
  for (const auto& [symbol, position] : checkpoint.positions) {
    const auto from = checkpoint.cursors.find(symbol);
    const std::string prefix = fill_key(symbol, {});
    const std::string start =
        from == checkpoint.cursors.end() ? prefix : fill_key(symbol, from->second);
    for (bool found = cursor->seek(start); found && cursor->key().starts_with(prefix);
         found = cursor->next()) {
      if (cursor->key() == start || seen.contains(to_hex(as_bytes(cursor->key())))) continue;
      DEFIB_TRY_ASSIGN(venue::Fill fill, decode_fill(cursor->key(), cursor->value()));
      fills.push_back(std::move(fill));
    }
  }
  return fills;
}

std::string_view to_string(Severity severity) {
  constexpr std::array<std::string_view, 3> kNames = {"info", "warning", "critical"};
  return kNames[static_cast<std::size_t>(severity)];
}

std::optional<Severity> parse_severity(std::string_view text) {
  for (const Severity severity : {Severity::kInfo, Severity::kWarning, Severity::kCritical}) {
    if (to_string(severity) == text) return severity;
  }
  return std::nullopt;
}

wire::Json CheckpointFinding::to_json() const {
  return wire::Json::object({{"rule", rule},
                             {"severity", to_string(severity)},
                             {"subject", subject},
                             {"input", input},
                             {"threshold", threshold},
                             {"detail", detail}});
}

std::optional<Error> CheckpointVerdict::error() const {
  for (const CheckpointFinding& finding : findings) {
    if (finding.severity != Severity::kCritical) continue;
    return Error(Code::kCheckpointInvalid,
                 fmt::format("the trading checkpoint fails the rule {}: {}, wanted {} ({})",
                             finding.rule, finding.input, finding.threshold, finding.detail))
        .with("rule", finding.rule)
        .with("subject", finding.subject);
  }
  return std::nullopt;
}

wire::Json CheckpointVerdict::to_json() const {
  wire::Json list = wire::Json::array();
  for (const CheckpointFinding& finding : findings) list.push(finding.to_json());
  return wire::Json::object({{"usable", usable()},
                             {"present", checkpoint.has_value()},
                             {"worst", to_string(worst)},
                             {"findings", std::move(list)}});
}

CheckpointVerdict validate_checkpoint(const std::optional<std::string>& text,
                                      const LedgerView& state,
                                      const std::vector<venue::Fill>& fills_since_checkpoint,
                                      const CheckpointRules& rules, std::int64_t now_wall_ns) {
  return Validation(state, fills_since_checkpoint, rules, now_wall_ns).run(text);
}

std::map<std::string, Position> derive_positions(
    const Checkpoint& checkpoint, const std::map<std::string, Instrument>& instruments,
    const std::vector<venue::Fill>& fills) {
  std::map<std::string, Position> positions = checkpoint.positions;
  for (const venue::Fill& fill : fills) {
    const auto instrument = instruments.find(fill.symbol);
    const auto position = positions.find(fill.symbol);
    if (instrument == instruments.end() || position == positions.end()) continue;
    if (std::optional<Position> after =
            position_after(position->second, fill, instrument->second)) {
      position->second = std::move(*after);
    }
  }
  return positions;
}

std::string_view to_string(StateSource source) {
  constexpr std::array<std::string_view, 3> kNames = {"ledger", "checkpoint", "venue"};
  return kNames[static_cast<std::size_t>(source)];
}

bool severity_is_configurable(std::string_view rule) {
  return rule != "checksum" && rule != "version" &&
         std::find(kCheckpointRules.begin(), kCheckpointRules.end(), rule) !=
             kCheckpointRules.end();
}

RebuildCost estimate_rebuild(const venue::RebuildModel& model, const RebuildSize& size,
                             os::Duration round_trip) {
  const auto pages_of = [](std::uint64_t items, std::int64_t page) {
    return page <= 0
               ? std::int64_t{1}
               : std::max<std::int64_t>(1, (static_cast<std::int64_t>(items) + page - 1) / page);
  };
  const std::int64_t order_pages = pages_of(size.open_orders, model.orders_page);
  const auto symbols = std::max<std::int64_t>(1, static_cast<std::int64_t>(size.symbols));
  const std::int64_t all_pages = pages_of(size.fills, model.fills_page);
  // How the fills spread over the symbols is not known; each symbol ends with a part of a page.
  const std::int64_t fill_pages = model.filtered ? all_pages + symbols - 1 : all_pages;
  RebuildCost cost;
  cost.requests = model.fixed_requests + order_pages + fill_pages;
  cost.weight = model.fixed + order_pages * model.orders_cost + fill_pages * model.fills_cost;
  cost.capacity = model.limit.capacity;
  cost.estimate = venue::predict(model.limit, cost.requests, cost.weight, round_trip);
  return cost;
}

wire::Json SourceDecision::to_json() const {
  return wire::Json::object({{"source", to_string(source)},
                             {"reason", reason},
                             {"rebuild_requests", rebuild.requests},
                             {"rebuild_weight", rebuild.weight},
                             {"rebuild_capacity", rebuild.capacity},
                             {"rebuild_estimate", os::format_duration(rebuild.estimate)}});
}

SourceDecision choose_source(const CheckpointVerdict& verdict, const LedgerView& state,
                             const RebuildCost& rebuild) {
  SourceDecision decision;
  decision.rebuild = rebuild;
  if (!state.initialized) {
    decision.source = StateSource::kVenue;
    decision.reason = "the ledger is new: balances and cursors are taken from the venue";
    return decision;
  }
  const auto critical =
      std::find_if(verdict.findings.begin(), verdict.findings.end(),
                   [](const auto& finding) { return finding.severity == Severity::kCritical; });
  if (critical == verdict.findings.end()) {
    decision.source = StateSource::kLedger;
    decision.reason = verdict.checkpoint ? "the ledger follows from its checkpoint"
                                         : "no checkpoint contradicts the ledger";
    return decision;
  }
  if (critical->rule == "ledger_follows") {
    decision.source = StateSource::kCheckpoint;
    decision.reason = "positions are derived anew from the checkpoint and the booked trades";
    return decision;
  }
  decision.source = StateSource::kVenue;
  decision.reason =
      fmt::format("the checkpoint fails {}: the ledger counts only as far as the venue confirms it",
                  critical->rule);
  return decision;
}

}  // namespace defib::trading
