// The cursor over one tree: a stack of inner nodes and a place in a leaf.
//
// Records of neighbouring keys lie anywhere in memory, so that going through them would wait for
// memory at each one. The cursor therefore asks for the records that it will come to: kAhead of
// them, beyond the end of its leaf too, for which it knows the leaf's neighbour.

#include "defib/store/overlay_tree.h"

namespace defib::store::overlay_tree {
namespace {

constexpr int kAhead = 16;                // records
constexpr std::size_t kAheadBytes = 256;  // of each record

class TreeCursor final : public LayerCursor {
 public:
  explicit TreeCursor(const Node* root) : root_(root) {}

  bool seek(std::string_view key) override {
    place(key);
    if (index_ < leaf_->count) return true;
    return step_leaf(1);
  }

  bool seek_for_prev(std::string_view key) override {
    if (place(key)) return true;
    --index_;
    if (index_ >= 0) return true;
    return step_leaf(-1);
  }

  bool first() override {
    descend(root_, 0, 1);
    return true;
  }
  bool last() override {
    descend(root_, 0, -1);
    return true;
  }

  bool next() override {
    if (leaf_ == nullptr) return false;
    look_ahead(1);
    ++index_;
    return index_ < leaf_->count || step_leaf(1);
  }
  bool prev() override {
    if (leaf_ == nullptr) return false;
    look_ahead(-1);
    --index_;
    return index_ >= 0 || step_leaf(-1);
  }

  std::string_view key() const override { return slot().key(); }
  std::string_view value() const override { return slot().value(); }
  bool erased() const override { return slot().erased != 0; }

 private:
  struct Level {
    const Inner* node = nullptr;
    int index = 0;
  };

  const Slot& slot() const {
    DEFIB_ASSERT_MESSAGE(leaf_ != nullptr, "the cursor is not on a record");
    return leaf_->slots[index_];
  }

  // Goes to the first record with a key not less, which may be one behind the leaf's last; true
  // where it has that key.
  bool place(std::string_view key) {
    direction_ = 0;
    depth_ = 0;
    const Node* node = root_;
    while (node->level > 0) {
      const Inner* const inner = as_inner(node);
      const int index = child_for(*inner, key);
      levels_[depth_++] = {inner, index};
      node = inner->children[index];
      prefetch_node(node, kLeafSearchBytes);
    }
    leaf_ = as_leaf(node);
    const Place place = place_in(*leaf_, key);
    index_ = place.index;
    return place.found;
  }

  // To the first (step 1) or last (step -1) record below a node that lies `depth` levels deep.
  void descend(const Node* node, int depth, int step) {
    direction_ = 0;
    depth_ = depth;
    while (node->level > 0) {
      const Inner* const inner = as_inner(node);
      const int index = step > 0 ? 0 : inner->count - 1;
      levels_[depth_++] = {inner, index};
      node = inner->children[index];
    }
    leaf_ = as_leaf(node);
    index_ = step > 0 ? 0 : leaf_->count - 1;
  }

  // The depth of the lowest level that has a neighbour in that direction; -1: there is none.
  int turning_level(int step) const {
    int depth = depth_ - 1;
    while (depth >= 0) {
      const int index = levels_[depth].index + step;
      if (index >= 0 && index < levels_[depth].node->count) break;
      --depth;
    }
    return depth;
  }

  // To the nearest record of the next leaf; unpositioned where there is none.
  bool step_leaf(int step) {
    const int depth = turning_level(step);
    if (depth < 0) {
      leaf_ = nullptr;
      return false;
    }
    Level& level = levels_[depth];
    level.index += step;
    const int direction = direction_;
    const int asked = asked_;
    const int left = leaf_->count;
    descend(level.node->children[level.index], depth + 1, step);
    // What was asked for already lies in this leaf now.
    direction_ = direction;
    asked_ = step > 0 ? asked - left : asked + leaf_->count;
    neighbour_ = direction == 0 ? nullptr : find_neighbour(step);
    return true;
  }

  // Its own first bytes are not looked at: they may not have come yet.
  const Leaf* find_neighbour(int step) const {
    const int depth = turning_level(step);
    if (depth < 0) return nullptr;
    const Inner* above = levels_[depth].node;
    const Node* node = above->children[levels_[depth].index + step];
    while (above->level > 1) {
      above = as_inner(node);
      node = above->children[step > 0 ? 0 : above->count - 1];
    }
    prefetch_early(node, sizeof(Leaf));
    return as_leaf(node);
  }

  // Asks for the records up to kAhead behind the next one. `asked_` is the last one that was asked
  // for, counted from this leaf's first record on into the neighbour.
  void look_ahead(int step) {
    if (direction_ != step) {
      direction_ = step;
      asked_ = index_;
      neighbour_ = find_neighbour(step);
    }
    const int until = index_ + step * kAhead;
    for (int most = 2 * kAhead; most > 0 && asked_ != until; --most) {
      const Slot* const ahead = slot_at(asked_ + step);
      if (ahead == nullptr) return;
      asked_ += step;
      const std::size_t size =
          std::min<std::size_t>(ahead->value_offset + ahead->value_size, kAheadBytes);
      prefetch_early(ahead->key_data, size);
    }
  }

  // Of this leaf, or of its neighbour where the index goes beyond.
  const Slot* slot_at(int index) const {
    if (index >= 0 && index < leaf_->count) return &leaf_->slots[index];
    if (neighbour_ == nullptr) return nullptr;
    const int there = index < 0 ? index + neighbour_->count : index - leaf_->count;
    return there >= 0 && there < neighbour_->count ? &neighbour_->slots[there] : nullptr;
  }

  const Node* root_;
  const Leaf* leaf_ = nullptr;  // null: not on a record
  int index_ = 0;
  int depth_ = 0;
  int direction_ = 0;  // of the last step: 1, -1, or 0 before the first one
  int asked_ = 0;
  const Leaf* neighbour_ = nullptr;  // in that direction; null: there is none
  Level levels_[kMaxHeight];
};

}  // namespace

std::unique_ptr<LayerCursor> make_tree_cursor(const Node* root) {
  if (root == nullptr) return nullptr;
  return std::make_unique<TreeCursor>(root);
}

}  // namespace defib::store::overlay_tree
