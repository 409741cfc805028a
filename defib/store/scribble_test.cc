// Wild pointers of the host program: a child process that has a store open overwrites all of its
// own writable memory, and dies of it. What it had acknowledged is there afterwards, because no
// byte of an acknowledged commit lies where the program can write: the files are written by system
// calls and mapped, if at all, for reading only. The volatile page is the exception, and must not
// be believed when it holds nonsense.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "defib/os/random.h"
#include "defib/store/store.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::State;
using testing_util::TemporaryDir;

struct Range {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
};

struct MapLine {
  Range range;
  bool writable = false;
  bool shared = false;
  std::string name;
};

std::vector<MapLine> own_maps() {
  std::vector<MapLine> lines;
  const std::string text = *os::read_file(os::real_files(), "/proc/self/maps");
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = text.find('\n', at);
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    MapLine found;
    char flags[5] = {};
    int name_at = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %4s %*x %*s %*d %n", &found.range.begin,
                    &found.range.end, flags, &name_at) < 3) {
      continue;
    }
    found.writable = flags[1] == 'w';
    found.shared = flags[3] == 's';
    found.name = line.substr(std::min<std::size_t>(line.size(), static_cast<std::size_t>(name_at)));
    lines.push_back(std::move(found));
  }
  return lines;
}

enum class Pattern : std::uint64_t { kZeros = 0, kOnes = ~0ULL, kNoise = 0x9e3779b97f4a7c15 };

constexpr std::size_t kMostRanges = 4096;

// Overwrites the ranges and dies. It uses nothing but its own stack, and does not return: what it
// would return to is overwritten.
[[noreturn]] __attribute__((no_stack_protector)) void scribble(const Range* ranges,
                                                               std::size_t count, Pattern pattern,
                                                               pid_t self) {
  std::uint64_t word = static_cast<std::uint64_t>(pattern);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::uintptr_t at = ranges[i].begin; at < ranges[i].end; at += sizeof word) {
      *reinterpret_cast<volatile std::uint64_t*>(at) = word;
      if (pattern == Pattern::kNoise) word = word * 6364136223846793005ULL + 1442695040888963407ULL;
    }
  }
  for (;;) ::syscall(SYS_kill, self, SIGKILL);
}

// Everything that this process can write, without the stack that the caller runs on.
[[noreturn]] void scribble_over_everything(Pattern pattern, bool also_volatile_page) {
  Range ranges[kMostRanges];
  std::size_t count = 0;
  const auto here = reinterpret_cast<std::uintptr_t>(&count);
  const pid_t self = ::getpid();
  {
    for (const MapLine& line : own_maps()) {
      const bool is_own_stack = line.range.begin <= here && here < line.range.end;
      const bool is_chosen =
          line.shared ? also_volatile_page && line.name.starts_with("/dev/shm/") : true;
      if (line.writable && is_chosen && !is_own_stack && count < kMostRanges) {
        ranges[count++] = line.range;
      }
    }
  }
  scribble(ranges, count, pattern, self);
}

std::string value_of(std::uint64_t n) {
  return fmt::format("{}:{}", n, std::string(n % 7 * 300, 'v'));
}

struct Case {
  Pattern pattern = Pattern::kNoise;
  bool busy = false;  // while commits go on
  bool also_volatile_page = false;
  std::uint64_t checkpoint_after = 0;
};

// Acknowledges commits over the pipe, then scribbles. Exit code 9: a file of the store is mapped
// writable.
[[noreturn]] void run_child(const std::string& dir, int pipe_end, const Case& with) {
  // Not a disaster that anybody wants a core of.
  const rlimit no_core{0, 0};
  (void)::setrlimit(RLIMIT_CORE, &no_core);
  Options options;
  options.segment_size = 64 << 10;
  options.checkpoint_after = with.checkpoint_after;
  options.background_sync = std::chrono::milliseconds(1);
  auto store = Store::open(dir, options);
  if (!store) ::_exit(3);
  const auto commit = [&](std::uint64_t n) {
    const auto durability = n % 5 == 0 ? Durability::kPower : Durability::kProcess;
    const auto committed = put(**store, "t", fmt::format("{:06}", n), value_of(n), durability);
    if (!committed) ::_exit(4);
    if (::write(pipe_end, &n, sizeof n) != sizeof n) ::_exit(5);
  };
  std::uint64_t n = (*(*store)->snapshot())->position();
  for (int i = 0; i < 120; ++i) commit(++n);
  // A reader has the files mapped, if anything has.
  if (dump(**store).empty()) ::_exit(6);
  for (const MapLine& line : own_maps()) {
    if (line.shared && line.writable && line.name.starts_with(dir)) ::_exit(9);
  }
  if (!with.busy) scribble_over_everything(with.pattern, with.also_volatile_page);
  std::thread([&with] {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    scribble_over_everything(with.pattern, with.also_volatile_page);
  }).detach();
  for (;;) commit(++n);
}

class StoreScribble : public testing::TestWithParam<int> {};

TEST_P(StoreScribble, OverAllOfTheProcesssMemoryLosesNothingAcknowledged) {
  constexpr Pattern kPatterns[] = {Pattern::kNoise, Pattern::kZeros, Pattern::kOnes};
  const Case with{.pattern = kPatterns[GetParam() % 3],
                  // Zeros in a running program make offsets of 0 and the like; a write that was
                  // on its way may then go anywhere, which no store can be proof against.
                  .busy = GetParam() >= 6 && kPatterns[GetParam() % 3] == Pattern::kNoise,
                  .also_volatile_page = GetParam() % 2 == 1,
                  .checkpoint_after = GetParam() % 4 == 0 ? 0U : 40U << 10};
  const TemporaryDir base;
  const std::string dir = base.path() + "/store";
  std::uint64_t acknowledged = 0;
  for (int round = 0; round < 4; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(ends[0]);
      run_child(dir, ends[1], with);
    }
    ::close(ends[1]);
    std::uint64_t said = 0;
    while (::read(ends[0], &said, sizeof said) == sizeof said) acknowledged = said;
    ::close(ends[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status))
        << "the child ended with code " << WEXITSTATUS(status)
        << (WEXITSTATUS(status) == 9 ? ": a file is mapped writable" : "");
    const auto store = Store::open(dir, {});
    ASSERT_TRUE(store.has_value()) << store.error().to_text();
    const std::uint64_t position = (*(*store)->snapshot())->position();
    ASSERT_GE(position, acknowledged);
    State expected;
    for (std::uint64_t n = 1; n <= position; ++n) {
      expected[{"t", fmt::format("{:06}", n)}] = value_of(n);
    }
    const State shown = dump(**store);
    if (position > acknowledged) {
      // What was being committed when the memory went may hold anything, or be there whole.
      ASSERT_EQ(position, acknowledged + 1);
      ASSERT_TRUE(with.busy);
      expected.erase({"t", fmt::format("{:06}", position)});
      for (const auto& [key, value] : expected) ASSERT_EQ(shown.at(key), value);
    } else {
      ASSERT_EQ(shown, expected);
    }
    ASSERT_TRUE((*store)->verify()->findings.empty());
    if (position > acknowledged) break;  // Its bytes are not known to the next round.
  }
}

INSTANTIATE_TEST_SUITE_P(Patterns, StoreScribble, testing::Range(0, 12));

}  // namespace
}  // namespace defib::store
