// Recording: a store on the simulated disk under a workload, and what it may show after a crash.
//
// Every commit has a state of its own, so that the state that a recovery shows names its commit.
// What was begun and acknowledged is noted with the number of disk operations at that moment;
// required() and possible() bound what a crash after operation n may show. Of each commit is known
// which indexes are complete after it, and of each moment how far back the log must reach.
//
// Thread rule: one thread, except that executors of the workload may run the store's own tasks.

#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/random.h"
#include "defib/os/sim_files.h"
#include "defib/store/format.h"
#include "defib/store/store.h"
#include "defib/store/testing/derived.h"
#include "defib/store/testing/store_util.h"

namespace defib::store::testing_util {

// Runs its tasks when it is told to.
class SteppedExecutor : public Executor {
 public:
  void run(std::function<void()> task) override {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  // Runs one task, if there is one.
  bool step() {
    std::function<void()> task;
    {
      const std::lock_guard lock(mutex_);
      if (tasks_.empty()) return false;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
    return true;
  }
  void run_all() {
    for (int i = 0; i < kMaxTasks && step(); ++i) {
    }
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    tasks_.clear();
  }

 private:
  static constexpr int kMaxTasks = 1000;  // tasks that make each other for ever end here
  std::mutex mutex_;
  std::deque<std::function<void()>> tasks_;
};

// A clock that stands still, and lets the workload work where the store sleeps: a checkpoint that
// is paced leaves time for commits.
class PacedClock final : public os::FakeClock {
 public:
  void sleep_for(os::Duration duration) const override {
    advance(duration);
    if (on_sleep && !std::exchange(sleeping_, true)) {
      on_sleep();
      sleeping_ = false;
    }
  }
  std::function<void()> on_sleep;

 private:
  mutable bool sleeping_ = false;
};

// Puts a planted bug between the store and the disk.
using Wrapper = std::function<std::unique_ptr<os::Files>(os::SimFiles&)>;

inline const std::string kDir = "/s";

// What all stores of the campaigns have in common, while recording and while recovering. Files and
// segments are small, so that few commits fill them.
inline Options small_store(os::Files& files, const os::Clock& clock, Executor& executor) {
  Options options;
  options.files = &files;
  options.clock = &clock;
  options.executor = &executor;
  options.segment_size = 16 << 10;
  options.checkpoint_after = 0;
  return options;
}

// A workload cannot go on, because the store did what it must not.
class WorkloadEnded : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
inline void require(bool holds, const std::string& what) {
  if (!holds) throw WorkloadEnded(what);
}
template <typename T>
void require(const Result<T>& result, const std::string& what) {
  if (!result) throw WorkloadEnded(what + ": " + result.error().to_line());
}

class Recording {
 public:
  // What a random transaction is like.
  struct Shape {
    std::size_t value_size = 40;  // at most
    std::uint64_t changes = 3;    // at most
    std::uint64_t tables = 2;
    std::uint64_t keys = 12;
    std::uint64_t erased_percent = 25;
  };

  Recording(std::uint64_t seed, Wrapper wrapper)
      : disk_(std::make_unique<os::SimFiles>()), random_(seed), wrapper_(std::move(wrapper)) {
    if (wrapper_) wrapped_ = wrapper_(*disk_);
    states_.push_back({});
    complete_.emplace_back();
  }
  ~Recording() { drop(); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  os::SimFiles& disk() { return *disk_; }
  const os::SimFiles& disk() const { return *disk_; }
  os::Random& random() { return random_; }
  SteppedExecutor& executor() { return executor_; }
  PacedClock& clock() { return clock_; }
  int boots() const { return boots_; }  // of its machine so far, after the first
  Store& store() { return *store_; }
  const State& state(std::uint64_t lsn) const { return states_.at(lsn); }
  std::uint64_t last() const { return states_.size() - 1; }
  const CompleteIndexes& complete(std::uint64_t lsn) const { return complete_.at(lsn); }

  Options options() {
    return small_store(wrapped_ != nullptr ? *wrapped_ : static_cast<os::Files&>(*disk_), clock_,
                       executor_);
  }
  void open() { open(options()); }
  void open(const Options& with) {
    const std::size_t before = disk_->operations();
    auto store = Store::open(kDir, with);
    require(store, "it does not open");
    store_ = *std::move(store);
    declared_.clear();
    if (!with.indexes.empty()) note_builds(with.indexes, before);
  }

  // A random transaction over few tables and keys, so that overwriting and erasing are common.
  Result<std::uint64_t> commit(Durability durability, const Shape& shape) {
    auto transaction = store_->begin();
    if (!transaction) return Error(transaction.error());
    State after = states_.back();
    const std::uint64_t number = states_.size();
    for (std::uint64_t i = random_.below(shape.changes) + 1; i > 0; --i) {
      const std::uint64_t place = random_.below(shape.tables);
      const std::string table = place < 2 ? (place == 0 ? "a" : "b") : fmt::format("t{}", place);
      const std::string key = fmt::format("k{}", random_.below(shape.keys));
      if (random_.below(100) < shape.erased_percent) {
        require((*transaction)->erase(table, key), "erase");
        if (after.erase({table, key}) > 0) touched_.insert(table);
      } else {
        touched_.insert(table);
        const std::string value =
            fmt::format("{}:{}", number, std::string(random_.below(shape.value_size + 1), 'v'));
        require((*transaction)->put(table, key, value), "put");
        after[{table, key}] = value;
      }
    }
    return finish(**transaction, std::move(after), durability);
  }
  Result<std::uint64_t> commit(Durability durability, std::size_t value_size = 40) {
    return commit(durability, Shape{.value_size = value_size});
  }
  // All keys of all tables erased in one transaction.
  Result<std::uint64_t> erase_all(Durability durability) {
    auto transaction = store_->begin();
    if (!transaction) return Error(transaction.error());
    for (const auto& [key, value] : states_.back()) {
      require((*transaction)->erase(key.first, key.second), "erase");
      touched_.insert(key.first);
    }
    return finish(**transaction, {}, durability);
  }
  // Tickets change hands, and one that has an owner is refused to others by the unique index.
  Result<std::uint64_t> commit_tickets(Durability durability) {
    auto transaction = store_->begin();
    if (!transaction) return Error(transaction.error());
    State after = states_.back();
    for (std::uint64_t i = random_.below(5) + 1; i > 0; --i) {
      const std::string key = fmt::format("owner {}", random_.below(6));
      const std::string ticket = fmt::format("{}:", random_.below(8));
      if (random_.below(4) == 0) {
        require((*transaction)->erase("tickets", key), "erase");
        if (after.erase({"tickets", key}) > 0) touched_.insert("tickets");
        continue;
      }
      const bool has_owner = std::ranges::any_of(after, [&](const auto& record) {
        const auto& [place, value] = record;
        return place.first == "tickets" && place.second != key && value.starts_with(ticket);
      });
      if (has_owner && !declared_.contains(kByTicket)) continue;  // Nobody would refuse it.
      const std::string value = fmt::format("{}{}", ticket, states_.size());
      const Result<> put = (*transaction)->put("tickets", key, value);
      if (has_owner) {
        require(!put && put.error().code() == Code::kIndexViolation, "a ticket has two owners");
        continue;
      }
      require(put, "put");
      touched_.insert("tickets");
      after[{"tickets", key}] = value;
    }
    return finish(**transaction, std::move(after), durability);
  }
  void must_commit(Durability durability, std::size_t value_size = 40) {
    must(commit(durability, value_size));
  }
  void must_commit(Durability durability, const Shape& shape) { must(commit(durability, shape)); }
  void must(const Result<std::uint64_t>& committed) { require(committed, "commit"); }
  // A call after which everything is durable against power failures.
  void all_durable(const Result<>& done) {
    require(done, "it cannot be made durable");
    acknowledged_.push_back({disk_->operations(), last(), true});
  }
  void close() {
    all_durable(store_->close());
    drop();
  }
  // After each checkpoint of a store that keeps some of its log: what it tells is right, and
  // reaches back far enough.
  void note_history(std::uint64_t retention) {
    const auto state_after = [this](std::uint64_t lsn) -> const State& { return state(lsn); };
    const History history = told_history(*store_, last(), state_after);
    require(!history.problem, history.problem.value_or(""));
    std::uint64_t kept = 0;
    const auto names = disk_->list(kDir + "/wal");
    for (const std::string& name : *names) {
      if (parse_segment_name(name)) kept += disk_->content(kDir + "/wal/" + name).size();
    }
    require(history.first == 1 || kept >= retention,
            fmt::format("{} bytes of log are kept instead of {}", kept, retention));
    reaches_back_.push_back({disk_->operations(), history.first});
  }
  // How far the log must reach back after a crash at that operation: the log is let go in steps,
  // and whatever the next step has left was there before it. 0: nobody knows.
  std::uint64_t must_reach_back_to(std::size_t operation) const {
    std::uint64_t first = 0;
    for (const auto& [noted_at, noted] : reaches_back_) {
      first = noted;
      if (noted_at >= operation) break;
    }
    return first;
  }
  // As a killed process: nothing more is written.
  void drop() {
    clock_.on_sleep = nullptr;
    store_.reset();
    executor_.clear();
  }

  // Crashes the machine or the process after a random operation, and goes on with what recovery
  // makes of it. What was recorded before is forgotten, as far as it did not survive.
  void crash(bool power) {
    drop();
    const std::size_t operations = disk_->operations();
    const std::size_t n =
        operations - (random_.below(2) == 0 ? 0 : random_.below(operations / 2 + 1));
    const std::uint64_t required_power = required(n, true);
    const std::uint64_t required_now = required(n, power);
    const std::uint64_t highest = possible(n);
    auto image = power ? disk_->crashed(n, random_.next()) : disk_->killed(n, random_.next());
    wrapped_.reset();
    disk_ = std::move(image);
    if (wrapper_) wrapped_ = wrapper_(*disk_);
    if (power) {
      clock_.reboot(std::chrono::seconds(1));
      ++boots_;
    }
    acknowledged_ = {{0, required_power, true}, {0, required_now, false}};
    open();
    const auto snapshot = *store_->snapshot();
    const std::uint64_t position = snapshot->position();
    require(position >= required_now && position <= highest,
            fmt::format("after a crash it shows commit {} instead of {} to {}", position,
                        required_now, highest));
    require(shows(position), fmt::format("after a crash the state is not that of {}", position));
    states_.resize(position + 1);
    complete_.resize(position + 1);
    begun_ = {{0, position}};
    acknowledged_.push_back({disk_->operations(), position, true});  // What was shown stays.
    reaches_back_.clear();
  }

  // Whether the open store has the state after that commit.
  bool shows(std::uint64_t lsn) const {
    const auto state = try_dump(**store_->snapshot(), false);
    return state && *state == states_.at(lsn);
  }

  // What a crash after so many operations must show at least, and may show at most.
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

  Result<std::uint64_t> finish(Transaction& transaction, State after, Durability durability) {
    const std::uint64_t number = states_.size();
    // Every commit changes something, so that each has a state of its own.
    require(transaction.put("a", "number", std::to_string(number)), "put");
    after[{"a", "number"}] = std::to_string(number);
    touched_.insert("a");
    begun_.push_back({disk_->operations(), number});
    states_.push_back(std::move(after));
    note_drops();
    auto committed = transaction.commit(durability);
    if (!committed) {
      if (committed.error().code() == Code::kStoreFull) {
        states_.pop_back();  // It never happened.
        complete_.pop_back();
        begun_.pop_back();
      }
      return committed;
    }
    require(*committed == number, fmt::format("commit {} is told as {}", number, *committed));
    acknowledged_.push_back({disk_->operations(), number, durability == Durability::kPower});
    return committed;
  }

  // A commit for each index that the opening had to build, in the order of their declaration.
  void note_builds(const std::vector<IndexDefinition>& indexes, std::size_t begun_at) {
    const std::uint64_t position = (*store_->snapshot())->position();
    CompleteIndexes complete = complete_.back();
    for (const IndexDefinition& index : indexes) {
      declared_.insert(index.name);
      const auto found = complete.find(index.name);
      if (found != complete.end() && found->second == index.version) continue;
      complete[index.name] = index.version;
      if (last() >= position) break;
      begun_.push_back({begun_at, last() + 1});
      states_.push_back(State(states_.back()));
      complete_.push_back(complete);
    }
    require(last() == position && complete_.back() == complete,
            fmt::format("after opening it shows commit {} instead of {}", position, last()));
    acknowledged_.push_back({disk_->operations(), position, true});
    const auto problem = index_problem(**store_->snapshot(), states_.back());
    require(!problem, problem.value_or(""));
  }
  // The complete indexes after the commit that is about to be made.
  void note_drops() {
    CompleteIndexes complete = complete_.back();
    std::erase_if(complete, [this](const auto& index) {
      const std::string table = index_definition(index.first, 1).table;
      return !declared_.contains(index.first) && touched_.contains(table);
    });
    complete_.push_back(std::move(complete));
    touched_.clear();
  }

  std::unique_ptr<os::SimFiles> disk_;
  PacedClock clock_;
  SteppedExecutor executor_;
  os::Random random_;
  Wrapper wrapper_;
  std::unique_ptr<os::Files> wrapped_;
  std::unique_ptr<Store> store_;
  int boots_ = 0;
  std::vector<State> states_;              // by commit number
  std::vector<CompleteIndexes> complete_;  // by commit number
  std::set<std::string> declared_;         // indexes of the open store
  std::set<std::string> touched_;          // tables, by the transaction that is being made
  std::vector<std::pair<std::size_t, std::uint64_t>> reaches_back_;  // operation, first commit
  std::vector<std::pair<std::size_t, std::uint64_t>> begun_;
  std::vector<Ack> acknowledged_;
};

struct Workload {
  std::string name;
  std::function<void(Recording&)> run;
  bool is_small = false;            // few operations: crashed exhaustively, inside recovery too
  std::uint64_t log_retention = 0;  // of every opening
  bool has_indexes = false;         // version 2 of them, at its end
};

}  // namespace defib::store::testing_util
