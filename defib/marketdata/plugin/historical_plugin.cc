// defib-historical.so: HistoricalApi in a worker.

#include "defib/marketdata/historical_plugin.h"

#include <optional>
#include <string>

#include "defib/call/plugin.h"
#include "defib/marketdata/historical.h"

namespace defib::marketdata {
namespace {

using Api = HistoricalPluginApi;
using Strings = Api::Strings;

// A chunk is sent when it is so large, or when nothing more has arrived.
constexpr std::size_t kChunkBytes = 32 << 10;

// Of the one client of this process.
std::optional<HistoricalSettings> settings;
std::optional<HistoricalApi> api;

Result<HistoricalApi> make_api(const HistoricalSettings& of) {
  HistoricalApi::Builder builder;
  builder.key(of.key.value).dataset(of.dataset).limits(of.limits).ca_file(of.ca_file);
  if (!of.gateway.empty()) builder.gateway(of.gateway);
  builder.upgrade(of.upgrade_to_v3 ? UpgradePolicy::kUpgradeToV3 : UpgradePolicy::kAsIs);
  return builder.build();
}

std::optional<WireError> open(HistoricalSettings given) {
  auto made = make_api(given);
  if (!made) return to_wire(made.error());
  settings = std::move(given);
  api.emplace(std::move(*made));
  return std::nullopt;
}

template <typename T>
Outcome<T> outcome(Result<T> result) {
  if (!result) return to_wire(result.error());
  return std::move(*result);
}

template <typename Use>
auto with_api(Use&& use) -> decltype(outcome(use(*api))) {
  if (!api) return to_wire(Error(Code::kInvalidArgument, "the client was not opened"));
  return outcome(use(*api));
}

void get_range(call::Writer<Chunk>& out, const RangeQuery& query) {
  if (!settings) {
    out.push({ChunkKind::kError,
              false,
              0,
              {},
              {},
              to_wire(Error(Code::kInvalidArgument, "the client was not opened"))});
    return;
  }
  // Each stream has a connection of its own.
  auto own = make_api(*settings);
  if (!own) {
    out.push({ChunkKind::kError, false, 0, {}, {}, to_wire(own.error())});
    return;
  }
  Chunk records{ChunkKind::kRecords, false, 0, {}, {}, std::nullopt};
  bool wanted = true;
  const auto flush = [&] {
    if (!records.bytes.empty()) wanted = wanted && out.push(records);
    records.bytes.clear();
  };
  const auto ended = own->get_range(
      query,
      [&](const RecordView& record) {
        records.bytes += record.bytes();
        if (records.bytes.size() >= kChunkBytes) flush();
        return wanted;
      },
      [&](const Metadata& metadata) {
        records.ts_out = metadata.ts_out;
        records.version = metadata.version;
        const auto bytes = encode_metadata(metadata);
        if (bytes)
          out.push({ChunkKind::kMetadata, metadata.ts_out, metadata.version, *bytes, {}, {}});
      },
      flush);
  flush();
  if (!ended) {
    out.push({ChunkKind::kError, false, 0, {}, {}, to_wire(ended.error())});
  } else {
    out.push({ChunkKind::kEnd, false, 0, {}, ended->warnings, std::nullopt});
  }
}

Outcome<std::vector<Publisher>> list_publishers() {
  return with_api([](HistoricalApi& one) { return one.list_publishers(); });
}
Outcome<Strings> list_datasets(const std::string& start, const std::string& end) {
  return with_api([&](HistoricalApi& one) { return one.list_datasets(start, end); });
}
Outcome<Strings> list_schemas(const std::string& dataset) {
  return with_api([&](HistoricalApi& one) { return one.list_schemas(dataset); });
}
Outcome<DatasetRange> get_dataset_range(const std::string& dataset) {
  return with_api([&](HistoricalApi& one) { return one.get_dataset_range(dataset); });
}
Outcome<std::vector<DayCondition>> get_dataset_condition(const std::string& start,
                                                         const std::string& end,
                                                         const std::string& dataset) {
  return with_api(
      [&](HistoricalApi& one) { return one.get_dataset_condition(start, end, dataset); });
}
Outcome<std::uint64_t> get_record_count(const RangeQuery& query) {
  return with_api([&](HistoricalApi& one) { return one.get_record_count(query); });
}
Outcome<std::uint64_t> get_billable_size(const RangeQuery& query) {
  return with_api([&](HistoricalApi& one) { return one.get_billable_size(query); });
}
Outcome<std::string> get_cost(const RangeQuery& query) {
  return with_api([&](HistoricalApi& one) { return one.get_cost(query); });
}
Outcome<Resolution> resolve(const HistoricalApi::ResolveQuery& query) {
  return with_api([&](HistoricalApi& one) { return one.resolve(query); });
}

}  // namespace
}  // namespace defib::marketdata

using namespace defib::marketdata;  // NOLINT(google-build-using-namespace)
using defib::call::On;
DEFIB_CALL_PLUGIN(Api, On<Api::Open, open>, On<Api::GetRange, get_range>,
                  On<Api::ListPublishers, list_publishers>, On<Api::ListDatasets, list_datasets>,
                  On<Api::ListSchemas, list_schemas>, On<Api::DatasetRangeOf, get_dataset_range>,
                  On<Api::DatasetCondition, get_dataset_condition>,
                  On<Api::RecordCount, get_record_count>, On<Api::BillableSize, get_billable_size>,
                  On<Api::Cost, get_cost>, On<Api::Resolve, resolve>)
