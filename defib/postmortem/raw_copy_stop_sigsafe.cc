// Stopping a process's threads, and letting them go.

#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "defib/postmortem/raw_copy_proc_sigsafe.h"

namespace defib::postmortem::raw {
namespace {

// A process that starts threads while it is being stopped is caught in a few rounds.
constexpr int kMaxStopRounds = 16;
constexpr long kStopPollNs = 20'000;
constexpr int kQuickPolls = 20;  // a thread that sleeps or runs stops within microseconds
constexpr int64_t kReapTimeoutNs = 1'000'000'000;

}  // namespace

int Stopped::open(pid_t pid) {
  pid_ = pid;
  void* memory = mmap(nullptr, kMaxThreads * sizeof(Thread), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return -errno;
  threads_ = static_cast<Thread*>(memory);
  own_child_ = status_number(pid, pid, "PPid") == static_cast<pid_t>(syscall(SYS_getpid));
  return 0;
}

void Stopped::close() {
  release(0);
  if (threads_ != nullptr) munmap(threads_, kMaxThreads * sizeof(Thread));
  threads_ = nullptr;
}

Stopped::Thread* Stopped::find(pid_t tid) const {
  for (size_t i = 0; i < count_; ++i) {
    if (threads_[i].tid == tid) return &threads_[i];
  }
  return nullptr;
}

bool Stopped::holds(pid_t tid) const {
  const Thread* thread = find(tid);
  return thread != nullptr && thread->state == Thread::kStopped;
}

pid_t Stopped::tid(size_t index) const {
  for (size_t i = 0; i < count_; ++i) {
    if (threads_[i].state == Thread::kStopped && index-- == 0) return threads_[i].tid;
  }
  return 0;
}

// True where there were threads that we did not hold yet.
bool Stopped::seize_new_threads() {
  bool found = false;
  for_each_number(proc_path(pid_, "task").get(), [&](int tid) {
    if (find(tid) != nullptr) return true;
    if (count_ == kMaxThreads) return false;
    Thread& thread = threads_[count_++];
    thread = {tid, 0, Thread::kWaiting};
    // Its tracer for life has seized it before, and cannot do so again.
    const bool seized = trace(PTRACE_SEIZE, tid, 0, 0) == 0 || traced_;
    if (!seized) error_number_ = errno;
    if (!seized || trace(PTRACE_INTERRUPT, tid, 0, 0) != 0) {
      // A thread that ends just now, or a main thread that has ended, is no failure of ours.
      thread.state = Thread::kLost;
      return true;
    }
    found = true;
    return true;
  });
  return found;
}

void Stopped::await(Buffer& buffer, Thread& thread, int64_t deadline_ns) {
  for (int poll = 0;; ++poll) {
    int status = 0;
    const pid_t changed = wait_for(thread.tid, &status, __WALL | WNOHANG);
    if (changed == thread.tid && WIFSTOPPED(status)) {
      // A stop without an event is a signal on its way to the thread: it must not be lost.
      if (status >> 16 == 0) thread.signal = WSTOPSIG(status);
      thread.state = Thread::kStopped;
      ++stopped_;
      return;
    }
    if (changed == thread.tid || (changed < 0 && errno != EINTR)) {
      thread.state = Thread::kLost;
      return;
    }
    if (mono_ns() >= deadline_ns) {
      thread.state = Thread::kLost;
      error_number_ = ETIMEDOUT;
      return buffer.gap(Kind::kGap, "thread", thread.tid, "it did not stop in time");
    }
    if (poll < kQuickPolls) {
      syscall(SYS_sched_yield);
    } else {
      sleep_ns(kStopPollNs);
    }
  }
}

bool Stopped::stop(Buffer& buffer, int64_t deadline_ns, pid_t held, int held_signal) {
  error_number_ = ESRCH;
  traced_ = held != 0;
  if (held != 0) {
    threads_[count_++] = {held, held_signal, Thread::kStopped};
    ++stopped_;
  }
  for (int round = 0; round < kMaxStopRounds; ++round) {
    const size_t known = count_;
    if (!seize_new_threads()) break;
    for (size_t i = known; i < count_; ++i) {
      if (threads_[i].state == Thread::kWaiting) await(buffer, threads_[i], deadline_ns);
    }
  }
  return stopped_ > 0;
}

void Stopped::release_one(const Thread& thread) {
  if (trace(PTRACE_DETACH, thread.tid, 0, thread.signal) == 0) return;
  // It was killed meanwhile. A dead thread stays until its tracer has taken note, and the whole
  // process with it. Only of a process that is our own child the end is not ours to take here.
  if (thread.tid == pid_ && own_child_) return;
  const int64_t deadline = mono_ns() + kReapTimeoutNs;
  int status = 0;
  while (wait_for(thread.tid, &status, __WALL | WNOHANG) == 0 && mono_ns() < deadline) {
    sleep_ns(kStopPollNs);
  }
}

void Stopped::release(pid_t last) {
  for (size_t i = 0; i < count_; ++i) {
    if (threads_[i].state == Thread::kStopped && threads_[i].tid != last) release_one(threads_[i]);
  }
  if (const Thread* thread = find(last); thread != nullptr && thread->state == Thread::kStopped) {
    release_one(*thread);
  }
  count_ = stopped_ = 0;
}

}  // namespace defib::postmortem::raw
