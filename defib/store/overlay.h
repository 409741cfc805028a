// Overlay: the newest records of all tables in memory, sorted; one writer, readers of frozen views.
//
// A B+tree for each table whose nodes hold the first eight bytes of each key and a pointer to the
// record's bytes in an arena. A view freezes what is there: the writer goes on beside it by copying
// a node the first time it changes it after the view was taken, and edits its own nodes in place
// until the next view. Nothing is ever taken out: erasing writes an erased record, and an overlay
// goes as a whole, once its records stand in a run and nobody reads it any more. Replaced nodes are
// used again when no view is left that could see them.
//
// Thread rule: put(), erase() and view() are calls of one thread at a time (the engine's mutex);
// views, their cursors and their destruction on any thread, beside the writer.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "defib/store/layer.h"
#include "defib/store/pulse.h"

namespace defib::store {

class Overlay;

// The state of an overlay at one moment. Copying it is cheap.
class OverlayView {
 public:
  virtual ~OverlayView() = default;
  // The bytes stay valid while the view lives.
  virtual std::optional<LayerEntry> find(TableId table, std::string_view key) const = 0;
  // Null where the overlay has nothing of the table. The cursor must not outlive the view; its keys
  // and values are valid as long as the view is.
  virtual std::unique_ptr<LayerCursor> cursor(TableId table) const = 0;
  // Tables with at least one record (erased ones count), ascending.
  virtual std::vector<TableId> tables() const = 0;
  virtual std::uint64_t records() const = 0;
};

// One change; the bytes are copied. Precondition: a key of at most 64 KiB - 1 bytes, a value of at
// most 32 MiB - 1.
struct OverlayChange {
  TableId table = 0;
  std::string_view key;
  std::string_view value;
  bool erased = false;
};

class Overlay : public std::enable_shared_from_this<Overlay> {
 public:
  static std::shared_ptr<Overlay> make();
  virtual ~Overlay() = default;
  // In order; a later change of the same key wins. Many at once are much cheaper than one by one:
  // the searches run interleaved, so that their cache misses overlap.
  virtual void apply(std::span<const OverlayChange> changes) = 0;
  // What apply() has done so far, frozen. The same view again while nothing was applied since.
  virtual std::shared_ptr<const OverlayView> view() = 0;
  // Of the writer's own state, without freezing it: for the writing thread only.
  virtual std::optional<LayerEntry> find(TableId table, std::string_view key) const = 0;
  virtual std::uint64_t records() const = 0;
  // Bytes of memory held: records and nodes, free ones included. Any thread.
  virtual std::uint64_t memory() const = 0;
  // Walks everything: order, counts, fill, separators. A problem is Corrupted, and a bug. `pulse`
  // hears of records.
  virtual Result<> check(const Pulse& pulse) const = 0;
  Result<> check() const { return check({}); }
};

// Builds one table of a fresh overlay from records in ascending order, in one pass and with full
// nodes; different tables, or different builders for consecutive ranges of one table, may be filled
// on different threads. Keys and values are NOT copied where `keep_alive` keeps their bytes in
// being (a mapped log), and copied by join_overlay() where it is null: until then they must be kept
// in any case. A value is copied with its key all the same if it does not begin within 4 MiB behind
// the key's first byte.
class OverlayBuilder {
 public:
  virtual ~OverlayBuilder() = default;
  // Precondition: key greater than the one before.
  virtual void append(std::string_view key, std::string_view value, bool erased) = 0;
};
struct OverlayPart {
  TableId table = 0;
  std::unique_ptr<OverlayBuilder> builder;
};
std::unique_ptr<OverlayBuilder> make_overlay_builder();
// Joins the parts: for each table in ascending order of keys. `keep_alive` is held by the overlay.
std::shared_ptr<Overlay> join_overlay(std::vector<OverlayPart> parts,
                                      std::shared_ptr<const void> keep_alive);

}  // namespace defib::store
