// At each system call of a start-crash-restart cycle, supervisor or shim are killed, or that call
// fails as on a full disk, a broken one, or without descriptors, processes or memory: always
// exactly one service remains, under a supervisor that works, and nothing is left behind in the
// end.
//
// DEFIB_STRIKES: how many blows a run strikes for each kind, spread evenly over all calls (0: every
// one of them); DEFIB_SEED shifts where they fall.

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "defib/os/random.h"
#include "defib/process/strike_test_util.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

using Blow = Striker::Blow;
constexpr char kDriver[] = "process_supervisor_driver";
constexpr std::chrono::milliseconds kHealTime{4000};

std::uint64_t number_from(const char* name, std::uint64_t standard) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : standard;
}

class Strikes : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  // A cycle in a directory of its own. Calls that were counted.
  std::uint64_t cycle(const Striker::Target& target);
  void campaign(Striker::Target target, std::uint64_t wanted);
  void campaign(const std::string& program, Blow blow, int error_number) {
    campaign({program, 0, blow, error_number}, number_from("DEFIB_STRIKES", 24));
  }
  bool with_groups_ = true;
  // From the death of a service to its replacement: the shim is killed at that call of its own.
  std::uint64_t ending(std::uint64_t call);

  struct View {
    bool runs = false;  // the service of the status file lives, and so does its shim
    pid_t pid = 0;
    std::uint64_t generation = 0;
  };
  View view() const;
  void make_place();
  void stop_driver(const std::string& what);
  void reap() {
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
  }
  std::vector<std::string> driver_command() const {
    return {program(kDriver), state_dir_, "victim", program("process_victim"), "chat"};
  }
  std::vector<std::string> environment() const {
    std::vector<std::string> all = {"VICTIM_DIR=" + dir_, "PATH=/usr/bin:/bin"};
    if (!with_groups_) all.push_back("WITHOUT_GROUPS=1");
    return all;
  }
  pid_t start_driver();
  bool driver_lives() const {
    return driver_ > 0 && ::kill(driver_, 0) == 0 && !is_zombie(driver_);
  }
  static bool is_zombie(pid_t pid) {
    std::ifstream stat(fmt::format("/proc/{}/stat", pid));
    std::string text;
    std::getline(stat, text);
    return text.rfind(") Z") != std::string::npos;
  }
  bool wait_until(const std::function<bool()>& condition, std::chrono::milliseconds limit);
  void prove_supervision(const std::string& what);
  std::string told() const;

  os::Fd out_;
  pid_t driver_ = -1;
  pid_t killed_ = 0;  // the service that the cycle has killed
  int rounds_ = 0;
  std::string root_;
};

Strikes::View Strikes::view() const {
  View view;
  const auto read = read_status(os::real_files(), service_dir());
  if (!read || !*read) return view;
  const auto* active = find_instance(**read, shim::InstanceRole::kActive);
  view.generation = (*read)->generation;
  if (active == nullptr) return view;
  view.pid = active->pid;
  const auto start = os::process_start_time(view.pid);
  view.runs = start && !is_zombie(view.pid) && *start == active->start_time &&
              ::kill((*read)->shim_pid, 0) == 0 && !is_zombie((*read)->shim_pid);
  return view;
}

std::string Strikes::told() const {
  std::ifstream in(dir_ + "/driver.log");
  std::ostringstream text;
  text << in.rdbuf();
  std::ifstream shim(service_dir() + "/shim.log");
  text << "shim.log:\n" << shim.rdbuf();
  return text.str();
}

pid_t Strikes::start_driver() {
  os::SpawnOptions options;
  options.argv = driver_command();
  options.env = {{"VICTIM_DIR", dir_}};
  if (!with_groups_) options.env.emplace_back("WITHOUT_GROUPS", "1");
  options.fds = {{out_.get(), 1}, {out_.get(), 2}};
  auto child = os::spawn(options);
  EXPECT_TRUE(child) << child.error().to_text();
  return driver_ = child ? child->pid() : -1;
}

bool Strikes::wait_until(const std::function<bool()>& condition, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    reap();
    ::usleep(1000);
  }
  return true;
}

// Whatever happened: one service runs, its death is noticed, and told with its true signal.
void Strikes::prove_supervision(const std::string& what) {
  const View before = view();
  ASSERT_TRUE(before.runs) << what << "\n" << told();
  kill_one(before.pid, SIGUSR2);
  const std::string exit =
      fmt::format("exited {} {} signal 12 (SIGUSR2)", before.generation, before.pid);
  const bool proven = wait_until(
      [&] {
        const View now = view();
        return now.runs && now.generation > before.generation &&
               told().find(exit) != std::string::npos;
      },
      kHealTime);
  EXPECT_TRUE(proven) << what << ": a death was not noticed, wanted '" << exit << "'\n" << told();
  EXPECT_FALSE(duplicated()) << what << "\n" << told();
}

void Strikes::make_place() {
  if (root_.empty()) root_ = dir_;
  dir_ = fmt::format("{}/{}", root_, ++rounds_);
  state_dir_ = dir_ + "/state";
  std::filesystem::create_directory(dir_);
  out_ = os::Fd(
      ::open((dir_ + "/driver.log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
}

void Strikes::stop_driver(const std::string& what) {
  wait_until([&] { return ("\n" + told()).find("\nup ") != std::string::npos; }, kHealTime);
  ::kill(driver_, SIGTERM);
  EXPECT_TRUE(wait_until([&] { return processes().empty(); }, std::chrono::seconds(10)))
      << what << ": something was left behind\n"
      << told();
  if (!HasFailure()) std::filesystem::remove_all(dir_);
}

std::uint64_t Strikes::cycle(const Striker::Target& target) {
  make_place();
  std::uint64_t calls = 0;
  std::string what;
  bool struck = false;
  {
    Striker striker(driver_command(), environment(), out_.get(), target);
    driver_ = striker.pid();
    killed_ = 0;
    pid_t first = 0;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    // Until the service was started, killed, and started again; or until the blow.
    while (!striker.struck() && !striker.ended()) {
      striker.watch();
      const View now = view();
      if (first == 0 && now.runs && told().find("started 1 ") != std::string::npos) {
        first = killed_ = now.pid;
        kill_one(first, SIGKILL);
      } else if (first != 0 && now.runs && now.generation > 1 &&
                 told().find("started 2 ") != std::string::npos) {
        break;
      }
      if (std::chrono::steady_clock::now() > deadline) {
        ADD_FAILURE() << "the cycle did not end\n" << told();
        break;
      }
      ::usleep(100);
    }
    struck = striker.struck();
    striker.let_go();
    calls = striker.calls();
    what = struck ? striker.description() : "no blow";
  }
  // A failing call may be told as the reason for an end, or for a start that did not happen: then
  // somebody starts it again, as its guardian or an operator would. After a kill, the same.
  const auto settled = [&] {
    const View now = view();
    return now.runs && now.pid != killed_;
  };
  if (!wait_until([&] { return !driver_lives() || settled(); }, kHealTime) || !driver_lives()) {
    const std::string text = told();
    if (driver_lives()) {
      EXPECT_TRUE(text.find("error ") != std::string::npos ||
                  text.find("start_failed ") != std::string::npos ||
                  text.find("crash_loop ") != std::string::npos)
          << what << ": nothing runs, and nobody says why\n"
          << text;
      ::kill(driver_, SIGKILL);
      wait_until([&] { return !driver_lives(); }, kHealTime);
    }
    start_driver();
  }
  EXPECT_TRUE(wait_until(settled, kHealTime)) << what << ": no service\n" << told();
  if (HasFailure()) return calls;
  prove_supervision(what);
  stop_driver(what);
  return calls;
}

std::uint64_t Strikes::ending(std::uint64_t call) {
  make_place();
  std::uint64_t calls = 0;
  std::string what = "no blow";
  pid_t service = 0;
  const auto count = [&](const std::string& wanted) {
    const std::string text = told();
    int found = 0;
    for (std::size_t at = 0; (at = text.find(wanted, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  {
    Striker::Target target{"defib-shim", call, Blow::kKill, 0};
    target.armed = false;
    Striker striker(driver_command(), environment(), out_.get(), target);
    driver_ = striker.pid();
    // Only the striker waits for processes here: reap() would take its stops.
    const auto watched_until = [&](const std::function<bool()>& condition) {
      const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (!striker.struck() && !condition()) {
        if (std::chrono::steady_clock::now() > deadline) return false;
        striker.watch();
        ::usleep(100);
      }
      return true;
    };
    EXPECT_TRUE(watched_until([&] { return view().runs && count("started 1 ") == 1; })) << told();
    service = view().pid;
    striker.arm();
    if (!HasFailure()) kill_one(service, SIGUSR2);
    EXPECT_TRUE(watched_until([&] { return count("started 2 ") == 1; })) << told();
    if (striker.struck()) what = striker.description();
    striker.let_go();
    calls = striker.calls();
  }
  EXPECT_TRUE(wait_until(
      [&] { return view().runs && view().generation > 1 && count("exited 1 ") > 0; }, kHealTime))
      << what << "\n"
      << told();
  EXPECT_EQ(count("exited 1 "), 1) << what << "\n" << told();
  EXPECT_EQ(count(fmt::format("exited 1 {} signal 12 (SIGUSR2)", service)), 1) << what << "\n"
                                                                               << told();
  EXPECT_FALSE(duplicated()) << what << "\n" << told();
  stop_driver(what);
  return calls;
}

// `wanted` 0: at each call.
void Strikes::campaign(Striker::Target target, std::uint64_t wanted) {
  const std::uint64_t all = cycle(target);
  ASSERT_GT(all, 0u) << "no call of " << target.program << " was seen";
  const std::uint64_t step = wanted == 0 || wanted >= all ? 1 : all / wanted;
  std::uint64_t struck = 0;
  for (target.call = 1 + number_from("DEFIB_SEED", os::random_seed()) % step; target.call <= all;
       target.call += step) {
    SCOPED_TRACE(fmt::format("{} call {}", target.program, target.call));
    cycle(target);
    if (HasFailure()) return;
    ++struck;
  }
  const std::string how =
      target.blow == Blow::kKill ? "killed" : fmt::format("error {}", target.error_number);
  std::printf("  %s, %s: %lu of %lu calls struck (one in %lu)\n", target.program.c_str(),
              how.c_str(), struck, all, step);
}

TEST_F(Strikes, TheShimIsKilledAtItsSystemCalls) {
  campaign("defib-shim", Blow::kKill, 0);
}

// Among them those between a program's first line and what its shim notes of it. By its control
// group the next shim would find also what the record does not name.
TEST_F(Strikes, TheShimIsKilledAtEachWriteOfItsStatus) {
  with_groups_ = false;
  campaign({"defib-shim", 0, Blow::kKill, 0, true, SYS_pwrite64}, 0);
}

// The status is in the record before it is taken from the kernel: no call between the two loses it.
TEST_F(Strikes, AnEndIsToldOnceAndTrulyWhereverItsShimIsKilled) {
  const std::uint64_t all = ending(0);
  const std::uint64_t wanted = number_from("DEFIB_STRIKES", 40);
  const std::uint64_t step = wanted == 0 || wanted >= all ? 1 : all / wanted;
  std::uint64_t struck = 0;
  for (std::uint64_t call = 1 + number_from("DEFIB_SEED", os::random_seed()) % step;
       call <= all && !HasFailure(); call += step, ++struck) {
    SCOPED_TRACE(fmt::format("call {}", call));
    ending(call);
  }
  std::printf("  %lu of %lu calls struck\n", struck, all);
}

TEST_F(Strikes, AStopIsASignalAlsoWhereNoDescriptorIsLeftForTheService) {
  make_place();
  pid_t service = 0;
  {
    Striker striker(driver_command(), environment(), out_.get(),
                    {"defib-shim", 1, Striker::Blow::kFail, EMFILE, true, SYS_pidfd_open});
    driver_ = striker.pid();
    const auto deadline = std::chrono::steady_clock::now() + kHealTime;
    while (!(striker.struck() && view().runs) && std::chrono::steady_clock::now() < deadline) {
      striker.watch();
      ::usleep(100);
    }
    ASSERT_TRUE(striker.struck());
    service = view().pid;
    striker.let_go();
  }
  const std::string wanted = fmt::format("exited 1 {} signal 15 (SIGTERM)", service);
  ASSERT_TRUE(
      wait_until([&] { return told().find("started 1 ") != std::string::npos; }, kHealTime));
  ::kill(driver_, SIGTERM);
  EXPECT_TRUE(wait_until([&] { return told().find(wanted) != std::string::npos; }, kHealTime))
      << told();
  stop_driver("no descriptor for the service");
}

// A child's end is told by SIGCHLD. Another's would be noticed by nobody.
TEST_F(Strikes, AnAdoptedServiceIsWatchedWhenADescriptorIsThereAgain) {
  make_place();
  pid_t service = 0;
  {
    Striker striker(driver_command(), environment(), out_.get(),
                    {"defib-shim", 2, Striker::Blow::kFail, EMFILE, true, SYS_pidfd_open});
    driver_ = striker.pid();
    bool killed = false;
    const auto deadline = std::chrono::steady_clock::now() + kHealTime;
    while (!striker.struck() && std::chrono::steady_clock::now() < deadline) {
      striker.watch();
      if (!killed && view().runs && told().find("started 1 ") != std::string::npos) {
        service = view().pid;
        for (const pid_t pid : processes()) {
          if (os::read_file(os::real_files(), fmt::format("/proc/{}/comm", pid))
                  .value_or("")
                  .starts_with("defib-shim")) {
            killed = kill_one(pid, SIGKILL);
          }
        }
      }
      ::usleep(100);
    }
    ASSERT_TRUE(striker.struck()) << told();
    striker.let_go();
  }
  EXPECT_TRUE(wait_until([&] { return view().runs; }, kHealTime)) << told();
  ASSERT_TRUE(kill_one(service, SIGKILL));
  EXPECT_TRUE(wait_until(
      [&] { return told().find(fmt::format("exited 1 {} ", service)) != std::string::npos; },
      kHealTime))
      << told();
  EXPECT_TRUE(wait_until([&] { return view().runs && view().generation == 2; }, kHealTime));
  stop_driver("no descriptor for an adopted service");
}

TEST_F(Strikes, TheSupervisorIsKilledAtItsSystemCalls) {
  campaign(kDriver, Blow::kKill, 0);
}

class Failing : public Strikes, public testing::WithParamInterface<int> {};

TEST_P(Failing, CallsOfTheShim) {
  campaign("defib-shim", Blow::kFail, GetParam());
}

TEST_P(Failing, CallsOfTheSupervisor) {
  campaign(kDriver, Blow::kFail, GetParam());
}

INSTANTIATE_TEST_SUITE_P(Errors, Failing, testing::Values(ENOSPC, EIO, EMFILE, EAGAIN, ENOMEM),
                         [](const auto& one) { return std::string(strerrorname_np(one.param)); });

}  // namespace
}  // namespace defib::process
