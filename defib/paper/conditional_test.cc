// Conditional orders and fees: on the core, and in the words of the dialects.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "defib/base/bytes.h"
#include "defib/paper/crypto.h"
#include "defib/paper/service.h"
#include "defib/paper/testing.h"
#include "defib/wire/json.h"

namespace defib::paper {
namespace {

using testing::dec;
using ::testing::HasSubstr;
using testing::kStart;
using testing::limit;
using testing::make_core;
using testing::market;
using testing::stop;
using wire::Json;

// No market of its own: the last price is what these tests make it.
class Conditional : public ::testing::Test {
 protected:
  Conditional() : core_(make_core()) {
    core_.set_status(0, SymbolStatus::kHalt);
    core_.set_status(0, SymbolStatus::kTrading);
    core_.take_events();
  }
  std::uint64_t place(const NewOrder& order) {
    const auto placed = core_.place(order);
    EXPECT_TRUE(placed.has_value());
    return placed ? placed->order_id : 0;
  }
  // The account trades with itself at this price.
  void trade_at(std::string_view price) {
    place(limit(name(), Side::kSell, price, "0.001"));
    place(limit(name(), Side::kBuy, price, "0.001"));
    EXPECT_EQ(core_.last_price(0), dec(price));
  }
  std::string name() { return "n" + std::to_string(++names_); }
  const Order& order(std::uint64_t id) { return *core_.find_order(id); }

  Core core_;
  int names_ = 0;
};

TEST_F(Conditional, EachDirectionTriggersAtItsPriceAndNotBefore) {
  trade_at("60000");
  const std::uint64_t stop_sell =
      place(stop(limit("a", Side::kSell, "58000", "0.1"), "59000", false));
  const std::uint64_t profit_sell =
      place(stop(limit("b", Side::kSell, "62000", "0.1"), "61000", true));
  const std::uint64_t stop_buy = place(stop(limit("c", Side::kBuy, "61500", "0.1"), "61000", true));
  const std::uint64_t profit_buy =
      place(stop(limit("d", Side::kBuy, "58000", "0.1"), "59000", false));
  EXPECT_TRUE(order(stop_sell).is_stop());
  EXPECT_TRUE(order(stop_buy).is_stop());
  EXPECT_FALSE(order(profit_sell).is_stop());
  EXPECT_FALSE(order(profit_buy).is_stop());
  trade_at("59000.01");
  trade_at("60999.99");
  for (const std::uint64_t id : {stop_sell, profit_sell, stop_buy, profit_buy}) {
    EXPECT_TRUE(order(id).waits) << id;
  }
  // They wait outside of the book, and hold what they need.
  EXPECT_FALSE(core_.book(0).best(Side::kSell).has_value());
  EXPECT_EQ(core_.balances().at("BTC").locked, dec("0.2"));
  EXPECT_EQ(core_.balances().at("USDT").locked, dec("11950"));
  trade_at("61000");
  EXPECT_FALSE(order(profit_sell).waits);
  EXPECT_FALSE(order(stop_buy).waits);
  EXPECT_TRUE(order(stop_sell).waits);
  EXPECT_EQ(core_.book(0).best(Side::kSell), dec("62000"));
  EXPECT_EQ(core_.book(0).best(Side::kBuy), dec("61500"));
  EXPECT_EQ(core_.check_invariants(), "");
}

TEST_F(Conditional, ATriggeredMarketOrderTakesAndMayTriggerTheNext) {
  trade_at("60000");
  place(limit("bid1", Side::kBuy, "58500", "0.2"));
  place(limit("bid2", Side::kBuy, "57000", "0.2"));
  const std::uint64_t first = place(stop(market("a", Side::kSell, "0.1"), "59000", false));
  const std::uint64_t second = place(stop(market("b", Side::kSell, "0.2"), "58500", false));
  // The first one's trade at 58500 reaches the second one's price.
  place(limit("down", Side::kBuy, "58999", "0.001"));
  place(limit("hit", Side::kSell, "58999", "0.001"));
  EXPECT_EQ(order(first).status, OrderStatus::kFilled);
  EXPECT_EQ(order(first).executed_quote, dec("5850"));
  EXPECT_EQ(order(second).status, OrderStatus::kFilled);
  EXPECT_EQ(order(second).executed_quote, dec("11550"));  // 0.1 at 58500, 0.1 at 57000
  EXPECT_EQ(core_.last_price(0), dec("57000"));
  EXPECT_EQ(core_.check_invariants(), "");
}

TEST_F(Conditional, TheMarkTriggersOnlyWhatAsksForIt) {
  trade_at("60000");
  const std::uint64_t by_mark =
      place(stop(limit("m", Side::kSell, "50000", "0.1"), "55000", false, true));
  const std::uint64_t by_last =
      place(stop(limit("l", Side::kSell, "50000", "0.1"), "55000", false));
  ASSERT_TRUE(core_.set_price(0, dec("55000")).has_value());
  EXPECT_FALSE(order(by_mark).waits);
  EXPECT_TRUE(order(by_last).waits);
}

TEST_F(Conditional, WhatTheAccountCannotPayExpiresWhenItIsTriggered) {
  trade_at("60000");
  place(limit("ask", Side::kSell, "61000", "9"));
  const std::uint64_t buy = place(stop(market("b", Side::kBuy, "9"), "60500", true));
  place(limit("all", Side::kBuy, "50000", "19"));  // the money goes elsewhere
  core_.set_status(0, SymbolStatus::kTrading);
  place(limit("s", Side::kSell, "60500", "0.001"));
  place(limit("t", Side::kBuy, "60500", "0.001"));
  EXPECT_EQ(order(buy).status, OrderStatus::kExpired);
  EXPECT_EQ(order(buy).executed, dec("0"));
  EXPECT_EQ(core_.check_invariants(), "");
}

TEST_F(Conditional, AHaltedMarketTriggersNothingAndACancelledOrderNeverDoes) {
  trade_at("60000");
  const std::uint64_t gone =
      place(stop(limit("g", Side::kSell, "50000", "1"), "59000", false, true));
  const std::uint64_t id = place(stop(limit("a", Side::kSell, "50000", "1"), "59000", false, true));
  EXPECT_TRUE(core_.cancel(gone, "x"));
  EXPECT_EQ(core_.balances().at("BTC").locked, dec("1"));
  core_.set_status(0, SymbolStatus::kHalt);
  ASSERT_TRUE(core_.set_price(0, dec("58000")).has_value());
  EXPECT_TRUE(order(id).waits);
  core_.set_status(0, SymbolStatus::kTrading);
  ASSERT_TRUE(core_.set_price(0, dec("58000.01")).has_value());
  EXPECT_FALSE(order(id).waits);
  EXPECT_EQ(order(gone).status, OrderStatus::kCancelled);
}

TEST(ConditionalReplay, TriggeredOrdersRestBehindThoseThatWereThereBefore) {
  Core live = make_core();
  live.set_status(0, SymbolStatus::kHalt);
  live.set_status(0, SymbolStatus::kTrading);
  for (const NewOrder& order :
       {limit("s", Side::kSell, "60000", "0.001"), limit("b", Side::kBuy, "60000", "0.001"),
        stop(limit("waits", Side::kSell, "90000", "1"), "59000", false),
        limit("rests", Side::kSell, "90000", "1"), limit("x", Side::kSell, "59000", "0.001"),
        limit("y", Side::kBuy, "59000", "0.001")}) {
    ASSERT_TRUE(live.place(order).has_value());
  }
  ASSERT_FALSE(live.find_order("waits")->waits);
  const std::uint64_t first = live.find_order("rests")->id;
  EXPECT_EQ(live.book(0).front(Side::kSell).order_id, first);
  live.set_status(0, SymbolStatus::kHalt);  // so that nobody else quotes
  Core again(Core::Options{});
  for (const Event& event : live.take_events()) ASSERT_TRUE(again.replay(event).has_value());
  again.start(kStart);
  EXPECT_EQ(again.book(0).front(Side::kSell).order_id, first);
  EXPECT_EQ(again.check_invariants(), "");
}

TEST(Fees, InMoneyAreHeldBackByABuyAndTakenOfBothSides) {
  Core core = make_core(1, true);
  core.set_status(0, SymbolStatus::kHalt);
  core.set_status(0, SymbolStatus::kTrading);
  // 0.1 at 50000, and 0.4 % of it in case it takes.
  ASSERT_TRUE(core.place(limit("b", Side::kBuy, "50000", "0.1")).has_value());
  EXPECT_EQ(core.balances().at("USDT").locked, dec("5020"));
  EXPECT_EQ(core.fees_held("USDT"), dec("20"));
  ASSERT_TRUE(core.place(limit("s", Side::kSell, "50000", "0.1")).has_value());
  EXPECT_EQ(core.find_order(1)->fees, dec("12.5"));  // a maker's 0.25 %
  EXPECT_EQ(core.find_order(2)->fees, dec("20"));    // a taker's 0.4 %
  EXPECT_EQ(core.balances().at("USDT").free, dec("999967.5"));
  EXPECT_EQ(core.balances().at("BTC").free, dec("10"));
  EXPECT_EQ(core.trades(0).front().commission_asset, "USDT");
  EXPECT_EQ(core.fees_held("USDT"), dec("0"));
  EXPECT_EQ(core.check_invariants(), "");
  // What could be paid without the fee only is refused.
  EXPECT_EQ(core.place(limit("c", Side::kBuy, "50000", "19.99935")).error(),
            Reject::kInsufficientBalance);
}

// ---- The dialects, signed as their clients sign.

class Spoken : public ::testing::Test {
 protected:
  void open(const std::string& dialect) {
    char pattern[] = "/tmp/paper-conditional-XXXXXX";
    directory_ = mkdtemp(pattern);
    Service::Options options;
    options.dialect = dialect;
    options.ledger_path = directory_ + "/ledger.jsonl";
    options.core.market_step_us = 3'600'000'000;  // nobody trades but by our wish
    options.binance = {"key", "secret", {0, 0}};
    options.futures = {.api_key = "key", .api_secret = "secret"};
    options.kraken = {.api_key = "key", .api_secret = "c2VjcmV0", .counter_max = 0};
    if (dialect == "kraken") {
      options.core.symbols = kraken_symbols();
      options.core.fees_in_quote = true;
      options.core.maker_fee = dec("0.0025");
      options.core.taker_fee = dec("0.004");
      options.deposits = {{"ZUSD", dec("1000000")}, {"XXBT", dec("10")}};
    } else {
      options.deposits = {{"USDT", dec("1000000")}, {"BTC", dec("10")}};
    }
    auto service = Service::open(options, os::real_files(), os::real_clock());
    ASSERT_TRUE(service.has_value()) << service.error().to_text();
    service_ = std::move(*service);
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  // A halt takes the market's own quotes away.
  void clear_quotes(const std::string& symbol) {
    for (const std::string status : {"HALT", "TRADING"}) {
      service_->administer({"POST",
                            "/paper/halt",
                            {},
                            R"({"symbol":")" + symbol + R"(","status":")" + status + "\"}"});
    }
  }

  // Binance, spot and futures: everything in the query.
  Json binance(const std::string& method, const std::string& path, std::string query) {
    query += (query.empty() ? "timestamp=" : "&timestamp=") +
             std::to_string(os::real_clock().wall_ns() / 1'000'000);
    query += "&signature=" + hmac_sha256_hex("secret", query);
    wire::HttpRequest request;
    request.method = method;
    request.url = path + "?" + query;
    request.headers = {{"X-MBX-APIKEY", "key"}};
    return ask(request);
  }
  Json kraken(const std::string& call, const std::string& fields = {}) {
    wire::HttpRequest request;
    request.method = "POST";
    request.url = "/0/private/" + call;
    const std::string nonce = std::to_string(++nonce_);
    request.body = "nonce=" + nonce + (fields.empty() ? "" : "&" + fields);
    const std::string inner = sha256(nonce + request.body);
    request.headers = {{"API-Key", "key"},
                       {"User-Agent", "test"},
                       {"API-Sign", to_base64(hmac_sha512("secret", request.url + inner))}};
    return ask(request);
  }
  Json ask(const wire::HttpRequest& request) {
    const auto reply = service_->trade(request);
    const auto json = Json::parse(reply.response.body);
    EXPECT_TRUE(json.has_value()) << reply.response.body;
    return json ? *json : Json();
  }
  // The account's owner trades with itself, so that this is the last price.
  void last_price(const std::string& symbol, const std::string& price,
                  const std::string& quantity) {
    for (const char* side : {"SELL", "BUY"}) {
      const auto reply = service_->administer({"POST",
                                               "/paper/external-order",
                                               {},
                                               R"({"symbol":")" + symbol + R"(","side":")" + side +
                                                   R"(","quantity":")" + quantity +
                                                   R"(","price":")" + price + R"("})"});
      EXPECT_EQ(reply.response.status, 200) << reply.response.body;
    }
  }

  std::string directory_;
  std::unique_ptr<Service> service_;
  std::uint64_t nonce_ = 0;
};

TEST_F(Spoken, BinanceSpotStopsWaitAreListedAndWorkOnceTriggered) {
  open("binance");
  clear_quotes("BTCUSDT");
  last_price("BTCUSDT", "60000", "0.001");
  const std::string terms = "symbol=BTCUSDT&side=SELL&quantity=0.1&newClientOrderId=stop1";
  const std::string stop_limit = "&type=STOP_LOSS_LIMIT&timeInForce=GTC&price=58000&stopPrice=";
  EXPECT_EQ(binance("POST", "/api/v3/order", terms + stop_limit + "60000")["code"].as_int(), -2010);
  EXPECT_EQ(binance("POST", "/api/v3/order",
                    terms + "&type=LIMIT&timeInForce=GTC&price=58000&stopPrice=1")["code"]
                .as_int(),
            -1106);
  EXPECT_EQ(binance("POST", "/api/v3/order", terms + "&type=STOP_LOSS")["code"].as_int(), -1102);
  const Json placed = binance("POST", "/api/v3/order", terms + stop_limit + "59000");
  EXPECT_EQ(placed["clientOrderId"].as_string(), "stop1") << placed.dump();
  EXPECT_FALSE(placed.has("status")) << "the usual answer to a stop is an ACK";
  Json listed = binance("GET", "/api/v3/openOrders", "symbol=BTCUSDT");
  ASSERT_EQ(listed.size(), 1U);
  EXPECT_EQ(listed.items()[0]["type"].as_string(), "STOP_LOSS_LIMIT");
  EXPECT_EQ(listed.items()[0]["stopPrice"].as_string(), "59000.00000000");
  EXPECT_FALSE(listed.items()[0]["isWorking"].as_bool(true));
  EXPECT_EQ(listed.items()[0]["workingTime"].as_int(), -1);
  last_price("BTCUSDT", "59000", "0.001");
  listed = binance("GET", "/api/v3/openOrders", "symbol=BTCUSDT");
  ASSERT_EQ(listed.size(), 1U);
  EXPECT_TRUE(listed.items()[0]["isWorking"].as_bool());
  EXPECT_GT(listed.items()[0]["workingTime"].as_int(), 0);
  // Now it stands in the book at its limit.
  last_price("BTCUSDT", "57000", "0.001");
  const Json trades = binance("GET", "/api/v3/myTrades", "symbol=BTCUSDT");
  EXPECT_THAT(trades.dump(), HasSubstr("57000"));
  const Json taken = binance("POST", "/api/v3/order",
                             "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=IOC&quantity=0.1&"
                             "price=58000");
  EXPECT_EQ(taken["status"].as_string(), "FILLED") << taken.dump();
  EXPECT_EQ(binance("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=stop1")["status"]
                .as_string(),
            "FILLED");
}

TEST_F(Spoken, FuturesConditionalOrdersMoveFromTheAlgoListToTheOpenOrders) {
  open("binance_futures");
  clear_quotes("BTCUSDT");
  last_price("BTCUSDT", "60000", "0.001");
  const std::string terms = "symbol=BTCUSDT&side=SELL&quantity=0.1&";
  EXPECT_EQ(
      binance("POST", "/fapi/v1/order", terms + "type=STOP_MARKET&stopPrice=1")["code"].as_int(),
      -4120);
  const std::string algo = terms + "algoType=CONDITIONAL&clientAlgoId=c1&type=STOP&price=58000&";
  EXPECT_EQ(binance("POST", "/fapi/v1/algoOrder", algo + "triggerPrice=60000")["code"].as_int(),
            -2021);
  const Json placed = binance("POST", "/fapi/v1/algoOrder", algo + "triggerPrice=59000");
  EXPECT_EQ(placed["algoStatus"].as_string(), "NEW") << placed.dump();
  EXPECT_EQ(binance("POST", "/fapi/v1/algoOrder", algo + "triggerPrice=59000")["code"].as_int(),
            -4116);
  EXPECT_EQ(binance("GET", "/fapi/v1/openOrders", "").size(), 0U);
  EXPECT_EQ(
      binance("GET", "/fapi/v1/order", "symbol=BTCUSDT&origClientOrderId=c1")["code"].as_int(),
      -2013);
  // Cancelling the regular orders leaves it.
  binance("DELETE", "/fapi/v1/allOpenOrders", "symbol=BTCUSDT");
  ASSERT_EQ(binance("GET", "/fapi/v1/openAlgoOrders", "").size(), 1U);
  last_price("BTCUSDT", "59000", "0.001");
  EXPECT_EQ(binance("GET", "/fapi/v1/openAlgoOrders", "").size(), 0U);
  const Json open_orders = binance("GET", "/fapi/v1/openOrders", "");
  ASSERT_EQ(open_orders.size(), 1U);
  EXPECT_EQ(open_orders.items()[0]["clientOrderId"].as_string(), "c1");
  EXPECT_EQ(binance("GET", "/fapi/v1/algoOrder", "clientAlgoId=c1")["algoStatus"].as_string(),
            "TRIGGERED");
  // By the mark, and cancelled before it comes to that.
  const Json second = binance("POST", "/fapi/v1/algoOrder",
                              terms +
                                  "clientAlgoId=c2&type=STOP_MARKET&triggerPrice=50000&"
                                  "workingType=MARK_PRICE");
  EXPECT_EQ(second["workingType"].as_string(), "MARK_PRICE");
  EXPECT_EQ(binance("DELETE", "/fapi/v1/algoOrder", "clientAlgoId=c2")["code"].as_string(), "200");
  EXPECT_EQ(binance("GET", "/fapi/v1/algoOrder", "clientAlgoId=c2")["algoStatus"].as_string(),
            "CANCELED");
}

TEST_F(Spoken, KrakenStopsTriggerAndItsFeesAreInMoney) {
  open("kraken");
  clear_quotes("XBTUSD");
  last_price("XBTUSD", "50000", "0.001");
  EXPECT_THAT(kraken("AddOrder",
                     "pair=XBTUSD&type=sell&ordertype=stop-loss-limit&volume=0.1&"
                     "price=49000")
                  .dump(),
              HasSubstr("price2"));
  const Json placed = kraken("AddOrder",
                             "pair=XBTUSD&type=sell&ordertype=stop-loss-limit&volume=0.1&"
                             "price=49000&price2=48500&cl_ord_id=s1");
  ASSERT_EQ(placed["error"].size(), 0U) << placed.dump();
  Json open_orders = kraken("OpenOrders")["result"]["open"];
  ASSERT_EQ(open_orders.size(), 1U);
  const Json waiting = open_orders.members().front().second;
  EXPECT_EQ(waiting["descr"]["ordertype"].as_string(), "stop-loss-limit");
  EXPECT_EQ(waiting["descr"]["price"].as_string(), "49000");
  EXPECT_EQ(waiting["descr"]["price2"].as_string(), "48500");
  EXPECT_EQ(waiting["stopprice"].as_string(), "49000.00000");
  last_price("XBTUSD", "49000", "0.001");
  const Json bought = kraken("AddOrder",
                             "pair=XBTUSD&type=buy&ordertype=limit&volume=0.1&price=48500&"
                             "cl_ord_id=b1");
  ASSERT_EQ(bought["error"].size(), 0U) << bought.dump();
  EXPECT_EQ(kraken("OpenOrders")["result"]["open"].size(), 0U);
  const Json closed = kraken("ClosedOrders", "cl_ord_id=b1")["result"]["closed"];
  ASSERT_EQ(closed.size(), 1U);
  EXPECT_EQ(closed.members().front().second["fee"].as_string(), "19.40000");  // 4850 * 0.4 %
  // A resting buy holds its price; what it keeps for the fee is not part of hold_trade.
  ASSERT_EQ(
      kraken("AddOrder", "pair=XBTUSD&type=buy&ordertype=limit&volume=0.1&price=40000")["error"]
          .size(),
      0U);
  EXPECT_EQ(kraken("BalanceEx")["result"]["ZUSD"]["hold_trade"].as_string(), "4000.00000000");
}

}  // namespace
}  // namespace defib::paper
