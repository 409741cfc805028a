#include "defib/postmortem/hot_frames.h"

#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "defib/os/clock.h"
#include "defib/postmortem/collect.h"
#include "defib/postmortem/frame_text.h"

namespace defib::postmortem {
namespace {

constexpr std::chrono::milliseconds kStopTime{50};
constexpr std::chrono::microseconds kStopPoll{50};
constexpr std::size_t kMaxPlaces = 16;

// Waits for the thread's stop; `signal` is one that was on its way to it and must not be lost.
bool await_stop(pid_t tid, int& signal) {
  const os::Clock& clock = os::real_clock();
  const std::int64_t deadline = clock.mono_ns() + std::chrono::nanoseconds(kStopTime).count();
  while (true) {
    int status = 0;
    const pid_t changed = ::waitpid(tid, &status, __WALL | WNOHANG);
    if (changed == tid && WIFSTOPPED(status)) {
      signal = status >> 16 == 0 ? WSTOPSIG(status) : 0;
      return true;
    }
    if (changed == tid || (changed < 0 && errno != EINTR)) return false;
    if (clock.mono_ns() >= deadline) return false;
    clock.sleep_for(kStopPoll);
  }
}

// One moment of one thread. The thread goes on before this returns; a thread that does not stop is
// let go by the kernel when this program ends.
bool take_sample(pid_t pid, pid_t tid, const HotOptions& options, Snapshot& into) {
  if (::ptrace(PTRACE_SEIZE, tid, nullptr, nullptr) != 0) return false;
  int signal = 0;
  if (::ptrace(PTRACE_INTERRUPT, tid, nullptr, nullptr) != 0 || !await_stop(tid, signal)) {
    return false;
  }
  ThreadSnapshot thread;
  thread.tid = tid;
  char regset[1024];
  iovec buffer = {regset, sizeof regset};
  const bool got = ::ptrace(PTRACE_GETREGSET, tid, NT_PRSTATUS, &buffer) == 0 &&
                   registers_from_regset(kOwnMachine, std::string_view(regset, buffer.iov_len),
                                         thread.registers);
  if (got) {
    const auto read = [pid](std::uint64_t address, std::size_t size) {
      return read_process_memory(pid, address, size);
    };
    collect_stack(into, thread, options.stack_bytes, read);
    into.threads.push_back(std::move(thread));
  }
  ::ptrace(PTRACE_DETACH, tid, nullptr, static_cast<long>(signal));
  return got;
}

// What the unwinder needs besides stacks.
Snapshot with_modules_of(const Snapshot& snapshot) {
  Snapshot copy;
  copy.pid = snapshot.pid;
  copy.exe = snapshot.exe;
  copy.maps = snapshot.maps;
  for (const Module& module : snapshot.modules) {
    const int fd = module.file.valid() ? ::dup(module.file.get()) : -1;
    copy.modules.push_back(
        {module.start, module.end, module.path, module.build_id, os::Fd(fd), module.image});
  }
  return copy;
}

// A function on the stacks of a thread.
struct Seen {
  int samples = 0;
  std::size_t depth = 0;              // added up
  std::map<std::string, int> places;  // where in it
};

}  // namespace

std::vector<HotFrame> hot_frames_of(const std::vector<ThreadStack>& stacks) {
  std::map<std::string, Seen> seen;
  for (const ThreadStack& stack : stacks) {
    const bool has_own = std::ranges::any_of(stack.frames, is_own);
    std::vector<std::string> counted;
    for (std::size_t depth = 0; depth < stack.frames.size(); ++depth) {
      const Frame& frame = stack.frames[depth];
      if (frame.module.empty() || (has_own && !is_own(frame))) continue;
      const std::string place = place_of(frame);
      const std::string key = frame.function.empty() ? place : frame.module + ' ' + frame.function;
      // A function that calls itself counts once a sample.
      if (std::ranges::find(counted, key) != counted.end()) continue;
      counted.push_back(key);
      Seen& one = seen[key];
      ++one.samples;
      one.depth += depth;
      ++one.places[place];
    }
  }
  std::vector<const Seen*> order;
  order.reserve(seen.size());
  for (const auto& [key, one] : seen) order.push_back(&one);
  std::ranges::sort(order, [](const Seen* a, const Seen* b) {
    if (a->samples != b->samples) return a->samples > b->samples;
    return a->depth < b->depth;
  });
  std::vector<HotFrame> hot;
  for (const Seen* one : order) {
    if (hot.size() == kMaxPlaces) break;
    const auto place =
        std::ranges::max_element(one->places, {}, [](const auto& at) { return at.second; });
    hot.push_back({place->first, one->samples / static_cast<double>(stacks.size())});
  }
  return hot;
}

std::vector<ThreadFacts> sample_hot_frames(const Snapshot& snapshot, const HotOptions& options) {
  std::vector<pid_t> tids;
  for (const ThreadSnapshot& thread : snapshot.threads) {
    if (thread.busy_share >= options.busy_share && tids.size() < options.max_threads) {
      tids.push_back(thread.tid);
    }
  }
  if (tids.empty()) return {};
  std::vector<Snapshot> moments;
  for (int i = 0; i < options.samples; ++i) {
    os::real_clock().sleep_for(options.interval);
    Snapshot moment = with_modules_of(snapshot);
    for (const pid_t tid : tids) take_sample(snapshot.pid, tid, options, moment);
    moments.push_back(std::move(moment));
  }
  std::map<pid_t, std::vector<ThreadStack>> stacks;
  for (const Snapshot& moment : moments) {
    Unwound unwound = unwind(moment);
    for (ThreadStack& stack : unwound.stacks) stacks[stack.tid].push_back(std::move(stack));
  }
  std::vector<ThreadFacts> facts;
  for (const auto& [tid, list] : stacks) {
    ThreadFacts thread;
    thread.tid = tid;
    thread.samples = static_cast<int>(list.size());
    thread.hot = hot_frames_of(list);
    facts.push_back(std::move(thread));
  }
  return facts;
}

}  // namespace defib::postmortem
