// Recovery: from kill -9 to the first read, beside the peers and beside the barest replay there is.

#include <fmt/core.h>

#include <filesystem>

#include "benchmarks/store_harness.h"
#include "defib/base/bytes.h"
#include "defib/os/files.h"
#include "defib/os/random.h"

namespace defib::bench {
namespace {

using wire::Json;

// Once for the data: writes it, kills the writer, and opens it in a new process.
std::optional<Json> kill_and_open(Harness& harness, const Contender& who, std::uint64_t records,
                                  const std::string& keys) {
  const std::string dir = harness.fresh_dir();
  const Words common = {word("dir", dir), word("keys", keys), word("all_in_log", 1.0)};
  Words load = common;
  load.push_back(word("records", records));
  load.push_back(word("batch", 100.0));
  load.push_back(word("log", 1.0));
  load.push_back(word("then", "hold"));
  Words open = common;
  open.push_back(word("probe", records / 2));
  open.push_back(word("count", 1.0));
  std::optional<Json> result;
  const auto loaded = harness.run_and_kill(who, "puts", load);
  if (loaded) result = harness.measure(who, "open", open);
  if (result && (*result)["records"].as_uint() != records) {
    const std::string text = fmt::format("{} recovered {} of {} records", who.name,
                                         (*result)["records"].as_uint(), records);
    harness.require(who.name != harness.ours().name, text);
    harness.say(text);
  }
  if (result) result->set("log_bytes", (*loaded)["log_bytes"]);
  harness.drop(dir);
  return result;
}

// The same bytes without a store, `runs` times.
Samples floor_of(Harness& harness, std::uint64_t records, const std::string& keys, double bytes,
                 int runs) {
  Samples samples;
  const std::string dir = harness.fresh_dir();
  const auto log = harness.run(harness.limits(), "floor_log",
                               {word("dir", dir), word("records", records), word("keys", keys),
                                word("bytes", static_cast<std::uint64_t>(bytes))});
  for (int i = 0; log && i < runs; ++i) {
    const auto result = harness.measure(
        harness.limits(), "floor_replay",
        {word("dir", dir), word("records", records), word("padding", (*log)["padding"].as_uint())});
    if (result) samples.add(*result);
  }
  harness.drop(dir);
  return samples;
}

struct Replay {
  std::uint64_t records;
  std::string keys;
  std::vector<std::string> peers;
  int runs;
  int peer_runs;
  std::map<std::string, Target> targets;
};

void compare_replay(Harness& harness, const Replay& replay) {
  const auto measure = [&](const Contender& contender) {
    return kill_and_open(harness, contender, replay.records, replay.keys);
  };
  auto samples = harness.alternate(harness.contenders(replay.peers), replay.peer_runs, measure);
  const int more = replay.runs - replay.peer_runs;
  for (int i = 0; i < more; ++i) {
    if (const auto result = measure(harness.ours()); result) {
      samples[harness.ours().name].add(*result);
    }
  }
  const Samples& ours = samples[harness.ours().name];
  const double log_bytes = ours.median("log_bytes").value_or(0);
  const Samples floor = floor_of(harness, replay.records, replay.keys, log_bytes, replay.runs);
  samples["raw replay, 1 thread"] = floor;
  const std::string name = fmt::format("recovery, {:g} M {} keys in the log",
                                       static_cast<double>(replay.records) / 1e6, replay.keys);
  harness.rows(name, "open and first read", "ms", "first_read_ms", samples, replay.targets,
               floor.median("first_read_ms"));
  const double seconds = ours.median("first_read_ms").value_or(0) / 1e3;
  const double floor_seconds = floor.median("first_read_ms").value_or(0) / 1e3;
  if (seconds > 0 && floor_seconds > 0) {
    harness.row({name,
                 "log read",
                 "MB/s",
                 log_bytes / seconds / 1e6,
                 "",
                 {},
                 floor.median("bytes").value_or(0) / floor_seconds / 1e6,
                 replay.keys == "random" ? Target{Bound::kAtLeast, 1000} : Target{},
                 replay.runs});
  }
}

}  // namespace

void recovery_case(Harness& harness) {
  const Scale& scale = harness.scale();
  const Target within_floor{Bound::kRatioAtMost, 2};
  const Target thirty_times{Bound::kRatioAtMost, 1 / 30.0};
  const std::map<std::string, Target> random = {
      {"RocksDB", thirty_times}, {"LevelDB", thirty_times}, {"raw replay, 1 thread", within_floor}};
  const Target faster{Bound::kRatioAtMost, 1};
  compare_replay(
      harness,
      {scale.small, "random", {"RocksDB", "LevelDB", "SQLite", "LMDB"}, scale.runs, 1, random});
  compare_replay(harness,
                 {scale.medium, "random", {"RocksDB", "LevelDB"}, scale.long_runs, 1, random});
  compare_replay(harness, {scale.small,
                           "sequential",
                           {"RocksDB", "LevelDB", "SQLite", "LMDB"},
                           scale.runs,
                           scale.long_runs,
                           {{"RocksDB", faster}, {"LevelDB", faster}, {"SQLite", faster}}});
}

// A large store at rest with a short tail behind its checkpoint, and clean openings.
void tail_case(Harness& harness) {
  const Scale& scale = harness.scale();
  const Contender& ours = harness.ours();
  const auto load = [&](const std::string& dir, std::uint64_t records) {
    harness.run(
        ours, "puts",
        {word("dir", dir), word("records", records), word("batch", 1000.0), word("then", "rest")});
  };
  const auto open_clean = [&](const std::string& dir) {
    Samples samples;
    for (int i = 0; i < scale.runs; ++i) {
      const auto result = harness.measure(ours, "open", {word("dir", dir), word("then", "close")});
      if (result) samples.add(*result);
    }
    return samples;
  };
  const std::string small_dir = harness.fresh_dir();
  load(small_dir, scale.small);
  const Samples clean_small = open_clean(small_dir);
  harness.drop(small_dir);
  const std::string large_dir = harness.fresh_dir();
  load(large_dir, scale.large);
  const Samples clean_large = open_clean(large_dir);

  Samples tails;
  for (int i = 0; i < scale.long_runs; ++i) {
    const Words common = {word("dir", large_dir), word("all_in_log", 1.0)};
    Words write = common;
    // Spread over all the keys there are: each run updates its own share of them.
    write.push_back(word("first", scale.tail * static_cast<std::uint64_t>(i)));
    write.push_back(word("records", scale.tail));
    write.push_back(word("batch", 100.0));
    write.push_back(word("then", "hold"));
    harness.run_and_kill(ours, "puts", write);
    Words open = common;
    open.push_back(word("count", 1.0));
    open.push_back(word("then", "rest"));
    const auto result = harness.measure(ours, "open", open);
    if (!result) continue;
    harness.require((*result)["records"].as_uint() == scale.large, "records are missing");
    tails.add(*result);
  }
  harness.drop(large_dir);

  // The peers' tail alone: with 10 million records below it they would not be faster.
  std::map<std::string, Samples> samples =
      harness.alternate(harness.contenders({"RocksDB", "LevelDB"}), scale.long_runs,
                        [&](const Contender& contender) -> std::optional<Json> {
                          if (contender.name == ours.name) return std::nullopt;
                          return kill_and_open(harness, contender, scale.tail, "random");
                        });
  samples[ours.name] = tails;
  const auto millions = [](std::uint64_t records) {
    return fmt::format("{:g} M", static_cast<double>(records) / 1e6);
  };
  harness.rows(fmt::format("recovery, {} records and a 64 MB tail", millions(scale.large)),
               "open and first read", "ms", "first_read_ms", samples,
               {{"defib", {Bound::kAtMost, 60}}});
  const auto clean = [&](std::uint64_t records, const Samples& found) {
    harness.row({fmt::format("clean open, {} records", millions(records)),
                 "open and first read",
                 "ms",
                 found.median("first_read_ms"),
                 "",
                 {},
                 {},
                 {Bound::kAtMost, 3},
                 scale.runs});
  };
  clean(scale.small, clean_small);
  clean(scale.large, clean_large);
  harness.row({"clean open, independent of the data's size",
               "open and first read",
               "ms",
               clean_large.median("first_read_ms"),
               millions(scale.small),
               clean_small.median("first_read_ms"),
               {},
               {Bound::kRatioAtMost, 2},
               scale.runs});
}

// Killed at random times while it writes as fast as it can: every recovery within the budget, and
// everything acknowledged is there.
void budget_case(Harness& harness) {
  constexpr std::uint64_t kBudgetMs = 250;
  constexpr std::uint64_t kLongestLife = 1000;  // ms
  const Scale& scale = harness.scale();
  const Contender& ours = harness.ours();
  const std::string dir = harness.fresh_dir();
  const std::string acks = dir + ".acks";
  const Words common = {word("dir", dir), word("budget_ms", kBudgetMs)};
  os::Random random(17);
  Samples opens;
  std::uint64_t lost = 0;
  for (int i = 0; i < scale.kills; ++i) {
    Words write = common;
    write.push_back(word("key_space", scale.small));
    write.push_back(word("acks", acks));
    write.push_back(word("seed", random.next() >> 1));
    auto writer = harness.start(ours, "churn", write);
    if (!writer || !writer->line(std::chrono::minutes(1))) {
      harness.say("left out: this store has no recovery budget");
      harness.drop(dir);
      harness.drop(acks);
      return;
    }
    os::real_clock().sleep_for(std::chrono::milliseconds(random.below(kLongestLife)));
    writer->kill();
    const auto bytes = os::read_file(os::real_files(), acks);
    const std::uint64_t acknowledged =
        bytes && bytes->size() == 8 ? load<std::uint64_t>(bytes->data()) : 0;
    Words open = common;
    open.push_back(word("counter", 1.0));
    const auto result = harness.run(ours, "open", open);
    if (!result) break;
    opens.add(*result);
    if ((*result)["counter"].as_uint() < acknowledged) ++lost;
  }
  harness.drop(dir);
  harness.drop(acks);
  const std::string name =
      fmt::format("recovery budget of {} ms, {} kills at random", kBudgetMs, scale.kills);
  const double budget = kBudgetMs;
  harness.row({name,
               "open and first read, longest",
               "ms",
               opens.largest("first_read_ms"),
               "",
               {},
               budget,
               {Bound::kAtMost, budget},
               scale.kills});
  harness.row({name,
               "open and first read, p50",
               "ms",
               opens.median("first_read_ms"),
               "",
               {},
               budget,
               {},
               scale.kills});
  harness.row({name,
               "openings that lost a commit",
               "openings",
               static_cast<double>(lost),
               "",
               {},
               {},
               {Bound::kAtMost, 0},
               scale.kills});
}

// Commits beside a checkpoint of everything and the merges after it.
void checkpoint_case(Harness& harness) {
  const Scale& scale = harness.scale();
  Samples samples;
  for (int i = 0; i < scale.long_runs; ++i) {
    const std::string dir = harness.fresh_dir();
    const auto result =
        harness.measure(harness.ours(), "checkpoint_latency",
                        {word("dir", dir), word("records", scale.large), word("all_in_log", 1.0),
                         word("synced", 1.0), word("seconds", scale.latency_seconds)});
    harness.drop(dir);
    if (result) samples.add(*result);
  }
  const std::string name = fmt::format("synced commits beside a checkpoint of {:g} M records",
                                       static_cast<double>(scale.large) / 1e6);
  const auto row = [&](const std::string& metric, const std::string& unit, const std::string& field,
                       Target target) {
    harness.row({name,
                 metric,
                 unit,
                 samples.median("busy." + field),
                 "idle",
                 samples.median("idle." + field),
                 {},
                 target,
                 scale.long_runs});
  };
  row("throughput", "commits/s", "per_s", {});
  row("p50", "us", "p50_us", {});
  row("p99", "us", "p99_us", {Bound::kRatioAtMost, 3});
  row("p99.9", "us", "p999_us", {Bound::kRatioAtMost, 6});
  harness.row({name,
               "checkpoint and merges",
               "s",
               samples.median("seconds"),
               "",
               {},
               {},
               {},
               scale.long_runs});
}

}  // namespace defib::bench
