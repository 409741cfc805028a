// What stands in front of the records of a DBN file: what was asked for, and which symbols had
// which instrument ids when.
//
// Layout (little-endian; source: Databento's description of DBN):
//   0 "DBN"  3 version u8  4 length u32 of what follows
//   8 dataset[16]  24 schema u16  26 start u64  34 end u64  42 limit u64
//   version 1:  50 record_count u64  58 stype_in  59 stype_out  60 ts_out  61 reserved[47]
//   later:      50 stype_in  51 stype_out  52 ts_out  53 symbol_cstr_len u16  55 reserved[53]
//   108 schema definition length u32 (0)  112 symbols, partial, not_found, mappings
// Lists are a u32 count and their items; a symbol fills symbol_cstr_len bytes (22 in version 1),
// NUL padded; a mapping is a symbol, a u32 count and intervals {start u32, end u32, symbol}, dates
// as the decimal number yyyymmdd. Version 3 pads the whole to a multiple of 8.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/marketdata/records.h"
#include "defib/wire/json.h"

namespace defib::marketdata {

// From start_date (inclusive) to end_date (exclusive) the mapping's raw symbol was `symbol`.
struct MappingInterval {
  std::uint32_t start_date = 0;  // yyyymmdd in UTC
  std::uint32_t end_date = 0;
  std::string symbol;
  friend bool operator==(const MappingInterval&, const MappingInterval&) = default;
};

struct SymbolMapping {
  std::string raw_symbol;  // of the type stype_in
  std::vector<MappingInterval> intervals;
  friend bool operator==(const SymbolMapping&, const SymbolMapping&) = default;
};

struct Metadata {
  std::uint8_t version = kNewestVersion;
  std::string dataset;
  Schema schema = Schema::kMixed;
  std::uint64_t start = 0;
  std::uint64_t end = kUndefTime;  // exclusive; kUndefTime: open
  std::uint64_t limit = 0;         // of records; 0: none
  SType stype_in = SType::kMixed;
  SType stype_out = SType::kInstrumentId;
  bool ts_out = false;
  std::uint16_t symbol_size = kSymbolSize;  // bytes of a symbol in the file
  std::vector<std::string> symbols;
  std::vector<std::string> partial;    // not resolved for the whole time
  std::vector<std::string> not_found;  // not resolved at all
  std::vector<SymbolMapping> mappings;
  friend bool operator==(const Metadata&, const Metadata&) = default;
};

inline constexpr std::size_t kMetadataPrefixSize = 8;
inline constexpr std::size_t kMetadataFixedSize = 104;  // after the prefix, up to the symbols

// The prefix's 8 bytes: how many bytes of metadata follow them.
// DbnMalformed, DbnUnsupported (a version that is not 1 to 3), LimitExceeded.
struct MetadataPrefix {
  std::uint8_t version = 0;
  std::uint32_t size = 0;
};
Result<MetadataPrefix> decode_metadata_prefix(std::string_view bytes, std::size_t max_size);
// `body` is what follows the prefix. DbnMalformed names the offset in the file.
Result<Metadata> decode_metadata(std::uint8_t version, std::string_view body);
// With the prefix. InvalidArgument where a text does not fit its field.
Result<std::string> encode_metadata(const Metadata& metadata);

// {"version","dataset","schema","start","end","limit","stype_in","stype_out","ts_out","symbols",
// "partial","not_found",
// "mappings":[{"raw_symbol","intervals":[{"start_date","end_date","symbol"}]}]}
wire::Json to_json(const Metadata& metadata);

}  // namespace defib::marketdata
