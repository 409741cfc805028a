// LogIndex: the writer of the index beside logs/current (defib/process/log_index_format.h).
//
// It is best effort where the log is not: what cannot be written (a full disk) is left out, and the
// log goes on. Its size counts towards the log's, so that a bound on the log bounds both.

#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "defib/process/log_index_format.h"

namespace defib::process::shim {

class LogIndex {
 public:
  // Opens the index of logs/current, whose inode and size are these; begins a new one where there
  // is none of this file, with the counters of `before` (nullptr: those of the file rotated last).
  void open_for(ino_t inode, uint64_t log_size, const LogIndexHeader* before);
  // What is moved to the log's end from now on came from that stream. Nothing is written where the
  // last record says so already, and is young enough.
  void mark(uint64_t log_size, int stream);
  // Bytes have followed the last mark().
  void moved() { position_ = pending_; }
  // Bytes that did not reach the log. Those of one stream at one place are one record.
  void dropped(uint64_t log_size, int stream, LogRecordKind kind, uint64_t bytes);
  void write_header();

  // Bytes on disk.
  uint64_t size() const { return position_; }
  // Of the records already written; false at their end.
  bool read(uint64_t number, LogIndexRecord* record) const;

  LogIndexHeader header = {};

 private:
  bool put(uint64_t at, LogIndexRecord* record);

  int fd_ = -1;
  uint64_t position_ = 0;  // where the next record goes
  uint64_t pending_ = 0;   // behind a record that describes no bytes yet
  LogIndexRecord last_ = {};
};

}  // namespace defib::process::shim
