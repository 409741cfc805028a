// MemoryOverlay: the one Overlay there is, seen by overlay.cc, which changes it, and by
// overlay_builder.cc, which makes one from finished leaves.
//
// Versions: view() freezes the present state under a number and numbers on. A node may be changed
// in place while it is younger than the newest view that anybody still has; an older one is copied
// first, together with the nodes above it. A replaced node is seen by the views from its own epoch
// to the newest at the moment of replacement. It waits in the list of that newest one, and when
// that view has gone, in the list of the next older view that sees it; where there is none, it is
// used again. So a view that lives long keeps no more nodes than it sees.
//
// Thread rule: as in overlay.h. A view that goes, on whatever thread, pushes its record onto a list
// without locks; the writing thread looks whether there is one before each group of changes, and
// takes the whole list.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "defib/store/overlay.h"
#include "defib/store/overlay_tree.h"

namespace defib::store::overlay_tree {

struct Table {
  TableId id = 0;
  Node* root = nullptr;
  std::uint64_t records = 0;
};

// Views share pages of tables that did not change between them.
inline constexpr std::size_t kTablesInPage = 64;
using TablePage = std::vector<Table>;

// What the overlay knows of one view.
struct ViewRecord {
  std::uint64_t version = 0;
  ViewRecord* older = nullptr;
  ViewRecord* newer = nullptr;
  Node* replaced = nullptr;            // nodes of which this is the newest view that sees them
  ViewRecord* next_dropped = nullptr;  // in the list of views that are gone
};

class MemoryOverlay final : public Overlay {
 public:
  // Empty, or with tables in ascending order whose nodes lie in `memory`.
  MemoryOverlay() = default;
  MemoryOverlay(std::vector<Table> tables, Memory&& memory, std::shared_ptr<const void> keep_alive);
  MemoryOverlay(const MemoryOverlay&) = delete;
  MemoryOverlay& operator=(const MemoryOverlay&) = delete;
  ~MemoryOverlay() override = default;

  void apply(std::span<const OverlayChange> changes) override;
  std::shared_ptr<const OverlayView> view() override;
  std::optional<LayerEntry> find(TableId table, std::string_view key) const override;
  std::uint64_t records() const override { return records_; }
  std::uint64_t memory() const override { return memory_.bytes(); }
  using Overlay::check;
  Result<> check(const Pulse& pulse) const override;

  // Of a view that goes. Any thread.
  void drop(ViewRecord& record);

 private:
  // One change of a group on its way down.
  struct Probe {
    std::size_t table = 0;  // index into tables_
    // Null: the table is empty, or the leaf was split meanwhile. A leaf that was copied meanwhile
    // is still here, and frozen.
    const Node* node = nullptr;
  };

  void apply_group(std::span<const OverlayChange> changes);
  // Null where the table is empty.
  Leaf* leaf_for(std::size_t table, std::string_view key);
  // `leaf` is where the key belongs, or null where that is not known.
  void put(std::size_t table, Leaf* leaf, const OverlayChange& change);
  void put_from_root(std::size_t table, const Slot& slot);
  void split_root(Table& table);
  void split_leaf(Inner& parent, int index, const Fences& parent_fences, int place,
                  const Slot& slot);
  void split_inner(Inner& parent, int index, const Fences& parent_fences);

  bool writable(const Node& node) const { return node.epoch > frozen_; }
  // The node itself, or a copy that may be changed.
  Node* own(Node* node);
  void forget(const Node* leaf);
  void collect();
  void release(ViewRecord& record);

  std::size_t table_index(TableId id);
  void touch(std::size_t table) { pages_[table / kTablesInPage] = nullptr; }

  std::shared_ptr<const void> keep_alive_;
  Memory memory_;
  std::vector<Table> tables_;                            // ascending
  std::vector<std::shared_ptr<const TablePage>> pages_;  // of tables_; null: changed since
  std::size_t last_table_ = 0;
  std::uint64_t records_ = 0;
  std::uint64_t epoch_ = 1;   // of nodes made now
  std::uint64_t frozen_ = 0;  // version of the newest view that is left; 0: none
  bool applied_ = false;      // since the last view
  std::weak_ptr<const OverlayView> last_view_;
  std::vector<std::unique_ptr<ViewRecord>> view_records_;
  ViewRecord* newest_ = nullptr;
  ViewRecord* free_records_ = nullptr;
  std::atomic<ViewRecord*> dropped_ = nullptr;
  std::span<Probe> waiting_;  // the part of the present group that is not applied yet
};

}  // namespace defib::store::overlay_tree
