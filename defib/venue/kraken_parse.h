// Reads the Kraken dialect's documents. Unknown members are tolerated; a missing or malformed one
// is VenueBadAnswer and named. Pure.

#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::venue {

// The venue's table of pairs: altname by id and by altname itself.
struct KrakenPairs {
  std::vector<SymbolRules> rules;
  std::map<std::string, std::string, std::less<>> altnames;
  // The altname, or VenueBadAnswer where the venue never told of such a pair.
  Result<std::string> altname(std::string_view id_or_altname) const;
  const SymbolRules* find(std::string_view altname) const;
};

// `result` is the answer's member of that name, in all of these but the orders.
Result<KrakenPairs> parse_kraken_pairs(const wire::Json& result);
Result<std::vector<Quote>> parse_kraken_ticker(const wire::Json& result, const KrakenPairs& pairs);
// The whole answer, whose result holds the orders in `member` ("open", "closed"), in lists.cc.
// nullopt where it is a refusal, or no answer with such a list. `body` is padded, and else stays as
// it is.
Result<std::optional<std::vector<Order>>> parse_kraken_orders(std::string& body,
                                                              std::string_view member,
                                                              const KrakenPairs& pairs);
struct KrakenTrade {
  std::string key;  // "THVRQM-33VKH-UCI7BS"
  Fill fill;
};
Result<std::vector<KrakenTrade>> parse_kraken_trades(const wire::Json& map,
                                                     const KrakenPairs& pairs);
Result<std::vector<Balance>> parse_kraken_balances(const wire::Json& result);
// A map by position id, or, consolidated, a list of rows.
Result<std::vector<PositionReport>> parse_kraken_positions(const wire::Json& result,
                                                           const KrakenPairs& pairs);

}  // namespace defib::venue
