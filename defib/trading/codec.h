// Small helpers of trading's record codecs. Records are little-endian, start with a version byte,
// and are decoded strictly: a value outside of its enumeration or a left-over byte is damage.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/bytes.h"
#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/trading/ledger.h"
#include "defib/venue/venue.h"

namespace defib::trading {

// False where the byte is not below `count`.
template <typename Enum>
bool read_enum(Reader& in, std::size_t count, Enum& value) {
  const std::uint8_t byte = in.u8();
  if (byte >= count) return false;
  value = static_cast<Enum>(byte);
  return true;
}
inline Decimal read_decimal(Reader& in) {
  return Decimal::from_units(in.i64());
}

Error damaged_record(std::string_view what, std::string_view key, int version);

std::string encode_order(const TrackedOrder& tracked);
Result<TrackedOrder> decode_order(std::string_view key, std::string_view record);
std::string encode_venue_order(const VenueOrderRecord& record);
Result<VenueOrderRecord> decode_venue_order(std::string_view reference, std::string_view record);
std::string encode_fill(const venue::Fill& fill);
Result<venue::Fill> decode_fill(std::string_view key, std::string_view record);
std::string encode_position(const Position& position);
Result<Position> decode_position(std::string_view symbol, std::string_view record);
std::string encode_instrument(const Instrument& instrument);
Result<Instrument> decode_instrument(std::string_view symbol, std::string_view record);
std::string encode_amount(Decimal amount);
Result<Decimal> decode_amount(std::string_view what, std::string_view key, std::string_view record);
// Milliseconds.
std::string encode_time(std::int64_t time_ms);
Result<std::int64_t> decode_time(std::string_view what, std::string_view key,
                                 std::string_view record);

}  // namespace defib::trading
