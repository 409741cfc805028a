// View: the state of one commit, as the stack of layers that hold it.
//
// The overlays are newer than the files, and both stand from newest to oldest. A view is immutable;
// its layers live as long as it does, also when the store has since merged their files or removed
// them.
//
// Thread rule: any thread.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/store/layer.h"
#include "defib/store/overlay.h"
#include "defib/store/sorted_file.h"
#include "defib/store/store.h"
#include "defib/store/table_names.h"

namespace defib::store {

struct View {
  std::uint64_t position = 0;  // number of the last commit in it
  std::shared_ptr<const TableNames> names;
  std::vector<std::shared_ptr<const OverlayView>> overlays;
  std::vector<std::shared_ptr<const SortedFile>> files;

  Result<std::optional<LayerEntry>> find(TableId table, std::string_view key) const;
  // Appends the layers that have something of the table.
  void add_cursors(TableId table, std::vector<std::unique_ptr<LayerCursor>>& layers) const;
};
using ViewPtr = std::shared_ptr<const View>;

// Tables that the store keeps for itself begin with this; they show in no list of tables.
inline constexpr char kInternalTable = '\x01';
inline bool is_internal(std::string_view table) {
  return !table.empty() && table.front() == kInternalTable;
}

std::unique_ptr<Snapshot> make_snapshot(ViewPtr view);
// A cursor over a table of which the view may have nothing. `newer` layers lie above the view's.
std::unique_ptr<Cursor> make_view_cursor(const ViewPtr& view, TableId table,
                                         std::vector<std::unique_ptr<LayerCursor>> newer = {},
                                         std::shared_ptr<const bool> is_open = nullptr);

}  // namespace defib::store
