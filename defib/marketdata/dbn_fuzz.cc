// Any bytes, in any pieces: decoding ends; what it delivers are whole records; it says the same in
// whole and in pieces, and the walk over memory agrees with it; an error names its place; and what
// was delivered can be written as JSON and encoded again.

#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/marketdata/decoder.h"
#include "defib/marketdata/encoder.h"
#include "defib/marketdata/json.h"
#include "defib/marketdata/symbols.h"
#include "defib/wire/json.h"

namespace {

using namespace defib;
using namespace defib::marketdata;

struct Outcome {
  std::string records;
  std::uint64_t count = 0;
  bool failed = false;
  bool limited = false;  // where a limit strikes depends on the blocks
};

void use(const RecordView& record) {
  DEFIB_ASSERT(record.size() >= sizeof(RecordHeader) && record.size() <= kMaxRecordSize);
  static_cast<void>(record.index_ts());
  std::string line;
  append_json(line, record);
  DEFIB_ASSERT(wire::Json::parse(line).has_value());
}

void check_error(const Error& error) {
  DEFIB_ASSERT(!error.field("offset").empty() || !error.field("compressed_offset").empty());
}

Outcome decode(std::string_view bytes, const DecoderOptions& options, std::size_t piece) {
  Decoder decoder(options);
  Outcome outcome;
  while (!bytes.empty() && !outcome.failed) {
    const std::string part(bytes.substr(0, piece));
    bytes.remove_prefix(part.size());
    DEFIB_ASSERT(decoder.feed(part).has_value());
    while (true) {
      const auto record = decoder.next();
      if (!record) {
        check_error(record.error());
        outcome.failed = true;
        outcome.limited = record.error().code() == Code::kLimitExceeded;
        break;
      }
      if (!*record) break;
      if (outcome.count < 64) use(**record);
      outcome.records += (*record)->bytes();
      ++outcome.count;
    }
  }
  if (!outcome.failed) {
    if (const auto whole = decoder.finish(); !whole) {
      check_error(whole.error());
      outcome.failed = true;
    }
  }
  if (decoder.metadata() != nullptr) {
    static_cast<void>(to_json(*decoder.metadata()).dump());
    static_cast<void>(TsSymbolMap::from(*decoder.metadata()));
    static_cast<void>(encode_metadata(*decoder.metadata()));
  }
  return outcome;
}

void compare_with_walk(std::string_view bytes, const Outcome& outcome) {
  auto document = open_document(bytes);
  if (!document) return;
  RecordView record;
  std::string records;
  while (document->records.next(record)) records += record.bytes();
  DEFIB_ASSERT(records == outcome.records);
  const bool clean = !document->records.refused() && document->records.rest().empty();
  DEFIB_ASSERT(clean == !outcome.failed);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  DecoderOptions options;
  options.fragment = (data[0] & 1U) != 0;
  options.upgrade = (data[0] & 2U) != 0 ? UpgradePolicy::kUpgradeToV3 : UpgradePolicy::kAsIs;
  options.version = (data[0] >> 2U) % 4;
  options.max_window_log = 20;
  options.max_size = 8 << 20;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const Outcome whole = decode(bytes, options, bytes.size());
  const Outcome pieces = decode(bytes, options, 1 + data[1]);
  DEFIB_ASSERT(whole.failed == pieces.failed);
  const bool compressed = !bytes.starts_with("DBN") && !options.fragment;
  if (whole.failed && (compressed || options.fragment || whole.limited)) {
    // The decompressor may keep what it has of a block whose end is damaged.
    DEFIB_ASSERT(whole.records.starts_with(pieces.records) ||
                 pieces.records.starts_with(whole.records));
  } else {
    DEFIB_ASSERT(whole.records == pieces.records);
  }
  if (!options.fragment && options.upgrade == UpgradePolicy::kAsIs) compare_with_walk(bytes, whole);
  return 0;
}
