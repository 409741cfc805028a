#include "defib/store/overlay_tree.h"

#include <limits>
#include <utility>

namespace defib::store::overlay_tree {

// --- Searching ---------------------------------------------------------------------------------

Place place_among_equals(const Leaf& leaf, int first, std::string_view key) {
  const std::uint64_t prefix = leaf.prefixes[first];
  int low = first;
  int high = first + 1;
  while (high < leaf.count && leaf.prefixes[high] == prefix) ++high;
  while (low < high) {
    const int middle = (low + high) / 2;
    const int order = compare_from(leaf.slots[middle].key(), key, leaf.skip);
    if (order == 0) return {middle, true};
    if (order < 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return {low, false};
}

int child_among_equals(const Inner& node, int first, std::string_view key) {
  const std::uint64_t prefix = node.prefixes[first];
  int low = first;
  int high = first + 1;
  while (high < node.count && node.prefixes[high] == prefix) ++high;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (compare_from(node.key(middle), key, node.skip) <= 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low - 1;
}

const Slot* find(const Node* root, std::string_view key) {
  if (root == nullptr) return nullptr;
  const Node* node = root;
  while (node->level > 0) {
    node = as_inner(node)->children[child_for(*as_inner(node), key)];
    prefetch_node(node, kLeafSearchBytes);
  }
  const Leaf& leaf = *as_leaf(node);
  const Place place = place_in(leaf, key);
  return place.found ? &leaf.slots[place.index] : nullptr;
}

// --- Fences ------------------------------------------------------------------------------------

std::uint16_t shared_bytes(const Fences& fences) {
  if (fences.low.data() == nullptr || fences.high.data() == nullptr) return 0;
  const std::size_t size = std::min(fences.low.size(), fences.high.size());
  std::size_t shared = 0;
  while (shared < size && fences.low[shared] == fences.high[shared]) ++shared;
  return static_cast<std::uint16_t>(shared);
}

void set_skip(Leaf& leaf, std::uint16_t skip) {
  if (leaf.skip == skip) return;
  leaf.skip = skip;
  for (int i = 0; i < leaf.count; ++i) leaf.prefixes[i] = prefix_of(leaf.slots[i].key(), skip);
}

void set_skip(Inner& node, std::uint16_t skip) {
  if (node.skip == skip) return;
  node.skip = skip;
  for (int i = 1; i < node.count; ++i) node.prefixes[i] = prefix_of(node.key(i), skip);
}

// --- Changing ----------------------------------------------------------------------------------

namespace {

// Makes room for one entry at `index`.
template <typename T>
void open_gap(T* array, int index, int count) {
  std::copy_backward(array + index, array + count, array + count + 1);
}

}  // namespace

void insert_record(Leaf& leaf, int index, const Slot& slot) {
  open_gap(leaf.prefixes, index, leaf.count);
  open_gap(leaf.slots, index, leaf.count);
  leaf.prefixes[index] = prefix_of(slot.key(), leaf.skip);
  leaf.slots[index] = slot;
  ++leaf.count;
}

void insert_child(Inner& node, int index, std::string_view key, Node* child) {
  open_gap(node.prefixes, index, node.count);
  open_gap(node.children, index, node.count);
  open_gap(node.key_data, index, node.count);
  open_gap(node.key_sizes, index, node.count);
  node.prefixes[index] = prefix_of(key, node.skip);
  node.children[index] = child;
  node.key_data[index] = key.data();
  node.key_sizes[index] = static_cast<std::uint16_t>(key.size());
  ++node.count;
}

// --- Memory ------------------------------------------------------------------------------------

char* Memory::add_chunk(std::size_t size) {
  const bool is_huge = size == os::kHugePage;
  const std::align_val_t alignment{is_huge ? os::kHugePage : kCacheLine};
  Chunk chunk(static_cast<char*>(::operator new(size, alignment)), Delete{alignment});
  char* const start = chunk.get();
  if (is_huge) os::prefer_huge_pages(start, size);
  chunks_.push_back(std::move(chunk));
  // Only the writing thread adds; the others may ask.
  bytes_.store(bytes() + size, std::memory_order_relaxed);
  return start;
}

char* Memory::take(Region& region, std::size_t size) {
  if (size > region.left) {
    const std::size_t chunk = std::max(region.next_chunk, size);
    region.at = add_chunk(chunk);
    region.left = chunk;
    region.next_chunk = std::min(2 * region.next_chunk, kLargestChunk);
  }
  char* const start = region.at;
  region.at += size;
  region.left -= size;
  return start;
}

// Where little is lost by it, a record begins with a cache line, and so takes no line more than it
// needs: what reading costs is the lines.
char* Memory::take_bytes(std::size_t size) {
  const std::size_t padding = records_.left % kCacheLine;
  if (padding > 0 && padding <= size / 8 && padding + size <= records_.left) {
    take(records_, padding);
  }
  return take(records_, std::max(size, 1UZ));
}

Slot Memory::record(std::string_view key, std::string_view value, bool erased) {
  DEFIB_ASSERT(key.size() <= kMaxSlotKey && value.size() <= kMaxSlotValue);
  const std::size_t size = key.size() + value.size();
  char* const bytes = size >= kOwnChunk ? add_chunk(size) : take_bytes(size);
  std::copy_n(key.data(), key.size(), bytes);
  std::copy_n(value.data(), value.size(), bytes + key.size());
  Slot slot;
  slot.key_data = bytes;
  slot.key_size = key.size() & kMaxSlotKey;
  slot.value_offset = key.size() & kMaxValueOffset;
  slot.value_size = value.size() & kMaxSlotValue;
  slot.erased = erased ? 1 : 0;
  return slot;
}

Node* Memory::take_node(Node*& list, std::size_t size) {
  if (list != nullptr) {
    --free_nodes_;
    return std::exchange(list, list->next);
  }
  Node* const node = reinterpret_cast<Node*>(take(nodes_, size));
  ++made_nodes_;
  return node;
}

Leaf* Memory::make_leaf(std::uint64_t epoch) {
  Leaf* const leaf = new (take_node(free_leaves_, sizeof(Leaf))) Leaf;
  leaf->epoch = epoch;
  return leaf;
}

Inner* Memory::make_inner(std::uint64_t epoch, std::uint8_t level) {
  Inner* const node = new (take_node(free_inners_, sizeof(Inner))) Inner;
  node->epoch = epoch;
  node->level = level;
  return node;
}

Node* Memory::copy(const Node& node, std::uint64_t epoch) {
  Node* copied = nullptr;
  if (node.level == 0) {
    copied = new (take_node(free_leaves_, sizeof(Leaf))) Leaf(*as_leaf(&node));
  } else {
    copied = new (take_node(free_inners_, sizeof(Inner))) Inner(*as_inner(&node));
  }
  copied->epoch = epoch;
  copied->next = nullptr;
  return copied;
}

void Memory::free(Node* node) {
  Node*& list = node->level == 0 ? free_leaves_ : free_inners_;
  node->next = list;
  list = node;
  ++free_nodes_;
}

void Memory::adopt(Memory&& other) {
  DEFIB_ASSERT(other.free_nodes_ == 0);
  std::ranges::move(other.chunks_, std::back_inserter(chunks_));
  other.chunks_.clear();
  bytes_.store(bytes() + other.bytes_.exchange(0), std::memory_order_relaxed);
  made_nodes_ += std::exchange(other.made_nodes_, 0);
  // What is left of the larger open chunk is used on.
  if (other.records_.left > records_.left) std::swap(records_, other.records_);
  if (other.nodes_.left > nodes_.left) std::swap(nodes_, other.nodes_);
  other.records_ = {};
  other.nodes_ = {};
}

// --- Checking ----------------------------------------------------------------------------------

namespace {

Error broken(std::string_view what) {
  return Error(Code::kCorrupted, "the overlay's tree contradicts itself: " + std::string(what));
}

bool within(std::string_view key, const Fences& fences) {
  return (fences.low.data() == nullptr || key >= fences.low) &&
         (fences.high.data() == nullptr || key < fences.high);
}

Result<> check_leaf(const Leaf& leaf, const Fences& fences) {
  for (int i = 0; i < leaf.count; ++i) {
    const Slot& slot = leaf.slots[i];
    if (slot.key_data == nullptr) return broken("a record without bytes");
    if (!within(slot.key(), fences)) return broken("a key outside of its node's fences");
    if (i > 0 && leaf.slots[i - 1].key() >= slot.key()) return broken("keys out of order");
    if (leaf.prefixes[i] != prefix_of(slot.key(), leaf.skip)) return broken("a wrong prefix");
  }
  return {};
}

Result<> check_inner(const Inner& node, const Fences& fences) {
  for (int i = 0; i < node.count; ++i) {
    if (node.children[i]->level + 1 != node.level) return broken("a child on the wrong level");
    if (i == 0) continue;
    if (!within(node.key(i), fences)) return broken("a separator outside of its node's fences");
    if (i > 1 && node.key(i - 1) >= node.key(i)) return broken("separators out of order");
    if (node.prefixes[i] != prefix_of(node.key(i), node.skip)) return broken("a wrong prefix");
  }
  return {};
}

// Bounded by the level, which falls by one from a node to its child.
Result<> check_node(const Node* node, const Fences& fences, TreeCounts& counts,
                    const Pulse& pulse) {
  ++counts.nodes;
  if (node->count == 0) return broken("an empty node");
  if (node->count > (node->level == 0 ? kLeafSize : kInnerSize)) return broken("too full a node");
  if (node->skip > shared_bytes(fences)) return broken("keys share less than their node says");
  if (node->level == 0) {
    counts.records += node->count;
    return check_leaf(*as_leaf(node), fences);
  }
  const Inner& inner = *as_inner(node);
  DEFIB_TRY(check_inner(inner, fences));
  if (pulse) DEFIB_TRY(pulse(counts.records));
  for (int i = 0; i < inner.count; ++i) {
    DEFIB_TRY(check_node(inner.children[i], child_fences(fences, inner, i), counts, pulse));
  }
  return {};
}

}  // namespace

Result<TreeCounts> check_tree(const Node* root, const Pulse& pulse) {
  TreeCounts counts;
  if (root == nullptr) return counts;
  if (root->level > kMaxHeight) return broken("too high a tree");
  DEFIB_TRY(check_node(root, {}, counts, pulse));
  return counts;
}

}  // namespace defib::store::overlay_tree
