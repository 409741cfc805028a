// Everything that a store does at the same time, on threads that do it as fast as they can: made
// for the thread sanitizer, and with an oracle of its own for builds without one.
//
// The data is a bank. Every transaction moves money between two accounts and counts itself, so the
// sum of all balances never changes, and the count says which commit a state is the state after.
// A snapshot that mixed two commits, lost one or was changed under its reader shows it.

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "defib/os/random.h"
#include "defib/store/executor.h"
#include "defib/store/maintenance.h"
#include "defib/store/plan.h"
#include "defib/store/store.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::TemporaryDir;

constexpr std::uint64_t kAccounts = 32;
constexpr std::uint64_t kStart = 100'000;  // of each account
constexpr std::size_t kPadding = 240;

std::string account(std::uint64_t number) {
  return fmt::format("account {:02}", number);
}
std::string balance(std::uint64_t amount) {
  return fmt::format("{:012}{}", amount, std::string(kPadding, '.'));
}
std::uint64_t amount_in(std::string_view value) {
  return std::strtoull(std::string(value.substr(0, 12)).c_str(), nullptr, 10);
}

// Accounts by the thousands that are in them.
IndexDefinition by_wealth() {
  return {.name = "by_wealth",
          .table = "accounts",
          .unique = false,
          .version = 1,
          .extract = [](std::string_view, std::string_view value, std::vector<std::string>& keys) {
            keys.push_back(fmt::format("{:09}", amount_in(value) / 1000));
          }};
}

// Small files and low limits, so that the background has always something to do.
Options busy() {
  Options options;
  options.page_size = 4096;
  options.segment_size = 128 << 10;
  options.checkpoint_after = 48 << 10;
  options.checkpoint_rate = 0;
  options.cache_size = 32 << 10;
  options.background_sync = std::chrono::milliseconds(1);
  options.indexes = {by_wealth()};
  return options;
}

std::unique_ptr<Store> open_or_die(const std::string& dir, const Options& options) {
  auto store = Store::open(dir, options);
  EXPECT_TRUE(store.has_value()) << store.error().to_text();
  return store ? *std::move(store) : nullptr;
}

// One commit: every account with its start, and the number of this commit.
void found_bank(Store& store) {
  const std::uint64_t number = (*store.snapshot())->position() + 1;
  const auto transaction = *store.begin();
  for (std::uint64_t i = 0; i < kAccounts; ++i) {
    ASSERT_TRUE(transaction->put("accounts", account(i), balance(kStart)).has_value());
  }
  ASSERT_TRUE(transaction->put("bank", "founded", fmt::format("{:012}", number)).has_value());
  ASSERT_TRUE(transaction->put("bank", "transfers", fmt::format("{:012}", 0)).has_value());
  const auto committed = transaction->commit(Durability::kPower);
  ASSERT_TRUE(committed.has_value()) << committed.error().to_text();
  ASSERT_EQ(*committed, number);
}

// Moves something from one account to another. The commit's number, which is the one that the count
// in its own transaction says.
Result<std::uint64_t> transfer(Store& store, os::Random& random, Durability durability) {
  DEFIB_TRY_ASSIGN(const auto transaction, store.begin());
  const auto read = [&](std::string_view table, const std::string& key) {
    return amount_in((*transaction->get(table, key)).value());
  };
  const std::string from = account(random.below(kAccounts));
  const std::string to = account(random.below(kAccounts));
  const std::uint64_t moved = random.below(read("accounts", from) / 4 + 1);
  const std::uint64_t count = read("bank", "transfers") + 1;
  const std::uint64_t expected = read("bank", "founded") + count;
  DEFIB_TRY(transaction->put("accounts", from, balance(read("accounts", from) - moved)));
  DEFIB_TRY(transaction->put("accounts", to, balance(read("accounts", to) + moved)));
  DEFIB_TRY(transaction->put("bank", "transfers", fmt::format("{:012}", count)));
  DEFIB_TRY_ASSIGN(const std::uint64_t number, transaction->commit(durability));
  if (number != expected) ADD_FAILURE() << "commit " << number << " counts itself as " << expected;
  return number;
}

// Empty where the snapshot shows the state after exactly one commit; else what is wrong.
std::string problem_of(const Snapshot& snapshot) {
  const auto founded = snapshot.get("bank", "founded");
  const auto transfers = snapshot.get("bank", "transfers");
  if (!founded) return founded.error().to_text();
  if (!transfers) return transfers.error().to_text();
  if (!*founded || !*transfers) return "the bank is missing";
  const std::uint64_t commit = amount_in(**founded) + amount_in(**transfers);
  if (commit != snapshot.position()) {
    return fmt::format("commit {} shows the count of commit {}", snapshot.position(), commit);
  }
  const auto cursor = snapshot.scan("accounts");
  if (!cursor) return cursor.error().to_text();
  std::uint64_t sum = 0;
  std::uint64_t accounts = 0;
  for (bool more = (*cursor)->first(); more; more = (*cursor)->next(), ++accounts) {
    sum += amount_in((*cursor)->value());
  }
  if (const auto status = (*cursor)->status(); !status) return status.error().to_text();
  if (accounts != kAccounts) return fmt::format("{} accounts", accounts);
  if (sum != kAccounts * kStart) return fmt::format("the balances' sum is {}", sum);
  const auto entries = snapshot.scan_index("by_wealth");
  if (!entries) return entries.error().to_text();
  std::uint64_t found = 0;
  for (bool more = (*entries)->first(); more; more = (*entries)->next()) {
    const auto value = snapshot.get("accounts", (*entries)->key());
    if (!value) return value.error().to_text();
    if (!*value) return "an index entry without its record";
    const std::string wealth = fmt::format("{:09}", amount_in(**value) / 1000);
    if ((*entries)->secondary() != wealth) return "an index entry of another commit";
    ++found;
  }
  return found == kAccounts ? "" : fmt::format("{} index entries", found);
}

std::string problem_of(Store& store) {
  const auto snapshot = store.snapshot();
  return snapshot ? problem_of(**snapshot) : snapshot.error().to_text();
}

// Does `step` on a thread of its own, at least once, until it is ended or a test has failed.
class Beside {
 public:
  explicit Beside(std::function<void()> step)
      : thread_([this, step = std::move(step)] {
          do {
            step();
            rounds_.fetch_add(1);
          } while (!stopping_ && !testing::Test::HasFailure());
        }) {}
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;
  ~Beside() { end(); }
  std::uint64_t rounds() const { return rounds_; }
  void end() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::atomic<bool> stopping_ = false;
  std::atomic<std::uint64_t> rounds_ = 0;
  std::thread thread_;
};

// Transfers from this thread, at least `least`, until `enough` or `most`.
void transfer_until(Store& store, std::uint64_t seed, int least, int most,
                    const std::function<bool()>& enough) {
  os::Random random(seed);
  for (int i = 0; i < most && (i < least || !enough()); ++i) {
    const bool synced = i % 16 == 0;
    const auto done = transfer(store, random, synced ? Durability::kPower : Durability::kProcess);
    ASSERT_TRUE(done.has_value()) << done.error().to_text();
    if (testing::Test::HasFailure()) return;
  }
}

TEST(StoreConcurrency, EveryReaderSeesExactlyOneCommitBesideCheckpointsAndMerges) {
  const TemporaryDir dir;
  const auto store = open_or_die(dir.path(), busy());
  found_bank(*store);
  const auto read = [&] { ASSERT_EQ(problem_of(*store), ""); };
  Beside reader(read);
  Beside another(read);
  Beside checkpoints([&] { ASSERT_TRUE(store->checkpoint().has_value()); });
  Beside onlooker([&] { ASSERT_LE(store->statistics().runs, 64U); });
  std::thread second_writer([&] {
    transfer_until(*store, 2, 200, 4000, [&] { return store->statistics().merges >= 3; });
  });
  transfer_until(*store, 1, 200, 4000, [&] { return store->statistics().merges >= 3; });
  second_writer.join();
  for (Beside* thread : {&reader, &another, &checkpoints, &onlooker}) thread->end();
  EXPECT_GT(store->statistics().merges, 0U);
  EXPECT_GT(store->statistics().checkpoints, 8U);
  EXPECT_EQ(problem_of(*store), "");
}

TEST(StoreConcurrency, SixteenThreadsShareSyncsAndWhatIsAcknowledgedIsVisible) {
  const TemporaryDir dir;
  constexpr int kThreads = 16;
  constexpr int kCommits = 24;
  std::atomic<std::uint64_t> last = 0;
  {
    Options options = busy();
    options.checkpoint_after = 0;
    const auto store = open_or_die(dir.path(), options);
    found_bank(*store);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        os::Random random(static_cast<std::uint64_t>(thread) + 1);
        for (int i = 0; i < kCommits; ++i) {
          const auto number = transfer(*store, random, Durability::kPower);
          ASSERT_TRUE(number.has_value()) << number.error().to_text();
          const auto snapshot = *store->snapshot();
          ASSERT_GE(snapshot->position(), *number);
          ASSERT_EQ(problem_of(*snapshot), "");
          last.fetch_add(1);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(last, std::uint64_t{kThreads * kCommits});
  }  // Dropped as by a crash: what was acknowledged comes back from the log.
  const auto store = open_or_die(dir.path(), busy());
  EXPECT_EQ(problem_of(*store), "");
  EXPECT_EQ(amount_in(**(*store->snapshot())->get("bank", "transfers")), last);
}

TEST(StoreConcurrency, SnapshotsAreReadAndDroppedOnOtherThreadsThanTheyWereTakenOn) {
  const TemporaryDir dir;
  const auto store = open_or_die(dir.path(), busy());
  found_bank(*store);
  std::mutex mutex;
  std::deque<std::shared_ptr<const Snapshot>> handed_over;  // guarded by mutex; at most kMost
  constexpr std::size_t kMost = 24;
  std::atomic<int> read = 0;
  const auto take = [&](bool newest) {
    std::shared_ptr<const Snapshot> taken;
    const std::lock_guard lock(mutex);
    if (handed_over.empty()) return taken;
    taken = newest ? handed_over.back() : handed_over.front();
    newest ? handed_over.pop_back() : handed_over.pop_front();
    return taken;
  };
  const auto read_and_drop = [&](bool newest) {
    const auto snapshot = take(newest);
    if (snapshot == nullptr) return std::this_thread::yield();
    ASSERT_EQ(problem_of(*snapshot), "");
    ++read;
  };
  Beside newest([&] { read_and_drop(true); });
  Beside oldest([&] { read_and_drop(false); });
  Beside shared([&] {
    std::shared_ptr<const Snapshot> snapshot;
    {
      const std::lock_guard lock(mutex);
      if (!handed_over.empty()) snapshot = handed_over.front();  // Which others read and drop too.
    }
    if (snapshot == nullptr) return std::this_thread::yield();
    ASSERT_EQ(problem_of(*snapshot), "");
  });
  os::Random random(3);
  for (int i = 0; i < 4000 && (i < 300 || read < 60); ++i) {
    ASSERT_TRUE(transfer(*store, random, Durability::kProcess).has_value());
    std::shared_ptr<const Snapshot> snapshot = *store->snapshot();
    const std::lock_guard lock(mutex);
    if (handed_over.size() == kMost) handed_over.pop_front();
    handed_over.push_back(std::move(snapshot));
  }
  for (Beside* thread : {&newest, &oldest, &shared}) thread->end();
  EXPECT_GE(read, 60);
}

// Follows the log beside a writer, checkpoints and the segments that they let go.
void follow_the_log(std::uint64_t retention) {
  const TemporaryDir dir;
  Options options = busy();
  options.log_retention = retention;
  const auto store = open_or_die(dir.path(), options);
  const std::uint64_t first = (*store->snapshot())->position() + 1;
  found_bank(*store);
  std::uint64_t next = first;
  int gaps = 0;
  std::map<std::string, std::uint64_t> accounts;
  const auto sink = [&](const CommittedTransaction& transaction) {
    EXPECT_EQ(transaction.number, next) << "a hole, or out of order";
    for (const Change& change : transaction.changes) {
      if (change.table == "accounts") accounts[change.key] = amount_in(*change.value);
      if (change.key == "transfers") {
        EXPECT_EQ(amount_in(*change.value), next - first);
      }
    }
    std::uint64_t sum = 0;
    for (const auto& [name, amount] : accounts) sum += amount;
    if (gaps == 0) {
      EXPECT_EQ(sum, kAccounts * kStart);
    }
    ++next;
    return true;
  };
  const auto follow = [&] {
    const auto done = store->stream(next, sink);
    if (done) return;
    ASSERT_EQ(done.error().code(), Code::kNotFound) << done.error().to_text();
    const std::uint64_t oldest =
        std::strtoull(std::string(done.error().field("first")).c_str(), nullptr, 10);
    ASSERT_GT(oldest, next) << done.error().to_text();
    next = oldest;
    ++gaps;
  };
  Beside follower(follow);
  Beside checkpoints([&] { ASSERT_TRUE(store->checkpoint().has_value()); });
  transfer_until(*store, 4, 300, 4000, [&] { return follower.rounds() >= 40; });
  follower.end();
  checkpoints.end();
  os::Random random(5);
  ASSERT_TRUE(transfer(*store, random, Durability::kPower).has_value());
  const auto snapshot = *store->snapshot();
  for (int i = 0; i < 2 && next <= snapshot->position(); ++i) follow();
  EXPECT_EQ(next, snapshot->position() + 1) << "the stream does not reach the last commit";
  if (retention == 0) return;
  EXPECT_EQ(gaps, 0);
  for (const auto& [name, amount] : accounts) {
    EXPECT_EQ(*snapshot->get("accounts", name), balance(amount)) << name;
  }
}

TEST(StoreConcurrency, AStreamBesideCheckpointsHasEveryCommitThatIsRetained) {
  follow_the_log(1ULL << 40);
}

TEST(StoreConcurrency, AStreamBesideSegmentsThatGoNamesTheFirstCommitThatIsLeft) {
  follow_the_log(0);
}

TEST(StoreConcurrency, ManyThreadsReplayALogToWhatWasCommitted) {
  const TemporaryDir dir;
  constexpr int kTransactions = 40;
  constexpr int kRecords = 1000;
  Options options = busy();
  options.checkpoint_after = 0;
  const auto key = [](int record) { return fmt::format("record {:06}", record); };
  {
    const auto store = open_or_die(dir.path(), options);
    found_bank(*store);
    for (int i = 0; i < kTransactions; ++i) {
      const auto transaction = *store->begin();
      for (int k = 0; k < kRecords; ++k) {
        // Each transaction overwrites half of the one before.
        ASSERT_TRUE(transaction->put("many", key(i * kRecords / 2 + k), std::to_string(i)));
      }
      ASSERT_TRUE(transaction->put("bank", "transfers", fmt::format("{:012}", i + 1)).has_value());
      ASSERT_TRUE(transaction->commit(Durability::kProcess).has_value());
    }
  }
  const auto check = [&](const Snapshot& snapshot) {
    const auto cursor = *snapshot.scan("many");
    int record = 0;
    for (bool more = cursor->first(); more; more = cursor->next(), ++record) {
      ASSERT_EQ(cursor->key(), key(record));
      const int last = std::min(record / (kRecords / 2), kTransactions - 1);
      ASSERT_EQ(cursor->value(), std::to_string(last));
    }
    EXPECT_EQ(record, (kTransactions + 1) * kRecords / 2);
    EXPECT_EQ(amount_in(**snapshot.get("bank", "transfers")), std::uint64_t{kTransactions});
    EXPECT_EQ(problem_of(snapshot), "");
  };
  Threads helpers(4);
  options.executor = &helpers;
  std::vector<std::thread> readers;  // Replay in memory, with the same helpers.
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      const auto snapshot = Store::open_read_only(dir.path(), options);
      ASSERT_TRUE(snapshot.has_value()) << snapshot.error().to_text();
      check(**snapshot);
    });
  }
  for (std::thread& reader : readers) reader.join();
  const auto store = open_or_die(dir.path(), options);
  check(**store->snapshot());
}

TEST(StoreConcurrency, VerificationAndLooksFromOutsideBesideAWriterFindNothing) {
  const TemporaryDir dir;
  const auto store = open_or_die(dir.path(), busy());
  found_bank(*store);
  Beside verification([&] {
    const auto report = store->verify();
    ASSERT_TRUE(report.has_value()) << report.error().to_text();
    ASSERT_TRUE(report->findings.empty())
        << report->findings[0].where << ": " << report->findings[0].problem;
  });
  Beside outside([&] {
    const auto snapshot = Store::open_read_only(dir.path(), busy());
    ASSERT_TRUE(snapshot.has_value()) << snapshot.error().to_text();
    ASSERT_EQ(problem_of(**snapshot), "");
    const auto status = Store::status(dir.path(), busy());
    ASSERT_TRUE(status.has_value()) << status.error().to_text();
    const auto plan = plan_recovery(dir.path(), busy());
    ASSERT_TRUE(plan.has_value()) << plan.error().to_text();
    ASSERT_FALSE(plan->lock_holder.empty());
  });
  transfer_until(*store, 7, 200, 6000,
                 [&] { return verification.rounds() >= 3 && outside.rounds() >= 3; });
  verification.end();
  outside.end();
  EXPECT_EQ(problem_of(*store), "");
}

TEST(StoreConcurrency, AStoreThatIsClosedBesideCommitsIsCleanAndHasAllThatWereAcknowledged) {
  const TemporaryDir dir;
  constexpr int kRounds = 12;
  constexpr int kThreads = 4;
  for (int round = 0; round < kRounds && !testing::Test::HasFailure(); ++round) {
    auto store = open_or_die(dir.path(), busy());
    if (round == 0) found_bank(*store);
    ASSERT_TRUE(store->recovery_result().stages.empty()) << "round " << round;
    std::atomic<std::uint64_t> last = 0;  // acknowledged
    std::atomic<int> commits = 0;
    std::vector<std::thread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        os::Random random(static_cast<std::uint64_t>(round * kThreads + thread + 1));
        for (int i = 0; i < 2000; ++i) {
          const auto number =
              transfer(*store, random, thread % 2 == 0 ? Durability::kProcess : Durability::kPower);
          ++commits;
          commits.notify_all();
          if (!number) {
            ASSERT_EQ(number.error().code(), Code::kInvalidArgument) << number.error().to_text();
            return;
          }
          std::uint64_t seen = last;
          while (seen < *number && !last.compare_exchange_weak(seen, *number)) {
          }
        }
      });
    }
    for (int seen = commits; seen < 10 * round + 1; seen = commits) commits.wait(seen);
    Result<> closed = store->close();
    while (!closed && closed.error().code() == Code::kTransactionConflict) {
      std::this_thread::yield();
      closed = store->close();
    }
    for (std::thread& thread : threads) thread.join();
    ASSERT_TRUE(closed.has_value()) << closed.error().to_text();
    store.reset();
    const auto status = Store::status(dir.path(), busy());
    ASSERT_TRUE(status.has_value()) << status.error().to_text();
    for (const Indicator& indicator : status->indicators) {
      ASSERT_FALSE(indicator.present) << indicator.name << ": " << indicator.evidence;
    }
    ASSERT_EQ(status->last_commit, last) << "round " << round;
    const auto snapshot = Store::open_read_only(dir.path(), busy());
    ASSERT_TRUE(snapshot.has_value()) << snapshot.error().to_text();
    ASSERT_EQ(problem_of(**snapshot), "");
  }
}

TEST(StoreConcurrency, AStoreThatIsDroppedBesideItsBackgroundWorkLosesNothing) {
  const TemporaryDir dir;
  constexpr std::uint64_t kRounds = 12;
  std::uint64_t last = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    const auto store = open_or_die(dir.path(), busy());
    if (round == 0) found_bank(*store);
    ASSERT_EQ(problem_of(*store), "") << "round " << round;
    if (round > 0) {
      ASSERT_EQ((*store->snapshot())->position(), last) << "round " << round;
    }
    os::Random random(round + 1);
    for (std::uint64_t i = 0; i < 60 + round * 7; ++i) {
      const auto number = transfer(*store, random, Durability::kProcess);
      ASSERT_TRUE(number.has_value()) << number.error().to_text();
      last = *number;
    }
  }
}

}  // namespace
}  // namespace defib::store
