// Reads the Binance dialect's documents. Unknown members are tolerated; a missing or malformed one
// is VenueBadAnswer and named, with its place in the list. Pure.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/venue/venue.h"

namespace defib::venue {

// Where the client's own id of the order stands: a cancel answers with its own id in
// `clientOrderId` and the order's in `origClientOrderId`.
// Futures answer with the order's own in both, and name the money `cumQuote`.
enum class ClientIdMember { kClientOrderId, kOrigClientOrderId, kFutures };

// They take the body by value to pad it in place (simdjson reads some bytes beyond the end).
Result<std::vector<Order>> parse_binance_orders(
    std::string body, ClientIdMember member = ClientIdMember::kClientOrderId);
Result<Order> parse_binance_order(std::string body, ClientIdMember member);
// `futures`: the side stands in `buyer`, not in `isBuyer`.
Result<std::vector<Fill>> parse_binance_fills(std::string body, bool futures = false);
Result<std::vector<Balance>> parse_binance_account(std::string body);

// Futures: conditional orders of the algo list, balances, and positions.
Result<std::vector<Order>> parse_binance_algo_orders(std::string_view body);
Result<std::vector<Balance>> parse_binance_futures_balances(std::string_view body);
Result<std::vector<PositionReport>> parse_binance_positions(std::string_view body);
Result<std::vector<SymbolRules>> parse_binance_rules(std::string_view body);
Result<Quote> parse_binance_quote(std::string_view body);
Result<std::vector<Quote>> parse_binance_quotes(std::string_view body);
Result<std::int64_t> parse_binance_time(std::string_view body);

struct BinanceError {
  std::int64_t code = 0;
  std::string text;
};
// nullopt where the body is not {"code":-N,"msg":"..."}.
std::optional<BinanceError> parse_binance_error(std::string_view body);

}  // namespace defib::venue
