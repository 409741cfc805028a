#include "defib/marketdata/metadata.h"

#include <fmt/format.h>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"

namespace defib::marketdata {
namespace {

constexpr std::size_t kDatasetSize = 16;
constexpr std::size_t kReservedV1 = 47;
constexpr std::size_t kReserved = 53;
constexpr std::size_t kMaxSymbolSize = 1024;

Error malformed(std::uint64_t offset, std::string_view why) {
  return Error(Code::kDbnMalformed,
               fmt::format("the DBN metadata is damaged at byte {}: {}", offset, why))
      .with("offset", static_cast<std::int64_t>(offset));
}

std::string_view until_nul(std::string_view field) {
  return field.substr(0, field.find('\0'));
}

// Reads what follows the prefix, and knows where it stands in the file.
class Body {
 public:
  Body(std::string_view bytes, std::size_t symbol_size)
      : reader_(bytes), size_(bytes.size()), symbol_size_(symbol_size) {}

  Reader& reader() { return reader_; }
  void set_symbol_size(std::size_t size) { symbol_size_ = size; }
  std::uint64_t offset() const { return kMetadataPrefixSize + size_ - reader_.remaining(); }
  std::string symbol() { return std::string(until_nul(reader_.bytes(symbol_size_))); }

  // A count of items that each take at least `item_size` bytes, which must be there: a lie about
  // the count costs no memory.
  Result<std::uint32_t> count(std::size_t item_size, std::string_view what) {
    const std::uint64_t at = offset();
    if (reader_.remaining() < 4) return malformed(at, fmt::format("the {} are missing", what));
    const std::uint32_t count = reader_.u32();
    if (count > reader_.remaining() / item_size) {
      return malformed(at, fmt::format("{} {} do not fit into the {} bytes that are left", count,
                                       what, reader_.remaining()));
    }
    return count;
  }

  Result<std::vector<std::string>> symbols(std::string_view what) {
    DEFIB_TRY_ASSIGN(const std::uint32_t size, count(symbol_size_, what));
    std::vector<std::string> all;
    all.reserve(size);
    for (std::uint32_t i = 0; i < size; ++i) all.push_back(symbol());
    return all;
  }

  Result<std::vector<SymbolMapping>> mappings() {
    DEFIB_TRY_ASSIGN(const std::uint32_t size, count(symbol_size_ + 4, "mappings"));
    std::vector<SymbolMapping> all(size);
    for (SymbolMapping& mapping : all) {
      if (reader_.remaining() < symbol_size_) return malformed(offset(), "a mapping is missing");
      mapping.raw_symbol = symbol();
      DEFIB_TRY_ASSIGN(const std::uint32_t intervals, count(symbol_size_ + 8, "intervals"));
      mapping.intervals.resize(intervals);
      for (MappingInterval& interval : mapping.intervals) {
        interval.start_date = reader_.u32();
        interval.end_date = reader_.u32();
        interval.symbol = symbol();
      }
    }
    return all;
  }

 private:
  Reader reader_;
  std::size_t size_;
  std::size_t symbol_size_;
};

void put_fixed(std::string& out, std::string_view text, std::size_t size) {
  out.append(text);
  out.append(size - text.size(), '\0');
}

Result<> check_fits(std::string_view text, std::size_t size, std::string_view what) {
  if (text.size() < size && text.find('\0') == std::string_view::npos) return {};
  return Error(
      Code::kInvalidArgument,
      fmt::format("the {} '{}' does not fit into {} bytes with its NUL", what, text, size));
}

wire::Json to_json(const std::vector<std::string>& texts) {
  wire::Json list = wire::Json::array();
  for (const std::string& text : texts) list.push(text);
  return list;
}

wire::Json time_json(std::uint64_t ns) {
  if (ns > static_cast<std::uint64_t>(INT64_MAX)) return nullptr;
  return os::format_time(static_cast<std::int64_t>(ns));
}

std::string date_text(std::uint32_t date) {
  return fmt::format("{:04}-{:02}-{:02}", date / 10000, date / 100 % 100, date % 100);
}

template <typename Enum>
wire::Json name_json(Enum value) {
  if (value == Enum::kMixed) return nullptr;
  const std::string_view name = to_string(value);
  return name.empty() ? wire::Json(static_cast<int>(value)) : wire::Json(name);
}

}  // namespace

Result<MetadataPrefix> decode_metadata_prefix(std::string_view bytes, std::size_t max_size) {
  if (bytes.size() < kMetadataPrefixSize || !bytes.starts_with("DBN")) {
    return malformed(0, "it does not begin with DBN");
  }
  const MetadataPrefix prefix{static_cast<std::uint8_t>(bytes[3]),
                              load<std::uint32_t>(bytes.data() + 4)};
  if (prefix.version == 0 || prefix.version > kNewestVersion) {
    return Error(Code::kDbnUnsupported,
                 fmt::format("version {} of DBN is not known here, only 1 to {}", prefix.version,
                             kNewestVersion))
        .with("offset", 3);
  }
  if (prefix.size < kMetadataFixedSize) {
    return malformed(4, fmt::format("{} bytes of metadata are too few", prefix.size));
  }
  if (prefix.size > max_size) {
    return Error(Code::kLimitExceeded, fmt::format("the metadata announces {} bytes, more than {}",
                                                   prefix.size, max_size))
        .with("offset", 4)
        .with("limit", static_cast<std::int64_t>(max_size));
  }
  return prefix;
}

Result<Metadata> decode_metadata(std::uint8_t version, std::string_view bytes) {
  Metadata metadata;
  metadata.version = version;
  Body body(bytes, kSymbolSizeV1);
  Reader& reader = body.reader();
  metadata.dataset = std::string(until_nul(reader.bytes(kDatasetSize)));
  metadata.schema = static_cast<Schema>(reader.u16());
  metadata.start = reader.u64();
  metadata.end = reader.u64();
  metadata.limit = reader.u64();
  if (version == 1) reader.u64();  // A count of records, which is not used any more.
  metadata.stype_in = static_cast<SType>(reader.u8());
  metadata.stype_out = static_cast<SType>(reader.u8());
  metadata.ts_out = reader.u8() != 0;
  metadata.symbol_size = version == 1 ? kSymbolSizeV1 : reader.u16();
  if (metadata.symbol_size == 0 || metadata.symbol_size > kMaxSymbolSize) {
    return malformed(body.offset() - 2, fmt::format("symbols of {} bytes", metadata.symbol_size));
  }
  body.set_symbol_size(metadata.symbol_size);
  reader.bytes(version == 1 ? kReservedV1 : kReserved);
  const std::uint32_t definition_size = reader.u32();
  if (!reader.ok()) return malformed(kMetadataPrefixSize + bytes.size(), "it is too short");
  if (definition_size != 0) {
    return malformed(body.offset() - 4, "it holds a schema definition, which no version has");
  }
  DEFIB_TRY_ASSIGN(metadata.symbols, body.symbols("symbols"));
  DEFIB_TRY_ASSIGN(metadata.partial, body.symbols("partial symbols"));
  DEFIB_TRY_ASSIGN(metadata.not_found, body.symbols("symbols that were not found"));
  DEFIB_TRY_ASSIGN(metadata.mappings, body.mappings());
  if (!reader.ok()) return malformed(kMetadataPrefixSize + bytes.size(), "it is too short");
  return metadata;
}

Result<std::string> encode_metadata(const Metadata& metadata) {
  const std::size_t symbol_size = metadata.version == 1 ? kSymbolSizeV1 : metadata.symbol_size;
  if (metadata.version == 0 || metadata.version > kNewestVersion || symbol_size == 0 ||
      symbol_size > kMaxSymbolSize) {
    return Error(Code::kInvalidArgument, "a DBN version or symbol size that does not exist");
  }
  DEFIB_TRY(check_fits(metadata.dataset, kDatasetSize + 1, "dataset"));
  std::string out = "DBN";
  Writer writer(out);
  writer.u8(metadata.version);
  writer.u32(0);  // set at the end
  put_fixed(out, metadata.dataset, kDatasetSize);
  writer.u16(static_cast<std::uint16_t>(metadata.schema));
  writer.u64(metadata.start);
  writer.u64(metadata.end);
  writer.u64(metadata.limit);
  if (metadata.version == 1) writer.u64(kUndefTime);
  writer.u8(static_cast<std::uint8_t>(metadata.stype_in));
  writer.u8(static_cast<std::uint8_t>(metadata.stype_out));
  writer.u8(metadata.ts_out ? 1 : 0);
  if (metadata.version > 1) writer.u16(static_cast<std::uint16_t>(symbol_size));
  out.append(metadata.version == 1 ? kReservedV1 : kReserved, '\0');
  writer.u32(0);
  for (const auto* list : {&metadata.symbols, &metadata.partial, &metadata.not_found}) {
    writer.u32(static_cast<std::uint32_t>(list->size()));
    for (const std::string& symbol : *list) {
      DEFIB_TRY(check_fits(symbol, symbol_size, "symbol"));
      put_fixed(out, symbol, symbol_size);
    }
  }
  writer.u32(static_cast<std::uint32_t>(metadata.mappings.size()));
  for (const SymbolMapping& mapping : metadata.mappings) {
    DEFIB_TRY(check_fits(mapping.raw_symbol, symbol_size, "symbol"));
    put_fixed(out, mapping.raw_symbol, symbol_size);
    writer.u32(static_cast<std::uint32_t>(mapping.intervals.size()));
    for (const MappingInterval& interval : mapping.intervals) {
      DEFIB_TRY(check_fits(interval.symbol, symbol_size, "symbol"));
      writer.u32(interval.start_date);
      writer.u32(interval.end_date);
      put_fixed(out, interval.symbol, symbol_size);
    }
  }
  if (metadata.version >= 3) out.append((8 - out.size() % 8) % 8, '\0');
  store_value(out.data() + 4, static_cast<std::uint32_t>(out.size() - kMetadataPrefixSize));
  return out;
}

wire::Json to_json(const Metadata& metadata) {
  wire::Json mappings = wire::Json::array();
  for (const SymbolMapping& mapping : metadata.mappings) {
    wire::Json intervals = wire::Json::array();
    for (const MappingInterval& interval : mapping.intervals) {
      intervals.push(wire::Json::object({{"start_date", date_text(interval.start_date)},
                                         {"end_date", date_text(interval.end_date)},
                                         {"symbol", interval.symbol}}));
    }
    mappings.push(wire::Json::object(
        {{"raw_symbol", mapping.raw_symbol}, {"intervals", std::move(intervals)}}));
  }
  return wire::Json::object(
      {{"version", static_cast<int>(metadata.version)},
       {"dataset", metadata.dataset},
       {"schema", name_json(metadata.schema)},
       {"start", time_json(metadata.start)},
       {"end", time_json(metadata.end)},
       {"limit", metadata.limit == 0 ? wire::Json() : wire::Json(metadata.limit)},
       {"stype_in", name_json(metadata.stype_in)},
       {"stype_out", name_json(metadata.stype_out)},
       {"ts_out", metadata.ts_out},
       {"symbols", to_json(metadata.symbols)},
       {"partial", to_json(metadata.partial)},
       {"not_found", to_json(metadata.not_found)},
       {"mappings", std::move(mappings)}});
}

}  // namespace defib::marketdata
