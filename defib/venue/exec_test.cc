#include "defib/venue/exec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <string>

#include "defib/os/files.h"
#include "defib/venue/factory.h"

namespace defib::venue {
namespace {

using testing::HasSubstr;

// A bridge that answers each verb with the file of that name beside it.
class Exec : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "defib-exec-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    options_.command = {"/bin/sh", "-c", "echo \"$1 $2\" >> \"$0/log\"; . \"$0/$1\"", dir_};
    options_.timeout = std::chrono::seconds(5);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  void script(const std::string& verb, const std::string& text) {
    ASSERT_TRUE(os::write_file_atomically(os::real_files(), dir_ + "/" + verb, text));
  }
  void answer(const std::string& verb, const std::string& json) {
    script(verb, "cat <<'EOT'\n" + json + "\nEOT\n");
  }
  std::string log() { return os::read_file(os::real_files(), dir_ + "/log", 1 << 16).value(); }
  static OrderRequest request() {
    OrderRequest request;
    request.client_id = "dfb0000100000001";
    request.symbol = "EURUSD";
    request.quantity = Decimal::parse("0.1").value();
    request.price = Decimal::parse("1.08").value();
    request.timestamp_ms = 1'000;
    request.expires_ms = 3'000;
    return request;
  }
  static constexpr const char* kOrder =
      R"({"client_id":"dfb0000100000001","venue_id":"77","symbol":"EURUSD","side":"buy",)"
      R"("status":"new","quantity":"0.1","price":"1.08","filled":"0","created_ms":5})";

  std::string dir_;
  ExecOptions options_;
};

TEST_F(Exec, EveryVerbIsReadFromTheLastLine) {
  script("time", "echo warming up; echo '{\"ok\":true,\"result\":1700000000123}'\n");
  answer("open_orders", std::string(R"({"ok":true,"result":[)") + kOrder + "]}");
  answer("order", std::string(R"({"ok":true,"result":)") + kOrder + "}");
  answer("place", std::string(R"({"ok":true,"result":)") + kOrder + "}");
  answer("balances", R"({"ok":true,"result":[{"asset":"USD","free":"10","locked":"1"}]})");
  answer("fills", R"({"ok":true,"result":[{"trade_id":"9","venue_order_id":"77","symbol":"EURUSD",)"
                  R"("side":"sell","quantity":"0.1","price":"1.09","time_ms":7}]})");
  answer("positions", R"({"ok":true,"result":[{"symbol":"EURUSD","quantity":"-0.1"}]})");
  answer("rules", R"({"ok":true,"result":[{"symbol":"EURUSD","base_asset":"EUR",)"
                  R"("quote_asset":"USD","tick":"0.00001","lot":"0.01","min_notional":"0",)"
                  R"("trading":true}]})");
  answer("quote", R"({"ok":true,"result":{"symbol":"EURUSD","bid":"1.08","ask":"1.09"}})");
  answer("cancel_all", R"({"ok":true})");
  options_.positions = true;
  ExecVenue venue(options_);
  EXPECT_EQ(*venue.server_time_ms(), 1'700'000'000'123);
  EXPECT_EQ(venue.open_orders("EURUSD")->front().venue_id, "77");
  EXPECT_EQ(venue.order("EURUSD", "dfb0000100000001")->status, OrderStatus::kNew);
  EXPECT_TRUE(venue.place(request()));
  EXPECT_EQ(venue.balances()->front().total(), Decimal::from_integer(11));
  EXPECT_EQ(venue.fills("EURUSD", "8")->front().side, Side::kSell);
  EXPECT_EQ(venue.positions()->front().quantity, Decimal::parse("-0.1").value());
  EXPECT_TRUE(venue.rules()->front().trading);
  EXPECT_EQ(venue.quote("EURUSD")->ask, Decimal::parse("1.09").value());
  EXPECT_TRUE(venue.cancel_all("EURUSD"));
  EXPECT_THAT(log(), HasSubstr(R"(fills {"symbol":"EURUSD","after":"8"})"));
  EXPECT_THAT(log(), HasSubstr(R"("expires_ms":3000)"));
}

TEST_F(Exec, OnlyItsWordRefusesAnOrder) {
  ExecVenue venue(options_);
  const auto placing = [&](const std::string& text) {
    script("place", text);
    const auto placed = venue.place(request());
    return placed ? Code::kInternal : placed.error().code();
  };
  EXPECT_EQ(placing("exit 1\n"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing("exit 0\n"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing("echo nonsense\n"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing("kill -9 $$\n"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing(R"(echo '{"ok":true,"result":{}}')"), Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing(R"(echo '{"ok":false,"error":{"kind":"unknown"}}')"),
            Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing(R"(echo '{"ok":false,"error":{"kind":"rejected","message":"no money"}}')"),
            Code::kVenueRejected);
  EXPECT_EQ(placing(R"(echo '{"ok":false,"error":{"kind":"auth"}}')"), Code::kVenueAuthFailed);
  // After a time-out nobody knows; a bridge has to say that nothing left.
  EXPECT_EQ(placing(R"(echo '{"ok":false,"error":{"kind":"unreachable"}}')"),
            Code::kVenueOutcomeUnknown);
  EXPECT_EQ(placing(R"(echo '{"ok":false,"error":{"kind":"unreachable","nothing_sent":true}}')"),
            Code::kVenueUnreachable);
  script("order", R"(echo '{"ok":false,"error":{"kind":"unreachable"}}')");
  EXPECT_EQ(venue.order("EURUSD", "x").error().code(), Code::kVenueUnreachable);
  std::string other(kOrder);
  other.replace(other.find("dfb"), 3, "xyz");
  EXPECT_EQ(placing("echo '{\"ok\":true,\"result\":" + other + "}'"), Code::kVenueOutcomeUnknown);
  options_.timeout = std::chrono::milliseconds(100);
  ExecVenue hasty(options_);
  script("place", "sleep 20\n");
  EXPECT_EQ(hasty.place(request()).error().code(), Code::kVenueOutcomeUnknown);
}

TEST_F(Exec, AProgramThatCannotBeStartedSentNothing) {
  options_.command = {dir_ + "/absent"};
  ExecVenue venue(options_);
  const auto placed = venue.place(request());
  ASSERT_FALSE(placed);
  EXPECT_EQ(placed.error().code(), Code::kVenueBridgeFailed);
  EXPECT_EQ(placed.error().field("nothing_sent"), "true");
}

TEST_F(Exec, AReadingThatIsCutIsRefusedByName) {
  ExecVenue venue(options_);
  std::string order(kOrder);
  order.replace(order.find("quantity"), 8, "amount??");
  answer("open_orders", R"({"ok":true,"result":[)" + order + "]}");
  const auto orders = venue.open_orders("");
  EXPECT_EQ(orders.error().code(), Code::kVenueBadAnswer);
  EXPECT_THAT(orders.error().message(), HasSubstr("quantity"));
  answer("order", R"({"ok":false,"error":{"kind":"not_found","message":"none"}})");
  EXPECT_EQ(venue.order("EURUSD", "x").error().code(), Code::kOrderNotFound);
}

TEST(Factory, MakesEveryKindAndNoOther) {
  AccountOptions options;
  options.kind = "exec";
  options.command = {"/bin/true"};
  EXPECT_EQ((*make_venue(options))->name(), "exec");
  options.kind = "binance_futures";
  EXPECT_TRUE((*make_venue(options))->has_positions());
  options.kind = "nonsense";
  EXPECT_EQ(make_venue(options).error().code(), Code::kInvalidArgument);
  options.kind = "coinbase";
  options.api_secret = "no key";
  EXPECT_EQ(make_venue(options).error().code(), Code::kInvalidArgument);
}

}  // namespace
}  // namespace defib::venue
