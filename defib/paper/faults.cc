#include "defib/paper/faults.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

namespace defib::paper {
namespace {

using wire::Json;

constexpr std::size_t kMaxRules = 1000;
constexpr std::int64_t kMaxDelayMs = 600'000;

constexpr std::array<std::pair<FaultKind, std::string_view>, 15> kKinds{{
    {FaultKind::kDropRequest, "drop_request"},
    {FaultKind::kDropReply, "drop_reply"},
    {FaultKind::kDelayRequest, "delay_request"},
    {FaultKind::kDelayReply, "delay_reply"},
    {FaultKind::kRateLimit, "rate_limit"},
    {FaultKind::kBan, "ban"},
    {FaultKind::kServerError, "server_error"},
    {FaultKind::kTimeout, "timeout"},
    {FaultKind::kCutReply, "cut_reply"},
    {FaultKind::kGarbageReply, "garbage_reply"},
    {FaultKind::kUnknownFields, "unknown_fields"},
    {FaultKind::kVisibilityLag, "visibility_lag"},
    {FaultKind::kClockSkew, "clock_skew"},
    {FaultKind::kHalt, "halt"},
    {FaultKind::kExternalOrder, "external_order"},
}};

Error bad(std::string_view key, std::string_view expected) {
  return Error(Code::kMalformed, fmt::format("fault rule: '{}' must be {}", key, expected))
      .with("member", key);
}

Result<> read_integer(const Json& value, std::string_view key, std::int64_t low, std::int64_t high,
                      std::int64_t& out) {
  out = value.as_int(low - 1);
  if (!value.is_number() || out < low || out > high) {
    return bad(key, fmt::format("a whole number from {} to {}", low, high));
  }
  return {};
}

template <typename Number>
Result<> read_number(const Json& value, std::string_view key, std::int64_t low, std::int64_t high,
                     Number& out) {
  std::int64_t number = 0;
  DEFIB_TRY(read_integer(value, key, low, high, number));
  out = static_cast<Number>(number);
  return {};
}

Result<> read_text(const Json& value, std::string_view key, std::string& out) {
  if (!value.is_string()) return bad(key, "a text");
  out = value.as_string();
  return {};
}

Result<> read_decimal(const Json& value, std::string_view key, Decimal& out) {
  const Result<Decimal> parsed = Decimal::parse(value.as_string());
  if (!parsed || *parsed < Decimal()) return bad(key, "a decimal in quotes, not negative");
  out = *parsed;
  return {};
}

template <typename Enum>
Result<> read_choice(const Json& value, std::string_view key, Enum& out) {
  const std::optional<Enum> choice = from_string<Enum>(value.as_string());
  if (!choice) return bad(key, "one of the dialect's names, for example BUY or HALT");
  out = *choice;
  return {};
}

Result<> read_kind(const Json& value, FaultKind& out) {
  std::string names;
  for (const auto& [kind, name] : kKinds) {
    if (name == value.as_string()) {
      out = kind;
      return {};
    }
    names += names.empty() ? "" : " ";
    names += name;
  }
  return bad("kind", "one of " + names);
}

Result<> read_probability(const Json& value, std::optional<double>& out) {
  const double probability = value.as_double(-1);
  if (!value.is_number() || probability < 0 || probability > 1) {
    return bad("probability", "a number from 0 to 1");
  }
  out = probability;
  return {};
}

Result<> read_member(FaultRule& rule, std::string_view key, const Json& value) {
  constexpr std::int64_t kCounts = 1'000'000'000;
  if (key == "kind") return read_kind(value, rule.kind);
  if (key == "name") return read_text(value, key, rule.name);
  if (key == "method") return read_text(value, key, rule.method);
  if (key == "path") return read_text(value, key, rule.path);
  if (key == "nth") return read_number(value, key, 1, kCounts, rule.nth);
  if (key == "every") return read_number(value, key, 1, kCounts, rule.every);
  if (key == "probability") return read_probability(value, rule.probability);
  if (key == "times") return read_number(value, key, 1, kCounts, rule.times);
  if (key == "delay_ms") return read_number(value, key, 0, kMaxDelayMs, rule.delay_ms);
  if (key == "status") return read_number(value, key, 400, 599, rule.status);
  if (key == "code") return read_number(value, key, -9999, -1, rule.code);
  if (key == "retry_after_s") return read_number(value, key, 0, 86'400 * 3, rule.retry_after_s);
  if (key == "lag_ms") return read_number(value, key, 0, kMaxDelayMs, rule.lag_ms);
  if (key == "skew_ms") return read_number(value, key, -86'400'000, 86'400'000, rule.skew_ms);
  if (key == "symbol") return read_text(value, key, rule.symbol);
  if (key == "symbol_status") return read_choice(value, key, rule.symbol_status);
  if (key == "side") return read_choice(value, key, rule.side);
  if (key == "price") return read_decimal(value, key, rule.price);
  if (key == "quantity") return read_decimal(value, key, rule.quantity);
  if (key == "accepted") {
    if (!value.is_bool()) return bad(key, "true or false");
    rule.accepted = value.as_bool();
    return {};
  }
  return Error(Code::kMalformed, fmt::format("fault rule: unknown member '{}'", key))
      .with("member", key);
}

}  // namespace

std::string_view to_string(FaultKind kind) {
  return kKinds[static_cast<std::size_t>(kind)].second;
}

Result<FaultRule> parse_fault_rule(const Json& json) {
  if (!json.is_object()) return Error(Code::kMalformed, "a fault rule must be a JSON object");
  if (!json.has("kind")) return bad("kind", "present");
  FaultRule rule;
  for (const auto& [key, value] : json.members()) DEFIB_TRY(read_member(rule, key, value));
  const int selectors = (rule.nth > 0) + (rule.every > 0) + rule.probability.has_value();
  if (selectors > 1) return bad("nth", "alone: nth, every and probability exclude each other");
  if ((rule.kind == FaultKind::kHalt || rule.kind == FaultKind::kExternalOrder) &&
      rule.symbol.empty()) {
    return bad("symbol", "given for this kind");
  }
  if (rule.kind == FaultKind::kExternalOrder && rule.quantity.is_zero()) {
    return bad("quantity", "given and above zero for this kind");
  }
  if (rule.times == 0 && rule.nth > 0) rule.times = 1;
  return rule;
}

Result<std::vector<FaultRule>> parse_fault_rules(std::string_view lines) {
  std::vector<FaultRule> rules;
  std::int64_t number = 0;
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const std::string_view line = lines.substr(0, end);
    lines.remove_prefix(std::min(end + 1, lines.size()));
    ++number;
    const std::size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string_view::npos || line[first] == '#') continue;
    Result<Json> json = Json::parse(line);
    Result<FaultRule> rule = json ? parse_fault_rule(*json) : Result<FaultRule>(json.error());
    if (!rule) {
      return Error(Code::kMalformed, fmt::format("line {} of the fault plan is wrong", number))
          .with("line", number)
          .because(rule.error());
    }
    if (rules.size() == kMaxRules) {
      return Error(Code::kLimitExceeded, fmt::format("more than {} fault rules", kMaxRules));
    }
    rules.push_back(std::move(*rule));
  }
  return rules;
}

Json to_json(const FaultRule& rule) {
  Json json = Json::object();
  json.set("name", rule.name).set("kind", to_string(rule.kind));
  json.set("method", rule.method).set("path", rule.path);
  json.set("matched", rule.matched).set("fired", rule.fired);
  return json;
}

void FaultPlan::add(FaultRule rule) {
  if (rule.name.empty()) rule.name = fmt::format("rule-{}", rules_.size() + 1);
  rules_.push_back(std::move(rule));
}

bool FaultPlan::fires(FaultRule& rule) {
  ++rule.matched;
  // Chance is drawn for every match, so that a bound on the count does not shift later draws.
  const bool chosen = rule.probability ? random_.unit() < *rule.probability
                      : rule.nth > 0   ? rule.matched == rule.nth
                      : rule.every > 0 ? rule.matched % rule.every == 0
                                       : true;
  if (!chosen || (rule.times > 0 && rule.fired >= rule.times)) return false;
  ++rule.fired;
  return true;
}

std::vector<FaultRule> FaultPlan::match(std::string_view method, std::string_view path) {
  std::vector<FaultRule> fired;
  for (FaultRule& rule : rules_) {
    if (!rule.method.empty() && rule.method != method) continue;
    if (!rule.path.empty() && rule.path != path) continue;
    if (fires(rule)) fired.push_back(rule);
  }
  return fired;
}

}  // namespace defib::paper
