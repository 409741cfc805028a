// Ring: records from a worker to its host, one writer, one reader.
//
// Two forms over one header (channel.h): records of one size, as they lie in memory, and messages
// of any size, each a 32-bit length and its bytes, padded to 8 bytes.
//
// Invariants:
//   - The reader takes nothing from the shared memory but `head`, which it checks against what it
//     has read and the ring's size, and a message's length, which it checks against what is
//     published. So a hostile writer can give wrong records, but no wrong memory.
//   - A record is published after it is complete: whatever instant the writer dies at, the reader
//     gets whole records, in order, none twice.
//   - Nobody wakes anybody who is not asleep. The writer publishes without a fence; a reader that
//     wants to sleep says so, makes every processor see it (fence_for_all), and looks once more.
// Thread rule: one writing thread, one reading thread.

#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "defib/call/channel.h"

namespace defib::call {

// Positions of fixed records count records; those of messages count bytes.
class RingWriter {
 public:
  // `capacity` in the unit of the positions. `fenced`: this process has not registered for fences
  // (register_for_fences()), and pays for one at each publication.
  RingWriter(RingHeader& header, std::byte* bytes, std::uint64_t capacity, bool fenced)
      : header_(&header), bytes_(bytes), capacity_(capacity), fenced_(fenced) {}

  std::byte* bytes() const { return bytes_; }
  std::uint64_t capacity() const { return capacity_; }
  std::uint64_t head() const { return head_; }
  // Waits until so many units are free. False: the reader wants no more.
  bool reserve(std::uint64_t units) {
    if (head_ + units - tail_seen_ <= capacity_) return !cancelled();
    return wait_for_space(units);
  }
  // They are complete, in the ring.
  void advance(std::uint64_t units) { head_ += units; }
  // Shows them to the reader, and wakes it where it waits.
  void publish() {
    header_->head.store(head_, std::memory_order_release);
    // Only the compiler must keep the order: fence_for_all() of the reader does the rest.
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (fenced_) [[unlikely]]
      full_fence();
    if (header_->reader_waits.load(std::memory_order_relaxed) != 0) wake_reader();
  }
  bool cancelled() const { return header_->cancelled.load(std::memory_order_relaxed) != 0; }
  void end(RingState state);

 private:
  bool wait_for_space(std::uint64_t units);
  void wake_reader();
  void full_fence();

  RingHeader* header_;
  std::byte* bytes_;
  std::uint64_t capacity_;
  bool fenced_;
  std::uint64_t head_ = 0;
  std::uint64_t tail_seen_ = 0;
};

class RingReader {
 public:
  RingReader(RingHeader& header, const std::byte* bytes, std::uint64_t capacity)
      : header_(&header), bytes_(bytes), capacity_(capacity) {}

  const std::byte* bytes() const { return bytes_; }
  std::uint64_t capacity() const { return capacity_; }
  std::uint64_t position() const { return position_; }
  // What is published and not read, by the last look.
  std::uint64_t ready() const { return head_seen_ - position_; }
  // Looks again. False: the writer's position is impossible, and the ring is broken for ever.
  bool look() {
    const std::uint64_t head = header_->head.load(std::memory_order_acquire);
    if (head - position_ > capacity_ || head < head_seen_) return false;
    head_seen_ = head;
    return true;
  }
  void advance(std::uint64_t units) {
    pass(units);
    give_back_some();
  }
  // As advance(), but what is passed stays where it is until the next give_back_some().
  void pass(std::uint64_t units) { position_ += units; }
  // The writer seldom needs it at once; an eighth of the ring is early enough.
  void give_back_some() {
    if (position_ - returned_ >= capacity_ / 8) give_back();
  }
  void give_back();
  RingState state() const {
    return static_cast<RingState>(header_->state.load(std::memory_order_acquire));
  }
  void cancel();
  RingHeader& header() const { return *header_; }

 private:
  RingHeader* header_;
  const std::byte* bytes_;
  std::uint64_t capacity_;
  std::uint64_t position_ = 0;
  std::uint64_t returned_ = 0;
  std::uint64_t head_seen_ = 0;
};

inline constexpr std::uint64_t kMessageUnit = 8;
// The length that says: the rest up to the ring's end is empty.
inline constexpr std::uint32_t kSkipToEnd = 0xffffffff;

inline std::uint64_t message_units(std::uint64_t size) {
  return (sizeof(std::uint32_t) + size + kMessageUnit - 1) / kMessageUnit * kMessageUnit;
}

// Appends one message. False: cancelled, or longer than half the ring (then `too_large` is set).
bool write_message(RingWriter& ring, std::string_view message, bool& too_large);

enum class MessageRead { kMessage, kNothing, kBroken };
// The next published message, where it lies; it stays there until
// `units` are given to advance(). kBroken: what is in the ring is no message.
MessageRead read_message(RingReader& ring, std::string_view& message, std::uint64_t& units);

}  // namespace defib::call
