// Any bytes as a log segment: scanning and assessing them is total, and whatever blocks the scan
// accepts decode without reading outside of them.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "defib/base/bytes.h"
#include "defib/store/log_reader.h"
#include "defib/store/picture.h"

using namespace defib;
using namespace defib::store;

// Checksums that are right, so that mutations reach what lies behind them.
static void mend(std::string& bytes) {
  if (bytes.size() < kPageSize) return;
  store_value(bytes.data() + kPageSize - 4,
              crc32c(std::string_view(bytes).substr(0, kPageSize - 4)));
  for (std::size_t at = kPageSize; at + kBlockHeaderSize <= bytes.size();) {
    const auto size = load<std::uint32_t>(bytes.data() + at + 28);
    const std::string_view rest = std::string_view(bytes).substr(at + kBlockHeaderSize);
    store_value(bytes.data() + at + 44, crc32c(rest.substr(0, size)));
    store_value(bytes.data() + at + 4,
                crc32c(std::string_view(bytes).substr(at + 8, kBlockHeaderSize - 8)));
    at += align_up(kBlockHeaderSize + std::uint64_t{size}, kBlockAlignment);
  }
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  std::string bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  if (data[0] % 2 == 0) mend(bytes);
  std::string name = segment_name(1, 1);
  // As if the directory belonged to whatever the bytes say.
  LogContext context;
  std::string problem;
  if (const auto header = decode_segment_header(bytes, problem)) {
    context.identity.uuid = header->uuid;
    name = segment_name(header->first_lsn, header->epoch & 0xffffffff);
    if (header->first_lsn > 1) {
      context.base.emplace();
      context.base->lsn = header->first_lsn - 1;
    }
  }
  std::vector<Segment> segments;
  segments.push_back(Segment::of(std::move(name), std::move(bytes)));
  scan_segment(segments[0], context.identity);
  const auto log = assess_log(segments, context);
  if (!log) return 0;
  const auto transactions = live_transactions(segments, *log, 0);
  if (!transactions) return 0;
  Catalog catalog;
  for (const TransactionView& transaction : *transactions) apply(catalog, transaction);
  for (TableState& table : catalog.tables) {
    if (!check(table.tree)) std::abort();
    destroy(table.tree);
  }
  return 0;
}
