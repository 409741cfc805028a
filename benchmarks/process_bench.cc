// Supervision measured against the barest supervisor there can be: a loop of waitid and spawn in
// one process, without a log, a status, a budget or anybody who survives it.
//
//   exit_detected   kill -9 of the service until its parent knows the status
//   restart         kill -9 of the service until the main() of its replacement
//   restart_4gb     the same of a service of 4 GB with restart_when = "dying"
//   standby_1gb     kill -9 of the active process until its standby of 1 GB is active
//   footprint       proportional memory of shim and supervisor, idle
//
// Heartbeats are measured in process_bench_hang.cc, the whole daemon with many services in
// process_bench_scale.cc. `--help` names the cases.
//
// Rounds of ours and of the peer alternate, so that both see the same machine. Prints JSON rows.

#include "benchmarks/process_bench.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/assert.h"
#include "defib/os/clock.h"
#include "defib/os/process.h"
#include "defib/process/agent.h"
#include "defib/process/supervisor.h"

namespace {

using namespace defib;
using namespace defib::process;

constexpr int kRounds = 300;
constexpr int kManyServices = 20;

struct Samples {
  std::vector<double> values;
  double percentile(double fraction) { return ::percentile(values, fraction); }
};

// The times of all main()s so far.
std::vector<std::int64_t> read_stamps(const std::string& path) {
  const auto bytes = os::read_file(os::real_files(), path);
  std::vector<std::int64_t> stamps(bytes ? bytes->size() / sizeof(std::int64_t) : 0);
  if (!stamps.empty()) std::memcpy(stamps.data(), bytes->data(), stamps.size() * 8);
  return stamps;
}

std::int64_t wait_for_stamp(const std::string& path, std::size_t count) {
  // Seldom, so that the wait does not take the processor from what is measured.
  std::vector<std::int64_t> stamps;
  while ((stamps = read_stamps(path)).size() < count) ::usleep(5000);
  return stamps[count - 1];
}

// The peer: this thread waits and spawns, nothing else.
class BareLoop {
 public:
  BareLoop(std::string program, std::string stamps, std::string argument = {})
      : program_(std::move(program)), stamps_(std::move(stamps)), argument_(std::move(argument)) {
    spawn();
    wait_for_stamp(stamps_, ++started_);
  }
  std::size_t started() const { return started_; }
  ~BareLoop() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  void round(Samples& detected, Samples& restarted) {
    const std::int64_t killed = os::real_clock().mono_ns();
    ::kill(pid_, SIGKILL);
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED);
    detected.values.push_back(static_cast<double>(os::real_clock().mono_ns() - killed) / 1e3);
    spawn();
    const std::int64_t main = wait_for_stamp(stamps_, ++started_);
    restarted.values.push_back(static_cast<double>(main - killed) / 1e3);
  }

 private:
  void spawn() {
    char* const argv[] = {program_.data(), stamps_.data(),
                          argument_.empty() ? nullptr : argument_.data(), nullptr};
    DEFIB_ASSERT(::posix_spawn(&pid_, program_.c_str(), nullptr, nullptr, argv, environ) == 0);
  }
  std::string program_, stamps_, argument_;
  pid_t pid_ = 0;
  std::size_t started_ = 0;
};

class Watcher : public SupervisorObserver {
 public:
  explicit Watcher(os::EventLoop& loop) : loop_(loop) {}
  void exited(const ExitReport& report) override { exit = report; }
  void started(const StartInfo& info) override {
    start = info;
    loop_.stop();
  }
  ExitReport exit;
  StartInfo start;

 private:
  os::EventLoop& loop_;
};

ServiceSpec bench_spec(const std::string& name, const std::string& program,
                       const std::string& stamps) {
  ServiceSpec spec;
  spec.name = name;
  spec.argv = {program, stamps};
  spec.max_restarts = 1'000'000;
  spec.restart_delay = os::Duration(0);
  spec.capture = CaptureMode::kNone;
  return spec;
}

void bench_restarts(const std::string& dir, const std::string& victim) {
  const std::unique_ptr<os::EventLoop> loop = must(os::EventLoop::create());
  Watcher watcher(*loop);
  Supervisor::Options options;
  options.state_dir = dir + "/state";
  const auto supervisor = must(Supervisor::create(*loop, options, watcher));
  const std::string stamps = dir + "/ours";
  must(supervisor->add(bench_spec("bench", victim, stamps)));
  must(supervisor->start("bench"));
  must(loop->run());
  std::size_t started = 1;
  wait_for_stamp(stamps, started);
  BareLoop bare(victim, dir + "/bare");
  Samples our_detection, our_restart, bare_detection, bare_restart;
  for (int round = 0; round < kRounds; ++round) {
    // The ticket for the next start is made durable after the last one: not what is measured.
    loop->run_after(std::chrono::milliseconds(5), [&] { loop->stop(); });
    must(loop->run());
    const std::int64_t killed = os::real_clock().mono_ns();
    ::kill(watcher.start.pid, SIGKILL);
    must(loop->run());
    DEFIB_ASSERT(watcher.start.by_ticket);
    const std::int64_t main = wait_for_stamp(stamps, ++started);
    our_detection.values.push_back(static_cast<double>(watcher.exit.noticed_mono_ns - killed) /
                                   1e3);
    our_restart.values.push_back(static_cast<double>(main - killed) / 1e3);
    bare.round(bare_detection, bare_restart);
  }
  for (const double fraction : {0.5, 0.99}) {
    const std::string name = fmt::format("p{:.0f}", fraction * 100);
    print_row("exit_detected", name, "us", our_detection.percentile(fraction), "waitid loop",
              bare_detection.percentile(fraction), std::nullopt, kRounds);
    print_row("restart", name, "us", our_restart.percentile(fraction), "waitid+posix_spawn loop",
              bare_restart.percentile(fraction), std::nullopt, kRounds);
  }
  bool done = false;
  supervisor->shutdown([&] {
    done = true;
    loop->stop();
  });
  while (!done) must(loop->run());
}

void stop_all(os::EventLoop& loop, Supervisor& supervisor) {
  bool done = false;
  supervisor.shutdown([&] {
    done = true;
    loop.stop();
  });
  while (!done) must(loop.run());
}

// Runs the loop until `condition` holds, looked at every other millisecond.
void run_until(os::EventLoop& loop, const std::function<bool()>& condition) {
  const auto timer = loop.run_every(std::chrono::milliseconds(2), [&] {
    if (condition()) loop.stop();
  });
  while (!condition()) must(loop.run());
  loop.cancel(timer);
}

// A large service, restarted while the kernel tears the old one down; beside it the bare loop.
void bench_large(const std::string& dir, const std::string& victim) {
  constexpr int kLargeRounds = 5;
  const std::string megabytes = "4096", stamps = dir + "/large", bare_stamps = dir + "/bare-large";
  const std::unique_ptr<os::EventLoop> loop = must(os::EventLoop::create());
  SupervisorObserver silent;
  Supervisor::Options options;
  options.state_dir = dir + "/state-large";
  const auto supervisor = must(Supervisor::create(*loop, options, silent));
  ServiceSpec spec = bench_spec("large", victim, stamps);
  spec.argv.push_back(megabytes);
  spec.restart_when = RestartWhen::kDying;
  spec.expects_ready = true;
  must(supervisor->add(spec));
  must(supervisor->start("large"));
  const auto settled = [&](std::size_t count) {
    const ServiceStatus status = must(supervisor->status("large"));
    return status.ready && status.restart_ready && read_stamps(stamps).size() == count;
  };
  Samples ours, bare_detection, bare_restart;
  for (std::size_t round = 1; round <= kLargeRounds; ++round) {
    run_until(*loop, [&] { return settled(round); });
    const std::int64_t killed = os::real_clock().mono_ns();
    ::kill(must(supervisor->status("large")).pid, SIGKILL);
    run_until(*loop, [&] { return read_stamps(stamps).size() == round + 1; });
    ours.values.push_back(static_cast<double>(read_stamps(stamps)[round] - killed) / 1e3);
  }
  run_until(*loop, [&] { return settled(kLargeRounds + 1); });
  stop_all(*loop, *supervisor);
  BareLoop bare(victim, bare_stamps, megabytes);
  for (int round = 0; round < kLargeRounds; ++round) {
    wait_for_stamp(bare_stamps + ".ready", bare.started());
    bare.round(bare_detection, bare_restart);
  }
  print_row("restart_4gb", "p50", "us", ours.percentile(0.5), "waitid+posix_spawn loop",
            bare_restart.percentile(0.5), 10'000, kLargeRounds);
}

void bench_standby(const std::string& dir, const std::string& victim) {
  constexpr int kStandbyRounds = 10;
  const std::string stamps = dir + "/standby";
  const std::unique_ptr<os::EventLoop> loop = must(os::EventLoop::create());
  SupervisorObserver silent;
  Supervisor::Options options;
  options.state_dir = dir + "/state-standby";
  const auto supervisor = must(Supervisor::create(*loop, options, silent));
  ServiceSpec spec = bench_spec("standby", victim, stamps);
  spec.argv.insert(spec.argv.end(), {"1024", "standby"});
  spec.expects_ready = true;
  spec.standby = true;
  must(supervisor->add(spec));
  must(supervisor->start("standby"));
  Samples ours;
  for (std::size_t round = 1; round <= kStandbyRounds; ++round) {
    run_until(*loop, [&] {
      const ServiceStatus status = must(supervisor->status("standby"));
      return status.ready && status.restart_ready && status.standby_ready &&
             read_stamps(stamps).size() == round;
    });
    const std::int64_t killed = os::real_clock().mono_ns();
    ::kill(must(supervisor->status("standby")).pid, SIGKILL);
    run_until(*loop, [&] { return read_stamps(stamps).size() == round + 1; });
    ours.values.push_back(static_cast<double>(read_stamps(stamps)[round] - killed) / 1e3);
  }
  stop_all(*loop, *supervisor);
  for (const double fraction : {0.5, 0.99}) {
    print_row("standby_1gb", fmt::format("p{:.0f}", fraction * 100), "us",
              ours.percentile(fraction), "", std::nullopt,
              fraction < 0.9 ? std::optional<double>(1000) : std::nullopt, kStandbyRounds);
  }
}

// A supervisor in a process of its own, whose memory is its own too. Ends when its stdin does.
int supervise(const std::string& dir, const std::string& victim, int services) {
  const std::unique_ptr<os::EventLoop> loop = must(os::EventLoop::create());
  SupervisorObserver silent;
  Supervisor::Options options;
  options.state_dir = dir;
  const auto supervisor = must(Supervisor::create(*loop, options, silent));
  for (int i = 0; i < services; ++i) {
    const std::string name = fmt::format("s{}", i);
    must(supervisor->add(bench_spec(name, victim, fmt::format("{}/{}.stamps", dir, name))));
    must(supervisor->start(name));
  }
  loop->run_after(std::chrono::seconds(1), [] { fmt::print("ready\n"), std::fflush(stdout); });
  must(loop->watch(0, 1 /* EPOLLIN */, [&](std::uint32_t) {
    loop->unwatch(0);
    supervisor->shutdown([&] { loop->stop(); });
  }));
  must(loop->run());
  return 0;
}

void bench_footprint(const std::string& dir, const std::string& victim, int services) {
  int to_child[2], from_child[2];
  DEFIB_ASSERT(::pipe2(to_child, O_CLOEXEC) == 0 && ::pipe2(from_child, O_CLOEXEC) == 0);
  const std::string state = fmt::format("{}/footprint-{}", dir, services);
  os::SpawnOptions options;
  options.argv = {"/proc/self/exe", "--supervise", state, victim, std::to_string(services)};
  options.fds = {{to_child[0], 0}, {from_child[1], 1}, {2, 2}};
  os::Child child = must(os::spawn(options));
  char byte;
  DEFIB_ASSERT(::read(from_child[0], &byte, 1) == 1);
  const auto supervisor = must(os::process_usage(child.pid(), true));
  double shims = 0;
  for (int i = 0; i < services; ++i) {
    const auto status =
        must(read_status(os::real_files(), fmt::format("{}/services/s{}", state, i)));
    DEFIB_ASSERT(status.has_value());
    shims += static_cast<double>(must(os::process_usage(status->shim_pid, true)).pss_bytes) / 1024;
  }
  const std::string name = fmt::format("footprint_{}_services", services);
  print_row(name, "shim_pss", "KiB", shims / services, "", std::nullopt, 512, 1);
  print_row(name, "supervisor_pss", "KiB", static_cast<double>(supervisor.pss_bytes) / 1024, "",
            std::nullopt, 4096, 1);
  ::close(to_child[1]);
  child.wait();
  for (const int fd : {to_child[0], from_child[0], from_child[1]}) ::close(fd);
}

// What --only names, in the order in which it is run.
struct Case {
  std::string_view name;
  std::string_view text;
  void (*run)(const std::string& dir);
};

std::string small_victim() {
  return os::own_program_dir() + "/process_bench_victim";
}
std::string large_victim() {
  return os::own_program_dir() + "/process_bench_agent_victim";
}

constexpr std::array<Case, 6> kCases = {{
    {"hangs", "what a beat costs, and how soon a hang is told (half a minute)",
     [](const std::string& dir) { bench_hangs(dir); }},
    {"restart", "kill -9 of a small service until it is noticed, and until the next main() (10 s)",
     [](const std::string& dir) { bench_restarts(dir, small_victim()); }},
    {"large", "the same of a service of 4 GB (a minute, 9 GB of memory)",
     [](const std::string& dir) { bench_large(dir, large_victim()); }},
    {"standby", "kill -9 of an active process until its standby of 1 GB is active (half a minute)",
     [](const std::string& dir) { bench_standby(dir, large_victim()); }},
    {"footprint", "memory of shim and supervisor with one and with twenty services",
     [](const std::string& dir) {
       bench_footprint(dir, small_victim(), 1);
       bench_footprint(dir, small_victim(), kManyServices);
     }},
    {"scale", "the daemon with one and with a hundred services (three minutes)",
     [](const std::string& dir) { bench_scale(dir, small_victim()); }},
}};

void print_usage() {
  fmt::print(
      "process_bench [--json] [--only CASE[,CASE]]\n"
      "  --json   rows as JSON, one a line: there is no other form\n"
      "  --only   these cases alone; else all, about ten minutes\n"
      "cases:\n");
  for (const Case& one : kCases) fmt::print("  {:<10} {}\n", one.name, one.text);
}

// The cases to run, in their order.
Result<std::vector<Case>> parse(const std::vector<std::string_view>& arguments) {
  std::vector<std::string_view> wanted;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--json") continue;
    if (arguments[i] != "--only" || i + 1 == arguments.size()) {
      return Error(Code::kWrongUsage, fmt::format("what is '{}'?", arguments[i]));
    }
    for (std::string_view rest = arguments[++i]; !rest.empty();) {
      const std::size_t comma = std::min(rest.find(','), rest.size());
      wanted.push_back(rest.substr(0, comma));
      rest.remove_prefix(std::min(comma + 1, rest.size()));
    }
    if (wanted.empty()) return Error(Code::kWrongUsage, "--only needs a case");
  }
  for (const std::string_view name : wanted) {
    if (std::ranges::find(kCases, name, &Case::name) == kCases.end()) {
      return Error(Code::kWrongUsage, fmt::format("there is no case '{}'", name));
    }
  }
  std::vector<Case> chosen;
  for (const Case& one : kCases) {
    if (wanted.empty() || std::ranges::find(wanted, one.name) != wanted.end()) {
      chosen.push_back(one);
    }
  }
  return chosen;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string_view> arguments(argv + 1, argv + argc);
  if (arguments.size() == 4 && arguments[0] == "--supervise") {
    return supervise(argv[2], argv[3], std::atoi(argv[4]));
  }
  if (!arguments.empty() && (arguments[0] == "--help" || arguments[0] == "-h")) {
    print_usage();
    return 0;
  }
  const auto chosen = parse(arguments);
  if (!chosen) {
    fmt::print(stderr, "error: {}\ntry: process_bench --help\n", chosen.error().message());
    return 2;
  }
  char dir[] = "/tmp/defib-bench-XXXXXX";
  DEFIB_ASSERT(::mkdtemp(dir) != nullptr);
  for (const Case& one : *chosen) one.run(dir);
  std::filesystem::remove_all(dir);
  return 0;
}
