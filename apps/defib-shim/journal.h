// Journal: the events that no supervisor has acknowledged yet, in order, in a fixed buffer.
//
// When it is full, notifications make way first (they may use three quarters at most), then the
// oldest event; what was lost is counted and told in Welcome.

#pragma once

#include <stddef.h>
#include <stdint.h>

#include "defib/process/shim_protocol.h"

namespace defib::process::shim {

class Journal {
 public:
  static constexpr size_t kCapacity = 64 * 1024;

  // Adds an event and gives it the next sequence number.
  void add(Type type, const void* body, size_t body_size, const void* tail = nullptr,
           size_t tail_size = 0);
  // Drops all up to this sequence.
  void acknowledge(uint64_t sequence);

  // One stored event: a whole message (header, body, tail).
  struct Entry {
    const char* bytes;
    size_t size;
    MessageHeader header;
  };
  // The first event after `sequence`; false where there is none.
  bool next_after(uint64_t sequence, Entry* entry) const;
  uint64_t count() const;
  uint64_t dropped() const { return dropped_; }

 private:
  void drop_first();

  char buffer_[kCapacity];
  size_t used_ = 0;
  uint64_t last_sequence_ = 0;
  uint64_t dropped_ = 0;
};

}  // namespace defib::process::shim
