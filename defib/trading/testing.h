// What trading's tests share: a store that can be killed, and a venue that follows a script.

#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <climits>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "defib/os/pass_through_files.h"
#include "defib/store/store.h"
#include "defib/trading/gateway.h"
#include "defib/trading/ids.h"
#include "defib/trading/ledger.h"
#include "defib/venue/venue.h"

namespace defib::trading::testing_util {

inline Decimal dec(std::string_view text) {
  return Decimal::parse(text).value();
}

class TemporaryDir {
 public:
  TemporaryDir() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "defib-trading-XXXXXX").string();
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  TemporaryDir(const TemporaryDir&) = delete;
  TemporaryDir& operator=(const TemporaryDir&) = delete;
  ~TemporaryDir() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::unique_ptr<store::Store> open_store(const std::string& dir) {
  auto opened = store::Store::open(dir, {});
  EXPECT_TRUE(opened) << opened.error().to_text();
  return std::move(*opened);
}

// How the next order is treated.
enum class Script {
  kAccept,
  kAcceptAndLoseReply,  // it rests at the venue; the caller learns nothing
  kLose,                // it never arrived; the caller learns nothing
  kAcceptLate,          // under way until just before its fence, then accepted
  kReject,
  kUnreachable,
  kRateLimit,
  kSayDuplicateAndHold,  // it arrived twice: held, and reported as a duplicate
};

// A spot venue in memory, on the test's clock, with a visibility lag.
class ScriptedVenue : public venue::Venue {
 public:
  explicit ScriptedVenue(const os::Clock& clock) : clock_(&clock) {
    rules_ = {{"BTCUSDT", "BTC", "USDT", dec("0.01"), dec("0.00001"), dec("5"), true},
              {"ETHUSDT", "ETH", "USDT", dec("0.01"), dec("0.0001"), dec("5"), true}};
    totals_ = {{"BTC", dec("10")}, {"ETH", dec("100")}, {"USDT", dec("1000000")}};
    quotes_["BTCUSDT"] = {"BTCUSDT", dec("49999"), dec("1"), dec("50001"), dec("1")};
    quotes_["ETHUSDT"] = {"ETHUSDT", dec("2999"), dec("1"), dec("3001"), dec("1")};
  }

  // --- The script.
  void next(Script script) { script_.push_back(script); }
  void set_lag_ms(std::int64_t lag) { lag_ms_ = lag; }
  void set_offset_ms(std::int64_t offset) { offset_ms_ = offset; }
  void set_quote(const std::string& symbol, std::string_view bid, std::string_view ask) {
    quotes_[symbol] = {symbol, dec(bid), dec("1"), dec(ask), dec("1")};
  }
  void halt(const std::string& symbol, bool halted = true) {
    for (auto& rule : rules_) {
      if (rule.symbol == symbol) rule.trading = !halted;
    }
  }
  void deposit(const std::string& asset, std::string_view amount) { totals_[asset] += dec(amount); }
  // Lists trades newest first, as kraken does, and so can leave out what is older than asked for.
  void read_fills_by_time(bool by_time) { by_time_ = by_time; }
  // As kraken's smallest account; the requests are counted by whoever sets `on_request`.
  void tell_small_budget() {
    model_ = {.limit = {.capacity = 15, .refill_per_1000s = 330},
              .fixed = 1,
              .orders_cost = 1,
              .fills_cost = 2};
  }
  // All of them, or those of one name.
  void fail_reads(std::optional<Error> error, std::string only = {}) {
    read_error_ = std::move(error);
    failing_read_ = std::move(only);
  }
  void fail_test_order(std::optional<Error> error, int times = INT_MAX) {
    test_order_error_ = std::move(error);
    test_order_failures_ = times;
  }
  // Called before each request, with its name.
  std::function<void(std::string_view)> on_request;

  // Fills an order by its client id, at its price.
  void fill(const std::string& client_id, std::string_view quantity) {
    for (auto& held : held_) {
      if (held.order.client_id == client_id && !venue::is_terminal(held.order.status)) {
        return book(held, dec(quantity));
      }
    }
    FAIL() << "no open order " << client_id;
  }
  // An order of somebody else.
  void place_external(const std::string& client_id, std::string_view quantity,
                      std::string_view price, venue::Side side = venue::Side::kBuy,
                      const std::string& symbol = "BTCUSDT") {
    venue::OrderRequest request;
    request.client_id = client_id;
    request.symbol = symbol;
    request.side = side;
    request.quantity = dec(quantity);
    request.price = dec(price);
    hold(request);
  }
  void drop_order(const std::string& client_id) {
    std::erase_if(held_, [&](const Held& held) { return held.order.client_id == client_id; });
  }

  // --- What happened.
  int placed(const std::string& client_id) const {
    return static_cast<int>(std::count(requests_.begin(), requests_.end(), client_id));
  }
  const std::vector<std::string>& requests() const { return requests_; }
  int orders_of(const std::string& client_id) const {
    return static_cast<int>(std::count_if(held_.begin(), held_.end(), [&](const Held& held) {
      return held.order.client_id == client_id;
    }));
  }
  int open_count() const {
    return static_cast<int>(std::count_if(held_.begin(), held_.end(), [](const Held& held) {
      return !venue::is_terminal(held.order.status);
    }));
  }
  Decimal total(const std::string& asset) const { return totals_.at(asset); }
  int reads() const { return reads_; }
  int cancels() const { return cancels_; }
  std::int64_t now_ms() const { return clock_->wall_ns() / 1'000'000 + offset_ms_; }

  // --- Venue.
  std::string name() const override { return "scripted"; }
  Result<std::int64_t> server_time_ms() override {
    DEFIB_TRY(read("time"));
    return now_ms();
  }
  Result<std::vector<venue::SymbolRules>> rules() override {
    DEFIB_TRY(read("rules"));
    return rules_;
  }
  Result<venue::Quote> quote(const std::string& symbol) override {
    DEFIB_TRY(read("quote"));
    const auto found = quotes_.find(symbol);
    if (found == quotes_.end()) return Error(Code::kVenueRejected, "no such symbol");
    return found->second;
  }
  Result<std::vector<venue::Quote>> quotes() override {
    DEFIB_TRY(read("quotes"));
    std::vector<venue::Quote> all;
    for (const auto& [symbol, quote] : quotes_) all.push_back(quote);
    return all;
  }
  Result<venue::Order> place(const venue::OrderRequest& request) override {
    if (on_request) on_request("place");
    requests_.push_back(request.client_id);
    const Script script = script_.empty() ? Script::kAccept : script_.front();
    if (!script_.empty()) script_.pop_front();
    switch (script) {
      case Script::kAccept:
        return hold(request).order;
      case Script::kAcceptAndLoseReply:
        hold(request);
        return Error(Code::kVenueOutcomeUnknown, "the reply was lost");
      case Script::kLose:
        return Error(Code::kVenueOutcomeUnknown, "the request was lost");
      case Script::kAcceptLate:
        late_.push_back(request);
        return Error(Code::kVenueOutcomeUnknown, "the request is under way");
      case Script::kReject:
        return Error(Code::kVenueRejected, "insufficient balance");
      case Script::kUnreachable:
        return Error(Code::kVenueUnreachable, "nobody listens");
      case Script::kRateLimit:
        return Error(Code::kVenueRateLimited, "slow down");
      case Script::kSayDuplicateAndHold:
        hold(request);
        return Error(Code::kVenueRejected, "Duplicate order sent.").with("duplicate", "true");
    }
    return Error(Code::kInternal, "no such script");
  }
  Result<venue::Order> cancel(const std::string& symbol, const std::string& client_id) override {
    ++cancels_;
    if (cancel_error_) return *cancel_error_;
    for (Held& held : held_) {
      if (held.order.symbol != symbol || held.order.client_id != client_id ||
          venue::is_terminal(held.order.status)) {
        continue;
      }
      held.order.status = venue::OrderStatus::kCancelled;
      held.order.updated_ms = now_ms();
      return held.order;
    }
    return Error(Code::kOrderNotFound, "Unknown order sent.");
  }
  Result<> cancel_all(const std::string& symbol) override {
    if (on_request) on_request("cancel_all");
    ++cancels_;
    if (cancel_error_) return *cancel_error_;
    accept_late();
    for (Held& held : held_) {
      if (held.order.symbol == symbol && !venue::is_terminal(held.order.status) && visible(held)) {
        held.order.status = venue::OrderStatus::kCancelled;
      }
    }
    return {};
  }
  Result<venue::Order> order(const std::string& symbol, const std::string& client_id) override {
    DEFIB_TRY(read("order"));
    for (auto held = held_.rbegin(); held != held_.rend(); ++held) {
      if (held->order.symbol == symbol && held->order.client_id == client_id && visible(*held)) {
        return held->order;
      }
    }
    return Error(Code::kOrderNotFound, "Order does not exist.");
  }
  Result<std::vector<venue::Order>> open_orders(const std::string& symbol) override {
    DEFIB_TRY(read("open_orders"));
    std::vector<venue::Order> open;
    for (const Held& held : held_) {
      if ((symbol.empty() || held.order.symbol == symbol) && visible(held) &&
          !venue::is_terminal(held.order.status)) {
        open.push_back(held.order);
      }
    }
    return open;
  }
  Result<std::vector<venue::Balance>> balances() override {
    DEFIB_TRY(read("balances"));
    std::map<std::string, Decimal> locked;
    for (const Held& held : held_) {
      if (venue::is_terminal(held.order.status)) continue;
      const Decimal left = held.order.quantity - held.order.filled;
      const bool buy = held.order.side == venue::Side::kBuy;
      const std::string base = held.order.symbol.substr(0, 3);
      locked[buy ? "USDT" : base] += buy ? left * held.order.price : left;
    }
    std::vector<venue::Balance> all;
    for (const auto& [asset, total] : totals_) {
      all.push_back({asset, total - locked[asset], locked[asset]});
    }
    return all;
  }
  Result<std::vector<venue::Fill>> fills(const std::string& symbol,
                                         const std::string& after) override {
    DEFIB_TRY(read("fills"));
    std::vector<venue::Fill> found;
    for (const venue::Fill& fill : fills_) {
      if (fill.symbol == symbol && (after.empty() || trade_id_less(after, fill.trade_id))) {
        found.push_back(fill);
      }
    }
    return found;
  }
  Result<std::vector<venue::Fill>> fills_of(
      const std::map<std::string, venue::FillsFrom>& from) override {
    DEFIB_TRY_ASSIGN(std::vector<venue::Fill> found, Venue::fills_of(from));
    if (!by_time_) return found;
    std::erase_if(found, [&](const venue::Fill& fill) {
      const venue::FillsFrom& first = from.at(fill.symbol);
      return first.after.empty() && fill.time_ms < first.since_ms;
    });
    return found;
  }
  venue::RebuildModel rebuild_model() const override {
    venue::RebuildModel model = model_;
    model.filtered = !by_time_;
    return model;
  }
  Result<> test_order(const venue::OrderRequest& request) override {
    EXPECT_GT(request.quantity, Decimal());
    if (test_order_error_ && test_order_failures_-- > 0) return *test_order_error_;
    return read("test_order");
  }
  std::int64_t recv_window_ms() const override { return 1'000; }
  std::int64_t visibility_lag_ms() const override { return lag_ms_; }

  void fail_cancels(std::optional<Error> error) { cancel_error_ = std::move(error); }
  // Readings and cancels, until this time of the test's clock.
  void fail_everything_until(const Error& error, std::int64_t mono_ns) {
    fail_reads(error);
    fail_cancels(error);
    on_request = [this, mono_ns](std::string_view) {
      if (clock_->mono_ns() < mono_ns) return;
      fail_reads({});
      fail_cancels({});
    };
  }
  // A trade of an order that no query shows.
  void add_fill(venue::Fill fill) { fills_.push_back(std::move(fill)); }
  std::vector<venue::Fill>& all_fills() { return fills_; }

 private:
  struct Held {
    venue::Order order;
    std::int64_t visible_ms = 0;
  };
  Result<> read(std::string_view what) {
    if (on_request) on_request(what);
    ++reads_;
    accept_late();
    if (read_error_ && (failing_read_.empty() || failing_read_ == what)) return *read_error_;
    return {};
  }
  bool visible(const Held& held) const { return now_ms() >= held.visible_ms; }
  Held& hold(const venue::OrderRequest& request, std::int64_t at_ms = 0) {
    const std::int64_t at = at_ms == 0 ? now_ms() : at_ms;
    Held held;
    held.order.client_id = request.client_id;
    held.order.venue_id = std::to_string(++last_order_);
    held.order.symbol = request.symbol;
    held.order.side = request.side;
    held.order.status = venue::OrderStatus::kNew;
    held.order.quantity = request.quantity;
    held.order.price = request.price;
    held.order.created_ms = at;
    held.order.updated_ms = at;
    held.visible_ms = at + hidden_ms_;
    held_.push_back(held);
    return held_.back();
  }
  // Requests under way are accepted one millisecond before their fence.
  void accept_late() {
    for (auto request = late_.begin(); request != late_.end();) {
      if (now_ms() >= request->expires_ms) {
        hold(*request, request->expires_ms - 1);
        request = late_.erase(request);
      } else {
        ++request;
      }
    }
  }
  void book(Held& held, Decimal quantity) {
    venue::Order& order = held.order;
    order.filled += quantity;
    order.filled_quote += quantity * order.price;
    order.status = order.filled >= order.quantity ? venue::OrderStatus::kFilled
                                                  : venue::OrderStatus::kPartiallyFilled;
    order.updated_ms = now_ms();
    const std::string base = order.symbol.substr(0, 3);
    const bool buy = order.side == venue::Side::kBuy;
    const Decimal value = quantity * order.price;
    totals_[base] += buy ? quantity : -quantity;
    totals_["USDT"] += buy ? -value : value;
    fills_.push_back({std::to_string(++last_trade_), order.venue_id, order.symbol, order.side,
                      quantity, order.price, Decimal(), "USDT", now_ms()});
  }

 public:
  // New orders are hidden from queries for so long; at most the lag that the venue admits.
  std::int64_t hidden_ms_ = 0;

 private:
  const os::Clock* clock_;
  std::int64_t offset_ms_ = 0;
  std::int64_t lag_ms_ = 500;
  bool by_time_ = false;
  venue::RebuildModel model_;
  std::int64_t last_order_ = 100;
  std::int64_t last_trade_ = 1'000;
  std::vector<venue::SymbolRules> rules_;
  std::map<std::string, venue::Quote> quotes_;
  std::map<std::string, Decimal> totals_;
  std::deque<Held> held_;
  std::vector<venue::OrderRequest> late_;
  std::vector<venue::Fill> fills_;
  std::deque<Script> script_;
  std::vector<std::string> requests_;
  std::optional<Error> read_error_, cancel_error_, test_order_error_;
  std::string failing_read_;  // empty: all
  int test_order_failures_ = 0;
  int reads_ = 0;
  int cancels_ = 0;
};

// One life of an engine over a store: everything that is opened at a start.
struct Engine {
  static std::unique_ptr<Engine> start(const std::string& dir, const os::Clock& clock,
                                       ScriptedVenue& venue, FailurePoints points = {}) {
    auto engine = std::make_unique<Engine>();
    engine->store = open_store(dir);
    auto ids = IdSource::begin_boot(*engine->store, clock, "tst");
    EXPECT_TRUE(ids) << ids.error().to_text();
    engine->ids = std::make_unique<IdSource>(std::move(*ids));
    auto intents = IntentLog::open(*engine->store, store::Durability::kProcess);
    EXPECT_TRUE(intents) << intents.error().to_text();
    engine->intents = std::move(*intents);
    auto ledger = Ledger::open(*engine->store, *engine->intents);
    EXPECT_TRUE(ledger) << ledger.error().to_text();
    engine->ledger = std::move(*ledger);
    OrderGateway::Parts parts;
    parts.venue = &venue;
    parts.ledger = engine->ledger.get();
    parts.ids = engine->ids.get();
    parts.clock = &clock;
    parts.limits = Limits();
    parts.failure_points = std::move(points);
    engine->gateway = std::make_unique<OrderGateway>(std::move(parts));
    return engine;
  }
  // Baseline, clock and marks, and a permit for everything.
  void ready(ScriptedVenue& venue, const os::Clock& clock) {
    const auto initialized = ledger->initialize(venue, {"BTCUSDT", "ETHUSDT"}, clock.wall_ns());
    ASSERT_TRUE(initialized) << initialized.error().to_text();
    ASSERT_TRUE(gateway->sync_clock());
    gateway->set_mark("BTCUSDT", dec("50000"));
    gateway->set_mark("ETHUSDT", dec("3000"));
    gateway->set_permit({true, 100, RiskLevel::kHigh, "test"});
  }
  static OrderDraft draft(std::string_view quantity = "0.1", std::string_view price = "49000",
                          venue::Side side = venue::Side::kBuy) {
    OrderDraft draft;
    draft.symbol = "BTCUSDT";
    draft.side = side;
    draft.quantity = dec(quantity);
    draft.price = dec(price);
    draft.strategy = "test";
    return draft;
  }
  Submitted submit(const OrderDraft& order = draft()) {
    auto submitted = gateway->submit(order);
    EXPECT_TRUE(submitted) << submitted.error().to_text();
    return submitted ? *submitted : Submitted();
  }

  std::unique_ptr<store::Store> store;
  std::unique_ptr<IdSource> ids;
  std::unique_ptr<IntentLog> intents;
  std::unique_ptr<Ledger> ledger;
  std::unique_ptr<OrderGateway> gateway;
};

// Files of which one may not be looked at, as another user's in a directory of his own.
class GuardedFiles : public os::PassThroughFiles {
 public:
  explicit GuardedFiles(std::string guarded)
      : PassThroughFiles(os::real_files()), guarded_(std::move(guarded)) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    if (path == guarded_) return Error(Code::kPermissionDenied, "open: Permission denied");
    return PassThroughFiles::open(path, mode);
  }
  bool exists(const std::string& path) override {
    return path != guarded_ && PassThroughFiles::exists(path);
  }

 private:
  std::string guarded_;
};

}  // namespace defib::trading::testing_util
