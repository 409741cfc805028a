#include "defib/process/starvation.h"

#include <fmt/core.h>

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "defib/base/assert.h"

namespace defib::process {
namespace {

using std::chrono::milliseconds;

constexpr std::array<std::string_view, 4> kLockWords = {"none", "unknown_holder", "held", "cycle"};
constexpr std::array<std::string_view, 6> kHindranceWords = {"none",   "processor",     "disk",
                                                             "holder", "other_threads", "unseen"};
constexpr int kMaxChain = 16;
constexpr os::Duration kSoonestLook = milliseconds(1);
constexpr os::Duration kAlertInterval = milliseconds(250);
constexpr double kCrowdedPressure = 10;

const ThreadFacts* find(const std::vector<ThreadFacts>& threads, pid_t tid) {
  const auto found = std::ranges::find(threads, tid, &ThreadFacts::tid);
  return found != threads.end() ? &*found : nullptr;
}

bool sleeps(char state) {
  return state == 'S' || state == 'I';
}

// Woken by its own timer or by a signal: no starved thread or process is to blame.
bool sleeps_by_itself(std::string_view function) {
  return std::ranges::any_of(
      std::initializer_list<std::string_view>{"nanosleep", "sigsuspend", "pause", "sigtimedwait"},
      [&](std::string_view part) { return function.find(part) != std::string_view::npos; });
}

}  // namespace

std::string_view to_string(LockFact lock) {
  return kLockWords.at(static_cast<std::size_t>(lock));
}
std::string_view to_string(Hindrance hindrance) {
  return kHindranceWords.at(static_cast<std::size_t>(hindrance));
}

// How much of the window the thread could have used. Where that cannot be told, the least that it
// had: the processor time that it got.
StallWatch::Share StallWatch::share(const ThreadFacts& now, const ThreadFacts* before,
                                    const Window& window) {
  constexpr os::Duration kNothing{0};
  if (before == nullptr) {
    // First seen: in a crowd it may have waited all the time.
    if (window.crowded || now.state == 'D') return {kNothing, Hindrance::kUnseen};
    return {window.silent, Hindrance::kNone};
  }
  const os::Duration waited = std::max(now.run_delay - before->run_delay, kNothing);
  const os::Duration ran = std::max(now.cpu - before->cpu, kNothing);
  // What it ran before the beat does not count.
  const os::Duration ran_silent =
      std::clamp(ran - (window.length - window.silent), kNothing, window.silent);
  if (now.state == 'D' || before->state == 'D') return {ran_silent, Hindrance::kDisk};
  // A wait for a processor is counted by the kernel when it ends: one that still goes on is not in
  // `waited`, and looks like running.
  if (now.state == 'R' && window.crowded) return {ran_silent, Hindrance::kProcessor};
  const os::Duration available = window.silent - std::min(waited, window.silent);
  return {available, waited > kNothing ? Hindrance::kProcessor : Hindrance::kNone};
}

StallWatch::Share StallWatch::least_share(const std::vector<ThreadFacts>& now,
                                          const std::vector<ThreadFacts>& before, pid_t except,
                                          const Window& window) {
  Share least = {window.silent, Hindrance::kNone};
  for (const ThreadFacts& thread : now) {
    if (thread.tid == except) continue;
    const Share one = share(thread, find(before, thread.tid), window);
    if (one.available < least.available) least = one;
  }
  return least;
}

// Who holds the lock that the thread waits for, and so on. A cycle counts when it is there at a
// second reading, and none of its threads has run in between: then nobody can have let go.
StallWatch::Chain StallWatch::follow_locks(pid_t pid, pid_t tid,
                                           const std::vector<ThreadFacts>& threads) const {
  std::vector<std::pair<pid_t, LockWait>> seen;
  for (pid_t at = tid; seen.size() < kMaxChain;) {
    const LockWait wait = view_->lock_wait(pid, at);
    if (wait.kind == LockWait::Kind::kUnknownHolder) return {LockFact::kUnknownHolder, 0};
    if (wait.kind == LockWait::Kind::kNone) {
      return at == tid ? Chain{} : Chain{LockFact::kHeld, at};
    }
    seen.emplace_back(at, wait);
    const bool cycle =
        std::ranges::any_of(seen, [&](const auto& link) { return link.first == wait.holder; });
    if (!cycle) {
      at = wait.holder;
      continue;
    }
    for (const auto& [member, member_wait] : seen) {
      const ThreadFacts* const before = find(threads, member);
      const auto now = view_->thread(pid, member);
      if (before == nullptr || !now || !sleeps(now->state) || now->turns != before->turns ||
          view_->lock_wait(pid, member) != member_wait) {
        return {LockFact::kHeld, wait.holder};
      }
    }
    return {LockFact::kCycle, wait.holder};
  }
  return {LockFact::kUnknownHolder, 0};
}

StallWatch::Entry& StallWatch::entry(std::size_t slot) {
  const auto found = std::ranges::find(entries_, slot, &Entry::slot);
  if (found != entries_.end()) return *found;
  entries_.push_back({});
  entries_.back().slot = slot;
  return entries_.back();
}

void StallWatch::note_beating(pid_t pid, const std::vector<HeartbeatWatch::Armed>& beating,
                              std::int64_t mono_ns) {
  for (const HeartbeatWatch::Armed& stage : beating) {
    Entry& own = entry(stage.slot);
    Baseline& newest = own.newest;
    // One for each beat is enough: a later one would tell less of the silence.
    const bool known = newest.facts.tid == stage.tid && stage.last_beat_ns < newest.mono_ns;
    if (stage.tid == 0 || known) continue;
    const auto facts = view_->thread(pid, stage.tid);
    if (!facts) continue;
    own.older = newest.facts.tid == stage.tid ? newest : Baseline();
    newest = {mono_ns, *facts};
  }
}

// The newest one of before the last beat; else the oldest one after it.
const StallWatch::Baseline* StallWatch::baseline_of(const Entry& own,
                                                    const HeartbeatWatch::Silence& silence) {
  const Baseline& newest = own.newest;
  const Baseline& older = own.older;
  if (newest.mono_ns == 0 || newest.facts.tid != silence.tid) return nullptr;
  if (newest.mono_ns <= silence.last_beat_ns || older.mono_ns == 0) return &newest;
  return &older;
}

os::Duration StallWatch::unexplained_lateness(std::int64_t due_ns, std::int64_t mono_ns) {
  const os::Duration before = std::exchange(own_run_delay_, view_->own_run_delay());
  const os::Duration late(std::max<std::int64_t>(mono_ns - due_ns, 0));
  return std::max(late - (own_run_delay_ - before), os::Duration(0));
}

// Everything but the account.
void StallWatch::describe(pid_t pid, const HeartbeatWatch::Silence& silence, const Entry& own,
                          Judgement& judgement) const {
  StallFacts& facts = judgement.facts;
  facts.deadline = silence.deadline;
  facts.silent = silence.silent_for;
  facts.from_waits = silence.from_waits;
  const Surroundings around = view_->surroundings(pid);
  facts.ending = around.ending || judgement.threads.empty();
  facts.frozen = around.frozen;
  facts.tracer = around.tracer;
  facts.runnable_per_cpu = around.runnable_per_cpu;
  facts.load_per_cpu = around.load_per_cpu;
  facts.cpu_pressure = around.cpu_pressure;
  facts.io_pressure = around.io_pressure;

  const ThreadFacts* const thread = find(judgement.threads, silence.tid);
  if (thread == nullptr) {
    // Seen before, it has ended; never seen, it is numbered in another namespace, or not named.
    const bool ended = silence.tid != 0 && baseline_of(own, silence) != nullptr;
    facts.tid = ended ? silence.tid : 0;
    facts.state = ended ? '-' : '?';
    facts.depends_on_others = !ended;
    return;
  }
  facts.tid = thread->tid;
  facts.state = thread->state;
  if (!sleeps(thread->state)) return;
  facts.waits_in = view_->waits_in(pid, thread->tid);
  const Chain chain = follow_locks(pid, thread->tid, judgement.threads);
  facts.lock = chain.fact;
  facts.holder = chain.holder;
  if (chain.fact == LockFact::kCycle) return;
  const std::string holder_in =
      chain.holder != 0 ? view_->waits_in(pid, chain.holder) : facts.waits_in;
  facts.depends_on_others = !sleeps_by_itself(holder_in);
}

// Adds what the service could have used since the last look (or since the last beat).
void StallWatch::add_window(Entry& own, const HeartbeatWatch::Silence& silence,
                            Judgement& judgement, std::int64_t mono_ns) {
  Account& account = own.account;
  StallFacts& facts = judgement.facts;
  const bool first = account.looked_ns == 0;
  Window window;
  // A look sees one instant of the window: the crowd may just have gone.
  window.crowded =
      facts.runnable_per_cpu > 1 || facts.load_per_cpu > 1 || facts.cpu_pressure > kCrowdedPressure;
  std::vector<ThreadFacts> before = std::move(account.threads);
  std::int64_t since = account.looked_ns;
  if (first) {
    const Baseline* const baseline = baseline_of(own, silence);
    since = baseline != nullptr ? baseline->mono_ns : mono_ns;
    if (baseline != nullptr) before.push_back(baseline->facts);
    // Of a thread that is not known: what all of them could have used.
    if (facts.state == '?') since = silence.last_beat_ns;
  }
  window.length = os::Duration(mono_ns - since);
  window.silent = os::Duration(mono_ns - std::max(since, silence.last_beat_ns));

  Share share_of_it = {window.silent, Hindrance::kNone};
  const ThreadFacts* const thread = find(judgement.threads, facts.tid);
  if (thread != nullptr) {
    const ThreadFacts* const earlier = find(before, thread->tid);
    share_of_it = share(*thread, earlier, window);
    const bool unmoved =
        earlier != nullptr && thread->state == 'D' && earlier->turns == thread->turns;
    account.disk_wait = unmoved ? account.disk_wait + window.silent : os::Duration(0);
  } else if (facts.state == '?') {
    share_of_it = least_share(judgement.threads, before, 0, window);
  }
  // A lock that went from hand to hand had holders that nobody saw: any thread may have been one.
  const bool same_holder = first || facts.holder == account.holder;
  if (const ThreadFacts* const holder = find(judgement.threads, facts.holder);
      holder != nullptr && facts.lock == LockFact::kHeld && same_holder) {
    const Share of_holder = share(*holder, find(before, holder->tid), window);
    if (of_holder.available < share_of_it.available) {
      share_of_it = {of_holder.available, Hindrance::kHolder};
    }
  } else if (facts.lock == LockFact::kUnknownHolder || facts.lock == LockFact::kHeld) {
    const Share of_others = least_share(judgement.threads, before, facts.tid, window);
    if (of_others.available < share_of_it.available) {
      share_of_it = {of_others.available, Hindrance::kOtherThreads};
    }
  }
  const bool late = facts.supervisor_late > lateness_limit(facts.deadline);
  if (facts.frozen || account.blind || late) share_of_it = {os::Duration(0), Hindrance::kUnseen};
  account.blind = facts.frozen;
  account.available += share_of_it.available;
  account.looked_ns = mono_ns;
  account.holder = facts.holder;
  account.threads = judgement.threads;
  facts.available = account.available;
  facts.disk_wait = account.disk_wait;
  facts.hindrance = share_of_it.hindrance;
}

StallWatch::Judgement StallWatch::look(pid_t pid, const HeartbeatWatch::Silence& silence,
                                       os::Duration late, std::int64_t mono_ns) {
  DEFIB_ASSERT(silence.slot < HeartbeatWatch::kSlots);
  Entry& own = entry(silence.slot);
  Account& account = own.account;
  if (account.last_beat_ns != silence.last_beat_ns) {
    account = {};
    account.last_beat_ns = silence.last_beat_ns;
  }
  Judgement judgement;
  judgement.facts.supervisor_late = late;
  judgement.threads = view_->threads(pid);
  describe(pid, silence, own, judgement);
  add_window(own, silence, judgement, mono_ns);
  const StallFacts& facts = judgement.facts;
  os::Duration left = std::max(facts.deadline - facts.available, facts.deadline / 4);
  // What it waited for may have come, or a circle of locks may have closed: that is not found out
  // a whole deadline later.
  if (left > facts.deadline / 2) left /= 2;
  if (facts.frozen || facts.tracer != 0 || facts.disk_wait >= facts.deadline) {
    left = std::max(facts.deadline, kAlertInterval);
  }
  judgement.look_again_ns = mono_ns + std::max(left, kSoonestLook).count();
  return judgement;
}

}  // namespace defib::process
