// A supervisor in a process of its own, to be killed: supervises one service and tells what it sees
// on stdout, one line an event. SIGTERM stops the service and ends it.
//
//   supervisor_driver STATE_DIR NAME COMMAND ARGS...
//
// With WITHOUT_GROUPS in its environment the service has no control groups.

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "defib/process/supervisor.h"

using namespace defib;
using namespace defib::process;

namespace {

class Teller : public SupervisorObserver {
 public:
  void started(const StartInfo& info) override {
    std::printf("started %lu %d %s\n", info.generation, info.pid,
                info.by_ticket ? "ticket" : "request");
  }
  void start_failed(const std::string&, const Error& error) override {
    std::printf("start_failed %s\n", error.to_line().c_str());
  }
  void exited(const ExitReport& report) override {
    std::printf("exited %lu %d %s\n", report.generation, report.pid,
                report.status.to_string().c_str());
  }
  void adopted(const std::string&, pid_t pid, std::uint64_t generation) override {
    std::printf("adopted %lu %d\n", generation, pid);
  }
  void shim_replaced(const std::string&, pid_t, pid_t shim) override {
    std::printf("shim %d\n", shim);
  }
  void crash_loop(const std::string&, const Error& error) override {
    std::printf("crash_loop %s\n", error.to_line().c_str());
  }
};

int fail(const Error& error) {
  std::printf("error %s\n", error.to_line().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  auto loop = os::EventLoop::create();
  if (!loop) return fail(loop.error());
  // First of all, so that no signal finds us unprepared; it is handled once the loop runs.
  std::unique_ptr<Supervisor> supervisor;
  auto watched = (*loop)->watch_signals(
      {SIGTERM}, [&](int) { supervisor->shutdown([&] { (*loop)->stop(); }); });
  if (!watched) return fail(watched.error());
  Teller teller;
  Supervisor::Options options;
  options.state_dir = argv[1];
  auto created = Supervisor::create(**loop, options, teller);
  if (!created) return fail(created.error());
  supervisor = std::move(*created);
  ServiceSpec spec;
  spec.name = argv[2];
  spec.argv.assign(argv + 3, argv + argc);
  spec.max_restarts = 1'000'000;
  spec.restart_delay = os::Duration(0);
  spec.capture = CaptureMode::kNone;
  if (std::getenv("WITHOUT_GROUPS") != nullptr) spec.control_groups = false;
  // Rotations happen between the kills.
  spec.log_max_bytes = 4096;
  spec.log_files = 100;
  if (auto added = supervisor->add(spec); !added) return fail(added.error());
  if (auto started = supervisor->start(spec.name); !started) return fail(started.error());
  auto status = supervisor->status(spec.name);
  std::printf("up %d\n", status->shim_pid);
  if (auto ran = (*loop)->run(); !ran) return fail(ran.error());
  std::printf("down\n");
  return 0;
}
