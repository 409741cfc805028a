// kill -9 of a real process that loads a real store, at random instants.
//
// The child runs `defib-store load`'s work: it commits numbered records and says over a pipe which
// commits are acknowledged. Whatever it said before it died must be there afterwards.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "defib/os/clock.h"
#include "defib/os/random.h"
#include "defib/store/store.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::State;
using testing_util::TemporaryDir;

int rounds() {
  const char* text = std::getenv("DEFIB_KILL_ROUNDS");
  return text != nullptr ? std::atoi(text) : 40;
}

// Commit n writes n under two tables and removes n-50: a state that shows torn transactions.
State expected_state(std::uint64_t last) {
  State state;
  for (std::uint64_t n = last > 50 ? last - 49 : 1; n <= last; ++n) {
    state[{"numbers", fmt::format("{:08}", n)}] = fmt::format("value {}", n);
  }
  if (last > 0) state[{"last", "number"}] = std::to_string(last);
  return state;
}

Options options() {
  Options options;
  options.segment_size = 32 << 10;
  options.checkpoint_after = 24 << 10;
  options.background_sync = std::chrono::milliseconds(2);
  return options;
}

[[noreturn]] void run_child(const std::string& dir, int pipe_end) {
  auto store = Store::open(dir, options());
  if (!store) ::_exit(3);
  for (std::uint64_t n = (*store)->snapshot().value()->position() + 1;; ++n) {
    auto transaction = (*store)->begin();
    if (!transaction) ::_exit(4);
    bool good = (*transaction)
                    ->put("numbers", fmt::format("{:08}", n), fmt::format("value {}", n))
                    .has_value();
    if (n > 50) {
      good = good && (*transaction)->erase("numbers", fmt::format("{:08}", n - 50)).has_value();
    }
    good = good && (*transaction)->put("last", "number", std::to_string(n)).has_value();
    const auto committed =
        (*transaction)->commit(n % 5 == 0 ? Durability::kPower : Durability::kProcess);
    if (!good || !committed || *committed != n) ::_exit(5);
    if (::write(pipe_end, &n, sizeof n) != sizeof n) ::_exit(6);
  }
}

TEST(StoreKill, AKilledProcessLosesNothingThatItAcknowledged) {
  const TemporaryDir dir;
  os::Random random(os::random_seed());
  std::uint64_t total = 0;
  for (int round = 0; round < rounds(); ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(ends[0]);
      run_child(dir.path(), ends[1]);
    }
    ::close(ends[1]);
    // Let it acknowledge a random number of commits, then kill it wherever it is.
    const std::uint64_t wanted = random.below(300);
    std::uint64_t acknowledged = 0;
    std::uint64_t count = 0;
    while (count < wanted && ::read(ends[0], &acknowledged, sizeof acknowledged) > 0) ++count;
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    // Opened before the child is reaped: its death is not over yet, and must not be in the way.
    auto store = Store::open(dir.path(), options());
    ASSERT_TRUE(store.has_value()) << store.error().to_text();
    while (::read(ends[0], &acknowledged, sizeof acknowledged) > 0) ++count;
    ::close(ends[0]);
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended with code " << WEXITSTATUS(status);
    const std::uint64_t position = (*store)->snapshot().value()->position();
    ASSERT_GE(position, acknowledged);
    ASSERT_LE(position, std::max(acknowledged, total) + 1);
    ASSERT_EQ(dump(**store), expected_state(position));
    total = position;
    if (round % 3 == 0) {
      ASSERT_TRUE((*store)->close().has_value());
    }
  }
  RecordProperty("commits", std::to_string(total));
}

}  // namespace
}  // namespace defib::store
