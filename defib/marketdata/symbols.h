// Which symbol an instrument id stood for, and when. Ids are given anew by many venues from day to
// day, so an id alone names nothing.
//
// TsSymbolMap knows every day of a file's metadata; PitSymbolMap one moment, and learns from the
// mapping records of a live stream. Dates are days in UTC; an interval's end is exclusive.
// Thread rule: one writer or many readers.

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/marketdata/metadata.h"
#include "defib/marketdata/walk.h"

namespace defib::marketdata {

// yyyymmdd in UTC of nanoseconds since 1970.
std::uint32_t date_of(std::uint64_t ns);

class TsSymbolMap {
 public:
  // From the mappings of a file: ids are its stype_out, or its stype_in where that is
  // instrument_id. InvalidArgument where neither is (a file of a live session has its mappings
  // among the records); DbnMalformed where an id is no number.
  static Result<TsSymbolMap> from(const Metadata& metadata);

  // Empty where nothing is known.
  std::string_view find(std::uint32_t instrument_id, std::uint32_t date) const;
  // By the record's index_ts().
  std::string_view find(const RecordView& record) const;
  // The intervals that are known.
  std::size_t size() const { return size_; }

 private:
  struct Interval {
    std::uint32_t start_date = 0;
    std::uint32_t end_date = 0;
    std::string symbol;
  };
  std::map<std::uint32_t, std::vector<Interval>> intervals_;  // sorted by start_date
  std::size_t size_ = 0;
};

class PitSymbolMap {
 public:
  PitSymbolMap() = default;
  // As of a day. Errors as of TsSymbolMap::from.
  static Result<PitSymbolMap> from(const Metadata& metadata, std::uint32_t date);

  // Takes a symbol mapping record into account; others change nothing.
  void on_record(const RecordView& record);
  // Empty where nothing is known.
  std::string_view find(std::uint32_t instrument_id) const;
  std::size_t size() const { return symbols_.size(); }

 private:
  std::map<std::uint32_t, std::string> symbols_;
};

}  // namespace defib::marketdata
