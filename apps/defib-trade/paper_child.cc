// A small engine for the tests with the paper venue, in any of its dialects: recovers, ramps up,
// sends orders, and dies by SIGKILL where it is told to.
//
//   paper_child CONFIG STATE_DIR ORDERS POINT NTH [CLOCK [blind]]
//
// ORDERS 0: it recovers and settles, and resumes nothing, as `defib recover` does.
// POINT: one of the gateway's failure points, an event of the recovery, "request" (before each
// request to the venue), or "none": it ends by itself, all settled. CLOCK: the file of a
// SharedClock. blind: an order whose outcome is lost is sent again, as nobody should.
// Exit code 0: everything that it ever sent is settled; 1: an error, on stderr. Each settled intent
// is told as "settled ID LATE_MS": the venue's time since its fence, or since it was UNKNOWN here
// where that was later, without what held the loop up meanwhile (a late answer, an emergency stop).

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/defib-trade/shared_clock.h"
#include "defib/os/files.h"
#include "defib/os/random.h"
#include "defib/trading/recovery_steps.h"
#include "defib/venue/binance.h"

namespace {

using namespace defib;
using namespace std::chrono_literals;

constexpr os::Duration kPatience = 60s;
constexpr os::Duration kPause = 5ms;
constexpr os::Duration kLongPause = 100ms;  // at most; where nothing is due
constexpr os::Duration kOffline = 10min;    // for the rate budget, where nobody waits to trade
constexpr os::Duration kHeldUp = 150ms;     // a loop whose turn took longer was held up
constexpr std::int64_t kNsPerMs = 1'000'000;

struct Arguments {
  std::string config;
  std::string state_dir;
  int orders = 0;
  std::string point;
  int nth = 0;
  std::string clock = {};
  bool blind = false;
};

// Passes everything on, after telling of it.
class WatchedVenue : public venue::Venue {
 public:
  WatchedVenue(std::unique_ptr<venue::Venue> venue, std::function<void()> before, bool blind)
      : venue_(std::move(venue)), before_(std::move(before)), blind_(blind) {}
  std::string name() const override { return venue_->name(); }
  Result<std::int64_t> server_time_ms() override { return next().server_time_ms(); }
  Result<std::vector<venue::SymbolRules>> rules() override { return next().rules(); }
  Result<venue::Quote> quote(const std::string& symbol) override { return next().quote(symbol); }
  Result<std::vector<venue::Quote>> quotes() override { return next().quotes(); }
  Result<venue::Order> place(const venue::OrderRequest& request) override {
    Result<venue::Order> placed = next().place(request);
    if (!blind_ || placed || placed.error().code() != Code::kVenueOutcomeUnknown) return placed;
    return next().place(request);
  }
  Result<venue::Order> cancel(const std::string& symbol, const std::string& id) override {
    return next().cancel(symbol, id);
  }
  Result<> cancel_all(const std::string& symbol) override { return next().cancel_all(symbol); }
  Result<> cancel_all_of(const std::vector<std::string>& symbols) override {
    return next().cancel_all_of(symbols);
  }
  Result<venue::Order> order(const std::string& symbol, const std::string& id) override {
    return next().order(symbol, id);
  }
  Result<std::vector<venue::Order>> open_orders(const std::string& symbol) override {
    return next().open_orders(symbol);
  }
  Result<std::vector<venue::Balance>> balances() override { return next().balances(); }
  Result<std::vector<venue::Fill>> fills(const std::string& symbol,
                                         const std::string& after) override {
    return next().fills(symbol, after);
  }
  Result<std::vector<venue::Fill>> fills_of(
      const std::map<std::string, venue::FillsFrom>& from) override {
    return next().fills_of(from);
  }
  Result<> test_order(const venue::OrderRequest& request) override {
    return next().test_order(request);
  }
  bool has_positions() const override { return venue_->has_positions(); }
  Result<std::vector<venue::PositionReport>> positions() override { return next().positions(); }
  Result<venue::VenueStatus> status() override { return next().status(); }
  bool has_dead_mans_switch() const override { return venue_->has_dead_mans_switch(); }
  Result<> arm_dead_mans_switch(os::Duration timeout) override {
    return next().arm_dead_mans_switch(timeout);
  }
  venue::RebuildModel rebuild_model() const override { return venue_->rebuild_model(); }
  void set_patience(os::Duration patience) override { venue_->set_patience(patience); }
  std::int64_t recv_window_ms() const override { return venue_->recv_window_ms(); }
  std::int64_t visibility_lag_ms() const override { return venue_->visibility_lag_ms(); }

 private:
  venue::Venue& next() {
    before_();
    return *venue_;
  }
  std::unique_ptr<venue::Venue> venue_;
  std::function<void()> before_;
  bool blind_;
};

class Engine {
 public:
  explicit Engine(Arguments arguments) : arguments_(std::move(arguments)) {
    if (arguments_.clock.empty()) return;
    shared_clock_ = std::make_unique<SharedClock>(arguments_.clock, SharedClock::kEngineStep);
    clock_ = shared_clock_.get();
  }

  Result<> run() {
    started_ = turn_ = clock_->mono_ns();
    DEFIB_TRY(open());
    const recovery::ProcedureResult result = recovery_->procedure().execute(*clock_);
    if (result.error) return *result.error;
    if (arguments_.orders > 0) DEFIB_TRY(wait_for_permit());
    for (int i = 0; i < arguments_.orders; ++i) DEFIB_TRY(trade_once());
    DEFIB_TRY(settle_all());
    DEFIB_TRY(ids_->end_boot_cleanly(*store_, *clock_));
    return store_->close();
  }

 private:
  void at(std::string_view point) {
    if (point != arguments_.point || --arguments_.nth != 0) return;
    ::kill(::getpid(), SIGKILL);
  }

  Result<> open() {
    DEFIB_TRY_ASSIGN(config_, trading::load_trading_config(arguments_.config));
    trading::keep_rates_in(arguments_.state_dir, config_);
    store::Options options;
    DEFIB_TRY_ASSIGN(store_,
                     store::Store::open(trading::trading_store_dir(arguments_.state_dir), options));
    DEFIB_TRY_ASSIGN(trading::IdSource ids,
                     trading::IdSource::begin_boot(*store_, *clock_, config_.owner));
    ids_ = std::make_unique<trading::IdSource>(std::move(ids));
    random_ = os::Random(ids_->epoch());
    DEFIB_TRY_ASSIGN(std::unique_ptr<venue::Venue> adapter,
                     trading::open_venue(config_.venue, clock_, [this] { at("request_sent"); }));
    venue_ = std::make_unique<WatchedVenue>(
        std::move(adapter), [this] { at("request"); }, arguments_.blind);
    if (arguments_.orders == 0) venue_->set_patience(kOffline);
    DEFIB_TRY_ASSIGN(intents_, trading::IntentLog::open(*store_, config_.intent_durability));
    DEFIB_TRY_ASSIGN(ledger_, trading::Ledger::open(*store_, *intents_));
    trading::OrderGateway::Parts gateway;
    gateway.venue = venue_.get();
    gateway.ledger = ledger_.get();
    gateway.ids = ids_.get();
    gateway.clock = clock_;
    gateway.limits = config_.limits;
    gateway.failure_points = [this](std::string_view point) { at(point); };
    if (config_.venue.kind == "binance") gateway.payload = venue::binance_order_payload;
    gateway_ = std::make_unique<trading::OrderGateway>(std::move(gateway));
    trading::TradingRecovery::Parts parts;
    parts.store = store_.get();
    parts.venue = venue_.get();
    parts.clock = clock_;
    parts.files = &os::real_files();
    parts.state_dir = arguments_.state_dir;
    parts.config = config_;
    parts.intents = intents_.get();
    parts.ledger = ledger_.get();
    parts.ids = ids_.get();
    parts.gateway = gateway_.get();
    parts.resume = arguments_.orders > 0;
    parts.events = [this](std::string event, wire::Json fields, bool) {
      fmt::print("{} {}\n", event, fields.dump());
      if (event == "intent_settled" && fields.has("id")) {
        tell_settled(std::string(fields["id"].as_string()));
      }
      if (event == "emergency_stop") stopped_ = true;
      at(event);
    };
    recovery_ = std::make_unique<trading::TradingRecovery>(std::move(parts));
    return {};
  }

  void tell_settled(const std::string& id) {
    const auto intent = intents_->load(id);
    if (!intent || !*intent) return;
    note_turn();
    const std::int64_t now = gateway_->venue_now_ms();
    const std::int64_t alive = now - (clock_->mono_ns() - started_) / kNsPerMs;
    const auto since = unknown_since_ms_.find(id);
    const std::int64_t unknown = since == unknown_since_ms_.end() ? alive : since->second;
    const std::int64_t late = now - std::max((*intent)->fence_ms, unknown);
    fmt::print("settled {} {}\n", id, late - held_up_ms(late));
    std::fflush(stdout);
  }

  Result<> poll() {
    note_turn();
    const Result<> polled = recovery_->poll();
    note_turn();
    return polled;
  }
  void note_turn() {
    const std::int64_t now = clock_->mono_ns();
    if (now - turn_ > kHeldUp.count()) held_up_.emplace_back(turn_, now);
    turn_ = now;
  }
  // Of the last so many milliseconds.
  std::int64_t held_up_ms(std::int64_t last_ms) const {
    const std::int64_t since = turn_ - last_ms * kNsPerMs;
    std::int64_t sum = 0;
    for (const auto& [from, to] : held_up_) {
      sum += std::max<std::int64_t>(0, to - std::max(from, since));
    }
    return sum / kNsPerMs;
  }

  Result<> wait_for_permit() {
    const std::int64_t deadline = clock_->mono_ns() + kPatience.count();
    while (gateway_->permit().percent < 100) {
      // Only another recovery, so another life, leaves that state.
      if (stopped_ || clock_->mono_ns() > deadline) {
        return Error(Code::kTimeout, "no permit: " + gateway_->permit().reason);
      }
      static_cast<void>(poll());  // a faulty venue may refuse a reading
      pause();
    }
    return {};
  }

  void pause() const {
    const std::int64_t next = recovery_->next_poll_mono_ns();
    const os::Duration left(next == 0 ? kPause.count() : next - clock_->mono_ns());
    clock_->sleep_for(std::clamp<os::Duration>(left, kPause, kLongPause));
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
    if (submitted && submitted->state == trading::IntentState::kUnknown) {
      unknown_since_ms_[submitted->client_id] = gateway_->venue_now_ms();
    }
    if (random_.below(4) == 0 && !ledger_->orders().empty()) {
      static_cast<void>(gateway_->cancel(ledger_->orders().begin()->first));
    }
    if (random_.below(4) == 0) static_cast<void>(gateway_->sync_orders(symbol));
    static_cast<void>(poll());
    return {};
  }

  Result<> settle_all() {
    const os::Duration patience = arguments_.orders > 0 ? kPatience : kOffline;
    const std::int64_t deadline = clock_->mono_ns() + patience.count();
    while (!intents_->unresolved().empty()) {
      if (clock_->mono_ns() > deadline) {
        return Error(Code::kIntentUnknown, "some intents stay unresolved");
      }
      if (const Result<> polled = poll(); !polled && is_critical(polled.error())) {
        return polled.error();
      }
      pause();
    }
    for (const std::string& symbol : config_.venue.symbols) {
      Result<int> synced = gateway_->sync_orders(symbol);
      for (int attempt = 0; !synced && attempt < 100; ++attempt) {
        clock_->sleep_for(50ms);
        synced = gateway_->sync_orders(symbol);
      }
      if (!synced) return synced.error();
    }
    return {};
  }

  Arguments arguments_;
  std::unique_ptr<SharedClock> shared_clock_;
  const os::Clock* clock_ = &os::real_clock();
  std::int64_t started_ = 0;
  bool stopped_ = false;
  std::int64_t turn_ = 0;  // of the loop, the last one
  std::vector<std::pair<std::int64_t, std::int64_t>> held_up_;
  std::map<std::string, std::int64_t> unknown_since_ms_;  // of this life
  trading::TradingConfig config_;
  os::Random random_{1};
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<trading::IdSource> ids_;
  std::unique_ptr<venue::Venue> venue_;
  std::unique_ptr<trading::IntentLog> intents_;
  std::unique_ptr<trading::Ledger> ledger_;
  std::unique_ptr<trading::OrderGateway> gateway_;
  std::unique_ptr<trading::TradingRecovery> recovery_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6 || argc > 8) return 2;
  Arguments arguments = {argv[1], argv[2], std::atoi(argv[3]), argv[4], std::atoi(argv[5])};
  if (argc > 6) arguments.clock = argv[6];
  arguments.blind = argc > 7 && std::string_view(argv[7]) == "blind";
  Engine engine(std::move(arguments));
  const Result<> result = engine.run();
  if (result) return 0;
  fmt::print(stderr, "{}\n", result.error().to_text());
  return 1;
}
