// What defib-dbn does: reads DBN and writes its records as JSON lines.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "defib/base/error.h"
#include "defib/marketdata/records.h"

namespace defib::dbn_program {

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kWrongUsage = 2;
inline constexpr int kInterrupted = 4;

struct Arguments {
  std::string file = "-";
  bool json = false;
  bool metadata = false;
  std::uint64_t limit = 0;  // records to print; 0: all
  std::string schema;       // only records that belong to it
  std::string rtype;        // only records of this type
  std::string symbol;       // only records of this symbol
  bool fragment = false;
  int version = 0;
  bool upgrade = false;
};

// Prints, and returns the exit code. An error is the caller's to report; what was decoded before it
// has been printed.
Result<int> dump(const Arguments& arguments);

// Prints the error in the form of docs/cli.md and returns its exit code.
int report(const Error& error, bool json);

}  // namespace defib::dbn_program
