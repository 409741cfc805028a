// The crash flag of a process, and the helper that copies it while it waits.

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

constexpr int64_t kLookAfterCaptureNs = 1'000'000;

}  // namespace

void Shim::look_at_crash(Instance& one) {
  const postmortem::CrashPage& crash = one.page.page->crash;
  const auto state = static_cast<postmortem::CrashState>(crash.state.load());
  if (state == postmortem::CrashState::kNone || one.crash_handled) return;
  one.crash_handled = true;
  if (state == postmortem::CrashState::kCrashed) {
    start_capture(one);  // First of all: the process waits for it.
  } else {
    give_up_capture(one);  // Its handler was told not to wait, or waited long enough.
  }
  const CrashFlag flag = {saved(one).generation, one.pid, crash.signal, crash.crashed_mono_ns,
                          mono_ns()};
  journal_.add(Type::kCrashFlag, &flag, sizeof flag);
  tell_dying(one, DyingSign::kCrashFlag);
}

// From here on it dies, or writes its core, of which nothing tells: so it is looked at.
void Shim::give_up_capture(Instance& one) {
  if (one.page.page == nullptr) return;
  auto& state = one.page.page->crash.state;
  uint32_t expected = static_cast<uint32_t>(postmortem::CrashState::kCrashed);
  state.compare_exchange_strong(expected, static_cast<uint32_t>(postmortem::CrashState::kGivenUp));
  syscall(SYS_futex, &state, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
  one.look_at = mono_ns() + kLookAfterCaptureNs;
  one.look_step_ns = kLookAfterCaptureNs;
  one.looks_left = kLooksAfterCrash;
}

void Shim::start_capture(Instance& one) {
  Capture* slot = nullptr;
  for (Capture& capture : captures_) {
    if (capture.pid == 0) slot = &capture;
  }
  if (slot == nullptr || !launch_.loaded() || launch_.capture_program()[0] == 0) {
    return give_up_capture(one);
  }
  const uint64_t generation = saved(one).generation;
  static char pid_text[24], out[64];
  pid_text[0] = out[0] = 0;
  append_number(pid_text, sizeof pid_text, static_cast<uint64_t>(one.pid));
  append_text(out, sizeof out, kCaptureDir);
  append_text(out, sizeof out, "/crash-");
  append_number(out, sizeof out, generation);
  append_text(out, sizeof out, ".json");
  // The helper inherits our directory, and the page as its descriptor 3.
  static char crash[] = "crash", pid_option[] = "--pid", page_option[] = "--page-fd",
              page_fd[] = "3", log_option[] = "--log-tail", log_path[] = "logs/current",
              out_option[] = "--out";
  char* const argv[] = {const_cast<char*>(launch_.capture_program()),
                        crash,
                        pid_option,
                        pid_text,
                        page_option,
                        page_fd,
                        log_option,
                        log_path,
                        out_option,
                        out,
                        nullptr};
  const pid_t pid = start_helper(argv, one.page.fd);
  if (pid < 0) {
    const Captured failed = {generation, pid, 0};
    journal_.add(Type::kCaptured, &failed, sizeof failed);
    return give_up_capture(one);
  }
  *slot = {pid, generation, mono_ns() + kCaptureLimitNs};
}

void Shim::captured(Capture& capture, int wait_status) {
  const Captured report = {capture.generation, wait_status, 0};
  // No effect after a capture; a helper that failed must not delay the death.
  Instance* one = find_generation(capture.generation);
  if (one != nullptr) give_up_capture(*one);
  capture = Capture{};
  journal_.add(Type::kCaptured, &report, sizeof report);
}

}  // namespace defib::process::shim
