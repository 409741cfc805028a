#include "defib/marketdata/historical_client.h"

#include <stdlib.h>
#include <unistd.h>

#include "defib/os/files.h"
#include "defib/os/process.h"

namespace defib::marketdata {
namespace {

constexpr std::string_view kPlugin = "defib-historical.so";

// $DEFIB_PLUGIN_DIR, or where a build or an installation has it beside the program.
std::string find_plugin() {
  std::vector<std::string> places;
  if (const char* named = getenv("DEFIB_PLUGIN_DIR"); named != nullptr) places.emplace_back(named);
  const std::string own = os::own_program_dir();
  places.push_back(own + "/../lib/plugins");
  places.push_back(own + "/../lib/defib/plugins");
  for (const std::string& place : places) {
    const std::string path = os::join_path(place, kPlugin);
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  return std::string(kPlugin);
}

using Builder = HistoricalClient::Builder;
using Api = HistoricalPluginApi;

}  // namespace

Builder& Builder::key(std::string key) {
  settings_.key.value = std::move(key);
  return *this;
}
Builder& Builder::key_from_env() {
  const char* value = getenv(std::string(HistoricalApi::kKeyVariable).c_str());
  settings_.key.value = value == nullptr ? "" : value;
  return *this;
}
Builder& Builder::dataset(std::string dataset) {
  settings_.dataset = std::move(dataset);
  return *this;
}
Builder& Builder::gateway(std::string gateway) {
  settings_.gateway = std::move(gateway);
  return *this;
}
Builder& Builder::limits(HistoricalLimits limits) {
  settings_.limits = limits;
  return *this;
}
Builder& Builder::upgrade(UpgradePolicy policy) {
  settings_.upgrade_to_v3 = policy == UpgradePolicy::kUpgradeToV3;
  return *this;
}
Builder& Builder::ca_file(std::string path) {
  settings_.ca_file = std::move(path);
  return *this;
}
Builder& Builder::plugin(std::string path) {
  plugin_ = std::move(path);
  return *this;
}
Builder& Builder::options(call::ClientOptions options) {
  options_ = std::move(options);
  return *this;
}

Result<HistoricalClient> Builder::build() const {
  DEFIB_TRY_ASSIGN(auto client,
                   call::Client<Api>::create(plugin_.empty() ? find_plugin() : plugin_, options_));
  DEFIB_TRY_ASSIGN(const std::optional<WireError> refused, client.call<Api::Open>(settings_));
  if (refused) return from_wire(*refused);
  return HistoricalClient(std::move(client));
}

Result<HistoricalClient::Records> HistoricalClient::get_range(const RangeQuery& query) {
  DEFIB_TRY_ASSIGN(auto reader, client_.open<Api::GetRange>(query));
  return Records(std::move(reader));
}

Result<std::optional<RecordView>> HistoricalClient::Records::next(call::Milliseconds timeout) {
  for (;;) {
    RecordView record;
    if (walk_.next(record)) {
      ++delivered_;
      return std::optional<RecordView>(record);
    }
    // A chunk holds whole records: what is left of it is none.
    if (walk_.refused() || !walk_.rest().empty()) {
      ended_ = true;
      return walk_.refused() ? walk_.refusal(walked_)
                             : Error(Code::kDbnTruncated, "the worker sent a part of a record");
    }
    if (ended_) return std::optional<RecordView>();
    DEFIB_TRY_ASSIGN(std::optional<Chunk> chunk, reader_.next(timeout));
    if (!chunk) {
      ended_ = true;
      return Error(Code::kMarketDataStreamBroken, "the worker's stream ended without an end");
    }
    DEFIB_TRY(take(std::move(*chunk)));
  }
}

Result<> HistoricalClient::Records::take(Chunk chunk) {
  walked_ += walk_.walked();
  walk_ = {};
  switch (chunk.kind) {
    case ChunkKind::kMetadata: {
      DEFIB_TRY_ASSIGN(const MetadataPrefix prefix,
                       decode_metadata_prefix(chunk.bytes, chunk.bytes.size()));
      const std::string_view body = std::string_view(chunk.bytes).substr(kMetadataPrefixSize);
      DEFIB_TRY_ASSIGN(metadata_, decode_metadata(prefix.version, body));
      return {};
    }
    case ChunkKind::kRecords: {
      if (chunk.version < 1 || chunk.version > kNewestVersion) {
        return Error(Code::kDbnUnsupported, "the worker sent records of an unknown version");
      }
      chunk_ = std::move(chunk);
      walk_ = RecordWalk(chunk_.bytes, Layout::of(chunk_.version, chunk_.ts_out));
      return {};
    }
    case ChunkKind::kEnd:
      ended_ = true;
      warnings_ = std::move(chunk.warnings);
      return {};
    case ChunkKind::kError:
      ended_ = true;
      if (chunk.error) return from_wire(*chunk.error);
      break;
  }
  ended_ = true;
  return Error(Code::kMarketDataBadAnswer, "the worker sent a chunk of an unknown kind");
}

template <typename M, typename T, typename... Given>
Result<T> HistoricalClient::ask(const Given&... given) {
  DEFIB_TRY_ASSIGN(Outcome<T> outcome, client_.call<M>(given...));
  if (auto* error = std::get_if<WireError>(&outcome)) return from_wire(*error);
  return std::move(std::get<T>(outcome));
}

Result<std::vector<Publisher>> HistoricalClient::list_publishers() {
  return ask<Api::ListPublishers, std::vector<Publisher>>();
}
Result<std::vector<std::string>> HistoricalClient::list_datasets(const std::string& start_date,
                                                                 const std::string& end_date) {
  return ask<Api::ListDatasets, Api::Strings>(start_date, end_date);
}
Result<std::vector<std::string>> HistoricalClient::list_schemas(const std::string& dataset) {
  return ask<Api::ListSchemas, Api::Strings>(dataset);
}
Result<DatasetRange> HistoricalClient::get_dataset_range(const std::string& dataset) {
  return ask<Api::DatasetRangeOf, DatasetRange>(dataset);
}
Result<std::vector<DayCondition>> HistoricalClient::get_dataset_condition(
    const std::string& start_date, const std::string& end_date, const std::string& dataset) {
  return ask<Api::DatasetCondition, std::vector<DayCondition>>(start_date, end_date, dataset);
}
Result<std::uint64_t> HistoricalClient::get_record_count(const RangeQuery& query) {
  return ask<Api::RecordCount, std::uint64_t>(query);
}
Result<std::uint64_t> HistoricalClient::get_billable_size(const RangeQuery& query) {
  return ask<Api::BillableSize, std::uint64_t>(query);
}
Result<std::string> HistoricalClient::get_cost(const RangeQuery& query) {
  return ask<Api::Cost, std::string>(query);
}
Result<Resolution> HistoricalClient::resolve(const HistoricalApi::ResolveQuery& query) {
  return ask<Api::Resolve, Resolution>(query);
}

}  // namespace defib::marketdata
