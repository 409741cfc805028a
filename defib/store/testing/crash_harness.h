// Crash harness: runs a workload on the simulated disk once, then crashes it after every operation,
// recovers, and compares with what was acknowledged.
//
// The oracle, for a crash after operation n:
//   - opening succeeds;
//   - what is found is the state after exactly one commit p (transactions are atomic, no holes);
//   - p is at least the last commit acknowledged before n (as durable against this kind of crash),
//     and at most the last one begun;
//   - recovery has cut what was torn: nothing is left for verification to find;
//   - the recovered store takes further commits, closes, and reopens without recovery, unchanged.
// The same holds when the recovery itself is crashed after each of its operations.

#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/random.h"
#include "defib/os/sim_files.h"
#include "defib/store/store.h"
#include "defib/store/testing/store_util.h"

namespace defib::store::testing_util {

// Runs its tasks when it is told to.
class SteppedExecutor : public Executor {
 public:
  void run(std::function<void()> task) override { tasks_.push_back(std::move(task)); }
  // Runs one task, if there is one.
  bool step() {
    if (tasks_.empty()) return false;
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    task();
    return true;
  }

 private:
  std::deque<std::function<void()>> tasks_;
};

// Puts a planted bug between the store and the disk.
using Wrapper = std::function<std::unique_ptr<os::Files>(os::SimFiles&)>;

inline const std::string kDir = "/s";

class Recording {
 public:
  Recording(std::uint64_t seed, Wrapper wrapper)
      : random_(seed), wrapped_(wrapper ? wrapper(disk_) : nullptr) {
    states_.push_back({});
  }

  os::SimFiles& disk() { return disk_; }
  os::Random& random() { return random_; }
  SteppedExecutor& executor() { return executor_; }
  Store& store() { return *store_; }
  const State& state(std::uint64_t lsn) const { return states_.at(lsn); }
  std::uint64_t last() const { return states_.size() - 1; }

  Options options() {
    Options options;
    options.files = wrapped_ != nullptr ? wrapped_.get() : &disk_;
    options.clock = &clock_;
    options.executor = &executor_;
    options.segment_size = 16 << 10;
    options.checkpoint_after = 0;
    return options;
  }
  void open() { open(options()); }
  void open(const Options& with) {
    auto store = Store::open(kDir, with);
    ASSERT_TRUE(store.has_value()) << store.error().to_text();
    store_ = *std::move(store);
  }

  // A random transaction over two tables and few keys, so that overwriting and erasing are common.
  Result<std::uint64_t> commit(Durability durability, std::size_t value_size = 40) {
    auto transaction = store_->begin();
    if (!transaction) return Error(transaction.error());
    State after = states_.back();
    const std::uint64_t number = states_.size();
    for (std::uint64_t i = random_.below(3) + 1; i > 0; --i) {
      const std::string table = random_.below(2) == 0 ? "a" : "b";
      const std::string key = fmt::format("k{}", random_.below(12));
      if (random_.below(4) == 0) {
        EXPECT_TRUE((*transaction)->erase(table, key).has_value());
        after.erase({table, key});
      } else {
        const std::string value =
            fmt::format("{}:{}", number, std::string(random_.below(value_size + 1), 'v'));
        EXPECT_TRUE((*transaction)->put(table, key, value).has_value());
        after[{table, key}] = value;
      }
    }
    // Every commit changes something, so that each has a state of its own.
    EXPECT_TRUE((*transaction)->put("a", "number", std::to_string(number)).has_value());
    after[{"a", "number"}] = std::to_string(number);
    begun_.push_back({disk_.operations(), number});
    states_.push_back(std::move(after));
    auto committed = (*transaction)->commit(durability);
    if (!committed) {
      failed_ = true;
      if (committed.error().code() == Code::kStoreFull) {
        states_.pop_back();  // It never happened.
        begun_.pop_back();
      }
      return committed;
    }
    EXPECT_EQ(*committed, number);
    acknowledged_.push_back({disk_.operations(), number, durability == Durability::kPower});
    return committed;
  }
  void must_commit(Durability durability, std::size_t value_size = 40) {
    const auto committed = commit(durability, value_size);
    ASSERT_TRUE(committed.has_value()) << committed.error().to_text();
  }
  // A call after which everything is durable against power failures.
  void all_durable(const Result<>& done) {
    ASSERT_TRUE(done.has_value()) << done.error().to_text();
    acknowledged_.push_back({disk_.operations(), last(), true});
  }
  void close() {
    all_durable(store_->close());
    store_.reset();
  }
  // As a killed process: nothing more is written.
  void drop() { store_.reset(); }

  std::uint64_t required(std::size_t operations, bool power) const {
    std::uint64_t lsn = 0;
    for (const Ack& ack : acknowledged_) {
      if (ack.operation <= operations && (ack.power || !power)) lsn = std::max(lsn, ack.lsn);
    }
    return lsn;
  }
  std::uint64_t possible(std::size_t operations) const {
    std::uint64_t lsn = 0;
    for (const auto& [operation, number] : begun_) {
      if (operation <= operations) lsn = std::max(lsn, number);
    }
    return lsn;
  }

 private:
  struct Ack {
    std::size_t operation;
    std::uint64_t lsn;
    bool power;
  };
  os::SimFiles disk_;
  os::FakeClock clock_;
  SteppedExecutor executor_;
  os::Random random_;
  std::unique_ptr<os::Files> wrapped_;
  std::unique_ptr<Store> store_;
  std::vector<State> states_;  // by commit number
  std::vector<std::pair<std::size_t, std::uint64_t>> begun_;
  std::vector<Ack> acknowledged_;
  bool failed_ = false;
};

struct Workload {
  std::string name;
  std::function<void(Recording&)> run;
};

class Campaign {
 public:
  struct Settings {
    std::uint64_t seed = 1;
    std::uint64_t seeds_per_point = 3;  // power failures tried after each operation
    std::uint64_t nested_every = 0;     // of the crash points, crash the recovery of one in so many
    std::uint64_t continue_every = 4;   // of the crash points, go on working after one in so many
    std::size_t stop_after_violations = 1;
    Wrapper wrapper;  // around the workload's disk and the recovery's
  };
  explicit Campaign(Settings settings) : settings_(std::move(settings)) {}

  void run(const Workload& workload) {
    Recording recording(settings_.seed, settings_.wrapper);
    workload.run(recording);
    recording.drop();
    const std::size_t operations = recording.disk().operations();
    for (std::size_t n = 0; n <= operations && !enough(); ++n) {
      for (std::uint64_t i = 0; i < settings_.seeds_per_point && !enough(); ++i) {
        const std::uint64_t seed = settings_.seed * 1'000'003 + n * 101 + i;
        point(workload, recording, n, seed, true);
      }
      if (!enough()) point(workload, recording, n, settings_.seed + n, false);
    }
  }

  std::uint64_t crash_points() const { return crash_points_; }
  const std::vector<std::string>& violations() const { return violations_; }

 private:
  struct Expected {
    const Recording& recording;
    std::uint64_t required;
    std::uint64_t possible;
    bool rebooted;
    std::string where;
  };

  bool enough() const { return violations_.size() >= settings_.stop_after_violations; }
  void violation(const Expected& expected, std::string what) {
    violations_.push_back(expected.where + ": " + std::move(what));
  }

  void point(const Workload& workload, const Recording& recording, std::size_t n,
             std::uint64_t seed, bool power) {
    auto& disk = const_cast<Recording&>(recording).disk();
    Expected expected{recording, recording.required(n, power), recording.possible(n), power, {}};
    expected.where =
        fmt::format("{}, seed {}, {} after operation {} of {} ({}), disk seed {}", workload.name,
                    settings_.seed, power ? "power failure" : "kill", n, disk.operations(),
                    n > 0 ? disk.describe_operation(n - 1) : "nothing", seed);
    const auto image = power ? disk.crashed(n, seed) : disk.killed(n, seed);
    const bool goes_on = crash_points_ % settings_.continue_every == 0;
    recover(*image, expected, goes_on);
    if (settings_.nested_every > 0 && crash_points_ % settings_.nested_every == 0) {
      nest(*image, expected, recording.required(n, true), seed);
    }
  }

  // Crashes the recovery that was just run on `image` after each of its operations.
  void nest(const os::SimFiles& image, const Expected& expected, std::uint64_t required_power,
            std::uint64_t seed) {
    const std::size_t operations = recovery_operations_;
    const std::uint64_t shown = recovered_position_;
    for (std::size_t m = 0; m <= operations && !enough(); ++m) {
      for (const bool power : {true, false}) {
        const auto again =
            power ? image.crashed(m, seed + m * 7 + 1) : image.killed(m, seed + m * 7 + 1);
        Expected inner = expected;
        inner.rebooted = expected.rebooted || power;
        if (power) inner.required = required_power;
        // What an opened store has shown stays.
        if (m == operations) inner.required = inner.possible = shown;
        inner.where += fmt::format("; recovery {} after its operation {} of {} ({})",
                                   power ? "lost power" : "was killed", m, operations,
                                   m > 0 ? image.describe_operation(m - 1) : "nothing");
        recover(*again, inner, false);
      }
    }
  }

  Options recovery_options(os::Files& files, const os::Clock& clock, SteppedExecutor& executor) {
    Options options;
    options.files = &files;
    options.clock = &clock;
    options.executor = &executor;
    options.segment_size = 16 << 10;
    options.checkpoint_after = 0;
    return options;
  }

  void recover(os::SimFiles& image, const Expected& expected, bool goes_on) {
    ++crash_points_;
    os::FakeClock clock;
    if (expected.rebooted) clock.reboot(std::chrono::seconds(1));
    SteppedExecutor executor;
    const auto wrapped = settings_.wrapper ? settings_.wrapper(image) : nullptr;
    os::Files& files = wrapped != nullptr ? *wrapped : image;
    const Options options = recovery_options(files, clock, executor);
    std::optional<State> state;
    std::uint64_t position = 0;
    {
      auto store = Store::open(kDir, options);
      recovery_operations_ = image.operations();
      if (!store) {
        violation(expected, "it does not open: " + store.error().to_line());
        return;
      }
      const auto snapshot = (*store)->snapshot();
      position = recovered_position_ = (*snapshot)->position();
      state = dump(**snapshot);
    }
    if (position < expected.required) {
      violation(expected, fmt::format("commit {} was acknowledged, the store ends with {}",
                                      expected.required, position));
    } else if (position > expected.possible) {
      violation(expected, fmt::format("commit {} was never begun", position));
    } else if (*state != expected.recording.state(position)) {
      violation(expected, fmt::format("the state is not that of commit {}", position));
    } else if (goes_on) {
      go_on(options, *state, expected);
    }
  }

  // Works on after recovery; what recovery left must carry it.
  void go_on(const Options& options, State state, const Expected& expected) {
    const auto recovered = Store::verify_files(kDir, options);
    if (!recovered || !recovered->findings.empty()) {
      return violation(
          expected, "recovery leaves a finding: " +
                        (recovered ? recovered->findings[0].problem : recovered.error().to_line()));
    }
    for (int round = 0; round < 2; ++round) {
      auto store = Store::open(kDir, options);
      if (!store) return violation(expected, "a second opening fails: " + store.error().to_line());
      if (dump(**store) != state)
        return violation(expected, "a second opening shows another state");
      const std::string value = fmt::format("round {}", round);
      if (const auto put = defib::store::put(**store, "z", "after", value, Durability::kPower);
          !put) {
        return violation(expected, "no commit after recovery: " + put.error().to_line());
      }
      state[{"z", "after"}] = value;
      if (round == 0) continue;  // Dropped: the next opening recovers.
      if (auto closed = (*store)->close(); !closed) {
        return violation(expected, "it does not close: " + closed.error().to_line());
      }
    }
    const auto report = Store::verify_files(kDir, options);
    if (!report || !report->findings.empty()) {
      return violation(expected,
                       "verification after a clean close: " +
                           (report ? report->findings[0].problem : report.error().to_line()));
    }
    const auto status = Store::status(kDir, options);
    for (const Indicator& indicator : status->indicators) {
      if (indicator.present) {
        return violation(expected, fmt::format("after a clean close: {}: {}", indicator.name,
                                               indicator.evidence));
      }
    }
    const auto snapshot = Store::open_read_only(kDir, options);
    if (!snapshot || dump(**snapshot) != state) {
      violation(expected, "another state after a clean close");
    }
  }

  Settings settings_;
  std::uint64_t crash_points_ = 0;
  std::size_t recovery_operations_ = 0;   // of the last recovery
  std::uint64_t recovered_position_ = 0;  // that it showed
  std::vector<std::string> violations_;
};

// The workloads, each for one side of the store.
inline std::vector<Workload> workloads() {
  const auto durable_commits = [](Recording& r) {
    r.open();
    for (int i = 0; i < 12; ++i) r.must_commit(Durability::kPower);
    r.close();
    r.open();
    for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower);
  };
  const auto process_commits = [](Recording& r) {
    r.open();
    for (int i = 0; i < 20; ++i) {
      r.must_commit(Durability::kProcess, 400);
      if (i % 7 == 6) r.executor().step();  // The background sync.
      if (i == 12) r.all_durable(r.store().sync());
    }
    r.must_commit(Durability::kPower);
    for (int i = 0; i < 5; ++i) r.must_commit(Durability::kProcess, 3000);
  };
  const auto checkpoints = [](Recording& r) {
    r.open();
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < 4; ++i) {
        r.must_commit(i % 2 == 0 ? Durability::kProcess : Durability::kPower, 200);
      }
      r.all_durable(r.store().checkpoint());
    }
    r.must_commit(Durability::kPower);
    r.close();
  };
  const auto rotations = [](Recording& r) {
    r.open();
    for (int i = 0; i < 14; ++i) {
      r.must_commit(i % 3 == 0 ? Durability::kPower : Durability::kProcess, 6000);
    }
    r.must_commit(Durability::kPower, 40000);  // Larger than a segment.
    r.must_commit(Durability::kPower, 100);
    r.all_durable(r.store().checkpoint());
    r.must_commit(Durability::kProcess, 100);
  };
  const auto automatic_checkpoints = [](Recording& r) {
    Options options = r.options();
    options.checkpoint_after = 8 << 10;
    r.open(options);
    for (int i = 0; i < 30; ++i) {
      r.must_commit(Durability::kProcess, 1500);
      if (i % 4 == 3) {
        while (r.executor().step()) {
        }
      }
    }
  };
  const auto killed_again_and_again = [](Recording& r) {
    for (int life = 0; life < 4; ++life) {
      r.open();
      for (int i = 0; i < 3; ++i) {
        r.must_commit(i == 1 ? Durability::kPower : Durability::kProcess);
      }
      r.drop();
    }
    r.open();
    r.close();
  };
  const auto full_disk = [](Recording& r) {
    r.open();
    for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 500);
    r.disk().set_capacity(0);
    bool refused = false;
    for (int i = 0; i < 40 && !refused; ++i) {
      const auto committed = r.commit(Durability::kPower, 2000);
      refused = !committed;
      if (refused) {
        EXPECT_EQ(committed.error().code(), Code::kStoreFull) << committed.error().to_text();
      }
    }
    EXPECT_TRUE(refused);
    EXPECT_EQ(dump(r.store()), r.state(r.last()));  // Reads go on.
    r.disk().set_capacity(~0ULL);
    for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower, 2000);
    r.close();
  };
  return {{"durable commits", durable_commits},
          {"process commits", process_commits},
          {"checkpoints", checkpoints},
          {"rotations", rotations},
          {"automatic checkpoints", automatic_checkpoints},
          {"killed again and again", killed_again_and_again},
          {"full disk", full_disk}};
}

}  // namespace defib::store::testing_util
