// What a plugin for historical market data offers: the interface between HistoricalClient and the
// code in its worker. Our own plugin (historical_plugin.cc) speaks HTTP itself; one around
// Databento's own C++ client is written against this header alone (examples/databento_plugin.cc).
//
// Records travel as DBN: a Chunk holds the file's metadata, or whole records one after the other,
// or the end. So a plugin hands on what its library has in memory, and the host checks it record by
// record (walk.h).
// Thread rule: types.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "defib/call/api.h"
#include "defib/marketdata/historical.h"

namespace defib::marketdata {

// An Error, to travel.
struct WireError {
  std::int32_t code = -1;
  std::string message;
  std::string suggestion;
  std::vector<std::pair<std::string, std::string>> fields;
  std::vector<std::pair<std::int32_t, std::string>> causes;  // outermost first
};
WireError to_wire(const Error& error);
// A code that there is none of becomes MarketDataBadAnswer.
Error from_wire(const WireError& error);

template <typename T>
using Outcome = std::variant<T, WireError>;

struct HistoricalSettings {
  call::Secret key;
  std::string dataset;
  std::string gateway;
  std::string ca_file;
  HistoricalLimits limits;
  bool upgrade_to_v3 = false;
};

enum class ChunkKind : std::uint8_t { kMetadata = 1, kRecords = 2, kEnd = 3, kError = 4 };
struct Chunk {
  ChunkKind kind = ChunkKind::kEnd;
  bool ts_out = false;                // of records: each ends in the time when the gateway sent it
  std::uint8_t version = 0;           // of records: of DBN
  std::string bytes;                  // metadata as in a file, or records
  std::vector<std::string> warnings;  // at the end
  std::optional<WireError> error;
};

struct HistoricalPluginApi {
  static constexpr std::string_view kName = "historical";
  static constexpr std::uint32_t kVersion = 1;
  using Strings = std::vector<std::string>;
  // First of all. What is wrong with the settings.
  struct Open : call::Method<"open", std::optional<WireError>(HistoricalSettings)> {};
  struct GetRange : call::Stream<"get_range", Chunk(RangeQuery)> {};
  struct ListPublishers : call::Method<"list_publishers", Outcome<std::vector<Publisher>>()> {};
  struct ListDatasets
      : call::Method<"list_datasets", Outcome<Strings>(std::string start, std::string end)> {};
  struct ListSchemas : call::Method<"list_schemas", Outcome<Strings>(std::string dataset)> {};
  struct DatasetRangeOf
      : call::Method<"get_dataset_range", Outcome<DatasetRange>(std::string dataset)> {};
  struct DatasetCondition
      : call::Method<"get_dataset_condition",
                     Outcome<std::vector<DayCondition>>(std::string start, std::string end,
                                                        std::string dataset)> {};
  struct RecordCount : call::Method<"get_record_count", Outcome<std::uint64_t>(RangeQuery)> {};
  struct BillableSize : call::Method<"get_billable_size", Outcome<std::uint64_t>(RangeQuery)> {};
  struct Cost : call::Method<"get_cost", Outcome<std::string>(RangeQuery)> {};
  struct Resolve : call::Method<"resolve", Outcome<Resolution>(HistoricalApi::ResolveQuery)> {};
  using Methods =
      call::Methods<Open, GetRange, ListPublishers, ListDatasets, ListSchemas, DatasetRangeOf,
                    DatasetCondition, RecordCount, BillableSize, Cost, Resolve>;
};

}  // namespace defib::marketdata
