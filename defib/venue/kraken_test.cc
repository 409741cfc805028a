#include "defib/venue/kraken.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "defib/os/random.h"
#include "defib/venue/kraken_parse.h"
#include "defib/venue/rest.h"
#include "defib/wire/http.h"

namespace defib::venue {
namespace {

using testing::HasSubstr;
using wire::HttpServer;

constexpr std::string_view kSecret =
    "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg==";
constexpr std::string_view kPairs =
    R"({"XXBTZUSD":{"altname":"XBTUSD","wsname":"XBT/USD","base":"XXBT","quote":"ZUSD",)"
    R"("pair_decimals":1,"lot_decimals":8,"ordermin":"0.0001","costmin":"0.5","tick_size":"0.1",)"
    R"("status":"online"},"SOLUSD":{"altname":"SOLUSD","wsname":"SOL/USD","base":"SOL",)"
    R"("quote":"ZUSD","pair_decimals":2,"lot_decimals":8,"status":"cancel_only"}})";
constexpr std::string_view kOrder =
    R"({"refid":null,"userref":0,"cl_ord_id":"dfb0000100000001","status":"open",)"
    R"("opentm":1688583840.8648,"starttm":0,"expiretm":0,"descr":{"pair":"XBTUSD","type":"buy",)"
    R"("ordertype":"limit","price":"29500.0","price2":"0","leverage":"none","order":"x",)"
    R"("close":""},"vol":"0.50000000","vol_exec":"0.10000000","cost":"2950.00000",)"
    R"("fee":"0.00000","price":"29490.0","stopprice":"0","misc":"","oflags":"fciq","new":[1]})";

HttpServer::Reply reply(int status, std::string body) {
  HttpServer::Reply answer;
  answer.response = {status, {}, std::move(body)};
  return answer;
}
std::string ok(std::string_view result) {
  return R"({"error":[],"result":)" + std::string(result) + "}";
}

class Kraken : public testing::Test {
 protected:
  void SetUp() override {
    auto server = HttpServer::start({}, [this](const wire::HttpRequest& request) {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      const std::string path = request.url.substr(0, request.url.find('?'));
      const auto found = answers_.find(path);
      return found == answers_.end() ? reply(404, "none") : found->second;
    });
    ASSERT_TRUE(server) << server.error().to_text();
    server_ = std::move(*server);
    answer("/0/public/AssetPairs", ok(kPairs));
    open();
  }
  void open(const std::string& nonce_file = {}) {
    KrakenOptions options;
    options.base_url = "http://127.0.0.1:" + std::to_string(server_->port());
    options.api_key = "key";
    options.api_secret = kSecret;
    options.clock = &clock_;
    options.nonce_file = nonce_file;
    options.symbols = {"XBTUSD", "SOLUSD"};
    auto venue = KrakenVenue::create(std::move(options));
    ASSERT_TRUE(venue) << venue.error().to_text();
    venue_ = std::move(*venue);
  }
  void answer(const std::string& path, std::string body, int status = 200) {
    const std::lock_guard lock(mutex_);
    answers_[path] = reply(status, std::move(body));
  }
  void spoil(const std::string& path, HttpServer::Delivery delivery) {
    const std::lock_guard lock(mutex_);
    answers_[path] = reply(200, ok(R"({"txid":["O1"]})"));
    answers_[path].delivery = delivery;
  }
  std::vector<wire::HttpRequest> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  static OrderRequest request() {
    OrderRequest request;
    request.client_id = "dfb0000100000001";
    request.symbol = "XBTUSD";
    request.quantity = Decimal::parse("0.5").value();
    request.price = Decimal::parse("29500").value();
    request.timestamp_ms = 1'700'000'000'000;
    request.expires_ms = request.timestamp_ms + 5'000;
    return request;
  }
  Code placing(std::string body, int status = 200) {
    answer("/0/private/AddOrder", std::move(body), status);
    open();  // what the venue asked to be left alone for is forgotten
    const auto placed = venue_->place(request());
    return placed ? Code::kInternal : placed.error().code();
  }

  os::FakeClock clock_;
  std::mutex mutex_;
  std::map<std::string, HttpServer::Reply> answers_;
  std::vector<wire::HttpRequest> requests_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<KrakenVenue> venue_;
};

TEST(KrakenSignature, ThePublishedVectorPasses) {
  std::string secret;
  ASSERT_TRUE(base64_decode(kSecret, secret));
  EXPECT_EQ(
      kraken_signature(secret, "/0/private/AddOrder", "1616492376594",
                       "nonce=1616492376594&ordertype=limit&pair=XBTUSD&price=37500&type=buy&"
                       "volume=1.25"),
      "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8ndwLUQ==");
}

TEST_F(Kraken, ASecretThatIsNoBase64IsRefusedBeforeAnythingIsSent) {
  KrakenOptions options;
  options.api_secret = "not base64!";
  EXPECT_EQ(KrakenVenue::create(std::move(options)).error().code(), Code::kInvalidArgument);
}

TEST_F(Kraken, AnOrderTravelsWithItsDeadlineIdAndNonce) {
  answer("/0/private/AddOrder", ok(R"({"descr":{"order":"x"},"txid":["OU22CG-KLAF2-FWUDD7"]})"));
  const auto placed = venue_->place(request());
  ASSERT_TRUE(placed) << placed.error().to_text();
  EXPECT_EQ(placed->venue_id, "OU22CG-KLAF2-FWUDD7");
  EXPECT_EQ(placed->client_id, "dfb0000100000001");
  const wire::HttpRequest sent = requests().back();
  EXPECT_TRUE(sent.body.starts_with("nonce=1700000000000000000&"));
  EXPECT_THAT(sent.body, HasSubstr("cl_ord_id=dfb0000100000001"));
  EXPECT_THAT(sent.body, HasSubstr("deadline=2023-11-14T22%3A13%3A24.500Z"));
  EXPECT_FALSE(sent.header("User-Agent").empty());
  OrderRequest narrow = request();
  narrow.expires_ms = narrow.timestamp_ms + 1'000;
  EXPECT_EQ(venue_->place(narrow).error().code(), Code::kInvalidArgument);
}

TEST_F(Kraken, OnlyAnErrorThatRefusesMeansNotAccepted) {
  const auto says = [&](const std::string& text) {
    return placing(R"({"error":[")" + text + R"("]})");
  };
  EXPECT_EQ(says("EOrder:Insufficient funds"), Code::kVenueRejected);
  EXPECT_EQ(says("EGeneral:Invalid arguments:volume"), Code::kVenueRejected);
  EXPECT_EQ(says("EService:Market in cancel_only mode"), Code::kVenueRejected);
  EXPECT_EQ(says("EService:Deadline elapsed"), Code::kVenueRejected);
  EXPECT_EQ(says("EAPI:Invalid nonce"), Code::kVenueNonceRefused);
  EXPECT_EQ(says("EAPI:Invalid key"), Code::kVenueAuthFailed);
  EXPECT_EQ(says("EAPI:Invalid signature"), Code::kVenueAuthFailed);
  EXPECT_EQ(says("EGeneral:Permission denied"), Code::kVenueAuthFailed);
  EXPECT_EQ(says("EAPI:Rate limit exceeded"), Code::kVenueRateLimited);
  EXPECT_EQ(says("EOrder:Rate limit exceeded"), Code::kVenueRateLimited);
  EXPECT_EQ(says("EService:Throttled: 1700000005"), Code::kVenueRateLimited);
  EXPECT_EQ(says("EService: Throttled: 1700000005"), Code::kVenueRateLimited);
  EXPECT_EQ(says("EGeneral:Temporary lockout"), Code::kVenueRateLimited);
  EXPECT_EQ(says("EService:Unavailable"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(says("EService:Busy"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(says("EGeneral:Internal error"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(says("EOrder:Internal error"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(says("EDatabase:Internal error"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(says("EFoo:x"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(says("ETrade:Locked"), Code::kVenueRejected);
  EXPECT_EQ(says("EAPI:Feature disabled"), Code::kVenueRejected);
  EXPECT_EQ(placing("bad gateway", 502), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing("forbidden", 403), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing("slow", 429), Code::kVenueRateLimited);
  EXPECT_EQ(placing("<html>"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing(R"({"error":[]})"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing(ok(R"({"descr":{}})")), Code::kVenueOutcomeUnknown);
  spoil("/0/private/AddOrder", HttpServer::Delivery::kDropConnection);
  EXPECT_EQ(venue_->place(request()).error().code(), Code::kVenueOutcomeUnknown);
  spoil("/0/private/AddOrder", HttpServer::Delivery::kCutBody);
  EXPECT_EQ(venue_->place(request()).error().code(), Code::kVenueOutcomeUnknown);
  answer("/0/private/AddOrder", R"({"error":["EOrder:Duplicate cl_ord_id"]})");
  EXPECT_EQ(venue_->place(request()).error().field("duplicate"), "true");
}

TEST_F(Kraken, AfterAThrottleNothingLeavesBeforeItsTime) {
  EXPECT_EQ(placing(R"({"error":["EService:Throttled: 1700000005"]})"), Code::kVenueRateLimited);
  const std::size_t before = requests().size();
  const auto second = venue_->place(request());
  EXPECT_EQ(second.error().field("nothing_sent"), "true");
  EXPECT_EQ(requests().size(), before);
  clock_.advance(std::chrono::seconds(7));
  answer("/0/private/AddOrder", ok(R"({"txid":["O1"]})"));
  EXPECT_TRUE(venue_->place(request()));
}

TEST_F(Kraken, ReadingWaitsForTheCounterInsteadOfRunningIntoIt) {
  answer("/0/private/BalanceEx", ok(R"({"ZUSD":{"balance":"10.5","hold_trade":"0.5"}})"));
  const std::int64_t begun = clock_.mono_ns();
  for (int i = 0; i < 13; ++i) ASSERT_TRUE(venue_->balances());
  EXPECT_EQ(clock_.mono_ns(), begun);  // 15 points less a tenth, which is kept for orders
  const auto refused = venue_->balances();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kVenueRateLimited);
  EXPECT_EQ(refused.error().field("nothing_sent"), "true");
  venue_->set_patience(std::chrono::seconds(10));
  EXPECT_TRUE(venue_->balances());
  EXPECT_GT(clock_.mono_ns() - begun, 2'000'000'000);
  answer("/0/private/AddOrder", ok(R"({"txid":["O1"]})"));
  EXPECT_TRUE(venue_->place(request()));  // never held back
}

// What is kept back is for cancels, and for the reading without which none of them leaves.
TEST_F(Kraken, ACancelOfEverythingNeedsNoRoomInTheBudget) {
  answer("/0/private/BalanceEx", ok("{}"));
  answer("/0/private/OpenOrders", ok(R"({"open":{"O1":)" + std::string(kOrder) + "}}"));
  answer("/0/private/CancelAll", ok(R"({"count":1})"));
  for (int i = 0; i < 13; ++i) ASSERT_TRUE(venue_->balances());
  ASSERT_FALSE(venue_->open_orders("XBTUSD"));
  const auto cancelled = venue_->cancel_all("XBTUSD");
  ASSERT_TRUE(cancelled) << cancelled.error().to_text();
  EXPECT_EQ(requests().back().url, "/0/private/CancelAll");
  const std::size_t before = requests().size();
  ASSERT_TRUE(venue_->cancel_all_of({"XBTUSD", "SOLUSD"}));
  EXPECT_EQ(requests().size(), before + 2);  // one list, one cancel
  answer("/0/private/CancelOrder", ok(R"({"count":1})"));
  ASSERT_TRUE(venue_->cancel_all_of({"SOLUSD"}));
  EXPECT_EQ(requests().back().url, "/0/private/OpenOrders") << "another symbol's order stays";
}

TEST_F(Kraken, TheNonceNeverGoesDownEvenWhenTheClockDoes) {
  const std::string file = std::filesystem::temp_directory_path() / "defib-kraken-nonce";
  std::filesystem::remove(file);
  answer("/0/private/BalanceEx", ok("{}"));
  const auto nonce = [&] {
    EXPECT_TRUE(venue_->balances());
    const std::string body = requests().back().body;
    return std::stoull(body.substr(6));
  };
  open(file);
  const std::uint64_t first = nonce();
  EXPECT_GT(nonce(), first);
  clock_.step_wall(std::chrono::hours(-1));
  const std::uint64_t third = nonce();
  EXPECT_GT(third, first);
  open(file);  // killed, and started with the clock still behind
  EXPECT_GT(nonce(), third);
  std::filesystem::remove(file);
}

TEST_F(Kraken, OrdersAndTradesAreTranslatedByTheVenuesOwnTable) {
  answer("/0/private/OpenOrders", ok(R"({"open":{"O1":)" + std::string(kOrder) + "}}"));
  const auto orders = venue_->open_orders("XBTUSD");
  ASSERT_TRUE(orders) << orders.error().to_text();
  ASSERT_EQ(orders->size(), 1u);
  const Order& order = orders->front();
  EXPECT_EQ(order.price, Decimal::parse("29500").value());  // not the average beside the volume
  EXPECT_EQ(order.status, OrderStatus::kPartiallyFilled);
  EXPECT_EQ(order.created_ms, 1'688'583'840'864);
  EXPECT_TRUE(venue_->open_orders("SOLUSD")->empty());
  answer("/0/private/TradesHistory",
         ok(R"({"count":2,"trades":{"T2":{"ordertxid":"O1","pair":"XXBTZUSD","time":1688583900.5,)"
            R"("type":"buy","price":"29490.0","fee":"0.123456789","vol":"0.1","trade_id":12},)"
            R"("T1":{"ordertxid":"O1","pair":"XXBTZUSD","time":1688583899.0,"type":"buy",)"
            R"("price":"29480.0","fee":"0","vol":"0.1","trade_id":9}}})"));
  const auto fills = venue_->fills("XBTUSD", "");
  ASSERT_TRUE(fills) << fills.error().to_text();
  ASSERT_EQ(fills->size(), 2u);
  EXPECT_EQ(fills->front().trade_id, "9");
  EXPECT_EQ(fills->back().symbol, "XBTUSD");
  EXPECT_EQ(fills->back().fee_asset, "ZUSD");
  EXPECT_EQ(fills->back().fee, Decimal::parse("0.12345678").value());
  EXPECT_EQ(venue_->fills("XBTUSD", "9")->size(), 1u);
  EXPECT_EQ(venue_->fills("XBTUSD", "abc").error().code(), Code::kInvalidArgument);
}

TEST_F(Kraken, OneWalkTellsTheTradesOfAllSymbols) {
  answer("/0/private/TradesHistory",
         ok(R"({"count":2,"trades":{"T2":{"ordertxid":"O1","pair":"XXBTZUSD","time":1688583900.5,)"
            R"("type":"buy","price":"29490.0","fee":"0","vol":"0.1","trade_id":12},)"
            R"("T1":{"ordertxid":"O1","pair":"SOLUSD","time":1688583899.0,"type":"buy",)"
            R"("price":"20.0","fee":"0","vol":"0.1","trade_id":9}}})"));
  answer("/0/private/OpenOrders", ok(R"({"open":{"O1":)" + std::string(kOrder) + "}}"));
  const auto fills = venue_->fills_of({{"SOLUSD", {}}, {"XBTUSD", {"11"}}});
  ASSERT_TRUE(fills) << fills.error().to_text();
  ASSERT_EQ(fills->size(), 2u);
  EXPECT_EQ(fills->front().symbol, "SOLUSD");
  EXPECT_EQ(fills->back().trade_id, "12");
  EXPECT_EQ(venue_->fills_of({{"SOLUSD", {"9"}}, {"XBTUSD", {"11"}}})->size(), 1u);
  EXPECT_EQ(venue_->open_orders_of({"XBTUSD", "SOLUSD"})->size(), 1u);
  EXPECT_EQ(requests().size(), 4u);  // the pairs, two walks, one list
}

// A pair that never traded must not cost a walk through the whole history at each start.
TEST_F(Kraken, AWalkEndsWhereNothingOlderIsAskedFor) {
  std::string trades;
  for (int i = 0; i < 50; ++i) {
    trades += fmt::format(
        R"({}"T{}":{{"ordertxid":"O1","pair":"XXBTZUSD","time":{}.5,"type":"buy","price":"1.0",)"
        R"("fee":"0","vol":"0.1","trade_id":{}}})",
        i == 0 ? "" : ",", i, 1'688'583'900 - i, 1'000 - i);
  }
  answer("/0/private/TradesHistory", ok(R"({"count":5000,"trades":{)" + trades + "}}"));
  answer("/0/private/OpenOrders", ok(R"({"open":{"O1":)" + std::string(kOrder) + "}}"));
  const auto fills =
      venue_->fills_of({{"SOLUSD", {"", 1'688'583'860'000}}, {"XBTUSD", {"", 1'688'583'890'000}}});
  ASSERT_TRUE(fills) << fills.error().to_text();
  EXPECT_EQ(requests().size(), 2u);  // the pairs, one page
  ASSERT_EQ(fills->size(), 11u);
  EXPECT_EQ(fills->front().trade_id, "990");
}

TEST_F(Kraken, AWarningIsNoRefusalAndAnErrorBehindTheListIsOne) {
  const std::string list = R"("result":{"open":{"O1":)" + std::string(kOrder) + "}}";
  answer("/0/private/OpenOrders", R"({"error":["WGeneral:Danger"],)" + list + "}");
  EXPECT_EQ(venue_->open_orders("")->size(), 1u);
  answer("/0/private/OpenOrders", "{" + list + R"(,"error":["EAPI:Invalid key"]})");
  EXPECT_EQ(venue_->open_orders("").error().code(), Code::kVenueAuthFailed);
  for (const std::string& body : {"{" + list + "}", std::string(R"({"error":[],"result":{}})"),
                                  R"({"error":[],)" + list, std::string("[]"), std::string()}) {
    answer("/0/private/OpenOrders", body);
    EXPECT_EQ(venue_->open_orders("").error().code(), Code::kVenueBadAnswer) << body;
  }
}

TEST_F(Kraken, AMissingMemberIsRefusedByName) {
  for (const char* name : {"vol", "vol_exec", "status", "opentm", "cost"}) {
    std::string order(kOrder);
    const std::size_t at = order.find("\"" + std::string(name) + "\":");
    order.replace(at + 1, 1, "?");
    answer("/0/private/OpenOrders", ok(R"({"open":{"O1":)" + order + "}}"));
    open();
    const auto orders = venue_->open_orders("");
    ASSERT_FALSE(orders) << name;
    EXPECT_EQ(orders.error().code(), Code::kVenueBadAnswer);
    EXPECT_THAT(orders.error().message(), HasSubstr(name));
  }
}

TEST_F(Kraken, TwoOrdersForOneIdAreAHardStop) {
  answer("/0/private/OpenOrders",
         ok(R"({"open":{"O1":)" + std::string(kOrder) + R"(,"O2":)" + std::string(kOrder) + "}}"));
  answer("/0/private/ClosedOrders", ok(R"({"closed":{},"count":0})"));
  const auto order = venue_->order("XBTUSD", "dfb0000100000001");
  ASSERT_FALSE(order);
  EXPECT_EQ(order.error().code(), Code::kDuplicateOrder);
  answer("/0/private/OpenOrders", ok(R"({"open":{}})"));
  EXPECT_EQ(venue_->order("XBTUSD", "dfb0000100000001").error().code(), Code::kOrderNotFound);
}

TEST_F(Kraken, BalancesIncludeWhatIsHeldAndPositionsAreSigned) {
  answer("/0/private/BalanceEx",
         ok(R"({"XXBT":{"balance":"1.5","hold_trade":"0.5"},"USDT":{"balance":"7"}})"));
  const auto balances = venue_->balances();
  ASSERT_TRUE(balances);
  EXPECT_EQ((*balances)[0].total(), Decimal::parse("1.5").value());
  EXPECT_EQ((*balances)[0].free, Decimal::parse("1").value());
  answer("/0/private/OpenPositions",
         ok(R"({"P1":{"pair":"XXBTZUSD","type":"sell","vol":"2","vol_closed":"0.5"},)"
            R"("P2":{"pair":"XXBTZUSD","type":"buy","vol":"1","vol_closed":"0"}})"));
  const auto positions = venue_->positions();
  ASSERT_TRUE(positions) << positions.error().to_text();
  ASSERT_EQ(positions->size(), 1u);
  EXPECT_EQ(positions->front().quantity, Decimal::parse("-0.5").value());
  answer("/0/private/OpenPositions",
         ok(R"([{"pair":"XXBTZUSD","type":"buy","vol":"1.25","vol_closed":"0.25"}])"));
  EXPECT_EQ(venue_->positions()->front().quantity, Decimal::parse("1").value());
}

TEST_F(Kraken, StatusRulesAndSwitch) {
  answer("/0/public/SystemStatus", ok(R"({"status":"cancel_only"})"));
  EXPECT_EQ(*venue_->status(), VenueStatus::kCancelOnly);
  const auto rules = venue_->rules();
  ASSERT_TRUE(rules);
  EXPECT_TRUE((*rules)[0].trading);
  EXPECT_FALSE((*rules)[1].trading);
  EXPECT_EQ((*rules)[1].tick, Decimal::parse("0.01").value());
  answer("/0/private/CancelAllOrdersAfter", ok(R"({"currentTime":"x","triggerTime":"y"})"));
  EXPECT_TRUE(venue_->arm_dead_mans_switch(std::chrono::milliseconds(1'500)));
  EXPECT_THAT(requests().back().body, HasSubstr("timeout=2"));
  answer("/0/public/Time", ok(R"({"unixtime":1700000000,"rfc1123":"x"})"));
  EXPECT_EQ(*venue_->server_time_ms(), 1'700'000'000'500);
}

// Whole seconds from a clock that runs 300 ms ahead of ours.
TEST_F(Kraken, TheClockIsKnownBetterTheMoreOftenItIsRead) {
  std::int64_t error = 0;
  for (int i = 0; i < 20; ++i) {
    clock_.advance(std::chrono::milliseconds(170));
    const std::int64_t theirs = clock_.wall_ns() / 1'000'000 + 300;
    answer("/0/public/Time",
           ok(R"({"unixtime":)" + std::to_string(theirs / 1'000) + R"(,"rfc1123":"x"})"));
    error = *venue_->server_time_ms() - theirs;
    EXPECT_LE(std::abs(error), 500);
  }
  EXPECT_LE(std::abs(error), 100);
  clock_.step_wall(std::chrono::seconds(5));  // contradicts: begun anew
  const std::int64_t theirs = clock_.wall_ns() / 1'000'000 - 4'700;
  answer("/0/public/Time",
         ok(R"({"unixtime":)" + std::to_string(theirs / 1'000) + R"(,"rfc1123":"x"})"));
  EXPECT_LE(std::abs(*venue_->server_time_ms() - theirs), 500);
}

TEST(RateBudgetTest, OutlivesItsProcessInAFile) {
  using namespace std::chrono_literals;
  os::FakeClock clock;
  const std::string path =
      (std::filesystem::temp_directory_path() / ("defib-rates-" + std::to_string(::getpid())))
          .string();
  std::filesystem::remove(path);
  for (const RateLimit& limit :
       {RateLimit{.capacity = 100, .window = 60s},
        RateLimit{.capacity = 100, .refill_per_1000s = 1'000, .reserved_percent = 10}}) {
    {
      RateBudget before(limit, clock, path);
      ASSERT_TRUE(before.take(90, false, 1h, "x"));
    }
    RateBudget after(limit, clock, path);
    EXPECT_EQ(after.used(), 90);
    EXPECT_FALSE(after.take(1, false, 0s, "x"));
    EXPECT_TRUE(after.take(1, false, 2min, "x"));
    clock.reboot(1h);  // times of another boot mean nothing
    EXPECT_EQ(RateBudget(limit, clock, path).used(), 0);
  }
  std::filesystem::remove(path);
}

// Wherever the venue's window begins, no more than the budget falls into it.
TEST(RateBudgetTest, NoWindowHoldsMoreThanTheBudgetWhereverItBegins) {
  using namespace std::chrono_literals;
  os::FakeClock clock;
  os::Random random(1);
  RateBudget budget({.capacity = 30, .window = 1s, .reserved_percent = 0}, clock);
  std::vector<std::int64_t> sent;
  for (int i = 0; i < 2'000; ++i) {
    clock.advance(std::chrono::microseconds(random.below(60'000)));
    ASSERT_TRUE(budget.take(1, false, 1h, "x"));
    sent.push_back(clock.mono_ns());
  }
  for (std::size_t i = 30; i < sent.size(); ++i) EXPECT_GT(sent[i] - sent[i - 30], 1'000'000'000);
  const double seconds = static_cast<double>(sent.back() - sent.front()) / 1e9;
  EXPECT_LT(seconds, 1.15 * 2'000 / 30);  // nor is much of it wasted
}

TEST(RateBudgetTest, WindowsAndDecayAreKeptAndPredicted) {
  using namespace std::chrono_literals;
  os::FakeClock clock;
  RateBudget window({.capacity = 100, .window = 60s}, clock);
  ASSERT_TRUE(window.take(90, false, 0s, "x"));
  EXPECT_EQ(window.take(1, false, 1s, "x").error().code(), Code::kVenueRateLimited);
  EXPECT_TRUE(window.take(20, true, 0s, "x"));  // orders and cancels are never held back
  const std::int64_t before = clock.mono_ns();
  EXPECT_TRUE(window.take(50, false, 2min, "x"));
  EXPECT_NEAR(static_cast<double>(clock.mono_ns() - before), 63e9, 1e9);
  window.learn_used(95);
  EXPECT_FALSE(window.take(1, false, 0s, "x"));
  const RateLimit kraken{.capacity = 15, .refill_per_1000s = 330, .reserved_percent = 0};
  // 10,000 fills: 200 pages of 2 points, so about 19 minutes on the smallest account.
  const os::Duration eta = predict(kraken, 200, 400, 100ms);
  EXPECT_GT(eta, 19min);
  EXPECT_LT(eta, 20min);
  RateBudget counter(kraken, clock);
  const std::int64_t start = clock.mono_ns();
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(counter.take(2, false, 1h, "x"));
    clock.advance(100ms);
  }
  const double took = static_cast<double>(clock.mono_ns() - start);
  EXPECT_NEAR(took / static_cast<double>(eta.count()), 1.0, 0.15);
}

}  // namespace
}  // namespace defib::venue
