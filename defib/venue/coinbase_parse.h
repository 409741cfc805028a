// Reads Coinbase Advanced Trade's documents. Unknown members are tolerated; a missing or malformed
// one is VenueBadAnswer and named. Pure.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::venue {

Result<SymbolRules> parse_coinbase_product(const wire::Json& json);
Result<Quote> parse_coinbase_book(const wire::Json& json);
// A whole answer each, in lists.cc; nullopt where there is no list, or no order, in it. `body` is
// padded, and else stays as it is.
struct CoinbasePage {
  std::vector<Order> orders;
  std::string cursor;
  bool has_next = false;
};
Result<std::optional<CoinbasePage>> parse_coinbase_orders(std::string& body);
Result<std::optional<Order>> parse_coinbase_order(std::string& body);
// The id is the trade's time in microseconds, 17 digits, a dash, and the venue's id.
Result<Fill> parse_coinbase_fill(const wire::Json& json);
Result<Balance> parse_coinbase_account(const wire::Json& json);

}  // namespace defib::venue
