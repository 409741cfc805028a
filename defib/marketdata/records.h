// The records of DBN (Databento Binary Encoding), versions 1 to 3, as plain structs.
//
// Source: Databento's public description of DBN and its records. A record is a fixed struct in
// little-endian byte order behind a 16-byte header; nothing in it points anywhere, so any bits are
// a valid value of each struct. Where versions differ, the newest struct has the plain name and the
// older ones end in V1 or V2.
//
// Units: prices are counts of 1e-9 (kUndefPrice: none), times are nanoseconds since 1970 in UTC
// (kUndefTime: none). Texts end at their first NUL byte, or fill their array.
// Thread rule: plain values.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

namespace defib::marketdata {

inline constexpr std::int64_t kUndefPrice = std::numeric_limits<std::int64_t>::max();
inline constexpr std::uint64_t kUndefTime = std::numeric_limits<std::uint64_t>::max();
inline constexpr std::int64_t kPriceScale = 1'000'000'000;
inline constexpr std::size_t kMaxRecordSize = 255 * 4;
inline constexpr std::size_t kSymbolSizeV1 = 22;
inline constexpr std::size_t kSymbolSize = 71;
inline constexpr std::uint8_t kNewestVersion = 3;

enum class Schema : std::uint16_t {
  kMbo = 0,
  kMbp1 = 1,
  kMbp10 = 2,
  kTbbo = 3,
  kTrades = 4,
  kOhlcv1S = 5,
  kOhlcv1M = 6,
  kOhlcv1H = 7,
  kOhlcv1D = 8,
  kDefinition = 9,
  kStatistics = 10,
  kStatus = 11,
  kImbalance = 12,
  kOhlcvEod = 13,
  kCmbp1 = 14,
  kCbbo1S = 15,
  kCbbo1M = 16,
  kTcbbo = 17,
  kBbo1S = 18,
  kBbo1M = 19,
  kMixed = 0xFFFF,  // records of several schemas, as a live session has them
};

enum class SType : std::uint8_t {
  kInstrumentId = 0,
  kRawSymbol = 1,
  kSmart = 2,
  kContinuous = 3,
  kParent = 4,
  kNasdaqSymbol = 5,
  kCmsSymbol = 6,
  kIsin = 7,
  kUsCode = 8,
  kBbgCompId = 9,
  kBbgCompTicker = 10,
  kFigi = 11,
  kFigiTicker = 12,
  kMixed = 0xFF,
};

enum class RType : std::uint8_t {
  kMbp0 = 0x00,  // trades
  kMbp1 = 0x01,  // also tbbo
  kMbp10 = 0x0A,
  kOhlcvDeprecated = 0x11,
  kStatus = 0x12,
  kInstrumentDef = 0x13,
  kImbalance = 0x14,
  kError = 0x15,
  kSymbolMapping = 0x16,
  kSystem = 0x17,
  kStatistics = 0x18,
  kOhlcv1S = 0x20,
  kOhlcv1M = 0x21,
  kOhlcv1H = 0x22,
  kOhlcv1D = 0x23,
  kOhlcvEod = 0x24,
  kMbo = 0xA0,
  kCmbp1 = 0xB1,
  kCbbo1S = 0xC0,
  kCbbo1M = 0xC1,
  kTcbbo = 0xC2,
  kBbo1S = 0xC3,
  kBbo1M = 0xC4,
};

// "mbp-1", "raw_symbol", "mbo"; empty for a number without a name.
std::string_view to_string(Schema schema);
std::string_view to_string(SType stype);
// The record's name: "trade", "mbp-1", "mbo", "definition" ...
std::string_view to_string(RType rtype);
std::optional<Schema> parse_schema(std::string_view name);
std::optional<SType> parse_stype(std::string_view name);
std::optional<RType> parse_rtype(std::string_view name);
// Whether records of that type belong to the schema ("trades" has kMbp0).
bool belongs_to(RType rtype, Schema schema);

template <std::size_t N>
std::string_view text_of(const std::array<char, N>& field) {
  const std::string_view all(field.data(), N);
  return all.substr(0, all.find('\0'));
}

struct RecordHeader {
  std::uint8_t length;  // of the whole record in words of 4 bytes
  RType rtype;
  std::uint16_t publisher_id;
  std::uint32_t instrument_id;
  std::uint64_t ts_event;

  std::size_t size() const { return std::size_t{length} * 4; }
};
static_assert(sizeof(RecordHeader) == 16 && offsetof(RecordHeader, ts_event) == 8);

struct BidAskPair {
  std::int64_t bid_px;
  std::int64_t ask_px;
  std::uint32_t bid_sz;
  std::uint32_t ask_sz;
  std::uint32_t bid_ct;
  std::uint32_t ask_ct;
};
static_assert(sizeof(BidAskPair) == 32 && offsetof(BidAskPair, ask_ct) == 28);

// Of several venues together; bid_pb and ask_pb are their publishers.
struct ConsolidatedBidAskPair {
  std::int64_t bid_px;
  std::int64_t ask_px;
  std::uint32_t bid_sz;
  std::uint32_t ask_sz;
  std::uint16_t bid_pb;
  std::array<char, 2> reserved1;
  std::uint16_t ask_pb;
  std::array<char, 2> reserved2;
};
static_assert(sizeof(ConsolidatedBidAskPair) == 32 &&
              offsetof(ConsolidatedBidAskPair, ask_pb) == 28);

struct MboMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kMbo; }
  RecordHeader hd;
  std::uint64_t order_id;
  std::int64_t price;
  std::uint32_t size;
  std::uint8_t flags;
  std::uint8_t channel_id;
  char action;
  char side;
  std::uint64_t ts_recv;
  std::int32_t ts_in_delta;
  std::uint32_t sequence;
};
static_assert(sizeof(MboMsg) == 56 && offsetof(MboMsg, price) == 24 &&
              offsetof(MboMsg, flags) == 36 && offsetof(MboMsg, action) == 38 &&
              offsetof(MboMsg, ts_recv) == 40 && offsetof(MboMsg, sequence) == 52);

struct TradeMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kMbp0; }
  RecordHeader hd;
  std::int64_t price;
  std::uint32_t size;
  char action;
  char side;
  std::uint8_t flags;
  std::uint8_t depth;
  std::uint64_t ts_recv;
  std::int32_t ts_in_delta;
  std::uint32_t sequence;
};
static_assert(sizeof(TradeMsg) == 48 && offsetof(TradeMsg, action) == 28 &&
              offsetof(TradeMsg, ts_recv) == 32 && offsetof(TradeMsg, sequence) == 44);

// Also of the schema tbbo.
struct Mbp1Msg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kMbp1; }
  RecordHeader hd;
  std::int64_t price;
  std::uint32_t size;
  char action;
  char side;
  std::uint8_t flags;
  std::uint8_t depth;
  std::uint64_t ts_recv;
  std::int32_t ts_in_delta;
  std::uint32_t sequence;
  std::array<BidAskPair, 1> levels;
};
static_assert(sizeof(Mbp1Msg) == 80 && offsetof(Mbp1Msg, levels) == 48);

struct Mbp10Msg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kMbp10; }
  RecordHeader hd;
  std::int64_t price;
  std::uint32_t size;
  char action;
  char side;
  std::uint8_t flags;
  std::uint8_t depth;
  std::uint64_t ts_recv;
  std::int32_t ts_in_delta;
  std::uint32_t sequence;
  std::array<BidAskPair, 10> levels;
};
static_assert(sizeof(Mbp10Msg) == 368 && offsetof(Mbp10Msg, levels) == 48);

struct BboMsg {
  static constexpr bool has_rtype(RType rtype) {
    return rtype == RType::kBbo1S || rtype == RType::kBbo1M;
  }
  RecordHeader hd;
  std::int64_t price;
  std::uint32_t size;
  std::uint8_t reserved1;
  char side;
  std::uint8_t flags;
  std::uint8_t reserved2;
  std::uint64_t ts_recv;
  std::array<char, 4> reserved3;
  std::uint32_t sequence;
  std::array<BidAskPair, 1> levels;
};
static_assert(sizeof(BboMsg) == 80 && offsetof(BboMsg, side) == 29 &&
              offsetof(BboMsg, sequence) == 44 && offsetof(BboMsg, levels) == 48);

// Also of the schema tcbbo.
struct Cmbp1Msg {
  static constexpr bool has_rtype(RType rtype) {
    return rtype == RType::kCmbp1 || rtype == RType::kTcbbo;
  }
  RecordHeader hd;
  std::int64_t price;
  std::uint32_t size;
  char action;
  char side;
  std::uint8_t flags;
  std::array<char, 1> reserved1;
  std::uint64_t ts_recv;
  std::int32_t ts_in_delta;
  std::array<char, 4> reserved2;
  std::array<ConsolidatedBidAskPair, 1> levels;
};
static_assert(sizeof(Cmbp1Msg) == 80 && offsetof(Cmbp1Msg, levels) == 48);

struct CbboMsg {
  static constexpr bool has_rtype(RType rtype) {
    return rtype == RType::kCbbo1S || rtype == RType::kCbbo1M;
  }
  RecordHeader hd;
  std::int64_t price;
  std::uint32_t size;
  std::uint8_t reserved1;
  char side;
  std::uint8_t flags;
  std::uint8_t reserved2;
  std::uint64_t ts_recv;
  std::array<char, 8> reserved3;
  std::array<ConsolidatedBidAskPair, 1> levels;
};
static_assert(sizeof(CbboMsg) == 80 && offsetof(CbboMsg, levels) == 48);

struct OhlcvMsg {
  static constexpr bool has_rtype(RType rtype) {
    return (rtype >= RType::kOhlcv1S && rtype <= RType::kOhlcvEod) ||
           rtype == RType::kOhlcvDeprecated;
  }
  RecordHeader hd;
  std::int64_t open;
  std::int64_t high;
  std::int64_t low;
  std::int64_t close;
  std::uint64_t volume;
};
static_assert(sizeof(OhlcvMsg) == 56 && offsetof(OhlcvMsg, volume) == 48);

struct StatusMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kStatus; }
  RecordHeader hd;
  std::uint64_t ts_recv;
  std::uint16_t action;
  std::uint16_t reason;
  std::uint16_t trading_event;
  char is_trading;
  char is_quoting;
  char is_short_sell_restricted;
  std::array<char, 7> reserved;
};
static_assert(sizeof(StatusMsg) == 40 && offsetof(StatusMsg, is_trading) == 30);

struct InstrumentDefMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kInstrumentDef; }
  RecordHeader hd;
  std::uint64_t ts_recv;
  std::int64_t min_price_increment;
  std::int64_t display_factor;
  std::uint64_t expiration;
  std::uint64_t activation;
  std::int64_t high_limit_price;
  std::int64_t low_limit_price;
  std::int64_t max_price_variation;
  std::int64_t unit_of_measure_qty;
  std::int64_t min_price_increment_amount;
  std::int64_t price_ratio;
  std::int64_t strike_price;
  std::uint64_t raw_instrument_id;
  std::int64_t leg_price;
  std::int64_t leg_delta;
  std::int32_t inst_attrib_value;
  std::uint32_t underlying_id;
  std::int32_t market_depth_implied;
  std::int32_t market_depth;
  std::uint32_t market_segment_id;
  std::uint32_t max_trade_vol;
  std::int32_t min_lot_size;
  std::int32_t min_lot_size_block;
  std::int32_t min_lot_size_round_lot;
  std::uint32_t min_trade_vol;
  std::int32_t contract_multiplier;
  std::int32_t decay_quantity;
  std::int32_t original_contract_size;
  std::uint32_t leg_instrument_id;
  std::int32_t leg_ratio_price_numerator;
  std::int32_t leg_ratio_price_denominator;
  std::int32_t leg_ratio_qty_numerator;
  std::int32_t leg_ratio_qty_denominator;
  std::uint32_t leg_underlying_id;
  std::int16_t appl_id;
  std::uint16_t maturity_year;
  std::uint16_t decay_start_date;
  std::uint16_t channel_id;
  std::uint16_t leg_count;
  std::uint16_t leg_index;
  std::array<char, 4> currency;
  std::array<char, 4> settl_currency;
  std::array<char, 6> secsubtype;
  std::array<char, kSymbolSize> raw_symbol;
  std::array<char, 21> group;
  std::array<char, 5> exchange;
  std::array<char, 11> asset;
  std::array<char, 7> cfi;
  std::array<char, 7> security_type;
  std::array<char, 31> unit_of_measure;
  std::array<char, 21> underlying;
  std::array<char, 4> strike_price_currency;
  std::array<char, kSymbolSize> leg_raw_symbol;
  char instrument_class;
  char match_algorithm;
  std::uint8_t main_fraction;
  std::uint8_t price_display_format;
  std::uint8_t sub_fraction;
  std::uint8_t underlying_product;
  char security_update_action;
  std::uint8_t maturity_month;
  std::uint8_t maturity_day;
  std::uint8_t maturity_week;
  char user_defined_instrument;
  std::int8_t contract_multiplier_unit;
  std::int8_t flow_schedule_type;
  std::uint8_t tick_rule;
  char leg_instrument_class;
  char leg_side;
  std::array<char, 17> reserved;
};
static_assert(sizeof(InstrumentDefMsg) == 520 && offsetof(InstrumentDefMsg, raw_symbol) == 238 &&
              offsetof(InstrumentDefMsg, leg_raw_symbol) == 416 &&
              offsetof(InstrumentDefMsg, instrument_class) == 487);

struct InstrumentDefMsgV2 {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kInstrumentDef; }
  RecordHeader hd;
  std::uint64_t ts_recv;
  std::int64_t min_price_increment;
  std::int64_t display_factor;
  std::uint64_t expiration;
  std::uint64_t activation;
  std::int64_t high_limit_price;
  std::int64_t low_limit_price;
  std::int64_t max_price_variation;
  std::int64_t trading_reference_price;
  std::int64_t unit_of_measure_qty;
  std::int64_t min_price_increment_amount;
  std::int64_t price_ratio;
  std::int64_t strike_price;
  std::int32_t inst_attrib_value;
  std::uint32_t underlying_id;
  std::uint32_t raw_instrument_id;
  std::int32_t market_depth_implied;
  std::int32_t market_depth;
  std::uint32_t market_segment_id;
  std::uint32_t max_trade_vol;
  std::int32_t min_lot_size;
  std::int32_t min_lot_size_block;
  std::int32_t min_lot_size_round_lot;
  std::uint32_t min_trade_vol;
  std::int32_t contract_multiplier;
  std::int32_t decay_quantity;
  std::int32_t original_contract_size;
  std::uint16_t trading_reference_date;
  std::int16_t appl_id;
  std::uint16_t maturity_year;
  std::uint16_t decay_start_date;
  std::uint16_t channel_id;
  std::array<char, 4> currency;
  std::array<char, 4> settl_currency;
  std::array<char, 6> secsubtype;
  std::array<char, kSymbolSize> raw_symbol;
  std::array<char, 21> group;
  std::array<char, 5> exchange;
  std::array<char, 7> asset;
  std::array<char, 7> cfi;
  std::array<char, 7> security_type;
  std::array<char, 31> unit_of_measure;
  std::array<char, 21> underlying;
  std::array<char, 4> strike_price_currency;
  char instrument_class;
  char match_algorithm;
  std::uint8_t md_security_trading_status;
  std::uint8_t main_fraction;
  std::uint8_t price_display_format;
  std::uint8_t settl_price_type;
  std::uint8_t sub_fraction;
  std::uint8_t underlying_product;
  char security_update_action;
  std::uint8_t maturity_month;
  std::uint8_t maturity_day;
  std::uint8_t maturity_week;
  char user_defined_instrument;
  std::int8_t contract_multiplier_unit;
  std::int8_t flow_schedule_type;
  std::uint8_t tick_rule;
  std::array<char, 10> reserved;
};
static_assert(sizeof(InstrumentDefMsgV2) == 400 &&
              offsetof(InstrumentDefMsgV2, raw_symbol) == 200 &&
              offsetof(InstrumentDefMsgV2, instrument_class) == 374);

struct InstrumentDefMsgV1 {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kInstrumentDef; }
  RecordHeader hd;
  std::uint64_t ts_recv;
  std::int64_t min_price_increment;
  std::int64_t display_factor;
  std::uint64_t expiration;
  std::uint64_t activation;
  std::int64_t high_limit_price;
  std::int64_t low_limit_price;
  std::int64_t max_price_variation;
  std::int64_t trading_reference_price;
  std::int64_t unit_of_measure_qty;
  std::int64_t min_price_increment_amount;
  std::int64_t price_ratio;
  std::int32_t inst_attrib_value;
  std::uint32_t underlying_id;
  std::uint32_t raw_instrument_id;
  std::int32_t market_depth_implied;
  std::int32_t market_depth;
  std::uint32_t market_segment_id;
  std::uint32_t max_trade_vol;
  std::int32_t min_lot_size;
  std::int32_t min_lot_size_block;
  std::int32_t min_lot_size_round_lot;
  std::uint32_t min_trade_vol;
  std::array<char, 4> reserved2;
  std::int32_t contract_multiplier;
  std::int32_t decay_quantity;
  std::int32_t original_contract_size;
  std::array<char, 4> reserved3;
  std::uint16_t trading_reference_date;
  std::int16_t appl_id;
  std::uint16_t maturity_year;
  std::uint16_t decay_start_date;
  std::uint16_t channel_id;
  std::array<char, 4> currency;
  std::array<char, 4> settl_currency;
  std::array<char, 6> secsubtype;
  std::array<char, kSymbolSizeV1> raw_symbol;
  std::array<char, 21> group;
  std::array<char, 5> exchange;
  std::array<char, 7> asset;
  std::array<char, 7> cfi;
  std::array<char, 7> security_type;
  std::array<char, 31> unit_of_measure;
  std::array<char, 21> underlying;
  std::array<char, 4> strike_price_currency;
  char instrument_class;
  std::array<char, 2> reserved4;
  std::int64_t strike_price;
  std::array<char, 6> reserved5;
  char match_algorithm;
  std::uint8_t md_security_trading_status;
  std::uint8_t main_fraction;
  std::uint8_t price_display_format;
  std::uint8_t settl_price_type;
  std::uint8_t sub_fraction;
  std::uint8_t underlying_product;
  char security_update_action;
  std::uint8_t maturity_month;
  std::uint8_t maturity_day;
  std::uint8_t maturity_week;
  char user_defined_instrument;
  std::int8_t contract_multiplier_unit;
  std::int8_t flow_schedule_type;
  std::uint8_t tick_rule;
  std::array<char, 3> reserved;
};
static_assert(sizeof(InstrumentDefMsgV1) == 360 &&
              offsetof(InstrumentDefMsgV1, raw_symbol) == 200 &&
              offsetof(InstrumentDefMsgV1, instrument_class) == 325 &&
              offsetof(InstrumentDefMsgV1, strike_price) == 328);

struct ImbalanceMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kImbalance; }
  RecordHeader hd;
  std::uint64_t ts_recv;
  std::int64_t ref_price;
  std::uint64_t auction_time;
  std::int64_t cont_book_clr_price;
  std::int64_t auct_interest_clr_price;
  std::int64_t ssr_filling_price;
  std::int64_t ind_match_price;
  std::int64_t upper_collar;
  std::int64_t lower_collar;
  std::uint32_t paired_qty;
  std::uint32_t total_imbalance_qty;
  std::uint32_t market_imbalance_qty;
  std::uint32_t unpaired_qty;
  char auction_type;
  char side;
  std::uint8_t auction_status;
  std::uint8_t freeze_status;
  std::uint8_t num_extensions;
  char unpaired_side;
  char significant_imbalance;
  std::array<char, 1> reserved;
};
static_assert(sizeof(ImbalanceMsg) == 112 && offsetof(ImbalanceMsg, paired_qty) == 88 &&
              offsetof(ImbalanceMsg, auction_type) == 104);

struct StatMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kStatistics; }
  RecordHeader hd;
  std::uint64_t ts_recv;
  std::uint64_t ts_ref;
  std::int64_t price;
  std::int64_t quantity;  // kUndefQuantity: none
  std::uint32_t sequence;
  std::int32_t ts_in_delta;
  std::uint16_t stat_type;
  std::uint16_t channel_id;
  std::uint8_t update_action;
  std::uint8_t stat_flags;
  std::array<char, 18> reserved;
};
static_assert(sizeof(StatMsg) == 80 && offsetof(StatMsg, sequence) == 48 &&
              offsetof(StatMsg, stat_flags) == 61);

// Of versions 1 and 2.
struct StatMsgV1 {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kStatistics; }
  RecordHeader hd;
  std::uint64_t ts_recv;
  std::uint64_t ts_ref;
  std::int64_t price;
  std::int32_t quantity;  // kUndefQuantityV1: none
  std::uint32_t sequence;
  std::int32_t ts_in_delta;
  std::uint16_t stat_type;
  std::uint16_t channel_id;
  std::uint8_t update_action;
  std::uint8_t stat_flags;
  std::array<char, 6> reserved;
};
static_assert(sizeof(StatMsgV1) == 64 && offsetof(StatMsgV1, stat_flags) == 57);

inline constexpr std::int64_t kUndefQuantity = std::numeric_limits<std::int64_t>::max();
inline constexpr std::int32_t kUndefQuantityV1 = std::numeric_limits<std::int32_t>::max();

// Of a live gateway.
struct ErrorMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kError; }
  RecordHeader hd;
  std::array<char, 302> err;
  std::uint8_t code;     // 255: none
  std::uint8_t is_last;  // 255: not said
};
static_assert(sizeof(ErrorMsg) == 320 && offsetof(ErrorMsg, code) == 318);

struct ErrorMsgV1 {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kError; }
  RecordHeader hd;
  std::array<char, 64> err;
};
static_assert(sizeof(ErrorMsgV1) == 80);

struct SymbolMappingMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kSymbolMapping; }
  RecordHeader hd;
  SType stype_in;  // kMixed: not said
  std::array<char, kSymbolSize> stype_in_symbol;
  SType stype_out;
  std::array<char, kSymbolSize> stype_out_symbol;
  std::uint64_t start_ts;
  std::uint64_t end_ts;
};
static_assert(sizeof(SymbolMappingMsg) == 176 && offsetof(SymbolMappingMsg, stype_out) == 88 &&
              offsetof(SymbolMappingMsg, start_ts) == 160);

struct SymbolMappingMsgV1 {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kSymbolMapping; }
  RecordHeader hd;
  std::array<char, kSymbolSizeV1> stype_in_symbol;
  std::array<char, kSymbolSizeV1> stype_out_symbol;
  std::array<char, 4> reserved;
  std::uint64_t start_ts;
  std::uint64_t end_ts;
};
static_assert(sizeof(SymbolMappingMsgV1) == 80 && offsetof(SymbolMappingMsgV1, start_ts) == 64);

// Of a live gateway; also its heartbeats.
struct SystemMsg {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kSystem; }
  RecordHeader hd;
  std::array<char, 303> msg;
  std::uint8_t code;  // 255: none
};
static_assert(sizeof(SystemMsg) == 320 && offsetof(SystemMsg, code) == 319);

struct SystemMsgV1 {
  static constexpr bool has_rtype(RType rtype) { return rtype == RType::kSystem; }
  RecordHeader hd;
  std::array<char, 64> msg;
};
static_assert(sizeof(SystemMsgV1) == 80);

}  // namespace defib::marketdata
