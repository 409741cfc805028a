// TradingConfig: everything that [venue] and [trading] of the configuration say, with defaults.
// No limits table means no limits, and no limits means no trading.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
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
#include "defib/trading/runbook.h"

namespace defib::trading {

struct VenueConfig {
  std::string name;  // of this account: its kind unless [venue] says otherwise
  std::string kind = "binance";
  std::string url;       // empty: the venue's own
  conf::Secret api_key;  // the file holds env:NAME or file:PATH
  conf::Secret api_secret;
  std::int64_t recv_window_ms = 1'000;
  std::int64_t visibility_lag_ms = 1'000;
  os::Duration timeout = std::chrono::seconds(5);
  std::vector<std::string> symbols;
  std::int64_t rate_capacity = -1;   // of the venue's budget; -1: the venue's usual, 0: no limit
  std::vector<std::string> command;  // kind "exec": the program that speaks for the venue
  bool margin = false;               // a margin account, where the kind knows both
  std::string nonce_file;            // kraken: keeps its nonce growing over a stepping clock
  std::string rate_file;             // keeps count of the venue's rate limit over restarts
};

enum class ReconcileMode {
  kStrict,  // no tolerance, and every difference needs a person
  kReview,  // what known fills and orders explain is corrected; the rest stops for review
  kApply,   // the venue wins in everything, with the reason in the journal
};
std::string_view to_string(ReconcileMode mode);

struct TradingConfig {
  VenueConfig venue;                // the first account, which the engine trades on
  std::vector<VenueConfig> others;  // [[venues]]: reconciled, guarded and killed with it
  std::string owner = "dfb";        // three characters of [a-z0-9]
  std::vector<std::string> strategies;
  store::Durability intent_durability = store::Durability::kProcess;
  os::Duration checkpoint_every = std::chrono::seconds(30);
  ReconcileMode reconcile_mode = ReconcileMode::kReview;
  os::Duration reconcile_every = std::chrono::seconds(30);  // while ramping; zero: only before
  Tolerance tolerance;
  Valuation valuation;
  std::optional<Limits> limits;  // [trading.limits]; none: nothing may trade
  CheckpointRules checkpoint;
  GateThresholds gates;  // [trading.gates]
  RampOptions ramp;      // [trading.ramp]
  Runbook runbook;       // [runbook]
};

// Reads [venue] and [trading] of a document; errors are kept by the document, see conf/conf.h. All
// durations, amounts and defaults are listed in docs/trading.md.
TradingConfig read_trading_config(conf::Section root);
// Where an account's rate_file is not configured, it lies in the state directory.
void keep_rates_in(const std::string& state_dir, TradingConfig& config);
// The adapter of an account.
Result<std::unique_ptr<venue::Venue>> open_venue(const VenueConfig& config,
                                                 const os::Clock* clock = nullptr,
                                                 std::function<void()> after_exchange = {});
// The account of this name, or nullptr.
const VenueConfig* find_venue(const TradingConfig& config, std::string_view name);
// All accounts, the first one first.
std::vector<VenueConfig> all_venues(const TradingConfig& config);
// Where an account's store lies: DIR/trading for the first, DIR/trading-NAME for the others.
std::string account_store_dir(const std::string& state_dir, const TradingConfig& config,
                              const std::string& venue);
// Where the engine's store lies in the state directory; plans/ and approvals/ lie beside it.
std::string trading_store_dir(const std::string& state_dir);
// Reads a TOML file whose other top-level tables belong to the supervisor; the Config* errors name
// file, line and column.
Result<TradingConfig> load_trading_config(const std::string& path);

}  // namespace defib::trading
