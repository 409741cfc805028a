// Layer: one sorted source of a table's records, of which a reader's view is a stack.
//
// A table is what its layers say together, the newest first: an overlay in memory, frozen overlays
// on their way to disk, runs, and the base. In a layer a record may stand as erased, which hides
// the key in all older layers; the merging cursor (merge.h) makes one table of them.
//
// Thread rule: a cursor on one thread at a time.

#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/store/store.h"

namespace defib::store {

// Tables go by number inside the store; the manifest (page_file.h) has their names. Never reused.
using TableId = std::uint32_t;

struct LayerEntry {
  std::string_view value;
  bool erased = false;
};

// Moves over one table of one layer, either way, erased records included. Positioned on a record
// or nowhere. All moves answer whether there is a record; where a read failed they answer false,
// and error() says why.
class LayerCursor {
 public:
  virtual ~LayerCursor() = default;
  virtual bool seek(std::string_view key) = 0;           // first with key >= `key`
  virtual bool seek_for_prev(std::string_view key) = 0;  // last with key <= `key`
  virtual bool first() = 0;
  virtual bool last() = 0;
  virtual bool next() = 0;
  virtual bool prev() = 0;
  // Views that are valid while the layer is, also after the cursor moved. Precondition:
  // positioned.
  virtual std::string_view key() const = 0;
  virtual std::string_view value() const = 0;
  virtual bool erased() const = 0;
  // Null while every read succeeded.
  virtual const Error* error() const { return nullptr; }
};

// One table of the stack, erased records hidden. `layers` from newest to oldest; none is null.
// `keep_alive` is held as long as the cursor. Where `is_open` is given and false, every move
// answers false. With a single layer it costs hardly more than that layer's own cursor.
std::unique_ptr<Cursor> make_merged_cursor(std::vector<std::unique_ptr<LayerCursor>> layers,
                                           std::shared_ptr<const void> keep_alive,
                                           std::shared_ptr<const bool> is_open = nullptr);
// The same, erased records shown as they stand in the newest layer that has the key: what merging
// runs into one needs.
std::unique_ptr<LayerCursor> make_union_cursor(std::vector<std::unique_ptr<LayerCursor>> layers);

}  // namespace defib::store
