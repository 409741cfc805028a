// When a service is started again: the rules of its spec, the budget of restarts, the back-off, and
// what is remembered of its crashes.
//
// The planner is asked twice. While the service runs, permit() makes the next start durable in the
// budget in advance, as a ticket that the shim may use alone. After an end that no ticket answered,
// decide() says whether it is started again at once, after a delay, in the slow lane, or not before
// a human says so. Several rules may apply; the strictest counts:
//   equal crashes in a row   the crash has the fingerprint of those before it
//   max_downtime             it was down for too long within the window
//   max_restarts             the budget of the window is used up
//   back-off                 at once, then restart_delay, then twice as long each time
// The slow lane obeys the budget too: a start in it waits until the window has room.
//
// A disk that is full or broken does not keep a service down: the count goes on in memory, and the
// error is kept for the operator (trouble()).
// Files: `budget` (docs/formats/budget.md) and `crashes` (docs/formats/crashes.md) in the service's
// directory. Thread rule: the loop's thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/process.h"
#include "defib/process/agent_page.h"
#include "defib/process/service_spec.h"
#include "defib/recovery/policy.h"

namespace defib::process {

// Words such as "3", "64-78" and "SIGTERM" as a set; InvalidArgument names the first that is none.
Result<shim::ExitSet> parse_exit_set(const std::vector<std::string>& words);
std::vector<std::string> exit_set_words(const shim::ExitSet& set);

// The delays of the spec, with jitter.
recovery::BackoffOptions backoff_options(const ServiceSpec& spec);
// The ends of the program's own after which it is started again.
shim::ExitSet restart_after(const ServiceSpec& spec);
shim::ShimRestart shim_policy(RestartPolicy policy);
// Whether any end at all is followed by a start.
bool may_restart(const ServiceSpec& spec);
bool wants_restart(const ServiceSpec& spec, const shim::ExitInfo& exit);
// A known end that the spec counts as success.
bool is_clean(const ServiceSpec& spec, const os::ExitStatus& status);
// ConfigBadValue: what the restart rules say only together.
Result<> validate_restart_rules(const ServiceSpec& spec);

// What tells one crash from another. `status` is empty where the end says nothing about the
// program: killed from outside, stopped by us, or unknown.
struct CrashPrint {
  std::string status;  // "SIGSEGV", "exit code 3"
  std::string place;   // by the crash page: "pc ..2a4, address 0x0"; empty: no page
  std::string stack;   // by a capture: "engine+0x12a4 main+0x20"; empty: none (yet)
  int wait_status = 0;
  bool counts() const { return !status.empty(); }
  // More than an exit code: somebody saw where it happened.
  bool has_place() const { return !place.empty() || !stack.empty(); }
  // "SIGSEGV at engine+0x12a4 main+0x20"
  std::string to_string() const;
};
// `page` is that of the process that ended, or null.
CrashPrint crash_print(const os::ExitStatus& status, shim::StopReason reason, int pid,
                       const postmortem::CrashPage* page);
// The top frames of the crashed thread in a report of defib-capture; empty where there are none.
std::string stack_print(std::string_view report);
// The same crash, as far as both know it.
bool same_crash(const CrashPrint& one, const CrashPrint& other);

class RestartPlanner {
 public:
  // What the shim may do at the next end, without asking.
  struct Permit {
    os::Duration delay{0};
    std::optional<int> held_status;  // an end of this kind is decided here
    bool monitoring = false;         // how the start after it begins
  };
  enum class Verdict : std::uint8_t {
    kStart,    // after `delay`: the permission is durable; start_now() counts it
    kSlow,     // in the slow lane: ask start_now() after `delay`
    kGiveUp,   // a human must look: until reset(), or a start by request
    kStopped,  // on request, while it did not run
  };
  struct Decision {
    Verdict verdict = Verdict::kStart;
    os::Duration delay{0};
    std::optional<Error> why;  // CrashLoop, of kSlow and kGiveUp
  };

  // Never fails for the service's sake: files that are damaged are set aside (`NAME.damaged`), and
  // the count starts anew; trouble() tells.
  static RestartPlanner open(os::Files& files, const os::Clock& clock, const std::string& dir,
                             const ServiceSpec& spec, os::Random random);
  void configure(const ServiceSpec& spec);

  // CrashLoop or BudgetExhausted: no start in advance. Cheap where the last permit of the same
  // `generation` is still good.
  Result<Permit> permit(std::uint64_t generation);
  // The shim used the ticket, perhaps one of a supervisor before us.
  void used();
  // Nobody can tell whether the ticket of a supervisor before us was used: it counts.
  void presume_used();
  // The shim holds the ticket of a supervisor before us, and goes on doing so.
  void still_out() { inherited_ = false; }
  // The ticket that is out was taken back, or was never used.
  void unused();
  bool has_ticket() const { return budget_.prepared() && !inherited_; }
  // open() found a ticket whose use it could not know.
  bool presumed_spent() const { return inherited_; }

  // A process runs, since `mono_ns`: the time that it was down is over. `by_request` forgets what
  // was decided and begins the back-off anew.
  void started(std::int64_t mono_ns, bool by_request);
  // It lived so long in health.
  void healthy();
  // The process of that generation ended by a failure, noticed at `mono_ns`. Told a second time, by
  // a shim that did not know that it was heard, it counts once.
  void failed(std::uint64_t generation, std::int64_t mono_ns, const CrashPrint& print);
  // It could not even be started; the next try waits longer.
  void start_failed(std::int64_t mono_ns);
  // The capture of the last failure came.
  void captured(const std::string& stack);
  // Whether decide() should wait for the capture of the last failure.
  bool capture_decides() const;
  // After failed(), where no ticket was used.
  Decision decide(std::uint64_t generation);
  // The time of kStart or kSlow has come: kStart, counted, or what follows where the window has no
  // room any more.
  Decision start_now(std::uint64_t generation);
  // Whether decide() would give up.
  bool gives_up() const;
  // It is stopped to be started again by request: so it shall be, whoever supervises by then.
  void remember_restart(std::uint64_t generation);
  // Stopped on request while it did not run: the next supervisor does not start it either.
  void remember_stop(std::uint64_t generation);

  // What an earlier supervisor had decided after the end of this generation, with what is left of
  // the delay.
  std::optional<Decision> pending(std::uint64_t generation) const;
  void forget_pending();
  // Brings the time stamps on disk up to the wall clock, which was stepped, and writes what could
  // not be written before. Cheap where there is nothing to do.
  void settle();
  // A human's word: forgets events, crashes and decisions.
  void reset();

  int used_in_window() const { return budget_.used(); }
  bool exhausted() const { return budget_.exhausted(); }
  const CrashPrint& last_crash() const { return last_; }
  int equal_crashes() const { return in_a_row_; }
  os::Duration downtime() const;  // in the window
  // The restart after this one starts in monitoring.
  bool monitors_next() const;
  // The automatic start that was counted just now does.
  bool monitors_this() const;
  // The service says that it is well: the next restart is at once.
  void reset_backoff() {
    backoff_.reset();
    delay_generation_ = 0;
  }
  void resume_backoff(int attempts) { backoff_.resume(attempts); }
  // The last thing that could not be written or read; told once.
  std::optional<Error> trouble() { return std::exchange(trouble_, std::nullopt); }

 private:
  struct Lost {
    recovery::Moment end;
    os::Duration time{0};
  };
  struct Pending {
    Verdict verdict = Verdict::kStart;
    std::uint64_t generation = 0;
    recovery::Moment at;
    os::Duration delay{0};
    std::string why;
  };
  RestartPlanner(os::Files& files, const os::Clock& clock, std::string dir, const ServiceSpec& spec,
                 recovery::Budget budget, os::Random random);
  void load();
  Result<> parse(const wire::Json& json);
  void save();
  std::int64_t wall_offset() const { return clock_->wall_ns() - clock_->mono_ns(); }
  void note(const Result<>& done);
  bool is_same_crash_loop() const;
  std::optional<Error> loop_reason() const;
  std::optional<Error> downtime_reason() const;
  Error loop_error(std::string message) const;
  Decision loop(std::uint64_t generation, Error why);
  void remember(std::uint64_t generation, const Decision& decision);

  os::Files* files_;
  const os::Clock* clock_;
  std::string dir_;
  ServiceSpec spec_;
  recovery::Budget budget_;
  bool inherited_ = false;  // the ticket that is out is of a supervisor before us
  recovery::Backoff backoff_;
  os::Random random_;
  os::Duration delay_{0};
  std::uint64_t delay_generation_ = 0;  // whose next delay delay_ is

  CrashPrint last_;  // the last crash that counts
  int in_a_row_ = 0;
  recovery::Moment last_at_;
  std::uint64_t last_generation_ = 0;
  std::string stack_before_;     // of the crash before it, where that was the same by its place
  bool last_is_latest_ = false;  // no other end has followed it
  std::int64_t down_since_mono_ns_ = 0;
  std::vector<Lost> lost_;
  std::optional<Pending> pending_;
  std::int64_t written_offset_ = 0;  // of the wall clock to the monotonic one, in the file
  std::optional<Error> trouble_;
  bool failing_ = false;  // the last write failed, and that was told
};

}  // namespace defib::process
