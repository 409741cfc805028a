// Databento's own C++ client (github.com/databento/databento-cpp) behind HistoricalClient: whoever
// has it builds this plugin, and names it with HistoricalClient::Builder::plugin(). When the
// vendor's code crashes, its client here is faulted, and a new one works.
//
// The vendor's exceptions become ordinary errors of the call: nothing is caught here. What this
// plugin does not offer says so. It is tested with a stand-in for the vendor's client
// (defib/marketdata/testcases/databento), which declares what is used here as the vendor does.

#include <databento/historical.hpp>  // and with it ranges of time, records and callbacks
#include <optional>
#include <stdexcept>
#include <string>

#include "defib/call/plugin.h"
#include "defib/marketdata/historical_plugin.h"

namespace {

using namespace defib::marketdata;  // NOLINT(google-build-using-namespace)
using Api = HistoricalPluginApi;
using Strings = Api::Strings;

constexpr std::size_t kChunkBytes = 32 << 10;

std::optional<HistoricalSettings> settings;

databento::Historical make_client() {
  if (!settings) throw std::logic_error("the client was not opened");
  return databento::Historical::Builder().SetKey(settings->key.value).Build();
}

std::optional<WireError> open(HistoricalSettings given) {
  if (!given.gateway.empty() && given.gateway != HistoricalApi::kGateway) {
    throw std::invalid_argument("this plugin asks Databento's own gateway, and no other");
  }
  settings = std::move(given);
  make_client();
  return std::nullopt;
}

// The numbers of schemas and symbol types are those of DBN on both sides.
databento::Schema schema_of(const RangeQuery& query) {
  return static_cast<databento::Schema>(query.schema);
}
databento::SType type_of(SType type) {
  return static_cast<databento::SType>(type);
}
const std::string& dataset_of(const RangeQuery& query) {
  return query.dataset.empty() ? settings->dataset : query.dataset;
}
databento::DateTimeRange<std::string> times_of(const RangeQuery& query) {
  return {query.start, query.end};
}

void get_range(defib::call::Writer<Chunk>& out, const RangeQuery& query) {
  auto client = make_client();
  Chunk records{ChunkKind::kRecords, false, kNewestVersion, {}, {}, std::nullopt};
  bool wanted = true;
  const auto flush = [&] {
    if (!records.bytes.empty()) wanted = out.push(records);
    records.bytes.clear();
  };
  const auto on_record = [&](const databento::Record& record) {
    records.bytes.append(reinterpret_cast<const char*>(&record.Header()), record.Size());
    if (records.bytes.size() >= kChunkBytes) flush();
    return wanted ? databento::KeepGoing::Continue : databento::KeepGoing::Stop;
  };
  try {
    client.TimeseriesGetRange(
        dataset_of(query), times_of(query), query.symbols, schema_of(query),
        type_of(query.stype_in), type_of(query.stype_out), query.limit,
        [](databento::Metadata&&) {}, on_record);
  } catch (...) {
    flush();  // What came before the error comes before it there, too.
    throw;
  }
  flush();
  out.push({ChunkKind::kEnd, false, 0, {}, {}, std::nullopt});
}

Outcome<Strings> list_datasets(const std::string& start, const std::string& end) {
  if (start.empty()) return make_client().MetadataListDatasets();
  return make_client().MetadataListDatasets(databento::DateRange(start, end));
}
Outcome<std::uint64_t> get_record_count(const RangeQuery& query) {
  return make_client().MetadataGetRecordCount(dataset_of(query), times_of(query), query.symbols,
                                              schema_of(query), type_of(query.stype_in),
                                              query.limit);
}
Outcome<std::uint64_t> get_billable_size(const RangeQuery& query) {
  return make_client().MetadataGetBillableSize(dataset_of(query), times_of(query), query.symbols,
                                               schema_of(query), type_of(query.stype_in),
                                               query.limit);
}

template <typename T>
Outcome<T> not_offered() {
  throw std::runtime_error("this plugin does not offer it");
}
Outcome<std::vector<Publisher>> list_publishers() {
  return not_offered<std::vector<Publisher>>();
}
Outcome<Strings> list_schemas(const std::string&) {
  return not_offered<Strings>();
}
Outcome<DatasetRange> get_dataset_range(const std::string&) {
  return not_offered<DatasetRange>();
}
Outcome<std::vector<DayCondition>> get_dataset_condition(const std::string&, const std::string&,
                                                         const std::string&) {
  return not_offered<std::vector<DayCondition>>();
}
Outcome<std::string> get_cost(const RangeQuery&) {
  return not_offered<std::string>();
}
Outcome<Resolution> resolve(const HistoricalApi::ResolveQuery&) {
  return not_offered<Resolution>();
}

}  // namespace

using defib::call::On;
DEFIB_CALL_PLUGIN(Api, On<Api::Open, open>, On<Api::GetRange, get_range>,
                  On<Api::ListPublishers, list_publishers>, On<Api::ListDatasets, list_datasets>,
                  On<Api::ListSchemas, list_schemas>, On<Api::DatasetRangeOf, get_dataset_range>,
                  On<Api::DatasetCondition, get_dataset_condition>,
                  On<Api::RecordCount, get_record_count>, On<Api::BillableSize, get_billable_size>,
                  On<Api::Cost, get_cost>, On<Api::Resolve, resolve>)
