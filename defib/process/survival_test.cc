// What the next supervisor makes of what it finds: many services at once, shims of another version,
// a machine that was started anew, a back-off that had begun.

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "defib/os/clock.h"
#include "defib/os/pass_fds.h"
#include "defib/process/launch_description.h"
#include "defib/process/shim_link.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

class Survival : public SupervisorTest {
 protected:
  ServiceSpec numbered(int number) const {
    ServiceSpec spec = victim({"run"});
    spec.name = fmt::format("victim{}", number);
    spec.env.clear();  // each has its own directory
    spec.env.emplace_back("SURVIVAL_TEST", dir_);
    return spec;
  }
  bool all_run() const {
    return std::ranges::all_of(supervisor_->status(),
                               [](const ServiceStatus& one) { return one.pid > 0; });
  }
};

TEST_F(Survival, ManyServicesAreTakenOverInMilliseconds) {
  const char* more = std::getenv("DEFIB_ADOPTED_SERVICES");
  const int count = more != nullptr ? std::atoi(more) : 30;
  make_supervisor();
  for (int i = 0; i < count; ++i) {
    ASSERT_TRUE(supervisor_->add(numbered(i)));
    ASSERT_TRUE(supervisor_->start(numbered(i).name));
  }
  run_until([&] { return all_run(); });
  run_until([&] {
    return std::ranges::all_of(supervisor_->status(),
                               [](const ServiceStatus& one) { return one.restart_ready; });
  });
  std::vector<pid_t> before;
  for (const ServiceStatus& one : supervisor_->status()) before.push_back(one.pid);
  double best = 1e9;
  for (int round = 0; round < 15; ++round) {
    abandon_supervisor();
    seen_ = std::make_unique<Recorder>();
    const std::int64_t begun = os::real_clock().mono_ns();
    make_supervisor();
    std::vector<ServiceSpec> specs;
    for (int i = 0; i < count; ++i) specs.push_back(numbered(i));
    supervisor_->begin(specs);
    for (const ServiceSpec& spec : specs) ASSERT_TRUE(supervisor_->add(spec));
    const double ms = static_cast<double>(os::real_clock().mono_ns() - begun) / 1e6;
    best = std::min(best, ms);
    EXPECT_EQ(seen_->adoptions.size(), static_cast<std::size_t>(count));
    for (const ServiceStatus& one : supervisor_->status()) EXPECT_TRUE(one.restart_ready);
  }
  std::printf("%d services taken over in %.2f ms (best of 15)\n", count, best);
  EXPECT_LT(best, 3.0 * count) << "a disk sync for each would show here";
  std::vector<pid_t> after;
  for (const ServiceStatus& one : supervisor_->status()) after.push_back(one.pid);
  EXPECT_EQ(after, before);
}

// A supervisor of the version before, as far as it matters here.
class OldSupervisor {
 public:
  static constexpr std::uint16_t kVersion = 1;
  explicit OldSupervisor(LaunchedShim shim) : shim_(std::move(shim)) {}

  template <typename Body>
  void send(shim::Type type, const Body& body, int fd = -1) {
    shim::MessageHeader header = {shim::kMessageMagic, kVersion, type, 0};
    iovec parts[2] = {{&header, sizeof header}, {const_cast<Body*>(&body), sizeof body}};
    os::FdRoom<1> room;
    msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = 2;
    if (fd >= 0) os::attach_fds(message, room, &fd, 1);
    ASSERT_GT(::sendmsg(shim_.link.fd(), &message, MSG_NOSIGNAL), 0);
  }
  pid_t shim_pid() const { return shim_.process.pid(); }

 private:
  LaunchedShim shim_;
};

// A status file that a later defib wrote: neither it nor the service is touched.
TEST_F(Survival, AServiceOfANewerVersionIsRefusedAndLeftAlone) {
  start(victim({"chat"}));
  run_until([&] { return status().pid > 0 && status().restart_ready; });
  const pid_t service = status().pid, shim = status().shim_pid;
  abandon_supervisor();
  const std::string path = service_dir() + "/status";
  auto before = os::read_file(os::real_files(), path, 4096);
  ASSERT_TRUE(before);
  for (std::size_t slot = 0; slot < 2; ++slot) {
    shim::StatusRecord record{};
    std::memcpy(&record, before->data() + slot * shim::kStatusSlot, sizeof record);
    record.version = shim::kStatusVersion + 1;
    std::memset(record.instances, 0x7f, sizeof record.instances);  // It means something else there.
    record.crc = shim::status_checksum(record);
    std::memcpy(before->data() + slot * shim::kStatusSlot, &record, sizeof record);
  }
  const os::Fd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::pwrite(file.get(), before->data(), before->size(), 0),
            static_cast<ssize_t>(before->size()));
  const auto untouched = [&] {
    const auto now = os::read_file(os::real_files(), path, 4096);
    return now && *now == *before && kill_one(service, 0);
  };
  make_supervisor();
  const auto added = supervisor_->add(victim({"chat"}));
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code(), Code::kStateDirectoryForeign);
  EXPECT_NE(added.error().to_text().find("version"), std::string::npos) << added.error().to_text();
  EXPECT_TRUE(untouched());
  EXPECT_TRUE(kill_one(shim, 0));
  // Nor does a shim take the directory over by itself.
  ASSERT_TRUE(kill_one(shim, SIGKILL));
  const auto pidfd = os::open_pidfd(shim);
  if (pidfd) {
    pollfd wait = {pidfd->get(), POLLIN, 0};
    ASSERT_EQ(::poll(&wait, 1, 10'000), 1);
  }
  ASSERT_FALSE(supervisor_->add(victim({"chat"})));
  ShimLaunch launch;
  launch.program = program("defib-shim");
  launch.service_dir = service_dir();
  auto launched = launch_shim(launch);
  ASSERT_TRUE(launched) << launched.error().to_text();
  const os::ExitStatus status = launched->process.wait();
  EXPECT_EQ(status.to_string(), "exit code 4");
  EXPECT_TRUE(untouched());
  supervisor_.reset();
  ASSERT_TRUE(kill_one(service, SIGKILL));
}

TEST_F(Survival, AShimOfAnotherVersionIsReplacedAndItsServiceGoesOn) {
  auto dir = StateDir::open(os::real_files(), state_dir_);
  ASSERT_TRUE(dir);
  ASSERT_TRUE(dir->prepare_service("victim", "{}"));
  const ServiceSpec spec = victim({"chat"});
  ShimLaunch launch;
  launch.program = program("process_old_shim");
  launch.service_dir = service_dir();
  auto launched = launch_shim(launch);
  ASSERT_TRUE(launched) << launched.error().to_text();
  OldSupervisor old(std::move(*launched));
  shim::LaunchHeader header{};
  header.log_max_bytes = 1 << 20;
  header.log_files = 4;
  std::vector<std::string> fixed(shim::kLaunchFixedStrings);
  fixed[static_cast<std::size_t>(shim::LaunchText::kProgram)] = spec.argv[0];
  fixed[static_cast<std::size_t>(shim::LaunchText::kDirectory)] = "/";
  const std::string bytes =
      encode_launch(header, fixed, spec.argv, {"VICTIM_DIR=" + dir_, "DEFIB_GENERATION=0"}, {});
  const os::Fd description(::memfd_create("launch", MFD_CLOEXEC));
  ASSERT_EQ(::write(description.get(), bytes.data(), bytes.size()),
            static_cast<ssize_t>(bytes.size()));
  old.send(shim::Type::kHello, shim::Hello{::getpid(), 0});
  old.send(shim::Type::kConfigure, shim::Hello{}, description.get());
  old.send(shim::Type::kStart, shim::Start{0, shim::InstanceRole::kActive});
  std::optional<shim::StatusRecord> record;
  run_until([&] {
    auto read = read_status(os::real_files(), service_dir());
    record = read ? *read : std::nullopt;
    return record && record->phase == shim::Phase::kRunning;
  });
  make_supervisor();
  const auto added = supervisor_->add(spec);
  ASSERT_TRUE(added) << added.error().to_text();
  const auto* active = find_instance(*record, shim::InstanceRole::kActive);
  ASSERT_NE(active, nullptr);
  EXPECT_EQ(status().pid, active->pid);
  EXPECT_NE(status().shim_pid, old.shim_pid());
  EXPECT_FALSE(kill_one(old.shim_pid(), 0) && ::waitpid(old.shim_pid(), nullptr, WNOHANG) == 0);
  EXPECT_TRUE(seen_->exits.empty());
  run_until([&] { return status().restart_ready; });
  kill_one(active->pid, SIGKILL);
  run_until([&] { return seen_->starts.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_FALSE(duplicated());
}

TEST_F(Survival, AfterABootServicesBeginAnewAndTheBudgetIsKept) {
  ServiceSpec spec = victim({"run"});
  spec.max_restarts = 5;
  start(spec);
  run_until([&] { return status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->starts.size() == 2 && status().restart_ready; });
  EXPECT_EQ(status().restarts_in_window, 1);
  const pid_t service = status().pid, shim = status().shim_pid;
  abandon_supervisor();
  // The machine goes down, and comes up with another boot id.
  kill_one(shim, SIGKILL);
  kill_one(service, SIGKILL);
  while (::waitpid(-1, nullptr, WNOHANG) > 0 || ::kill(service, 0) == 0) ::usleep(1000);
  const std::string path = service_dir() + "/status";
  auto read = read_status(os::real_files(), service_dir());
  ASSERT_TRUE(read && *read);
  shim::StatusRecord record = **read;
  // The pid is alive again, and somebody else's: only the boot id tells.
  shim::StatusInstance& before = record.instances[0];
  before = shim::StatusInstance{};
  before.generation = record.generation;
  before.role = shim::InstanceRole::kActive;
  before.phase = shim::Phase::kRunning;
  before.pid = ::getpid();
  before.start_time = *os::process_start_time(::getpid());
  std::memcpy(record.boot_id, "11111111-2222-4333-8444-555555555555", 37);
  record.phase = shim::Phase::kRunning;
  record.crc = shim::status_checksum(record);
  std::string file(2 * shim::kStatusSlot, '\0');
  std::memcpy(file.data(), &record, sizeof record);
  std::ofstream(path, std::ios::binary | std::ios::trunc) << file;
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  EXPECT_EQ(status().pid, 0);
  EXPECT_TRUE(seen_->adoptions.empty());
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return seen_->starts.size() == 1 && !seen_->exits.empty(); });
  const ExitReport& last = seen_->exits.back();
  EXPECT_EQ(last.generation, record.generation);
  EXPECT_EQ(last.reason, StopReason::kReboot);
  EXPECT_FALSE(last.status.known);
  EXPECT_FALSE(last.restarts);
  EXPECT_EQ(seen_->starts.at(0).generation, record.generation + 1);
  run_until([&] { return status().restart_ready; });
  // The restart before, and the ticket of which nobody knows whether it was used.
  EXPECT_EQ(status().restarts_in_window, 2);
  EXPECT_FALSE(duplicated());
}

TEST_F(Survival, TheBackOffGoesOnWithTheNextSupervisor) {
  ServiceSpec spec = victim({"run"});
  spec.restart_delay = std::chrono::milliseconds(40);
  spec.healthy_after = std::chrono::hours(1);
  start(spec);
  for (std::size_t crash = 1; crash <= 3; ++crash) {  // delays of 0, 40 and 80 ms
    run_until([&] { return status().restart_ready; });
    kill_service(SIGKILL);
    run_until([&] { return seen_->starts.size() == crash + 1; });
  }
  run_until([&] { return status().restart_ready; });
  // A delay is up to a tenth longer than its place in the series says.
  const auto expect_delay = [&](std::int64_t milliseconds) {
    const os::Duration delay = seen_->exits.back().restart_delay;
    EXPECT_GE(delay, std::chrono::milliseconds(milliseconds));
    EXPECT_LE(delay, std::chrono::milliseconds(milliseconds + milliseconds / 10));
  };
  expect_delay(80);
  for (const int expected_ms : {160, 320}) {
    abandon_supervisor();
    seen_ = std::make_unique<Recorder>();
    make_supervisor();
    ASSERT_TRUE(supervisor_->add(spec));
    run_until([&] { return status().restart_ready; });
    kill_service(SIGKILL);
    run_until([&] { return seen_->starts.size() == 1; });
    expect_delay(expected_ms);
  }
}

TEST_F(Survival, TheSilenceOfAWatchdogIsStillNoticedByTheNextSupervisor) {
  ServiceSpec spec = victim({"watchdog"});
  spec.expects_ready = true;
  spec.heartbeat_timeout = std::chrono::milliseconds(150);
  start(spec);
  run_until([&] { return seen_->ready_count == 1; });
  run_until([&] {
    return std::ranges::count(seen_->notifications, std::string("WATCHDOG"), &NotifyEvent::key) >=
           5;
  });
  // Silent from now on, and the supervisor dies before the deadline.
  abandon_supervisor();
  seen_ = std::make_unique<Recorder>();
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  run_until([&] { return seen_->hangs.size() == 1; });
  EXPECT_EQ(seen_->hangs.at(0).stage, "sd_notify");
  run_until([&] { return seen_->starts.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kHung);
}

}  // namespace
}  // namespace defib::process
