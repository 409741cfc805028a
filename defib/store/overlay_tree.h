// The inside of an overlay: nodes of a B+tree, the search in them, and the memory that they live
// in.
//
// A node holds, for each of its keys, eight bytes of the key as a big-endian number, so that nearly
// every comparison is one of numbers in the node itself. They begin behind the bytes that all keys
// between the node's fences share (`skip`), so that keys with a long common beginning, such as
// "order:00000001", are told apart just as cheaply. Numbers that are equal decide nothing: keys
// shorter than their eight bytes are filled up with zeros, and the keys themselves are compared.
//
// Invariants:
//   - the keys of a leaf ascend strictly; children[i] of an inner node holds the keys from keys[i]
//     (everything below keys[1] for i = 0) to keys[i + 1], exclusive; keys[0] is not used;
//   - all leaves have level 0 and lie equally deep; a node has at least one entry (child);
//   - every key between a node's fences begins with the same `skip` bytes;
//   - no record and no key is ever removed, so a separator may refer to the bytes of a record that
//     has been replaced long ago.
//
// Thread rule: Memory and what changes nodes: the writing thread. Searching: any thread, in nodes
// that the writer does not change any more.

#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <string_view>
#include <vector>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/os/memory.h"
#include "defib/store/layer.h"
#include "defib/store/pulse.h"

namespace defib::store::overlay_tree {

// Measured: see the note on sizes at the nodes.
inline constexpr int kLeafSize = 41;   // records in a leaf
inline constexpr int kInnerSize = 64;  // children of an inner node
// Levels of inner nodes. All but those on the right edge have kInnerSize / 2 children at least, so
// that this is far more than memory can fill.
inline constexpr int kMaxHeight = 16;
inline constexpr std::size_t kCacheLine = 64;

inline constexpr int kKeySizeBits = 16;
inline constexpr int kValueSizeBits = 25;
inline constexpr int kValueOffsetBits = 22;
inline constexpr std::size_t kMaxSlotKey = (std::size_t{1} << kKeySizeBits) - 1;
inline constexpr std::size_t kMaxSlotValue = (std::size_t{1} << kValueSizeBits) - 1;
inline constexpr std::size_t kMaxValueOffset = (std::size_t{1} << kValueOffsetBits) - 1;
static_assert(kMaxKeySize <= kMaxSlotKey && kMaxValueSize <= kMaxSlotValue);
static_assert(kMaxSlotKey <= kMaxValueOffset);

// Where a record's bytes lie: the value begins `value_offset` bytes behind the key's first one.
struct Slot {
  const char* key_data = nullptr;  // never null in a node
  std::uint64_t key_size : kKeySizeBits = 0;
  std::uint64_t value_offset : kValueOffsetBits = 0;
  std::uint64_t value_size : kValueSizeBits = 0;
  std::uint64_t erased : 1 = 0;

  std::string_view key() const { return {key_data, key_size}; }
  std::string_view value() const { return {key_data + value_offset, value_size}; }
  LayerEntry entry() const { return {value(), erased != 0}; }
};
static_assert(sizeof(Slot) == 16);

// What leaves and inner nodes have in common.
struct Node {
  std::uint64_t epoch = 0;  // when it was made; readers do not look at it
  Node* next = nullptr;     // in a list of retired or free nodes; readers do not look at it
  std::uint16_t count = 0;
  std::uint16_t skip = 0;
  std::uint8_t level = 0;  // 0: a leaf
};

// 1 KiB: with fewer records an inner level more is needed, with more the shifting costs more than
// the levels save.
struct alignas(kCacheLine) Leaf : Node {
  std::uint64_t prefixes[kLeafSize];
  Slot slots[kLeafSize];
};

struct alignas(kCacheLine) Inner : Node {
  std::uint64_t prefixes[kInnerSize];
  Node* children[kInnerSize];
  const char* key_data[kInnerSize];
  std::uint16_t key_sizes[kInnerSize];

  std::string_view key(int index) const { return {key_data[index], key_sizes[index]}; }
};

inline const Inner* as_inner(const Node* node) {
  return static_cast<const Inner*>(node);
}
inline Inner* as_inner(Node* node) {
  return static_cast<Inner*>(node);
}
inline const Leaf* as_leaf(const Node* node) {
  return static_cast<const Leaf*>(node);
}
inline Leaf* as_leaf(Node* node) {
  return static_cast<Leaf*>(node);
}

// --- Searching ---------------------------------------------------------------------------------

inline void prefetch(const void* address) {
  __builtin_prefetch(address);
}
// Into the second cache only, which can wait for more lines at a time than the first one: for what
// is needed later.
inline void prefetch_early(const void* start, std::size_t bytes) {
  const char* const end = static_cast<const char*>(start) + bytes;
  const char* line = static_cast<const char*>(start);
  line -= reinterpret_cast<std::uintptr_t>(start) % kCacheLine;
  for (; line < end; line += kCacheLine) __builtin_prefetch(line, 0, 2);
}
// The lines of `bytes` bytes from the start of a node.
inline void prefetch_node(const Node* node, std::size_t bytes) {
  const char* start = reinterpret_cast<const char*>(node);
  for (std::size_t at = 0; at < bytes; at += kCacheLine) prefetch(start + at);
}

// What searching in a node reads.
inline constexpr std::size_t kLeafSearchBytes = sizeof(Node) + sizeof(Leaf::prefixes);
inline constexpr std::size_t kInnerSearchBytes = sizeof(Node) + sizeof(Inner::prefixes);

// Eight bytes of the key from `skip` on, zeros where it is shorter. Orders as the keys do, as far
// as it differs. Precondition: skip <= key.size().
inline std::uint64_t prefix_of(std::string_view key, std::size_t skip) {
  if (key.size() >= skip + 8) return std::byteswap(load<std::uint64_t>(key.data() + skip));
  if (key.size() <= skip) return 0;
  const std::size_t size = key.size() - skip;  // 1..7
  if (key.size() >= 8) {
    return std::byteswap(load<std::uint64_t>(key.data() + key.size() - 8)) << (8 * (8 - size));
  }
  std::uint64_t prefix = 0;
  std::memcpy(&prefix, key.data() + skip, size);
  return std::byteswap(prefix);
}

// How many of the ascending numbers are less than `number`.
inline int count_less(const std::uint64_t* numbers, int count, std::uint64_t number) {
  const std::uint64_t* base = numbers;
  while (count > 1) {
    const int half = count / 2;
    base += static_cast<std::ptrdiff_t>(base[half - 1] < number) * half;
    count -= half;
  }
  return static_cast<int>(base - numbers) + static_cast<int>(count == 1 && *base < number);
}

// Of keys that both have `skip` bytes in common.
inline int compare_from(std::string_view a, std::string_view b, std::size_t skip) {
  if (std::min(a.size(), b.size()) < skip) skip = 0;
  return a.substr(skip).compare(b.substr(skip));
}

struct Place {
  int index = 0;  // of the first key that is not less
  bool found = false;
};
// Among the entries of [first, count) whose prefixes equal the key's. Out of line: seldom needed.
Place place_among_equals(const Leaf& leaf, int first, std::string_view key);
int child_among_equals(const Inner& node, int first, std::string_view key);

inline Place place_in(const Leaf& leaf, std::string_view key) {
  const std::uint64_t prefix = prefix_of(key, leaf.skip);
  const int index = count_less(leaf.prefixes, leaf.count, prefix);
  if (index == leaf.count || leaf.prefixes[index] != prefix) return {index, false};
  return place_among_equals(leaf, index, key);
}

// The child between whose fences the key lies.
inline int child_for(const Inner& node, std::string_view key) {
  const std::uint64_t prefix = prefix_of(key, node.skip);
  const int index = 1 + count_less(node.prefixes + 1, node.count - 1, prefix);
  if (index == node.count || node.prefixes[index] != prefix) return index - 1;
  return child_among_equals(node, index, key);
}

// Null where the tree does not have the key. `root` may be null.
const Slot* find(const Node* root, std::string_view key);

// Null where `root` is null. The tree must not change while the cursor is used.
std::unique_ptr<LayerCursor> make_tree_cursor(const Node* root);

// --- Fences ------------------------------------------------------------------------------------

// The keys between which a node lies; a null key is no bound.
struct Fences {
  std::string_view low;   // inclusive
  std::string_view high;  // exclusive
};
// How many bytes all keys between the fences begin with.
std::uint16_t shared_bytes(const Fences& fences);
// Of a node's child.
inline Fences child_fences(const Fences& fences, const Inner& node, int index) {
  return {index > 0 ? node.key(index) : fences.low,
          index + 1 < node.count ? node.key(index + 1) : fences.high};
}
// Sets a node's skip and computes its prefixes anew where they change with it.
void set_skip(Leaf& leaf, std::uint16_t skip);
void set_skip(Inner& node, std::uint16_t skip);

// --- Changing ----------------------------------------------------------------------------------

// Precondition of both: there is room. The key lies between the node's fences.
void insert_record(Leaf& leaf, int index, const Slot& slot);
void insert_child(Inner& node, int index, std::string_view key, Node* child);

// --- Memory ------------------------------------------------------------------------------------

// Bytes of records and nodes, in chunks that go together with it. Nodes can be given back and are
// used again; bytes are not.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Copies the bytes, the key first.
  Slot record(std::string_view key, std::string_view value, bool erased);
  // A node with undefined contents but its header, which is that of an empty one.
  Leaf* make_leaf(std::uint64_t epoch);
  Inner* make_inner(std::uint64_t epoch, std::uint8_t level);
  Node* copy(const Node& node, std::uint64_t epoch);
  void free(Node* node);
  // Takes everything that `other` has.
  void adopt(Memory&& other);

  // Any thread.
  std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  std::uint64_t made_nodes() const { return made_nodes_; }  // free ones included
  std::uint64_t free_nodes() const { return free_nodes_; }

 private:
  struct Delete {
    std::align_val_t alignment{};
    void operator()(char* chunk) const { ::operator delete(chunk, alignment); }
  };
  using Chunk = std::unique_ptr<char, Delete>;
  // A part of the newest chunk of its kind that is not used yet.
  struct Region {
    char* at = nullptr;
    std::size_t left = 0;
    std::size_t next_chunk = kFirstChunk;
  };
  // Chunks double from the first size to the largest, which is a huge page: small overlays are
  // small. A record that would take a good part of a chunk gets one of its own.
  static constexpr std::size_t kFirstChunk = 32 << 10;
  static constexpr std::size_t kLargestChunk = os::kHugePage;
  static constexpr std::size_t kOwnChunk = 256 << 10;

  char* take(Region& region, std::size_t size);
  char* take_bytes(std::size_t size);
  char* add_chunk(std::size_t size);
  Node* take_node(Node*& list, std::size_t size);

  std::vector<Chunk> chunks_;
  Region records_;
  Region nodes_;
  Node* free_leaves_ = nullptr;
  Node* free_inners_ = nullptr;
  std::uint64_t made_nodes_ = 0;
  std::uint64_t free_nodes_ = 0;
  std::atomic<std::uint64_t> bytes_ = 0;
};

// --- Checking ----------------------------------------------------------------------------------

struct TreeCounts {
  std::uint64_t nodes = 0;
  std::uint64_t records = 0;
};
// Walks the whole tree and checks the invariants above. Corrupted names the first that is broken.
// `pulse` hears of its records.
Result<TreeCounts> check_tree(const Node* root, const Pulse& pulse);

}  // namespace defib::store::overlay_tree
