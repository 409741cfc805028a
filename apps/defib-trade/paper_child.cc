// A small engine for the tests with the paper venue: recovers, ramps up, sends orders, and dies by
// SIGKILL where it is told to.
//
//   paper_child CONFIG STATE_DIR ORDERS POINT NTH    POINT "none": ends by itself, all settled
//
// Exit code 0: everything that it ever sent is settled; 1: an error, on stderr.

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <string_view>

#include "defib/os/files.h"
#include "defib/os/random.h"
#include "defib/trading/recovery_steps.h"
#include "defib/venue/binance.h"

namespace {

using namespace defib;
using namespace std::chrono_literals;

constexpr os::Duration kPatience = 60s;
constexpr os::Duration kPause = 5ms;

struct Arguments {
  std::string config;
  std::string state_dir;
  int orders = 0;
  std::string point;
  int nth = 0;
};

class Engine {
 public:
  explicit Engine(Arguments arguments) : arguments_(std::move(arguments)) {}

  Result<> run() {
    DEFIB_TRY(open());
    const recovery::ProcedureResult result = recovery_->procedure().execute(os::real_clock());
    if (result.error) return *result.error;
    DEFIB_TRY(wait_for_permit());
    for (int i = 0; i < arguments_.orders; ++i) DEFIB_TRY(trade_once());
    DEFIB_TRY(settle_all());
    DEFIB_TRY(ids_->end_boot_cleanly(*store_, os::real_clock()));
    return store_->close();
  }

 private:
  void at(std::string_view point) {
    if (point != arguments_.point || --arguments_.nth != 0) return;
    ::kill(::getpid(), SIGKILL);
  }

  Result<> open() {
    DEFIB_TRY_ASSIGN(config_, trading::load_trading_config(arguments_.config));
    store::Options options;
    DEFIB_TRY_ASSIGN(store_,
                     store::Store::open(trading::trading_store_dir(arguments_.state_dir), options));
    DEFIB_TRY_ASSIGN(trading::IdSource ids,
                     trading::IdSource::begin_boot(*store_, os::real_clock(), config_.owner));
    ids_ = std::make_unique<trading::IdSource>(std::move(ids));
    random_ = os::Random(ids_->epoch());
    venue::BinanceOptions venue_options;
    venue_options.base_url = config_.venue.url;
    venue_options.api_key = config_.venue.api_key.reveal();
    venue_options.api_secret = config_.venue.api_secret.reveal();
    venue_options.recv_window_ms = config_.venue.recv_window_ms;
    venue_options.visibility_lag_ms = config_.venue.visibility_lag_ms;
    venue_options.timeout = config_.venue.timeout;
    venue_options.after_exchange = [this] { at("request_sent"); };
    venue_ = std::make_unique<venue::BinanceVenue>(std::move(venue_options));
    DEFIB_TRY_ASSIGN(intents_, trading::IntentLog::open(*store_, config_.intent_durability));
    DEFIB_TRY_ASSIGN(ledger_, trading::Ledger::open(*store_, *intents_));
    trading::OrderGateway::Parts gateway;
    gateway.venue = venue_.get();
    gateway.ledger = ledger_.get();
    gateway.ids = ids_.get();
    gateway.clock = &os::real_clock();
    gateway.limits = config_.limits;
    gateway.failure_points = [this](std::string_view point) { at(point); };
    gateway.payload = venue::binance_order_payload;
    gateway_ = std::make_unique<trading::OrderGateway>(std::move(gateway));
    trading::TradingRecovery::Parts parts;
    parts.store = store_.get();
    parts.venue = venue_.get();
    parts.clock = &os::real_clock();
    parts.files = &os::real_files();
    parts.state_dir = arguments_.state_dir;
    parts.config = config_;
    parts.intents = intents_.get();
    parts.ledger = ledger_.get();
    parts.ids = ids_.get();
    parts.gateway = gateway_.get();
    parts.events = [](std::string event, wire::Json fields, bool) {
      fmt::print("{} {}\n", event, fields.dump());
    };
    recovery_ = std::make_unique<trading::TradingRecovery>(std::move(parts));
    return {};
  }

  Result<> wait_for_permit() {
    const std::int64_t deadline = os::real_clock().mono_ns() + kPatience.count();
    while (gateway_->permit().percent < 100) {
      if (os::real_clock().mono_ns() > deadline) {
        return Error(Code::kTimeout, "no permit: " + gateway_->permit().reason);
      }
      static_cast<void>(recovery_->poll());  // a faulty venue may refuse a reading
      os::real_clock().sleep_for(kPause);
    }
    return {};
  }

  Result<> trade_once() {
    const std::string& symbol = config_.venue.symbols[random_.below(config_.venue.symbols.size())];
    const Decimal mark = gateway_->marks().at(symbol);
    const trading::Instrument& instrument = ledger_->instruments().at(symbol);
    trading::OrderDraft draft;
    draft.symbol = symbol;
    draft.side = random_.below(2) == 0 ? venue::Side::kBuy : venue::Side::kSell;
    // From resting behind the market to crossing it.
    const Decimal offset = Decimal::from_units(
        static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(mark.units() / 500))));
    const bool cross = random_.below(2) == 0;
    const bool up = (draft.side == venue::Side::kBuy) == cross;
    draft.price = (up ? mark + offset : mark - offset).round_down_to(instrument.tick);
    draft.quantity = (Decimal::from_integer(20) / mark).round_down_to(instrument.lot);
    draft.strategy = "child";
    const Result<trading::Submitted> submitted = gateway_->submit(draft);
    if (!submitted && submitted.error().code() != Code::kLimitBreached) return submitted.error();
    if (random_.below(4) == 0 && !ledger_->orders().empty()) {
      static_cast<void>(gateway_->cancel(ledger_->orders().begin()->first));
    }
    if (random_.below(4) == 0) static_cast<void>(gateway_->sync_orders(symbol));
    static_cast<void>(recovery_->poll());
    return {};
  }

  Result<> settle_all() {
    const std::int64_t deadline = os::real_clock().mono_ns() + kPatience.count();
    while (!intents_->unresolved().empty()) {
      if (os::real_clock().mono_ns() > deadline) {
        return Error(Code::kIntentUnknown, "some intents stay unresolved");
      }
      if (const Result<> polled = recovery_->poll(); !polled && is_critical(polled.error())) {
        return polled.error();
      }
      os::real_clock().sleep_for(kPause);
    }
    for (const std::string& symbol : config_.venue.symbols) {
      Result<int> synced = gateway_->sync_orders(symbol);
      for (int attempt = 0; !synced && attempt < 100; ++attempt) {
        os::real_clock().sleep_for(50ms);
        synced = gateway_->sync_orders(symbol);
      }
      if (!synced) return synced.error();
    }
    return {};
  }

  Arguments arguments_;
  trading::TradingConfig config_;
  os::Random random_{1};
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<trading::IdSource> ids_;
  std::unique_ptr<venue::BinanceVenue> venue_;
  std::unique_ptr<trading::IntentLog> intents_;
  std::unique_ptr<trading::Ledger> ledger_;
  std::unique_ptr<trading::OrderGateway> gateway_;
  std::unique_ptr<trading::TradingRecovery> recovery_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  Engine engine({argv[1], argv[2], std::atoi(argv[3]), argv[4], std::atoi(argv[5])});
  const Result<> result = engine.run();
  if (result) return 0;
  fmt::print(stderr, "{}\n", result.error().to_text());
  return 1;
}
