// Sorting records by key where they stand, without touching most of them.
//
// A KeyRef is eight bytes of the key and the place of the rest; arrays of them are sorted by radix,
// and only keys that agree in those eight bytes are looked at in memory, fetched ahead of use. The
// sort is stable, so that records which were in the order of the log still are where their keys
// are equal: the last one of them is the one that counts, and the others are marked.
//
// Thread rule: pure functions over the caller's arrays.

#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/store/pulse.h"

namespace defib::store {

// Eight readable bytes must follow each key (in a log the transaction's end does).
class KeyRef {
 public:
  KeyRef() = default;
  KeyRef(const char* key, std::size_t size, bool erased)
      : prefix_(0),
        where_(reinterpret_cast<std::uintptr_t>(key) | (std::uint64_t{size} << kSizeShift) |
               (erased ? kErased : 0)) {
    DEFIB_ASSERT(reinterpret_cast<std::uintptr_t>(key) <= kAddress && size <= kMaxSize);
  }

  // A pointer, a size and a bit share eight bytes: that is the point of this class.
  const char* data() const {
    return reinterpret_cast<const char*>(where_ & kAddress);  // NOLINT(performance-no-int-to-ptr)
  }
  std::size_t size() const { return (where_ >> kSizeShift) & kMaxSize; }
  std::string_view key() const { return {data(), size()}; }
  bool erased() const { return (where_ & kErased) != 0; }
  // An equal key comes later.
  bool superseded() const { return (where_ & kSuperseded) != 0; }
  void supersede() { where_ |= kSuperseded; }

  std::uint64_t prefix() const { return prefix_; }
  // Takes bytes `depth` to `depth` + 7, zeros where the key has ended. Precondition: depth <= size.
  void load_prefix(std::size_t depth) {
    const std::size_t left = size() - depth;
    prefix_ = std::byteswap(load<std::uint64_t>(data() + depth));
    if (left < 8) prefix_ = left == 0 ? 0 : prefix_ & (~0ULL << (64 - 8 * left));
  }

 private:
  static constexpr std::uint64_t kAddress = (1ULL << 48) - 1;
  static constexpr unsigned kSizeShift = 48;
  static constexpr std::uint64_t kMaxSize = (1ULL << 14) - 1;
  static constexpr std::uint64_t kErased = 1ULL << 62;
  static constexpr std::uint64_t kSuperseded = 1ULL << 63;
  std::uint64_t prefix_;  // Not set by default: arrays of millions are filled at once.
  std::uint64_t where_;
};
static_assert(sizeof(KeyRef) == 16);

// How many leading bytes the two have in common.
std::size_t common_bytes(std::string_view a, std::string_view b);

// Sorts by key, stably, and marks all but the last of equal keys. Preconditions: the keys agree in
// their first `depth` bytes, their prefixes are those at `depth`, and `scratch` is as long.
// Where `pulse` is stopped the keys are left in any order.
void sort_keys(std::span<KeyRef> keys, std::span<KeyRef> scratch, std::size_t depth,
               SharedPulse* pulse = nullptr);

}  // namespace defib::store
