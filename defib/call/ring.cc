#include "defib/call/ring.h"

#include "defib/base/assert.h"

namespace defib::call {
namespace {

constexpr std::int64_t kForever = -1;

}  // namespace

bool RingWriter::wait_for_space(std::uint64_t units) {
  DEFIB_ASSERT(units <= capacity_);
  const auto fits = [&] {
    tail_seen_ = header_->tail.load(std::memory_order_acquire);
    return head_ + units - tail_seen_ <= capacity_;
  };
  for (std::uint32_t i = 0; i < spins(); ++i) {
    if (fits()) return !cancelled();
    if (cancelled()) return false;
    relax();
  }
  while (!fits()) {
    const std::uint32_t seen = header_->returned.load(std::memory_order_acquire);
    header_->writer_waits.store(1, std::memory_order_seq_cst);
    if (cancelled()) return false;
    if (!fits()) wait_while(header_->returned, seen, kForever);
    header_->writer_waits.store(0, std::memory_order_relaxed);
    if (cancelled()) return false;
  }
  return true;
}

// Not inline: the thread sanitizer, which knows no fences, would refuse every user of the header.
void RingWriter::full_fence() {
  std::atomic<std::uint32_t> own{0};
  own.exchange(1, std::memory_order_seq_cst);
}

void RingWriter::wake_reader() {
  if (header_->reader_waits.exchange(0, std::memory_order_acq_rel) == 0) return;
  header_->published.fetch_add(1, std::memory_order_release);
  wake_all(header_->published);
}

void RingWriter::end(RingState state) {
  header_->head.store(head_, std::memory_order_release);
  header_->state.store(static_cast<std::uint32_t>(state), std::memory_order_seq_cst);
  header_->reader_waits.store(0, std::memory_order_relaxed);
  header_->published.fetch_add(1, std::memory_order_seq_cst);
  wake_all(header_->published);
}

void RingReader::give_back() {
  returned_ = position_;
  header_->tail.store(position_, std::memory_order_seq_cst);
  if (header_->writer_waits.load(std::memory_order_seq_cst) == 0) return;
  header_->returned.fetch_add(1, std::memory_order_release);
  wake_all(header_->returned);
}

void RingReader::cancel() {
  header_->cancelled.store(1, std::memory_order_seq_cst);
  header_->returned.fetch_add(1, std::memory_order_seq_cst);
  wake_all(header_->returned);
}

bool write_message(RingWriter& ring, std::string_view message, bool& too_large) {
  const std::uint64_t units = message_units(message.size());
  too_large = units > ring.capacity() / 2;
  if (too_large) return false;
  const std::uint64_t at = ring.head() % ring.capacity();
  const std::uint64_t to_end = ring.capacity() - at;
  // A message lies in one piece; what does not fit before the end begins at the beginning.
  const std::uint64_t skipped = to_end < units ? to_end : 0;
  if (!ring.reserve(skipped + units)) return false;
  if (skipped > 0) {
    std::memcpy(ring.bytes() + at, &kSkipToEnd, sizeof kSkipToEnd);
    ring.advance(skipped);
  }
  std::byte* to = ring.bytes() + ring.head() % ring.capacity();
  const auto size = static_cast<std::uint32_t>(message.size());
  std::memcpy(to, &size, sizeof size);
  std::memcpy(to + sizeof size, message.data(), message.size());
  ring.advance(units);
  ring.publish();
  return true;
}

MessageRead read_message(RingReader& ring, std::string_view& message, std::uint64_t& units) {
  // At most one skip is followed by a message.
  for (int round = 0; round < 2; ++round) {
    if (ring.ready() == 0) {
      if (!ring.look()) return MessageRead::kBroken;
      if (ring.ready() == 0) return MessageRead::kNothing;
    }
    if (ring.ready() % kMessageUnit != 0) return MessageRead::kBroken;
    const std::uint64_t at = ring.position() % ring.capacity();
    const std::uint64_t to_end = ring.capacity() - at;
    std::uint32_t size = 0;
    std::memcpy(&size, ring.bytes() + at, sizeof size);
    // What is checked is what is used: the compiler may not read it again.
    asm volatile("" : : : "memory");
    if (size == kSkipToEnd) {
      if (round > 0 || to_end > ring.ready()) return MessageRead::kBroken;
      ring.advance(to_end);
      continue;
    }
    units = message_units(size);
    if (units > ring.ready() || units > to_end) return MessageRead::kBroken;
    message = {reinterpret_cast<const char*>(ring.bytes()) + at + sizeof size, size};
    return MessageRead::kMessage;
  }
  return MessageRead::kBroken;
}

}  // namespace defib::call
