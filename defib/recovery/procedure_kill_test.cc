// A procedure over real files, in a child process that is killed: at every single file operation in
// turn, and at random instants many times in a row. Executed again until it ends, it must leave
// exactly what an undisturbed run leaves, whether the procedure succeeds or fails and undoes.

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/wait.h>

#include <map>

#include "defib/os/clock.h"
#include "defib/os/process.h"
#include "defib/os/random.h"
#include "defib/recovery/procedure.h"
#include "defib/recovery/progress_file.h"
#include "defib/recovery/testcases/scratch.h"
#include "defib/recovery/testcases/seed.h"

namespace defib::recovery {
namespace {

using testcases::Gate;
using testcases::GatedFiles;
using testcases::Scratch;

constexpr int kItems = 6;

// The work: "extract" writes parts, "merge" sums them into one file, "publish" renames it into
// place, "cleanup" removes the parts. Each undoes itself; "verify" fails where told so.
class Job {
 public:
  Job(os::Files& files, std::string dir, bool verify_fails)
      : files_(files), dir_(std::move(dir)), verify_fails_(verify_fails) {}

  ProcedureResult execute(Procedure::Observer* observer = nullptr) {
    Procedure procedure("job");
    add(
        procedure, "extract", [this](StageContext& c) { return extract(c); },
        [this] { return remove_parts(); });
    add(
        procedure, "merge", [this](StageContext&) { return merge(); },
        [this] { return remove("merged"); });
    add(
        procedure, "publish", [this](StageContext&) { return publish(); },
        [this] { return files_.exists(at("published")) ? unpublish() : Result<>(); });
    procedure.add("verify").run([this](StageContext&) -> Result<> {
      if (verify_fails_) return Error(Code::kRecoveryVerificationFailed, "as told");
      return {};
    });
    add(
        procedure, "cleanup", [this](StageContext&) { return remove_parts(); },
        [] { return Result<>(); });
    return procedure.execute(os::real_clock(), observer);
  }

 private:
  using Run = std::function<Result<>(StageContext&)>;
  using Undo = std::function<Result<>()>;

  // A marker file says that a stage's work is there; a rollback removes it first.
  void add(Procedure& procedure, const std::string& name, Run run, Undo undo) {
    const std::string marker = name + ".done";
    procedure.add(name)
        .run([this, marker, run = std::move(run)](StageContext& context) -> Result<> {
          DEFIB_TRY(run(context));
          return write(marker, "");
        })
        .already_done([this, marker] { return files_.exists(at(marker)); })
        .rollback([this, marker, undo = std::move(undo)]() -> Result<> {
          DEFIB_TRY(remove(marker));
          return undo();
        });
  }
  std::string at(const std::string& name) const { return os::join_path(dir_, name); }
  std::string part(int i) const { return fmt::format("part-{}", i); }
  Result<> write(const std::string& name, std::string_view text) {
    return os::write_file_atomically(files_, at(name), text);
  }
  Result<> remove(const std::string& name) {
    return files_.exists(at(name)) ? files_.remove(at(name)) : Result<>();
  }
  Result<> extract(StageContext& context) {
    for (int i = 0; i < kItems; ++i) {
      context.progress(static_cast<std::uint64_t>(i), kItems, "parts");
      DEFIB_TRY(write(part(i), fmt::format("{}\n", i * i)));
    }
    return {};
  }
  Result<> merge() {
    std::string all;
    for (int i = 0; i < kItems; ++i) {
      DEFIB_TRY_ASSIGN(const std::string text, os::read_file(files_, at(part(i))));
      all += text;
    }
    return write("merged", all);
  }
  Result<> publish() {
    if (files_.exists(at("published")) && !files_.exists(at("merged"))) return {};
    return files_.rename(at("merged"), at("published"));
  }
  Result<> unpublish() { return files_.rename(at("published"), at("merged")); }
  Result<> remove_parts() {
    for (int i = 0; i < kItems; ++i) DEFIB_TRY(remove(part(i)));
    return {};
  }

  os::Files& files_;
  std::string dir_;
  bool verify_fails_;
};

// Names and contents, without the temporary files that a killed atomic write leaves.
std::map<std::string, std::string> state_of(const Scratch& dir) {
  std::map<std::string, std::string> state;
  const auto names = os::real_files().list(dir.path());
  for (const std::string& name : *names) {
    if (!name.ends_with(".tmp")) state[name] = *os::read_file(os::real_files(), dir / name);
  }
  return state;
}

std::map<std::string, std::string> undisturbed(bool verify_fails) {
  const Scratch dir;
  GatedFiles files([](std::string_view) { return Gate::kPass; });
  const ProcedureResult result = Job(files, dir.path(), verify_fails).execute();
  EXPECT_EQ(result.success(), !verify_fails);
  return state_of(dir);
}

// Runs `child` in a forked process; its exit code, or -1 when it was killed.
template <typename Function>
pid_t start(const Function& child) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(child());
  return pid;
}
int await(pid_t pid) {
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// The child's exit code says how the procedure ended.
int run_job(os::Files& files, const std::string& dir, bool verify_fails) {
  return Job(files, dir, verify_fails).execute().success() ? 0 : 1;
}

class KilledProcedure : public testing::TestWithParam<bool> {};

TEST_P(KilledProcedure, AtEveryFileOperationInTurnEndsAsAnUndisturbedRun) {
  const bool fails = GetParam();
  const auto expected = undisturbed(fails);
  int kill_points = 0;
  for (bool completed = false; !completed; ++kill_points) {
    for (const bool half : {false, true}) {
      const Scratch dir;
      const int code = await(start([&] {
        int left = kill_points;
        GatedFiles files([&](std::string_view operation) {
          if (left-- > 0) return Gate::kPass;
          // Half of a write, then dead: as a kill inside write(2).
          if (left == -1 && half && operation == "write") return Gate::kHalf;
          ::raise(SIGKILL);
          return Gate::kFail;
        });
        return run_job(files, dir.path(), fails);
      }));
      completed = code != -1;
      GatedFiles files([](std::string_view) { return Gate::kPass; });
      EXPECT_EQ(run_job(files, dir.path(), fails), fails ? 1 : 0);
      EXPECT_EQ(state_of(dir), expected) << "killed at operation " << kill_points;
    }
    ASSERT_LT(kill_points, 1000);
  }
  EXPECT_GT(kill_points, 40);
}

// Slow enough to be hit anywhere: each operation first lets the parent run.
pid_t start_slow_job(const std::string& dir, bool fails) {
  return start([&] {
    GatedFiles files([](std::string_view) {
      ::usleep(20);
      return Gate::kPass;
    });
    return run_job(files, dir, fails);
  });
}

// How long an undisturbed run takes on this machine: kills are drawn from that span.
std::uint64_t nanoseconds_of_a_run(bool fails) {
  const Scratch dir;
  const std::int64_t begin = os::real_clock().mono_ns();
  EXPECT_EQ(await(start_slow_job(dir.path(), fails)), fails ? 1 : 0);
  return static_cast<std::uint64_t>(os::real_clock().mono_ns() - begin);
}

TEST_P(KilledProcedure, AtRandomInstantsManyTimesInARowEndsAsAnUndisturbedRun) {
  const bool fails = GetParam();
  const auto expected = undisturbed(fails);
  const std::uint64_t span = nanoseconds_of_a_run(fails);
  const std::uint64_t seed = testcases::first_seed();
  os::Random random(seed);
  int kills = 0;
  for (int round = 0; kills < 24; ++round) {
    ASSERT_LT(round, 400) << "too few of the kills hit: " << kills;
    const Scratch dir;
    int code = -1;
    for (int attempt = 0; code == -1 && attempt < 200; ++attempt) {
      const pid_t pid = start_slow_job(dir.path(), fails);
      if (attempt < 12) {
        const auto pidfd = os::open_pidfd(pid);
        ASSERT_TRUE(pidfd);
        pollfd ended = {pidfd->get(), POLLIN, 0};
        const std::uint64_t wait = random.below(span);
        const timespec delay = {static_cast<time_t>(wait / 1'000'000'000),
                                static_cast<long>(wait % 1'000'000'000)};
        if (::ppoll(&ended, 1, &delay, nullptr) == 0) ::kill(pid, SIGKILL);
      }
      code = await(pid);
      kills += code == -1 ? 1 : 0;
    }
    ASSERT_EQ(code, fails ? 1 : 0) << "seed " << seed << " round " << round;
    ASSERT_EQ(state_of(dir), expected) << "seed " << seed << " round " << round;
  }
  fmt::print("{} kills\n", kills);
}

INSTANTIATE_TEST_SUITE_P(SucceedsOrFails, KilledProcedure, testing::Bool(),
                         [](const auto& test) { return test.param ? "Fails" : "Succeeds"; });

TEST(ProgressFile, AKilledProcedureIsSeenAsRunningWithoutAWriter) {
  const Scratch dir;
  const std::string path = dir / "progress";
  const pid_t pid = start([&] {
    auto progress = ProgressFile::create(os::real_files(), os::real_clock(), path);
    Procedure procedure("restore");
    procedure.add("first").run([](StageContext&) -> Result<> { return {}; });
    procedure.add("second").run([](StageContext& context) -> Result<> {
      context.progress(3, 7, "segments");
      ::raise(SIGKILL);
      return {};
    });
    static_cast<void>(procedure.execute(os::real_clock(), progress->get()));
    return 0;
  });
  EXPECT_EQ(await(pid), -1);
  const auto report = read_progress(os::real_files(), os::real_clock(), path);
  ASSERT_TRUE(report) << report.error().to_text();
  EXPECT_EQ(report->procedure, "restore");
  EXPECT_EQ(report->state, ProcedureState::kRunning);
  EXPECT_FALSE(report->ended());
  EXPECT_EQ(report->writer, pid);
  EXPECT_FALSE(report->writer_alive);
  EXPECT_EQ(report->progress.stage, "second");
  EXPECT_EQ(report->progress.stage_number, 2);
}

TEST(ProgressFile, AnotherProcessSeesWholeReportsWhileAWriterRacesItAndIsKilled) {
  const Scratch dir;
  const std::string path = dir / "progress";
  std::uint64_t distinct = 0;
  for (int round = 0; round < 5; ++round) {
    const pid_t pid = start([&] {
      os::FakeClock clock;  // Each step is long enough to be written.
      auto progress = ProgressFile::create(os::real_files(), clock, path);
      Procedure procedure("race");
      procedure.add("count")
          .timeout(std::chrono::hours(100'000))
          .run([&](StageContext& context) -> Result<> {
            for (std::uint64_t i = 1;; ++i) {
              clock.advance(kProgressInterval);
              context.progress(i, i * 3, std::string(i % 400, static_cast<char>('a' + i % 26)));
            }
          });
      static_cast<void>(procedure.execute(clock, progress->get()));
      return 0;
    });
    std::uint64_t last = 0, seen = 0;
    const auto check = [&](const ProgressReport& report) {
      if (report.writer != pid || report.progress.done == 0) return;
      EXPECT_EQ(report.progress.total, report.progress.done * 3);
      EXPECT_EQ(report.progress.what.size(), report.progress.done % 400);
      EXPECT_GE(report.progress.done, last);
      if (report.progress.done != last) ++seen;
      last = report.progress.done;
    };
    for (int reads = 0; seen < 50 && reads < 2'000'000; ++reads) {
      const auto report = read_progress(os::real_files(), os::real_clock(), path);
      // Only before its first write may there be nothing.
      if (!report) {
        EXPECT_EQ(report.error().code(), Code::kNotFound) << report.error().to_text();
        continue;
      }
      check(*report);
    }
    ::kill(pid, SIGKILL);
    EXPECT_EQ(await(pid), -1);
    const auto left = read_progress(os::real_files(), os::real_clock(), path);
    ASSERT_TRUE(left) << left.error().to_text();
    check(*left);
    distinct += seen;
  }
  EXPECT_GE(distinct, 250U);
}

TEST(ProgressFile, ShowsStagesOverrunRollbackAndTheEnd) {
  const Scratch dir;
  const std::string path = dir / "progress";
  os::FakeClock clock;
  auto progress = ProgressFile::create(os::real_files(), clock, path);
  ASSERT_TRUE(progress);
  const auto look = [&] { return *read_progress(os::real_files(), clock, path); };
  EXPECT_EQ(read_progress(os::real_files(), clock, path).error().code(), Code::kNotFound);
  Procedure procedure("restore");
  procedure.add("a")
      .run([&](StageContext&) -> Result<> {
        const ProgressReport report = look();
        EXPECT_EQ(report.state, ProcedureState::kRunning);
        EXPECT_EQ(report.progress.stage, "a");
        EXPECT_EQ(report.progress.stage_count, 2);
        EXPECT_TRUE(report.writer_alive);
        return {};
      })
      .rollback([&]() -> Result<> {
        EXPECT_EQ(look().state, ProcedureState::kRollingBack);
        EXPECT_EQ(look().progress.stage, "a");
        return {};
      });
  procedure.add("b").timeout(std::chrono::seconds(5)).run([&](StageContext& context) -> Result<> {
    context.progress(1, 2, "half");
    clock.advance(std::chrono::seconds(8));
    EXPECT_EQ(look().overrun(clock.mono_ns()), std::chrono::seconds(3));
    EXPECT_EQ(look().to_json()["stage"].as_string(), "b");
    return {};
  });
  EXPECT_FALSE(procedure.execute(clock, progress->get()).success());
  EXPECT_EQ(look().state, ProcedureState::kFailed);
  EXPECT_TRUE(look().ended());
  EXPECT_NE(look().error.find("overran its time limit"), std::string::npos);
  EXPECT_FALSE((*progress)->error());
}

TEST(ProgressFile, DamageIsToldFromWhole) {
  const Scratch dir;
  const std::string path = dir / "progress";
  os::FakeClock clock;
  auto progress = ProgressFile::create(os::real_files(), clock, path);
  Procedure procedure("p");
  procedure.add("a").run([](StageContext&) -> Result<> { return {}; });
  ASSERT_TRUE(procedure.execute(clock, progress->get()).success());
  const std::string whole = *os::read_file(os::real_files(), path);
  auto file = *os::real_files().open(path, os::OpenMode::kWrite);
  // One slot damaged: the other one still tells. Both: said so.
  ASSERT_TRUE(file->write_at(100, "x"));
  EXPECT_TRUE(read_progress(os::real_files(), clock, path));
  ASSERT_TRUE(file->write_at(kProgressSlot + 100, "x"));
  EXPECT_EQ(read_progress(os::real_files(), clock, path).error().code(), Code::kCorrupted);
}

TEST(ProgressFile, AWriterThatDiesInsideAWriteLeavesTheReportBefore) {
  const Scratch dir;
  const std::string path = dir / "progress";
  for (int dies_at = 2; dies_at < 8; ++dies_at) {
    int writes = 0;
    GatedFiles files([&](std::string_view operation) {
      if (operation != "write") return Gate::kPass;
      return ++writes < dies_at ? Gate::kPass : Gate::kHalf;
    });
    os::FakeClock clock;
    auto progress = ProgressFile::create(files, clock, path);
    ASSERT_TRUE(progress);
    Procedure procedure("p");
    procedure.add("a").run([&](StageContext& context) -> Result<> {
      // The procedure's and the stage's start were writes 1 and 2; step n is write n + 2.
      for (std::uint64_t step = 1; step <= 10; ++step) {
        clock.advance(kProgressInterval);
        context.progress(step, 10, std::string(400, static_cast<char>('a' + step)));
      }
      return {};
    });
    ASSERT_TRUE(procedure.execute(clock, progress->get()).success());
    const auto report = read_progress(os::real_files(), clock, path);
    ASSERT_TRUE(report) << report.error().to_text();
    EXPECT_EQ(report->state, ProcedureState::kRunning);
    EXPECT_EQ(report->progress.done, static_cast<std::uint64_t>(std::max(0, dies_at - 3)));
  }
}

TEST(ProgressFile, AFullDiskEndsTheShowingNotTheProcedure) {
  const Scratch dir;
  bool full = false;
  GatedFiles files([&](std::string_view) { return full ? Gate::kFail : Gate::kPass; });
  os::FakeClock clock;
  auto progress = ProgressFile::create(files, clock, dir / "progress");
  Procedure procedure("p");
  procedure.add("a").run([&](StageContext&) -> Result<> {
    full = true;
    return {};
  });
  EXPECT_TRUE(procedure.execute(clock, progress->get()).success());
  ASSERT_TRUE((*progress)->error());
  EXPECT_EQ((*progress)->error()->code(), Code::kNoSpace);
}

}  // namespace
}  // namespace defib::recovery
