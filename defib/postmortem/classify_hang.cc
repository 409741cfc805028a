// The rules for a process that lives: a deadlock, a busy loop, or none of both.

#include <fmt/format.h>

#include <algorithm>

#include "defib/postmortem/classify_rules.h"

namespace defib::postmortem {
namespace {

constexpr double kBusyShare = 0.8;
constexpr std::size_t kEvidenceLines = 5;
constexpr std::size_t kHotFrames = 4;
// A function that is on the stack so often says where the loop is.
constexpr double kHotShare = 0.5;

const ThreadFacts* find_thread(const CrashFacts& facts, pid_t tid) {
  const auto thread = std::ranges::find(facts.threads, tid, &ThreadFacts::tid);
  return thread == facts.threads.end() ? nullptr : &*thread;
}

std::string describe_thread(const CrashFacts& facts, pid_t tid) {
  const ThreadFacts* thread = find_thread(facts, tid);
  if (thread == nullptr) return fmt::format("thread {}", tid);
  return fmt::format("thread {} ({})", tid, thread->name);
}

std::string where(const CrashFacts& facts, pid_t tid, std::string_view before) {
  const ThreadFacts* thread = find_thread(facts, tid);
  if (thread == nullptr || thread->where.empty()) return {};
  return fmt::format("{}{}", before, thread->where);
}

// "thread 10 (main) waits for the mutex 0x7f.., in transfer() at bank.cc:41; it is held by thread
// 11 (booking), which stands in book_order() at bank.cc:17".
std::string describe_wait(const CrashFacts& facts, const LockWait& wait) {
  std::string line = describe_thread(facts, wait.waiter);
  if (wait.kind == WaitKind::kJoin) {
    line += fmt::format(" waits for the end of {}", describe_thread(facts, wait.owner));
    line += where(facts, wait.waiter, ", in ");
    return line + where(facts, wait.owner, "; that one stands in ");
  }
  line += fmt::format(" waits for the {} {:#x}", to_string(wait.kind), wait.address);
  line += where(facts, wait.waiter, ", in ");
  if (wait.owner == wait.waiter) return line + "; it holds it itself";
  line += fmt::format("; it is held by {}", describe_thread(facts, wait.owner));
  if (find_thread(facts, wait.owner) == nullptr)
    return line + ", which is no thread of the process";
  return line + where(facts, wait.owner, ", which stands in ");
}

Classification deadlock(const CrashFacts& facts) {
  std::vector<std::string> evidence;
  bool join = false;
  for (const LockWait& wait : facts.lock_cycle) {
    join = join || wait.kind == WaitKind::kJoin;
    evidence.push_back(describe_wait(facts, wait));
  }
  std::string subtype = join ? "join_cycle" : "lock_cycle";
  if (facts.lock_cycle.size() == 1) subtype = "self_deadlock";
  return verdict(Cause::deadlock, std::move(subtype), 0.99, std::move(evidence));
}

bool calls(const ThreadFacts& thread, std::initializer_list<std::string_view> functions) {
  return std::ranges::any_of(thread.functions, [&](std::string_view name) {
    name = name.substr(0, name.find_first_of("@("));
    while (name.starts_with('_')) name.remove_prefix(1);
    // With glibc's debug information installed its functions have their inner names.
    constexpr std::string_view kInner = "GI_";
    if (name.starts_with(kInner)) name.remove_prefix(kInner.size());
    while (name.starts_with('_')) name.remove_prefix(1);
    return std::ranges::find(functions, name) != functions.end();
  });
}

// A lock of this process alone whose owner is no thread of it (any more): it ended, or forked this
// process, without unlocking. Only where the stack shows that it is a mutex which is waited for.
const LockWait* abandoned_lock(const CrashFacts& facts) {
  for (const LockWait& wait : facts.lock_waits) {
    if (wait.kind != WaitKind::kAbandoned) continue;
    const ThreadFacts* thread = find_thread(facts, wait.waiter);
    if (thread != nullptr && calls(*thread, {"pthread_mutex_lock", "lll_lock_wait"})) return &wait;
  }
  return nullptr;
}

std::vector<std::string> hot_lines(const ThreadFacts& thread) {
  std::vector<std::string> lines;
  for (const HotFrame& frame : thread.hot) {
    if (lines.size() == kHotFrames) break;
    lines.push_back(fmt::format("{:.0f} % of {} samples are in {}", frame.share * 100,
                                thread.samples, frame.place));
  }
  return lines;
}

std::optional<Classification> busy_loop(const CrashFacts& facts) {
  std::vector<std::string> evidence;
  double hottest = 0;
  for (const ThreadFacts& thread : facts.threads) {
    if (thread.busy_share < kBusyShare) continue;
    std::string line = fmt::format("{} was busy for {:.0f} % of the time",
                                   describe_thread(facts, thread.tid), thread.busy_share * 100);
    if (!thread.where.empty()) line += ", in " + thread.where;
    evidence.push_back(std::move(line));
    std::ranges::move(hot_lines(thread), std::back_inserter(evidence));
    if (!thread.hot.empty()) hottest = std::max(hottest, thread.hot.front().share);
  }
  if (evidence.empty()) return std::nullopt;
  // One function that is always there is what a loop looks like.
  return verdict(Cause::busy_loop, "", hottest >= kHotShare ? 0.9 : 0.75, std::move(evidence));
}

// exit(3) runs handlers and destructors: one of them waits, such as for the waiters of a condition
// variable that is destroyed.
std::optional<Classification> exit_hang(const CrashFacts& facts) {
  for (const ThreadFacts& thread : facts.threads) {
    if (!calls(thread, {"run_exit_handlers", "exit", "cxa_finalize", "dl_fini"})) {
      continue;
    }
    std::vector<std::string> evidence = {fmt::format("{} has called exit() and waits in it{}",
                                                     describe_thread(facts, thread.tid),
                                                     where(facts, thread.tid, ", in "))};
    if (calls(thread, {"pthread_cond_destroy"})) {
      evidence.emplace_back("it destroys a condition variable that other threads still wait for");
    }
    for (const LockWait& wait : facts.lock_waits) {
      if (wait.waiter == thread.tid) evidence.push_back(describe_wait(facts, wait));
    }
    return verdict(Cause::unknown, "exit_hang", 0.9, std::move(evidence));
  }
  return std::nullopt;
}

}  // namespace

Classification hang(const CrashFacts& facts) {
  if (!facts.lock_cycle.empty()) return deadlock(facts);
  if (auto busy = busy_loop(facts)) return *busy;
  if (auto exiting = exit_hang(facts)) return *exiting;
  if (const LockWait* wait = abandoned_lock(facts)) {
    return verdict(Cause::deadlock, "abandoned_lock", 0.9, {describe_wait(facts, *wait)});
  }
  const bool stopped =
      !facts.threads.empty() && std::ranges::all_of(facts.threads, [](const ThreadFacts& thread) {
        return thread.state == 'T';
      });
  if (stopped) {
    return verdict(
        Cause::unknown, "stopped", 0.95,
        {"all its threads are stopped (SIGSTOP, or a debugger); SIGCONT lets them go on"});
  }
  std::vector<std::string> evidence = {"no thread is busy, and no threads wait for one another"};
  for (const LockWait& wait : facts.lock_waits) {
    if (wait.kind != WaitKind::kAbandoned && evidence.size() < kEvidenceLines) {
      evidence.push_back(describe_wait(facts, wait));
    }
  }
  for (const ThreadFacts& thread : facts.threads) {
    if (thread.where.empty() || evidence.size() > kEvidenceLines) continue;
    evidence.push_back(
        fmt::format("{} is in {}", describe_thread(facts, thread.tid), thread.where));
  }
  return verdict(Cause::unknown, "blocked", 0.5, std::move(evidence));
}

}  // namespace defib::postmortem
