// Tree: an ordered map of byte strings in memory, as a B+tree of which many versions live at once.
//
// A TreeWriter copies each node that it changes, unless the node was made under its own version;
// a root is therefore a snapshot of the whole tree for as long as its nodes are kept. What a writer
// makes and what it takes out of the tree is listed in its Delta, and the owner of the roots
// decides when the taken-out parts are freed (versions.h). An exclusive writer, whose tree nobody
// else sees, changes in place and frees at once: recovery builds trees that way.
//
// Keys compare bytewise. The first eight bytes of each key stand in the node itself, so that a
// search reads one cache line a step and a record's bytes only at the end.
// Deleting merges a node with a neighbour when both fit into three quarters of one.
//
// Thread rule: any number of threads read a root; one thread writes.

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "defib/base/error.h"

namespace defib::store {

// A key and its value in one allocation, never changed after it was made.
class Record {
 public:
  static Record* make(std::string_view key, std::string_view value);
  static void destroy(Record* record);
  std::string_view key() const { return {data(), key_size_}; }
  std::string_view value() const { return {data() + key_size_, value_size_}; }

 private:
  Record() = default;
  const char* data() const { return reinterpret_cast<const char*>(this + 1); }
  std::uint32_t key_size_;
  std::uint32_t value_size_;
};

inline constexpr int kFanout = 64;
inline constexpr int kMaxHeight = 16;  // of nodes at least a quarter full: 16^16 records

struct Node {
  std::uint64_t version = 0;
  int count = 0;
  bool is_leaf = true;
  std::uint64_t prefixes[kFanout];
  // A leaf's records; an inner node's separators: child i holds keys >= separator i and
  // < separator i+1. Separator 0 does not exist (null).
  Record* records[kFanout];
};
struct InnerNode : Node {
  Node* children[kFanout];
};

struct Tree {
  Node* root = nullptr;  // null: empty
  std::uint64_t count = 0;
};

// What one writer made, and what it took out of the tree but others may still read.
struct Delta {
  std::vector<Node*> made_nodes;
  std::vector<Record*> made_records;
  std::vector<Node*> retired_nodes;
  std::vector<Record*> retired_records;
  // Frees what was made: the tree goes back to what it was.
  void undo();
  // Frees what was taken out: nobody reads the state before any more.
  void free_retired();
};

const Record* find(const Tree& tree, std::string_view key);
// Walks the whole tree: order, separators, counts, fill. A problem is Corrupted, and a bug.
Result<> check(const Tree& tree);
// Frees the tree's nodes and records.
void destroy(Tree& tree);

class TreeWriter {
 public:
  // Nodes of `version` are the writer's own. A null `delta` makes the writer exclusive.
  TreeWriter(std::uint64_t version, Delta* delta) : version_(version), delta_(delta) {}
  // Whatever was made so far may from now on be read by others: it is copied before it changes.
  void set_version(std::uint64_t version) { version_ = version; }
  void put(Tree& tree, std::string_view key, std::string_view value);
  // Whether the key was there.
  bool erase(Tree& tree, std::string_view key);

 private:
  struct Step {
    Node* node;
    int index;
  };
  Node* new_node(bool is_leaf);
  Record* new_record(std::string_view key, std::string_view value);
  Node* writable(Node* node);
  void retire(Node* node);
  void retire(Record* record);
  void split_child(InnerNode* parent, int index);
  void drop_child(InnerNode* parent, int index);
  void merge_children(InnerNode* parent, int left);
  void shrink(Tree& tree, const Step* path, int depth);

  std::uint64_t version_;
  Delta* delta_;
};

// Builds a tree from records in ascending order of keys, with full nodes.
class TreeBuilder {
 public:
  TreeBuilder() = default;
  TreeBuilder(const TreeBuilder&) = delete;
  TreeBuilder& operator=(const TreeBuilder&) = delete;
  ~TreeBuilder();
  // False where the key does not follow the last one.
  bool append(std::string_view key, std::string_view value);
  Tree finish();

 private:
  std::vector<Node*> leaves_;
  std::uint64_t count_ = 0;
};

// Walks one version of a tree, either way. Positioned on a record or nowhere.
class TreeCursor {
 public:
  explicit TreeCursor(const Tree& tree) : root_(tree.root) {}
  bool seek(std::string_view key);
  bool seek_for_prev(std::string_view key);
  bool first();
  bool last();
  bool next();
  bool prev();
  bool positioned() const { return depth_ > 0; }
  const Record& record() const;

 private:
  struct Step {
    const Node* node;
    int index;
  };
  void descend(std::string_view key);
  void descend_to_edge(const Node* node, bool leftmost);
  bool step(int direction);

  const Node* root_;
  Step path_[kMaxHeight];
  int depth_ = 0;
};

}  // namespace defib::store
