// A plugin of the historical interface that gives some records and then crashes, as a vendor's
// client would: the symbol says when.

#include "defib/call/plugin.h"
#include "defib/marketdata/encoder.h"
#include "defib/marketdata/historical_plugin.h"

namespace defib::marketdata {
namespace {

using Api = HistoricalPluginApi;
using Strings = Api::Strings;

[[noreturn]] void crash() {
  *reinterpret_cast<volatile int*>(8) = 1;
  __builtin_trap();
}

std::optional<WireError> open(HistoricalSettings given) {
  if (given.dataset == "CRASH") crash();
  return std::nullopt;
}

void get_range(call::Writer<Chunk>& out, RangeQuery query) {
  TradeMsg trade{};
  trade.hd.length = sizeof trade / 4;
  trade.hd.rtype = RType::kMbp0;
  Chunk chunk{ChunkKind::kRecords, false, 3, {}, {}, std::nullopt};
  for (std::uint64_t i = 0; i < query.limit; ++i) {
    trade.hd.ts_event = i;
    chunk.bytes.assign(reinterpret_cast<const char*>(&trade), sizeof trade);
    if (!out.push(chunk)) return;
  }
  if (query.symbols.front() == "HALF") {
    chunk.bytes.resize(20);
    out.push(chunk);
  }
  if (query.symbols.front() == "CRASH") crash();
}

Outcome<std::vector<Publisher>> list_publishers() {
  crash();
}
Outcome<Strings> list_datasets(std::string, std::string) {
  crash();
}
Outcome<Strings> list_schemas(std::string) {
  crash();
}
Outcome<DatasetRange> get_dataset_range(std::string) {
  crash();
}
Outcome<std::vector<DayCondition>> get_dataset_condition(std::string, std::string, std::string) {
  crash();
}
Outcome<std::uint64_t> get_record_count(RangeQuery) {
  crash();
}
Outcome<std::uint64_t> get_billable_size(RangeQuery) {
  crash();
}
Outcome<std::string> get_cost(RangeQuery) {
  crash();
}
Outcome<Resolution> resolve(HistoricalApi::ResolveQuery) {
  crash();
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
