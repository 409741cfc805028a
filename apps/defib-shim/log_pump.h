// LogPump: moves the service's output from its two FIFOs into logs/current, and on to a terminal.
//
// Invariants: bytes go from FIFO to file by splice(2), which removes from the pipe exactly what it
// put into the file, also when this process is killed in the middle: a killed shim loses nothing.
// The service never waits for a disk that is full (the bytes are dropped and counted); it waits for
// a slow terminal as it would without a supervisor.

#pragma once

#include <stddef.h>
#include <stdint.h>

namespace defib::process::shim {

class LogPump {
 public:
  // Makes and opens the FIFOs, opens logs/current. 0 or -errno.
  int open_all();
  void set_limits(uint64_t max_bytes, uint32_t files) {
    max_bytes_ = max_bytes;
    files_ = files;
  }
  // For the service: its own stdout and stderr, opened for reading and writing, so that writing
  // never meets a pipe without a reader.
  int service_end(int stream) const { return streams_[stream].service_fd; }
  // For epoll; -1 while the stream must not be read (its terminal is slow).
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
  uint64_t dropped() const { return dropped_; }

 private:
  struct Stream {
    int fifo_fd = -1;
    int service_fd = -1;
    int out_fd = -1;
    bool broken = false;   // its reader is gone
    uint64_t passed = 0;   // offsets in the current file: what went to out_fd,
    uint64_t arrived = 0;  // and where this stream's last bytes end
  };
  int open_current();
  void rotate();
  void discard(int stream);
  void feed_range(int stream, uint64_t from, uint64_t to, Feed feed);

  Stream streams_[2];
  int file_ = -1;
  uint64_t size_ = 0;
  uint64_t max_bytes_ = 16u << 20;
  uint32_t files_ = 4;
  uint64_t dropped_ = 0;
};

}  // namespace defib::process::shim
