// Secondary indexes as internal tables.
//
// The entries of index NAME are records of the table "\x01index/NAME" whose keys are secondary key
// and record key together, so that they sort by the first, then the second; their values are
// empty. The table "\x01indexes" has one record for each index that is complete: its table,
// uniqueness and version. Both change in the transaction that changes the records, and pass through
// log, runs and base like everything else.
//
// Thread rule: pure functions; an IndexSet is immutable.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/store/store.h"

namespace defib::store {

inline constexpr std::string_view kIndexesTable = "\x01indexes";
std::string index_table_name(std::string_view index);

// Order-preserving: a zero byte of the secondary key becomes 00 FF, its end is 00 00.
std::string encode_index_entry(std::string_view secondary, std::string_view key);
// The part of it that all entries of one secondary key share.
std::string index_entry_prefix(std::string_view secondary);
// Secondary key and record key; nullopt where the bytes are not an entry.
std::optional<std::pair<std::string, std::string>> decode_index_entry(std::string_view entry);

// The record of kIndexesTable.
std::string encode_index_record(const IndexDefinition& definition);
struct IndexRecord {
  std::string table;
  bool unique = false;
  std::uint32_t version = 0;
};
std::optional<IndexRecord> decode_index_record(std::string_view bytes);

// InvalidArgument where names repeat or are empty, too long or internal, or an extractor is
// missing.
Result<> check_definitions(const std::vector<IndexDefinition>& definitions);
// The secondary keys of a record, sorted, each once; CallbackThrew, KeyOrValueTooLarge.
Result<std::vector<std::string>> extract_keys(const IndexDefinition& definition,
                                              std::string_view key, std::string_view value);
std::unique_ptr<IndexCursor> make_index_cursor(std::unique_ptr<Cursor> entries);

}  // namespace defib::store
