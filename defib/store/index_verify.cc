// Secondary indexes against their tables, as far as that goes without the program's extractors:
// each entry has its row, and a unique key has one.

#include <fmt/core.h>

#include "defib/base/bytes.h"
#include "defib/store/maintenance.h"
#include "defib/store/secondary_index.h"

namespace defib::store {
namespace {

constexpr std::size_t kMaxFindings = 100;  // of one index; more say nothing new

Result<> verify_index(const Snapshot& snapshot, const std::string& name, const IndexRecord& index,
                      std::vector<FindingDetail>& findings) {
  const std::string where = fmt::format("index '{}'", escape(name));
  DEFIB_TRY_ASSIGN(const auto entries, snapshot.scan(index_table_name(name)));
  std::string last_secondary;
  bool is_first = true;
  std::size_t found = 0;
  const auto add = [&](std::string problem) {
    if (found++ < kMaxFindings) findings.push_back({where, std::move(problem)});
  };
  for (bool more = entries->first(); more; more = entries->next()) {
    const auto entry = decode_index_entry(entries->key());
    if (!entry) {
      add(fmt::format("entry '{}' is malformed", escape(entries->key())));
      continue;
    }
    const auto& [secondary, key] = *entry;
    DEFIB_TRY_ASSIGN(const auto row, snapshot.get(index.table, key));
    if (!row) {
      add(fmt::format("entry '{}' points to record '{}' of table '{}', which is not there",
                      escape(secondary), escape(key), escape(index.table)));
    }
    if (index.unique && !is_first && secondary == last_secondary) {
      add(fmt::format("two records have the unique key '{}'", escape(secondary)));
    }
    last_secondary = secondary;
    is_first = false;
  }
  if (found > kMaxFindings) {
    findings.push_back({where, fmt::format("{} more findings", found - kMaxFindings)});
  }
  return entries->status();
}

}  // namespace

Result<std::vector<FindingDetail>> verify_indexes(const std::string& dir, Options options) {
  DEFIB_TRY_ASSIGN(const auto snapshot, Store::open_read_only(dir, options));
  std::vector<FindingDetail> findings;
  DEFIB_TRY_ASSIGN(const auto records, snapshot->scan(kIndexesTable));
  for (bool more = records->first(); more; more = records->next()) {
    const std::string name(records->key());
    const auto index = decode_index_record(records->value());
    if (!index) {
      findings.push_back({fmt::format("index '{}'", escape(name)), "its description is malformed"});
      continue;
    }
    DEFIB_TRY(verify_index(*snapshot, name, *index, findings));
  }
  DEFIB_TRY(records->status());
  return findings;
}

}  // namespace defib::store
