// ChangeSet: what one transaction changes, in the order of its calls and as the log will hold it.
//
// The changes are encoded once, when they are made; the set refers to keys and values by their
// place in those bytes. It answers reads of the transaction itself, and, while its commit is on
// its way, of the transactions after it: few changes are looked through, many are put into an
// overlay of their own at the first read.
//
// Thread rule: one thread at a time. Cursors see the set as it was when they were made, and must
// not outlive it.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/store/format.h"
#include "defib/store/layer.h"
#include "defib/store/overlay.h"

namespace defib::store {

class ChangeSet {
 public:
  void put(TableId table, std::string_view name, std::string_view key, std::string_view value);
  void erase(TableId table, std::string_view name, std::string_view key);

  std::size_t size() const { return places_.size(); }
  bool empty() const { return places_.empty(); }
  // Of the encoded transaction.
  std::size_t bytes() const { return encoder_.size(); }
  std::uint64_t user_bytes() const { return user_bytes_; }
  // Ends the set: its bytes for the log under that number. No changes afterwards.
  std::string_view finish(std::uint64_t number);
  // As finish() left it.
  std::string_view payload() const { return encoder_.bytes(); }
  // Empty again, for another transaction; keeps its memory, of about so many bytes.
  void clear();
  std::size_t memory() const;
  OverlayChange operator[](std::size_t index) const;

  std::optional<LayerEntry> find(TableId table, std::string_view key) const;
  // Null where nothing of the table was changed.
  std::unique_ptr<LayerCursor> cursor(TableId table) const;
  std::vector<TableId> tables() const;

 private:
  struct Place {
    TableId table;
    std::uint32_t key_size;
    std::uint32_t value_size;
    bool erased;
    std::uint64_t offset;  // of the key; the value follows
  };
  void note(TableId table, std::size_t key_size, std::size_t value_size, bool erased);
  Overlay& indexed() const;

  TransactionEncoder encoder_;
  bool finished_ = false;
  std::vector<Place> places_;
  std::uint64_t user_bytes_ = 0;
  mutable std::shared_ptr<Overlay> overlay_;  // of the first `indexed_` changes
  mutable std::size_t indexed_ = 0;
};

}  // namespace defib::store
