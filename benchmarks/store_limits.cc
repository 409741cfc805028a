// What the machine can do without a store, by the barest programs there are: synced writes into a
// file of zeros, and a log of the same bytes that is mapped, checked and sorted on one thread.

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

#include "benchmarks/store_engine.h"
#include "benchmarks/store_harness.h"
#include "defib/base/bytes.h"
#include "defib/os/files.h"

namespace defib::bench {
namespace {

using wire::Json;

constexpr std::size_t kRawRecord = kRecordBytes + 16;  // with a header of 16 bytes
constexpr std::size_t kZeroStep = 64 << 10;            // bytes zeroed in one write
constexpr std::uint64_t kRawFile = 64 << 20;

std::int64_t now() {
  return os::real_clock().mono_ns();
}

// `batch` records in one write, then a sync, again and again.
Result<Json> raw_commits(const Parameters& parameters) {
  const std::string dir = parameters.text("dir");
  const std::size_t size = kRawRecord * parameters.number("batch", 1);
  DEFIB_TRY(os::real_files().create_dirs(dir));
  DEFIB_TRY_ASSIGN(const auto file,
                   os::real_files().open(os::join_path(dir, "raw"), os::OpenMode::kCreateNew));
  const std::string zeros(kZeroStep, '\0');
  for (std::uint64_t at = 0; at < kRawFile; at += zeros.size()) {
    DEFIB_TRY(file->write_at(at, zeros));
  }
  DEFIB_TRY(file->sync());
  const std::string record(size, 'r');
  const auto length = static_cast<std::int64_t>(parameters.real("seconds", 1) * 1e9);
  std::vector<std::uint32_t> latencies;
  const std::int64_t start = now();
  std::uint64_t at = 0;
  for (std::int64_t time = start; time < start + length;) {
    DEFIB_TRY(file->write_at(at, record));
    DEFIB_TRY(file->sync());
    at = at + 2 * size > kRawFile ? 0 : at + size;
    const std::int64_t done = now();
    latencies.push_back(static_cast<std::uint32_t>(done - time));
    time = done;
  }
  const double seconds = static_cast<double>(now() - start) / 1e9;
  Json result = latency_json(latencies, seconds);
  result.set("per_s", result["per_s"].as_double() * static_cast<double>(size / kRawRecord));
  return result;
}

// The floor's log: blocks of {u32 crc, u32 size} and records of {u16 key size, u32 value size, key,
// value, padding}, with as many bytes for a record as the store's own log has.
constexpr std::size_t kBlockHeader = 8;
constexpr std::size_t kRecordHeader = 6;
constexpr std::uint64_t kBlockRecords = 100;

Result<Json> floor_log(const Parameters& parameters) {
  const std::string dir = parameters.text("dir");
  const std::uint64_t records = parameters.number("records");
  const bool random = parameters.text("keys", "random") == "random";
  const std::uint64_t bytes = parameters.number("bytes");
  const std::uint64_t per_record = records == 0 ? 0 : bytes / records;
  const std::size_t padding =
      per_record > kRecordBytes + kRecordHeader ? per_record - kRecordBytes - kRecordHeader : 0;
  DEFIB_TRY(os::real_files().create_dirs(dir));
  DEFIB_TRY_ASSIGN(const auto file,
                   os::real_files().open(os::join_path(dir, "log"), os::OpenMode::kCreateNew));
  std::uint64_t at = 0;
  std::string block;
  for (std::uint64_t first = 0; first < records; first += kBlockRecords) {
    std::string payload;
    Writer writer(payload);
    for (std::uint64_t n = first; n < std::min(records, first + kBlockRecords); ++n) {
      writer.u16(kKeySize);
      writer.u32(kValueSize);
      writer.bytes(make_key(n, random));
      writer.bytes(make_value(n));
      payload.append(padding, '\0');
    }
    block.clear();
    Writer header(block);
    header.u32(crc32c(payload));
    header.u32(static_cast<std::uint32_t>(payload.size()));
    block += payload;
    DEFIB_TRY(file->write_at(at, block));
    at += block.size();
  }
  DEFIB_TRY(file->sync());
  return Json::object({{"bytes", at}, {"padding", padding}});
}

struct IndexEntry {
  std::uint64_t prefix;
  std::uint64_t offset;
};

// Least significant digit first, 11 bits a pass; a pass in which all agree is left out.
void radix_sort(std::vector<IndexEntry>& entries) {
  constexpr int kBits = 11;
  constexpr std::size_t kBuckets = 1 << kBits;
  std::vector<IndexEntry> other(entries.size());
  for (int shift = 0; shift < 64; shift += kBits) {
    std::array<std::uint32_t, kBuckets> starts{};
    for (const IndexEntry& entry : entries) ++starts[(entry.prefix >> shift) & (kBuckets - 1)];
    if (std::ranges::find(starts, entries.size()) != starts.end()) continue;
    std::uint32_t sum = 0;
    for (std::uint32_t& start : starts) sum += std::exchange(start, sum);
    for (const IndexEntry& entry : entries) {
      other[starts[(entry.prefix >> shift) & (kBuckets - 1)]++] = entry;
    }
    entries.swap(other);
  }
}

Result<Json> floor_replay(const Parameters& parameters) {
  const std::uint64_t records = parameters.number("records");
  const std::size_t padding = parameters.number("padding");
  const std::int64_t start = now();
  DEFIB_TRY_ASSIGN(
      const auto file,
      os::real_files().open(os::join_path(parameters.text("dir"), "log"), os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const auto view, file->map());
  const std::string_view log = view->bytes();
  std::vector<IndexEntry> index;
  index.reserve(records);
  for (std::size_t at = 0; at + kBlockHeader <= log.size();) {
    const auto crc = load<std::uint32_t>(log.data() + at);
    const auto size = load<std::uint32_t>(log.data() + at + 4);
    const std::size_t begin = at + kBlockHeader;
    if (size > log.size() - begin || crc32c(log.substr(begin, size)) != crc) {
      return engine_error(fmt::format("a bad block at {}", at));
    }
    for (std::size_t record = begin; record < begin + size;) {
      const auto key_size = load<std::uint16_t>(log.data() + record);
      const auto value_size = load<std::uint32_t>(log.data() + record + 2);
      const char* const key = log.data() + record + kRecordHeader;
      index.push_back({__builtin_bswap64(load<std::uint64_t>(key)), record});
      record += kRecordHeader + key_size + value_size + padding;
    }
    at = begin + size;
  }
  radix_sort(index);
  const double ms = static_cast<double>(now() - start) / 1e6;
  if (index.size() != records) return engine_error("the floor's log has lost records");
  if (!std::ranges::is_sorted(index, {}, &IndexEntry::prefix)) {
    return engine_error("the floor's index is not sorted");
  }
  return Json::object({{"first_read_ms", ms}, {"bytes", log.size()}});
}

}  // namespace

Result<Json> run_limit(const std::string& name, const Parameters& parameters) {
  if (name == "raw_commits") return raw_commits(parameters);
  if (name == "floor_log") return floor_log(parameters);
  if (name == "floor_replay") return floor_replay(parameters);
  return Error(Code::kWrongUsage, "there is no limit '" + name + "'");
}

}  // namespace defib::bench
