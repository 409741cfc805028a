// The dialect over real HTTP: a service with a fake clock behind a server on the loopback.

#include "defib/paper/binance.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "defib/os/clock.h"
#include "defib/paper/audit.h"
#include "defib/paper/service.h"
#include "defib/paper/testing.h"
#include "defib/wire/json.h"

namespace defib::paper {
namespace {

using testing::dec;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using wire::Json;

constexpr std::string_view kSecret =
    "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j";
constexpr std::string_view kVectorPayload =
    "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&"
    "timestamp=1499827319559";
constexpr std::string_view kVectorSignature =
    "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71";

TEST(Signature, MatchesThePublishedVector) {
  EXPECT_EQ(hmac_sha256_hex(kSecret, kVectorPayload), kVectorSignature);
}

TEST(Signature, CoversQueryAndBodyJoinedAndIsCaseInsensitive) {
  const std::string query = "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC";
  const std::string body =
      "quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559&signature=x";
  EXPECT_EQ(hmac_sha256_hex(kSecret, *Parameters::signed_payload(query, body)),
            "0fd168b8ddb4876a0358a8d14d0c9f3da0e9b20c5d52b2a00fcf7d1c602f9a77");
  EXPECT_TRUE(same_signature("0abc", "0ABC"));
  EXPECT_FALSE(same_signature("0abc", "0abd"));
  EXPECT_FALSE(same_signature("0abc", "0abc0"));
}

TEST(Signature, MustBeTheLastParameterAndStandOnce) {
  EXPECT_EQ(*Parameters::signed_payload("a=1&signature=x", ""), "a=1");
  EXPECT_EQ(*Parameters::signed_payload("a=1&signature=x", "b=2"), "a=1b=2");
  EXPECT_EQ(*Parameters::signed_payload("", "signature=x"), "");
  EXPECT_FALSE(Parameters::signed_payload("a=1&signature=x&b=2", ""));
  EXPECT_FALSE(Parameters::signed_payload("signature=x", "signature=x"));
  EXPECT_FALSE(Parameters::signed_payload("a=1", "b=2"));
}

TEST(Parameters, DecodesAndRemembersWhatWasRead) {
  Parameters parameters("a=1%2F2&b=x+y", "c=");
  EXPECT_EQ(parameters.take("a"), "1/2");
  EXPECT_EQ(parameters.take("b"), "x y");
  EXPECT_EQ(parameters.take("d"), std::nullopt);
  EXPECT_EQ(parameters.sent(), 3U);
  EXPECT_EQ(parameters.read(), 2U);
  EXPECT_EQ(Parameters("a=%2", "").problem(), Parameters::Problem::kMalformedEscape);
  EXPECT_EQ(Parameters("a=1", "a=2").problem(), Parameters::Problem::kRepeated);
}

// ---- The venue as a client sees it.

struct Exchange {
  int status = 0;
  wire::Headers headers;
  Json body;
  std::string raw;
  bool lost = false;  // no complete answer
  std::int64_t code() const { return body["code"].as_int(); }
  std::string_view message() const { return body["msg"].as_string(); }
  std::string_view operator[](std::string_view key) const { return body[key].as_string(); }
};

class BinanceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/paper-test-XXXXXX";
    directory_ = mkdtemp(pattern);
    options_.core.seed = 7;
    options_.binance.api_key = "testkey";
    options_.binance.api_secret = kSecret;
    options_.binance.limits = {0, 0};
    options_.ledger_path = directory_ + "/ledger.jsonl";
    options_.deposits = {{"USDT", dec("1000000")}, {"BTC", dec("10")}, {"ETH", dec("100")}};
    open();
  }
  void TearDown() override {
    close();
    std::filesystem::remove_all(directory_);
  }
  void open() {
    auto service = Service::open(options_, os::real_files(), clock_);
    ASSERT_TRUE(service.has_value()) << service.error().to_text();
    service_ = std::move(*service);
    auto server = wire::HttpServer::start(
        {}, [this](const wire::HttpRequest& request) { return service_->trade(request); });
    ASSERT_TRUE(server.has_value()) << server.error().to_text();
    server_ = std::move(*server);
  }
  void close() {
    server_.reset();
    service_.reset();
  }
  void reopen() {
    close();
    open();
  }

  std::int64_t now_ms() const { return clock_.wall_ns() / 1'000'000; }
  Exchange raw(std::string_view method, const std::string& path_and_query, std::string body = {},
               std::string_view key = "testkey") {
    wire::HttpRequest request;
    request.method = method;
    request.url = fmt::format("http://127.0.0.1:{}{}", server_->port(), path_and_query);
    request.body = std::move(body);
    if (!request.body.empty()) {
      request.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
    }
    if (!key.empty()) request.headers.emplace_back("X-MBX-APIKEY", key);
    const Result<wire::HttpResponse> response = client_.send(request);
    Exchange exchange;
    exchange.lost = !response;
    if (!response) return exchange;
    exchange.status = response->status;
    exchange.headers = response->headers;
    exchange.raw = response->body;
    if (auto json = Json::parse(response->body)) exchange.body = std::move(*json);
    return exchange;
  }
  static std::string with_signature(const std::string& payload) {
    return payload + "&signature=" + hmac_sha256_hex(kSecret, payload);
  }
  // A signed request in the query string, with the present time unless `parameters` has one.
  Exchange call(std::string_view method, const std::string& path, std::string parameters = {}) {
    if (parameters.find("timestamp=") == std::string::npos) {
      parameters += fmt::format("{}timestamp={}", parameters.empty() ? "" : "&", now_ms());
    }
    return raw(method, path + "?" + with_signature(parameters));
  }
  Exchange place(const std::string& parameters) {
    return call("POST", "/api/v3/order", parameters);
  }
  static std::string limit_order(std::string_view id, std::string_view price = "50000") {
    return fmt::format(
        "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.01&price={}&"
        "newClientOrderId={}",
        price, id);
  }
  Json administer(std::string_view method, std::string path, std::string body = {}) {
    const Service::Reply reply =
        service_->administer({std::string(method), std::move(path), {}, std::move(body)});
    EXPECT_EQ(reply.response.status, 200) << reply.response.body;
    return *Json::parse(reply.response.body);
  }
  void fault(const std::string& rule) { administer("POST", "/paper/faults", rule); }
  AuditReport audit_now(std::optional<std::vector<Intent>> intents = {}) {
    auto report = audit(os::real_files(), options_.ledger_path, intents);
    EXPECT_TRUE(report.has_value()) << report.error().to_text();
    return *report;
  }
  static std::string_view header(const Exchange& exchange, std::string_view name) {
    for (const auto& [key, value] : exchange.headers) {
      if (std::ranges::equal(key, name, {}, ::tolower, ::tolower)) return value;
    }
    return {};
  }

  std::string directory_;
  os::FakeClock clock_;
  Service::Options options_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<wire::HttpServer> server_;
  wire::HttpClient client_;
};

TEST_F(BinanceTest, PlacesQueriesAndCancelsALimitOrder) {
  const Exchange placed = place(limit_order("my-1"));
  EXPECT_EQ(placed.status, 200);
  EXPECT_EQ(placed["clientOrderId"], "my-1");
  EXPECT_EQ(placed["status"], "NEW");
  EXPECT_TRUE(placed.body["fills"].is_array());

  const Exchange order = call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=my-1");
  EXPECT_EQ(order["price"], "50000.00000000");
  EXPECT_EQ(order["cummulativeQuoteQty"], "0.00000000");
  EXPECT_EQ(order.body["orderId"].as_int(), placed.body["orderId"].as_int());
  EXPECT_EQ(call("GET", "/api/v3/openOrders").body.size(), 1U);
  EXPECT_EQ(call("GET", "/api/v3/openOrders", "symbol=ETHUSDT").body.size(), 0U);

  const Exchange cancelled =
      call("DELETE", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=my-1&newClientOrderId=c9");
  EXPECT_EQ(cancelled.status, 200);
  EXPECT_EQ(cancelled["origClientOrderId"], "my-1");
  EXPECT_EQ(cancelled["clientOrderId"], "c9");
  EXPECT_EQ(cancelled["status"], "CANCELED");
  EXPECT_EQ(call("GET", "/api/v3/openOrders").body.size(), 0U);
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&orderId=1")["status"], "CANCELED");
}

TEST_F(BinanceTest, AcceptsFormBodiesAndMixedParts) {
  const std::string payload = limit_order("body") + fmt::format("&timestamp={}", now_ms());
  EXPECT_EQ(raw("POST", "/api/v3/order", with_signature(payload)).status, 200);
  const std::string query = "symbol=BTCUSDT&side=BUY&type=LIMIT";
  const std::string rest = fmt::format(
      "timeInForce=GTC&quantity=0.01&price=50000&newClientOrderId=mixed&timestamp={}", now_ms());
  const std::string signature = hmac_sha256_hex(kSecret, query + rest);
  EXPECT_EQ(raw("POST", "/api/v3/order?" + query, rest + "&signature=" + signature).status, 200);
}

TEST_F(BinanceTest, ResponseTypesCarryWhatTheyPromise) {
  const std::string order = "symbol=BTCUSDT&side=BUY&type=MARKET&quantity=0.01&newOrderRespType=";
  const Exchange ack = place(order + "ACK");
  EXPECT_FALSE(ack.body.has("status"));
  EXPECT_TRUE(ack.body.has("transactTime"));
  const Exchange result = place(order + "RESULT");
  EXPECT_EQ(result["status"], "FILLED");
  EXPECT_FALSE(result.body.has("fills"));
  const Exchange full = place(order + "FULL");
  ASSERT_EQ(full.body["fills"].size(), 1U);
  EXPECT_EQ(full.body["fills"].items()[0]["commissionAsset"].as_string(), "BTC");
  EXPECT_EQ(full.body["fills"].items()[0]["commission"].as_string(), "0.00001000");
}

TEST_F(BinanceTest, ReusingAnIdAfterTheFillOpensASecondOrder) {
  const std::string order =
      "symbol=BTCUSDT&side=BUY&type=MARKET&quantity=0.01&newClientOrderId=again";
  const Exchange first = place(order);
  const Exchange second = place(order);
  EXPECT_EQ(first["status"], "FILLED");
  EXPECT_EQ(second["status"], "FILLED");
  EXPECT_NE(first.body["orderId"].as_int(), second.body["orderId"].as_int());
  EXPECT_EQ(audit_now().duplicated, 1U);
}

TEST_F(BinanceTest, AccountShowsFreeAndLockedAndOmitsZerosOnRequest) {
  place(limit_order("a"));
  const auto usdt = [](const Exchange& account) {
    for (const Json& balance : account.body["balances"].items()) {
      if (balance["asset"].as_string() == "USDT") return balance;
    }
    return Json();
  };
  const Exchange account = call("GET", "/api/v3/account");
  EXPECT_EQ(usdt(account)["free"].as_string(), "999500.00000000");
  EXPECT_EQ(usdt(account)["locked"].as_string(), "500.00000000");
  EXPECT_EQ(account.body["balances"].size(), 4U);
  EXPECT_EQ(call("GET", "/api/v3/account", "omitZeroBalances=true").body["balances"].size(), 3U);
}

TEST_F(BinanceTest, TradesArePagedByIdOldestFirst) {
  for (int i = 0; i < 5; ++i) place("symbol=BTCUSDT&side=BUY&type=MARKET&quantity=0.01");
  const Exchange page = call("GET", "/api/v3/myTrades", "symbol=BTCUSDT&fromId=2&limit=2");
  ASSERT_EQ(page.body.size(), 2U);
  EXPECT_EQ(page.body.items()[0]["id"].as_int(), 2);
  EXPECT_EQ(page.body.items()[1]["id"].as_int(), 3);
  const Exchange latest = call("GET", "/api/v3/myTrades", "symbol=BTCUSDT&limit=2");
  EXPECT_EQ(latest.body.items()[1]["id"].as_int(), 5);
  EXPECT_EQ(call("GET", "/api/v3/myTrades", "symbol=BTCUSDT&orderId=4").body.size(), 1U);
  EXPECT_EQ(call("GET", "/api/v3/myTrades", "symbol=ETHUSDT").body.size(), 0U);
}

TEST_F(BinanceTest, AllOrdersGoUpwardFromAnIdAndElseShowTheLatest) {
  for (int i = 0; i < 5; ++i) place(limit_order("o" + std::to_string(i)));
  const Exchange upward = call("GET", "/api/v3/allOrders", "symbol=BTCUSDT&orderId=2&limit=2");
  ASSERT_EQ(upward.body.size(), 2U);
  EXPECT_EQ(upward.body.items()[0]["orderId"].as_int(), 2);
  const Exchange latest = call("GET", "/api/v3/allOrders", "symbol=BTCUSDT&limit=2");
  EXPECT_EQ(latest.body.items()[0]["orderId"].as_int(), 4);
  const std::string window = fmt::format("&startTime={}&endTime={}", now_ms(), now_ms());
  EXPECT_EQ(call("GET", "/api/v3/allOrders", "symbol=BTCUSDT" + window).body.size(), 5U);
}

TEST_F(BinanceTest, CancelsAllOpenOrdersOfASymbol) {
  for (int i = 0; i < 3; ++i) place(limit_order("o" + std::to_string(i)));
  EXPECT_EQ(call("DELETE", "/api/v3/openOrders", "symbol=BTCUSDT").body.size(), 3U);
  EXPECT_EQ(call("DELETE", "/api/v3/openOrders", "symbol=BTCUSDT").code(), -2011);
}

TEST_F(BinanceTest, PublicEndpointsNeedNoKey) {
  EXPECT_EQ(raw("GET", "/api/v3/time", {}, "").body["serverTime"].as_int(), now_ms());
  EXPECT_EQ(raw("GET", "/api/v3/ping", {}, "").status, 200);
  const Exchange info = raw("GET", "/api/v3/exchangeInfo?symbol=ETHUSDT", {}, "");
  ASSERT_EQ(info.body["symbols"].size(), 1U);
  const Json& symbol = info.body["symbols"].items()[0];
  EXPECT_EQ(symbol["status"].as_string(), "TRADING");
  EXPECT_EQ(symbol["filters"].items()[0]["tickSize"].as_string(), "0.01000000");
  EXPECT_EQ(raw("GET", "/api/v3/exchangeInfo", {}, "").body["symbols"].size(), 3U);
  EXPECT_EQ(raw("GET", "/api/v3/ticker/bookTicker", {}, "").body.size(), 3U);
  EXPECT_EQ(raw("GET", "/api/v3/ticker/bookTicker?symbols=%5B%22BTCUSDT%22%5D", {}, "").body.size(),
            1U);
  const Exchange ticker = raw("GET", "/api/v3/ticker/bookTicker?symbol=BTCUSDT", {}, "");
  EXPECT_LT(*Decimal::parse(ticker["bidPrice"]), *Decimal::parse(ticker["askPrice"]));
  EXPECT_TRUE(raw("GET", "/api/v3/ticker/price?symbol=BTCUSDT", {}, "").body.has("price"));
  const Exchange depth = raw("GET", "/api/v3/depth?symbol=BTCUSDT&limit=5", {}, "");
  EXPECT_EQ(depth.body["bids"].size(), 5U);
  EXPECT_EQ(depth.body["bids"].items()[0].items()[0].as_string(), ticker["bidPrice"]);
}

TEST_F(BinanceTest, TestOrderChecksAndPlacesNothing) {
  const std::string order = limit_order("t");
  EXPECT_EQ(call("POST", "/api/v3/order/test", order).raw, "{}");
  EXPECT_EQ(call("POST", "/api/v3/order/test", limit_order("t", "50000.001")).code(), -1013);
  EXPECT_EQ(call("GET", "/api/v3/openOrders").body.size(), 0U);
}

// ---- Every code and its text.

struct RefusedOrder {
  std::string name;
  std::string parameters;  // of POST /api/v3/order
  int code;
  std::string text;
};

TEST_F(BinanceTest, RefusesOrdersWithTheDocumentedCodes) {
  const std::string rest = "&timeInForce=GTC&quantity=0.01&price=50000";
  const std::vector<RefusedOrder> cases = {
      {"no symbol", "side=BUY&type=LIMIT" + rest, -1102, "Mandatory parameter 'symbol' was not"},
      {"unknown symbol", "symbol=NOPE&side=BUY&type=LIMIT" + rest, -1121, "Invalid symbol."},
      {"no side", "symbol=BTCUSDT&type=LIMIT" + rest, -1102, "Mandatory parameter 'side'"},
      {"bad side", "symbol=BTCUSDT&side=HOLD&type=LIMIT" + rest, -1117, "Invalid side."},
      {"bad type", "symbol=BTCUSDT&side=BUY&type=OCO" + rest, -1116, "Invalid orderType."},
      {"no time in force", "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=0.01&price=50000", -1102,
       "Mandatory parameter 'timeInForce'"},
      {"bad time in force",
       "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=DAY&quantity=0.01&price=50000", -1115,
       "Invalid timeInForce."},
      {"time in force of a market order",
       "symbol=BTCUSDT&side=BUY&type=MARKET&timeInForce=GTC&quantity=0.01", -1114,
       "TimeInForce parameter sent when not required."},
      {"price of a market order", "symbol=BTCUSDT&side=BUY&type=MARKET&price=1&quantity=0.01",
       -1106, "Parameter 'price' sent when not required."},
      {"two amounts", "symbol=BTCUSDT&side=BUY&type=MARKET&quoteOrderQty=100&quantity=0.01", -1128,
       "Combination of optional parameters invalid."},
      {"no price", "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.01", -1102,
       "Mandatory parameter 'price'"},
      {"illegal quantity",
       "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=-1&price=50000", -1100,
       "Illegal characters found in parameter 'quantity'"},
      {"too fine",
       "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.000000001&price=50000", -1111,
       "Parameter 'quantity' has too much precision."},
      {"tick", limit_order("x", "50000.001"), -1013, "Filter failure: PRICE_FILTER"},
      {"giant price", limit_order("x", "99999999999999999999"), -1013,
       "Filter failure: PRICE_FILTER"},
      {"lot", "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.000001&price=50000",
       -1013, "Filter failure: LOT_SIZE"},
      {"zero market order", "symbol=BTCUSDT&side=BUY&type=MARKET&quantity=0", -1013,
       "Filter failure: LOT_SIZE"},
      {"notional",
       "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.00001&price=50000", -1013,
       "Filter failure: NOTIONAL"},
      {"balance", "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=21&price=50000",
       -2010, "Account has insufficient balance for requested action."},
      {"maker that takes", "symbol=BTCUSDT&side=BUY&type=LIMIT_MAKER&quantity=0.01&price=90000",
       -2010, "Order would immediately match and take."},
      {"bad id", limit_order("a.b"), -1100, "legal range is '^[a-zA-Z0-9-_]{1,36}$'."},
      {"long id", limit_order(std::string(37, 'a')), -1100, "newClientOrderId"},
      {"empty id", limit_order(""), -1105, "Parameter 'newClientOrderId' was empty."},
      {"bad response type", limit_order("x") + "&newOrderRespType=ALL", -1100, "newOrderRespType"},
      {"self trade mode", limit_order("x") + "&selfTradePreventionMode=EXPIRE_BOTH", -1130,
       "Data sent for parameter 'selfTradePreventionMode' is not valid."},
      {"unread", limit_order("x") + "&foo=1", -1104,
       "Not all sent parameters were read; read '9' parameter(s) but was sent '10'."},
      {"bad escape", limit_order("x") + "&foo=%zz", -1100, "Illegal characters"},
      {"repeated", limit_order("x") + "&side=SELL", -1101, "Duplicate values"},
      {"large window", limit_order("x") + "&recvWindow=60001", -1131,
       "recvWindow must be less than 60000."},
      {"bad window", limit_order("x") + "&recvWindow=5s", -1100, "recvWindow"},
      {"bad timestamp", limit_order("x") + "&timestamp=now", -1100, "timestamp"},
      {"empty timestamp", limit_order("x") + "&timestamp=", -1102, "Mandatory parameter"},
  };
  for (const RefusedOrder& refusal : cases) {
    SCOPED_TRACE(refusal.name);
    const Exchange answer = place(refusal.parameters);
    EXPECT_EQ(answer.status, 400);
    EXPECT_EQ(answer.code(), refusal.code) << answer.raw;
    EXPECT_THAT(std::string(answer.message()), HasSubstr(refusal.text));
  }
  const AuditReport report = audit_now();
  EXPECT_EQ(report.orders, 0U);
  EXPECT_EQ(report.refused, cases.size()) << "each refused request is in the ledger";
}

TEST_F(BinanceTest, RefusesDuplicatesUnknownOrdersAndClosedMarkets) {
  place(limit_order("open"));
  const Exchange duplicate = place(limit_order("open"));
  EXPECT_EQ(duplicate.code(), -2010);
  EXPECT_EQ(duplicate.message(), "Duplicate order sent.");
  EXPECT_EQ(audit_now().duplicate_requests, 1U);
  const Exchange missing = call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=no");
  EXPECT_EQ(missing.code(), -2013);
  EXPECT_EQ(missing.message(), "Order does not exist.");
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=ETHUSDT&origClientOrderId=open").code(), -2013);
  const Exchange uncancelled = call("DELETE", "/api/v3/order", "symbol=BTCUSDT&orderId=77");
  EXPECT_EQ(uncancelled.code(), -2011);
  EXPECT_EQ(uncancelled.message(), "Unknown order sent.");
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT").code(), -1102);
  EXPECT_EQ(call("GET", "/api/v3/myTrades", "symbol=BTCUSDT&fromId=1&startTime=1").code(), -1128);
  EXPECT_EQ(call("GET", "/api/v3/myTrades", "symbol=BTCUSDT&limit=0").code(), -1130);
  EXPECT_EQ(call("GET", "/api/v3/allOrders", "symbol=BTCUSDT&startTime=1&endTime=99999999").code(),
            -1127);
  administer("POST", "/paper/halt", R"({"symbol":"BTCUSDT"})");
  const Exchange closed = place(limit_order("x"));
  EXPECT_EQ(closed.code(), -2010);
  EXPECT_EQ(closed.message(), "Market is closed.");
  EXPECT_EQ(raw("GET", "/api/v3/exchangeInfo?symbol=BTCUSDT")
                .body["symbols"]
                .items()[0]["status"]
                .as_string(),
            "HALT");
}

TEST_F(BinanceTest, RefusesWrongKeysAndSignatures) {
  const std::string payload = limit_order("x") + fmt::format("&timestamp={}", now_ms());
  const std::string path = "/api/v3/order?" + with_signature(payload);
  const Exchange no_key = raw("POST", path, {}, "");
  EXPECT_EQ(no_key.status, 401);
  EXPECT_EQ(no_key.code(), -2014);
  EXPECT_EQ(no_key.message(), "API-key format invalid.");
  EXPECT_EQ(raw("POST", path, {}, "test-key!").code(), -2014);
  const Exchange wrong_key = raw("POST", path, {}, "otherkey");
  EXPECT_EQ(wrong_key.status, 401);
  EXPECT_EQ(wrong_key.code(), -2015);
  const Exchange forged = raw("POST", path + "0");
  EXPECT_EQ(forged.code(), -1022);
  EXPECT_EQ(forged.message(), "Signature for this request is not valid.");
  EXPECT_EQ(raw("POST", "/api/v3/order?" + payload).code(), -1102);
  const std::string signature = hmac_sha256_hex(kSecret, payload);
  EXPECT_EQ(raw("POST", "/api/v3/order?signature=" + signature + "&" + payload).code(), -1022);
  EXPECT_EQ(raw("GET", "/api/v3/nothing").status, 404);
  EXPECT_EQ(audit_now().orders, 0U);
}

TEST_F(BinanceTest, TimeRuleHoldsAtItsEdges) {
  const auto at = [&](std::int64_t offset_ms, std::string_view window = "5000") {
    return place(limit_order("t") +
                 fmt::format("&recvWindow={}&timestamp={}", window, now_ms() + offset_ms) +
                 "&newOrderRespType=ACK")
        .code();
  };
  const auto cancel = [&] {
    call("DELETE", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=t");
  };
  EXPECT_EQ(at(-5001), -1021);
  EXPECT_EQ(at(-5000), 0);
  cancel();
  EXPECT_EQ(at(1000), -1021);
  EXPECT_EQ(at(999), 0);
  cancel();
  EXPECT_EQ(at(-2, "1.5"), -1021);
  EXPECT_EQ(at(-1, "1.5"), 0);
  cancel();
  // Microseconds are accepted too.
  const std::int64_t now_us = clock_.wall_ns() / 1000;
  EXPECT_EQ(place(limit_order("t") + fmt::format("&timestamp={}", now_us)).status, 200);
}

// ---- Limits.

TEST_F(BinanceTest, CountsWeightAndEscalatesFromTooManyToABan) {
  close();
  options_.binance.limits = {100, 0};
  options_.ledger_path += "2";
  open();
  EXPECT_EQ(header(raw("GET", "/api/v3/time"), "X-MBX-USED-WEIGHT-1M"), "1");
  EXPECT_EQ(header(call("GET", "/api/v3/openOrders"), "X-MBX-USED-WEIGHT-1M"), "81");
  const Exchange limited = call("GET", "/api/v3/account");
  EXPECT_EQ(limited.status, 429);
  EXPECT_EQ(limited.code(), -1003);
  EXPECT_GT(std::stoi(std::string(header(limited, "Retry-After"))), 0);
  for (int i = 0; i < 9; ++i) EXPECT_EQ(raw("GET", "/api/v3/time").status, 429);
  const Exchange banned = raw("GET", "/api/v3/time");
  EXPECT_EQ(banned.status, 418);
  EXPECT_EQ(header(banned, "Retry-After"), "120");
  EXPECT_THAT(std::string(banned.message()), HasSubstr("IP banned until"));
  clock_.advance(std::chrono::seconds(119));
  EXPECT_EQ(raw("GET", "/api/v3/time").status, 418);
  clock_.advance(std::chrono::seconds(2));
  EXPECT_EQ(raw("GET", "/api/v3/time").status, 200);
}

TEST_F(BinanceTest, LimitsNewOrdersInTenSeconds) {
  close();
  options_.binance.limits = {0, 2};
  options_.ledger_path += "2";
  open();
  place(limit_order("a"));
  EXPECT_EQ(header(place(limit_order("b")), "X-MBX-ORDER-COUNT-10S"), "2");
  const Exchange third = place(limit_order("c"));
  EXPECT_EQ(third.status, 429);
  EXPECT_EQ(third.code(), -1015);
  clock_.advance(std::chrono::seconds(10));
  EXPECT_EQ(place(limit_order("c")).status, 200);
}

// ---- Faults.

TEST_F(BinanceTest, DropBeforeAcceptanceExecutesNothing) {
  fault(R"({"kind":"drop_request","method":"POST","path":"/api/v3/order","nth":1})");
  EXPECT_TRUE(place(limit_order("gone")).lost);
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=gone").code(), -2013);
  EXPECT_EQ(place(limit_order("second")).status, 200);
  EXPECT_EQ(audit_now().dropped, 1U);
}

TEST_F(BinanceTest, DroppedReplyStillExecutes) {
  fault(R"({"kind":"drop_reply","method":"POST","path":"/api/v3/order","nth":1})");
  EXPECT_TRUE(place(limit_order("there")).lost);
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=there")["status"],
            "NEW");
}

TEST_F(BinanceTest, DelayBeyondTheFenceIsRefusedJustBeforeMatching) {
  fault(R"({"kind":"delay_request","method":"POST","delay_ms":1001,"nth":1})");
  const Exchange late = place(limit_order("late") + "&recvWindow=1000");
  EXPECT_EQ(late.code(), -1021);
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=late").code(), -2013);
  fault(R"({"kind":"delay_request","method":"POST","delay_ms":1000,"nth":1})");
  EXPECT_EQ(place(limit_order("just") + "&recvWindow=1000").status, 200);
}

TEST_F(BinanceTest, DelayedReplyComesAfterExecution) {
  const std::int64_t before = now_ms();
  fault(R"({"kind":"delay_reply","method":"POST","delay_ms":3000,"nth":1})");
  EXPECT_EQ(place(limit_order("slow")).body["transactTime"].as_int(), before);
  EXPECT_EQ(now_ms(), before + 3000);
}

TEST_F(BinanceTest, RateLimitAndBanRulesAnswerWithRetryAfter) {
  fault(R"({"kind":"rate_limit","path":"/api/v3/account","nth":1,"retry_after_s":7})");
  const Exchange limited = call("GET", "/api/v3/account");
  EXPECT_EQ(limited.status, 429);
  EXPECT_EQ(limited.code(), -1003);
  EXPECT_EQ(header(limited, "Retry-After"), "7");
  fault(R"({"kind":"ban","path":"/api/v3/account","nth":1,"retry_after_s":120})");
  EXPECT_EQ(call("GET", "/api/v3/account").status, 418);
  EXPECT_EQ(call("GET", "/api/v3/account").status, 200);
}

TEST_F(BinanceTest, ServerErrorsMayOrMayNotHaveExecuted) {
  fault(R"({"kind":"server_error","method":"POST","nth":1})");
  const Exchange busy = place(limit_order("busy"));
  EXPECT_EQ(busy.status, 503);
  EXPECT_EQ(busy.code(), -1008);
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=busy").code(), -2013);
  fault(R"({"kind":"server_error","method":"POST","nth":1,"accepted":true,"status":502})");
  EXPECT_EQ(place(limit_order("taken")).status, 502);
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=taken").status, 200);
}

TEST_F(BinanceTest, TimeoutsMayOrMayNotHaveExecuted) {
  fault(R"({"kind":"timeout","method":"POST","nth":1})");
  EXPECT_EQ(place(limit_order("no")).code(), -1007);
  fault(R"({"kind":"timeout","method":"POST","nth":1,"accepted":true})");
  const Exchange taken = place(limit_order("yes"));
  EXPECT_EQ(taken.code(), -1007);
  EXPECT_THAT(std::string(taken.message()), HasSubstr("execution status unknown"));
  EXPECT_EQ(call("GET", "/api/v3/openOrders").body.size(), 1U);
  EXPECT_EQ(audit_now().dropped, 1U);
}

TEST_F(BinanceTest, CutAndGarbageRepliesStillExecute) {
  fault(R"({"kind":"cut_reply","method":"POST","nth":1})");
  EXPECT_TRUE(place(limit_order("cut")).lost);
  fault(R"({"kind":"garbage_reply","method":"POST","nth":1})");
  const Exchange garbage = place(limit_order("garbage"));
  EXPECT_EQ(garbage.status, 200);
  EXPECT_TRUE(garbage.body.is_null());
  EXPECT_EQ(call("GET", "/api/v3/openOrders").body.size(), 2U);
}

TEST_F(BinanceTest, VisibilityLagHidesAnAcceptedOrderFromQueriesOnly) {
  fault(R"({"kind":"visibility_lag","method":"POST","nth":1,"lag_ms":500})");
  EXPECT_EQ(place(limit_order("shy")).status, 200);
  const auto visible = [&] {
    return call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=shy").status == 200 &&
           call("GET", "/api/v3/openOrders").body.size() == 1 &&
           call("GET", "/api/v3/allOrders", "symbol=BTCUSDT").body.size() == 1;
  };
  EXPECT_FALSE(visible());
  EXPECT_EQ(place(limit_order("shy")).message(), "Duplicate order sent.");
  clock_.advance(std::chrono::milliseconds(499));
  EXPECT_FALSE(visible());
  clock_.advance(std::chrono::milliseconds(1));
  EXPECT_TRUE(visible());
}

TEST_F(BinanceTest, SkewedClockShowsInTheTimeAndInTheTimeRule) {
  fault(R"({"kind":"clock_skew","path":"/api/v3/time","nth":1,"skew_ms":2000})");
  EXPECT_EQ(raw("GET", "/api/v3/time").body["serverTime"].as_int(), now_ms() + 2000);
  EXPECT_EQ(place(limit_order("a") + "&recvWindow=1999").code(), -1021);
  EXPECT_EQ(place(limit_order("a") + "&recvWindow=2000").status, 200);
  administer("POST", "/paper/clock", R"({"skew_ms":-2000})");
  EXPECT_THAT(std::string(place(limit_order("b")).message()), HasSubstr("ahead of the server"));
}

TEST_F(BinanceTest, HaltAndExternalOrdersComeByRule) {
  fault(R"({"kind":"external_order","path":"/api/v3/openOrders","nth":1,"symbol":"BTCUSDT",)"
        R"("side":"BUY","price":"50000","quantity":"0.5"})");
  const Exchange open = call("GET", "/api/v3/openOrders");
  ASSERT_EQ(open.body.size(), 1U);
  EXPECT_THAT(std::string(open.body.items()[0]["clientOrderId"].as_string()), StartsWith("web_"));
  EXPECT_EQ(audit_now().external_orders, 1U);
  fault(R"({"kind":"halt","path":"/api/v3/order","nth":1,"symbol":"BTCUSDT"})");
  EXPECT_EQ(place(limit_order("x")).message(), "Market is closed.");
}

TEST_F(BinanceTest, UnknownFieldsLeaveTheAnswerValid) {
  place(limit_order("a"));
  fault(R"({"kind":"unknown_fields"})");
  const Exchange open = call("GET", "/api/v3/openOrders");
  ASSERT_EQ(open.body.size(), 1U);
  EXPECT_TRUE(open.body.items()[0].has("x-new"));
  EXPECT_EQ(open.body.items()[0]["clientOrderId"].as_string(), "a");
  EXPECT_EQ(
      with_unknown_fields(R"({"a":"{\"{","b":{}})"),
      R"({"x-new":[null,1.5e3],"x-more":"","a":"{\"{","b":{"x-new":[null,1.5e3],"x-more":""}})");
}

// ---- The administration and the venue's own restart.

TEST_F(BinanceTest, AdministrationChangesTheMarketAndShowsIt) {
  administer("POST", "/paper/deposit", R"({"asset":"SOL","amount":"5"})");
  administer("POST", "/paper/price", R"({"symbol":"BTCUSDT","price":"40000"})");
  const Json placed =
      administer("POST", "/paper/external-order",
                 R"({"symbol":"BTCUSDT","side":"BUY","quantity":"0.1","price":"30000"})");
  EXPECT_EQ(placed["status"].as_string(), "NEW");
  const Json state = administer("GET", "/paper/state");
  EXPECT_EQ(state["balances"]["SOL"]["free"].as_string(), "5");
  EXPECT_EQ(state["symbols"].items()[0]["price"].as_string(), "40000");
  EXPECT_EQ(state["open_orders"].as_int(), 1);
  fault(
      "{\"kind\":\"ban\",\"name\":\"b\"}\n# comment\n\n{\"kind\":\"halt\",\"symbol\":\"BTCUSDT\"}");
  EXPECT_EQ(administer("GET", "/paper/faults")["faults"].size(), 2U);
  EXPECT_EQ(administer("DELETE", "/paper/faults")["faults"].size(), 0U);
  const auto status = [&](std::string method, std::string path, std::string body) {
    return service_->administer({std::move(method), std::move(path), {}, std::move(body)})
        .response.status;
  };
  EXPECT_EQ(status("POST", "/paper/faults", R"({"kind":"nonsense"})"), 400);
  EXPECT_EQ(status("POST", "/paper/faults", R"({"kind":"halt","symbol":"NOPE"})"), 400);
  EXPECT_EQ(status("POST", "/paper/halt", R"({"symbol":"BTCUSDT","status":"ODD"})"), 400);
  EXPECT_EQ(status("POST", "/paper/price", R"({"symbol":"BTCUSDT","price":"-1"})"), 400);
  EXPECT_EQ(status("POST", "/paper/clock", R"({"skew_ms":99999999999})"), 400);
  EXPECT_EQ(status("POST", "/paper/nothing", "{}"), 404);
  EXPECT_EQ(status("POST", "/paper/external-order",
                   R"({"symbol":"BTCUSDT","side":"BUY","quantity":"900","price":"30000"})"),
            400);
}

TEST_F(BinanceTest, RestartedVenueGoesOnWithTheSameState) {
  place(limit_order("open"));
  place("symbol=BTCUSDT&side=BUY&type=MARKET&quantity=0.01&newClientOrderId=done");
  fault(R"({"kind":"visibility_lag","method":"POST","nth":1,"lag_ms":60000})");
  place(limit_order("shy"));
  const std::string before = service_->digest();
  reopen();
  EXPECT_EQ(service_->digest(), before);
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=open")["status"], "NEW");
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=shy").code(), -2013);
  EXPECT_EQ(place(limit_order("open")).message(), "Duplicate order sent.");
  EXPECT_EQ(place(limit_order("next")).body["orderId"].as_int(), 4);
  EXPECT_EQ(audit_now().starts, 2U);
  EXPECT_TRUE(audit_now().ok());
}

TEST_F(BinanceTest, MarketFillsOrdersWhileTheClientIsAway) {
  const Exchange ticker = raw("GET", "/api/v3/ticker/bookTicker?symbol=BTCUSDT");
  EXPECT_EQ(place(limit_order("rest", ticker["bidPrice"]))["status"], "NEW");
  clock_.advance(std::chrono::minutes(10));
  service_->tick();
  EXPECT_EQ(audit_now().fills, 1U) << "the ledger knows before any client asks";
  EXPECT_EQ(call("GET", "/api/v3/order", "symbol=BTCUSDT&origClientOrderId=rest")["status"],
            "FILLED");
}

TEST_F(BinanceTest, LedgerOfAnotherSeedIsRefused) {
  close();
  options_.core.seed = 8;
  const auto refused = Service::open(options_, os::real_files(), clock_);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  options_.core.seed = 7;
  open();
  EXPECT_EQ(Service::open(options_, os::real_files(), clock_).error().code(),
            Code::kDatabaseLocked);
}

}  // namespace
}  // namespace defib::paper
