// In place of Databento's C++ client, where that is not at hand: what examples/databento_plugin.cc
// uses of its public interface (as of its version 0.40), declared as it is there, and doing what a
// test needs. Not the vendor's code.

#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace databento {

enum class Schema : std::uint16_t { Mbo = 0, Trades = 4 };
enum class SType : std::uint8_t { InstrumentId = 0, RawSymbol = 1 };
enum class FeedMode : std::uint8_t { Historical, HistoricalStreaming, Live };
enum class KeepGoing : std::uint8_t { Continue, Stop };

template <typename T>
struct DateTimeRange {
  explicit DateTimeRange(T from) : DateTimeRange(std::move(from), {}) {}
  DateTimeRange(T from, T to) : start(std::move(from)), end(std::move(to)) {}
  T start;
  T end;
};
using DateRange = DateTimeRange<std::string>;

struct Metadata {};
struct RecordHeader {
  std::uint8_t length;  // in words of 4 bytes
  std::uint8_t rtype;
  std::uint16_t publisher_id;
  std::uint32_t instrument_id;
  std::uint64_t ts_event;
};
struct TradeMsg {
  RecordHeader hd;
  char rest[32];
};
class Record {
 public:
  explicit Record(RecordHeader* record) : record_(record) {}
  const RecordHeader& Header() const { return *record_; }
  std::size_t Size() const { return record_->length * std::size_t{4}; }

 private:
  RecordHeader* record_;
};

using MetadataCallback = std::function<void(Metadata&&)>;
using RecordCallback = std::function<KeepGoing(const Record&)>;

class HistoricalBuilder;
class Historical {
 public:
  using Strings = std::vector<std::string>;
  static HistoricalBuilder Builder();

  Strings MetadataListDatasets() { return {"GLBX.MDP3"}; }
  Strings MetadataListDatasets(const DateRange& range) {
    return {"GLBX.MDP3", range.start, range.end};
  }
  std::uint64_t MetadataGetRecordCount(const std::string&, const DateTimeRange<std::string>&,
                                       const Strings& symbols, Schema, SType, std::uint64_t limit) {
    return symbols.size() * limit;
  }
  std::uint64_t MetadataGetBillableSize(const std::string& dataset,
                                        const DateTimeRange<std::string>& range,
                                        const Strings& symbols, Schema schema, SType stype_in,
                                        std::uint64_t limit) {
    return sizeof(TradeMsg) *
           MetadataGetRecordCount(dataset, range, symbols, schema, stype_in, limit);
  }
  // As many records as the limit says, and then what the first symbol says.
  void TimeseriesGetRange(const std::string& dataset, const DateTimeRange<std::string>&,
                          const Strings& symbols, Schema, SType, SType, std::uint64_t limit,
                          const MetadataCallback& on_metadata, const RecordCallback& on_record) {
    on_metadata(Metadata{});
    for (std::uint64_t i = 0; i < limit; ++i) {
      TradeMsg trade = {{sizeof(TradeMsg) / 4, 0, 1, 2, i}, {}};
      if (on_record(Record(&trade.hd)) == KeepGoing::Stop) return;
    }
    if (symbols.front() == "CRASH") *reinterpret_cast<volatile int*>(8) = 1;
    if (symbols.front() == "THROW") throw std::runtime_error("422 for " + dataset);
  }
};

class HistoricalBuilder {
 public:
  HistoricalBuilder& SetKey(std::string key) {
    key_ = std::move(key);
    return *this;
  }
  Historical Build() {
    if (key_.empty()) throw std::invalid_argument("'key' is unset");
    return {};
  }

 private:
  std::string key_;
};
inline HistoricalBuilder Historical::Builder() {
  return {};
}

}  // namespace databento
