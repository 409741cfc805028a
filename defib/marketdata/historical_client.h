// HistoricalClient: historical market data out of an isolated worker.
//
//   DEFIB_TRY_ASSIGN(auto client, marketdata::HistoricalClient::Builder()
//                        .key_from_env().dataset("GLBX.MDP3").build());
//   DEFIB_TRY_ASSIGN(auto records, client.get_range({.schema = Schema::kTrades,
//                        .symbols = {"ESM4"}, .start = "2024-03-01", .end = "2024-03-02"}));
//   for (;;) {
//     DEFIB_TRY_ASSIGN(std::optional<RecordView> record, records.next());
//     if (!record) break;
//     if (auto trade = record->get_if<TradeMsg>()) use(*trade);
//   }
//
// Decoding, decompression and HTTP happen in the worker. When it crashes, the call or stream gets
// NativeCrash, which names dataset, symbols and times; a new client works. The key goes to the
// worker and from there to the gateway; it is in no error, summary or log. Other errors are those
// of HistoricalApi (historical.h), as they were made in the worker.
// Thread rule: a client from any thread; Records from one thread at a time.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/call/client.h"
#include "defib/marketdata/historical_plugin.h"
#include "defib/marketdata/metadata.h"
#include "defib/marketdata/walk.h"

namespace defib::marketdata {

class HistoricalClient {
 public:
  class Builder {
   public:
    Builder& key(std::string key);
    // From HistoricalApi::kKeyVariable.
    Builder& key_from_env();
    Builder& dataset(std::string dataset);
    // As HistoricalApi::Builder::gateway().
    Builder& gateway(std::string gateway);
    Builder& limits(HistoricalLimits limits);
    Builder& upgrade(UpgradePolicy policy);
    Builder& ca_file(std::string path);
    // What runs in the worker; empty: defib-historical.so, beside the program's libraries. Another
    // plugin of the same interface may be Databento's own client.
    Builder& plugin(std::string path);
    // Time limits, isolation, metrics, incidents.
    Builder& options(call::ClientOptions options);
    // Errors: InvalidArgument names what is missing or malformed; those of call::Client::create().
    Result<HistoricalClient> build() const;

   private:
    HistoricalSettings settings_;
    std::string plugin_;
    call::ClientOptions options_;
  };

  // One answer, record by record.
  class Records {
   public:
    // The next record, valid until the next call; nothing at the end. Timeout where none comes in
    // time (ask again). MarketDataStreamBroken and the other errors of HistoricalApi::get_range;
    // NativeCrash and its kin. What was delivered before stays valid as data.
    Result<std::optional<RecordView>> next(
        call::Milliseconds timeout = call::Milliseconds(120'000));
    // Has come with the first record, or the end; nullptr before.
    const Metadata* metadata() const { return metadata_ ? &*metadata_ : nullptr; }
    // Of the service, at the end.
    const std::vector<std::string>& warnings() const { return warnings_; }
    std::uint64_t delivered() const { return delivered_; }

   private:
    friend class HistoricalClient;
    using Reader = call::Reader<HistoricalPluginApi::GetRange>;
    explicit Records(Reader reader) : reader_(std::move(reader)) {}
    Result<> take(Chunk chunk);

    Reader reader_;
    std::optional<Metadata> metadata_;
    Chunk chunk_;
    RecordWalk walk_;
    std::vector<std::string> warnings_;
    std::uint64_t delivered_ = 0;
    std::uint64_t walked_ = 0;  // bytes of earlier chunks
    bool ended_ = false;
  };

  Result<Records> get_range(const RangeQuery& query);

  Result<std::vector<Publisher>> list_publishers();
  Result<std::vector<std::string>> list_datasets(const std::string& start_date = {},
                                                 const std::string& end_date = {});
  Result<std::vector<std::string>> list_schemas(const std::string& dataset = {});
  Result<DatasetRange> get_dataset_range(const std::string& dataset = {});
  Result<std::vector<DayCondition>> get_dataset_condition(const std::string& start_date = {},
                                                          const std::string& end_date = {},
                                                          const std::string& dataset = {});
  Result<std::uint64_t> get_record_count(const RangeQuery& query);
  Result<std::uint64_t> get_billable_size(const RangeQuery& query);
  Result<std::string> get_cost(const RangeQuery& query);
  Result<Resolution> resolve(const HistoricalApi::ResolveQuery& query);

  // ClientFaulted, or nothing while it can be used; and what is known of it.
  std::optional<Error> fault() const { return client_.fault(); }
  std::optional<call::FaultReport> report() const { return client_.report(); }
  pid_t worker_pid() const { return client_.worker_pid(); }

 private:
  explicit HistoricalClient(call::Client<HistoricalPluginApi> client)
      : client_(std::move(client)) {}
  template <typename M, typename T, typename... Given>
  Result<T> ask(const Given&... given);
  call::Client<HistoricalPluginApi> client_;
};

}  // namespace defib::marketdata
