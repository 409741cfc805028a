// LogPump: moves the service's output from its two FIFOs into logs/current, and on to a terminal
// and to journald.
//
// Invariants: bytes go from FIFO to file by splice(2), which removes from the pipe exactly what it
// put into the file, also when this process is killed in the middle: a killed shim loses nothing.
// logs/current holds the service's bytes and nothing else; their times are in the index beside it.
// The service never waits for a disk that is full, nor for its own rate limit (the bytes are
// dropped, whole lines of them, and counted); it waits for a slow terminal as it would without a
// supervisor. What is on disk never exceeds the limits by more than one line of each stream.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include "journald.h"
#include "log_index.h"

namespace defib::process::shim {

class LogPump {
 public:
  // Makes and opens the FIFOs, opens logs/current. 0 or -errno.
  int open_all();
  // As the launch description says; `env` is the service's environment.
  void configure(const LaunchHeader& header, char* const* env);
  // For the service: its own stdout and stderr, opened for reading and writing, so that writing
  // never meets a pipe without a reader.
  int service_end(int stream) const { return streams_[stream].service_fd; }
  // For epoll; not to be watched while the stream's terminal is slow.
  int fifo(int stream) const { return streams_[stream].fifo_fd; }

  // Moves what is there. `feed` is called with the bytes that arrived, after they are in the file.
  using Feed = void (*)(int stream, const char* bytes, size_t size);
  void pump(int stream, Feed feed);

  // Takes both descriptors over; -1: none. Closes the ones before: unwatch them first.
  void pass_through(int out, int err);
  // Continues a pass-through that had to wait. True while bytes still wait.
  bool flush(int stream);
  bool waiting(int stream) const { return streams_[stream].passed < streams_[stream].arrived; }
  int out(int stream) const { return streams_[stream].out_fd; }
  bool broken(int stream) const { return streams_[stream].broken; }
  void close_out(int stream);
  // When journald shall be tried again, monotonic; 0: nothing waits for it.
  int64_t retry_at() const { return retry_at_; }
  void retry();
  // Bytes that did not reach the log: because of a full disk, and because of the rate limit.
  uint64_t dropped() const { return index_.header.dropped_by_disk + index_.header.dropped_by_rate; }

 private:
  struct Stream {
    int fifo_fd = -1;
    int service_fd = -1;
    int out_fd = -1;
    bool broken = false;    // its reader is gone
    LogRecordKind cut{};    // why bytes were dropped, perhaps to the middle of a line; 0: none
    uint64_t passed = 0;    // offsets in the file: what went to out_fd,
    uint64_t arrived = 0;   // and where this stream's last bytes end
    int waiting_file = -1;  // the file of these offsets where it is not the current one any more
  };
  int open_current(int fd, const LogIndexHeader* before);
  void finish_rotation();
  bool rotate();
  void bound_total();
  uint64_t allowance(int stream);
  uint64_t room(int stream);
  bool may_go_on();
  bool skip_rest_of_line(int stream);
  int64_t move(int stream, uint64_t bytes);
  void finish_line(int stream);
  void after_move(int stream, uint64_t from);
  void discard(int stream, LogRecordKind why);
  uint64_t bytes_to_line_end(int stream) const;
  bool ends_line() const;
  bool is_old() const;
  void feed_range(int stream, uint64_t from, uint64_t to);
  void forward_backlog();
  void look_at_journal(bool moved);

  Stream streams_[2];
  LogIndex index_;
  Journald journal_;
  Feed feed_ = nullptr;  // while pump() is at work
  int64_t retry_at_ = 0;
  int64_t retry_delay_ = 0;
  int file_ = -1;
  int null_ = -1;
  uint64_t size_ = 0;
  uint64_t max_bytes_ = 16u << 20;
  uint64_t total_bytes_ = 0;  // of all files; 0: no bound of its own
  int64_t max_age_ns_ = 0;    // of a file's first byte; 0: no limit
  uint32_t files_ = 4;
  uint64_t rate_ = 0;  // bytes a second; 0: no limit
  uint64_t burst_ = 0;
  int64_t tokens_ = 0;  // bytes that may still be moved; a line may overdraw it
  int64_t filled_at_ = 0;
  bool over_rate_ = false;
};

}  // namespace defib::process::shim
