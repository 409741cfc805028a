// Building an overlay from records in order: builders make full leaves, joining them makes the
// inner nodes above, level by level.

#include <algorithm>
#include <map>
#include <utility>

#include "defib/base/assert.h"
#include "defib/store/overlay.h"
#include "defib/store/overlay_state.h"

namespace defib::store {
namespace overlay_tree {
namespace {

// A node and the least key below it.
struct Built {
  Node* node = nullptr;
  std::string_view key;
};

// Epoch of all nodes of a new overlay.
constexpr std::uint64_t kFirstEpoch = 1;

class LeafBuilder final : public OverlayBuilder {
 public:
  void append(std::string_view key, std::string_view value, bool erased) override {
    DEFIB_ASSERT(key.size() <= kMaxSlotKey && value.size() <= kMaxSlotValue);
    // A slot's key is never null.
    if (key.data() == nullptr) key = "";
    if (leaf_ == nullptr || leaf_->count == kLeafSize) {
      close_leaf(key);
      leaf_ = memory_.make_leaf(kFirstEpoch);
    }
    Slot& slot = leaf_->slots[leaf_->count++];
    slot.key_data = key.data();
    slot.key_size = key.size() & kMaxSlotKey;
    slot.value_size = value.size() & kMaxSlotValue;
    slot.erased = erased ? 1 : 0;
    // In a log a value follows its key; elsewhere it may lie out of a slot's reach.
    const char* const value_data = value.data();
    const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(value_data) -
                                  reinterpret_cast<std::uintptr_t>(slot.key_data);
    if (value.empty()) {
      slot.value_offset = 0;
    } else if (offset <= kMaxValueOffset) {
      slot.value_offset = offset & kMaxValueOffset;
    } else {
      slot.value_offset = 0;
      apart_.push_back({records_, value_data});
    }
    ++records_;
  }

  // No more records come. Copies those bytes that are not kept in being, or lie too far apart.
  void finish(bool keeps) {
    close_leaf({});
    std::size_t next = 0;  // in apart_
    for (std::uint64_t i = 0; i < records_; ++i) {
      if (keeps && next == apart_.size()) break;
      if (keeps) i = apart_[next].record;
      Built& leaf = leaves_[i / kLeafSize];
      Slot& slot = as_leaf(leaf.node)->slots[i % kLeafSize];
      const bool is_apart = next < apart_.size() && apart_[next].record == i;
      const char* const value = is_apart ? apart_[next++].value : slot.value().data();
      slot = memory_.record(slot.key(), {value, slot.value_size}, slot.erased != 0);
      if (i % kLeafSize == 0) leaf.key = slot.key();
    }
    apart_ = {};
  }
  const std::vector<Built>& leaves() const { return leaves_; }
  std::uint64_t records() const { return records_; }
  Memory& memory() { return memory_; }

 private:
  // A record whose value its slot cannot reach.
  struct Apart {
    std::uint64_t record = 0;
    const char* value = nullptr;
  };

  // The leaf's upper fence is known now. Its keys are first looked at here, all of them one after
  // the other, so that the waits for memory overlap.
  void close_leaf(std::string_view next_key) {
    if (leaf_ == nullptr) return;
    const std::string_view low = leaf_->slots[0].key();
    // The first and the last leaf may lie at the table's edges, without a fence.
    leaf_->skip = leaves_.empty() ? 0 : shared_bytes({low, next_key});
    for (int i = 0; i < leaf_->count; ++i) {
      leaf_->prefixes[i] = prefix_of(leaf_->slots[i].key(), leaf_->skip);
    }
    for (int i = 1; i < leaf_->count; ++i) {
      DEFIB_ASSERT_MESSAGE(leaf_->prefixes[i - 1] < leaf_->prefixes[i] ||
                               leaf_->slots[i - 1].key() < leaf_->slots[i].key(),
                           "keys must ascend");
    }
    DEFIB_ASSERT_MESSAGE(
        next_key.data() == nullptr || leaf_->slots[leaf_->count - 1].key() < next_key,
        "keys must ascend");
    leaves_.push_back({leaf_, low});
    leaf_ = nullptr;
  }

  Memory memory_;
  Leaf* leaf_ = nullptr;  // being filled
  std::vector<Built> leaves_;
  std::vector<Apart> apart_;  // ascending
  std::uint64_t records_ = 0;
};

// The nodes above, as full as is possible with equal shares.
std::vector<Built> build_level(Memory& memory, const std::vector<Built>& below) {
  const std::size_t nodes = (below.size() + kInnerSize - 1) / kInnerSize;
  std::vector<Built> level;
  level.reserve(nodes);
  for (std::size_t n = 0; n < nodes; ++n) {
    const std::size_t begin = below.size() * n / nodes;
    const std::size_t end = below.size() * (n + 1) / nodes;
    Inner* const node =
        memory.make_inner(kFirstEpoch, static_cast<std::uint8_t>(below.front().node->level + 1));
    Fences fences;
    if (begin > 0) fences.low = below[begin].key;
    if (end < below.size()) fences.high = below[end].key;
    node->skip = shared_bytes(fences);
    for (std::size_t i = begin; i < end; ++i) {
      const std::string_view key = i == begin ? std::string_view() : below[i].key;
      insert_child(*node, static_cast<int>(i - begin), key, below[i].node);
    }
    level.push_back({node, below[begin].key});
  }
  return level;
}

// Appends what one builder made to the leaves of its table.
void add_leaves(std::vector<Built>& leaves, const LeafBuilder& builder) {
  if (!leaves.empty() && !builder.leaves().empty()) {
    const Leaf& last = *as_leaf(leaves.back().node);
    DEFIB_ASSERT_MESSAGE(last.slots[last.count - 1].key() < builder.leaves().front().key,
                         "the parts of a table must ascend");
  }
  leaves.insert(leaves.end(), builder.leaves().begin(), builder.leaves().end());
}

Node* build_tree(Memory& memory, std::vector<Built> level) {
  while (level.size() > 1) level = build_level(memory, level);
  return level.front().node;
}

}  // namespace
}  // namespace overlay_tree

std::unique_ptr<OverlayBuilder> make_overlay_builder() {
  return std::make_unique<overlay_tree::LeafBuilder>();
}

std::shared_ptr<Overlay> join_overlay(std::vector<OverlayPart> parts,
                                      std::shared_ptr<const void> keep_alive) {
  using namespace overlay_tree;
  std::map<TableId, std::vector<std::unique_ptr<OverlayBuilder>>> builders;
  for (auto& part : parts) builders[part.table].push_back(std::move(part.builder));
  Memory memory;
  std::vector<Table> tables;
  for (const auto& [id, consecutive] : builders) {
    Table table{.id = id};
    std::vector<Built> leaves;
    for (const auto& made : consecutive) {
      auto& builder = static_cast<LeafBuilder&>(*made);
      builder.finish(keep_alive != nullptr);
      add_leaves(leaves, builder);
      table.records += builder.records();
      memory.adopt(std::move(builder.memory()));
    }
    if (leaves.empty()) continue;
    table.root = build_tree(memory, std::move(leaves));
    tables.push_back(table);
  }
  return std::make_shared<MemoryOverlay>(std::move(tables), std::move(memory),
                                         std::move(keep_alive));
}

}  // namespace defib::store
