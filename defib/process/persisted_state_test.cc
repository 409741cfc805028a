#include "defib/process/persisted_state.h"

#include <errno.h>
#include <signal.h>
#include <sys/stat.h>

#include <cstring>
#include <random>
#include <vector>

#include "defib/base/bytes.h"
#include "defib/os/fd.h"
#include "defib/process/manager_test_util.h"

namespace defib::process {
namespace {

wire::Json numbered(std::int64_t number) {
  return wire::Json::object({{"number", number},
                             {"twice", 2 * number},
                             {"filler", std::string(300 + number % 700, 'x')}});
}

TEST(PersistedStateFile, IsPrivateAndTellsWhenItWasSaved) {
  const TemporaryDirectory dir;
  const os::FakeClock clock;
  auto state = PersistedState::open(os::real_files(), dir / "state.json");
  ASSERT_TRUE(state);
  EXPECT_EQ(state->saved_wall_ns(), -1);
  ASSERT_TRUE(state->save(numbered(7), clock));
  struct stat info{};
  ASSERT_EQ(stat((dir / "state.json").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  const auto again = PersistedState::open(os::real_files(), dir / "state.json");
  ASSERT_TRUE(again);
  EXPECT_EQ(again->value(), numbered(7));
  EXPECT_EQ(again->saved_wall_ns(), clock.wall_ns());
}

TEST(PersistedStateFile, OfTheFormerSchemaIsRead) {
  const wire::Json value = numbered(3);
  const auto document = wire::Json::object({{"schema", "defib.state/1"},
                                            {"saved_at", "2026-01-01T00:00:00.000000000Z"},
                                            {"pid", 1},
                                            {"stopped", true},
                                            {"value", value},
                                            {"crc32c", crc32c(value.dump())}});
  const auto content = PersistedState::parse(document.dump(2));
  ASSERT_TRUE(content);
  EXPECT_EQ(content->value, value);
  EXPECT_TRUE(content->stopped_cleanly);
}

TEST(PersistedStateFile, EveryDamagedByteIsFoundOrHarmless) {
  const PersistedState::Content content{
      wire::Json::object({{"epoch", 7}, {"price", 1.25}, {"name", "caf\u00e9"}, {"none", nullptr}}),
      true, 1'700'000'000'000'000'000};
  const std::string whole = PersistedState::format(content, 4711);
  ASSERT_TRUE(PersistedState::parse(whole));
  int found = 0, tried = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string damaged = whole;
      if (damaged[at] == static_cast<char>(value)) continue;
      damaged[at] = static_cast<char>(value);
      ++tried;
      const auto read = PersistedState::parse(damaged);
      if (!read) {
        ++found;
        EXPECT_EQ(read.error().code(), Code::kCorrupted);
        continue;
      }
      ASSERT_EQ(read->value, content.value) << at << " " << value;
      ASSERT_EQ(read->stopped_cleanly, content.stopped_cleanly) << at << " " << value;
      ASSERT_EQ(read->saved_wall_ns, content.saved_wall_ns) << at << " " << value;
    }
  }
  // Only white space may change without a meaning, and there is little of it.
  EXPECT_GT(found, tried * 9 / 10);
}

TEST(PersistedStateFile, EveryCutIsFound) {
  const std::string whole = PersistedState::format({numbered(5), false, 1}, 1);
  for (std::size_t size = 0; size + 1 < whole.size(); ++size) {
    EXPECT_FALSE(PersistedState::parse(std::string_view(whole).substr(0, size))) << size;
  }
}

TEST(PersistedStateFile, DamagedOnesAreSetAsideAndTheirNumberIsBounded) {
  const TemporaryDirectory dir;
  const std::string path = dir / "state.json";
  for (int round = 1; round <= kMaxDamagedFiles + 3; ++round) {
    ASSERT_TRUE(
        os::write_file_atomically(os::real_files(), path, "not a state " + std::to_string(round)));
    auto opened = PersistedState::open_or_set_aside(os::real_files(), path);
    ASSERT_FALSE(opened.damage);
    const std::string aside = path + ".damaged-" + std::to_string(round);
    EXPECT_EQ(opened.damage.error().field("set_aside"), aside);
    EXPECT_TRUE(opened.state.value().is_null());
    EXPECT_EQ(os::read_file(os::real_files(), aside).value_or(""),
              "not a state " + std::to_string(round));
    EXPECT_FALSE(os::real_files().exists(path));
    ASSERT_TRUE(opened.state.save(numbered(round)));
  }
  const auto names = os::real_files().list(dir.path());
  ASSERT_TRUE(names);
  EXPECT_EQ(names->size(), 1u + kMaxDamagedFiles);
  EXPECT_FALSE(os::real_files().exists(path + ".damaged-3"));
  EXPECT_TRUE(os::real_files().exists(path + ".damaged-4"));
}

TEST(PersistedStateFile, OneThatCannotBeReadIsSetAsideToo) {
  const TemporaryDirectory dir;
  FailingFiles files;
  const std::string path = dir / "state.json";
  ASSERT_TRUE(os::write_file_atomically(files, path, PersistedState::format({numbered(1)}, 1)));
  files.fail_reads = true;
  const auto opened = PersistedState::open_or_set_aside(files, path);
  ASSERT_FALSE(opened.damage);
  EXPECT_EQ(opened.damage.error().root().code(), Code::kIoError);
  EXPECT_TRUE(os::real_files().exists(path + ".damaged-1"));
}

TEST(PersistedStateFile, AFailedSaveKeepsWhatThereWas) {
  const TemporaryDirectory dir;
  FailingFiles files;
  auto state = PersistedState::open(files, dir / "state.json");
  ASSERT_TRUE(state);
  ASSERT_TRUE(state->save(numbered(1)));
  for (const int fault : {ENOSPC, EIO, EROFS}) {
    files.fault = fault;
    EXPECT_FALSE(state->save(numbered(2))) << fault;
    EXPECT_EQ(state->value(), numbered(1));
    files.fault = 0;
    EXPECT_EQ(PersistedState::open(files, dir / "state.json")->value(), numbered(1)) << fault;
  }
  EXPECT_TRUE(state->save(numbered(3)));
}

// The child saves number after number, and says over a pipe which it begins and which it has done.
// Whatever the moment of its death: the file holds the last one done, or the one that was begun.
TEST(PersistedStateFile, AKillWhileSavingLeavesTheOldOrTheNew) {
  const char* wanted = getenv("DEFIB_KILL_ROUNDS");
  const int rounds = wanted != nullptr ? atoi(wanted) : 60;
  const TemporaryDirectory dir;
  const std::string path = dir / "state.json";
  std::mt19937 random(20240229);
  std::int64_t last = 0;
  int in_between = 0;
  for (int round = 0; round < rounds; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      close(ends[0]);
      auto state = PersistedState::open(os::real_files(), path);
      if (!state) _exit(2);
      for (std::int64_t number = last + 1;; ++number) {
        std::int64_t words[2] = {number, 0};  // begun
        if (write(ends[1], words, sizeof words) != sizeof words) _exit(3);
        if (!state->save(numbered(number))) _exit(4);
        words[1] = 1;  // done
        if (write(ends[1], words, sizeof words) != sizeof words) _exit(3);
      }
    }
    close(ends[1]);
    std::int64_t words[2] = {}, begun = 0, done = last;
    ASSERT_EQ(read(ends[0], words, sizeof words), static_cast<ssize_t>(sizeof words));
    begun = words[0];
    usleep(std::uniform_int_distribution<useconds_t>(0, 8000)(random));
    kill(pid, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    while (read(ends[0], words, sizeof words) == static_cast<ssize_t>(sizeof words)) {
      (words[1] == 1 ? done : begun) = words[0];
    }
    close(ends[0]);
    const auto state = PersistedState::open(os::real_files(), path);
    ASSERT_TRUE(state) << state.error().to_text();
    const std::int64_t found = state->value()["number"].as_int();
    ASSERT_TRUE(found == done || found == begun) << found << " " << done << " " << begun;
    if (found > 0) {
      ASSERT_EQ(state->value(), numbered(found));
    }
    in_between += done != begun ? 1 : 0;
    last = found;
  }
  printf("rounds %d, of which %d killed while saving\n", rounds, in_between);
  EXPECT_GT(in_between, 0);
}

}  // namespace
}  // namespace defib::process
