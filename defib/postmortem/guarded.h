// Guarded: runs a piece of work in a child process that may crash, hang or eat memory without harm,
// because its input is hostile and its library is large. What it has written by then is kept.
//
// Invariants: ends at its deadline; the child can hold no more memory and write no more than it
// may, leaves no core and dies with its parent. Thread rule: the calling process has one thread.

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/symbols.h"

namespace defib::postmortem {

struct GuardLimits {
  std::chrono::milliseconds time{60'000};
  std::chrono::seconds cpu{10};
  std::uint64_t memory_bytes = std::uint64_t{2} << 30;  // neither mapped files nor shared
  std::uint64_t output_bytes = std::uint64_t{128} << 20;
  bool low_priority = false;
};
// What the options allow.
GuardLimits limits_of(const SymbolOptions& options);

// What the child writes on.
class GuardOutput {
 public:
  GuardOutput(int fd, std::atomic<std::uint32_t>* mark) : fd_(fd), mark_(mark) {}
  // One record, whole or not at all for the reader.
  void write(std::string_view record) const;
  // What the child is about to do; where it dies, its parent learns the number.
  void mark(std::uint32_t number) const { mark_->store(number, std::memory_order_relaxed); }

 private:
  int fd_;
  std::atomic<std::uint32_t>* mark_;
};

inline constexpr std::uint32_t kNoMark = UINT32_MAX;

struct GuardResult {
  // All that the child wrote; no string, whose bytes would move with it.
  std::vector<char> bytes;
  std::vector<std::string_view> records;  // in `bytes`
  bool finished = false;                  // the work returned
  std::string failure;           // else why not: "signal 11 (SIGSEGV)", "did not end in 10 s"
  std::uint32_t mark = kNoMark;  // the last one
};

// An Error where there is no child at all: no memory, no processes. `meanwhile` is called once,
// here, while the child works; its time counts as the child's.
Result<GuardResult> run_guarded(const std::function<void(const GuardOutput&)>& work,
                                const GuardLimits& limits,
                                const std::function<void()>& meanwhile = {});

// Work over parts of which each may be the hostile one. The part that it fails in, by its mark, is
// left out and the work begun anew, a few times, all within the limit of time.
struct GuardLoss {
  std::uint32_t part = kNoMark;  // kNoMark: it is not known which, and nothing more was tried
  std::string failure;
};
using GuardedParts = std::function<void(const std::set<std::size_t>& left_out, const GuardOutput&)>;
// `take` gets the records of each attempt, those of a failed one too; `meanwhile` is called once,
// in any case.
std::vector<GuardLoss> run_guarded_parts(
    std::size_t parts, const GuardedParts& work, const GuardLimits& limits,
    const std::function<void(const std::vector<std::string_view>&)>& take,
    const std::function<void()>& meanwhile = {});

}  // namespace defib::postmortem
