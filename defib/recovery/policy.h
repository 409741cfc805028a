// Policy: when to try again, how often, and when to stop. Process restarts, connection retries and
// worker respawns use the same three parts.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/random.h"

namespace defib::recovery {

// A moment that keeps its meaning over crashes, reboots and clock steps: within one boot the
// monotonic clock decides how long ago it was, over a reboot the wall clock, but it is at least as
// old as the boot.
struct Moment {
  std::string boot_id;
  std::int64_t mono_ns = 0;
  std::int64_t wall_ns = 0;
};
Moment moment_now(const os::Clock& clock);
os::Duration age_of(const Moment& moment, const os::Clock& clock);

// Exponential back-off with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS 2015):
// the n-th delay, n from 0, is uniform in [floor, min(cap, base * multiplier^n)]. With `spread`, it
// is bounded jitter instead: uniform between base * multiplier^n and so much more, at most the cap.
struct BackoffOptions {
  os::Duration base = std::chrono::milliseconds(100);
  os::Duration cap = std::chrono::seconds(30);
  double multiplier = 2.0;
  bool jitter = true;  // false: exactly the upper end
  double spread = 0;   // 0.1: up to a tenth more; 0: full jitter
  os::Duration floor{0};
  bool first_immediate = false;  // the first delay is zero, and the series starts after it
  os::Duration reset_after{0};   // healthy for so long: counted from the start; 0: never
};

class Backoff {
 public:
  Backoff(BackoffOptions options, os::Random random) : options_(options), random_(random) {}
  // The delay before the next attempt; each call counts one attempt.
  os::Duration next();
  // Tells that the last attempt lasted so long in health.
  void succeeded_for(os::Duration healthy);
  void reset() { attempts_ = 0; }
  // Goes on after so many attempts that another process has counted.
  void resume(int attempts) { attempts_ = attempts; }
  int attempts() const { return attempts_; }

 private:
  BackoffOptions options_;
  os::Random random_;
  int attempts_ = 0;
};

// Budget: at most `limit` events in a sliding window, kept in a small file that is synced before
// the event is allowed, so that neither a crash nor a reboot nor a clock step forgets or invents
// one. Each event is stamped {boot id, monotonic, wall}: within one boot the monotonic clock
// decides. The first open after a reboot re-stamps the events of earlier boots once, by the wall
// clock, but never younger than this boot and never in the future (an event that seems to lie in
// the future happened just before the boot); from then on wall clock steps cannot touch them. Every
// write brings the wall stamps of this boot's events up to the wall clock as it is now, and
// settle() writes after a step, so that only a step between the last settle() and the reboot can
// mislead.
//
// A ticket is the permission for the *next* event, made durable in advance while there is time:
// prepare() writes it, use_prepared() spends it without touching the disk; a ticket that was
// prepared and not yet stamped counts as spent when the file is next opened. Who can prove that
// nothing happened (an orderly end; the service is still the same process) gives it back.
//
// File format: docs/formats/budget.md. Thread rule: one thread at a time, one object a file.
class Budget {
 public:
  struct Options {
    std::string path;
    int limit = 10;
    os::Duration window = std::chrono::hours(1);
    // Whoever holds the ticket of the file can be asked, and will be: then by keep_out(),
    // give_back() or confirm_spent(). Until then nothing is written for it, which a hundred
    // budgets that are opened at once would feel.
    bool holder_is_asked = false;
  };
  // A missing file is an empty budget. Corrupted says so when the file is damaged; nothing is
  // changed then. What opening itself has to change (a reboot, a ticket) and cannot write, for
  // example on a full disk, is kept in memory and written with the next change.
  static Result<Budget> open(os::Files& files, const os::Clock& clock, Options options);

  int used() const;  // events in the window, an unused ticket not counted
  int limit() const { return options_.limit; }
  os::Duration window() const { return options_.window; }
  bool exhausted() const { return used() >= options_.limit; }
  // Until one more event is allowed; 0: now. Duration::max() where the limit is 0.
  os::Duration frees_in() const;
  // Records one event durably. BudgetExhausted names the count, the window, and when it frees.
  Result<> spend();
  // An event that has happened already, permitted or not; it reaches the disk with settle().
  void record() { add_event(); }
  // Makes a ticket durable; no effect where one is. BudgetExhausted as in spend(). A ticket that
  // lies unused while the window moves stays valid.
  Result<> prepare();
  // The ticket without the disk, for who must go on although the disk is full: a death of this
  // process forgets it. It is written with the next change. Precondition: not exhausted().
  void prepare_unsaved();
  bool prepared() const { return prepared_; }
  // Spends the ticket; its time stamp reaches the disk with settle(). Precondition: prepared().
  void use_prepared();
  // Writes what use_prepared() left in memory, or a wall clock step made stale. Cheap where there
  // is nothing; call it from a timer.
  Result<> settle();
  // Gives the unused ticket back, also one that open() took for spent; no effect where none is.
  Result<> give_back();
  // The ticket that open() took for spent was spent, by now at the latest: no giving back.
  void confirm_spent();
  // It may still be used by who holds it: it is out again, as before open(). No effect where open()
  // took none for spent. Nothing is written where nothing was since, for that is what the file
  // says.
  Result<> keep_out();
  // open() found a ticket without a stamp and counted it as spent; nobody has confirmed it yet.
  bool presumed_spent() const;
  // A human's decision: forgets all events.
  Result<> reset();
  // Changes the bound without touching the events.
  void set_limit(int limit, os::Duration window);

 private:
  struct Event : Moment {
    bool presumed = false;  // stands for a ticket whose use nobody saw; in the file only after a
                            // later change
  };
  Budget(os::Files& files, const os::Clock& clock, Options options)
      : files_(&files), clock_(&clock), options_(std::move(options)), boot_id_(clock.boot_id()) {}
  Result<> write();
  Result<> load(std::string_view content);
  void rebase();
  Result<> check_free() const;
  os::Duration age(const Event& event) const;
  bool in_window(const Event& event) const { return age(event) < options_.window; }
  Event stamp() const;
  std::int64_t wall_offset() const;
  void add_event();

  os::Files* files_;
  const os::Clock* clock_;
  Options options_;
  std::string boot_id_;  // no process outlives its boot
  std::vector<Event> events_;
  bool prepared_ = false;
  std::int64_t written_offset_ = 0;  // of the wall clock to the monotonic one, at the last write
  bool dirty_ = false;
  bool presumed_in_file_ = false;
};

// CircuitBreaker: closed -> open after `failures` in a row -> half-open after `open_for` -> closed
// by one success, open again by one failure. Results of calls that were let through before it
// opened do not count while it is open. Thread rule: one thread at a time.
class CircuitBreaker {
 public:
  enum class State { kClosed, kOpen, kHalfOpen };
  struct Options {
    int failures = 5;
    os::Duration open_for = std::chrono::seconds(30);
  };
  CircuitBreaker(Options options, const os::Clock& clock) : options_(options), clock_(&clock) {}
  // BreakerOpen with the last failure as its cause. In half-open state one caller is let through;
  // if it does not report within `open_for`, another one is.
  Result<> allow();
  void succeeded();
  void failed(const Error& error);
  State state() const { return state_; }

 private:
  Options options_;
  const os::Clock* clock_;
  State state_ = State::kClosed;
  int failures_ = 0;
  std::int64_t opened_at_ = 0;
  std::int64_t probe_started_at_ = 0;
  std::optional<Error> last_;
};

}  // namespace defib::recovery
