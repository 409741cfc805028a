#include "defib/venue/coinbase.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "defib/wire/http.h"

namespace defib::venue {
namespace {

using testing::HasSubstr;
using testing::UnorderedElementsAre;
using wire::HttpServer;

// Made for this test; it opens nothing.
constexpr const char* kKey =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgNAiUbXEs3WYKEt0z\n"
    "Q56EquZ41iCmlJRLwn1L20hdA1qhRANCAAR3f0ktNv2dFWFoWbPjvlSCYLQzeKxs\n"
    "1PgQaG0eOAyBtZXQqzNJua+H61PMQe841fr82Gd9FzUdY5dKt1R7R9IV\n"
    "-----END PRIVATE KEY-----\n";

std::string order_json(const std::string& id, const std::string& status) {
  return R"({"order_id":")" + id + R"(","product_id":"BTC-USD","side":"BUY","client_order_id":"c)" +
         id + R"(","status":")" + status +
         R"(","created_time":"2026-11-30T20:45:19.123Z","filled_size":"0","filled_value":"0",)"
         R"("last_fill_time":null,"order_configuration":{"limit_limit_gtc":)"
         R"({"base_size":"0.01","limit_price":"45000.00","post_only":false}}})";
}

// Lists what is asked for by status, and refuses what the venue refuses.
class Coinbase : public testing::Test {
 protected:
  void SetUp() override {
    auto server = HttpServer::start({}, [this](const wire::HttpRequest& request) {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      HttpServer::Reply reply;
      reply.response = answer(request);
      return reply;
    });
    ASSERT_TRUE(server) << server.error().to_text();
    server_ = std::move(*server);
    CoinbaseOptions options;
    options.base_url = "http://127.0.0.1:" + std::to_string(server_->port());
    options.api_key = "organizations/o/apiKeys/k";
    options.api_secret = kKey;
    options.clock = &clock_;
    auto venue = CoinbaseVenue::create(std::move(options));
    ASSERT_TRUE(venue) << venue.error().to_text();
    venue_ = std::move(*venue);
  }
  wire::HttpResponse answer(const wire::HttpRequest& request) {
    if (request.method == "POST") return {200, {}, R"({"results":[]})"};
    const auto asks = [&](const std::string& status) {
      return request.url.find("order_status=" + status + "&") != std::string::npos;
    };
    bool any = false;
    std::string orders;
    for (const auto& [id, status] : orders_) {
      if (!asks(status)) continue;
      if (request.url.find("RETAIL_ADVANCED") == std::string::npos) continue;
      orders += (any ? "," : "") + order_json(id, status);
      any = true;
    }
    if (asks("OPEN") && asks("PENDING")) {
      return {400, {}, R"({"error":"INVALID_ARGUMENT","message":"cannot pair OPEN orders"})"};
    }
    return {200, {}, R"({"orders":[)" + orders + R"(],"has_next":false,"cursor":""})"};
  }
  std::vector<std::string> open_ids() {
    const auto open = venue_->open_orders("BTC-USD");
    EXPECT_TRUE(open) << open.error().to_text();
    std::vector<std::string> ids;
    if (!open) return ids;
    for (const Order& order : *open) ids.push_back(order.venue_id);
    return ids;
  }

  os::FakeClock clock_;
  std::mutex mutex_;
  std::map<std::string, std::string> orders_;  // id -> status
  std::vector<wire::HttpRequest> requests_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<CoinbaseVenue> venue_;
};

TEST_F(Coinbase, EveryLiveOrderIsListedAndCancelled) {
  orders_ = {{"o1", "OPEN"},          {"o2", "PENDING"},     {"o3", "QUEUED"},
             {"o4", "CANCEL_QUEUED"}, {"o5", "EDIT_QUEUED"}, {"o6", "FILLED"}};
  EXPECT_THAT(open_ids(), UnorderedElementsAre("o1", "o2", "o3", "o4", "o5"));
  ASSERT_TRUE(venue_->cancel_all("BTC-USD"));
  const std::lock_guard lock(mutex_);
  for (const char* id : {"o1", "o2", "o3", "o4", "o5"}) {
    EXPECT_THAT(requests_.back().body, HasSubstr(id));
  }
}

}  // namespace
}  // namespace defib::venue
