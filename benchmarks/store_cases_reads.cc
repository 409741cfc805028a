// Reading, the bytes on disk, and the memory.

#include <fmt/core.h>

#include "benchmarks/store_harness.h"

namespace defib::bench {
namespace {

const std::vector<std::string> kReaders = {"RocksDB", "LevelDB", "LMDB", "SQLite"};

}  // namespace

void read_case(Harness& harness) {
  const Scale& scale = harness.scale();
  const Words all = {word("records", scale.small), word("gets", scale.small)};
  // One store each, at rest and closed, which every run opens anew.
  std::map<std::string, std::string> dirs;
  for (const Contender* contender : harness.contenders(kReaders)) {
    dirs[contender->name] = harness.fresh_dir();
    harness.run(*contender, "puts",
                {word("dir", dirs[contender->name]), word("records", scale.small),
                 word("batch", 1000.0), word("then", "rest")});
  }
  const auto rested =
      harness.alternate(harness.contenders(kReaders), scale.runs, [&](const Contender& contender) {
        Words words = all;
        words.push_back(word("dir", dirs[contender.name]));
        words.push_back(word("then", "close"));
        return harness.measure(contender, "reads", words);
      });
  for (const auto& [name, dir] : dirs) harness.drop(dir);

  // Of ours and the stores with a log of their own: still in it, and in memory.
  const auto fresh = harness.alternate(harness.contenders({"RocksDB", "LevelDB"}), scale.runs,
                                       [&](const Contender& contender) {
                                         Words words = all;
                                         const std::string dir = harness.fresh_dir();
                                         words.push_back(word("dir", dir));
                                         words.push_back(word("load", 1.0));
                                         words.push_back(word("all_in_log", 1.0));
                                         auto result = harness.measure(contender, "reads", words);
                                         harness.drop(dir);
                                         return result;
                                       });
  const std::map<std::string, Target> gets = {{"LMDB", {Bound::kRatioAtLeast, 1}}};
  const std::map<std::string, Target> scans = {{"LMDB", {Bound::kRatioAtLeast, 0.8}}};
  // LMDB has no log: the fresh log is held against LMDB's only form.
  auto fresh_beside = fresh;
  if (const auto lmdb = rested.find("LMDB"); lmdb != rested.end()) {
    fresh_beside.emplace("LMDB", lmdb->second);
  }
  harness.rows("random gets, at rest", "throughput", "gets/s", "gets_per_s", rested, gets);
  harness.rows("random gets, from the fresh log", "throughput", "gets/s", "gets_per_s",
               fresh_beside, gets);
  harness.rows("ordered scan, at rest", "throughput", "records/s", "scanned_per_s", rested, scans);
  harness.rows("ordered scan, from the fresh log", "throughput", "records/s", "scanned_per_s",
               fresh_beside, scans);
}

void size_case(Harness& harness) {
  const Scale& scale = harness.scale();
  std::vector<std::string> peers = kReaders;
  peers.push_back("LMDB writemap");
  const double user_bytes = static_cast<double>(scale.small * kRecordBytes);
  const auto sizes = [&](const Words& more) {
    return harness.alternate(harness.contenders(peers), 1, [&](const Contender& contender) {
      const std::string dir = harness.fresh_dir();
      Words words = {word("dir", dir), word("records", scale.small), word("batch", 100.0),
                     word("sizes", 1.0)};
      words.insert(words.end(), more.begin(), more.end());
      auto result = harness.run(contender, "puts", words);
      harness.drop(dir);
      if (result) {
        for (const std::string field : {"log", "resting", "written"}) {
          result->set(field, (*result)[field + "_bytes"].as_double() / user_bytes);
        }
      }
      return result;
    });
  };
  const auto logged = sizes({word("all_in_log", 1.0)});
  harness.rows("bytes on disk for each of the user's", "in the log", "bytes", "log", logged,
               {{"defib", {Bound::kAtMost, 1.25}}});
  harness.rows("bytes on disk for each of the user's", "at rest", "bytes", "resting", logged,
               {{"defib", {Bound::kAtMost, 1.15}}});
  const auto usual = sizes({});
  harness.rows("bytes written for each of the user's", "log, checkpoints, merges", "bytes",
               "written", usual, {});
}

// A cache, and a bound for changes in memory, that are small beside the data. Changes are held
// twice while one lot of them is written out.
void memory_case(Harness& harness) {
  constexpr std::uint64_t kCache = 64 << 20;
  constexpr std::uint64_t kChanges = 64 << 20;
  constexpr double kMega = 1 << 20;
  const Scale& scale = harness.scale();
  const auto samples =
      harness.alternate(harness.contenders(kReaders), 1, [&](const Contender& contender) {
        const std::string dir = harness.fresh_dir();
        auto result = harness.run(contender, "memory",
                                  {word("dir", dir), word("records", scale.medium),
                                   word("cache", kCache), word("write_buffer", kChanges)});
        harness.drop(dir);
        if (result) {
          for (const std::string field : {"anonymous", "file"}) {
            result->set(field, (*result)[field + "_bytes"].as_double() / kMega);
          }
        }
        return result;
      });
  const std::string name = fmt::format("memory, {:.0f} MB of data, cache {} MB, changes {} MB",
                                       static_cast<double>(scale.medium * kRecordBytes) / kMega,
                                       kCache >> 20, kChanges >> 20);
  harness.rows(name, "anonymous, largest", "MB", "anonymous", samples,
               {{"defib", {Bound::kAtMost, (kCache + 2 * kChanges) / kMega}}});
  harness.rows(name, "mapped files, largest", "MB", "file", samples,
               {{"defib", {Bound::kAtMost, kCache / kMega}}});
}

}  // namespace defib::bench
