// The fields of every struct of records.h by name, in their order; reserved bytes are left out. A
// sink has price, time, character, text, number, quantity, stype and levels, each with a name and a
// value.

#pragma once

#include <type_traits>

#include "defib/marketdata/records.h"

namespace defib::marketdata {

template <typename Sink>
void visit(const BidAskPair& m, Sink& sink) {
  sink.price("bid_px", m.bid_px);
  sink.price("ask_px", m.ask_px);
  sink.number("bid_sz", m.bid_sz);
  sink.number("ask_sz", m.ask_sz);
  sink.number("bid_ct", m.bid_ct);
  sink.number("ask_ct", m.ask_ct);
}

template <typename Sink>
void visit(const ConsolidatedBidAskPair& m, Sink& sink) {
  sink.price("bid_px", m.bid_px);
  sink.price("ask_px", m.ask_px);
  sink.number("bid_sz", m.bid_sz);
  sink.number("ask_sz", m.ask_sz);
  sink.number("bid_pb", m.bid_pb);
  sink.number("ask_pb", m.ask_pb);
}

template <typename Sink>
void visit(const MboMsg& m, Sink& sink) {
  sink.number("order_id", m.order_id);
  sink.price("price", m.price);
  sink.number("size", m.size);
  sink.number("flags", m.flags);
  sink.number("channel_id", m.channel_id);
  sink.character("action", m.action);
  sink.character("side", m.side);
  sink.time("ts_recv", m.ts_recv);
  sink.number("ts_in_delta", m.ts_in_delta);
  sink.number("sequence", m.sequence);
}

template <typename Sink>
void visit(const TradeMsg& m, Sink& sink) {
  sink.price("price", m.price);
  sink.number("size", m.size);
  sink.character("action", m.action);
  sink.character("side", m.side);
  sink.number("flags", m.flags);
  sink.number("depth", m.depth);
  sink.time("ts_recv", m.ts_recv);
  sink.number("ts_in_delta", m.ts_in_delta);
  sink.number("sequence", m.sequence);
}

template <typename Sink>
void visit(const Mbp1Msg& m, Sink& sink) {
  sink.price("price", m.price);
  sink.number("size", m.size);
  sink.character("action", m.action);
  sink.character("side", m.side);
  sink.number("flags", m.flags);
  sink.number("depth", m.depth);
  sink.time("ts_recv", m.ts_recv);
  sink.number("ts_in_delta", m.ts_in_delta);
  sink.number("sequence", m.sequence);
  sink.levels("levels", m.levels);
}

template <typename Sink>
void visit(const Mbp10Msg& m, Sink& sink) {
  sink.price("price", m.price);
  sink.number("size", m.size);
  sink.character("action", m.action);
  sink.character("side", m.side);
  sink.number("flags", m.flags);
  sink.number("depth", m.depth);
  sink.time("ts_recv", m.ts_recv);
  sink.number("ts_in_delta", m.ts_in_delta);
  sink.number("sequence", m.sequence);
  sink.levels("levels", m.levels);
}

template <typename Sink>
void visit(const BboMsg& m, Sink& sink) {
  sink.price("price", m.price);
  sink.number("size", m.size);
  sink.character("side", m.side);
  sink.number("flags", m.flags);
  sink.time("ts_recv", m.ts_recv);
  sink.number("sequence", m.sequence);
  sink.levels("levels", m.levels);
}

template <typename Sink>
void visit(const Cmbp1Msg& m, Sink& sink) {
  sink.price("price", m.price);
  sink.number("size", m.size);
  sink.character("action", m.action);
  sink.character("side", m.side);
  sink.number("flags", m.flags);
  sink.time("ts_recv", m.ts_recv);
  sink.number("ts_in_delta", m.ts_in_delta);
  sink.levels("levels", m.levels);
}

template <typename Sink>
void visit(const CbboMsg& m, Sink& sink) {
  sink.price("price", m.price);
  sink.number("size", m.size);
  sink.character("side", m.side);
  sink.number("flags", m.flags);
  sink.time("ts_recv", m.ts_recv);
  sink.levels("levels", m.levels);
}

template <typename Sink>
void visit(const OhlcvMsg& m, Sink& sink) {
  sink.price("open", m.open);
  sink.price("high", m.high);
  sink.price("low", m.low);
  sink.price("close", m.close);
  sink.number("volume", m.volume);
}

template <typename Sink>
void visit(const StatusMsg& m, Sink& sink) {
  sink.time("ts_recv", m.ts_recv);
  sink.number("action", m.action);
  sink.number("reason", m.reason);
  sink.number("trading_event", m.trading_event);
  sink.character("is_trading", m.is_trading);
  sink.character("is_quoting", m.is_quoting);
  sink.character("is_short_sell_restricted", m.is_short_sell_restricted);
}

template <typename Sink>
void visit(const InstrumentDefMsg& m, Sink& sink) {
  sink.time("ts_recv", m.ts_recv);
  sink.price("min_price_increment", m.min_price_increment);
  sink.price("display_factor", m.display_factor);
  sink.time("expiration", m.expiration);
  sink.time("activation", m.activation);
  sink.price("high_limit_price", m.high_limit_price);
  sink.price("low_limit_price", m.low_limit_price);
  sink.price("max_price_variation", m.max_price_variation);
  sink.price("unit_of_measure_qty", m.unit_of_measure_qty);
  sink.price("min_price_increment_amount", m.min_price_increment_amount);
  sink.price("price_ratio", m.price_ratio);
  sink.price("strike_price", m.strike_price);
  sink.number("raw_instrument_id", m.raw_instrument_id);
  sink.price("leg_price", m.leg_price);
  sink.price("leg_delta", m.leg_delta);
  sink.number("inst_attrib_value", m.inst_attrib_value);
  sink.number("underlying_id", m.underlying_id);
  sink.number("market_depth_implied", m.market_depth_implied);
  sink.number("market_depth", m.market_depth);
  sink.number("market_segment_id", m.market_segment_id);
  sink.number("max_trade_vol", m.max_trade_vol);
  sink.number("min_lot_size", m.min_lot_size);
  sink.number("min_lot_size_block", m.min_lot_size_block);
  sink.number("min_lot_size_round_lot", m.min_lot_size_round_lot);
  sink.number("min_trade_vol", m.min_trade_vol);
  sink.number("contract_multiplier", m.contract_multiplier);
  sink.number("decay_quantity", m.decay_quantity);
  sink.number("original_contract_size", m.original_contract_size);
  sink.number("leg_instrument_id", m.leg_instrument_id);
  sink.number("leg_ratio_price_numerator", m.leg_ratio_price_numerator);
  sink.number("leg_ratio_price_denominator", m.leg_ratio_price_denominator);
  sink.number("leg_ratio_qty_numerator", m.leg_ratio_qty_numerator);
  sink.number("leg_ratio_qty_denominator", m.leg_ratio_qty_denominator);
  sink.number("leg_underlying_id", m.leg_underlying_id);
  sink.number("appl_id", m.appl_id);
  sink.number("maturity_year", m.maturity_year);
  sink.number("decay_start_date", m.decay_start_date);
  sink.number("channel_id", m.channel_id);
  sink.number("leg_count", m.leg_count);
  sink.number("leg_index", m.leg_index);
  sink.text("currency", m.currency);
  sink.text("settl_currency", m.settl_currency);
  sink.text("secsubtype", m.secsubtype);
  sink.text("raw_symbol", m.raw_symbol);
  sink.text("group", m.group);
  sink.text("exchange", m.exchange);
  sink.text("asset", m.asset);
  sink.text("cfi", m.cfi);
  sink.text("security_type", m.security_type);
  sink.text("unit_of_measure", m.unit_of_measure);
  sink.text("underlying", m.underlying);
  sink.text("strike_price_currency", m.strike_price_currency);
  sink.text("leg_raw_symbol", m.leg_raw_symbol);
  sink.character("instrument_class", m.instrument_class);
  sink.character("match_algorithm", m.match_algorithm);
  sink.number("main_fraction", m.main_fraction);
  sink.number("price_display_format", m.price_display_format);
  sink.number("sub_fraction", m.sub_fraction);
  sink.number("underlying_product", m.underlying_product);
  sink.character("security_update_action", m.security_update_action);
  sink.number("maturity_month", m.maturity_month);
  sink.number("maturity_day", m.maturity_day);
  sink.number("maturity_week", m.maturity_week);
  sink.character("user_defined_instrument", m.user_defined_instrument);
  sink.number("contract_multiplier_unit", m.contract_multiplier_unit);
  sink.number("flow_schedule_type", m.flow_schedule_type);
  sink.number("tick_rule", m.tick_rule);
  sink.character("leg_instrument_class", m.leg_instrument_class);
  sink.character("leg_side", m.leg_side);
}

template <typename Definition, typename Sink>
  requires(std::is_same_v<Definition, InstrumentDefMsgV1> ||
           std::is_same_v<Definition, InstrumentDefMsgV2>)
void visit(const Definition& m, Sink& sink) {
  constexpr bool kIsV2 = std::is_same_v<Definition, InstrumentDefMsgV2>;
  sink.time("ts_recv", m.ts_recv);
  sink.price("min_price_increment", m.min_price_increment);
  sink.price("display_factor", m.display_factor);
  sink.time("expiration", m.expiration);
  sink.time("activation", m.activation);
  sink.price("high_limit_price", m.high_limit_price);
  sink.price("low_limit_price", m.low_limit_price);
  sink.price("max_price_variation", m.max_price_variation);
  sink.price("trading_reference_price", m.trading_reference_price);
  sink.price("unit_of_measure_qty", m.unit_of_measure_qty);
  sink.price("min_price_increment_amount", m.min_price_increment_amount);
  sink.price("price_ratio", m.price_ratio);
  // Each version in the order of its own layout.
  if constexpr (kIsV2) sink.price("strike_price", m.strike_price);
  sink.number("inst_attrib_value", m.inst_attrib_value);
  sink.number("underlying_id", m.underlying_id);
  sink.number("raw_instrument_id", m.raw_instrument_id);
  sink.number("market_depth_implied", m.market_depth_implied);
  sink.number("market_depth", m.market_depth);
  sink.number("market_segment_id", m.market_segment_id);
  sink.number("max_trade_vol", m.max_trade_vol);
  sink.number("min_lot_size", m.min_lot_size);
  sink.number("min_lot_size_block", m.min_lot_size_block);
  sink.number("min_lot_size_round_lot", m.min_lot_size_round_lot);
  sink.number("min_trade_vol", m.min_trade_vol);
  sink.number("contract_multiplier", m.contract_multiplier);
  sink.number("decay_quantity", m.decay_quantity);
  sink.number("original_contract_size", m.original_contract_size);
  sink.number("trading_reference_date", m.trading_reference_date);
  sink.number("appl_id", m.appl_id);
  sink.number("maturity_year", m.maturity_year);
  sink.number("decay_start_date", m.decay_start_date);
  sink.number("channel_id", m.channel_id);
  sink.text("currency", m.currency);
  sink.text("settl_currency", m.settl_currency);
  sink.text("secsubtype", m.secsubtype);
  sink.text("raw_symbol", m.raw_symbol);
  sink.text("group", m.group);
  sink.text("exchange", m.exchange);
  sink.text("asset", m.asset);
  sink.text("cfi", m.cfi);
  sink.text("security_type", m.security_type);
  sink.text("unit_of_measure", m.unit_of_measure);
  sink.text("underlying", m.underlying);
  sink.text("strike_price_currency", m.strike_price_currency);
  sink.character("instrument_class", m.instrument_class);
  if constexpr (!kIsV2) sink.price("strike_price", m.strike_price);
  sink.character("match_algorithm", m.match_algorithm);
  sink.number("md_security_trading_status", m.md_security_trading_status);
  sink.number("main_fraction", m.main_fraction);
  sink.number("price_display_format", m.price_display_format);
  sink.number("settl_price_type", m.settl_price_type);
  sink.number("sub_fraction", m.sub_fraction);
  sink.number("underlying_product", m.underlying_product);
  sink.character("security_update_action", m.security_update_action);
  sink.number("maturity_month", m.maturity_month);
  sink.number("maturity_day", m.maturity_day);
  sink.number("maturity_week", m.maturity_week);
  sink.character("user_defined_instrument", m.user_defined_instrument);
  sink.number("contract_multiplier_unit", m.contract_multiplier_unit);
  sink.number("flow_schedule_type", m.flow_schedule_type);
  sink.number("tick_rule", m.tick_rule);
}

template <typename Sink>
void visit(const ImbalanceMsg& m, Sink& sink) {
  sink.time("ts_recv", m.ts_recv);
  sink.price("ref_price", m.ref_price);
  sink.time("auction_time", m.auction_time);
  sink.price("cont_book_clr_price", m.cont_book_clr_price);
  sink.price("auct_interest_clr_price", m.auct_interest_clr_price);
  sink.price("ssr_filling_price", m.ssr_filling_price);
  sink.price("ind_match_price", m.ind_match_price);
  sink.price("upper_collar", m.upper_collar);
  sink.price("lower_collar", m.lower_collar);
  sink.number("paired_qty", m.paired_qty);
  sink.number("total_imbalance_qty", m.total_imbalance_qty);
  sink.number("market_imbalance_qty", m.market_imbalance_qty);
  sink.number("unpaired_qty", m.unpaired_qty);
  sink.character("auction_type", m.auction_type);
  sink.character("side", m.side);
  sink.number("auction_status", m.auction_status);
  sink.number("freeze_status", m.freeze_status);
  sink.number("num_extensions", m.num_extensions);
  sink.character("unpaired_side", m.unpaired_side);
  sink.character("significant_imbalance", m.significant_imbalance);
}

template <typename Sink>
void visit(const StatMsg& m, Sink& sink) {
  sink.time("ts_recv", m.ts_recv);
  sink.time("ts_ref", m.ts_ref);
  sink.price("price", m.price);
  sink.quantity("quantity", m.quantity);
  sink.number("sequence", m.sequence);
  sink.number("ts_in_delta", m.ts_in_delta);
  sink.number("stat_type", m.stat_type);
  sink.number("channel_id", m.channel_id);
  sink.number("update_action", m.update_action);
  sink.number("stat_flags", m.stat_flags);
}

template <typename Sink>
void visit(const StatMsgV1& m, Sink& sink) {
  sink.time("ts_recv", m.ts_recv);
  sink.time("ts_ref", m.ts_ref);
  sink.price("price", m.price);
  sink.quantity("quantity", m.quantity);
  sink.number("sequence", m.sequence);
  sink.number("ts_in_delta", m.ts_in_delta);
  sink.number("stat_type", m.stat_type);
  sink.number("channel_id", m.channel_id);
  sink.number("update_action", m.update_action);
  sink.number("stat_flags", m.stat_flags);
}

template <typename Sink>
void visit(const ErrorMsg& m, Sink& sink) {
  sink.text("err", m.err);
  sink.number("code", m.code);
  sink.number("is_last", m.is_last);
}

template <typename Sink>
void visit(const ErrorMsgV1& m, Sink& sink) {
  sink.text("err", m.err);
}

template <typename Sink>
void visit(const SymbolMappingMsg& m, Sink& sink) {
  sink.stype("stype_in", m.stype_in);
  sink.text("stype_in_symbol", m.stype_in_symbol);
  sink.stype("stype_out", m.stype_out);
  sink.text("stype_out_symbol", m.stype_out_symbol);
  sink.time("start_ts", m.start_ts);
  sink.time("end_ts", m.end_ts);
}

template <typename Sink>
void visit(const SymbolMappingMsgV1& m, Sink& sink) {
  sink.text("stype_in_symbol", m.stype_in_symbol);
  sink.text("stype_out_symbol", m.stype_out_symbol);
  sink.time("start_ts", m.start_ts);
  sink.time("end_ts", m.end_ts);
}

template <typename Sink>
void visit(const SystemMsg& m, Sink& sink) {
  sink.text("msg", m.msg);
  sink.number("code", m.code);
}

template <typename Sink>
void visit(const SystemMsgV1& m, Sink& sink) {
  sink.text("msg", m.msg);
}

}  // namespace defib::marketdata
