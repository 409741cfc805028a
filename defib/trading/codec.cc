#include "defib/trading/codec.h"

#include <fmt/core.h>

#include <utility>

namespace defib::trading {
namespace {

constexpr std::uint8_t kRecordVersion = 1;
constexpr std::size_t kOrderStatuses = 7;

}  // namespace

Error damaged_record(std::string_view what, std::string_view key, int version) {
  return Error(Code::kLedgerDamaged,
               fmt::format("the record of {} {} cannot be read (version {})", what, key, version))
      .with("record", what)
      .with("key", key);
}

std::string encode_order(const TrackedOrder& tracked) {
  const venue::Order& order = tracked.order;
  std::string record;
  Writer out(record);
  out.u8(kRecordVersion);
  out.u8(tracked.external ? 1 : 0);
  out.text(tracked.strategy);
  out.text(order.client_id);
  out.text(order.venue_id);
  out.text(order.symbol);
  out.u8(static_cast<std::uint8_t>(order.side));
  out.u8(static_cast<std::uint8_t>(order.status));
  out.i64(order.quantity.units());
  out.i64(order.price.units());
  out.i64(order.filled.units());
  out.i64(order.filled_quote.units());
  out.i64(order.created_ms);
  out.i64(order.updated_ms);
  out.i64(tracked.booked.units());
  return record;
}

Result<TrackedOrder> decode_order(std::string_view key, std::string_view record) {
  Reader in(record);
  TrackedOrder tracked;
  venue::Order& order = tracked.order;
  const std::uint8_t version = in.u8();
  const std::uint8_t external = in.u8();
  tracked.external = external == 1;
  tracked.strategy = in.text();
  order.client_id = in.text();
  order.venue_id = in.text();
  order.symbol = in.text();
  const bool side_fits = read_enum(in, 2, order.side);
  const bool fits = read_enum(in, kOrderStatuses, order.status) && side_fits;
  order.quantity = read_decimal(in);
  order.price = read_decimal(in);
  order.filled = read_decimal(in);
  order.filled_quote = read_decimal(in);
  order.created_ms = in.i64();
  order.updated_ms = in.i64();
  tracked.booked = read_decimal(in);
  if (version != kRecordVersion || external > 1 || !fits || !in.finished() ||
      tracked.key() != key) {
    return damaged_record("order", key, version);
  }
  return tracked;
}

std::string encode_venue_order(const VenueOrderRecord& order) {
  std::string record;
  Writer out(record);
  out.u8(kRecordVersion);
  out.text(order.client_id);
  out.i64(order.booked.units());
  return record;
}

Result<VenueOrderRecord> decode_venue_order(std::string_view reference, std::string_view record) {
  Reader in(record);
  VenueOrderRecord order;
  const std::uint8_t version = in.u8();
  order.client_id = in.text();
  order.booked = read_decimal(in);
  if (version != kRecordVersion || !in.finished()) {
    return damaged_record("venue order", reference, version);
  }
  return order;
}

std::string encode_fill(const venue::Fill& fill) {
  std::string record;
  Writer out(record);
  out.u8(kRecordVersion);
  out.text(fill.trade_id);
  out.text(fill.venue_order_id);
  out.text(fill.symbol);
  out.u8(static_cast<std::uint8_t>(fill.side));
  out.i64(fill.quantity.units());
  out.i64(fill.price.units());
  out.i64(fill.fee.units());
  out.text(fill.fee_asset);
  out.i64(fill.time_ms);
  return record;
}

Result<venue::Fill> decode_fill(std::string_view key, std::string_view record) {
  Reader in(record);
  venue::Fill fill;
  const std::uint8_t version = in.u8();
  fill.trade_id = in.text();
  fill.venue_order_id = in.text();
  fill.symbol = in.text();
  const bool fits = read_enum(in, 2, fill.side);
  fill.quantity = read_decimal(in);
  fill.price = read_decimal(in);
  fill.fee = read_decimal(in);
  fill.fee_asset = in.text();
  fill.time_ms = in.i64();
  if (version != kRecordVersion || !fits || !in.finished()) {
    return damaged_record("fill", escape(key), version);
  }
  return fill;
}

std::string encode_position(const Position& position) {
  std::string record;
  Writer out(record);
  out.u8(kRecordVersion);
  out.i64(position.quantity.units());
  out.i64(position.cost.units());
  out.i64(position.realized.units());
  out.i64(position.baseline.units());
  out.i64(position.updated_ms);
  return record;
}

Result<Position> decode_position(std::string_view symbol, std::string_view record) {
  Reader in(record);
  Position position;
  const std::uint8_t version = in.u8();
  position.symbol = symbol;
  position.quantity = read_decimal(in);
  position.cost = read_decimal(in);
  position.realized = read_decimal(in);
  position.baseline = read_decimal(in);
  position.updated_ms = in.i64();
  if (version != kRecordVersion || !in.finished()) {
    return damaged_record("position", symbol, version);
  }
  return position;
}

std::string encode_instrument(const Instrument& instrument) {
  std::string record;
  Writer out(record);
  out.u8(kRecordVersion);
  out.text(instrument.base_asset);
  out.text(instrument.quote_asset);
  out.i64(instrument.tick.units());
  out.i64(instrument.lot.units());
  return record;
}

Result<Instrument> decode_instrument(std::string_view symbol, std::string_view record) {
  Reader in(record);
  Instrument instrument;
  const std::uint8_t version = in.u8();
  instrument.symbol = symbol;
  instrument.base_asset = in.text();
  instrument.quote_asset = in.text();
  instrument.tick = read_decimal(in);
  instrument.lot = read_decimal(in);
  if (version != kRecordVersion || !in.finished()) {
    return damaged_record("instrument", symbol, version);
  }
  return instrument;
}

std::string encode_amount(Decimal amount) {
  std::string record;
  Writer out(record);
  out.u8(kRecordVersion);
  out.i64(amount.units());
  return record;
}

Result<Decimal> decode_amount(std::string_view what, std::string_view key,
                              std::string_view record) {
  Reader in(record);
  const std::uint8_t version = in.u8();
  const Decimal amount = read_decimal(in);
  if (version != kRecordVersion || !in.finished()) return damaged_record(what, key, version);
  return amount;
}

std::string encode_time(std::int64_t time_ms) {
  std::string record;
  Writer out(record);
  out.u8(kRecordVersion);
  out.i64(time_ms);
  return record;
}

Result<std::int64_t> decode_time(std::string_view what, std::string_view key,
                                 std::string_view record) {
  Reader in(record);
  const std::uint8_t version = in.u8();
  const std::int64_t time_ms = in.i64();
  if (version != kRecordVersion || !in.finished()) return damaged_record(what, key, version);
  return time_ms;
}

}  // namespace defib::trading
