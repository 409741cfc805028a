// Journald: hands each line of the output to journald, in its native protocol
// (systemd.io/JOURNAL_NATIVE_PROTOCOL).
//
// It never blocks: where journald does not take a line (it is slow, or being restarted), this one
// is stalled, and begins again from the log itself, at the place that its index notes for each
// stream. What a rotation takes away before that is dropped and counted. The next shim goes on from
// the same place; a kill between the sending of a line and the noting of it sends that one line
// twice, with the same DEFIB_LOG_OFFSET.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "log_index.h"

namespace defib::process::shim {

class Journald {
 public:
  // `env` is the service's environment: it names the service, and journald's socket where that is
  // another one (DEFIB_JOURNAL_SOCKET).
  void configure(bool on, char* const* env);
  bool on() const { return on_; }
  bool stalled() const { return stalled_; }
  // Ends the stall; the lines behind header.forwarded are pushed again. With `drop` they are only
  // counted as dropped.
  void begin_again(bool drop);
  // Bytes of a stream that lie in the log at `offset`.
  void push(int stream, uint64_t offset, const char* bytes, size_t size, LogIndex* index);

 private:
  static constexpr size_t kMaxLine = 1u << 20;  // longer ones are sent in pieces
  enum class Sent { kYes, kDropped, kStalled };
  Sent send_line(int stream, uint64_t inode, uint64_t end_offset);
  bool send_file(const iovec* parts, int count, msghdr* message);

  bool on_ = false;
  bool stalled_ = false;
  bool drop_ = false;
  int socket_ = -1;
  char name_[72] = {};
  char path_[108] = {};
  size_t size_[2] = {};
  char text_[2][kMaxLine];  // pages that no line reached cost nothing
};

}  // namespace defib::process::shim
