// Any records in the tables of a secondary index: decoding is total and agrees with encoding;
// opening, scanning and verifying a store with such an index are total; and an index of another
// version than the records say is built to what its table holds.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "defib/store/maintenance.h"
#include "defib/store/new_store.h"
#include "defib/store/secondary_index.h"
#include "defib/store/testing/fuzz_store.h"

using namespace defib;
using namespace defib::store;
using namespace defib::store::testing_util;

namespace {

constexpr std::uint32_t kVersion = 7;

IndexDefinition by_value(std::uint32_t version) {
  return {.name = "x",
          .table = "t",
          .unique = false,
          .version = version,
          .extract = [](std::string_view, std::string_view value, std::vector<std::string>& keys) {
            keys.emplace_back(value);
          }};
}

void check_decoders(std::string_view bytes) {
  if (const auto entry = decode_index_entry(bytes)) {
    fuzz_require(encode_index_entry(entry->first, entry->second) == bytes);
  }
  if (const auto record = decode_index_record(bytes)) {
    IndexDefinition definition;
    definition.table = record->table;
    definition.unique = record->unique;
    definition.version = record->version;
    const auto again = decode_index_record(encode_index_record(definition));
    fuzz_require(again && again->table == record->table && again->unique == record->unique &&
                 again->version == record->version);
  }
}

using Records = std::map<std::pair<TableId, std::string>, std::string>;

// Tables 1 to 3: the records, the index's entries, the index's own record.
void write_store(os::Files& files, const os::Clock& clock, const Records& records) {
  NewStore::Settings settings;
  settings.dir = "/s";
  settings.identity.uuid = std::string(kUuidSize, '5');
  settings.identity.page_size = 4096;
  settings.commit = 3;
  settings.epoch = 1;
  auto store = NewStore::create(files, clock, settings);
  fuzz_require(store.has_value());
  for (const auto& [place, value] : records) {
    fuzz_require(store->add(place.first, place.second, value).has_value());
  }
  const std::vector<ManifestTable> tables = {
      {1, "t"}, {2, index_table_name("x")}, {3, std::string(kIndexesTable)}};
  fuzz_require(store->finish(tables, 4).has_value());
  fuzz_require(store->publish(true).has_value());
}

// One byte of what (table; the index's own record under its right name), one of the key's size, one
// of the value's, then both.
Records parse(std::string_view input) {
  Records records;
  while (input.size() >= 3) {
    const auto kind = static_cast<std::uint8_t>(input[0]);
    const std::size_t key_size = static_cast<std::uint8_t>(input[1]);
    const std::size_t value_size = static_cast<std::uint8_t>(input[2]);
    input.remove_prefix(3);
    std::string key(input.substr(0, key_size));
    input.remove_prefix(key.size());
    std::string value(input.substr(0, value_size));
    input.remove_prefix(value.size());
    if (kind % 4 == 3) key = "x";
    if ((kind & 64) != 0) key = encode_index_entry(value, key);
    records[{kind % 4 == 3 ? 3U : kind % 4 + 1U, std::move(key)}] = std::move(value);
  }
  return records;
}

std::string record(char kind, std::string_view key, std::string_view value) {
  std::string bytes = {kind, static_cast<char>(key.size()), static_cast<char>(value.size())};
  return bytes.append(key).append(value);
}

// Every entry, until one cannot be read; ordered whatever the bytes are.
std::set<std::pair<std::string, std::string>> scan(const Snapshot& snapshot) {
  std::set<std::pair<std::string, std::string>> entries;
  const auto cursor = snapshot.scan_index("x");
  if (!cursor) return entries;
  for (bool more = (*cursor)->first(); more; more = (*cursor)->next()) {
    fuzz_require(entries.emplace((*cursor)->secondary(), (*cursor)->key()).second);
  }
  (void)(*cursor)->status();
  (void)(*cursor)->seek("b");
  (void)(*cursor)->last();
  (void)snapshot.find_by("x", "b");
  return entries;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const std::string right = encode_index_record(by_value(kVersion));
  const std::string old = encode_index_record(by_value(kVersion - 1));
  const std::string records = record(0, "k1", "v1") + record(0, "k2", std::string("\0v", 2));
  const std::string entries = record(1 | 64, "k1", "v1") + record(1 | 64, "k2", "w");
  write_seeds({records, records + record(3, "", right), records + entries + record(3, "", right),
               records + entries + record(3, "", old), records + record(2, "y", "z"),
               records + record(1, std::string("a\0\1", 3), "")});
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  check_decoders(input);
  const Records records = parse(input);
  os::SimFiles disk;
  const os::FakeClock clock;
  write_store(disk, clock, records);
  Options options = fuzz_options(disk, clock);
  (void)Store::verify_files("/s", options);
  (void)verify_indexes("/s", options);
  if (const auto snapshot = Store::open_read_only("/s", options)) (void)scan(**snapshot);
  options.indexes = {by_value(kVersion)};
  const auto store = Store::open("/s", options);
  if (!store) {
    const int code = store.error().number();
    fuzz_require(code <= -70 && code >= -92);
    return 0;
  }
  const auto entries = scan(**(*store)->snapshot());
  const auto own = records.find({3, "x"});
  const auto own_record = own == records.end() ? std::nullopt : decode_index_record(own->second);
  if (own_record && own_record->version == kVersion) return 0;  // It is taken at its word.
  std::set<std::pair<std::string, std::string>> expected;
  for (const auto& [place, value] : records) {
    if (place.first == 1) expected.emplace(value, place.second);
  }
  fuzz_require(entries == expected);
  return 0;
}
