// Reading a service's output from the files that its shim keeps: logs/current, the rotated
// logs/current.1 (newer) to .N (oldest), and the index beside each.
//
// The index tells when which bytes came and from which stream, so the lines of stdout and stderr
// come out whole, each with the time at which its first byte came. Bytes without an index (it is
// missing, or torn) have no stream, and the time that the line itself tells, else the one of the
// line before, else the file's; no byte is left out for the sake of an index.
// A rotation that goes on meanwhile neither hides nor doubles a line.
// Thread rule: one thread.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/fd.h"
#include "defib/process/log_index.h"

namespace defib::daemon {

struct LogLine {
  enum class Time { kIndex, kLine, kFile };  // where the time was taken from
  std::int64_t wall_ns = 0;
  Time time = Time::kFile;
  int stream = 0;                // 1 stdout, 2 stderr, 0 not known
  std::string_view text;         // without its line feed
  bool ended = true;             // by a line feed; else more of it may follow, or was dropped
  std::uint64_t dropped = 0;     // no line: so many bytes are missing here
  bool dropped_by_rate = false;  // beyond log_rate; else the disk was full
};
using LogSink = std::function<void(const LogLine&)>;

struct LogSelection {
  std::int64_t from_wall_ns = 0;  // 0: from the beginning
  std::int64_t to_wall_ns = INT64_MAX;
  std::size_t last_lines = 0;  // 0: all
  int stream = 0;              // 0: both
  bool wants(const LogLine& line) const {
    return line.wall_ns >= from_wall_ns && line.wall_ns <= to_wall_ns &&
           (stream == 0 || line.stream == stream);
  }
};

class ServiceLog {
 public:
  // A line longer than this comes in pieces.
  static constexpr std::size_t kMaxLine = 1 << 20;

  explicit ServiceLog(std::string service_dir) : dir_(std::move(service_dir)) {}

  // The selected lines of what is there now, oldest first. With `goes_on` an unfinished last line
  // is kept for follow(). FileNotFound where the service never wrote.
  Result<> read(const LogSelection& selection, bool goes_on, const LogSink& sink);
  // What is written behind that, until `stop` says so (asked whenever all is shown) or
  // `hangup_fd` (a pipe or terminal; -1: none) has lost its reader. Waits in the kernel.
  Result<> follow(const LogSelection& selection, const LogSink& sink,
                  const std::function<bool()>& stop, int hangup_fd = -1);

 private:
  // One log file with its index, and how far it has been read.
  struct Part {
    os::Fd log;
    std::uint64_t inode = 0;
    std::optional<process::LogIndex> index;
    std::int64_t modified_wall_ns = 0;
    std::uint64_t offset = 0;
    std::uint64_t next_record = 0;
    std::optional<process::shim::LogIndexRecord> record;  // that describes the bytes at `offset`
    std::int64_t told_wall_ns = 0;                        // by the last line that tells its time
  };
  // The line of one stream that has begun.
  struct Begun {
    std::string text;
    std::int64_t wall_ns = 0;
    bool indexed = false;
  };

  std::vector<Part> snapshot() const;  // newest first
  void find_index(Part& part, int number) const;
  std::uint64_t size_of(const Part& part) const;
  void drain(Part& part, bool final, const LogSink& sink);
  bool take_record(Part& part, std::uint64_t size, bool final, const LogSink& sink);
  void push(Part& part, std::string_view bytes, const LogSink& sink);
  void emit(Part& part, int stream, bool ended, const LogSink& sink);
  void flush(const LogSink& sink);
  // Where reading begins, so that so many lines come.
  std::size_t first_needed(const std::vector<Part>& parts, std::size_t lines) const;
  void advance(const LogSink& sink);

  std::string dir_;
  Part part_;  // the newest one that was read
  Begun begun_[3];
};

// The time that a line tells, if it tells one. Offsets are understood, fractions are optional.
std::optional<std::int64_t> time_of_line(std::string_view line);

}  // namespace defib::daemon
