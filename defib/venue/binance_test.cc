#include "defib/venue/binance.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "defib/venue/binance_parse.h"
#include "defib/wire/http.h"

namespace defib::venue {
namespace {

using testing::HasSubstr;
using wire::HttpServer;

constexpr std::string_view kOrderJson =
    R"({"symbol":"BTCUSDT","orderId":28,"orderListId":-1,"clientOrderId":"dfb0000100000001",)"
    R"("price":"50000.10","origQty":"0.5","executedQty":"0.1","cummulativeQuoteQty":"5000.01",)"
    R"("status":"PARTIALLY_FILLED","timeInForce":"GTC","type":"LIMIT","side":"BUY",)"
    R"("time":1499827319559,"updateTime":1499827319560,"isWorking":true,"someNewMember":[1,{}]})";

HttpServer::Reply reply(int status, std::string body, wire::Headers headers = {}) {
  HttpServer::Reply answer;
  answer.response = {status, std::move(headers), std::move(body)};
  return answer;
}
HttpServer::Reply reply(HttpServer::Delivery delivery, std::string body = "{}") {
  HttpServer::Reply answer = reply(200, std::move(body));
  answer.delivery = delivery;
  return answer;
}

// A scripted server, and an adapter that talks to it by a clock that stands still.
class Binance : public testing::Test {
 protected:
  void SetUp() override {
    auto server = HttpServer::start({}, [this](const wire::HttpRequest& request) {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      return handler_(request);
    });
    ASSERT_TRUE(server) << server.error().to_text();
    server_ = std::move(*server);
    venue_ = std::make_unique<BinanceVenue>(options());
  }
  BinanceOptions options() {
    BinanceOptions options;
    options.base_url = "http://127.0.0.1:" + std::to_string(server_->port());
    options.api_key = "key";
    options.api_secret = "secret";
    options.clock = &clock_;
    return options;
  }
  void answer(HttpServer::Reply with) {
    const std::lock_guard lock(mutex_);
    handler_ = [with](const wire::HttpRequest&) { return with; };
  }
  void answer(int status, std::string body, wire::Headers headers = {}) {
    answer(reply(status, std::move(body), std::move(headers)));
  }
  std::size_t requests() {
    const std::lock_guard lock(mutex_);
    return requests_.size();
  }
  wire::HttpRequest last_request() {
    const std::lock_guard lock(mutex_);
    return requests_.back();
  }
  static OrderRequest request() {
    OrderRequest request;
    request.client_id = "dfb0000100000001";
    request.symbol = "BTCUSDT";
    request.quantity = Decimal::parse("0.5").value();
    request.price = Decimal::parse("50000.1").value();
    request.timestamp_ms = 1'499'827'319'559;
    request.expires_ms = request.timestamp_ms + 1'000;
    return request;
  }
  Code place_code() {
    const auto order = venue_->place(request());
    return order ? Code{} : order.error().code();
  }
  Code order_code() {
    const auto order = venue_->order("BTCUSDT", "dfb0000100000001");
    return order ? Code{} : order.error().code();
  }

  os::FakeClock clock_;
  std::mutex mutex_;  // guards handler_ and requests_
  std::function<HttpServer::Reply(const wire::HttpRequest&)> handler_;
  std::vector<wire::HttpRequest> requests_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<BinanceVenue> venue_;
};

TEST(BinanceSignature, MatchesThePublishedVector) {
  EXPECT_EQ(hmac_sha256_hex("NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j",
                            "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"
                            "&recvWindow=5000&timestamp=1499827319559"),
            "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71");
}

TEST_F(Binance, ANewOrderWasMadeAtItsTransactionTime) {
  answer(200,
         R"({"symbol":"BTCUSDT","orderId":28,"clientOrderId":"dfb0000100000001",)"
         R"("transactTime":1684804350068,"price":"50000.10","origQty":"0.5","executedQty":"0",)"
         R"("cummulativeQuoteQty":"0","status":"NEW","type":"LIMIT","side":"BUY","fills":[]})");
  const auto order = venue_->place(request());
  ASSERT_TRUE(order) << order.error().to_text();
  EXPECT_EQ(order->created_ms, 1'684'804'350'068);
}

TEST_F(Binance, AnOrderCarriesItsFenceAndItsSignatureLast) {
  answer(200, std::string(kOrderJson));
  const auto order = venue_->place(request());
  ASSERT_TRUE(order) << order.error().to_text();
  EXPECT_EQ(order->venue_id, "28");
  EXPECT_EQ(order->price.to_string(), "50000.1");
  EXPECT_EQ(order->filled_quote.to_string(), "5000.01");
  EXPECT_EQ(order->status, OrderStatus::kPartiallyFilled);
  const wire::HttpRequest sent = last_request();
  const std::string payload = binance_order_payload(request());
  EXPECT_EQ(payload,
            "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.5&price=50000.1&"
            "newClientOrderId=dfb0000100000001&newOrderRespType=FULL&recvWindow=1000&"
            "timestamp=1499827319559");
  EXPECT_EQ(sent.method, "POST");
  EXPECT_EQ(sent.body, payload + "&signature=" + hmac_sha256_hex("secret", payload));
}

TEST_F(Binance, AnImpossibleFenceIsRefusedBeforeAnythingIsSent) {
  OrderRequest late = request();
  late.expires_ms = late.timestamp_ms + 60'001;
  EXPECT_EQ(venue_->place(late).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(requests(), 0u);
}

// What an answer to a new order means. Only a 4XX with an error code means "not accepted".
struct Mapping {
  int status;
  std::string body;
  Code placed;
  Code read;
};
class BinanceMapping : public Binance, public testing::WithParamInterface<Mapping> {};

TEST_P(BinanceMapping, AnOrderAndAReadingAreJudgedByTheirOwnColumn) {
  answer(GetParam().status, GetParam().body);
  EXPECT_EQ(place_code(), GetParam().placed) << GetParam().status << " " << GetParam().body;
  clock_.advance(std::chrono::hours(1));
  EXPECT_EQ(order_code(), GetParam().read) << GetParam().status << " " << GetParam().body;
}

std::string error_body(int code, std::string text = "text") {
  return "{\"code\":" + std::to_string(code) + ",\"msg\":\"" + text + "\"}";
}

INSTANTIATE_TEST_SUITE_P(
    Table, BinanceMapping,
    testing::Values(
        Mapping{500, "oops", Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{502, "", Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{503, error_body(-1008), Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{504, error_body(-1007), Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{400, error_body(-1006), Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{408, error_body(-1007), Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{400, "<html>", Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{403, "<html>WAF</html>", Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{302, "", Code::kVenueOutcomeUnknown, Code::kVenueUnreachable},
        Mapping{200, "", Code::kVenueOutcomeUnknown, Code::kVenueBadAnswer},
        Mapping{200, "{\"symbol\":\"BTC", Code::kVenueOutcomeUnknown, Code::kVenueBadAnswer},
        Mapping{200, "{}", Code::kVenueOutcomeUnknown, Code::kVenueBadAnswer},
        Mapping{200, "[]", Code::kVenueOutcomeUnknown, Code::kVenueBadAnswer},
        Mapping{400, error_body(-2010), Code::kVenueRejected, Code::kVenueRejected},
        Mapping{400, error_body(-1013), Code::kVenueRejected, Code::kVenueRejected},
        Mapping{400, error_body(-1121), Code::kVenueRejected, Code::kVenueRejected},
        Mapping{400, error_body(-1021), Code::kVenueClockSkew, Code::kVenueClockSkew},
        Mapping{400, error_body(-1022), Code::kVenueAuthFailed, Code::kVenueAuthFailed},
        Mapping{401, error_body(-2014), Code::kVenueAuthFailed, Code::kVenueAuthFailed},
        Mapping{401, error_body(-2015), Code::kVenueAuthFailed, Code::kVenueAuthFailed},
        Mapping{400, error_body(-1015), Code::kVenueRateLimited, Code::kVenueRateLimited},
        Mapping{400, error_body(-2013), Code::kOrderNotFound, Code::kOrderNotFound},
        Mapping{400, error_body(-2011), Code::kOrderNotFound, Code::kOrderNotFound},
        Mapping{429, error_body(-1003), Code::kVenueRateLimited, Code::kVenueRateLimited},
        Mapping{418, error_body(-1003), Code::kVenueRateLimited, Code::kVenueRateLimited}));

TEST_F(Binance, ADroppedConnectionAfterSendingIsAnUnknownOutcome) {
  answer(reply(HttpServer::Delivery::kDropConnection));
  EXPECT_EQ(place_code(), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(venue_->cancel("BTCUSDT", "dfb0000100000001").error().code(),
            Code::kVenueOutcomeUnknown);
  EXPECT_EQ(venue_->cancel_all("BTCUSDT").error().code(), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(order_code(), Code::kVenueUnreachable);
}

TEST_F(Binance, ACutBodyIsAnUnknownOutcome) {
  answer(reply(HttpServer::Delivery::kCutBody, std::string(kOrderJson)));
  EXPECT_EQ(place_code(), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(order_code(), Code::kVenueUnreachable);
}

TEST_F(Binance, AnAnswerThatComesTooLateIsAnUnknownOutcome) {
  std::mutex gate;
  std::condition_variable opened;
  bool open = false;
  {
    const std::lock_guard lock(mutex_);
    handler_ = [&](const wire::HttpRequest&) {
      std::unique_lock waiting(gate);
      opened.wait(waiting, [&] { return open; });
      return reply(200, std::string(kOrderJson));
    };
  }
  BinanceOptions impatient = options();
  impatient.timeout = std::chrono::milliseconds(50);
  BinanceVenue venue(impatient);
  const auto order = venue.place(request());
  {
    const std::lock_guard lock(gate);
    open = true;
  }
  opened.notify_all();
  ASSERT_FALSE(order);
  EXPECT_EQ(order.error().code(), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(order.error().root().code(), Code::kHttpOutcomeUnknown);
}

TEST_F(Binance, ARefusedConnectionMeansThatNothingWasSent) {
  server_.reset();
  const auto order = venue_->place(request());
  ASSERT_FALSE(order);
  EXPECT_EQ(order.error().code(), Code::kVenueUnreachable);
  EXPECT_EQ(order.error().field("nothing_sent"), "true");
}

TEST_F(Binance, ADuplicateIsMarkedBecauseTheOrderExists) {
  answer(400, error_body(-2010, "Duplicate order sent."));
  const auto order = venue_->place(request());
  ASSERT_FALSE(order);
  EXPECT_EQ(order.error().code(), Code::kVenueRejected);
  EXPECT_EQ(order.error().field("duplicate"), "true");
  answer(400, error_body(-2010, "Account has insufficient balance for requested action."));
  const auto poor = venue_->place(request());
  EXPECT_EQ(poor.error().field("duplicate"), "");
  EXPECT_EQ(poor.error().field("venue_code"), "-2010");
  EXPECT_THAT(poor.error().message(), HasSubstr("insufficient balance"));
}

TEST_F(Binance, ARequestThatWasUnderWayLongerThanItsWindowWasLateAndNotSkewed) {
  {
    const std::lock_guard lock(mutex_);
    handler_ = [this](const wire::HttpRequest&) {
      clock_.advance(std::chrono::milliseconds(1'500));
      return reply(400, error_body(-1021));
    };
  }
  EXPECT_EQ(place_code(), Code::kVenueRejected);
}

TEST_F(Binance, NoRequestLeavesBeforeRetryAfterHasPassed) {
  answer(429, error_body(-1003), {{"Retry-After", "7"}});
  const auto limited = venue_->server_time_ms();
  ASSERT_FALSE(limited);
  EXPECT_EQ(limited.error().field("retry_after_ms"), "7000");
  answer(200, R"({"serverTime":1700000000000})");
  clock_.advance(std::chrono::milliseconds(6'999));
  EXPECT_EQ(venue_->server_time_ms().error().code(), Code::kVenueRateLimited);
  EXPECT_EQ(place_code(), Code::kVenueRateLimited);
  EXPECT_EQ(requests(), 1u);
  clock_.advance(std::chrono::milliseconds(1));
  EXPECT_TRUE(venue_->server_time_ms());
  EXPECT_EQ(requests(), 2u);
}

TEST_F(Binance, UsedWeightIsReadFromTheHeaders) {
  answer(200, R"({"serverTime":1700000000000})",
         {{"x-mbx-used-weight-1m", "1234"}, {"X-MBX-ORDER-COUNT-10S", "5"}});
  ASSERT_TRUE(venue_->server_time_ms());
  EXPECT_EQ(venue_->usage().used_weight_1m, 1234);
  EXPECT_EQ(venue_->usage().order_count_10s, 5);
  EXPECT_EQ(venue_->usage().requests, 1u);
}

TEST_F(Binance, RequestsAreStampedByTheVenuesClockOnceItIsKnown) {
  const std::int64_t here = clock_.wall_ns() / 1'000'000;
  answer(200, "{\"serverTime\":" + std::to_string(here + 4'000) + "}");
  ASSERT_TRUE(venue_->server_time_ms());
  answer(200, "[]");
  ASSERT_TRUE(venue_->open_orders({}));
  EXPECT_THAT(last_request().url, HasSubstr("timestamp=" + std::to_string(here + 4'000)));
}

TEST_F(Binance, TheHookStandsBetweenTheExchangeAndTheReply) {
  answer(500, "oops");
  BinanceOptions hooked = options();
  std::size_t sent_before_hook = 0;
  hooked.after_exchange = [&] { sent_before_hook = requests(); };
  BinanceVenue venue(hooked);
  EXPECT_FALSE(venue.place(request()));
  EXPECT_EQ(sent_before_hook, 1u);
}

TEST_F(Binance, ACancelNamesTheOrdersOwnIdAndNotTheCancels) {
  answer(200,
         R"({"symbol":"BTCUSDT","origClientOrderId":"dfb0000100000001","orderId":4,)"
         R"("clientOrderId":"cancelMyOrder1","transactTime":1684804350068,"price":"2.0",)"
         R"("origQty":"1.0","executedQty":"0.0","cummulativeQuoteQty":"0.0","status":"CANCELED",)"
         R"("side":"SELL"})");
  const auto order = venue_->cancel("BTCUSDT", "dfb0000100000001");
  ASSERT_TRUE(order) << order.error().to_text();
  EXPECT_EQ(order->client_id, "dfb0000100000001");
  EXPECT_EQ(order->status, OrderStatus::kCancelled);
  EXPECT_EQ(last_request().method, "DELETE");
}

TEST_F(Binance, CancellingAllWhereNothingIsOpenSucceeds) {
  answer(400, error_body(-2011, "Unknown order sent."));
  EXPECT_TRUE(venue_->cancel_all("BTCUSDT"));
}

TEST_F(Binance, AnAnswerAboutAnotherOrderIsNotTakenForOurs) {
  OrderRequest other = request();
  other.client_id = "dfb0000100000002";
  answer(200, std::string(kOrderJson));
  EXPECT_EQ(venue_->place(other).error().code(), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(venue_->order("BTCUSDT", "dfb0000100000002").error().code(), Code::kVenueBadAnswer);
}

std::string trade_json(int id, std::string_view price = "100.5") {
  return "{\"symbol\":\"BTCUSDT\",\"id\":" + std::to_string(id) + ",\"orderId\":9,\"price\":\"" +
         std::string(price) +
         "\",\"qty\":\"2\",\"quoteQty\":\"201\",\"commission\":\"0.1\",\"commissionAsset\":"
         "\"USDT\",\"time\":1499827319559,\"isBuyer\":false,\"isMaker\":true}";
}

TEST_F(Binance, FillsAreReadPageAfterPage) {
  {
    const std::lock_guard lock(mutex_);
    handler_ = [](const wire::HttpRequest& request) {
      const std::size_t query = request.url.find('?');
      int from = 0;
      for (const auto& [name, value] : wire::parse_query(request.url.substr(query + 1))) {
        if (name == "fromId") from = std::stoi(value);
      }
      std::string body = "[";
      for (int id = std::max(from, 1); id <= 2'500 && id < from + 1'000; ++id) {
        body += (body.size() > 1 ? "," : "") + trade_json(id);
      }
      return reply(200, body + "]");
    };
  }
  const auto fills = venue_->fills("BTCUSDT", "499");
  ASSERT_TRUE(fills) << fills.error().to_text();
  ASSERT_EQ(fills->size(), 2'001u);
  EXPECT_EQ(fills->front().trade_id, "500");
  EXPECT_EQ(fills->back().trade_id, "2500");
  EXPECT_EQ(fills->front().side, Side::kSell);
  EXPECT_EQ(requests(), 3u);
}

TEST_F(Binance, TradesOutOfOrderAreRefused) {
  answer(200, "[" + trade_json(7) + "," + trade_json(6) + "]");
  EXPECT_EQ(venue_->fills("BTCUSDT", "").error().code(), Code::kVenueBadAnswer);
  EXPECT_EQ(venue_->fills("BTCUSDT", "x7").error().code(), Code::kInvalidArgument);
}

TEST_F(Binance, RulesAndQuotesAreExact) {
  answer(200,
         R"({"timezone":"UTC","symbols":[{"symbol":"BTCUSDT","status":"HALT","baseAsset":"BTC",)"
         R"("quoteAsset":"USDT","filters":[{"filterType":"PRICE_FILTER","tickSize":"0.01000000"},)"
         R"({"filterType":"LOT_SIZE","stepSize":"0.00001000"},{"filterType":"OTHER"},)"
         R"({"filterType":"NOTIONAL","minNotional":"5.00000000"}]}]})");
  const auto rules = venue_->rules();
  ASSERT_TRUE(rules) << rules.error().to_text();
  EXPECT_FALSE(rules->at(0).trading);
  EXPECT_EQ(rules->at(0).lot.to_string(), "0.00001");
  answer(200,
         R"([{"symbol":"BTCUSDT","bidPrice":"1.1","bidQty":"2","askPrice":"1.3","askQty":"4"}])");
  const auto quotes = venue_->quotes();
  ASSERT_TRUE(quotes) << quotes.error().to_text();
  EXPECT_EQ(quotes->at(0).mid().to_string(), "1.2");
}

TEST_F(Binance, ATestOrderIsStampedOnceAndPlacesNothing) {
  answer(200, "{}");
  ASSERT_TRUE(venue_->test_order(request()));
  const wire::HttpRequest sent = last_request();
  EXPECT_EQ(sent.url, "/api/v3/order/test");
  EXPECT_EQ(sent.body.find("timestamp="), sent.body.rfind("timestamp="));
}

// --- The parser
// -----------------------------------------------------------------------------------

std::string without(std::string_view member) {
  std::string text(kOrderJson);
  const std::size_t at = text.find("\"" + std::string(member) + "\":");
  return text.replace(at + 1, 1, "_");
}

TEST(BinanceParser, EveryRequiredMemberIsNamedWhereItIsMissing) {
  for (const std::string_view member : {"symbol", "orderId", "clientOrderId", "price", "origQty",
                                        "executedQty", "cummulativeQuoteQty", "status", "side"}) {
    const auto orders =
        parse_binance_orders("[" + std::string(kOrderJson) + "," + without(member) + "]");
    ASSERT_FALSE(orders) << member;
    EXPECT_EQ(orders.error().code(), Code::kVenueBadAnswer);
    EXPECT_THAT(orders.error().message(),
                HasSubstr("`" + std::string(member) + "` of order number 2 is missing"));
  }
}

TEST(BinanceParser, ACutListIsRefusedWhereverItIsCut) {
  const std::string whole = "[" + std::string(kOrderJson) + "," + std::string(kOrderJson) + "]";
  ASSERT_TRUE(parse_binance_orders(whole));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto orders = parse_binance_orders(whole.substr(0, size));
    ASSERT_FALSE(orders) << size;
    ASSERT_EQ(orders.error().code(), Code::kVenueBadAnswer);
  }
}

TEST(BinanceParser, WrongTypesAndImpossibleValuesAreNamed) {
  const auto with = [](std::string_view from, std::string_view to) {
    std::string text(kOrderJson);
    text.replace(text.find(from), from.size(), to);
    const auto order = parse_binance_order(text, ClientIdMember::kClientOrderId);
    return order ? std::string() : order.error().to_line();
  };
  EXPECT_THAT(with(R"("price":"50000.10")", R"("price":50000.10)"), HasSubstr("`price`"));
  EXPECT_THAT(with(R"("price":"50000.10")", R"("price":"5e4")"), HasSubstr("not an amount"));
  EXPECT_THAT(with(R"("orderId":28)", R"("orderId":"28")"), HasSubstr("`orderId`"));
  EXPECT_THAT(with("BUY", "BYE"), HasSubstr("BUY or SELL"));
  EXPECT_THAT(with("PARTIALLY_FILLED", "SHINY"), HasSubstr("known order status"));
}

TEST(BinanceParser, AStopOrderWithoutALimitHasItsTriggerAsPrice) {
  std::string text(kOrderJson);
  const auto swap = [&](std::string_view from, std::string_view to) {
    text.replace(text.find(from), from.size(), to);
  };
  swap(R"("price":"50000.10")", R"("price":"0.00000000","stopPrice":"51000.00000000")");
  auto order = parse_binance_order(text, ClientIdMember::kClientOrderId);
  ASSERT_TRUE(order) << order.error().to_text();
  EXPECT_EQ(order->price.to_string(), "51000");
  EXPECT_TRUE(order->market_at_trigger);
  swap(R"("price":"0.00000000")", R"("price":"52000.00")");
  order = parse_binance_order(text, ClientIdMember::kClientOrderId);
  EXPECT_EQ(order->price.to_string(), "52000");
  EXPECT_FALSE(order->market_at_trigger);
}

TEST(BinanceParser, AHundredThousandOpenOrdersAreRead) {
  std::string body = "[";
  for (int i = 0; i < 100'000; ++i) {
    if (i > 0) body += ",";
    body += kOrderJson;
  }
  const auto orders = parse_binance_orders(body + "]");
  ASSERT_TRUE(orders);
  EXPECT_EQ(orders->size(), 100'000u);
}

TEST(BinanceParser, AnAccountsTotalIsFreePlusLocked) {
  const auto balances = parse_binance_account(
      R"({"makerCommission":15,"balances":[{"asset":"BTC","free":"1.5","locked":"0.5","x":1}]})");
  ASSERT_TRUE(balances) << balances.error().to_text();
  EXPECT_EQ(balances->at(0).total().to_string(), "2");
  EXPECT_FALSE(parse_binance_account("{}"));
}

}  // namespace
}  // namespace defib::venue
