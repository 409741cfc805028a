// Shims and supervisors are killed; services go on, and nothing is lost or invented.

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "defib/os/random.h"
#include "defib/process/restart_policy.h"
#include "defib/process/shim_link.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

class Takeover : public SupervisorTest {
 protected:
  pid_t end_unseen();
  void run_into_delay(ServiceSpec& spec);
  void expect_stopped_for_the_next_supervisor(const ServiceSpec& spec);
};

TEST_F(Takeover, AKilledShimIsReplacedAndTheServiceDoesNotNotice) {
  start(victim({"run"}));
  run_until([&] { return status().pid > 0; });
  const pid_t service = status().pid;
  const pid_t shim = status().shim_pid;
  kill_one(shim, SIGKILL);
  run_until([&] { return seen_->new_shims.size() == 1; });
  EXPECT_NE(seen_->new_shims.at(0), shim);
  EXPECT_EQ(status().pid, service);
  EXPECT_TRUE(kill_one(service, 0));
  EXPECT_TRUE(seen_->exits.empty());
  // The new shim gets a ticket again, and the status of a process that is not its child is true.
  run_until([&] { return status().restart_ready; });
  kill_one(service, SIGTERM);
  run_until([&] { return seen_->starts.size() == 2; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGTERM);
  EXPECT_TRUE(seen_->exits.at(0).status.known);
  EXPECT_TRUE(seen_->starts.at(1).by_ticket);
  EXPECT_FALSE(duplicated());
}

TEST_F(Takeover, AServiceThatDiesTogetherWithItsShimIsReportedTrulyAndRestarted) {
  start(victim({"run"}));
  for (std::size_t round = 1; round <= 10; ++round) {
    run_until([&] { return seen_->starts.size() == round && status().pid > 0; });
    const pid_t service = status().pid;
    kill_shim();
    kill_one(service, SIGUSR1);
    run_until([&] { return seen_->exits.size() == round; });
    EXPECT_EQ(seen_->exits.back().pid, service);
    EXPECT_EQ(seen_->exits.back().status.to_string(), "signal 10 (SIGUSR1)");
  }
  EXPECT_FALSE(duplicated());
}

TEST_F(Takeover, TheNextSupervisorAdoptsWithoutTouchingTheService) {
  start(victim({"notify"}));
  run_until([&] { return seen_->ready_count == 1; });
  const pid_t service = status().pid;
  const std::int64_t started = status().started_wall_ns;
  abandon_supervisor();
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"notify"})));
  EXPECT_EQ(seen_->adoptions, std::vector<pid_t>{service});
  EXPECT_EQ(status().pid, service);
  EXPECT_EQ(status().started_wall_ns, started);
  EXPECT_TRUE(status().ready);
  EXPECT_EQ(status().state, ServiceState::kRunning);
  ASSERT_TRUE(supervisor_->start("victim"));  // No second copy.
  run_until([&] { return status().restart_ready; });
  kill_one(service, SIGKILL);
  run_until([&] { return !seen_->starts.empty() && seen_->starts.back().by_ticket; });
  EXPECT_EQ(seen_->exits.size(), 1u);
  EXPECT_FALSE(duplicated());
}

TEST_F(Takeover, AStopThatTheSupervisorBeforeAskedForSurvivesTheShimToo) {
  ServiceSpec spec = victim({"stubborn"});
  spec.stop_timeout = std::chrono::milliseconds(300);
  start(spec);
  run_until([&] { return ignores_sigterm(); });
  const pid_t service = status().pid;
  ASSERT_TRUE(supervisor_->stop("victim"));
  const auto timer = loop_->run_after(std::chrono::milliseconds(20),
                                      [this] { loop_->stop(); });  // The shim has read it.
  ASSERT_TRUE(loop_->run());
  loop_->cancel(timer);
  abandon_supervisor();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  EXPECT_EQ(status().state, ServiceState::kStopping);
  ASSERT_TRUE(supervisor_->start("victim"));  // Wanted again, when it has ended.
  kill_one(status().shim_pid, SIGKILL);
  run_until([&] { return status().pid > 0 && status().pid != service; });
  EXPECT_FALSE(kill_one(service, 0));
  EXPECT_FALSE(duplicated());
}

// Twice started by tickets, then ended once more: it waits with its next start.
void Takeover::run_into_delay(ServiceSpec& spec) {
  spec.restart_delay = std::chrono::seconds(100);
  start(spec);
  run_until([&] { return status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->starts.size() == 2 && status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return status().state == ServiceState::kBackingOff && status().pid == 0; });
}

void Takeover::expect_stopped_for_the_next_supervisor(const ServiceSpec& spec) {
  abandon_supervisor();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  run_until([&] { return status().state == ServiceState::kStopped; });
  EXPECT_EQ(status().pid, 0);
  EXPECT_TRUE(status().ended_before);  // So nobody starts it who did not ask.
}

// The start was lost with its shim, and called off before there was another one.
TEST_F(Takeover, AStopOfAStartThatHasNotBegunIsRemembered) {
  ServiceSpec spec = victim({"run"});
  run_into_delay(spec);
  const std::size_t shims = seen_->new_shims.size();
  kill_one(status().shim_pid, SIGKILL);
  ::usleep(20'000);  // the supervisor has not heard of it
  ASSERT_TRUE(supervisor_->start("victim"));
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return seen_->new_shims.size() > shims; });
  EXPECT_EQ(status().state, ServiceState::kStopped);
  expect_stopped_for_the_next_supervisor(spec);
}

TEST_F(Takeover, ASecondStopDoesNotForgetTheFirst) {
  ServiceSpec spec = victim({"run"});
  run_into_delay(spec);
  ASSERT_TRUE(supervisor_->stop("victim"));
  ASSERT_TRUE(supervisor_->stop("victim"));
  EXPECT_EQ(status().state, ServiceState::kStopped);
  expect_stopped_for_the_next_supervisor(spec);
}

TEST_F(Takeover, AStopOfAServiceThatWasGivenUpIsRemembered) {
  ServiceSpec spec = victim({"run"});
  spec.max_restarts = 0;
  start(spec);
  kill_service(SIGKILL);
  run_until([&] { return status().state == ServiceState::kFailed; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  spec.max_restarts = 1;
  expect_stopped_for_the_next_supervisor(spec);
}

// The supervisor was killed between writing it down and telling the shim.
TEST_F(Takeover, AStopThatOnlyTheDiskKnowsIsToldToTheShimThatWaits) {
  ServiceSpec spec = victim({"run"});
  run_into_delay(spec);
  const std::uint64_t generation = status().generation;
  abandon_supervisor();
  RestartPlanner::open(os::real_files(), os::real_clock(), service_dir(), spec, os::Random(1))
      .remember_stop(generation);
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  EXPECT_EQ(status().state, ServiceState::kStopped);
  EXPECT_FALSE(status().ended_before);  // not while its shim waits to start it
  expect_stopped_for_the_next_supervisor(spec);
}

// It ended by itself, and its shim was killed, before the shim had read that it is to stop.
TEST_F(Takeover, AStopThatNobodyHeardHoldsForWhatEndedByItself) {
  ServiceSpec spec = victim({"run"});
  spec.restart_delay = std::chrono::seconds(100);
  start(spec);
  run_until([&] { return status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->starts.size() == 2 && status().restart_ready; });
  kill_one(status().shim_pid, SIGSTOP);
  ASSERT_TRUE(supervisor_->stop("victim"));
  kill_one(status().pid, SIGKILL);
  kill_one(status().shim_pid, SIGKILL);
  run_until([&] { return seen_->exits.size() == 2; });
  EXPECT_FALSE(seen_->exits.at(1).restarts);
  EXPECT_EQ(status().state, ServiceState::kStopped);
  EXPECT_EQ(seen_->starts.size(), 2u);
  expect_stopped_for_the_next_supervisor(spec);
}

TEST_F(Takeover, TheShimRestartsByItsTicketWhileNoSupervisorIsThere) {
  start(victim({"run"}));
  run_until([&] { return seen_->starts.size() == 1 && status().pid > 0; });
  run_until([&] { return status().restart_ready; });  // Granted after the start was told.
  const pid_t service = status().pid;
  abandon_supervisor();
  kill_one(service, SIGKILL);
  std::optional<shim::StatusInstance> record;
  run_until([&] {
    auto read = read_status(os::real_files(), service_dir());
    if (!read || !*read) return false;
    const auto* active = find_instance(**read, shim::InstanceRole::kActive);
    if (active != nullptr) record = *active;
    return record && record->phase == shim::Phase::kRunning && record->generation == 2;
  });
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"run"})));
  run_until([&] { return seen_->exits.size() == 1 && seen_->starts.size() == 1; });
  EXPECT_TRUE(seen_->exits.at(0).while_away);
  EXPECT_EQ(seen_->exits.at(0).pid, service);
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_EQ(seen_->starts.at(0).pid, record->pid);
  EXPECT_EQ(status().pid, record->pid);
  EXPECT_EQ(status().restarts_in_window, 1);
}

TEST_F(Takeover, ManyTakeoversDoNotUseUpTheRestartBudget) {
  ServiceSpec spec = victim({"run"});
  spec.max_restarts = 2;
  start(spec);
  run_until([&] { return status().pid > 0; });
  for (int round = 0; round < 10; ++round) {
    abandon_supervisor();
    make_supervisor();
    ASSERT_TRUE(supervisor_->add(spec));
    EXPECT_EQ(status().restarts_in_window, 0);
  }
  run_until([&] { return status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return !seen_->starts.empty() && seen_->starts.back().by_ticket; });
}

TEST_F(Takeover, WithShimAndSupervisorDeadTheServiceIsFoundByItsStatusFile) {
  start(victim({"chat"}));
  run_until([&] { return status().pid > 0; });
  const pid_t service = status().pid;
  const pid_t shim = status().shim_pid;
  abandon_supervisor();
  kill_one(shim, SIGKILL);
  ::waitpid(shim, nullptr, 0);
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"chat"})));
  EXPECT_EQ(status().pid, service);
  EXPECT_EQ(seen_->adoptions.size(), 1u);
  kill_one(service, SIGKILL);
  run_until([&] { return seen_->starts.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_FALSE(duplicated());
}

// Starts the service, and kills it and its shim while no supervisor is there. Its pid; 0: failed.
pid_t Takeover::end_unseen() {
  start(victim({"run"}));
  run_until([&] { return status().pid > 0; });
  const pid_t service = status().pid;
  const pid_t shim = status().shim_pid;
  abandon_supervisor();
  kill_one(shim, SIGKILL);
  ::waitpid(shim, nullptr, 0);
  kill_one(service, SIGKILL);
  return ::waitpid(service, nullptr, 0) == service ? service : 0;  // This process inherited it.
}

TEST_F(Takeover, AnExitThatNobodyCouldSeeIsUnknownAndNotInvented) {
  ASSERT_GT(end_unseen(), 0);
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"run"})));
  run_until([&] { return seen_->exits.size() == 1; });
  EXPECT_FALSE(seen_->exits.at(0).status.known);
  EXPECT_EQ(seen_->exits.at(0).source, shim::StatusSource::kUnknown);
  EXPECT_TRUE(seen_->exits.at(0).while_away);
}

TEST_F(Takeover, AProcessThatGotTheNumberOfADeadServiceIsNotTakenForIt) {
  const pid_t service = end_unseen();
  ASSERT_GT(service, 0);
  auto read = read_status(os::real_files(), service_dir());
  ASSERT_TRUE(read && *read);
  shim::StatusRecord record = **read;
  const auto dead = std::ranges::find(record.instances, service, &shim::StatusInstance::pid);
  ASSERT_NE(dead, std::end(record.instances));
  // As if the kernel had given it the number: the record's start time is the dead one's. The kernel
  // counts those in hundredths of a second, and hands no number out twice within one.
  os::SpawnOptions options;
  options.argv = {"sleep", "60"};
  options.new_session = true;  // Who takes it for the service kills its group.
  auto bystander = os::spawn(options);
  while (bystander && *os::process_start_time(bystander->pid()) == dead->start_time) {
    ASSERT_TRUE(bystander->signal(SIGKILL));
    bystander->wait();
    bystander = os::spawn(options);
  }
  ASSERT_TRUE(bystander);
  dead->pid = bystander->pid();
  record.crc = shim::status_checksum(record);
  const auto file =
      os::real_files().open(service_dir() + "/" + shim::kStatusName, os::OpenMode::kWrite);
  ASSERT_TRUE(file);
  const std::string_view bytes(reinterpret_cast<const char*>(&record), sizeof record);
  ASSERT_TRUE((*file)->write_at(record.sequence % 2 * shim::kStatusSlot, bytes));
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"run"})));
  run_until([&] { return seen_->exits.size() == 1; });
  EXPECT_TRUE(seen_->adoptions.empty());
  EXPECT_EQ(seen_->exits.at(0).source, shim::StatusSource::kUnknown);
  stop_all();
  EXPECT_FALSE(bystander->try_wait()) << "it was killed";
  EXPECT_TRUE(bystander->signal(SIGKILL));
  bystander->wait();
}

TEST_F(Takeover, AnotherUserDoesNotTakeTheShimOver) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  start(victim({"run"}));
  run_until([&] { return status().pid > 0; });
  // Where the directories are open the peer's identity decides alone.
  for (const std::string& path :
       {dir_, state_dir_, state_dir_ + "/services", service_dir(), service_dir() + "/shim.sock"}) {
    ASSERT_EQ(::chmod(path.c_str(), 0777), 0) << path;
  }
  Result<ShimMessage> answer(Error(Code::kInternal, "nothing was asked"));
  std::thread([&] {
    constexpr int kNobody = 65534;
    // The kernel's call, unlike the library's, is of this thread alone.
    ASSERT_EQ(::syscall(SYS_setresuid, kNobody, kNobody, kNobody), 0);
    auto link = ShimLink::connect(service_dir());
    ASSERT_TRUE(link) << link.error().to_text();
    static_cast<void>(link->send(shim::Type::kHello, shim::Hello{::getpid(), 0}).has_value());
    constexpr int kPatienceMs = 20'000;
    answer = link->wait_for_message(kPatienceMs);
  }).join();
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Code::kUnavailable) << answer.error().to_text();
}

TEST_F(Takeover, AnAcknowledgedExitIsNotToldAgain) {
  for (const bool with_shim : {false, true}) {
    seen_ = std::make_unique<Recorder>();
    make_supervisor();
    ASSERT_TRUE(supervisor_->add(victim({"exit", "0"})));
    ASSERT_TRUE(supervisor_->start("victim"));
    run_until([&] { return seen_->exits.size() == 1; });
    const std::uint64_t told = seen_->exits.at(0).generation;
    run_until([&] {
      const auto record = read_status(os::real_files(), service_dir());
      return record && *record && (*record)->acknowledged == (*record)->exit_number;
    });
    const pid_t shim = status().shim_pid;
    abandon_supervisor();
    if (with_shim) {
      kill_one(shim, SIGKILL);
      ::waitpid(shim, nullptr, 0);
    }
    seen_ = std::make_unique<Recorder>();
    make_supervisor();
    ASSERT_TRUE(supervisor_->add(victim({"exit", "0"})));
    ASSERT_TRUE(supervisor_->start("victim"));
    run_until([&] { return !seen_->exits.empty(); });
    EXPECT_EQ(seen_->exits.at(0).generation, told + 1);
    abandon_supervisor();
  }
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(victim({"exit", "0"})));
}

// A write that is cut short damages one of two.
TEST_F(Takeover, TheRecordBeforeTheLastIsKept) {
  start(victim({"run"}));
  run_until([&] { return status().restart_ready; });
  const pid_t shim = status().shim_pid;
  kill_one(shim, SIGSTOP);  // so that it writes nothing meanwhile
  ASSERT_EQ(::waitpid(shim, nullptr, WUNTRACED), shim);
  const auto bytes = os::read_file(os::real_files(), service_dir() + "/" + shim::kStatusName);
  kill_one(shim, SIGCONT);
  ASSERT_TRUE(bytes);
  shim::StatusRecord slots[2];
  ASSERT_EQ(bytes->size(), sizeof slots);
  std::memcpy(slots, bytes->data(), sizeof slots);
  for (const shim::StatusRecord& slot : slots) EXPECT_TRUE(shim::status_valid(slot));
  const auto [older, newer] = std::minmax(slots[0].sequence, slots[1].sequence);
  EXPECT_EQ(newer - older, 1u);
}

// A supervisor in a process of its own, whose output goes to a file.
class Driver {
 public:
  Driver(std::string state_dir, std::string log)
      : state_dir_(std::move(state_dir)), log_(std::move(log)) {}

  void start(const std::string& program, const std::string& victim, const std::string& dir) {
    lines_before_ = lines().size();
    const os::Fd out(::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    os::SpawnOptions options;
    options.argv = {program, state_dir_, "victim", victim, "chat"};
    options.env = {{"VICTIM_DIR", dir}};
    options.fds = {{out.get(), 1}, {out.get(), 2}};
    auto child = os::spawn(options);
    ASSERT_TRUE(child) << child.error().to_text();
    child_ = std::move(*child);
  }
  // It supervises, and minds its signals.
  bool up() const {
    const auto all = lines();
    return std::any_of(all.begin() + static_cast<std::ptrdiff_t>(lines_before_), all.end(),
                       [](const std::string& line) { return line.starts_with("up "); });
  }
  bool running() const { return child_.valid(); }
  void kill(int signal) {
    ASSERT_TRUE(child_.signal(signal));
    child_.wait();
    child_ = os::Child{};
  }
  std::vector<std::string> lines() const {
    std::ifstream in(log_);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
  }

 private:
  std::string state_dir_, log_;
  os::Child child_;
  std::size_t lines_before_ = 0;
};

class Torture : public SupervisorTest {
 protected:
  struct View {
    shim::StatusRecord record{};
    shim::StatusInstance active{};
    bool settled = false;
  };
  // Settled: the service runs, and its shim does.
  View view() const {
    View view;
    const auto read = read_status(os::real_files(), service_dir());
    if (!read || !*read) return view;
    view.record = **read;
    const auto* active = find_instance(view.record, shim::InstanceRole::kActive);
    if (active == nullptr) return view;
    view.active = *active;
    const auto start = os::process_start_time(view.active.pid);
    view.settled = view.active.phase == shim::Phase::kRunning && start &&
                   *start == view.active.start_time && shim_is_alive(view.record.shim_pid);
    return view;
  }
  static bool shim_is_alive(pid_t pid) {
    const auto stat = os::read_file(os::real_files(), fmt::format("/proc/{}/stat", pid), 4096);
    const std::string text = stat ? *stat : "";
    return text.find("(defib-shim) ") != std::string::npos &&
           text.find("(defib-shim) Z") == std::string::npos;
  }
  // Every line of a process, from its first to its last, is in the log, once.
  void expect_no_line_lost() const {
    std::map<int, std::multiset<int>> numbers;
    std::istringstream in(all_logs());
    for (std::string line; std::getline(in, line);) {
      int generation = 0, number = -1;
      ASSERT_EQ(std::sscanf(line.c_str(), "%d %d", &generation, &number), 2) << line;
      numbers[generation].insert(number);
    }
    for (const auto& [generation, seen] : numbers) {
      EXPECT_EQ(static_cast<int>(seen.size()), *seen.rbegin() + 1) << "generation " << generation;
      EXPECT_EQ(std::set<int>(seen.begin(), seen.end()).size(), seen.size());
    }
  }
};

TEST_F(Torture, KillsAtRandomTimesLeaveExactlyOneServiceAndLoseNoLine) {
  // DEFIB_KILL_ROUNDS, DEFIB_SEED: longer, or the same once more.
  const char* given_seed = std::getenv("DEFIB_SEED");
  const char* given_rounds = std::getenv("DEFIB_KILL_ROUNDS");
  const std::uint64_t seed =
      given_seed != nullptr ? std::strtoull(given_seed, nullptr, 10) : os::random_seed();
  const int rounds = given_rounds != nullptr ? std::atoi(given_rounds) : 50;
  SCOPED_TRACE(fmt::format("DEFIB_SEED={}", seed));
  os::Random random(seed);
  Driver driver(state_dir_, dir_ + "/driver.log");
  const auto start_driver = [&] {
    driver.start(program("process_supervisor_driver"), program("process_victim"), dir_);
  };
  start_driver();
  run_until([&] { return view().settled; });
  std::map<std::uint64_t, int> killed_with;  // by generation
  for (int round = 0; round < rounds; ++round) {
    const View before = view();
    const std::uint64_t what = 1 + random.below(7);  // Any of service, shim, supervisor.
    const bool service = (what & 1) != 0, shim = (what & 2) != 0, supervisor = (what & 4) != 0;
    const auto pause = [&] { ::usleep(static_cast<useconds_t>(random.below(4000))); };
    const int signal = random.below(2) == 0 ? SIGKILL : SIGUSR2;
    // All three at once may lose what only they knew: how the service ended, and unread output.
    if (service && !(shim && supervisor)) {
      if (kill_one(before.active.pid, signal)) killed_with[before.active.generation] = signal;
      if (random.below(2) == 0) pause();
    }
    if (shim) {
      kill_one(before.record.shim_pid, SIGKILL);
      if (random.below(2) == 0) pause();
    }
    if (supervisor) {
      driver.kill(SIGKILL);
      while (::waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      pause();
      start_driver();
    }
    run_until([&] {
      const View now = view();
      return now.settled && (!shim || now.record.shim_pid != before.record.shim_pid) &&
             (killed_with.count(before.active.generation) == 0 ||
              now.active.generation > before.active.generation);
    });
    if (HasFatalFailure()) {
      const View now = view();
      ADD_FAILURE() << fmt::format(
          "round {}: service {} shim {} supervisor {}; before: process {} of generation {}, shim "
          "{}; now: process {} of generation {}, shim {}, phase {}, settled {}; the driver said:",
          round, service, shim, supervisor, before.active.pid, before.active.generation,
          before.record.shim_pid, now.active.pid, now.active.generation, now.record.shim_pid,
          static_cast<int>(now.record.phase), now.settled);
      for (const std::string& line : driver.lines()) std::printf("%s\n", line.c_str());
      return;
    }
    const shim::StatusInstance after = view().active;
    if (killed_with.count(before.active.generation) == 0) {
      EXPECT_EQ(after.pid, before.active.pid) << "round " << round << " kind " << what;
      EXPECT_EQ(after.generation, before.active.generation);
    }
    ASSERT_FALSE(duplicated()) << "round " << round << " kind " << what;
  }
  // Every death was told with its true signal, by one supervisor or the other.
  run_until([&] {
    std::set<std::uint64_t> told;
    for (const std::string& line : driver.lines()) {
      unsigned long generation = 0;
      if (std::sscanf(line.c_str(), "exited %lu", &generation) == 1) told.insert(generation);
    }
    return std::ranges::all_of(killed_with, [&](auto& k) { return told.contains(k.first); });
  });
  if (HasFatalFailure()) {
    for (const auto& [generation, signal] : killed_with)
      std::printf("%lu: %d\n", generation, signal);
    for (const std::string& line : driver.lines()) std::printf("%s\n", line.c_str());
  }
  // One of shim and supervisor lived on each time: then no status is unknown.
  for (const std::string& line : driver.lines()) {
    unsigned long generation = 0;
    int pid = 0, signal = 0;
    if (std::sscanf(line.c_str(), "exited %lu %d signal %d", &generation, &pid, &signal) == 3) {
      EXPECT_EQ(signal, killed_with[generation]) << line;
    } else {
      EXPECT_FALSE(line.starts_with("exited")) << line;
      EXPECT_FALSE(line.starts_with("error")) << line;
    }
  }
  std::printf("  %d rounds, %zu services killed\n", rounds, killed_with.size());
  run_until([&] { return driver.up(); });
  driver.kill(SIGTERM);
  expect_no_line_lost();
}

}  // namespace
}  // namespace defib::process
