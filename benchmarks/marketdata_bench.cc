// DBN decoding against a bare loop that walks the record headers of the same bytes, in one process:
// what is measured on top of the walk is validation, the views and the pieces. Raw and compressed;
// one core; medians of kRuns, which alternate between ours and the peer.
//
// The reader takes one field of each record, so that neither loop can be left out. Bytes are those
// of real order-book records with changing numbers; "small" stays in the cache, "large" does not.

#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/marketdata/decoder.h"
#include "defib/marketdata/encoder.h"
#include "defib/marketdata/json.h"
#include "defib/marketdata/zstd_stream.h"
#include "defib/os/clock.h"
#include "defib/wire/json.h"

namespace {

using namespace defib;
using namespace defib::marketdata;

constexpr int kRuns = 11;
constexpr std::size_t kPiece = 64 << 10;  // what a socket or a file gives at once

struct Case {
  std::string name;
  std::string bytes;
  std::size_t records = 0;
  std::size_t records_offset = 0;
  int repeats = 1;
};

Metadata metadata_of(Schema schema) {
  Metadata metadata;
  metadata.dataset = "GLBX.MDP3";
  metadata.schema = schema;
  metadata.stype_in = SType::kRawSymbol;
  metadata.symbols = {"ESH1"};
  metadata.mappings = {{"ESH1", {{20201228, 20201229, "5482"}}}};
  return metadata;
}

MboMsg mbo_of(std::uint64_t i) {
  MboMsg mbo = {};
  mbo.hd.rtype = RType::kMbo;
  mbo.hd.publisher_id = 1;
  mbo.hd.instrument_id = 5482;
  mbo.hd.ts_event = 1'609'160'400'000'429'831 + i * 1833;
  mbo.order_id = 647'784'973'705 + (i * 2'654'435'761U) % 4096;
  mbo.price = 3'722'750'000'000 + static_cast<std::int64_t>(i * 40503 % 64) * 250'000'000;
  mbo.size = static_cast<std::uint32_t>(1 + i % 7);
  mbo.action = "ACMT"[i % 4];
  mbo.side = "AB"[i % 2];
  mbo.ts_recv = mbo.hd.ts_event + 20'000;
  mbo.sequence = static_cast<std::uint32_t>(i);
  return mbo;
}

Mbp10Msg mbp10_of(std::uint64_t i) {
  Mbp10Msg book = {};
  book.hd.rtype = RType::kMbp10;
  book.hd.ts_event = 1'609'160'400'000'429'831 + i * 1833;
  book.sequence = static_cast<std::uint32_t>(i);
  return book;
}

template <typename Make>
Case make_case(std::string name, Schema schema, std::size_t count, int repeats, Make make) {
  Case made{std::move(name), {}, count, 0, repeats};
  Encoder encoder(made.bytes);
  DEFIB_ASSERT(encoder.metadata(metadata_of(schema)).has_value());
  made.records_offset = made.bytes.size();
  for (std::size_t i = 0; i < count; ++i) encoder.record(make(i));
  encoder.finish();
  return made;
}

// The peer: no check but the end of the bytes.
std::uint64_t walk_headers(std::string_view bytes) {
  std::uint64_t sum = 0;
  const char* at = bytes.data();
  const char* const end = at + bytes.size();
  while (at < end) {
    sum += load<std::uint64_t>(at + 8);
    at += std::size_t{static_cast<std::uint8_t>(at[0])} * 4;
  }
  return sum;
}

std::uint64_t walk_document(std::string_view bytes) {
  auto document = open_document(bytes);
  DEFIB_ASSERT(document.has_value());
  std::uint64_t sum = 0;
  RecordView record;
  RecordWalk walk = document->records;
  while (walk.next(record)) sum += record.ts_event();
  DEFIB_ASSERT(!walk.refused() && walk.rest().empty());
  return sum;
}

std::uint64_t decode(std::string_view bytes, bool one_by_one) {
  Decoder decoder;
  std::uint64_t sum = 0;
  while (!bytes.empty()) {
    DEFIB_ASSERT(decoder.feed(bytes.substr(0, kPiece)).has_value());
    bytes.remove_prefix(std::min(kPiece, bytes.size()));
    if (one_by_one) {
      for (auto record = decoder.next(); *record; record = decoder.next()) {
        sum += (*record)->ts_event();
      }
      continue;
    }
    const auto drained = decoder.drain([&](const RecordView& record) {
      sum += record.ts_event();
      return true;
    });
    DEFIB_ASSERT(drained.has_value());
  }
  DEFIB_ASSERT(decoder.finish().has_value());
  return sum;
}

// The peer of the compressed cases: unpacked by blocks, then walked.
std::uint64_t unpack_and_walk(std::string_view bytes, std::size_t records_offset,
                              std::vector<char>& block) {
  Decompressor decompressor;
  std::uint64_t sum = 0;
  std::size_t skip = records_offset;
  std::size_t held = 0;
  while (true) {
    const auto size = decompressor.next(bytes, block.data() + held, block.size() - held);
    DEFIB_ASSERT(size.has_value());
    if (*size == 0) return sum;
    const char* at = block.data() + std::min(skip, held + *size);
    skip -= std::min(skip, held + *size);
    const char* const end = block.data() + held + *size;
    while (end - at >= 16 && end - at >= static_cast<std::uint8_t>(at[0]) * 4) {
      sum += load<std::uint64_t>(at + 8);
      at += std::size_t{static_cast<std::uint8_t>(at[0])} * 4;
    }
    held = static_cast<std::size_t>(end - at);
    std::copy(at, end, block.data());
  }
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

template <typename Function>
double seconds_of(int repeats, std::uint64_t expected, Function&& function) {
  const std::int64_t started = os::real_clock().mono_ns();
  for (int i = 0; i < repeats; ++i) DEFIB_ASSERT(function() == expected);
  return static_cast<double>(os::real_clock().mono_ns() - started) / 1e9;
}

// Both in turns, so that what else the machine does meets both.
template <typename Ours, typename Peer>
void measure(const Case& one, std::string_view way, std::string_view peer_name, Ours&& ours,
             Peer&& peer) {
  const std::uint64_t expected = peer();
  std::vector<double> ours_rates;
  std::vector<double> peer_rates;
  const auto records = static_cast<double>(one.records) * one.repeats;
  for (int run = 0; run < kRuns; ++run) {
    ours_rates.push_back(records / seconds_of(one.repeats, expected, ours));
    peer_rates.push_back(records / seconds_of(one.repeats, expected, peer));
  }
  const double ours_rate = median(ours_rates);
  const double peer_rate = median(peer_rates);
  // Record by record costs what it costs; who wants speed drains.
  const bool is_judged = !way.ends_with("next");
  fmt::print("{}\n",
             wire::Json::object(
                 {{"bench", "marketdata"},
                  {"case", fmt::format("{}, {}", one.name, way)},
                  {"metric", "records"},
                  {"unit", "M/s"},
                  {"ours", ours_rate / 1e6},
                  {"peer_name", peer_name},
                  {"peer", peer_rate / 1e6},
                  {"ratio", ours_rate / peer_rate},
                  {"runs", kRuns},
                  {"target", is_judged ? wire::Json("ratio >= 0.8") : wire::Json()},
                  {"met", is_judged ? wire::Json(ours_rate >= 0.8 * peer_rate) : wire::Json()}})
                 .dump());
}

void run(const Case& one) {
  const std::string_view bytes = one.bytes;
  const auto bare = [&] { return walk_headers(bytes.substr(one.records_offset)); };
  constexpr std::string_view kBare = "bare loop over headers";
  measure(one, "raw, in memory", kBare, [&] { return walk_document(bytes); }, bare);
  measure(one, "raw, pieces, drain", kBare, [&] { return decode(bytes, false); }, bare);
  measure(one, "raw, pieces, next", kBare, [&] { return decode(bytes, true); }, bare);
  std::string packed;
  Compressor compressor;
  compressor.write(bytes, packed);
  compressor.finish(packed);
  std::vector<char> block(Decoder::kBlockSize + kMaxRecordSize);
  measure(
      one, "zstd, pieces, drain", "zstd and bare loop", [&] { return decode(packed, false); },
      [&] { return unpack_and_walk(packed, one.records_offset, block); });
}

void run_json(const Case& one) {
  const auto document = open_document(one.bytes);
  std::string line;
  std::uint64_t total = 0;
  std::vector<double> rates;
  for (int i = 0; i < kRuns; ++i) {
    const std::int64_t started = os::real_clock().mono_ns();
    RecordWalk walk = document->records;
    RecordView record;
    while (walk.next(record)) {
      line.clear();
      append_json(line, record, {"ESH1"});
      total += line.size();
    }
    rates.push_back(static_cast<double>(one.records) * 1e9 /
                    static_cast<double>(os::real_clock().mono_ns() - started));
  }
  DEFIB_ASSERT(total > 0);
  fmt::print("{}\n", wire::Json::object({{"bench", "marketdata"},
                                         {"case", one.name + ", as JSON lines"},
                                         {"metric", "records"},
                                         {"unit", "M/s"},
                                         {"ours", median(rates) / 1e6},
                                         {"runs", kRuns}})
                         .dump());
}

}  // namespace

int main() {
  run(make_case("mbo, small", Schema::kMbo, 16'000, 64, mbo_of));
  const Case large = make_case("mbo, large", Schema::kMbo, 1'000'000, 1, mbo_of);
  run(large);
  run(make_case("mbp-10, large", Schema::kMbp10, 200'000, 1, mbp10_of));
  run_json(make_case("mbo", Schema::kMbo, 100'000, 1, mbo_of));
  return 0;
}
