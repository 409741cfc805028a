#include <fmt/core.h>

#include "defib/conf/conf.h"
#include "defib/engine/engine.h"

namespace defib::engine {

using namespace std::chrono_literals;

Result<EngineConfig> load_engine_config(const std::string& path) {
  EngineConfig config;
  DEFIB_TRY_ASSIGN(config.trading, trading::load_trading_config(path));
  DEFIB_TRY_ASSIGN(conf::Document document, conf::Document::parse_file(path));
  conf::Section root = document.root();
  // These belong to other programs, which check them.
  for (const char* other :
       {"defib", "service", "alert", "http", "bundle", "venue", "venues", "trading", "runbook"}) {
    root.has(other);
  }
  conf::Section engine = root.table("engine");
  engine.value("tick", config.tick, {1ms, 1min});
  engine.value("sync_every", config.sync_every, {10ms, 1min});
  engine.value("retry_recovery", config.retry_recovery, {10ms, 1h});
  engine.value("heartbeat", config.heartbeat, {0ms, 1h});
  engine.value("order_notional", config.strategies.order_notional,
               {Decimal::from_units(1), Decimal::from_integer(1'000'000)});
  engine.value("resting_orders", config.strategies.resting_orders, {0, 100'000});
  engine.value("orders_per_tick", config.strategies.orders_per_tick, {0, 1'000});
  engine.value("max_order_age", config.max_order_age, {100ms, 24h});
  engine.value("seed", config.strategies.seed);
  config.strategies.max_age_ms = config.max_order_age / 1ms;
  DEFIB_TRY(document.finish());
  return config;
}

std::string trading_text(const trading::TradingConfig& config) {
  if (config.others.empty()) return "trading";
  std::string idle;
  for (const trading::VenueConfig& other : config.others) {
    idle += (idle.empty() ? "" : ", ") + other.name;
  }
  return fmt::format("trading on {} alone; the engine sends no order to {}", config.venue.name,
                     idle);
}

}  // namespace defib::engine
