// Any bytes as a log segment: scanning and assessing them is total, and whatever blocks the scan
// accepts are replayed to what applying their transactions in order gives, or refused by both.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "defib/base/bytes.h"
#include "defib/store/executor.h"
#include "defib/store/log_reader.h"
#include "defib/store/replay.h"
#include "defib/store/testing/fuzz_store.h"

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

// (table, key) -> value, or none where it is erased.
using Expected = std::map<std::pair<std::string, std::string>, std::optional<std::string>>;

static std::optional<Expected> apply_in_order(const std::vector<Segment>& segments,
                                              const LogAssessment& log, std::uint64_t after) {
  Expected all;
  for (const std::size_t index : log.live) {
    for (const ScannedBlock& block : segments[index].blocks()) {
      if (block.header.next_lsn() <= after + 1) continue;
      std::string problem;
      const auto transactions = decode_transactions(
          segments[index].payload(block), block.header.first_lsn, block.header.count, problem);
      if (!transactions) return std::nullopt;
      for (const TransactionView& transaction : *transactions) {
        if (transaction.number <= after) continue;
        for (const RecordView& change : transaction.changes) {
          std::optional<std::string> value;
          if (!change.erased) value = std::string(change.value);
          all[{std::string(change.table), std::string(change.key)}] = std::move(value);
        }
      }
    }
  }
  return all;
}

static Expected read(Overlay& overlay, const TableNames& names) {
  Expected all;
  const auto view = overlay.view();
  for (const TableId table : view->tables()) {
    const auto cursor = view->cursor(table);
    for (bool more = cursor->first(); more; more = cursor->next()) {
      std::optional<std::string> value;
      if (!cursor->erased()) value = std::string(cursor->value());
      all[{std::string(names.name(table)), std::string(cursor->key())}] = std::move(value);
    }
  }
  return all;
}

// The segments of a small store, without most of their zeros.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  const testing_util::FuzzedStore store = testing_util::make_fuzzed_store(6, false);
  std::vector<std::string> seeds;
  for (const std::string& path : store.disk->all_files()) {
    if (!path.ends_with(".wal")) continue;
    const std::string content = store.disk->content(path);
    const std::string segment = content.substr(0, content.find_last_not_of('\0') + 64);
    for (char mode = 0; mode < 2; ++mode) seeds.push_back(std::string(1, mode) + segment);
  }
  testing_util::fuzz_require(!seeds.empty());
  testing_util::write_seeds(seeds);
  return 0;
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
  const std::uint64_t after = context.base ? context.base->lsn : 0;
  const std::optional<Expected> expected = apply_in_order(segments, *log, after);
  TableNames names;
  const auto replayed = replay_log(segments, *log, after, names, no_helpers(), nullptr);
  if (replayed.has_value() != expected.has_value()) std::abort();
  if (replayed && (!replayed->overlay->check() || read(*replayed->overlay, names) != *expected)) {
    std::abort();
  }
  return 0;
}
