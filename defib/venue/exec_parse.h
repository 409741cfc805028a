// Reads what the program of an `exec` venue prints (docs/venue.md). Unknown members are tolerated;
// a missing or malformed one is VenueBadAnswer and named. Pure.

#pragma once

#include "defib/base/error.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::venue {

Result<Order> parse_exec_order(const wire::Json& json);
Result<Fill> parse_exec_fill(const wire::Json& json);
Result<Balance> parse_exec_balance(const wire::Json& json);
Result<SymbolRules> parse_exec_rules(const wire::Json& json);
Result<Quote> parse_exec_quote(const wire::Json& json);
Result<PositionReport> parse_exec_position(const wire::Json& json);

}  // namespace defib::venue
