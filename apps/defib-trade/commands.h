// The commands of defib-trade, behind `defib recover|reconcile|approve|checklist|explain`.

#pragma once

#include <optional>
#include <string>
#include <vector>

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
  std::string venue;  // of several accounts; empty: the first one, or all where a command does all
  // kill
  bool all = false;
  std::string strategy;
  std::string release;
  bool status = false;
  std::string arm_switch;
  // checklist --manual
  std::string manual;
  std::vector<std::string> answers;  // KEY=yes|no|n/a[:NOTE]
  bool close = false;
  // explain
  std::string from;  // a decision's or an incident's file, instead of the store
};

// Each prints its result and returns the exit code; an error is the caller's to report.
Result<int> recover(const Arguments& arguments);
Result<int> checklist(const Arguments& arguments);
Result<int> reconcile(const Arguments& arguments);
Result<int> approve(const Arguments& arguments);
Result<int> intents(const Arguments& arguments);
Result<int> explain(const Arguments& arguments);
// In commands_kill.cc and commands_manual.cc.
Result<int> kill(const Arguments& arguments);
Result<int> manual_checklist(const Arguments& arguments);

// Prints the error in the form of docs/cli.md and returns its exit code.
int report(const Error& error, bool json);

}  // namespace defib::trade_program
