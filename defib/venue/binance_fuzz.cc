// Any bytes are an answer or a VenueBadAnswer, never a crash.

#include <cstddef>
#include <cstdint>
#include <string>

#include "defib/base/assert.h"
#include "defib/venue/binance_parse.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto check = [](const auto& result) {
    DEFIB_ASSERT(result || result.error().code() == Code::kVenueBadAnswer);
  };
  check(venue::parse_binance_orders(text));
  check(venue::parse_binance_order(text, venue::ClientIdMember::kClientOrderId));
  check(venue::parse_binance_order(text, venue::ClientIdMember::kFutures));
  check(venue::parse_binance_orders(text, venue::ClientIdMember::kFutures));
  check(venue::parse_binance_algo_orders(text));
  check(venue::parse_binance_fills(text));
  check(venue::parse_binance_fills(text, true));
  check(venue::parse_binance_futures_balances(text));
  check(venue::parse_binance_positions(text));
  check(venue::parse_binance_account(text));
  check(venue::parse_binance_rules(text));
  check(venue::parse_binance_quotes(text));
  check(venue::parse_binance_time(text));
  static_cast<void>(venue::parse_binance_error(text));
  return 0;
}
