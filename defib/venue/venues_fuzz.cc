// Kraken, Coinbase and `exec`: any JSON is an answer or a VenueBadAnswer, never a crash.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/venue/coinbase_parse.h"
#include "defib/venue/exec_parse.h"
#include "defib/venue/kraken_parse.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib;
  const auto check = [](const auto& result) {
    DEFIB_ASSERT(result || result.error().code() == Code::kVenueBadAnswer);
  };
  std::string body(reinterpret_cast<const char*>(data), size);
  check(venue::parse_coinbase_orders(body));
  check(venue::parse_coinbase_order(body));
  const auto json = wire::Json::parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!json) return 0;
  // Pairs that the input itself may tell of, so that its orders can be of one.
  const Result<venue::KrakenPairs> told = venue::parse_kraken_pairs((*json)["pairs"]);
  check(told);
  const venue::KrakenPairs pairs = told ? *told : venue::KrakenPairs();
  check(venue::parse_kraken_orders(body, "open", pairs));
  check(venue::parse_kraken_ticker((*json)["ticker"], pairs));
  check(venue::parse_kraken_trades((*json)["trades"], pairs));
  check(venue::parse_kraken_balances((*json)["balances"]));
  check(venue::parse_kraken_positions((*json)["positions"], pairs));
  check(venue::parse_coinbase_product(*json));
  check(venue::parse_coinbase_book(*json));
  check(venue::parse_coinbase_fill(*json));
  check(venue::parse_coinbase_account(*json));
  check(venue::parse_exec_order(*json));
  check(venue::parse_exec_fill(*json));
  check(venue::parse_exec_balance(*json));
  check(venue::parse_exec_rules(*json));
  check(venue::parse_exec_quote(*json));
  check(venue::parse_exec_position(*json));
  return 0;
}
