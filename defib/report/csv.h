// An incident's events as CSV (RFC 4180), for spreadsheets and auditors: all of them, one a line,
// nothing left out. Thread rule: pure.

#pragma once

#include <string>

#include "defib/wire/json.h"

namespace defib::report {

// Columns: seq, at, event, then every member that any event has, in the order of their first
// appearance; past kMaxColumns of them the rest stands as JSON in the last column, `more`. Texts
// come from a process that crashed: what a spreadsheet would take for a formula begins with an
// apostrophe.
inline constexpr std::size_t kMaxColumns = 200;
std::string to_csv(const wire::Json& incident);

}  // namespace defib::report
