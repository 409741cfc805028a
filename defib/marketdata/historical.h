// HistoricalApi: Databento's historical HTTP interface, in the caller's own process.
//
// It is what runs inside of an isolated worker; where isolation is not wanted it can be used as it
// is. It decodes what a server sends, so whoever does not trust the server isolates it.
//
// The key is sent to the gateway (HTTP basic authentication) and goes nowhere else: no error, field
// or log of this module holds it, also not where a server repeats it. It is sent in clear to a
// loopback address only; elsewhere the gateway must be https.
//
// Errors say what the service said, in its own words (fields "status", "case"):
// MarketDataAuthFailed (401, 403), MarketDataRejected (other 4xx), MarketDataRateLimited (429;
// field "retry_after_ms" where the service names a time), MarketDataUnavailable (5xx, no
// connection), MarketDataBadAnswer (not what the interface promises). Nothing is repeated here:
// that is a Policy's business. Source: Databento's description of its HTTP API, version 0. Thread
// rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/marketdata/decoder.h"
#include "defib/marketdata/metadata.h"
#include "defib/os/clock.h"
#include "defib/wire/json.h"

namespace defib::marketdata {

struct HistoricalLimits {
  os::Duration connect_timeout = std::chrono::seconds(5);
  os::Duration timeout = std::chrono::seconds(30);         // of a call that is no stream
  os::Duration stall_timeout = std::chrono::seconds(100);  // of a stream: without a byte
  os::Duration stream_timeout{0};                          // of a whole stream; 0: none
  std::size_t max_answer = 64 << 20;                       // bytes of a call that is no stream
  std::uint64_t max_stream = 0;  // uncompressed bytes of a stream; 0: none
  std::size_t max_metadata_size = 64 << 20;
  int max_window_log = 27;  // of zstd
};

// What is asked for. Times are RFC 3339, a date (2020-12-28), or nanoseconds since 1970, as text.
struct RangeQuery {
  std::string dataset{};  // empty: the builder's
  Schema schema = Schema::kTrades;
  std::vector<std::string> symbols{};  // empty: all of the dataset; at most kMaxSymbols
  std::string start{};
  std::string end{};  // exclusive; empty: as the service forward-fills it from `start`
  SType stype_in = SType::kRawSymbol;
  SType stype_out = SType::kInstrumentId;
  std::uint64_t limit = 0;  // of records; 0: none
};

// How a stream ended without an error.
struct RangeEnd {
  std::uint64_t records = 0;  // delivered
  bool stopped = false;       // on_record said so
  std::uint64_t last_ts_event = kUndefTime;
  std::vector<std::string> warnings;  // of the service
};

struct Publisher {
  std::uint16_t id = 0;
  std::string dataset;
  std::string venue;
  std::string description;
};

struct DatasetRange {
  std::string start;  // RFC 3339, as the service writes it
  std::string end;    // exclusive
};

struct DayCondition {
  std::string date;       // yyyy-mm-dd
  std::string condition;  // available, degraded, pending, missing
};

struct Resolution {
  struct Interval {
    std::string start_date;  // yyyy-mm-dd
    std::string end_date;    // exclusive
    std::string symbol;
  };
  struct Mapping {
    std::string symbol;
    std::vector<Interval> intervals;
  };
  std::vector<Mapping> mappings;
  std::vector<std::string> partial;
  std::vector<std::string> not_found;
};

class HistoricalApi {
 public:
  static constexpr std::string_view kGateway = "https://hist.databento.com";
  static constexpr std::string_view kKeyVariable = "DATABENTO_API_KEY";
  static constexpr std::size_t kMaxSymbols = 2000;

  class Builder {
   public:
    Builder& key(std::string key);
    // From kKeyVariable.
    Builder& key_from_env();
    Builder& dataset(std::string dataset);
    // "https://host[:port]"; "http://" for loopback addresses only.
    Builder& gateway(std::string gateway);
    Builder& limits(HistoricalLimits limits);
    Builder& upgrade(UpgradePolicy policy);
    // Of the authorities to trust; empty: the system's.
    Builder& ca_file(std::string path);
    // InvalidArgument names what is missing or malformed.
    Result<HistoricalApi> build() const;

   private:
    friend class HistoricalApi;
    std::string key_;
    std::string dataset_;
    std::string gateway_{kGateway};
    HistoricalLimits limits_;
    UpgradePolicy upgrade_ = UpgradePolicy::kAsIs;
    std::string ca_file_;
  };

  ~HistoricalApi();
  HistoricalApi(HistoricalApi&&) noexcept;
  HistoricalApi& operator=(HistoricalApi&&) noexcept;

  using OnMetadata = std::function<void(const Metadata& metadata)>;
  // False ends the stream. The view is valid during the call.
  using OnRecord = std::function<bool(const RecordView& record)>;
  // All records of what has arrived so far were delivered; the next may be long in coming.
  using OnPause = std::function<void()>;

  // timeseries.get_range: records are decoded and delivered while the answer still arrives.
  // MarketDataStreamBroken: it broke off after it had begun; fields "records" and "last_ts_event"
  // say how far it came, and the cause says why (a cut, a stall, damage). CallbackThrew.
  Result<RangeEnd> get_range(const RangeQuery& query, const OnRecord& on_record,
                             const OnMetadata& on_metadata = {}, const OnPause& on_pause = {});

  // metadata.*
  Result<std::vector<Publisher>> list_publishers();
  Result<std::vector<std::string>> list_datasets(std::string_view start_date = {},
                                                 std::string_view end_date = {});
  Result<std::vector<std::string>> list_schemas(std::string_view dataset = {});
  // {"name","type"} of each field.
  Result<std::vector<std::pair<std::string, std::string>>> list_fields(Schema schema);
  // As the service answers it, mode by mode: prices are in US dollars for 1e9 bytes.
  Result<wire::Json> list_unit_prices(std::string_view dataset = {});
  Result<DatasetRange> get_dataset_range(std::string_view dataset = {});
  Result<std::vector<DayCondition>> get_dataset_condition(std::string_view start_date = {},
                                                          std::string_view end_date = {},
                                                          std::string_view dataset = {});
  Result<std::uint64_t> get_record_count(const RangeQuery& query);
  Result<std::uint64_t> get_billable_size(const RangeQuery& query);  // bytes, uncompressed
  // In US dollars, the decimal as the service writes it: an amount of money is no binary fraction.
  Result<std::string> get_cost(const RangeQuery& query);

  // symbology.resolve. Dates are yyyy-mm-dd, the end exclusive (empty: the day after the start).
  struct ResolveQuery {
    std::string dataset{};
    std::vector<std::string> symbols{};
    SType stype_in = SType::kRawSymbol;
    SType stype_out = SType::kInstrumentId;
    std::string start_date{};
    std::string end_date{};
  };
  Result<Resolution> resolve(const ResolveQuery& query);

 private:
  struct Impl;
  explicit HistoricalApi(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace defib::marketdata
