// The crash flag of a process, and the helpers around it: the one that copies the process while it
// waits, the one that has seized it for life, and the one that tells what is left when these fail.

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

constexpr int64_t kLookAfterCaptureNs = 1'000'000;
constexpr int kReportIncomplete = 1;  // defib-capture's exit code: it wrote what it could learn

}  // namespace

void Shim::look_at_crash(Instance& one) {
  const postmortem::CrashPage& crash = one.page.page->crash;
  const auto state = static_cast<postmortem::CrashState>(crash.state.load());
  if (state == postmortem::CrashState::kNone || one.crash_handled) return;
  one.crash_handled = true;
  if (state == postmortem::CrashState::kCrashed) {
    end_tracer(one);     // The program has a hook after all, and only one may attach.
    start_capture(one);  // First of all: the process waits for it.
    for (int stream = 0; stream < 2; ++stream) on_output(stream);  // Its last words are evidence.
  } else if (state == postmortem::CrashState::kCaptured && one.tracer > 0) {
    traced_crash(one);
  } else {
    give_up_capture(one);  // Its handler was told not to wait, or waited long enough.
    Capture* slot = free_capture();
    if (state == postmortem::CrashState::kGivenUp && slot != nullptr) {
      slot->generation = saved(one).generation;
      slot->started_mono_ns = saved(one).started_mono_ns;
      slot->page_fd = fcntl(one.page.fd, F_DUPFD_CLOEXEC, 0);
      if (!report_by_page(*slot, "unseen:", 0)) {
        close(slot->page_fd);
        *slot = Capture{};
      }
    }
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

Shim::Capture* Shim::free_capture() {
  if (!launch_.loaded() || launch_.capture_program()[0] == 0) return nullptr;
  for (Capture& capture : captures_) {
    if (capture.pid == 0) return &capture;
  }
  return nullptr;
}

// defib-capture itself, beside the helper that becomes it: what is wrong with the one may be right
// with the other.
const char* Shim::reporter() const {
  static char path[4096];
  path[0] = 0;
  append_text(path, sizeof path, launch_.capture_program());
  char* slash = const_cast<char*>(find_last(path, '/'));
  if (slash == nullptr) return launch_.capture_program();
  slash[1] = 0;
  append_text(path, sizeof path, "defib-capture");
  return path;
}

// The helper inherits our directory, and the page as its descriptor 3.
pid_t Shim::start_capture_helper(const char* command, const CaptureOf& of, int page_fd,
                                 const char* why) {
  static char pid_text[24], since_text[24], out[64];
  pid_text[0] = since_text[0] = out[0] = 0;
  append_number(pid_text, sizeof pid_text, static_cast<uint64_t>(of.pid));
  append_number(since_text, sizeof since_text, static_cast<uint64_t>(of.started_mono_ns));
  append_text(out, sizeof out, kCaptureDir);
  append_text(out, sizeof out, "/crash-");
  append_number(out, sizeof out, of.generation);
  append_text(out, sizeof out, ".json");
  const bool minicore = why == nullptr && launch_.sets(kMinicore);
  const char* const argv[] = {why == nullptr ? launch_.capture_program() : reporter(),
                              command,
                              "--pid",
                              pid_text,
                              "--page-fd",
                              "3",
                              "--output-of",
                              ".",
                              "--since-mono-ns",
                              since_text,
                              "--out",
                              out,
                              why != nullptr ? "--why"
                              : minicore     ? "--minicore"
                                             : nullptr,
                              why,
                              nullptr};
  return start_helper(const_cast<char* const*>(argv), page_fd);
}

void Shim::start_capture(Instance& one) {
  Capture* slot = free_capture();
  if (slot == nullptr) return give_up_capture(one);
  const uint64_t generation = saved(one).generation;
  const pid_t pid = start_capture_helper("crash", capture_of(one), one.page.fd, nullptr);
  if (pid < 0) {
    slot->generation = generation;
    tell_captured(*slot, pid);
    return give_up_capture(one);
  }
  // What the process says of the time is believed only where it makes the wait shorter.
  const int64_t now = mono_ns(), bound = int64_t{launch_.header().capture_timeout_ms} * 1'000'000;
  const int64_t crashed = one.page.page->crash.crashed_mono_ns;
  slot->pid = pid;
  slot->generation = generation;
  slot->started_mono_ns = saved(one).started_mono_ns;
  slot->page_fd = fcntl(one.page.fd, F_DUPFD_CLOEXEC, 0);
  slot->releases = true;
  slot->deadline = (crashed < now && crashed > now - bound ? crashed : now) + bound;
}

// By the page, which outlives its process: that may have given up by itself, and be gone.
bool Shim::was_copied(const Capture& capture) {
  if (capture.page_fd < 0) return true;  // as far as we know
  uint32_t state = 0;
  constexpr off_t kState = offsetof(AgentPage, crash) + offsetof(postmortem::CrashPage, state);
  return pread(capture.page_fd, &state, sizeof state, kState) == sizeof state &&
         state == static_cast<uint32_t>(postmortem::CrashState::kCaptured);
}

// The time in which the process waits for its capture is over, or that of the report.
void Shim::capture_overdue(Capture& capture, int64_t now) {
  if (capture.releases) {
    capture.releases = false;
    if (was_copied(capture)) {
      capture.deadline = now + kCaptureLimitNs;
      return;
    }
    capture.late = true;
  }
  capture.deadline = 0;
  // With it goes what it started; whatever it held stopped is let go by the kernel.
  kill(-capture.pid, SIGKILL);
  kill(capture.pid, SIGKILL);
}

// A helper failed: another one reports what the page tells, and why it is not more. It attaches to
// nothing, so nothing waits for it.
bool Shim::report_by_page(Capture& capture, const char* why, int64_t number) {
  static char text[40];
  text[0] = 0;
  append_text(text, sizeof text, why);
  append_number(text, sizeof text, static_cast<uint64_t>(number));
  const CaptureOf of = {1, capture.generation, capture.started_mono_ns};
  const pid_t pid =
      capture.page_fd < 0 ? -1 : start_capture_helper("page", of, capture.page_fd, text);
  if (pid < 0) return false;
  capture.pid = pid;
  capture.by_page = true;
  capture.releases = false;
  capture.deadline = mono_ns() + kPageReportLimitNs;
  return true;
}

void Shim::captured(Capture& capture, int wait_status) {
  // No effect after a capture; a helper that failed must not delay the death.
  Instance* one = find_generation(capture.generation);
  if (one != nullptr) give_up_capture(*one);
  const bool reported = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) <= kReportIncomplete;
  if (!reported && !capture.by_page) {
    const bool started =
        capture.late ? report_by_page(capture, "late:", launch_.header().capture_timeout_ms)
        : WIFSIGNALED(wait_status) ? report_by_page(capture, "signal:", WTERMSIG(wait_status))
                                   : report_by_page(capture, "exit:", WEXITSTATUS(wait_status));
    if (started) return;
  }
  tell_captured(capture, wait_status);
}

// After the end that it belongs to, always: a process of some gigabytes needs longer to end than
// its report to be made.
void Shim::tell_captured(Capture& capture, int wait_status) {
  const uint64_t generation = capture.generation;
  if (capture.page_fd >= 0) close(capture.page_fd);
  capture = Capture{};
  if (find_generation(generation) != nullptr) {
    capture.pid = kEarly;
    capture.generation = generation;
    capture.wait_status = wait_status;
    return;
  }
  const Captured report = {generation, wait_status, 0};
  journal_.add(Type::kCaptured, &report, sizeof report);
}

void Shim::tell_early_captures(uint64_t generation) {
  for (Capture& capture : captures_) {
    if (capture.pid == kEarly && capture.generation == generation) {
      tell_captured(capture, capture.wait_status);
    }
  }
}

// Seizes a process that has just been started.
void Shim::start_tracer(Instance& one) {
  if (!launch_.sets(kTraced) || launch_.capture_program()[0] == 0 || one.page.fd < 0) return;
  const pid_t pid = start_capture_helper("trace", capture_of(one), one.page.fd, nullptr);
  if (pid > 0) {
    one.tracer = pid;
    return;
  }
  const Shortfall report = {saved(one).generation, StartStage::kTracer, -pid};
  journal_.add(Type::kShortfall, &report, sizeof report);
}

// The service goes on, with nobody who would see it crash.
void Shim::tracer_ended(Instance& one, int wait_status) {
  one.tracer = 0;
  const bool killed = !WIFEXITED(wait_status);
  if (!killed && WEXITSTATUS(wait_status) == 0) return;
  const Shortfall report = {saved(one).generation, StartStage::kTracer,
                            killed ? EOWNERDEAD : WEXITSTATUS(wait_status)};
  journal_.add(Type::kShortfall, &report, sizeof report);
}

// Until its tracer has taken note of an end, a process cannot be waited for; the end of the tracer
// counts as that.
void Shim::end_tracer(Instance& one) {
  if (one.tracer <= 0) return;
  kill(one.tracer, SIGKILL);
  while (wait4(one.tracer, nullptr, 0, nullptr) < 0 && errno == EINTR) {
  }
  one.tracer = 0;
}

// The tracer has copied the process and become the helper that reports.
void Shim::traced_crash(Instance& one) {
  Capture* slot = free_capture();
  if (slot != nullptr) {
    slot->pid = one.tracer;
    slot->generation = saved(one).generation;
    slot->started_mono_ns = saved(one).started_mono_ns;
    slot->page_fd = fcntl(one.page.fd, F_DUPFD_CLOEXEC, 0);
    slot->deadline = mono_ns() + kCaptureLimitNs;
    one.tracer = 0;
  }
  give_up_capture(one);
}

}  // namespace defib::process::shim
