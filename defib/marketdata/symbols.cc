#include "defib/marketdata/symbols.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <functional>

namespace defib::marketdata {
namespace {

Result<std::uint32_t> parse_id(std::string_view text) {
  std::uint32_t id = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || end != text.data() + text.size()) {
    return Error(Code::kDbnMalformed,
                 fmt::format("the metadata maps to '{}', which is no instrument id", text));
  }
  return id;
}

using OnMapping =
    std::function<void(std::uint32_t id, const MappingInterval& interval, std::string_view symbol)>;

Result<> for_each_mapping(const Metadata& metadata, const OnMapping& on_mapping) {
  const bool ids_are_output = metadata.stype_out == SType::kInstrumentId;
  if (!ids_are_output && metadata.stype_in != SType::kInstrumentId) {
    return Error(Code::kInvalidArgument, "the metadata's mappings have no instrument ids")
        .suggest("take the symbols from the mapping records, as PitSymbolMap does");
  }
  for (const SymbolMapping& mapping : metadata.mappings) {
    for (const MappingInterval& interval : mapping.intervals) {
      // An interval without a symbol says that it had none in these days.
      if (interval.symbol.empty()) continue;
      DEFIB_TRY_ASSIGN(const std::uint32_t id,
                       parse_id(ids_are_output ? interval.symbol : mapping.raw_symbol));
      on_mapping(id, interval, ids_are_output ? mapping.raw_symbol : interval.symbol);
    }
  }
  return {};
}

}  // namespace

std::uint32_t date_of(std::uint64_t ns) {
  constexpr std::uint64_t kDayNs = 86'400'000'000'000;
  const std::chrono::sys_days day{std::chrono::days(ns / kDayNs)};
  const std::chrono::year_month_day date(day);
  return static_cast<std::uint32_t>(static_cast<int>(date.year()) * 10000) +
         static_cast<unsigned>(date.month()) * 100 + static_cast<unsigned>(date.day());
}

Result<TsSymbolMap> TsSymbolMap::from(const Metadata& metadata) {
  TsSymbolMap map;
  DEFIB_TRY(for_each_mapping(
      metadata, [&](std::uint32_t id, const MappingInterval& interval, std::string_view symbol) {
        map.intervals_[id].push_back({interval.start_date, interval.end_date, std::string(symbol)});
        ++map.size_;
      }));
  for (auto& [id, intervals] : map.intervals_) {
    std::ranges::sort(intervals, {}, &Interval::start_date);
  }
  return map;
}

std::string_view TsSymbolMap::find(std::uint32_t instrument_id, std::uint32_t date) const {
  const auto found = intervals_.find(instrument_id);
  if (found == intervals_.end()) return {};
  const std::vector<Interval>& intervals = found->second;
  const auto after = std::ranges::upper_bound(intervals, date, {}, &Interval::start_date);
  if (after == intervals.begin() || std::prev(after)->end_date <= date) return {};
  return std::prev(after)->symbol;
}

std::string_view TsSymbolMap::find(const RecordView& record) const {
  const std::uint64_t ts = record.index_ts();
  return ts == kUndefTime ? std::string_view() : find(record.instrument_id(), date_of(ts));
}

Result<PitSymbolMap> PitSymbolMap::from(const Metadata& metadata, std::uint32_t date) {
  PitSymbolMap map;
  DEFIB_TRY(for_each_mapping(
      metadata, [&](std::uint32_t id, const MappingInterval& interval, std::string_view symbol) {
        if (interval.start_date <= date && date < interval.end_date) map.symbols_[id] = symbol;
      }));
  return map;
}

void PitSymbolMap::on_record(const RecordView& record) {
  // The gateway maps what was subscribed (in) to the venue's symbol (out); the venue's is the name.
  if (const auto mapping = record.get_if<SymbolMappingMsg>()) {
    symbols_[record.instrument_id()] = text_of(mapping->stype_out_symbol);
  } else if (const auto older = record.get_if<SymbolMappingMsgV1>()) {
    symbols_[record.instrument_id()] = text_of(older->stype_out_symbol);
  }
}

std::string_view PitSymbolMap::find(std::uint32_t instrument_id) const {
  const auto found = symbols_.find(instrument_id);
  return found == symbols_.end() ? std::string_view() : std::string_view(found->second);
}

}  // namespace defib::marketdata
