// Crash harness: runs a workload on the simulated disk once, then crashes it after every operation,
// recovers, and compares with what was acknowledged.
//
// The oracle, for a crash after operation n:
//   - opening succeeds;
//   - what is found is the state after exactly one commit p (transactions are atomic, no holes);
//   - p is at least the last commit acknowledged before n (as durable against this kind of crash),
//     and at most the last one begun;
//   - the indexes that were complete after p are complete, and are what the records say;
//   - where some of the log is kept, stream() tells the commits up to p as they were made, without
//   a
//     hole, and reaches back as far as it has to;
// and for one image in `continue_every` also:
//   - recovery has cut what was torn: nothing is left for verification to find;
//   - a second and a third recovery show the same state, and the third leaves the files byte for
//     byte as the second did (canonical_files() says what is excepted);
//   - the recovered store takes further commits, closes, and reopens without recovery, unchanged;
//   - opened with its indexes declared, it builds those that are not complete or of a version
//   before.
// The same holds when the recovery is crashed after each of its operations, and the recovery from
// that, and the one from that; and what a recovered store has once shown, no later one takes back.
//
// Images that no program could tell apart are recovered once. crash_points() counts every crash,
// distinct_images() every recovery that was really run.

#pragma once

#include <fmt/core.h>

#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "defib/store/testing/recording.h"

namespace defib::store::testing_util {

// Every file as it is to be after any number of recoveries. Left out: who holds the lock, and the
// two page files, whose superblock counts its generations.
inline std::map<std::string, std::string> canonical_files(const os::SimFiles& disk) {
  std::map<std::string, std::string> files;
  for (const std::string& path : disk.all_files()) {
    const bool counts = path.ends_with("/LOCK") || path.ends_with(".pg");
    files[path] = counts ? std::string() : disk.content(path);
  }
  return files;
}

class Campaign {
 public:
  struct Settings {
    std::uint64_t seed = 1;
    std::uint64_t seeds_per_point = 6;  // power failures tried after each operation
    // Crash the recovery from one image in so many, and the recoveries from that; 0: none.
    std::uint64_t nested_every = 0;
    unsigned nested_depth = 1;
    // Of a nested recovery's operations, so many are crashed below the first level; 0: all.
    std::uint64_t nested_samples = 3;
    std::uint64_t continue_every = 6;
    std::uint64_t max_points = ~0ULL;
    std::size_t stop_after_violations = 1;
    Wrapper wrapper = {};  // around the workload's disk and the recovery's
  };
  explicit Campaign(Settings settings) : settings_(std::move(settings)) {}

  void run(const Workload& workload) {
    Recording recording(settings_.seed, settings_.wrapper);
    try {
      workload.run(recording);
    } catch (const WorkloadEnded& ended) {
      violations_.push_back(
          fmt::format("{}, seed {}: {}", workload.name, settings_.seed, ended.what()));
      return;
    }
    recording.drop();
    workload_ = &workload;
    recording_ = &recording;
    known_.clear();
    const std::size_t operations = recording.disk().operations();
    // Where the points end before the operations do, they come from all over the workload.
    const std::size_t stride = coprime_stride(operations + 1);
    for (std::size_t i = 0; i <= operations && !enough(); ++i) {
      const std::size_t n = (i * stride + settings_.seed) % (operations + 1);
      for (std::uint64_t k = 0; k < settings_.seeds_per_point && !enough(); ++k) {
        point(n, settings_.seed * 1'000'003 + n * 101 + k, true);
      }
      if (!enough()) point(n, settings_.seed + n, false);
    }
  }

  std::uint64_t crash_points() const { return crash_points_; }
  std::uint64_t distinct_images() const { return distinct_images_; }
  const std::vector<std::string>& violations() const { return violations_; }

 private:
  // One crash of a nest: of the workload's run where `before` is null, else of the recovery from
  // the crash before.
  struct Crash {
    const Crash* before;
    const os::SimFiles* disk;
    bool power;
    std::size_t operation;
    std::uint64_t seed;
  };
  // Which commits the recoveries of a nest showed.
  struct Span {
    std::uint64_t low_killed = ~0ULL;  // where nothing but kills came after the first crash
    std::uint64_t low = ~0ULL;
    std::uint64_t high = 0;
  };
  struct Known {
    Span span;
    unsigned depth = 0;
  };

  bool enough() const {
    return violations_.size() >= settings_.stop_after_violations ||
           crash_points_ >= settings_.max_points;
  }

  static std::size_t coprime_stride(std::size_t count) {
    std::size_t stride = count * 5 / 13 + 1;
    while (std::gcd(stride, count) != 1) ++stride;
    return stride;
  }

  std::string describe(const Crash& crash) const {
    const std::string text = fmt::format(
        "{} after operation {} of {} ({}), disk seed {}", crash.power ? "power failure" : "kill",
        crash.operation, crash.disk->operations(),
        crash.operation > 0 ? crash.disk->describe_operation(crash.operation - 1) : "nothing",
        crash.seed);
    if (crash.before != nullptr) return describe(*crash.before) + "; in its recovery " + text;
    return fmt::format("{}, seed {}, {}", workload_->name, settings_.seed, text);
  }
  void violation(const Crash& crash, const std::string& what) {
    violations_.push_back(describe(crash) + ": " + what);
  }

  void point(std::size_t n, std::uint64_t seed, bool power) {
    const Crash crash{nullptr, &recording_->disk(), power, n, seed};
    const bool nests = settings_.nested_every > 0 && distinct_images_ % settings_.nested_every == 0;
    const Span span = explore(crash, recording_->boots(), nests ? settings_.nested_depth : 0);
    if (enough()) return;
    const std::uint64_t required_power = recording_->required(n, true);
    const std::uint64_t required = power ? required_power : recording_->required(n, false);
    if (span.low_killed < required || span.low < required_power) {
      violation(crash, fmt::format("commit {} was acknowledged ({} against power failures), the "
                                   "store ends with {} ({} after power failures in recovery)",
                                   required, required_power, span.low_killed, span.low));
    } else if (span.high > recording_->possible(n)) {
      violation(crash, fmt::format("commit {} was never begun", span.high));
    }
  }

  // Recovers from a crash, and from crashes of that recovery down to `depth`.
  Span explore(const Crash& crash, int boots_before, unsigned depth) {
    ++crash_points_;
    const int boots = boots_before + (crash.power ? 1 : 0);
    const auto image = crash.power ? crash.disk->crashed(crash.operation, crash.seed)
                                   : crash.disk->killed(crash.operation, crash.seed);
    const std::uint64_t key =
        os::sim::mix(image->fingerprint(), static_cast<std::uint64_t>(boots), 0);
    const auto known = known_.find(key);
    if (known != known_.end() && known->second.depth >= depth) return known->second.span;
    const bool is_new = known == known_.end();
    if (is_new) ++distinct_images_;

    const std::optional<Recovered> recovered = recover(*image, crash, boots, is_new);
    if (!recovered) return {};
    Span span{recovered->position, recovered->position, recovered->position};
    if (depth > 0) nest(*image, crash, *recovered, boots, depth, span);
    known_[key] = {span, depth};
    return span;
  }

  struct Recovered {
    std::uint64_t position = 0;
    std::size_t operations = 0;  // of the recovery
  };

  // Crashes the recovery that was just run on `image`.
  void nest(const os::SimFiles& image, const Crash& crash, const Recovered& recovered, int boots,
            unsigned depth, Span& span) {
    const bool is_first = crash.before == nullptr;
    const std::uint64_t total = recovered.operations + 1;
    const bool all = is_first || settings_.nested_samples == 0 || total <= settings_.nested_samples;
    os::Random random(crash.seed ^ total);
    for (std::uint64_t i = 0; i < (all ? total : settings_.nested_samples) && !enough(); ++i) {
      const std::size_t m = all ? i : random.below(total);
      for (const bool power : {true, false}) {
        const Crash inner{&crash, &image, power, m, crash.seed + m * 7 + 1};
        const Span found = explore(inner, boots, depth - 1);
        if (enough()) return;
        if (m == recovered.operations &&
            (found.low != recovered.position || found.high != recovered.position)) {
          violation(inner, fmt::format("the recovered store showed commit {}, the next one {}",
                                       recovered.position, found.low));
          return;
        }
        span.low = std::min(span.low, found.low);
        if (!power) span.low_killed = std::min(span.low_killed, found.low_killed);
        span.high = std::max(span.high, found.high);
      }
    }
  }

  std::optional<Recovered> recover(os::SimFiles& image, const Crash& crash, int boots,
                                   bool may_go_on) {
    PacedClock clock;
    for (int i = 0; i < boots; ++i) clock.reboot(std::chrono::seconds(1));
    SteppedExecutor executor;
    const auto wrapped = settings_.wrapper ? settings_.wrapper(image) : nullptr;
    os::Files& files = wrapped != nullptr ? *wrapped : static_cast<os::Files&>(image);
    Options options = small_store(files, clock, executor);
    options.log_retention = workload_->log_retention;
    Recovered recovered;
    State state;
    {
      auto store = Store::open(kDir, options);
      recovered.operations = image.operations();
      if (!store) {
        violation(crash, "it does not open: " + store.error().to_line());
        return std::nullopt;
      }
      const auto snapshot = *(*store)->snapshot();
      recovered.position = snapshot->position();
      Result<State> shown = try_dump(*snapshot, false);
      if (!shown) {
        violation(crash, "it cannot be read: " + shown.error().to_line());
        return std::nullopt;
      }
      state = *std::move(shown);
      if (auto problem = wrong_state(**store, *snapshot, state, crash)) {
        violation(crash, *problem);
        return std::nullopt;
      }
    }
    if (may_go_on && distinct_images_ % settings_.continue_every == 0) {
      if (auto problem = go_on(image, options, std::move(state), workload_->has_indexes)) {
        violation(crash, *problem);
        return std::nullopt;
      }
    }
    return recovered;
  }

  // What a recovered store shows that no commit left.
  std::optional<std::string> wrong_state(Store& store, const Snapshot& snapshot, const State& state,
                                         const Crash& crash) const {
    const std::uint64_t position = snapshot.position();
    if (position > recording_->last()) return fmt::format("commit {} was never begun", position);
    if (state != recording_->state(position)) {
      return fmt::format("the state is not that of commit {}", position);
    }
    if (complete_indexes(snapshot) != recording_->complete(position)) {
      return fmt::format("other indexes are complete than after commit {}", position);
    }
    if (auto problem = index_problem(snapshot, state)) return problem;
    if (workload_->log_retention == 0) return std::nullopt;
    const History history =
        told_history(store, position,
                     [this](std::uint64_t lsn) -> const State& { return recording_->state(lsn); });
    if (history.problem) return history.problem;
    const Crash* first = &crash;
    while (first->before != nullptr) first = first->before;
    const std::uint64_t wanted = recording_->must_reach_back_to(first->operation);
    if (wanted == 0 || history.first <= wanted) return std::nullopt;
    return fmt::format("the history begins with commit {} instead of {}", history.first, wanted);
  }

  // Recovers again and again, and works on; what recovery left must carry it. The first problem.
  static std::optional<std::string> go_on(const os::SimFiles& image, Options options, State state,
                                          bool has_indexes) {
    const auto recovered = Store::verify_files(kDir, options);
    if (!recovered) return "verification fails: " + recovered.error().to_line();
    if (!recovered->findings.empty()) {
      return fmt::format("recovery leaves a finding: {}: {}", recovered->findings[0].where,
                         recovered->findings[0].problem);
    }
    std::map<std::string, std::string> files;
    for (int round = 2; round <= 3; ++round) {
      const auto store = Store::open(kDir, options);
      if (!store) return fmt::format("recovery {} fails: {}", round, store.error().to_line());
      if (!shows(**store, state)) return fmt::format("recovery {} shows another state", round);
      auto left = canonical_files(image);
      if (round == 2) {
        files = std::move(left);
      } else if (left != files) {
        return "the third recovery changes files: " + difference(files, left);
      }
    }
    if (has_indexes) options.indexes = index_definitions(2);
    for (int round = 0; round < 2; ++round) {
      auto store = Store::open(kDir, options);
      if (!store) return "a further opening fails: " + store.error().to_line();
      if (!shows(**store, state)) return "a further opening shows another state";
      if (has_indexes) {
        if (auto problem = incomplete(**store, state)) return problem;
      }
      const std::string value = fmt::format("round {}", round);
      const std::string table = has_indexes ? "a" : "z";
      if (const auto put = defib::store::put(**store, table, "after", value, Durability::kPower);
          !put) {
        return "no commit after recovery: " + put.error().to_line();
      }
      state[{table, "after"}] = value;
      if (auto problem = index_problem(**(*store)->snapshot(), state)) return problem;
      if (round == 0) continue;  // Dropped: the next opening recovers.
      if (auto closed = (*store)->close(); !closed) {
        return "it does not close: " + closed.error().to_line();
      }
    }
    return after_close(options, state);
  }

  // Whether an opening that declares the indexes has left one unbuilt, or built it wrongly.
  static std::optional<std::string> incomplete(Store& store, const State& state) {
    const auto snapshot = *store.snapshot();
    if (complete_indexes(*snapshot) != CompleteIndexes{{kBySize, 2}, {kByTicket, 2}}) {
      return "an opening leaves a declared index unbuilt";
    }
    return index_problem(*snapshot, state);
  }

  static bool shows(Store& store, const State& expected) {
    const auto state = try_dump(**store.snapshot(), false);
    return state && *state == expected;
  }

  static std::optional<std::string> after_close(const Options& options, const State& state) {
    const auto report = Store::verify_files(kDir, options);
    if (!report) return "verification after a clean close fails: " + report.error().to_line();
    if (!report->findings.empty()) {
      return "verification after a clean close: " + report->findings[0].problem;
    }
    const auto status = Store::status(kDir, options);
    if (!status) return "no status after a clean close: " + status.error().to_line();
    for (const Indicator& indicator : status->indicators) {
      if (indicator.present) {
        return fmt::format("after a clean close: {}: {}", indicator.name, indicator.evidence);
      }
    }
    const auto snapshot = Store::open_read_only(kDir, options);
    if (!snapshot) return "after a clean close: " + snapshot.error().to_line();
    const auto shown = try_dump(**snapshot, false);
    if (!shown || *shown != state) return "another state after a clean close";
    return std::nullopt;
  }

  static std::string difference(const std::map<std::string, std::string>& before,
                                const std::map<std::string, std::string>& after) {
    for (const auto& [path, content] : before) {
      const auto at = after.find(path);
      if (at == after.end()) return path + " is gone";
      if (at->second != content) return path;
    }
    for (const auto& [path, content] : after) {
      if (!before.contains(path)) return path + " is new";
    }
    return "none";
  }

  Settings settings_;
  const Workload* workload_ = nullptr;              // that runs
  const Recording* recording_ = nullptr;            // of it
  std::unordered_map<std::uint64_t, Known> known_;  // by image and boots
  std::uint64_t crash_points_ = 0;
  std::uint64_t distinct_images_ = 0;
  std::vector<std::string> violations_;
};

}  // namespace defib::store::testing_util
