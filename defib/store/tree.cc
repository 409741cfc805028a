#include "defib/store/tree.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::store {
namespace {

constexpr int kMergeBelow = kFanout / 4;
constexpr int kMergeLimit = kFanout * 3 / 4;

std::uint64_t prefix_of(std::string_view key) {
  std::uint64_t prefix = 0;
  std::memcpy(&prefix, key.data(), std::min<std::size_t>(key.size(), sizeof prefix));
  return std::byteswap(prefix);
}

const InnerNode* inner(const Node* node) {
  return static_cast<const InnerNode*>(node);
}
InnerNode* inner(Node* node) {
  return static_cast<InnerNode*>(node);
}

// The first entry in [from, count) whose key is >= `key` (or > `key` with `after_equal`).
int bound(const Node* node, int from, std::string_view key, bool after_equal) {
  const std::uint64_t prefix = prefix_of(key);
  int low = from;
  int high = node->count;
  while (low < high) {
    const int middle = (low + high) / 2;
    bool before = node->prefixes[middle] < prefix;
    if (node->prefixes[middle] == prefix) {
      const int order = node->records[middle]->key().compare(key);
      before = order < 0 || (order == 0 && after_equal);
    }
    if (before) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

int lower_bound(const Node* leaf, std::string_view key) {
  return bound(leaf, 0, key, false);
}
// The child whose range holds the key.
int child_for(const Node* node, std::string_view key) {
  return bound(node, 1, key, true) - 1;
}

void set_entry(Node* node, int index, Record* record) {
  node->records[index] = record;
  node->prefixes[index] = record != nullptr ? prefix_of(record->key()) : 0;
}

void copy_entries(Node* to, int at, const Node* from, int first, int count) {
  std::copy_n(from->records + first, count, to->records + at);
  std::copy_n(from->prefixes + first, count, to->prefixes + at);
  if (!from->is_leaf) std::copy_n(inner(from)->children + first, count, inner(to)->children + at);
}

void open_gap(Node* node, int index) {
  std::copy_backward(node->records + index, node->records + node->count,
                     node->records + node->count + 1);
  std::copy_backward(node->prefixes + index, node->prefixes + node->count,
                     node->prefixes + node->count + 1);
  if (!node->is_leaf) {
    std::copy_backward(inner(node)->children + index, inner(node)->children + node->count,
                       inner(node)->children + node->count + 1);
  }
  ++node->count;
}

void close_gap(Node* node, int index) {
  copy_entries(node, index, node, index + 1, node->count - index - 1);
  --node->count;
}

Node* allocate_node(bool is_leaf, std::uint64_t version) {
  Node* node = is_leaf ? new Node : new InnerNode;
  node->is_leaf = is_leaf;
  node->version = version;
  return node;
}

void free_node(Node* node) {
  if (node->is_leaf) {
    delete node;
  } else {
    delete inner(node);
  }
}

}  // namespace

Record* Record::make(std::string_view key, std::string_view value) {
  void* memory = std::malloc(sizeof(Record) + key.size() + value.size());
  if (memory == nullptr) throw std::bad_alloc();
  auto* record = new (memory) Record;
  record->key_size_ = static_cast<std::uint32_t>(key.size());
  record->value_size_ = static_cast<std::uint32_t>(value.size());
  char* data = reinterpret_cast<char*>(record + 1);
  std::ranges::copy(key, data);
  std::ranges::copy(value, data + key.size());
  return record;
}

void Record::destroy(Record* record) {
  std::free(record);
}

void Delta::undo() {
  std::ranges::for_each(made_nodes, free_node);
  std::ranges::for_each(made_records, Record::destroy);
  *this = {};
}

void Delta::free_retired() {
  std::ranges::for_each(retired_nodes, free_node);
  std::ranges::for_each(retired_records, Record::destroy);
  *this = {};
}

const Record* find(const Tree& tree, std::string_view key) {
  const Node* node = tree.root;
  if (node == nullptr) return nullptr;
  while (!node->is_leaf) node = inner(node)->children[child_for(node, key)];
  const int index = lower_bound(node, key);
  if (index == node->count || node->records[index]->key() != key) return nullptr;
  return node->records[index];
}

void destroy(Tree& tree) {
  std::vector<Node*> open;
  if (tree.root != nullptr) open.push_back(tree.root);
  while (!open.empty()) {
    Node* node = open.back();
    open.pop_back();
    for (int i = 0; i < node->count; ++i) {
      if (!node->is_leaf) open.push_back(inner(node)->children[i]);
      if (node->records[i] != nullptr) Record::destroy(node->records[i]);
    }
    free_node(node);
  }
  tree = {};
}

Result<> check(const Tree& tree) {
  const auto bad = [](std::string what) {
    return Error(Code::kCorrupted, "the tree in memory " + std::move(what));
  };
  struct Open {
    const Node* node;
    const Record* low;
    const Record* high;
    int depth;
  };
  std::vector<Open> open;
  if (tree.root != nullptr) open.push_back({tree.root, nullptr, nullptr, 1});
  std::uint64_t count = 0;
  int leaf_depth = 0;
  while (!open.empty()) {
    const auto [node, low, high, depth] = open.back();
    open.pop_back();
    if (node->count < 1 || node->count > kFanout) return bad("has an empty or overfull node");
    if (node->is_leaf) {
      if (leaf_depth == 0) leaf_depth = depth;
      if (depth != leaf_depth) return bad("has leaves at different depths");
      count += static_cast<std::uint64_t>(node->count);
    } else if (node->records[0] != nullptr) {
      return bad("has a separator before its first child");
    }
    const Record* previous = low;
    for (int i = 0; i < node->count; ++i) {
      const Record* own = node->records[i];
      if (own != nullptr) {
        const bool first_may_equal = node->is_leaf && i == 0;
        if (node->prefixes[i] != prefix_of(own->key())) return bad("has a wrong key prefix");
        if (previous != nullptr &&
            (first_may_equal ? own->key() < previous->key() : own->key() <= previous->key())) {
          return bad(fmt::format("is out of order at key '{}'", escape(own->key())));
        }
        if (high != nullptr && own->key() >= high->key()) return bad("has a key beyond its range");
        previous = own;
      }
      if (!node->is_leaf) {
        const Record* next = i + 1 < node->count ? node->records[i + 1] : high;
        open.push_back({inner(node)->children[i], own != nullptr ? own : low, next, depth + 1});
      }
    }
  }
  if (count != tree.count) {
    return bad(fmt::format("holds {} records, {} were counted", count, tree.count));
  }
  return {};
}

Node* TreeWriter::new_node(bool is_leaf) {
  Node* node = allocate_node(is_leaf, version_);
  if (delta_ != nullptr) delta_->made_nodes.push_back(node);
  return node;
}

Record* TreeWriter::new_record(std::string_view key, std::string_view value) {
  Record* record = Record::make(key, value);
  if (delta_ != nullptr) delta_->made_records.push_back(record);
  return record;
}

void TreeWriter::retire(Node* node) {
  if (delta_ != nullptr) {
    delta_->retired_nodes.push_back(node);
  } else {
    free_node(node);
  }
}

void TreeWriter::retire(Record* record) {
  if (delta_ != nullptr) {
    delta_->retired_records.push_back(record);
  } else {
    Record::destroy(record);
  }
}

Node* TreeWriter::writable(Node* node) {
  if (delta_ == nullptr || node->version == version_) return node;
  Node* copy = new_node(node->is_leaf);
  copy->count = node->count;
  copy_entries(copy, 0, node, 0, node->count);
  retire(node);
  return copy;
}

// Precondition: the child is full and writable, the parent writable and not full.
void TreeWriter::split_child(InnerNode* parent, int index) {
  Node* left = parent->children[index];
  const int keep = kFanout / 2;
  Node* right = new_node(left->is_leaf);
  right->count = left->count - keep;
  copy_entries(right, 0, left, keep, right->count);
  left->count = keep;
  Record* separator = right->records[0];
  if (right->is_leaf) {
    separator = new_record(separator->key(), {});
  } else {
    set_entry(right, 0, nullptr);  // The separator moves up.
  }
  open_gap(parent, index + 1);
  parent->children[index + 1] = right;
  set_entry(parent, index + 1, separator);
}

void TreeWriter::put(Tree& tree, std::string_view key, std::string_view value) {
  if (tree.root == nullptr) tree.root = new_node(true);
  tree.root = writable(tree.root);
  if (tree.root->count == kFanout) {
    auto* top = inner(new_node(false));
    top->count = 1;
    top->children[0] = tree.root;
    set_entry(top, 0, nullptr);
    tree.root = top;
    split_child(top, 0);
  }
  Node* node = tree.root;
  while (!node->is_leaf) {
    InnerNode* parent = inner(node);
    int index = child_for(parent, key);
    parent->children[index] = writable(parent->children[index]);
    if (parent->children[index]->count == kFanout) {
      split_child(parent, index);
      if (key >= parent->records[index + 1]->key()) ++index;
    }
    node = parent->children[index];
  }
  const int index = lower_bound(node, key);
  if (index < node->count && node->records[index]->key() == key) {
    retire(node->records[index]);
  } else {
    open_gap(node, index);
    ++tree.count;
  }
  set_entry(node, index, new_record(key, value));
}

bool TreeWriter::erase(Tree& tree, std::string_view key) {
  if (find(tree, key) == nullptr) return false;
  Step path[kMaxHeight];
  int depth = 0;
  tree.root = writable(tree.root);
  Node* node = tree.root;
  while (!node->is_leaf) {
    DEFIB_ASSERT(depth < kMaxHeight);
    InnerNode* parent = inner(node);
    const int index = child_for(parent, key);
    parent->children[index] = writable(parent->children[index]);
    path[depth++] = {parent, index};
    node = parent->children[index];
  }
  const int index = lower_bound(node, key);
  retire(node->records[index]);
  close_gap(node, index);
  --tree.count;
  shrink(tree, path, depth);
  return true;
}

void TreeWriter::drop_child(InnerNode* parent, int index) {
  retire(parent->children[index]);
  // Without its first child, the second becomes the first, which has no separator.
  const int lost = std::max(index, 1);
  if (lost < parent->count) retire(parent->records[lost]);
  close_gap(parent, index);
  if (index == 0 && parent->count > 0) set_entry(parent, 0, nullptr);
}

void TreeWriter::merge_children(InnerNode* parent, int left_index) {
  Node* left = writable(parent->children[left_index]);
  parent->children[left_index] = left;
  Node* right = parent->children[left_index + 1];
  copy_entries(left, left->count, right, 0, right->count);
  Record* separator = parent->records[left_index + 1];
  if (left->is_leaf) {
    retire(separator);
  } else {
    set_entry(left, left->count, separator);  // The separator moves down.
  }
  left->count += right->count;
  retire(right);
  close_gap(parent, left_index + 1);
}

// After a removal: from the leaf up, drops empty nodes and merges small ones; then the root.
void TreeWriter::shrink(Tree& tree, const Step* path, int depth) {
  while (depth-- > 0) {
    InnerNode* parent = inner(path[depth].node);
    const int index = path[depth].index;
    const Node* child = parent->children[index];
    if (child->count == 0) {
      drop_child(parent, index);
    } else if (child->count < kMergeBelow) {
      const auto fits = [&](int left) {
        return left >= 0 && left + 1 < parent->count &&
               parent->children[left]->count + parent->children[left + 1]->count <= kMergeLimit;
      };
      if (fits(index)) {
        merge_children(parent, index);
      } else if (fits(index - 1)) {
        merge_children(parent, index - 1);
      }
    }
  }
  while (!tree.root->is_leaf && tree.root->count == 1) {
    Node* only = inner(tree.root)->children[0];
    retire(tree.root);
    tree.root = only;
  }
  if (tree.root->count == 0) {
    retire(tree.root);
    tree.root = nullptr;
  }
}

TreeBuilder::~TreeBuilder() {
  for (Node* leaf : leaves_) {
    Tree tree{.root = leaf, .count = 0};
    destroy(tree);
  }
}

bool TreeBuilder::append(std::string_view key, std::string_view value) {
  if (!leaves_.empty()) {
    const Node* leaf = leaves_.back();
    if (leaf->records[leaf->count - 1]->key() >= key) return false;
  }
  if (leaves_.empty() || leaves_.back()->count == kFanout) {
    leaves_.push_back(allocate_node(true, 0));
  }
  Node* leaf = leaves_.back();
  set_entry(leaf, leaf->count, Record::make(key, value));
  ++leaf->count;
  ++count_;
  return true;
}

Tree TreeBuilder::finish() {
  std::vector<Node*> level = std::move(leaves_);
  leaves_.clear();
  std::vector<std::string_view> lowest;  // the smallest key under each node of the level
  for (const Node* leaf : level) lowest.push_back(leaf->records[0]->key());
  while (level.size() > 1) {
    std::vector<Node*> parents;
    std::vector<std::string_view> parents_lowest;
    for (std::size_t i = 0; i < level.size(); ++i) {
      if (i % kFanout == 0) {
        parents.push_back(allocate_node(false, 0));
        parents_lowest.push_back(lowest[i]);
      }
      InnerNode* parent = inner(parents.back());
      parent->children[parent->count] = level[i];
      set_entry(parent, parent->count, parent->count == 0 ? nullptr : Record::make(lowest[i], {}));
      ++parent->count;
    }
    level = std::move(parents);
    lowest = std::move(parents_lowest);
  }
  Tree tree{.root = level.empty() ? nullptr : level[0], .count = count_};
  count_ = 0;
  return tree;
}

const Record& TreeCursor::record() const {
  DEFIB_ASSERT(positioned());
  const auto [node, index] = path_[depth_ - 1];
  return *node->records[index];
}

// Leaves the path at the leaf where the key belongs; the leaf's index is not set.
void TreeCursor::descend(std::string_view key) {
  depth_ = 0;
  const Node* node = root_;
  while (!node->is_leaf) {
    const int index = child_for(node, key);
    DEFIB_ASSERT(depth_ + 1 < kMaxHeight);
    path_[depth_++] = {node, index};
    node = inner(node)->children[index];
  }
  path_[depth_++] = {node, 0};
}

void TreeCursor::descend_to_edge(const Node* node, bool leftmost) {
  for (;;) {
    DEFIB_ASSERT(depth_ < kMaxHeight);
    path_[depth_++] = {node, leftmost ? 0 : node->count - 1};
    if (node->is_leaf) return;
    node = inner(node)->children[path_[depth_ - 1].index];
  }
}

bool TreeCursor::seek(std::string_view key) {
  depth_ = 0;
  if (root_ == nullptr) return false;
  descend(key);
  Step& leaf = path_[depth_ - 1];
  leaf.index = lower_bound(leaf.node, key);
  if (leaf.index < leaf.node->count) return true;
  --leaf.index;
  return step(+1);
}

bool TreeCursor::seek_for_prev(std::string_view key) {
  depth_ = 0;
  if (root_ == nullptr) return false;
  descend(key);
  Step& leaf = path_[depth_ - 1];
  leaf.index = bound(leaf.node, 0, key, true) - 1;
  if (leaf.index >= 0) return true;
  leaf.index = 0;
  return step(-1);
}

bool TreeCursor::first() {
  depth_ = 0;
  if (root_ == nullptr) return false;
  descend_to_edge(root_, true);
  return true;
}

bool TreeCursor::last() {
  depth_ = 0;
  if (root_ == nullptr) return false;
  descend_to_edge(root_, false);
  return true;
}

bool TreeCursor::next() {
  return positioned() && step(+1);
}
bool TreeCursor::prev() {
  return positioned() && step(-1);
}

bool TreeCursor::step(int direction) {
  while (depth_ > 0) {
    Step& here = path_[depth_ - 1];
    const int index = here.index + direction;
    if (index >= 0 && index < here.node->count) {
      here.index = index;
      if (!here.node->is_leaf) descend_to_edge(inner(here.node)->children[index], direction > 0);
      return true;
    }
    --depth_;
  }
  return false;
}

}  // namespace defib::store
