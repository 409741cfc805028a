// Records for people and for other tools: their fields by name, and one line of JSON.
//
// Thread rule: pure functions.

#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "defib/marketdata/records.h"
#include "defib/marketdata/walk.h"

namespace defib::marketdata {

// A count of 1e-9 as an exact decimal with nine digits after the point: "3722.750000000". Empty for
// kUndefPrice.
std::string price_text(std::int64_t price);
// RFC 3339 in UTC with nanoseconds; empty for kUndefTime. Times beyond the year 2262 are written as
// their number of nanoseconds.
std::string time_text(std::uint64_t ns);

struct JsonOptions {
  std::string_view symbol{};  // written where it is not empty
};

// One object on one line, without a line feed:
// {"schema":"defib.dbn_record/1","type":"mbo","symbol":...,"hd":{"ts_event","rtype",
// "publisher_id","instrument_id"}, the fields in their order, "ts_out" where it is there}.
// Prices are texts as of price_text(), times as of time_text(), single characters and texts are
// texts; what is not set is null. A record of an unknown type has its bytes as "hex".
void append_json(std::string& out, const RecordView& record, const JsonOptions& options = {});

}  // namespace defib::marketdata
