// LogWatch: looks for patterns in the lines of a service's output, and says when one acts.
//
// Matching is linear in the line's length whatever the pattern (RE2), a pattern whose program is
// large is refused, lines are cut at kMaxLine, and all matching of a service together gets
// kShareOfTime of one processor: what comes in beyond that is skipped and counted. So neither a
// flood nor a pattern can keep the supervisor from its work, and the service never waits for it.
// Thread rule: one thread.

#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/daemon/sensor_config.h"
#include "defib/os/clock.h"

namespace defib::daemon {

// A pattern acts: so many lines matched within its window.
struct LogMatch {
  const LogPattern& pattern;
  int stream = 0;        // of the last line: 1 stdout, 2 stderr
  std::string line;      // the last line, at most kShownLine of it
  int lines = 0;         // that matched within the window
  os::Duration over{0};  // from the first of them to the last
};

class LogWatch {
 public:
  static constexpr std::size_t kMaxLine = 64 << 10;
  static constexpr std::size_t kShownLine = 1024;
  static constexpr int kMaxProgram = 1500;  // instructions of a compiled pattern
  static constexpr double kShareOfTime = 0.2;
  static constexpr os::Duration kMostSaved = std::chrono::milliseconds(200);  // for a burst

  using OnMatch = std::function<void(const LogMatch& match)>;
  // InvalidArgument says which pattern is wrong, and how.
  static Result<std::unique_ptr<LogWatch>> create(const os::Clock& clock,
                                                  std::vector<LogPattern> patterns,
                                                  OnMatch on_match);
  ~LogWatch();
  LogWatch(const LogWatch&) = delete;
  LogWatch& operator=(const LogWatch&) = delete;

  // Bytes of one stream (1 stdout, 2 stderr), in pieces of any size. `feed_lost` is how many bytes
  // were lost on the way here until now; a line with a hole is not looked at.
  void push(int stream, std::string_view bytes, std::uint64_t feed_lost = 0);
  // The process ended: a last line without an end is one too.
  void flush();
  // Bytes that were never looked at: lost on the way, skipped, or behind kMaxLine of their line.
  std::uint64_t lost_bytes() const { return feed_lost_ + skipped_; }

 private:
  struct Compiled;
  struct Stream {
    std::string partial;
    bool in_hole = false;  // up to the next line's beginning
  };
  LogWatch(const os::Clock& clock, OnMatch on_match);
  void take_line(int stream, std::string_view line);
  void skip(Stream& stream, std::string_view bytes);
  bool may_match();

  const os::Clock& clock_;
  OnMatch on_match_;
  std::vector<std::unique_ptr<Compiled>> patterns_;
  Stream streams_[2];
  std::uint64_t feed_lost_ = 0;
  std::uint64_t skipped_ = 0;
  os::Duration saved_ = kMostSaved;
  std::int64_t saved_at_mono_ns_ = 0;
};

}  // namespace defib::daemon
