// Writing: synced commits beside the raw disk, unsynced puts, and what a kill -9 leaves of them.

#include <fmt/core.h>

#include "benchmarks/store_harness.h"
#include "defib/base/bytes.h"
#include "defib/os/files.h"
#include "defib/os/random.h"

namespace defib::bench {
namespace {

using wire::Json;

const std::vector<std::string> kAllPeers = {"RocksDB", "LevelDB", "LMDB", "LMDB writemap",
                                            "SQLite"};

void commits_of(Harness& harness, std::uint64_t threads) {
  const Scale& scale = harness.scale();
  std::vector<const Contender*> who = harness.contenders({"RocksDB", "LevelDB", "LMDB", "SQLite"});
  who.insert(who.begin() + 1, &harness.limits());
  const auto samples = harness.alternate(who, scale.runs, [&](const Contender& contender) {
    const std::string dir = harness.fresh_dir();
    const Words words = {word("dir", dir), word("seconds", scale.commit_seconds),
                         word("threads", threads), word("batch", threads), word("synced", 1.0)};
    const bool is_raw = contender.name == harness.limits().name;
    auto result = harness.measure(contender, is_raw ? "raw_commits" : "commits", words);
    harness.drop(dir);
    if (result) {
      result->set("tail", (*result)["p999_us"].as_double() / (*result)["p50_us"].as_double());
    }
    return result;
  });
  const std::string name =
      fmt::format("synced commits of 100 B, {} thread{}", threads, threads == 1 ? "" : "s");
  const auto limit = samples.at(harness.limits().name).median("per_s");
  if (threads == 1) {
    harness.rows(name, "throughput", "commits/s", "per_s", samples,
                 {{"raw", {Bound::kRatioAtLeast, 0.95}}, {"SQLite", {Bound::kRatioAtLeast, 1}}},
                 limit);
  } else {
    harness.rows(
        name, "throughput", "commits/s", "per_s", samples,
        {{"RocksDB", {Bound::kRatioAtLeast, 1.8}}, {"LevelDB", {Bound::kRatioAtLeast, 1.4}}},
        limit);
  }
  harness.rows(name, "p50", "us", "p50_us", samples, {});
  harness.rows(name, "p99", "us", "p99_us", samples, {});
  harness.rows(name, "p99.9", "us", "p999_us", samples, {});
  if (threads == 1) {
    harness.rows(name, "p99.9 / p50", "x", "tail", samples, {{"defib", {Bound::kAtMost, 3}}});
  }
}

}  // namespace

void commit_case(Harness& harness) {
  commits_of(harness, 1);
  commits_of(harness, 16);
}

void put_case(Harness& harness) {
  const Scale& scale = harness.scale();
  for (const std::uint64_t batch : {1, 100}) {
    const auto samples = harness.alternate(
        harness.contenders(kAllPeers), scale.runs, [&](const Contender& contender) {
          const std::string dir = harness.fresh_dir();
          auto result = harness.measure(contender, "puts",
                                        {word("dir", dir), word("records", scale.small),
                                         word("batch", batch), word("seconds", scale.put_seconds)});
          harness.drop(dir);
          return result;
        });
    std::map<std::string, Target> targets;
    for (const std::string& peer : kAllPeers) targets[peer] = {Bound::kRatioAtLeast, 1.5};
    harness.rows(fmt::format("unsynced puts, random keys, {} a transaction", batch), "throughput",
                 "puts/s", "per_s", samples, targets);
  }
}

// Killed in the middle of writing: what had been acknowledged must be there.
void kill_case(Harness& harness) {
  const Scale& scale = harness.scale();
  os::Random random(5);
  std::uint64_t acknowledged = 0;
  const auto samples =
      harness.alternate(harness.contenders(kAllPeers), scale.runs, [&](const Contender& contender) {
        const std::string dir = harness.fresh_dir();
        const std::string acks = dir + ".acks";
        std::optional<Json> result;
        if (auto writer = harness.start(contender, "puts",
                                        {word("dir", dir), word("records", scale.medium),
                                         word("batch", 1.0), word("acks", acks)})) {
          os::real_clock().sleep_for(std::chrono::milliseconds(200 + random.below(600)));
          writer->kill();
          const auto bytes = os::read_file(os::real_files(), acks);
          const std::uint64_t written =
              bytes && bytes->size() == 8 ? load<std::uint64_t>(bytes->data()) : 0;
          if (contender.name == harness.ours().name) acknowledged += written;
          result = harness.run(contender, "open", {word("dir", dir), word("expect", written)});
        }
        harness.drop(dir);
        harness.drop(acks);
        return result;
      });
  harness.say(fmt::format("{} puts of ours were acknowledged before the kills", acknowledged));
  const std::string name = "kill -9 while putting";
  for (const std::string field : {"missing", "wrong"}) {
    const std::string metric = fmt::format("acknowledged, {}", field);
    const auto ours = samples.at(harness.ours().name).sum(field);
    harness.row({name, metric, "records", ours, "", {}, {}, {Bound::kAtMost, 0}, scale.runs});
    for (const auto& [who, found] : samples) {
      if (who == harness.ours().name) continue;
      harness.row({name, metric, "records", ours, who, found.sum(field), {}, {}, scale.runs});
    }
  }
}

}  // namespace defib::bench
