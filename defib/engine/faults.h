// Faults on demand: the engine can be told to fail, in a chosen way, at a named point, so that
// drills and tests can show what recovery does. Nothing of this acts unless asked for.
//
// A plan is written KIND@POINT[:N]: "segv@intent_durable", "deadlock@tick:50" (the 50th time).
// Kinds:  segv abort assert exception deadlock busy_loop leak stack_overflow kill disconnect
//         (`disconnect` cuts every TCP connection of the process, then faults: the venue is lost at
//         the moment of the crash)
// Points: tick, and the gateway's: before_intent intent_durable request_sent reply_seen
//         outcome_recorded
// Thread rule: one thread at a time.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"

namespace defib::engine {

enum class FaultKind {
  kSegv,
  kAbort,
  kAssert,
  kException,
  kDeadlock,
  kBusyLoop,
  kLeak,
  kStackOverflow,
  kKill,
  kDisconnect,
};

struct FaultPlan {
  FaultKind kind = FaultKind::kSegv;
  std::string point;
  int at_pass = 1;  // fails at the N-th time that the point is passed
};

// InvalidArgument lists the valid words.
Result<FaultPlan> parse_fault(std::string_view text);
std::string_view to_string(FaultKind kind);

class FaultInjector {
 public:
  void arm(FaultPlan plan);
  bool armed() const { return plan_.has_value(); }
  // Does not return when the armed fault is due here (kDeadlock and kBusyLoop hang).
  void reached(std::string_view point);

 private:
  std::optional<FaultPlan> plan_;
  int passes_ = 0;
};

// Fails now, in the given way.
[[noreturn]] void fail(FaultKind kind);

}  // namespace defib::engine
