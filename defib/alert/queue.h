// The alert queue: an append-only file of events, STATE/alerts/queue, between the supervising
// processes that write it and the sender that empties it (docs/formats/alerts.md).
//
// Each record is a line with its own checksum and begins with a line's end, so that what a killed
// writer left torn costs that one record and nothing behind it. Appending takes a lock for some
// microseconds and syncs nothing: it happens on the supervisor's thread. The sender makes durable
// what it read (in its own file) before it sends.
// Invariant: a record is removed only after the reader has kept it, by emptying the whole file.
// Thread rule: any process and thread; one reader.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/alert/event.h"
#include "defib/base/error.h"
#include "defib/os/files.h"

namespace defib::alert {

inline constexpr std::uint64_t kMaxQueueBytes = 4 << 20;

// A line with its checksum, as in the queue and in the sender's file: "1a2b3c4d {...}".
std::string encode_line(const wire::Json& json);
// Corrupted where the checksum differs.
Result<wire::Json> decode_line(std::string_view line);

class Queue {
 public:
  Queue(os::Files& files, std::string path) : files_(&files), path_(std::move(path)) {}

  // LimitExceeded where the queue is full, Unavailable where another process held its lock for too
  // long (2 ms); nothing was written then.
  Result<> append(const std::vector<Event>& events);
  // There is something that no reader has taken. Cheap.
  bool has_records() const;

  struct Position {
    std::string generation;  // of the file's content; another one begins anew
    std::uint64_t offset = 0;
    friend bool operator==(const Position&, const Position&) = default;
  };
  struct Batch {
    std::vector<Event> events;
    Position end;
    std::uint64_t damaged = 0;  // records that fail their checksum
  };
  // What came after `from`; all where `from` is of another generation.
  Result<Batch> read(const Position& from) const;
  // Empties the file where nothing came after `end`; false where something did.
  Result<bool> empty_if_read(const Position& end);

 private:
  Result<std::unique_ptr<os::File>> open_locked();
  Result<> begin(os::File& file);
  os::Files* files_;
  std::string path_;
};

// The parts of the alert directory.
std::string alerts_dir(const std::string& state_dir);
std::string queue_path(const std::string& state_dir);

}  // namespace defib::alert
