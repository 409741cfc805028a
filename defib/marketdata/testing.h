// What the tests of this module share: the real sample files, and files made for a purpose.

#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <string>
#include <vector>

#include "defib/marketdata/decoder.h"
#include "defib/marketdata/encoder.h"
#include "defib/os/files.h"

namespace defib::marketdata::testing_util {

inline std::string sample_dir() {
  const char* shared = ::getenv("DEFIB_SHARED");
  return shared == nullptr ? std::string() : std::string(shared) + "/data/dbn";
}

// Databento's own sample files are not part of the project.
#define DEFIB_NEED_SAMPLES()                                                                      \
  if (testing_util::sample_dir().empty() || !os::real_files().is_dir(testing_util::sample_dir())) \
  GTEST_SKIP()                                                                                    \
      << "the sample files are not here: set DEFIB_SHARED to the directory that has data/dbn"

inline std::string sample(const std::string& name) {
  auto bytes = os::read_file(os::real_files(), sample_dir() + "/" + name);
  EXPECT_TRUE(bytes.has_value()) << name;
  return bytes ? std::move(*bytes) : std::string();
}

// A record that owns its bytes.
struct Kept {
  std::string bytes;
  bool ts_out = false;
  RecordView view() const { return {bytes.data(), ts_out}; }
};

struct Decoded {
  std::optional<Metadata> metadata;
  std::vector<Kept> records;
  std::optional<Error> error;
  std::uint8_t version = 0;
};

// Decodes in pieces of `piece` bytes; each piece dies before the next is fed, as a buffer would.
inline Decoded decode(std::string_view bytes, DecoderOptions options = {},
                      std::size_t piece = std::string_view::npos) {
  Decoder decoder(options);
  Decoded decoded;
  bool more = true;
  while (more && !decoded.error) {
    const std::string part(bytes.substr(0, piece));
    bytes.remove_prefix(part.size());
    if (part.empty()) break;
    auto fed = decoder.feed(part);
    if (!fed) decoded.error = fed.error();
    while (!decoded.error) {
      auto record = decoder.next();
      if (!record) {
        decoded.error = record.error();
      } else if (*record) {
        decoded.records.push_back({std::string((*record)->bytes()), (*record)->has_ts_out()});
      } else {
        break;
      }
    }
  }
  if (!decoded.error) {
    if (auto whole = decoder.finish(); !whole) decoded.error = whole.error();
  }
  if (decoder.metadata() != nullptr) decoded.metadata = *decoder.metadata();
  decoded.version = decoder.version();
  return decoded;
}

inline Metadata some_metadata(Schema schema, std::uint8_t version = kNewestVersion) {
  Metadata metadata;
  metadata.version = version;
  metadata.dataset = "GLBX.MDP3";
  metadata.schema = schema;
  metadata.start = 1'609'160'400'000'000'000;
  metadata.end = 1'609'200'000'000'000'000;
  metadata.stype_in = SType::kRawSymbol;
  metadata.symbol_size = version == 1 ? kSymbolSizeV1 : kSymbolSize;
  metadata.symbols = {"ESH1"};
  metadata.mappings = {{"ESH1", {{20201228, 20201229, "5482"}}}};
  return metadata;
}

inline MboMsg some_mbo(std::uint32_t sequence) {
  MboMsg mbo = {};
  mbo.hd.rtype = RType::kMbo;
  mbo.hd.publisher_id = 1;
  mbo.hd.instrument_id = 5482;
  mbo.hd.ts_event = 1'609'160'400'000'000'000 + sequence;
  mbo.order_id = sequence;
  mbo.price = 3'722'750'000'000;
  mbo.size = 1;
  mbo.action = 'A';
  mbo.side = 'B';
  mbo.ts_recv = mbo.hd.ts_event + 1000;
  mbo.sequence = sequence;
  return mbo;
}

// A whole file with `count` records of the order book, numbered from 0.
inline std::string mbo_file(std::uint32_t count, bool compressed = false) {
  std::string bytes;
  Encoder encoder(bytes, compressed);
  EXPECT_TRUE(encoder.metadata(some_metadata(Schema::kMbo)).has_value());
  for (std::uint32_t i = 0; i < count; ++i) encoder.record(some_mbo(i));
  encoder.finish();
  return bytes;
}

}  // namespace defib::marketdata::testing_util
