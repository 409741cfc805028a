// TableNames: which number each table goes by.
//
// A new name gets the next number; numbers are never given twice, also not after their table is
// gone. Recovery and the manifest (page_file.h) fill it, the engine looks names up.
//
// Thread rule: a value.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "defib/store/layer.h"

namespace defib::store {

class TableNames {
 public:
  TableNames() = default;
  // `next` is the number of the next new table: larger than all numbers ever given.
  explicit TableNames(TableId next) : next_(next) {}

  // The number of `name`, which is new where nobody has asked for it before.
  TableId add(std::string_view name);
  // Takes a pair from the manifest; false where the name or the number is taken by another.
  bool insert(TableId id, std::string_view name);
  std::optional<TableId> find(std::string_view name) const;
  // Empty where there is no such table. Valid while the TableNames lives, also when it moves.
  std::string_view name(TableId id) const;
  TableId next() const { return next_; }
  // Ascending by number.
  const std::map<TableId, std::string>& all() const { return names_; }

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  TableId next_ = 1;
  std::map<TableId, std::string> names_;
  std::unordered_map<std::string, TableId, Hash, std::equal_to<>> ids_;
};

}  // namespace defib::store
