// defib-snapshot crash --pid PID --page-fd FD [--minicore] [what defib-capture understands]...
// defib-snapshot trace ...the same
//
// Copies a process in its first millisecond, lets it go, and becomes defib-capture, which makes the
// report of the copy. A crashed process waits for this program's start, so there is little of it.
//
// `crash`: the process waits in its crash hook. What copies is a process beside this one that
// shares its memory: when it ends, however it ends, the kernel lets go of every thread that it
// held, and what it had copied until then is still there. `trace`: for programs without the hook;
// see trace.cc.
//
// Anything else is passed on as it is. Exit codes: those of defib-capture; 127: it cannot be
// started.

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "snapshot.h"

namespace defib::snapshot {
namespace {

using postmortem::CrashPage;

constexpr int64_t kStopTimeNs = 500'000'000;

#if DEFIB_FREESTANDING
// As vfork(), with the arguments of clone3 (apps/defib-shim/freestanding.cc).
extern "C" __attribute__((returns_twice)) pid_t vfork_with(const void* arguments, size_t size);
struct CloneArguments {  // struct clone_args of Linux 5.3
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};
constexpr uint64_t kCloneVm = 0x100, kCloneFiles = 0x400, kCloneVfork = 0x4000;

// Runs capture() in a process that shares our memory and descriptors.
bool capture_beside(postmortem::raw::Buffer& buffer, const postmortem::raw::Capture& capture) {
  static const CloneArguments arguments = {
      kCloneVm | kCloneFiles | kCloneVfork, 0, 0, 0, SIGCHLD, 0, 0, 0};
  const pid_t pid = vfork_with(&arguments, sizeof arguments);
  if (pid < 0) return false;
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    postmortem::raw::capture(buffer, capture);
    _exit(0);
  }
  waitpid(pid, nullptr, 0);
  return true;
}
#else
bool capture_beside(postmortem::raw::Buffer&, const postmortem::raw::Capture&) {
  return false;
}
#endif

int run_crash(int argc, char** argv, const Options& options) {
  CrashPage* page = map_page(options);
  if (page == nullptr ||
      page->state.load() == static_cast<uint32_t>(postmortem::CrashState::kNone)) {
    return become_capture(argc, argv, nullptr, -1);
  }
  postmortem::raw::Buffer buffer;
  if (buffer.open() != 0) return become_capture(argc, argv, nullptr, -1);
  postmortem::raw::Capture capture;
  capture.pid = options.pid;
  capture.stop_deadline_ns = postmortem::raw::mono_ns() + kStopTimeNs;
  capture.copy.link_map = options.minicore;
  bound_by_page(*page, true, capture);
  if (!capture_beside(buffer, capture)) postmortem::raw::capture(buffer, capture);
  // Where it was killed the process must not wait on.
  release_crashed(*page, page->captured_mono_ns);
  buffer.close(false);
  return become_capture(argc, argv, nullptr, buffer.fd());
}

int run(int argc, char** argv) {
  Options options;
  prctl(PR_SET_TIMERSLACK, 1);
  const char* command = argc > 1 ? argv[1] : "";
  if (strcmp(command, "crash") == 0 && parse_options(argc, argv, &options)) {
    return run_crash(argc, argv, options);
  }
  if (strcmp(command, "trace") == 0 && parse_options(argc, argv, &options)) {
    return run_trace(argc, argv, options);
  }
  return become_capture(argc, argv, nullptr, -1);
}

}  // namespace
}  // namespace defib::snapshot

int main(int argc, char** argv) {
  return defib::snapshot::run(argc, argv);
}
