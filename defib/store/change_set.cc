#include "defib/store/change_set.h"

#include <algorithm>

#include "defib/base/assert.h"

namespace defib::store {
namespace {

// Up to so many changes a search from the newest backwards is cheaper than an index of them.
constexpr std::size_t kFewChanges = 32;

// Owns the sorted copy of a small set's changes to one table.
class FewChangesCursor final : public LayerCursor {
 public:
  struct Entry {
    std::string key;
    std::string value;
    bool erased = false;
  };
  explicit FewChangesCursor(std::vector<Entry> entries) : entries_(std::move(entries)) {}

  bool seek(std::string_view key) override { return go(lower_bound(key)); }
  bool seek_for_prev(std::string_view key) override {
    std::size_t at = lower_bound(key);
    if (at < entries_.size() && entries_[at].key == key) return go(at);
    return at == 0 ? go(entries_.size()) : go(at - 1);
  }
  bool first() override { return go(0); }
  bool last() override { return go(entries_.size() - 1); }
  bool next() override { return at_ < entries_.size() ? go(at_ + 1) : false; }
  bool prev() override {
    if (at_ >= entries_.size()) return false;
    return at_ == 0 ? go(entries_.size()) : go(at_ - 1);
  }
  std::string_view key() const override { return entries_[at_].key; }
  std::string_view value() const override { return entries_[at_].value; }
  bool erased() const override { return entries_[at_].erased; }

 private:
  bool go(std::size_t at) {
    at_ = at;
    return at_ < entries_.size();
  }
  std::size_t lower_bound(std::string_view key) const {
    const auto less = [](const Entry& entry, std::string_view wanted) {
      return entry.key < wanted;
    };
    return static_cast<std::size_t>(std::lower_bound(entries_.begin(), entries_.end(), key, less) -
                                    entries_.begin());
  }
  std::vector<Entry> entries_;  // ascending; never empty
  std::size_t at_ = ~std::size_t{0};
};

// Keeps the view that it walks.
class ViewCursor final : public LayerCursor {
 public:
  ViewCursor(std::shared_ptr<const OverlayView> view, std::unique_ptr<LayerCursor> cursor)
      : view_(std::move(view)), cursor_(std::move(cursor)) {}
  bool seek(std::string_view key) override { return cursor_->seek(key); }
  bool seek_for_prev(std::string_view key) override { return cursor_->seek_for_prev(key); }
  bool first() override { return cursor_->first(); }
  bool last() override { return cursor_->last(); }
  bool next() override { return cursor_->next(); }
  bool prev() override { return cursor_->prev(); }
  std::string_view key() const override { return cursor_->key(); }
  std::string_view value() const override { return cursor_->value(); }
  bool erased() const override { return cursor_->erased(); }

 private:
  std::shared_ptr<const OverlayView> view_;
  std::unique_ptr<LayerCursor> cursor_;
};

}  // namespace

void ChangeSet::put(TableId table, std::string_view name, std::string_view key,
                    std::string_view value) {
  encoder_.put(name, key, value);
  note(table, key.size(), value.size(), false);
}

void ChangeSet::erase(TableId table, std::string_view name, std::string_view key) {
  encoder_.erase(name, key);
  note(table, key.size(), 0, true);
}

void ChangeSet::note(TableId table, std::size_t key_size, std::size_t value_size, bool erased) {
  DEFIB_ASSERT(!finished_);
  places_.push_back({.table = table,
                     .key_size = static_cast<std::uint32_t>(key_size),
                     .value_size = static_cast<std::uint32_t>(value_size),
                     .erased = erased,
                     .offset = encoder_.size() - value_size - key_size});
  user_bytes_ += key_size + value_size;
}

std::string_view ChangeSet::finish(std::uint64_t number) {
  finished_ = true;
  return encoder_.end(number);
}

void ChangeSet::clear() {
  encoder_.clear();
  finished_ = false;
  places_.clear();
  user_bytes_ = 0;
  overlay_ = nullptr;
  indexed_ = 0;
}

std::size_t ChangeSet::memory() const {
  return encoder_.capacity() + places_.capacity() * sizeof(Place);
}

OverlayChange ChangeSet::operator[](std::size_t index) const {
  const Place& place = places_[index];
  const std::string_view bytes = encoder_.bytes();
  return {.table = place.table,
          .key = bytes.substr(place.offset, place.key_size),
          .value = bytes.substr(place.offset + place.key_size, place.value_size),
          .erased = place.erased};
}

Overlay& ChangeSet::indexed() const {
  if (overlay_ == nullptr) overlay_ = Overlay::make();
  std::vector<OverlayChange> changes;
  changes.reserve(places_.size() - indexed_);
  for (; indexed_ < places_.size(); ++indexed_) changes.push_back((*this)[indexed_]);
  if (!changes.empty()) overlay_->apply(changes);
  return *overlay_;
}

std::optional<LayerEntry> ChangeSet::find(TableId table, std::string_view key) const {
  if (places_.size() > kFewChanges) return indexed().find(table, key);
  for (std::size_t i = places_.size(); i-- > 0;) {
    if (places_[i].table != table) continue;
    const OverlayChange change = (*this)[i];
    if (change.key == key) return LayerEntry{change.value, change.erased};
  }
  return std::nullopt;
}

std::unique_ptr<LayerCursor> ChangeSet::cursor(TableId table) const {
  if (places_.size() > kFewChanges) {
    auto view = indexed().view();
    auto cursor = view->cursor(table);
    if (cursor == nullptr) return nullptr;
    return std::make_unique<ViewCursor>(std::move(view), std::move(cursor));
  }
  std::vector<FewChangesCursor::Entry> entries;
  for (std::size_t i = places_.size(); i-- > 0;) {
    const OverlayChange change = (*this)[i];
    const auto same = [&](const auto& entry) { return entry.key == change.key; };
    if (change.table != table || std::ranges::any_of(entries, same)) continue;
    entries.push_back({std::string(change.key), std::string(change.value), change.erased});
  }
  if (entries.empty()) return nullptr;
  std::ranges::sort(entries, {}, &FewChangesCursor::Entry::key);
  return std::make_unique<FewChangesCursor>(std::move(entries));
}

std::vector<TableId> ChangeSet::tables() const {
  std::vector<TableId> tables;
  tables.reserve(places_.size());
  for (const Place& place : places_) tables.push_back(place.table);
  std::ranges::sort(tables);
  tables.erase(std::unique(tables.begin(), tables.end()), tables.end());
  return tables;
}

}  // namespace defib::store
