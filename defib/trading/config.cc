#include "defib/trading/config.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>

#include "defib/os/files.h"
#include "defib/venue/factory.h"

namespace defib::trading {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kMaxRecvWindowMs = 60'000;
constexpr int kMany = 1'000'000;
constexpr conf::Range<os::Duration> kRampTime{0s, 24h};
const conf::Range<Decimal> kPositive{Decimal::from_units(1), conf::kAnyDecimal.max};
const conf::Range<Decimal> kNotNegative{Decimal(), conf::kAnyDecimal.max};

// Tables of the same file that others read.
constexpr std::array<std::string_view, 6> kNeighbours = {"defib", "service", "engine",
                                                         "alert", "http",    "bundle"};

constexpr std::array<std::string_view, 5> kKinds = {"binance", "binance_futures", "kraken",
                                                    "coinbase", "exec"};
constexpr std::size_t kMaxVenues = 16;

bool is_account_name(std::string_view name) {
  return !name.empty() && name.size() <= 32 &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_-") == std::string_view::npos;
}

VenueConfig read_venue(conf::Section section) {
  VenueConfig venue;
  if (!section.present()) return venue;
  section.value("kind", venue.kind);
  if (std::find(kKinds.begin(), kKinds.end(), venue.kind) == kKinds.end()) {
    section.fail("kind", "must be binance, binance_futures, kraken, coinbase or exec");
  }
  venue.name = venue.kind;
  section.value("name", venue.name);
  if (!is_account_name(venue.name)) {
    section.fail("name", "must be 1 to 32 characters of [a-z0-9_-]");
  }
  section.value("url", venue.url);
  if (venue.url.ends_with('/')) section.fail("url", "must not end with a slash");
  section.value("api_key", venue.api_key);
  section.value("api_secret", venue.api_secret);
  section.value("recv_window_ms", venue.recv_window_ms, {1, kMaxRecvWindowMs});
  section.value("visibility_lag_ms", venue.visibility_lag_ms, {0, kMaxRecvWindowMs});
  section.value("timeout", venue.timeout, {10ms, 10min});
  section.value("symbols", venue.symbols);
  section.value("rate_capacity", venue.rate_capacity, {0, kMany});
  section.value("command", venue.command);
  section.value("margin", venue.margin);
  section.value("nonce_file", venue.nonce_file);
  section.value("rate_file", venue.rate_file);
  if (venue.kind == "exec" && venue.command.empty()) {
    section.fail("command", "kind = \"exec\" needs the program and its arguments");
  }
  return venue;
}

void read_reconcile(conf::Section section, TradingConfig& config) {
  section.word("mode", config.reconcile_mode,
               {{"strict", ReconcileMode::kStrict},
                {"review", ReconcileMode::kReview},
                {"apply", ReconcileMode::kApply}});
  section.value("while_ramping", config.reconcile_every, {0s, 24h});
  conf::StringMap tolerances;
  section.value("tolerance_by_symbol", tolerances);
  for (const auto& [symbol, text] : tolerances) {
    const Result<Decimal> tolerance = Decimal::parse(text);
    if (!tolerance || *tolerance < Decimal()) {
      section.fail("tolerance_by_symbol", "every tolerance must be a number, not negative");
      continue;
    }
    config.tolerance.by_symbol[symbol] = *tolerance;
  }
}

void read_valuation(conf::Section trading, Valuation& valuation) {
  trading.value("currency", valuation.currency);
  conf::StringMap rates;
  trading.value("rates", rates);
  for (const auto& [asset, text] : rates) {
    const Result<Decimal> rate = Decimal::parse(text);
    if (!rate || *rate <= Decimal()) {
      trading.fail("rates", "every rate must be a positive number");
      continue;
    }
    valuation.rates[asset] = *rate;
  }
  if (valuation.currency.empty() && !rates.empty()) {
    trading.fail("rates", "rates need `currency`, which they are rates into");
  }
}

std::optional<Limits> read_limits(conf::Section section) {
  if (!section.present()) return std::nullopt;
  Limits limits;
  section.value("max_order_notional", limits.max_order_notional, kPositive);
  section.value("max_position_notional", limits.max_position_notional, kPositive);
  section.value("max_exposure", limits.max_exposure, kPositive);
  section.value("max_open_orders", limits.max_open_orders, {1, kMany});
  section.value("max_orders_per_second", limits.max_orders_per_second, {1, kMany});
  section.value("max_unknown_intents", limits.max_unknown_intents, {1, kMany});
  section.value("price_collar", limits.price_collar, kNotNegative);
  section.value("max_orders_per_parent", limits.max_orders_per_parent, {0, kMany});
  return limits;
}

void read_words_of_gates(conf::Section section, GateThresholds& gates,
                         CheckpointRules& checkpoint) {
  conf::StringMap verdicts;
  section.value("verdicts", verdicts);
  for (const auto& [gate, word] : verdicts) {
    const auto verdict = recovery::verdict_from_string(word);
    if (!verdict) {
      section.fail("verdicts", "a verdict is allow, warn, monitor_only, need_approval or refuse");
      continue;
    }
    const Result<> allowed = check_gate_verdict(gate, *verdict);
    if (!allowed) section.fail("verdicts", allowed.error().message());
    gates.verdicts[gate] = *verdict;
  }
  conf::StringMap severities;
  section.value("severity", severities);
  for (const auto& [rule, word] : severities) {
    const std::optional<Severity> severity = parse_severity(word);
    if (!severity) {
      section.fail("severity", "a severity is info, warning or critical");
    } else if (!severity_is_configurable(rule)) {
      section.fail("severity", "the checkpoint has no rule " + rule + " whose severity may change");
    } else {
      checkpoint.severity[rule] = *severity;
    }
  }
  std::vector<std::string> symbols;
  section.value("negative_prices_for", symbols);
  checkpoint.negative_prices_for.insert(symbols.begin(), symbols.end());
}

void read_gates(conf::Section section, TradingConfig& config) {
  GateThresholds& gates = config.gates;
  CheckpointRules& checkpoint = config.checkpoint;
  section.value("max_crashes", gates.max_crashes, {0, kMany});
  section.value("crash_window", gates.crash_window);
  section.value("max_exposure", gates.max_exposure, kPositive);
  section.value("max_volatility", gates.max_volatility, kNotNegative);
  section.value("volatility_window", gates.volatility_window);
  section.value("max_price_age", gates.max_price_age);
  section.value("max_clock_skew", gates.max_clock_skew);
  section.value("approval_always", gates.approval_always);
  section.value("require_cause", gates.require_cause);
  section.value("max_checkpoint_age", gates.max_checkpoint_age);
  section.value("checkpoint_age_warning", checkpoint.max_age);
  read_words_of_gates(section, gates, checkpoint);
  section.value("future_allowance", checkpoint.future_allowance);
  section.value("max_quantity", checkpoint.max_quantity, kPositive);
  section.value("max_notional", checkpoint.max_notional, kPositive);
  section.value("margin_account", checkpoint.margin_account);
  section.value("prices_may_be_negative", checkpoint.prices_may_be_negative);
  conf::StringMap quantities;
  section.value("max_quantity_by_symbol", quantities);
  for (const auto& [symbol, text] : quantities) {
    const Result<Decimal> quantity = Decimal::parse(text);
    if (!quantity || *quantity <= Decimal()) {
      section.fail("max_quantity_by_symbol", "every quantity must be a positive number");
      continue;
    }
    checkpoint.max_quantity_by_symbol[symbol] = *quantity;
  }
}

void read_ramp(conf::Section section, RampOptions& ramp) {
  section.value("check_after", ramp.check_after, kRampTime);
  section.value("settle", ramp.settle, kRampTime);
  section.value("watch", ramp.watch, kRampTime);
  section.value("check_every", ramp.check_every, {10ms, 1h});
  const std::vector<conf::Section> steps = section.tables("steps");
  if (steps.empty()) return;
  ramp.steps.clear();
  for (conf::Section step : steps) {
    RampStep read;
    step.value("percent", read.percent, {1, 100});
    step.word(
        "max_risk", read.max_risk,
        {{"low", RiskLevel::kLow}, {"medium", RiskLevel::kMedium}, {"high", RiskLevel::kHigh}});
    if (!ramp.steps.empty() && read.percent < ramp.steps.back().percent) {
      step.fail("percent", "a step must not allow less than the one before it");
    }
    ramp.steps.push_back(read);
  }
}

}  // namespace

TradingConfig read_trading_config(conf::Section root) {
  TradingConfig config;
  config.venue = read_venue(root.table("venue"));
  for (conf::Section section : root.tables("venues")) {
    VenueConfig other = read_venue(section);
    const bool taken = find_venue(config, other.name) != nullptr;
    if (taken) section.fail("name", "another venue has this name already");
    if (config.others.size() + 1 >= kMaxVenues) section.fail("name", "too many venues");
    config.others.push_back(std::move(other));
  }
  config.checkpoint.venue = config.venue.name;
  config.runbook = read_runbook(root.table("runbook"));
  conf::Section trading = root.table("trading");
  if (!trading.present()) return config;
  trading.value("owner", config.owner);
  if (!parse_client_id(config.owner + std::string(kEpochLength + kCounterLength, '0'))) {
    trading.fail("owner", "must be three characters of [a-z0-9]");
  }
  trading.value("strategies", config.strategies);
  trading.word("durability", config.intent_durability,
               {{"process", store::Durability::kProcess}, {"power", store::Durability::kPower}});
  trading.value("checkpoint_every", config.checkpoint_every, {100ms, 24h});
  trading.value("tolerance", config.tolerance.configured, kNotNegative);
  read_valuation(trading, config.valuation);
  read_reconcile(trading.table("reconcile"), config);
  config.limits = read_limits(trading.table("limits"));
  read_gates(trading.table("gates"), config);
  read_ramp(trading.table("ramp"), config.ramp);
  return config;
}

std::string_view to_string(ReconcileMode mode) {
  constexpr std::array<std::string_view, 3> kNames = {"strict", "review", "apply"};
  return kNames[static_cast<std::size_t>(mode)];
}

void keep_rates_in(const std::string& state_dir, TradingConfig& config) {
  const auto keep = [&](VenueConfig& venue) {
    if (venue.rate_file.empty()) venue.rate_file = state_dir + "/rates-" + venue.name;
  };
  keep(config.venue);
  for (VenueConfig& other : config.others) keep(other);
}

Result<std::unique_ptr<venue::Venue>> open_venue(const VenueConfig& config, const os::Clock* clock,
                                                 std::function<void()> after_exchange) {
  venue::AccountOptions options;
  options.name = config.name;
  options.kind = config.kind;
  options.url = config.url;
  options.api_key = config.api_key.reveal();
  options.api_secret = config.api_secret.reveal();
  options.recv_window_ms = config.recv_window_ms;
  options.visibility_lag_ms = config.visibility_lag_ms;
  options.timeout = config.timeout;
  options.rate_capacity = config.rate_capacity;
  options.margin = config.margin;
  options.nonce_file = config.nonce_file;
  options.rate_file = config.rate_file;
  options.symbols = config.symbols;
  options.command = config.command;
  options.clock = clock;
  options.after_exchange = std::move(after_exchange);
  return venue::make_venue(std::move(options));
}

const VenueConfig* find_venue(const TradingConfig& config, std::string_view name) {
  if (config.venue.name == name) return &config.venue;
  for (const VenueConfig& other : config.others) {
    if (other.name == name) return &other;
  }
  return nullptr;
}

std::vector<VenueConfig> all_venues(const TradingConfig& config) {
  std::vector<VenueConfig> all = {config.venue};
  all.insert(all.end(), config.others.begin(), config.others.end());
  return all;
}

std::string account_store_dir(const std::string& state_dir, const TradingConfig& config,
                              const std::string& venue) {
  if (venue == config.venue.name) return trading_store_dir(state_dir);
  return os::join_path(state_dir, "trading-" + venue);
}

std::string trading_store_dir(const std::string& state_dir) {
  return os::join_path(state_dir, "trading");
}

Result<TradingConfig> load_trading_config(const std::string& path) {
  DEFIB_TRY_ASSIGN(conf::Document document, conf::Document::parse_file(path));
  conf::Section root = document.root();
  for (const std::string_view name : kNeighbours) static_cast<void>(root.has(name));
  TradingConfig config = read_trading_config(root);
  if (!root.table("venue").present()) root.fail("venue", "[venue] is missing");
  if (!root.table("trading").present()) root.fail("trading", "[trading] is missing");
  if (config.venue.symbols.empty()) root.table("venue").fail("symbols", "name at least one symbol");
  DEFIB_TRY(document.finish());
  return config;
}

}  // namespace defib::trading
