// Reading a service's output from the files that its shim keeps: logs/current, and the rotated
// logs/current.1 (newer) to .N (oldest).
//
// The files hold the output's bytes and nothing else, so the time of a line is what the line itself
// says: a leading RFC 3339 time, or the field time=. A line without one belongs to the one before.
// Thread rule: one thread.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"

namespace defib::daemon {

struct LogSelection {
  std::int64_t from_wall_ns = 0;  // 0: from the beginning
  std::int64_t to_wall_ns = INT64_MAX;
  std::size_t last_lines = 0;  // 0: all
  bool by_time() const { return from_wall_ns != 0 || to_wall_ns != INT64_MAX; }
};

struct LogText {
  std::string text;
  // Lines were asked for by their time, and no line of these files tells one: all is shown.
  bool without_times = false;
  std::uint64_t end_offset = 0;  // in logs/current, for following it
};

// At most the newest `max_bytes` are looked at. FileNotFound where the service never wrote.
Result<LogText> read_service_log(os::Files& files, const std::string& service_dir,
                                 const LogSelection& selection, std::uint64_t max_bytes = 64 << 20);

// The time that a line tells, if it tells one. Offsets are understood, fractions are optional.
std::optional<std::int64_t> time_of_line(std::string_view line);

// Calls `sink` with what is appended from `offset` on, also over rotations, until `stop` says so
// (asked at least every 200 ms).
Result<> follow_service_log(const std::string& service_dir, std::uint64_t offset,
                            const std::function<void(std::string_view)>& sink,
                            const std::function<bool()>& stop);

}  // namespace defib::daemon
