// TradingConfig: everything that [venue] and [trading] of the configuration say, with defaults.
// No limits table means no limits, and no limits means no trading.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/conf/conf.h"
#include "defib/os/clock.h"
#include "defib/store/store.h"
#include "defib/trading/checkpoint.h"
#include "defib/trading/gates.h"
#include "defib/trading/gateway.h"
#include "defib/trading/ramp.h"
#include "defib/trading/reconcile.h"

namespace defib::trading {

struct VenueConfig {
  std::string kind = "binance";
  std::string url = "https://api.binance.com";
  conf::Secret api_key;  // the file holds env:NAME or file:PATH
  conf::Secret api_secret;
  std::int64_t recv_window_ms = 1'000;
  std::int64_t visibility_lag_ms = 1'000;
  os::Duration timeout = std::chrono::seconds(5);
  std::vector<std::string> symbols;
};

struct TradingConfig {
  VenueConfig venue;
  std::string owner = "dfb";  // three characters of [a-z0-9]
  std::vector<std::string> strategies;
  store::Durability intent_durability = store::Durability::kProcess;
  os::Duration checkpoint_every = std::chrono::seconds(30);
  Tolerance tolerance;
  std::optional<Limits> limits;  // [trading.limits]; none: nothing may trade
  CheckpointRules checkpoint;
  GateThresholds gates;  // [trading.gates]
  RampOptions ramp;      // [trading.ramp]
};

// Reads [venue] and [trading] of a document; errors are kept by the document, see conf/conf.h. All
// durations, amounts and defaults are listed in docs/trading.md.
TradingConfig read_trading_config(conf::Section root);
// Where the engine's store lies in the state directory; plans/ and approvals/ lie beside it.
std::string trading_store_dir(const std::string& state_dir);
// Reads a TOML file whose other top-level tables belong to the supervisor; the Config* errors name
// file, line and column.
Result<TradingConfig> load_trading_config(const std::string& path);

}  // namespace defib::trading
