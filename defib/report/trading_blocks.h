// What a report says of a trading service (trading_blocks.cc). Thread rule: pure.

#pragma once

#include <cstdint>
#include <vector>

#include "defib/report/document.h"
#include "defib/wire/json.h"

namespace defib::report {

// `timeline`: the incident's events; empty where none of them is of trading. Charts lie on seconds
// after the failure.
std::vector<Block> trading_blocks(const wire::Json& timeline, std::int64_t failed_wall_ns);

}  // namespace defib::report
