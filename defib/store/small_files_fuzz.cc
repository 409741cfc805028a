// Any bytes as store.id, as the lock's record, as the clean mark and as the recovery marker of a
// store: looking at it and opening it are total, and what opens shows the commits that were made.
// Half of the inputs get right checksums, so that mutations reach what lies behind them.

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "defib/base/bytes.h"
#include "defib/store/format.h"
#include "defib/store/lock.h"
#include "defib/store/plan.h"
#include "defib/store/sorted_file.h"
#include "defib/store/testing/fuzz_store.h"

using namespace defib;
using namespace defib::store;
using namespace defib::store::testing_util;

namespace {

constexpr int kCommits = 4;
constexpr std::string_view kNames[] = {kIdentityFile, kLockFile, kCleanMarker, kRecoveryMarker};

const FuzzedStore& sample(bool closed) {
  static const FuzzedStore open = make_fuzzed_store(kCommits, false);
  static const FuzzedStore clean = make_fuzzed_store(kCommits, true);
  return closed ? clean : open;
}

// The last four bytes of store.id and clean mark are their checksum; the lock's record says it in
// hexadecimal digits.
void mend(std::string_view name, std::string& text) {
  constexpr std::string_view kLockStart = "defib-lock 1 crc=";
  if (name == kLockFile) {
    const std::size_t body = kLockStart.size() + 9;
    if (text.size() <= body) return;
    const std::size_t end = text.find_last_not_of(" \n");
    const std::string_view covered =
        end < body ? std::string_view() : std::string_view(text).substr(body, end + 1 - body);
    text.replace(0, body, fmt::format("{}{:08x} ", kLockStart, crc32c(covered)));
  } else if (name != kRecoveryMarker && text.size() >= 4) {
    const std::size_t body = text.size() - 4;
    store_value(text.data() + body, crc32c(std::string_view(text).substr(0, body)));
  }
}

// What decodes is what its encoding says.
void check_decoders(std::string_view bytes) {
  std::string problem;
  if (const auto identity = decode_identity(bytes, problem)) {
    const auto again = decode_identity(encode(*identity), problem);
    fuzz_require(again && again->uuid == identity->uuid && again->page_size == identity->page_size);
  } else {
    fuzz_require(!problem.empty());
  }
  problem.clear();
  if (const auto record = decode_clean_record(bytes, problem)) {
    const auto again = decode_clean_record(encode(*record), problem);
    fuzz_require(again && again->lsn == record->lsn && again->epoch == record->epoch);
  } else {
    fuzz_require(!problem.empty());
  }
  (void)decode_lock_record(bytes);
  (void)parse_segment_name(bytes);
  (void)parse_checkpoint_name(bytes);
  (void)parse_sorted_file_name(bytes);
}

bool is_typed(const Error& error) {
  return error.number() <= -70 && error.number() >= -90;
}

void check_store(std::string_view name, os::SimFiles& disk, const Shown& expected) {
  const os::FakeClock clock;
  const Options options = fuzz_options(disk, clock);
  (void)Store::status("/s", options);
  (void)Store::verify_files("/s", options);
  (void)plan_recovery("/s", options);
  if (const auto snapshot = Store::open_read_only("/s", options)) {
    const auto shown = show(**snapshot);
    fuzz_require(shown && *shown == expected);
  }
  const auto store = Store::open("/s", options);
  if (!store) {
    fuzz_require(is_typed(store.error()));
    // These two tell how the last life ended, and are no part of what there is.
    fuzz_require(name != kLockFile && name != kRecoveryMarker);
    return;
  }
  const auto shown = show(**(*store)->snapshot());
  fuzz_require(shown && *shown == expected);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  std::vector<std::string> seeds;
  for (char mode = 0; mode < 32; ++mode) {
    const std::string path = "/s/" + std::string(kNames[mode & 3]);
    const os::SimFiles& disk = *sample((mode & 4) != 0).disk;
    const auto files = disk.all_files();
    const bool is_there = std::find(files.begin(), files.end(), path) != files.end();
    const bool is_whole = (mode & 16) != 0;
    seeds.push_back(std::string(1, mode) + (is_there && is_whole ? disk.content(path) : "abc"));
  }
  write_seeds(seeds);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  check_decoders(input);
  const std::string_view name = kNames[data[0] & 3];
  const FuzzedStore& subject = sample((data[0] & 4) != 0);
  const auto disk = subject.disk->killed(0, 0);
  const std::string path = "/s/" + std::string(name);
  std::string text = disk->exists(path) ? disk->content(path) : std::string();
  edit(text, (data[0] & 16) != 0, input);
  if ((data[0] & 8) != 0) mend(name, text);
  check_decoders(text);
  fuzz_require(disk->open(path, os::OpenMode::kCreate).has_value());
  disk->set_content(path, text);
  check_store(name, *disk, subject.after.back());
  return 0;
}
