#include "defib/marketdata/records.h"

#include <algorithm>
#include <utility>

namespace defib::marketdata {
namespace {

template <typename Enum>
struct Named {
  Enum value;
  std::string_view name;
};

// In the order of their numbers.
constexpr std::array kSchemas = {
    Named{Schema::kMbo, "mbo"},
    Named{Schema::kMbp1, "mbp-1"},
    Named{Schema::kMbp10, "mbp-10"},
    Named{Schema::kTbbo, "tbbo"},
    Named{Schema::kTrades, "trades"},
    Named{Schema::kOhlcv1S, "ohlcv-1s"},
    Named{Schema::kOhlcv1M, "ohlcv-1m"},
    Named{Schema::kOhlcv1H, "ohlcv-1h"},
    Named{Schema::kOhlcv1D, "ohlcv-1d"},
    Named{Schema::kDefinition, "definition"},
    Named{Schema::kStatistics, "statistics"},
    Named{Schema::kStatus, "status"},
    Named{Schema::kImbalance, "imbalance"},
    Named{Schema::kOhlcvEod, "ohlcv-eod"},
    Named{Schema::kCmbp1, "cmbp-1"},
    Named{Schema::kCbbo1S, "cbbo-1s"},
    Named{Schema::kCbbo1M, "cbbo-1m"},
    Named{Schema::kTcbbo, "tcbbo"},
    Named{Schema::kBbo1S, "bbo-1s"},
    Named{Schema::kBbo1M, "bbo-1m"},
};

constexpr std::array kSTypes = {
    Named{SType::kInstrumentId, "instrument_id"},
    Named{SType::kRawSymbol, "raw_symbol"},
    Named{SType::kSmart, "smart"},
    Named{SType::kContinuous, "continuous"},
    Named{SType::kParent, "parent"},
    Named{SType::kNasdaqSymbol, "nasdaq_symbol"},
    Named{SType::kCmsSymbol, "cms_symbol"},
    Named{SType::kIsin, "isin"},
    Named{SType::kUsCode, "us_code"},
    Named{SType::kBbgCompId, "bbg_comp_id"},
    Named{SType::kBbgCompTicker, "bbg_comp_ticker"},
    Named{SType::kFigi, "figi"},
    Named{SType::kFigiTicker, "figi_ticker"},
};

constexpr std::array kRTypes = {
    Named{RType::kMbp0, "trade"},
    Named{RType::kMbp1, "mbp-1"},
    Named{RType::kMbp10, "mbp-10"},
    Named{RType::kOhlcvDeprecated, "ohlcv"},
    Named{RType::kStatus, "status"},
    Named{RType::kInstrumentDef, "definition"},
    Named{RType::kImbalance, "imbalance"},
    Named{RType::kError, "error"},
    Named{RType::kSymbolMapping, "symbol_mapping"},
    Named{RType::kSystem, "system"},
    Named{RType::kStatistics, "statistics"},
    Named{RType::kOhlcv1S, "ohlcv-1s"},
    Named{RType::kOhlcv1M, "ohlcv-1m"},
    Named{RType::kOhlcv1H, "ohlcv-1h"},
    Named{RType::kOhlcv1D, "ohlcv-1d"},
    Named{RType::kOhlcvEod, "ohlcv-eod"},
    Named{RType::kMbo, "mbo"},
    Named{RType::kCmbp1, "cmbp-1"},
    Named{RType::kCbbo1S, "cbbo-1s"},
    Named{RType::kCbbo1M, "cbbo-1m"},
    Named{RType::kTcbbo, "tcbbo"},
    Named{RType::kBbo1S, "bbo-1s"},
    Named{RType::kBbo1M, "bbo-1m"},
};

template <typename Table, typename Enum>
std::string_view name_in(const Table& table, Enum value) {
  const auto found = std::ranges::find(table, value, [](const auto& one) { return one.value; });
  return found == table.end() ? std::string_view() : found->name;
}

template <typename Enum, typename Table>
std::optional<Enum> value_in(const Table& table, std::string_view name) {
  const auto found = std::ranges::find(table, name, [](const auto& one) { return one.name; });
  return found == table.end() ? std::nullopt : std::optional<Enum>(found->value);
}

}  // namespace

std::string_view to_string(Schema schema) {
  return name_in(kSchemas, schema);
}
std::string_view to_string(SType stype) {
  return name_in(kSTypes, stype);
}
std::string_view to_string(RType rtype) {
  return name_in(kRTypes, rtype);
}
std::optional<Schema> parse_schema(std::string_view name) {
  return value_in<Schema>(kSchemas, name);
}
std::optional<SType> parse_stype(std::string_view name) {
  return value_in<SType>(kSTypes, name);
}
std::optional<RType> parse_rtype(std::string_view name) {
  return value_in<RType>(kRTypes, name);
}

bool belongs_to(RType rtype, Schema schema) {
  switch (schema) {
    case Schema::kTrades:
      return rtype == RType::kMbp0;
    case Schema::kTbbo:
      return rtype == RType::kMbp1;
    default:
      return to_string(rtype) == to_string(schema) && !to_string(schema).empty();
  }
}

}  // namespace defib::marketdata
