#include "defib/trading/config.h"

#include <array>
#include <chrono>

#include "defib/os/files.h"

namespace defib::trading {
namespace {

using namespace std::chrono_literals;

constexpr std::int64_t kMaxRecvWindowMs = 60'000;
constexpr int kMany = 1'000'000;
constexpr conf::Range<os::Duration> kRampTime{0s, 24h};
const conf::Range<Decimal> kPositive{Decimal::from_units(1), conf::kAnyDecimal.max};
const conf::Range<Decimal> kNotNegative{Decimal(), conf::kAnyDecimal.max};

// Tables of the same file that others read.
constexpr std::array<std::string_view, 3> kNeighbours = {"defib", "service", "engine"};

VenueConfig read_venue(conf::Section section) {
  VenueConfig venue;
  if (!section.present()) return venue;
  section.value("kind", venue.kind);
  if (venue.kind != "binance") section.fail("kind", "only \"binance\" is known");
  section.value("url", venue.url);
  if (venue.url.ends_with('/')) section.fail("url", "must not end with a slash");
  section.value("api_key", venue.api_key);
  section.value("api_secret", venue.api_secret);
  section.value("recv_window_ms", venue.recv_window_ms, {1, kMaxRecvWindowMs});
  section.value("visibility_lag_ms", venue.visibility_lag_ms, {0, kMaxRecvWindowMs});
  section.value("timeout", venue.timeout, {10ms, 10min});
  section.value("symbols", venue.symbols);
  return venue;
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
  return limits;
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
  section.value("max_checkpoint_age", gates.max_checkpoint_age);
  checkpoint.max_age = gates.max_checkpoint_age;
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
  config.limits = read_limits(trading.table("limits"));
  read_gates(trading.table("gates"), config);
  read_ramp(trading.table("ramp"), config.ramp);
  return config;
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
