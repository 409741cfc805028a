// kill -9 of a real process with a real store, at random instants.
//
// Several threads of the child commit, checkpoints run beside them, and every acknowledged commit
// is said over a pipe. Whatever was said before the child died must be there afterwards, and what
// is there must be the commits 1..p of some p, each whole. On the plain file system this holds for
// every commit; on LossyFiles, which loses what was not synced, for those that survive power
// failures.
//
// DEFIB_KILL_ROUNDS says how many kills; tools/crash-test --long sets it.

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "defib/os/clock.h"
#include "defib/os/lossy_files.h"
#include "defib/os/random.h"
#include "defib/store/store.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::State;
using testing_util::TemporaryDir;

constexpr std::uint64_t kThreads = 3;
constexpr std::uint64_t kKept = 20;  // records of each thread; it erases older ones

// The real clock, in the run of a machine that was started so many times.
class RebootedClock final : public os::Clock {
 public:
  explicit RebootedClock(int boots) : boots_(boots) {}
  std::int64_t mono_ns() const override { return os::real_clock().mono_ns(); }
  std::int64_t wall_ns() const override { return os::real_clock().wall_ns(); }
  std::string boot_id() const override {
    return fmt::format("00000000-0000-4000-8000-{:012}", boots_);
  }
  void sleep_for(os::Duration duration) const override { os::real_clock().sleep_for(duration); }

 private:
  int boots_;
};

struct Commit {
  std::uint64_t thread = 0;
  std::uint64_t sequence = 0;  // 1, 2, 3... for each thread
  std::uint64_t number = 0;    // that the store gave it
  std::uint64_t is_power = 0;
};

std::string table_of(std::uint64_t thread) {
  return fmt::format("thread {}", thread);
}

std::string key_of(std::uint64_t sequence) {
  return fmt::format("{:08}", sequence);
}

std::string value_of(std::uint64_t thread, std::uint64_t sequence) {
  const std::size_t size = sequence % 61 == 0 ? 20'000 : sequence % 13 * 20;
  return fmt::format("{} {} {}", thread, sequence, std::string(size, 'v'));
}

// What the store holds when each thread has committed so often: a state that shows torn
// transactions, for each of them changes two tables and erases.
State state_after(const std::vector<std::uint64_t>& sequences) {
  State state;
  for (std::uint64_t thread = 0; thread < sequences.size(); ++thread) {
    const std::uint64_t last = sequences[thread];
    for (std::uint64_t n = last > kKept ? last - kKept + 1 : 1; n <= last; ++n) {
      state[{table_of(thread), key_of(n)}] = value_of(thread, n);
    }
    if (last > 0) state[{"last", std::to_string(thread)}] = std::to_string(last);
  }
  return state;
}

Options options(os::Files* files, const os::Clock* clock) {
  Options options;
  options.files = files;
  options.clock = clock;
  options.segment_size = 32 << 10;
  options.checkpoint_after = 24 << 10;
  options.background_sync = std::chrono::milliseconds(2);
  return options;
}

std::uint64_t last_sequence(const Snapshot& snapshot, std::uint64_t thread) {
  const auto found = *snapshot.get("last", std::to_string(thread));
  return found ? std::stoull(*found) : 0;
}

// One thread of the child: commits until it is killed.
void commit_for_ever(Store& store, std::uint64_t thread, int pipe_end) {
  for (std::uint64_t n = last_sequence(**store.snapshot(), thread) + 1;; ++n) {
    auto transaction = store.begin();
    if (!transaction) ::_exit(4);
    const std::string table = table_of(thread);
    bool good = (*transaction)->put(table, key_of(n), value_of(thread, n)).has_value();
    if (n > kKept) good = good && (*transaction)->erase(table, key_of(n - kKept)).has_value();
    good = good && (*transaction)->put("last", std::to_string(thread), std::to_string(n));
    const Durability durability = (n + thread) % 3 == 0 ? Durability::kPower : Durability::kProcess;
    const auto committed = (*transaction)->commit(durability);
    if (!good || !committed) ::_exit(5);
    const Commit said{thread, n, *committed, durability == Durability::kPower ? 1U : 0U};
    if (::write(pipe_end, &said, sizeof said) != sizeof said) ::_exit(6);
  }
}

[[noreturn]] void run_child(const std::string& dir, int pipe_end, bool lossy, std::uint64_t seed,
                            const os::Clock& clock) {
  os::LossyFiles lossy_files(os::real_files(), dir, seed);
  auto store = Store::open(dir, options(lossy ? &lossy_files : nullptr, &clock));
  if (!store) {
    fmt::print(stderr, "the child's store does not open: {}\n", store.error().to_text());
    ::_exit(3);
  }
  std::vector<std::thread> threads;
  for (std::uint64_t thread = 1; thread < kThreads; ++thread) {
    threads.emplace_back(
        [&store, thread, pipe_end] { commit_for_ever(**store, thread, pipe_end); });
  }
  commit_for_ever(**store, 0, pipe_end);
  ::_exit(0);
}

class KillTest {
 public:
  explicit KillTest(bool lossy) : lossy_(lossy), dir_(base_.path() + "/store") {}

  void run(std::uint64_t rounds) {
    const std::uint64_t seed = os::random_seed();
    os::Random random(seed);
    for (std::uint64_t round = 0; round < rounds; ++round) {
      SCOPED_TRACE(fmt::format("seed {}, round {}", seed, round));
      one_round(random, round);
      if (testing::Test::HasFatalFailure()) return;
    }
    fmt::print("  {}: seed {}, {} kills, {} commits, {} acknowledged\n",
               lossy_ ? "lossy files" : "plain files", seed, rounds, position_, acknowledged_);
  }

 private:
  void one_round(os::Random& random, std::uint64_t round) {
    // A machine that loses what was not synced is another machine's run afterwards.
    const RebootedClock before(lossy_ ? static_cast<int>(2 * round) : 0);
    const RebootedClock after(lossy_ ? static_cast<int>(2 * round + 1) : 0);
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const std::uint64_t child_seed = random.next();
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(ends[0]);
      run_child(dir_, ends[1], lossy_, child_seed, before);
    }
    ::close(ends[1]);
    // Let it acknowledge a random number of commits, then kill it wherever it is; sometimes while
    // it opens.
    const std::uint64_t wanted = random.below(4) == 0 ? 0 : random.below(400);
    for (std::uint64_t i = 0; i < wanted && read_one(ends[0]); ++i) {
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(wanted == 0 ? 9000 : 900)));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    // Opened before the child is reaped: its death is not over yet, and must not be in the way.
    auto store = Store::open(dir_, options(nullptr, &after));
    int status = 0;
    while (read_one(ends[0])) {
    }
    ::close(ends[0]);
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended with code " << WEXITSTATUS(status);
    ASSERT_TRUE(store.has_value()) << store.error().to_text();
    judge(**store);
    if (testing::Test::HasFatalFailure()) return;
    if (round % 3 == 0) {
      const auto closed = (*store)->close();
      ASSERT_TRUE(closed.has_value()) << closed.error().to_text();
    }
  }

  bool read_one(int pipe_end) {
    Commit commit;
    if (::read(pipe_end, &commit, sizeof commit) != sizeof commit) return false;
    said_.push_back(commit);
    return true;
  }

  void judge(Store& store) {
    const auto snapshot = *store.snapshot();
    const std::uint64_t position = snapshot->position();
    std::vector<std::uint64_t> sequences;
    std::uint64_t sum = 0;
    for (std::uint64_t thread = 0; thread < kThreads; ++thread) {
      sequences.push_back(last_sequence(*snapshot, thread));
      sum += sequences.back();
    }
    ASSERT_EQ(dump(*snapshot), state_after(sequences));
    ASSERT_EQ(sum, position) << "commits are missing in between";
    for (const Commit& commit : said_) {
      const bool is_there = commit.sequence <= sequences[commit.thread];
      ASSERT_EQ(is_there, commit.number <= position)
          << "commit " << commit.number << " of thread " << commit.thread;
      if (commit.is_power != 0 || !lossy_) {
        ASSERT_TRUE(is_there) << "commit " << commit.number << " was acknowledged";
        ++acknowledged_;
      }
    }
    ASSERT_GE(position, position_) << "what was shown is gone";
    said_.clear();
    position_ = position;
  }

  const bool lossy_;
  const TemporaryDir base_;
  const std::string dir_;
  std::vector<Commit> said_;  // in this round
  std::uint64_t position_ = 0;
  std::uint64_t acknowledged_ = 0;
};

std::uint64_t rounds() {
  return testing_util::number_from_environment("DEFIB_KILL_ROUNDS", 60);
}

TEST(StoreKill, AKilledProcessLosesNothingThatItAcknowledged) {
  KillTest(false).run(rounds());
}

TEST(StoreKill, WhereTheMachineLosesWhatWasNotSyncedNoDurableCommitIsLost) {
  KillTest(true).run(rounds());
}

}  // namespace
}  // namespace defib::store
