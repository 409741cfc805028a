// What a store holds besides its records, and how a campaign judges it: secondary indexes, which
// must be what their extractors make of the records, and the history that stream() tells, which
// must be the commits that were made.

#pragma once

#include <fmt/core.h>

#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "defib/store/secondary_index.h"
#include "defib/store/testing/store_util.h"

namespace defib::store::testing_util {

inline constexpr const char* kBySize = "by_size";      // of table "a", several keys a record
inline constexpr const char* kByTicket = "by_ticket";  // of table "tickets", unique

// Version 2 of each answers otherwise than version 1 for every record.
inline IndexDefinition index_definition(const std::string& name, std::uint32_t version) {
  if (name == kBySize) {
    return {.name = name,
            .table = "a",
            .unique = false,
            .version = version,
            .extract = [version](std::string_view key, std::string_view value,
                                 std::vector<std::string>& keys) {
              keys.push_back(fmt::format("size {}", value.size() / (version == 1 ? 10 : 7)));
              // Some records have one key, others two, and with version 2 other ones.
              if (value.size() % 3 == version % 3)
                keys.push_back(fmt::format("key {}", key.back()));
            }};
  }
  return {.name = name,
          .table = "tickets",
          .unique = true,
          .version = version,
          .extract = [version](std::string_view, std::string_view value,
                               std::vector<std::string>& keys) {
            const std::string ticket(value.substr(0, value.find(':')));
            keys.push_back(version == 1 ? ticket : "v" + ticket);
          }};
}
inline std::vector<IndexDefinition> index_definitions(std::uint32_t version) {
  return {index_definition(kBySize, version), index_definition(kByTicket, version)};
}

// The indexes that a store has complete, with their versions.
using CompleteIndexes = std::map<std::string, std::uint32_t>;
inline CompleteIndexes complete_indexes(const Snapshot& snapshot) {
  CompleteIndexes complete;
  for (const char* const name : {kBySize, kByTicket}) {
    const auto stored = snapshot.get(kIndexesTable, name);
    if (!stored || !*stored) continue;
    const auto record = decode_index_record(**stored);
    complete[name] = record ? record->version : 0;
  }
  return complete;
}

// The first difference between a complete index and what its extractor makes of `state`.
inline std::optional<std::string> index_problem(const Snapshot& snapshot, const State& state) {
  for (const auto& [name, version] : complete_indexes(snapshot)) {
    const IndexDefinition definition = index_definition(name, version);
    std::multiset<std::pair<std::string, std::string>> expected;
    for (const auto& [place, value] : state) {
      if (place.first != definition.table) continue;
      const auto keys = extract_keys(definition, place.second, value);
      if (!keys) return keys.error().to_line();
      for (const std::string& secondary : *keys) expected.emplace(secondary, place.second);
    }
    const auto cursor = snapshot.scan_index(name);
    if (!cursor) return cursor.error().to_line();
    std::multiset<std::pair<std::string, std::string>> found;
    for (bool more = (*cursor)->first(); more; more = (*cursor)->next()) {
      found.emplace((*cursor)->secondary(), (*cursor)->key());
    }
    if (const Result<> status = (*cursor)->status(); !status) return status.error().to_line();
    if (found == expected) continue;
    const auto lacks = [](const auto& set, const auto& of) -> std::string {
      for (const auto& entry : of) {
        if (!set.contains(entry)) return fmt::format("'{}' of '{}'", entry.first, entry.second);
      }
      return "nothing";
    };
    return fmt::format("index {} version {} lacks {}, and has without a record {}", name, version,
                       lacks(found, expected), lacks(expected, found));
  }
  return std::nullopt;
}

// The first commit that the store still tells, or what is wrong with what it tells: from that
// commit to the last one each has to come once, and turn the state before it into the one after.
struct History {
  std::uint64_t first = 0;
  std::optional<std::string> problem;
};
inline History told_history(Store& store, std::uint64_t last,
                            const std::function<const State&(std::uint64_t)>& state_after) {
  History history{.first = 1, .problem = std::nullopt};
  std::uint64_t next = 1;
  const auto sink = [&](const CommittedTransaction& told) {
    if (told.number != next) {
      history.problem = fmt::format("commit {} is told instead of {}", told.number, next);
      return false;
    }
    State state = state_after(next - 1);
    for (const Change& change : told.changes) {
      if (change.value) {
        state[{change.table, change.key}] = *change.value;
      } else {
        state.erase({change.table, change.key});
      }
    }
    if (state != state_after(next)) {
      history.problem = fmt::format("what is told of commit {} is not what it did", next);
      return false;
    }
    ++next;
    return true;
  };
  Result<> streamed = store.stream(1, sink);
  if (!streamed && streamed.error().code() == Code::kNotFound) {
    history.first = next = std::stoull(std::string(streamed.error().field("first")));
    streamed = store.stream(next, sink);
  }
  if (history.problem) return history;
  if (!streamed) {
    history.problem = "the history ends with " + streamed.error().to_line();
  } else if (next != last + 1) {
    history.problem = fmt::format("the history ends before commit {} of {}", next, last);
  }
  return history;
}

}  // namespace defib::store::testing_util
