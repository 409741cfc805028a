#include "defib/store/view.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/store/secondary_index.h"

namespace defib::store {
namespace {

class ViewSnapshot final : public Snapshot {
 public:
  explicit ViewSnapshot(ViewPtr view) : view_(std::move(view)) {}

  Result<std::optional<std::string>> get(std::string_view table,
                                         std::string_view key) const override {
    const auto id = view_->names->find(table);
    if (!id) return std::optional<std::string>();
    DEFIB_TRY_ASSIGN(const auto entry, view_->find(*id, key));
    if (!entry || entry->erased) return std::optional<std::string>();
    return std::optional<std::string>(std::string(entry->value));
  }

  Result<std::unique_ptr<Cursor>> scan(std::string_view table) const override {
    const auto id = view_->names->find(table);
    return make_view_cursor(view_, id.value_or(0));
  }

  Result<std::unique_ptr<IndexCursor>> scan_index(std::string_view index) const override {
    DEFIB_TRY_ASSIGN(const auto record, get(kIndexesTable, index));
    if (!record) {
      return Error(Code::kNotFound, fmt::format("the store has no index '{}'", escape(index)));
    }
    DEFIB_TRY_ASSIGN(auto entries, scan(index_table_name(index)));
    return make_index_cursor(std::move(entries));
  }

  std::vector<std::string> tables() const override {
    std::vector<std::string> names;
    for (const auto& [id, name] : view_->names->all()) {
      if (is_internal(name)) continue;
      const auto cursor = make_view_cursor(view_, id);
      // A table that cannot be read is there: whoever scans it hears why.
      if (cursor->first() || !cursor->status()) names.emplace_back(name);
    }
    std::ranges::sort(names);
    return names;
  }

  std::uint64_t position() const override { return view_->position; }

 private:
  ViewPtr view_;
};

}  // namespace

Result<std::optional<LayerEntry>> View::find(TableId table, std::string_view key) const {
  for (const auto& overlay : overlays) {
    if (auto entry = overlay->find(table, key)) return entry;
  }
  for (const auto& file : files) {
    DEFIB_TRY_ASSIGN(auto entry, file->find(table, key));
    if (entry) return entry;
  }
  return std::optional<LayerEntry>();
}

void View::add_cursors(TableId table, std::vector<std::unique_ptr<LayerCursor>>& layers) const {
  for (const auto& overlay : overlays) {
    if (auto cursor = overlay->cursor(table)) layers.push_back(std::move(cursor));
  }
  for (const auto& file : files) {
    if (auto cursor = file->cursor(table)) layers.push_back(std::move(cursor));
  }
}

std::unique_ptr<Cursor> make_view_cursor(const ViewPtr& view, TableId table,
                                         std::vector<std::unique_ptr<LayerCursor>> newer,
                                         std::shared_ptr<const bool> is_open) {
  view->add_cursors(table, newer);
  return make_merged_cursor(std::move(newer), view, std::move(is_open));
}

std::unique_ptr<Snapshot> make_snapshot(ViewPtr view) {
  return std::make_unique<ViewSnapshot>(std::move(view));
}

}  // namespace defib::store
