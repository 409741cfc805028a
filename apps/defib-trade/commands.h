// The commands of defib-trade, behind `defib recover|reconcile|approve|checklist|explain`.

#pragma once

#include <optional>
#include <string>

#include "defib/base/error.h"

namespace defib::trade_program {

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kWrongUsage = 2;
inline constexpr int kRefused = 3;

struct Arguments {
  std::string state_dir;
  std::string store_dir;  // empty: STATE_DIR/trading
  std::string config = "defib.toml";
  bool json = false;
  std::string subject;  // approve: the plan; explain: the verdict
  std::string by;
  std::string ttl = "10m";
  std::string reason;
  bool apply = false;
  std::string wait = "15s";
};

// Each prints its result and returns the exit code; an error is the caller's to report.
Result<int> recover(const Arguments& arguments);
Result<int> checklist(const Arguments& arguments);
Result<int> reconcile(const Arguments& arguments);
Result<int> approve(const Arguments& arguments);
Result<int> intents(const Arguments& arguments);
Result<int> explain(const Arguments& arguments);

// Prints the error in the form of docs/cli.md and returns its exit code.
int report(const Error& error, bool json);

}  // namespace defib::trade_program
