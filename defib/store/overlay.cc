#include "defib/store/overlay.h"

#include <algorithm>
#include <array>
#include <utility>

#include "defib/base/assert.h"
#include "defib/store/overlay_state.h"

namespace defib::store {
namespace overlay_tree {
namespace {

// Searches that run interleaved: enough to keep the memory busy, few enough for the first cache.
constexpr std::size_t kGroup = 16;
// Fewer changes than this are cheaper one by one.
constexpr std::size_t kSmallGroup = 3;

class View final : public OverlayView {
 public:
  using Pages = std::vector<std::shared_ptr<const TablePage>>;
  View(std::shared_ptr<MemoryOverlay> overlay, ViewRecord& record, Pages pages,
       std::uint64_t records)
      : overlay_(std::move(overlay)),
        record_(record),
        pages_(std::move(pages)),
        records_(records) {}
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  ~View() override { overlay_->drop(record_); }

  std::optional<LayerEntry> find(TableId table, std::string_view key) const override {
    const Slot* const slot = overlay_tree::find(root_of(table), key);
    if (slot == nullptr) return std::nullopt;
    return slot->entry();
  }
  std::unique_ptr<LayerCursor> cursor(TableId table) const override {
    return make_tree_cursor(root_of(table));
  }
  std::vector<TableId> tables() const override {
    std::vector<TableId> ids;
    for (const auto& page : pages_) {
      for (const Table& table : *page) ids.push_back(table.id);
    }
    return ids;
  }
  std::uint64_t records() const override { return records_; }

 private:
  const Node* root_of(TableId id) const {
    const auto behind =
        std::ranges::upper_bound(pages_, id, {}, [](const auto& page) { return page->front().id; });
    if (behind == pages_.begin()) return nullptr;
    const TablePage& page = **std::prev(behind);
    const auto at = std::ranges::lower_bound(page, id, {}, &Table::id);
    return at != page.end() && at->id == id ? at->root : nullptr;
  }

  std::shared_ptr<MemoryOverlay> overlay_;
  ViewRecord& record_;
  Pages pages_;
  std::uint64_t records_;
};

}  // namespace

MemoryOverlay::MemoryOverlay(std::vector<Table> tables, Memory&& memory,
                             std::shared_ptr<const void> keep_alive)
    : keep_alive_(std::move(keep_alive)), tables_(std::move(tables)) {
  memory_.adopt(std::move(memory));
  pages_.resize((tables_.size() + kTablesInPage - 1) / kTablesInPage);
  for (const Table& table : tables_) records_ += table.records;
}

// --- Tables ------------------------------------------------------------------------------------

std::size_t MemoryOverlay::table_index(TableId id) {
  if (last_table_ < tables_.size() && tables_[last_table_].id == id) return last_table_;
  const auto at = std::ranges::lower_bound(tables_, id, {}, &Table::id);
  last_table_ = static_cast<std::size_t>(at - tables_.begin());
  if (at == tables_.end() || at->id != id) {
    tables_.insert(at, Table{.id = id});
    pages_.resize((tables_.size() + kTablesInPage - 1) / kTablesInPage);
    for (std::size_t page = last_table_ / kTablesInPage; page < pages_.size(); ++page) {
      pages_[page] = nullptr;
    }
  }
  return last_table_;
}

std::optional<LayerEntry> MemoryOverlay::find(TableId table, std::string_view key) const {
  const auto at = std::ranges::lower_bound(tables_, table, {}, &Table::id);
  if (at == tables_.end() || at->id != table) return std::nullopt;
  const Slot* const slot = overlay_tree::find(at->root, key);
  if (slot == nullptr) return std::nullopt;
  return slot->entry();
}

// --- Applying ----------------------------------------------------------------------------------

void MemoryOverlay::apply(std::span<const OverlayChange> changes) {
  applied_ = applied_ || !changes.empty();
  while (!changes.empty()) {
    // Between groups only: within one, what a change that waits knows of its leaf stays true.
    collect();
    const std::size_t size = std::min(changes.size(), kGroup);
    if (size < kSmallGroup) {
      for (const OverlayChange& change : changes) put(table_index(change.table), nullptr, change);
    } else {
      apply_group(changes.first(size));
    }
    changes = changes.subspan(size);
  }
}

Leaf* MemoryOverlay::leaf_for(std::size_t table, std::string_view key) {
  Node* node = tables_[table].root;
  while (node != nullptr && node->level > 0) {
    node = as_inner(node)->children[child_for(*as_inner(node), key)];
    prefetch_node(node, kLeafSearchBytes);
  }
  return as_leaf(node);
}

void MemoryOverlay::apply_group(std::span<const OverlayChange> changes) {
  // New tables first: they move the others.
  for (const OverlayChange& change : changes) table_index(change.table);
  std::array<Probe, kGroup> probes;
  std::size_t inner = 0;
  for (std::size_t i = 0; i < changes.size(); ++i) {
    probes[i].table = table_index(changes[i].table);
    probes[i].node = tables_[probes[i].table].root;
    inner += static_cast<std::size_t>(probes[i].node != nullptr && probes[i].node->level > 0);
  }
  // All go one level down and ask for the next node, before the first one looks at its own.
  while (inner > 0) {
    inner = 0;
    for (std::size_t i = 0; i < changes.size(); ++i) {
      const Node* const node = probes[i].node;
      if (node == nullptr || node->level == 0) continue;
      const Inner& above = *as_inner(node);
      probes[i].node = above.children[child_for(above, changes[i].key)];
      if (above.level > 1) {
        prefetch_node(probes[i].node, kInnerSearchBytes);
        ++inner;
      } else {
        prefetch_node(probes[i].node, sizeof(Leaf));
      }
    }
  }
  for (std::size_t i = 0; i < changes.size(); ++i) {
    waiting_ = std::span(probes).subspan(i + 1, changes.size() - i - 1);
    put(probes[i].table, as_leaf(const_cast<Node*>(probes[i].node)), changes[i]);
  }
  waiting_ = {};
}

void MemoryOverlay::put(std::size_t table, Leaf* leaf, const OverlayChange& change) {
  const Slot slot = memory_.record(change.key, change.value, change.erased);
  touch(table);
  if (leaf == nullptr) leaf = leaf_for(table, change.key);
  if (leaf == nullptr || !writable(*leaf)) return put_from_root(table, slot);
  const Place place = place_in(*leaf, change.key);
  if (place.found) {
    leaf->slots[place.index] = slot;
  } else if (leaf->count < kLeafSize) {
    insert_record(*leaf, place.index, slot);
    ++tables_[table].records;
    ++records_;
  } else {
    put_from_root(table, slot);
  }
}

// Goes down once, and on its way copies what is frozen and splits what is full, so that there is
// always room in the node above.
void MemoryOverlay::put_from_root(std::size_t index, const Slot& slot) {
  const std::string_view key = slot.key();
  Table& table = tables_[index];
  if (table.root == nullptr) table.root = memory_.make_leaf(epoch_);
  table.root = own(table.root);
  if (table.root->level > 0 && table.root->count == kInnerSize) {
    split_root(table);
    split_inner(*as_inner(table.root), 0, {});
  }
  Inner* parent = nullptr;
  int child = 0;
  Fences parent_fences;
  Fences fences;
  Node* node = table.root;
  while (node->level > 0) {
    parent = as_inner(node);
    parent_fences = fences;
    child = child_for(*parent, key);
    node = parent->children[child] = own(parent->children[child]);
    if (node->level > 0 && node->count == kInnerSize) {
      split_inner(*parent, child, parent_fences);
      child = child_for(*parent, key);
      node = parent->children[child];
    }
    fences = child_fences(parent_fences, *parent, child);
  }
  Leaf* leaf = as_leaf(node);
  const Place place = place_in(*leaf, key);
  if (place.found) {
    leaf->slots[place.index] = slot;
    return;
  }
  ++table.records;
  ++records_;
  if (leaf->count < kLeafSize) return insert_record(*leaf, place.index, slot);
  if (parent == nullptr) {
    split_root(table);
    parent = as_inner(table.root);
    child = 0;
  }
  split_leaf(*parent, child, parent_fences, place.index, slot);
}

// The root becomes the only child of a new one.
void MemoryOverlay::split_root(Table& table) {
  DEFIB_ASSERT(table.root->level + 1 < kMaxHeight);
  Inner* const root = memory_.make_inner(epoch_, static_cast<std::uint8_t>(table.root->level + 1));
  insert_child(*root, 0, {}, table.root);
  table.root = root;
}

// Splits the full child and puts the record, which belongs at `place` in it, into the right half.
// Records that come in ascending order leave full leaves behind.
void MemoryOverlay::split_leaf(Inner& parent, int index, const Fences& parent_fences, int place,
                               const Slot& slot) {
  Leaf* const left = as_leaf(parent.children[index]);
  Leaf* const right = memory_.make_leaf(epoch_);
  const Fences fences = child_fences(parent_fences, parent, index);
  const bool appends = place == left->count && fences.high.data() == nullptr;
  const int middle = appends ? place : left->count / 2;
  const std::string_view separator = appends ? slot.key() : left->slots[middle].key();
  right->count = static_cast<std::uint16_t>(left->count - middle);
  right->skip = left->skip;
  std::copy_n(left->prefixes + middle, right->count, right->prefixes);
  std::copy_n(left->slots + middle, right->count, right->slots);
  left->count = static_cast<std::uint16_t>(middle);
  insert_child(parent, index + 1, separator, right);
  set_skip(*left, shared_bytes({fences.low, separator}));
  set_skip(*right, shared_bytes({separator, fences.high}));
  if (appends || place > middle) {
    insert_record(*right, place - middle, slot);
  } else {
    insert_record(*left, place, slot);
  }
  forget(left);
}

void MemoryOverlay::split_inner(Inner& parent, int index, const Fences& parent_fences) {
  Inner* const left = as_inner(parent.children[index]);
  Inner* const right = memory_.make_inner(epoch_, left->level);
  const Fences fences = child_fences(parent_fences, parent, index);
  // At the right edge keys mostly come in ascending order.
  const int middle = fences.high.data() == nullptr ? left->count - 1 : left->count / 2;
  const std::string_view separator = left->key(middle);
  const int moved = left->count - middle;
  std::copy_n(left->prefixes + middle, moved, right->prefixes);
  std::copy_n(left->children + middle, moved, right->children);
  std::copy_n(left->key_data + middle, moved, right->key_data);
  std::copy_n(left->key_sizes + middle, moved, right->key_sizes);
  right->count = static_cast<std::uint16_t>(moved);
  right->skip = left->skip;
  left->count = static_cast<std::uint16_t>(middle);
  insert_child(parent, index + 1, separator, right);
  set_skip(*left, shared_bytes({fences.low, separator}));
  set_skip(*right, shared_bytes({separator, fences.high}));
}

// --- Versions ----------------------------------------------------------------------------------

Node* MemoryOverlay::own(Node* node) {
  if (writable(*node)) return node;
  Node* const copy = memory_.copy(*node, epoch_);
  node->next = newest_->replaced;
  newest_->replaced = node;
  return copy;
}

// The changes that still wait for a leaf look for it anew.
void MemoryOverlay::forget(const Node* leaf) {
  for (Probe& probe : waiting_) {
    if (probe.node == leaf) probe.node = nullptr;
  }
}

std::shared_ptr<const OverlayView> MemoryOverlay::view() {
  if (!applied_) {
    if (auto same = last_view_.lock()) return same;
  }
  collect();
  for (std::size_t page = 0; page < pages_.size(); ++page) {
    if (pages_[page] != nullptr) continue;
    const auto begin = tables_.begin() + static_cast<std::ptrdiff_t>(page * kTablesInPage);
    const auto left = static_cast<std::size_t>(tables_.end() - begin);
    pages_[page] = std::make_shared<const TablePage>(
        begin, begin + static_cast<std::ptrdiff_t>(std::min(left, kTablesInPage)));
  }
  if (free_records_ == nullptr) {
    view_records_.push_back(std::make_unique<ViewRecord>());
    free_records_ = view_records_.back().get();
  }
  auto self = std::static_pointer_cast<MemoryOverlay>(shared_from_this());
  ViewRecord& record = *std::exchange(free_records_, free_records_->next_dropped);
  record = {.version = epoch_, .older = newest_};
  if (newest_ != nullptr) newest_->newer = &record;
  newest_ = &record;
  frozen_ = epoch_++;
  applied_ = false;
  auto view = std::make_shared<const View>(std::move(self), record, pages_, records_);
  last_view_ = view;
  return view;
}

void MemoryOverlay::drop(ViewRecord& record) {
  record.next_dropped = dropped_.load(std::memory_order_relaxed);
  while (!dropped_.compare_exchange_weak(record.next_dropped, &record, std::memory_order_release,
                                         std::memory_order_relaxed)) {
  }
}

// Takes leave of the views that are gone.
void MemoryOverlay::collect() {
  if (dropped_.load(std::memory_order_relaxed) == nullptr) return;
  ViewRecord* record = dropped_.exchange(nullptr, std::memory_order_acquire);
  while (record != nullptr) {
    ViewRecord* const next = record->next_dropped;
    release(*record);
    record = next;
  }
  frozen_ = newest_ != nullptr ? newest_->version : 0;
}

void MemoryOverlay::release(ViewRecord& record) {
  ViewRecord* const older = record.older;
  while (record.replaced != nullptr) {
    Node* const node = std::exchange(record.replaced, record.replaced->next);
    if (older != nullptr && node->epoch <= older->version) {
      node->next = older->replaced;
      older->replaced = node;
    } else {
      memory_.free(node);
    }
  }
  if (older != nullptr) older->newer = record.newer;
  (record.newer != nullptr ? record.newer->older : newest_) = older;
  record.next_dropped = free_records_;
  free_records_ = &record;
}

Result<> MemoryOverlay::check(const Pulse& pulse) const {
  std::uint64_t nodes = memory_.free_nodes();
  std::uint64_t records = 0;
  for (const Table& table : tables_) {
    const Pulse from_here = [&](std::uint64_t more) { return pulse(records + more); };
    DEFIB_TRY_ASSIGN(const TreeCounts counts, check_tree(table.root, pulse ? from_here : Pulse()));
    if (counts.records != table.records || counts.records == 0) {
      return Error(Code::kCorrupted, "the overlay's count of a table's records is wrong")
          .with("table", static_cast<std::int64_t>(table.id));
    }
    nodes += counts.nodes;
    records += counts.records;
  }
  for (const ViewRecord* view = newest_; view != nullptr; view = view->older) {
    for (const Node* node = view->replaced; node != nullptr; node = node->next) ++nodes;
  }
  if (records != records_) return Error(Code::kCorrupted, "the overlay's count is wrong");
  if (nodes != memory_.made_nodes()) {
    return Error(Code::kCorrupted, "the overlay lost or doubled nodes")
        .with("made", static_cast<std::int64_t>(memory_.made_nodes()))
        .with("found", static_cast<std::int64_t>(nodes));
  }
  return {};
}

}  // namespace overlay_tree

std::shared_ptr<Overlay> Overlay::make() {
  return std::make_shared<overlay_tree::MemoryOverlay>();
}

}  // namespace defib::store
