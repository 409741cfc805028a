// Every adapter against the paper venue's dialect of it, which shares no code with it, over real
// sockets: the same battery for all, then recovery of a small engine on each.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/paper/service.h"
#include "defib/trading/config.h"
#include "defib/trading/fence.h"
#include "defib/trading/gateway.h"
#include "defib/trading/reconcile.h"
#include "defib/venue/coinbase.h"
#include "defib/venue/factory.h"
#include "defib/wire/http.h"

namespace defib {
namespace {

using namespace std::chrono_literals;
using venue::OrderStatus;

constexpr const char* kKrakenSecret =
    "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg==";

Decimal dec(std::string_view text) {
  return Decimal::parse(text).value();
}

struct Language {
  std::string kind;
  std::string symbol;
  std::string base;
  std::string quote;
  std::string order_path;  // of new orders, for faults
};

// One paper venue in this process, and an adapter that talks to it.
class Venues : public testing::TestWithParam<Language> {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "defib-venues-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    const Language& language = GetParam();
    paper::Service::Options options;
    options.dialect = language.kind;
    options.ledger_path = dir_ + "/ledger.jsonl";
    options.core.maker_fee = options.core.taker_fee = Decimal();
    options.core.market_step_us = 3'600'000'000;  // nobody trades but by our wish
    options.binance = {"key", "secret", {0, 0}};
    options.futures = {.api_key = "key", .api_secret = "secret"};
    options.kraken = {.api_key = "key", .api_secret = kKrakenSecret, .counter_max = 0};
    if (language.kind == "kraken") options.core.symbols = paper::kraken_symbols();
    if (language.kind == "coinbase") {
      options.core.symbols = paper::coinbase_symbols();
      make_key();
      options.coinbase.api_key = "organizations/o/apiKeys/k";
      options.coinbase.public_key = public_key_;
      options.coinbase.requests_per_second = 0;
    }
    options.deposits = {{language.quote, dec("1000000")}, {language.base, dec("10")}};
    auto service = paper::Service::open(options, os::real_files(), os::real_clock());
    ASSERT_TRUE(service) << service.error().to_text();
    service_ = std::move(*service);
    auto server = wire::HttpServer::start(
        {}, [this](const wire::HttpRequest& request) { return service_->trade(request); });
    ASSERT_TRUE(server);
    server_ = std::move(*server);
    venue_ = connect();
    ASSERT_TRUE(venue_->server_time_ms());
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }
  void make_key() {
    const std::string path = dir_ + "/key.pem";
    ASSERT_TRUE(os::run_command({"openssl", "genpkey", "-algorithm", "EC", "-pkeyopt",
                                 "ec_paramgen_curve:P-256", "-out", path},
                                10'000)
                    ->status.success());
    ASSERT_TRUE(
        os::run_command({"openssl", "pkey", "-in", path, "-pubout", "-out", path + ".pub"}, 10'000)
            ->status.success());
    private_key_ = os::read_file(os::real_files(), path, 4096).value();
    public_key_ = os::read_file(os::real_files(), path + ".pub", 4096).value();
  }
  std::unique_ptr<venue::Venue> connect() {
    venue::AccountOptions options;
    options.kind = GetParam().kind;
    options.url = "http://127.0.0.1:" + std::to_string(server_->port());
    options.api_key = GetParam().kind == "coinbase" ? "organizations/o/apiKeys/k" : "key";
    options.api_secret = GetParam().kind == "coinbase" ? private_key_
                         : GetParam().kind == "kraken" ? kKrakenSecret
                                                       : "secret";
    options.visibility_lag_ms = 100;
    options.rate_capacity = 0;
    options.symbols = {GetParam().symbol};
    auto made = venue::make_venue(std::move(options));
    EXPECT_TRUE(made) << made.error().to_text();
    return std::move(*made);
  }
  wire::Json admin(const std::string& method, const std::string& path,
                   const std::string& body = {}) {
    const auto reply = service_->administer({method, path, {}, body});
    EXPECT_EQ(reply.response.status, 200) << reply.response.body;
    return wire::Json::parse(reply.response.body).value();
  }
  void fault(const std::string& kind, const std::string& members = {}) {
    admin("DELETE", "/paper/faults");
    admin("POST", "/paper/faults",
          R"({"kind":")" + kind + R"(","path":")" + GetParam().order_path + R"(","nth":1)" +
              members + "}");
  }
  venue::OrderRequest request(std::string id, std::string_view price = "40000",
                              std::string_view quantity = "0.01") {
    venue::OrderRequest request;
    request.client_id = std::move(id);
    request.symbol = GetParam().symbol;
    request.quantity = dec(quantity);
    request.price = dec(price);
    request.timestamp_ms = os::real_clock().wall_ns() / 1'000'000;
    request.expires_ms = request.timestamp_ms + venue_->recv_window_ms();
    return request;
  }
  Decimal total(const std::string& asset) {
    const auto balances = venue_->balances().value();
    for (const venue::Balance& balance : balances) {
      if (balance.asset == asset) return balance.total();
    }
    return {};
  }

  std::string dir_;
  std::string private_key_, public_key_;
  std::unique_ptr<paper::Service> service_;
  std::unique_ptr<wire::HttpServer> server_;
  std::unique_ptr<venue::Venue> venue_;
};

TEST_P(Venues, PlacesFindsListsAndCancels) {
  const auto placed = venue_->place(request("tst0000100000001"));
  ASSERT_TRUE(placed) << placed.error().to_text();
  EXPECT_FALSE(placed->venue_id.empty());
  const auto found = venue_->order(GetParam().symbol, "tst0000100000001");
  ASSERT_TRUE(found) << found.error().to_text();
  EXPECT_EQ(found->venue_id, placed->venue_id);
  EXPECT_EQ(found->price, dec("40000"));
  EXPECT_EQ(found->quantity, dec("0.01"));
  EXPECT_EQ(found->status, OrderStatus::kNew);
  const auto open = venue_->open_orders(GetParam().symbol);
  ASSERT_TRUE(open) << open.error().to_text();
  ASSERT_EQ(open->size(), 1u);
  EXPECT_EQ(open->front().client_id, "tst0000100000001");
  const auto cancelled = venue_->cancel(GetParam().symbol, "tst0000100000001");
  ASSERT_TRUE(cancelled) << cancelled.error().to_text();
  EXPECT_EQ(cancelled->status, OrderStatus::kCancelled);
  EXPECT_TRUE(venue_->open_orders("")->empty());
  EXPECT_EQ(venue_->cancel(GetParam().symbol, "tst0000100000001").error().code(),
            Code::kOrderNotFound);
  EXPECT_EQ(venue_->order(GetParam().symbol, "tst0000100000009").error().code(),
            Code::kOrderNotFound);
}

// What another process, which knows nothing of this one's replies, finds.
TEST_P(Venues, AFreshAdapterFindsWhatADeadOneLeft) {
  ASSERT_TRUE(venue_->place(request("tst0000100000001")));
  ASSERT_TRUE(venue_->place(request("tst0000100000002")));
  ASSERT_TRUE(venue_->cancel(GetParam().symbol, "tst0000100000002"));
  const auto fresh = connect();
  EXPECT_EQ(fresh->order(GetParam().symbol, "tst0000100000001")->status, OrderStatus::kNew);
  EXPECT_EQ(fresh->order(GetParam().symbol, "tst0000100000002")->status, OrderStatus::kCancelled);
  ASSERT_TRUE(fresh->cancel_all(GetParam().symbol));
  EXPECT_TRUE(fresh->open_orders(GetParam().symbol)->empty());
  EXPECT_TRUE(fresh->cancel_all(GetParam().symbol));  // nothing is open
}

TEST_P(Venues, RulesQuotesBalancesAndStatusAreRead) {
  const auto rules = venue_->rules();
  ASSERT_TRUE(rules) << rules.error().to_text();
  bool known = false;
  for (const venue::SymbolRules& item : *rules) {
    if (item.symbol != GetParam().symbol) continue;
    known = true;
    EXPECT_EQ(item.base_asset, GetParam().base);
    EXPECT_EQ(item.quote_asset, GetParam().quote);
    EXPECT_TRUE(item.trading);
    EXPECT_GT(item.tick, Decimal());
  }
  EXPECT_TRUE(known);
  const auto quote = venue_->quote(GetParam().symbol);
  ASSERT_TRUE(quote) << quote.error().to_text();
  const auto quotes = venue_->quotes();
  ASSERT_TRUE(quotes) << quotes.error().to_text();
  EXPECT_EQ(total(GetParam().quote), dec("1000000"));
  ASSERT_TRUE(venue_->place(request("tst0000100000001")));
  EXPECT_EQ(total(GetParam().quote), dec("1000000"));  // what is locked is still ours
  EXPECT_EQ(*venue_->status(), venue::VenueStatus::kOnline);
  admin("POST", "/paper/halt", R"({"symbol":")" + GetParam().symbol + R"("})");
  const auto halted = venue_->rules().value();
  for (const venue::SymbolRules& item : halted) {
    if (item.symbol == GetParam().symbol) {
      EXPECT_FALSE(item.trading);
    }
  }
  EXPECT_EQ(venue_->place(request("tst0000100000002")).error().code(), Code::kVenueRejected);
}

TEST_P(Venues, FillsComeOldestFirstBehindTheCursor) {
  for (int i = 0; i < 4; ++i) {
    venue::OrderRequest market = request("tst000010000000" + std::to_string(1 + i));
    market.type = venue::OrderType::kMarket;
    market.side = i % 2 == 0 ? venue::Side::kBuy : venue::Side::kSell;
    const auto placed = venue_->place(market);
    ASSERT_TRUE(placed) << placed.error().to_text();
  }
  const auto all = venue_->fills(GetParam().symbol, "");
  ASSERT_TRUE(all) << all.error().to_text();
  ASSERT_EQ(all->size(), 4u);
  EXPECT_EQ(venue_->order(GetParam().symbol, "tst0000100000001")->status, OrderStatus::kFilled);
  Decimal filled;
  for (const venue::Fill& fill : *all) filled += fill.quantity;
  EXPECT_EQ(filled, dec("0.04"));
  EXPECT_EQ(all->front().symbol, GetParam().symbol);
  const auto rest = venue_->fills(GetParam().symbol, all->front().trade_id);
  EXPECT_EQ(rest->size(), all->size() - 1);
  EXPECT_TRUE(venue_->fills(GetParam().symbol, all->back().trade_id)->empty());
}

TEST_P(Venues, ALostReplyIsUnknownAndTheOrderIsFound) {
  fault("drop_reply");
  const auto lost = venue_->place(request("tst0000100000001"));
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code(), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(venue_->order(GetParam().symbol, "tst0000100000001")->status, OrderStatus::kNew);
  fault("drop_request");
  EXPECT_EQ(venue_->place(request("tst0000100000002")).error().code(), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(venue_->order(GetParam().symbol, "tst0000100000002").error().code(),
            Code::kOrderNotFound);
}

TEST_P(Venues, EveryAnswerThatSaysNothingIsUnknown) {
  int number = 0;
  const auto place = [&] {
    return venue_->place(request("tst00001000000" + std::to_string(10 + ++number)));
  };
  for (const char* kind : {"cut_reply", "garbage_reply"}) {
    fault(kind);
    const auto lost = place();
    ASSERT_FALSE(lost) << kind;
    EXPECT_EQ(lost.error().code(), Code::kVenueOutcomeUnknown) << kind;
  }
  fault("server_error", R"(,"status":502)");
  EXPECT_EQ(place().error().code(), Code::kVenueOutcomeUnknown);
  fault("timeout", R"(,"accepted":true)");
  EXPECT_EQ(place().error().code(), Code::kVenueOutcomeUnknown);
  fault("unknown_fields");
  EXPECT_TRUE(place());
  EXPECT_EQ(venue_->open_orders(GetParam().symbol)->size(), 4u);
}

TEST_P(Venues, ARequestBeyondItsFenceIsNeverAccepted) {
  const auto window = venue_->recv_window_ms();
  fault("delay_request", R"(,"delay_ms":)" + std::to_string(window + 1'200));
  const auto late = venue_->place(request("tst0000100000001"));
  ASSERT_FALSE(late);
  EXPECT_EQ(venue_->order(GetParam().symbol, "tst0000100000001").error().code(),
            Code::kOrderNotFound);
  EXPECT_TRUE(venue_->open_orders("")->empty());
}

TEST_P(Venues, AWrongKeyIsToldApart) {
  venue::AccountOptions options;
  options.kind = GetParam().kind;
  options.url = "http://127.0.0.1:" + std::to_string(server_->port());
  options.api_key = "wrong";
  options.api_secret = GetParam().kind == "coinbase" ? private_key_
                       : GetParam().kind == "kraken" ? kKrakenSecret
                                                     : "secret";
  const auto wrong = venue::make_venue(std::move(options)).value();
  EXPECT_EQ(wrong->balances().error().code(), Code::kVenueAuthFailed);
}

TEST_P(Venues, ATestOrderPlacesNothing) {
  const auto tested = venue_->test_order(request("tst0000100000001"));
  EXPECT_TRUE(tested) << tested.error().to_text();
  EXPECT_TRUE(venue_->open_orders("")->empty());
  EXPECT_EQ(venue_->test_order(request("tst0000100000002", "40000", "1000")).error().code(),
            Code::kVenueRejected);
}

TEST_P(Venues, AnOrderOfTheUserInterfaceIsSeen) {
  admin("POST", "/paper/external-order",
        R"({"symbol":")" + GetParam().symbol +
            R"(","side":"BUY","quantity":"0.01","price":"41000"})");
  const auto open = venue_->open_orders(GetParam().symbol);
  ASSERT_TRUE(open) << open.error().to_text();
  ASSERT_EQ(open->size(), 1u);
  EXPECT_TRUE(open->front().client_id.starts_with("web_"));
}

// More orders than fit on a page, and the list moves while it is read.
TEST_P(Venues, LongListsAreReadToTheirEnd) {
  for (int i = 0; i < 270; ++i) {
    const auto placed =
        venue_->place(request("tst0000200000" + std::to_string(100 + i), "40000", "0.001"));
    ASSERT_TRUE(placed) << placed.error().to_text();
  }
  EXPECT_EQ(connect()->open_orders("")->size(), 270u);
  ASSERT_TRUE(venue_->cancel_all(GetParam().symbol));
  EXPECT_TRUE(connect()->open_orders("")->empty());
}

TEST_P(Venues, TheSwitchCancelsWhatADeadEngineLeft) {
  if (!venue_->has_dead_mans_switch()) {
    EXPECT_EQ(venue_->arm_dead_mans_switch(60s).error().code(), Code::kNotFound);
    return;
  }
  ASSERT_TRUE(venue_->place(request("tst0000100000001")));
  const auto armed = venue_->arm_dead_mans_switch(1s);
  ASSERT_TRUE(armed) << armed.error().to_text();
  EXPECT_EQ(venue_->open_orders("")->size(), 1u);
  os::real_clock().sleep_for(1100ms);
  service_->tick();
  EXPECT_TRUE(venue_->open_orders("")->empty());
}

// A gateway on each venue: an order of which the reply is lost is settled by the fence, without a
// second order, and the venue's own ledger agrees.
TEST_P(Venues, TheFenceSettlesWhatALostReplyLeft) {
  auto store = store::Store::open(dir_ + "/store", {}).value();
  auto ids = trading::IdSource::begin_boot(*store, os::real_clock(), "tst").value();
  auto intents = trading::IntentLog::open(*store, store::Durability::kProcess).value();
  auto ledger = trading::Ledger::open(*store, *intents).value();
  const auto ready = ledger->initialize(*venue_, {GetParam().symbol}, os::real_clock().wall_ns());
  ASSERT_TRUE(ready) << ready.error().to_text();
  trading::OrderGateway::Parts parts;
  parts.venue = venue_.get();
  parts.ledger = ledger.get();
  parts.ids = &ids;
  parts.clock = &os::real_clock();
  parts.limits = trading::Limits();
  parts.limits->price_collar = dec("0.5");
  trading::OrderGateway gateway(std::move(parts));
  ASSERT_TRUE(gateway.sync_clock());
  gateway.set_mark(GetParam().symbol, dec("50000"));
  gateway.set_permit({true, 100, trading::RiskLevel::kHigh, "test"});
  trading::OrderDraft draft;
  draft.symbol = GetParam().symbol;
  draft.quantity = dec("0.01");
  draft.price = dec("40000");
  fault("drop_reply");
  const auto found = gateway.submit(draft);
  ASSERT_TRUE(found) << found.error().to_text();
  EXPECT_EQ(found->state, trading::IntentState::kUnknown);
  fault("drop_request");
  const auto lost = gateway.submit(draft);
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->state, trading::IntentState::kUnknown);
  EXPECT_EQ(gateway.exposure().unknown, dec("800"));
  trading::FenceResolver resolver(*ledger, *venue_, os::real_clock(), {});
  const auto settled = resolver.run_until(os::real_clock().mono_ns() + 30'000'000'000);
  ASSERT_TRUE(settled) << settled.error().to_text();
  EXPECT_EQ(settled->remaining, 0);
  EXPECT_EQ(intents->load(found->client_id).value()->state, trading::IntentState::kAccepted);
  EXPECT_EQ(intents->load(lost->client_id).value()->state, trading::IntentState::kNeverAccepted);
  EXPECT_EQ(venue_->open_orders("")->size(), 1u);
  // And reconciled, nothing is left unexplained.
  const auto stored = store->snapshot().value();
  const trading::LedgerState believed = ledger->state();
  const auto snapshot =
      trading::read_venue(*venue_, believed, *stored, {.symbols = {GetParam().symbol}});
  ASSERT_TRUE(snapshot) << snapshot.error().to_text();
  for (const trading::Discrepancy& item : trading::reconcile(believed, *snapshot, {})) {
    EXPECT_TRUE(item.explained) << item.to_json().dump();
  }
}

// The trap of conditional orders: they are exposure, and stand in a list of their own.
TEST_P(Venues, ConditionalOrdersAndPositionsOfFuturesAreSeen) {
  if (GetParam().kind != "binance_futures") {
    EXPECT_FALSE(venue_->has_positions());
    return;
  }
  const std::string payload =
      "symbol=BTCUSDT&side=SELL&quantity=0.01&triggerPrice=30000&"
      "clientAlgoId=stop1&recvWindow=5000&timestamp=" +
      std::to_string(os::real_clock().wall_ns() / 1'000'000);
  const auto placed = service_->trade(
      {"POST",
       "/fapi/v1/algoOrder?" + payload + "&signature=" + paper::hmac_sha256_hex("secret", payload),
       {{"X-MBX-APIKEY", "key"}},
       {}});
  ASSERT_EQ(placed.response.status, 200) << placed.response.body;
  const auto open = venue_->open_orders("BTCUSDT");
  ASSERT_TRUE(open) << open.error().to_text();
  ASSERT_EQ(open->size(), 1u);
  EXPECT_EQ(open->front().client_id, "stop1");
  EXPECT_EQ(open->front().price, dec("30000"));
  ASSERT_TRUE(venue_->cancel_all("BTCUSDT"));
  EXPECT_TRUE(venue_->open_orders("")->empty());
  ASSERT_TRUE(venue_->place(request("tst0000100000001", "49000", "0.5")));
  const auto positions = venue_->positions();
  ASSERT_TRUE(positions) << positions.error().to_text();
  ASSERT_EQ(positions->size(), 1u);
  EXPECT_TRUE(positions->front().quantity.is_zero());
}

TEST_P(Venues, AnIdThatIsOpenIsToldAsADuplicate) {
  ASSERT_TRUE(venue_->place(request("tst0000100000001")));
  const auto again = venue_->place(request("tst0000100000001"));
  if (GetParam().kind == "coinbase") {
    ASSERT_TRUE(again);  // the same order is returned
  } else {
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error().field("duplicate"), "true") << again.error().to_text();
  }
  EXPECT_EQ(venue_->open_orders("")->size(), 1u);
}

using CoinbaseStops = Venues;

// The adapter places none, so this request is made by hand.
TEST_P(CoinbaseStops, WaitAreListedAndTrigger) {
  const auto place = [&](const std::string& stop_price) {
    wire::HttpRequest request;
    request.method = "POST";
    request.url = "/api/v3/brokerage/orders";
    const std::int64_t now = os::real_clock().wall_ns() / 1'000'000'000;
    request.headers = {
        {"Authorization",
         "Bearer " + venue::coinbase_token("organizations/o/apiKeys/k", private_key_, "POST",
                                           "127.0.0.1", request.url, now, now + 60, "00")
                         .value()}};
    request.body =
        R"({"client_order_id":"stop1","product_id":"BTC-USD","side":"SELL","order_configuration":)"
        R"({"stop_limit_stop_limit_gtc":{"base_size":"0.1","limit_price":"48500","stop_price":")" +
        stop_price + R"(","stop_direction":"STOP_DIRECTION_STOP_DOWN"}}})";
    return wire::Json::parse(service_->trade(request).response.body).value();
  };
  const auto trade_at = [&](const std::string& price) {
    for (const char* side : {"SELL", "BUY"}) {
      admin("POST", "/paper/external-order",
            std::string(R"({"symbol":"BTC-USD","side":")") + side +
                R"(","quantity":"0.001","price":")" + price + R"("})");
    }
  };
  for (const char* status : {"HALT", "TRADING"}) {  // without the market's own quotes
    admin("POST", "/paper/halt",
          std::string(R"({"symbol":"BTC-USD","status":")") + status + R"("})");
  }
  trade_at("50000");
  EXPECT_EQ(place("51000")["error_response"]["error"].as_string(),
            "STOP_PRICE_ABOVE_LAST_TRADE_PRICE");
  const wire::Json placed = place("49000");
  ASSERT_TRUE(placed["success"].as_bool()) << placed.dump();
  const auto waiting = venue_->open_orders("BTC-USD");
  ASSERT_TRUE(waiting) << waiting.error().to_text();
  ASSERT_EQ(waiting->size(), 1u);
  EXPECT_EQ(waiting->front().price, dec("48500"));
  // Nobody can trade with it yet.
  ASSERT_TRUE(venue_->place(request("tst0000100000001", "48600", "0.1")));
  EXPECT_EQ(venue_->order("BTC-USD", "tst0000100000001")->status, OrderStatus::kNew);
  trade_at("49000");
  EXPECT_EQ(venue_->order("BTC-USD", "tst0000100000001")->status, OrderStatus::kFilled);
  EXPECT_TRUE(venue_->open_orders("BTC-USD")->empty());
}

INSTANTIATE_TEST_SUITE_P(All, CoinbaseStops,
                         testing::Values(Language{"coinbase", "BTC-USD", "BTC", "USD",
                                                  "/api/v3/brokerage/orders"}),
                         [](const auto& tested) { return tested.param.kind; });

INSTANTIATE_TEST_SUITE_P(
    All, Venues,
    testing::Values(Language{"binance", "BTCUSDT", "BTC", "USDT", "/api/v3/order"},
                    Language{"binance_futures", "BTCUSDT", "BTC", "USDT", "/fapi/v1/order"},
                    Language{"kraken", "XBTUSD", "XXBT", "ZUSD", "/0/private/AddOrder"},
                    Language{"coinbase", "BTC-USD", "BTC", "USD", "/api/v3/brokerage/orders"}),
    [](const auto& tested) { return tested.param.kind; });

}  // namespace
}  // namespace defib
