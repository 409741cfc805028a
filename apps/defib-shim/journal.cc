#include "journal.h"

#include <string.h>

namespace defib::process::shim {
namespace {

// Each event is stored as its size (8 bytes) and the message.
constexpr size_t kSizeField = sizeof(uint64_t);

size_t stored_size(const char* at) {
  uint64_t size;
  memcpy(&size, at, sizeof size);
  return kSizeField + static_cast<size_t>(size);
}

MessageHeader stored_header(const char* at) {
  MessageHeader header;
  memcpy(&header, at + kSizeField, sizeof header);
  return header;
}

}  // namespace

void Journal::drop_first() {
  const size_t size = stored_size(buffer_);
  memmove(buffer_, buffer_ + size, used_ - size);
  used_ -= size;
}

void Journal::add(Type type, const void* body, size_t body_size, const void* tail,
                  size_t tail_size) {
  const uint64_t size = sizeof(MessageHeader) + body_size + tail_size;
  const size_t needed = kSizeField + static_cast<size_t>(size);
  const size_t room = type == Type::kNotify ? kCapacity / 4 * 3 : kCapacity;
  if (size > kMaxMessage || (type == Type::kNotify && used_ + needed > room)) {
    ++dropped_;
    return;
  }
  while (used_ + needed > room) {
    drop_first();
    ++dropped_;
  }
  const MessageHeader header = {kMessageMagic, kProtocolVersion, type, ++last_sequence_};
  char* at = buffer_ + used_;
  memcpy(at, &size, kSizeField);
  at += kSizeField;
  memcpy(at, &header, sizeof header);
  at += sizeof header;
  memcpy(at, body, body_size);
  if (tail_size > 0) memcpy(at + body_size, tail, tail_size);
  used_ += needed;
}

void Journal::acknowledge(uint64_t sequence) {
  while (used_ > 0 && stored_header(buffer_).sequence <= sequence) drop_first();
}

uint64_t Journal::count() const {
  uint64_t count = 0;
  for (size_t at = 0; at < used_; at += stored_size(buffer_ + at)) ++count;
  return count;
}

bool Journal::next_after(uint64_t sequence, Entry* entry) const {
  size_t at = 0;
  while (at < used_) {
    const MessageHeader header = stored_header(buffer_ + at);
    const size_t size = stored_size(buffer_ + at);
    if (header.sequence > sequence) {
      *entry = {buffer_ + at + kSizeField, size - kSizeField, header};
      return true;
    }
    at += size;
  }
  return false;
}

}  // namespace defib::process::shim
