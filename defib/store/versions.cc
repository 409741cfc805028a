#include "defib/store/versions.h"

#include <algorithm>

#include "defib/base/assert.h"

namespace defib::store {
namespace {

class TableCursor final : public Cursor {
 public:
  TableCursor(const Tree& tree, std::shared_ptr<const void> keep_alive,
              std::shared_ptr<const bool> is_open)
      : cursor_(tree), keep_alive_(std::move(keep_alive)), is_open_(std::move(is_open)) {}
  bool seek(std::string_view key) override { return open() && cursor_.seek(key); }
  bool seek_for_prev(std::string_view key) override { return open() && cursor_.seek_for_prev(key); }
  bool first() override { return open() && cursor_.first(); }
  bool last() override { return open() && cursor_.last(); }
  bool next() override { return open() && cursor_.next(); }
  bool prev() override { return open() && cursor_.prev(); }
  std::string_view key() const override {
    DEFIB_ASSERT_MESSAGE(open(), "a cursor outlived its transaction");
    return cursor_.record().key();
  }
  std::string_view value() const override {
    DEFIB_ASSERT_MESSAGE(open(), "a cursor outlived its transaction");
    return cursor_.record().value();
  }

 private:
  bool open() const { return is_open_ == nullptr || *is_open_; }
  TreeCursor cursor_;
  std::shared_ptr<const void> keep_alive_;
  std::shared_ptr<const bool> is_open_;
};

class ViewSnapshot final : public Snapshot {
 public:
  explicit ViewSnapshot(std::shared_ptr<const View> view) : view_(std::move(view)) {}
  Result<std::optional<std::string>> get(std::string_view table,
                                         std::string_view key) const override {
    const Tree* tree = view_->catalog().find(table);
    const Record* record = tree != nullptr ? find(*tree, key) : nullptr;
    if (record == nullptr) return std::optional<std::string>();
    return std::optional<std::string>(record->value());
  }
  Result<std::unique_ptr<Cursor>> scan(std::string_view table) const override {
    return make_cursor(view_->catalog().find(table), view_, nullptr);
  }
  std::vector<std::string> tables() const override {
    std::vector<std::string> names;
    for (const TableState& table : view_->catalog().tables) names.push_back(table.name);
    return names;
  }
  std::uint64_t position() const override { return view_->catalog().position; }

 private:
  std::shared_ptr<const View> view_;
};

auto position_of(auto& tables, std::string_view name) {
  return std::ranges::lower_bound(tables, name, std::less<>(), &TableState::name);
}

}  // namespace

const Tree* Catalog::find(std::string_view table) const {
  const auto at = position_of(tables, table);
  return at != tables.end() && at->name == table ? &at->tree : nullptr;
}

Tree& Catalog::find_or_add(std::string_view table) {
  const auto at = position_of(tables, table);
  if (at != tables.end() && at->name == table) return at->tree;
  return tables.insert(at, TableState{std::string(table), {}})->tree;
}

void Catalog::drop_empty_tables() {
  std::erase_if(tables, [](const TableState& table) { return table.tree.root == nullptr; });
}

std::uint64_t Catalog::records() const {
  std::uint64_t count = 0;
  for (const TableState& table : tables) count += table.tree.count;
  return count;
}

View::View(std::shared_ptr<Versions> versions, CatalogPtr catalog)
    : versions_(std::move(versions)), catalog_(std::move(catalog)) {}

View::~View() {
  versions_->release(catalog_->position);
}

Versions::Versions(Catalog initial) : published_(std::make_shared<Catalog>(std::move(initial))) {}

Versions::~Versions() {
  DEFIB_ASSERT(readers_.empty());
  for (Retired& retired : retired_) retired.delta.free_retired();
  for (TableState table : published_->tables) destroy(table.tree);
}

std::shared_ptr<const View> Versions::view() {
  const std::lock_guard lock(mutex_);
  ++readers_[published_->position];
  return std::make_shared<View>(shared_from_this(), published_);
}

CatalogPtr Versions::published() const {
  const std::lock_guard lock(mutex_);
  return published_;
}

void Versions::publish(CatalogPtr catalog, Delta delta) {
  std::vector<Delta> unread;
  {
    const std::lock_guard lock(mutex_);
    DEFIB_ASSERT(catalog->position > published_->position);
    delta.made_nodes = {};
    delta.made_records = {};
    retired_.push_back({catalog->position, std::move(delta)});
    published_ = std::move(catalog);
    unread = collect();
  }
  for (Delta& old : unread) old.free_retired();
}

void Versions::release(std::uint64_t position) {
  std::vector<Delta> unread;
  {
    const std::lock_guard lock(mutex_);
    const auto reader = readers_.find(position);
    DEFIB_ASSERT(reader != readers_.end());
    if (--reader->second == 0) readers_.erase(reader);
    unread = collect();
  }
  for (Delta& old : unread) old.free_retired();
}

std::vector<Delta> Versions::collect() {
  const std::uint64_t oldest = readers_.empty() ? published_->position : readers_.begin()->first;
  std::vector<Delta> unread;
  while (!retired_.empty() && retired_.front().position <= oldest) {
    unread.push_back(std::move(retired_.front().delta));
    retired_.pop_front();
  }
  return unread;
}

std::unique_ptr<Snapshot> make_snapshot(std::shared_ptr<const View> view) {
  return std::make_unique<ViewSnapshot>(std::move(view));
}

std::unique_ptr<Cursor> make_cursor(const Tree* tree, std::shared_ptr<const void> keep_alive,
                                    std::shared_ptr<const bool> is_open) {
  return std::make_unique<TableCursor>(tree != nullptr ? *tree : Tree{}, std::move(keep_alive),
                                       std::move(is_open));
}

}  // namespace defib::store
