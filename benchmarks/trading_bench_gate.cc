// An engine as far as its gates, for trading_bench: opens every account of the configuration,
// recovers all of them side by side, and says in one line of JSON what was decided; then it waits
// to be killed.
//
//   trading_bench_gate CONFIG STATE_DIR

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "defib/os/files.h"
#include "defib/trading/recovery_steps.h"

namespace {

using namespace defib;

struct Account {
  trading::TradingConfig config;
  std::optional<Error> error;
  bool open = false;
  double predicted_ms = 0;
};

Result<> recover(Account& account, const std::string& store_dir, const std::string& state_dir) {
  const os::Clock& clock = os::real_clock();
  const trading::TradingConfig& config = account.config;
  DEFIB_TRY_ASSIGN(const auto store, store::Store::open(store_dir, {}));
  DEFIB_TRY_ASSIGN(trading::IdSource ids,
                   trading::IdSource::begin_boot(*store, clock, config.owner));
  DEFIB_TRY_ASSIGN(const auto venue, trading::open_venue(config.venue));
  venue->set_patience(std::chrono::minutes(10));
  DEFIB_TRY_ASSIGN(const auto intents, trading::IntentLog::open(*store, config.intent_durability));
  DEFIB_TRY_ASSIGN(const auto ledger, trading::Ledger::open(*store, *intents));
  trading::OrderGateway::Parts gateway_parts;
  gateway_parts.venue = venue.get();
  gateway_parts.ledger = ledger.get();
  gateway_parts.ids = &ids;
  gateway_parts.clock = &clock;
  gateway_parts.limits = config.limits;
  trading::OrderGateway gateway(std::move(gateway_parts));
  trading::TradingRecovery::Parts parts;
  parts.store = store.get();
  parts.venue = venue.get();
  parts.clock = &clock;
  parts.files = &os::real_files();
  parts.state_dir = state_dir;
  parts.config = config;
  parts.intents = intents.get();
  parts.ledger = ledger.get();
  parts.ids = &ids;
  parts.gateway = &gateway;
  trading::TradingRecovery recovery(std::move(parts));
  const std::size_t orders = ledger->orders().size();
  const recovery::ProcedureResult result = recovery.procedure().execute(clock);
  if (result.error) return *result.error;
  account.open = recovery.outcome() == trading::GateOutcome::kOpen;
  const trading::RebuildCost cost = trading::estimate_rebuild(
      venue->rebuild_model(), {.symbols = config.venue.symbols.size(), .open_orders = orders},
      std::chrono::milliseconds(1));
  account.predicted_ms = static_cast<double>(cost.estimate.count()) / 1e6;
  return {};
}

// getrusage() counts what the program that started this one had at its peak.
std::int64_t peak_kb() {
  constexpr std::string_view kKey = "VmHWM:";
  const auto status = os::read_file(os::real_files(), "/proc/self/status");
  const std::size_t at = status ? status->find(kKey) : std::string::npos;
  return at == std::string::npos ? 0 : std::atoll(status->c_str() + at + kKey.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto config = trading::load_trading_config(argv[1]);
  if (!config) {
    fmt::print(stderr, "{}\n", config.error().to_text());
    return 1;
  }
  const std::string state_dir = argv[2];
  std::vector<Account> accounts;
  for (const trading::VenueConfig& venue : trading::all_venues(*config)) {
    accounts.push_back({*config, {}, false, 0});
    accounts.back().config.venue = venue;
    accounts.back().config.checkpoint.venue = venue.name;
  }
  std::vector<std::jthread> threads;
  for (Account& account : accounts) {
    threads.emplace_back([&] {
      const std::string dir =
          trading::account_store_dir(state_dir, *config, account.config.venue.name);
      if (auto done = recover(account, dir, state_dir); !done) account.error = done.error();
    });
  }
  threads.clear();
  wire::Json told = wire::Json::object({});
  double predicted_ms = 0;
  for (const Account& account : accounts) {
    if (account.error) fmt::print(stderr, "{}\n", account.error->to_text());
    predicted_ms = std::max(predicted_ms, account.predicted_ms);
  }
  told.set("open", std::ranges::count_if(accounts, &Account::open));
  told.set("predicted_ms", predicted_ms).set("peak_kb", peak_kb());
  fmt::print("{}\n", told.dump());
  std::fflush(stdout);
  ::pause();
}
