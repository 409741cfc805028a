#include "defib/store/table_names.h"

#include <algorithm>

namespace defib::store {

TableId TableNames::add(std::string_view name) {
  if (const auto known = find(name)) return *known;
  const TableId id = next_++;
  names_.emplace(id, name);
  ids_.emplace(name, id);
  return id;
}

bool TableNames::insert(TableId id, std::string_view name) {
  if (names_.contains(id) || ids_.find(name) != ids_.end()) return false;
  names_.emplace(id, name);
  ids_.emplace(name, id);
  next_ = std::max(next_, id + 1);
  return true;
}

std::optional<TableId> TableNames::find(std::string_view name) const {
  const auto at = ids_.find(name);
  if (at == ids_.end()) return std::nullopt;
  return at->second;
}

std::string_view TableNames::name(TableId id) const {
  const auto at = names_.find(id);
  return at == names_.end() ? std::string_view() : std::string_view(at->second);
}

}  // namespace defib::store
