// Older structs as the newest ones. Fields of equal name keep their value; what the newest struct
// does not have is dropped, and what the older one did not have is "none", as Databento's own
// upgrade has it.

#include <algorithm>

#include "defib/marketdata/decoder.h"

namespace defib::marketdata {
namespace {

template <std::size_t To, std::size_t From>
void copy_text(std::array<char, To>& to, const std::array<char, From>& from) {
  const std::string_view text = text_of(from);
  std::copy_n(text.data(), std::min(text.size(), To), to.begin());
}

template <typename Old>
void copy_definition_numbers(InstrumentDefMsg& to, const Old& from) {
  to.ts_recv = from.ts_recv;
  to.min_price_increment = from.min_price_increment;
  to.display_factor = from.display_factor;
  to.expiration = from.expiration;
  to.activation = from.activation;
  to.high_limit_price = from.high_limit_price;
  to.low_limit_price = from.low_limit_price;
  to.max_price_variation = from.max_price_variation;
  to.unit_of_measure_qty = from.unit_of_measure_qty;
  to.min_price_increment_amount = from.min_price_increment_amount;
  to.price_ratio = from.price_ratio;
  to.strike_price = from.strike_price;
  to.raw_instrument_id = from.raw_instrument_id;
  to.leg_price = kUndefPrice;
  to.leg_delta = kUndefPrice;
  to.inst_attrib_value = from.inst_attrib_value;
  to.underlying_id = from.underlying_id;
  to.market_depth_implied = from.market_depth_implied;
  to.market_depth = from.market_depth;
  to.market_segment_id = from.market_segment_id;
  to.max_trade_vol = from.max_trade_vol;
  to.min_lot_size = from.min_lot_size;
  to.min_lot_size_block = from.min_lot_size_block;
  to.min_lot_size_round_lot = from.min_lot_size_round_lot;
  to.min_trade_vol = from.min_trade_vol;
  to.contract_multiplier = from.contract_multiplier;
  to.decay_quantity = from.decay_quantity;
  to.original_contract_size = from.original_contract_size;
  to.appl_id = from.appl_id;
  to.maturity_year = from.maturity_year;
  to.decay_start_date = from.decay_start_date;
  to.channel_id = from.channel_id;
}

template <typename Old>
void copy_definition_texts(InstrumentDefMsg& to, const Old& from) {
  copy_text(to.currency, from.currency);
  copy_text(to.settl_currency, from.settl_currency);
  copy_text(to.secsubtype, from.secsubtype);
  copy_text(to.raw_symbol, from.raw_symbol);
  copy_text(to.group, from.group);
  copy_text(to.exchange, from.exchange);
  copy_text(to.asset, from.asset);
  copy_text(to.cfi, from.cfi);
  copy_text(to.security_type, from.security_type);
  copy_text(to.unit_of_measure, from.unit_of_measure);
  copy_text(to.underlying, from.underlying);
  copy_text(to.strike_price_currency, from.strike_price_currency);
  to.instrument_class = from.instrument_class;
  to.match_algorithm = from.match_algorithm;
  to.main_fraction = from.main_fraction;
  to.price_display_format = from.price_display_format;
  to.sub_fraction = from.sub_fraction;
  to.underlying_product = from.underlying_product;
  to.security_update_action = from.security_update_action;
  to.maturity_month = from.maturity_month;
  to.maturity_day = from.maturity_day;
  to.maturity_week = from.maturity_week;
  to.user_defined_instrument = from.user_defined_instrument;
  to.contract_multiplier_unit = from.contract_multiplier_unit;
  to.flow_schedule_type = from.flow_schedule_type;
  to.tick_rule = from.tick_rule;
  to.leg_instrument_class = '\0';
  to.leg_side = 'N';
}

template <typename Old>
InstrumentDefMsg upgrade(const Old& from)
  requires(std::is_same_v<Old, InstrumentDefMsgV1> || std::is_same_v<Old, InstrumentDefMsgV2>)
{
  InstrumentDefMsg to = {};
  copy_definition_numbers(to, from);
  copy_definition_texts(to, from);
  return to;
}

StatMsg upgrade(const StatMsgV1& from) {
  StatMsg to = {};
  to.ts_recv = from.ts_recv;
  to.ts_ref = from.ts_ref;
  to.price = from.price;
  to.quantity = from.quantity == kUndefQuantityV1 ? kUndefQuantity : from.quantity;
  to.sequence = from.sequence;
  to.ts_in_delta = from.ts_in_delta;
  to.stat_type = from.stat_type;
  to.channel_id = from.channel_id;
  to.update_action = from.update_action;
  to.stat_flags = from.stat_flags;
  return to;
}

ErrorMsg upgrade(const ErrorMsgV1& from) {
  ErrorMsg to = {};
  copy_text(to.err, from.err);
  to.code = 255;
  to.is_last = 255;
  return to;
}

SymbolMappingMsg upgrade(const SymbolMappingMsgV1& from) {
  SymbolMappingMsg to = {};
  to.stype_in = SType::kMixed;
  copy_text(to.stype_in_symbol, from.stype_in_symbol);
  to.stype_out = SType::kMixed;
  copy_text(to.stype_out_symbol, from.stype_out_symbol);
  to.start_ts = from.start_ts;
  to.end_ts = from.end_ts;
  return to;
}

SystemMsg upgrade(const SystemMsgV1& from) {
  SystemMsg to = {};
  copy_text(to.msg, from.msg);
  to.code = 255;
  return to;
}

template <typename Old>
bool upgrade_if(const RecordView& record, std::vector<char>& out) {
  if (!record.holds<Old>()) return false;
  auto upgraded = upgrade(record.get<Old>());
  const std::size_t size = sizeof upgraded + (record.has_ts_out() ? 8 : 0);
  upgraded.hd = record.header();
  upgraded.hd.length = static_cast<std::uint8_t>(size / 4);
  out.resize(size);
  store_value(out.data(), upgraded);
  if (record.has_ts_out()) store_value(out.data() + sizeof upgraded, record.ts_out());
  return true;
}

}  // namespace

RecordView upgrade_to_v3(const RecordView& record, std::vector<char>& out) {
  const bool upgraded =
      upgrade_if<InstrumentDefMsgV1>(record, out) || upgrade_if<InstrumentDefMsgV2>(record, out) ||
      upgrade_if<StatMsgV1>(record, out) || upgrade_if<ErrorMsgV1>(record, out) ||
      upgrade_if<SymbolMappingMsgV1>(record, out) || upgrade_if<SystemMsgV1>(record, out);
  return upgraded ? RecordView(out.data(), record.has_ts_out()) : record;
}

}  // namespace defib::marketdata
