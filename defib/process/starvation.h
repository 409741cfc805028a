// Is a silent service hung, or was it kept from running? Told before anything is killed.
//
// The principle: a deadline counts only the time that the service had. Time in which the beating
// thread (or the holder of the lock for which it waits) was runnable without a processor, or waited
// for a disk, is not the service's fault. So
//   - a starved service is never taken for hung, however long it is silent;
//   - threads in a deadlock sleep: nobody keeps them from running, all of the time counts;
//   - a busy loop is hung when it has used its deadline of processor time without a beat.
// A cycle of locks, seen twice with nobody having moved, needs no such account: it never ends.
//
// StallWatch collects and keeps account; judge_stall() decides, by rules over facts alone. What the
// supervisor cannot see counts for the service: doubt is no kill.
// Thread rule: one thread.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/clock.h"
#include "defib/process/heartbeat.h"
#include "defib/process/thread_facts.h"
#include "defib/recovery/decision.h"

namespace defib::process {

// What the beating thread waits for, as far as locks go.
enum class LockFact : std::uint8_t { kNone, kUnknownHolder, kHeld, kCycle };
// "none", "unknown_holder", "held", "cycle".
std::string_view to_string(LockFact lock);

// Why a part of the silence does not count.
enum class Hindrance : std::uint8_t { kNone, kProcessor, kDisk, kHolder, kOtherThreads, kUnseen };
// "none", "processor", "disk", "holder", "other_threads", "unseen".
std::string_view to_string(Hindrance hindrance);

// All that the rules know.
struct StallFacts {
  os::Duration deadline{0};
  os::Duration silent{0};
  os::Duration available{0};               // of the silence: what the service could have used
  Hindrance hindrance = Hindrance::kNone;  // what the rest of it went to
  os::Duration supervisor_late{0};         // we looked so much too late, and were not waiting for a
                                           // processor ourselves: perhaps the machine stood still
  os::Duration disk_wait{0};               // it waits for a disk, without a break, for so long
  bool has_beaten = false;                 // while the facts were collected
  bool ending = false;
  bool frozen = false;
  pid_t tracer = 0;
  bool from_waits = false;
  pid_t tid = 0;         // of the beating thread; 0: not known
  char state = '?';      // its state; '-': it has ended
  std::string waits_in;  // the kernel's function in which it sleeps; empty: not known
  LockFact lock = LockFact::kNone;
  pid_t holder = 0;
  // It sleeps, and what would wake it may be another thread or process.
  bool depends_on_others = false;
  double runnable_per_cpu = 0;
  double load_per_cpu = 0;
  double cpu_pressure = -1;
  double io_pressure = -1;
};

// kAllow: it is a hang. kMonitorOnly: tell, and kill nothing. kRefuse: no hang, look again.
recovery::Decision judge_stall(const StallFacts& facts, const std::vector<ThreadFacts>& threads);
// A look that came later than this, for no reason that we know, is no evidence.
os::Duration lateness_limit(os::Duration deadline);
// What kind of hang an allowed one is: "deadlock", "busy_loop", "stopped", "thread_ended",
// "asleep".
std::string_view hang_kind(const StallFacts& facts);

class StallWatch {
 public:
  explicit StallWatch(const ThreadView& view = kernel_threads()) : view_(&view) {}

  // After a look: notes how much the beating threads have run, to have something to compare with.
  void note_beating(pid_t pid, const std::vector<HeartbeatWatch::Armed>& beating,
                    std::int64_t mono_ns);

  struct Judgement {
    StallFacts facts;
    std::vector<ThreadFacts> threads;
    std::int64_t look_again_ns = 0;  // where it is no hang
  };
  // `late`: what unexplained_lateness() said of this look.
  Judgement look(pid_t pid, const HeartbeatWatch::Silence& silence, os::Duration late,
                 std::int64_t mono_ns);
  // Once a look: how much later than it was due the look came, less what this thread waited for a
  // processor itself (what the service waits for one is counted apart).
  os::Duration unexplained_lateness(std::int64_t due_ns, std::int64_t mono_ns);

 private:
  struct Baseline {
    std::int64_t mono_ns = 0;
    ThreadFacts facts;
  };
  // The account of one silence.
  struct Account {
    std::int64_t last_beat_ns = 0;  // whose silence; 0: none
    std::int64_t looked_ns = 0;
    os::Duration available{0};
    os::Duration disk_wait{0};
    pid_t holder = 0;                  // of the lock, at the last look
    std::vector<ThreadFacts> threads;  // likewise
    bool blind = false;                // what went before the last look cannot be told apart
  };
  struct Chain {
    LockFact fact = LockFact::kNone;
    pid_t holder = 0;  // the last one that waits for no further lock
  };
  // A part of the silence, and how much of it a thread could have used.
  struct Window {
    os::Duration length{0};
    os::Duration silent{0};  // the part of it after the last beat
    bool crowded = false;    // more runnable threads than processors, now or lately
  };
  struct Share {
    os::Duration available{0};
    Hindrance hindrance = Hindrance::kNone;
  };
  static Share share(const ThreadFacts& now, const ThreadFacts* before, const Window& window);
  static Share least_share(const std::vector<ThreadFacts>& now,
                           const std::vector<ThreadFacts>& before, pid_t except,
                           const Window& window);
  Chain follow_locks(pid_t pid, pid_t tid, const std::vector<ThreadFacts>& threads) const;
  struct Entry;
  static const Baseline* baseline_of(const Entry& own, const HeartbeatWatch::Silence& silence);
  void describe(pid_t pid, const HeartbeatWatch::Silence& silence, const Entry& own,
                Judgement& judgement) const;
  static void add_window(Entry& own, const HeartbeatWatch::Silence& silence, Judgement& judgement,
                         std::int64_t mono_ns);

  // Of the few stages that a service has.
  struct Entry {
    std::size_t slot = 0;
    // The older baseline was taken before the last beat, whenever that was.
    Baseline newest, older;
    Account account;
  };
  Entry& entry(std::size_t slot);

  const ThreadView* view_;
  std::vector<Entry> entries_;
  os::Duration own_run_delay_{0};
};

}  // namespace defib::process
