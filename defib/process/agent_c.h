/* The agent's C face, for services in C and for everything that can call C (Python's ctypes, Go,
 * Rust). The same functions are exported by libdefib-agent.so, which `defib run` preloads, so a
 * program may look them up at run time (dlsym(RTLD_DEFAULT, "defib_attach")) and needs no build
 * dependency on defib.
 *
 * Not under defib, everything is a cheap no-op. Every function from any thread; one stage is beaten
 * by one thread at a time. */

#ifndef DEFIB_PROCESS_AGENT_C_H_
#define DEFIB_PROCESS_AGENT_C_H_

#include <stdint.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The first fields of a stage in the shared page; the rest is not the caller's business. */
typedef struct defib_stage {
  uint64_t beats;
  int64_t beat_mono_ns;
} defib_stage;

/* 1: attached; 0: not under defib. Once is enough, more does no harm. */
int defib_attach(void);
/* Claims a heartbeat stage. It is armed by its first beat, and hung when it then is not beaten for
 * deadline_ms (at least 5; 0: the supervisor's default). NULL where there is no free slot, or no
 * defib. */
defib_stage* defib_stage_claim(const char* name, uint32_t deadline_ms);
void defib_stage_release(defib_stage* stage);
/* For callers that cannot inline: defib_beat() and defib_beat_stamped(). */
void defib_stage_beat(defib_stage* stage);
void defib_stage_beat_stamped(defib_stage* stage);
/* At rest on purpose: no deadline until the resume, which beats. */
void defib_stage_pause(defib_stage* stage);
void defib_stage_resume(defib_stage* stage);
/* The first beat, which arms the stage; the inline functions below call it. */
void defib_stage_first_beat(defib_stage* stage, int stamped);
/* Wakes the supervisor, for callers that count beats in the page by themselves. */
void defib_stage_armed(void);

/* sd_notify(3) without libsystemd. 1: delivered; 0: not (nobody listens, or dropped). */
int defib_ready(void);
int defib_stopping(void);
int defib_status(const char* text);
/* Reading the configuration again; the end is told by defib_ready(). */
int defib_reloading(void);
/* Why the service fails: an errno value; a D-Bus or Varlink style name. */
int defib_error_number(int number);
int defib_bus_error(const char* name);
int defib_varlink_error(const char* name);
int defib_exit_status(int status);
/* Another process, started by this one, is the service from now on. */
int defib_main_pid(int pid);
/* A beat by message, for services that were given WATCHDOG_USEC (defib_watchdog_usec() is not 0);
 * "trigger": treat me as hung; the deadline, changed. */
int defib_watchdog(void);
int defib_watchdog_trigger(void);
int defib_watchdog_deadline(uint64_t usec);
/* Microseconds between beats at most; 0: this process need not beat, as sd_watchdog_enabled(3). */
uint64_t defib_watchdog_usec(void);
/* The deadline of what goes on now (start, reload, stop) is at least so far from now. */
int defib_extend_timeout(uint64_t usec);
/* Whose messages are believed from now on: "main" "exec" "all" "none". */
int defib_notify_access(const char* who);
int defib_restart_reset(void);
/* Waits until the supervisor has taken every message before; 0: not within timeout_ms. */
int defib_barrier(int timeout_ms);
/* The supervisor keeps a duplicate of fd over a restart, for LISTEN_FDS; poll 0: also when its
 * other end has hung up. The name: printable, without ':', at most 255 bytes. */
int defib_store_fd(const char* name, int fd, int poll);
int defib_remove_stored_fd(const char* name);
/* The service's own state as `defib status` shows it: "recovering", "ramping", "running" ... */
int defib_state(const char* state);
/* One event of the open incident: a JSON object with an "event" member. */
int defib_event(const char* json);
/* 1: this process may act on the outside world. 0: it is a standby that waits. */
int defib_active(void);
/* For a standby, once it is initialised: blocks until it is promoted, and returns 1; at once where
 * it is active, or there is no defib. 0: the time has passed (negative: no limit), or this is a
 * standby's forked child, which never becomes active. */
int defib_wait_active(int64_t timeout_ms);
/* Grows with every activation of the service; 0 while this process is not active. */
uint64_t defib_epoch(void);

/* How many messages were meant to be sent and were not. */
uint64_t defib_notify_drops(void);

/* Counts: about a nanosecond, no system call. Silence is told within a quarter of the deadline. */
static inline void defib_beat(defib_stage* stage) {
  if (!stage) return;
  const uint64_t beats = __atomic_load_n(&stage->beats, __ATOMIC_RELAXED);
  if (__builtin_expect(beats == 0, 0)) {
    defib_stage_first_beat(stage, 0);
    return;
  }
  __atomic_store_n(&stage->beat_mono_ns, 0, __ATOMIC_RELAXED);
  __atomic_store_n(&stage->beats, beats + 1, __ATOMIC_RELAXED);
}

/* Leaves the time too: some 20 ns, no system call (POSIX clock_gettime must be declared, which
 * -std=c99 alone hides). Silence is told within a millisecond of the deadline. */
#ifdef CLOCK_MONOTONIC
static inline void defib_beat_stamped(defib_stage* stage) {
  if (!stage) return;
  const uint64_t beats = __atomic_load_n(&stage->beats, __ATOMIC_RELAXED);
  if (__builtin_expect(beats == 0, 0)) {
    defib_stage_first_beat(stage, 1);
    return;
  }
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  __atomic_store_n(&stage->beat_mono_ns, now.tv_sec * INT64_C(1000000000) + now.tv_nsec,
                   __ATOMIC_RELAXED);
  __atomic_store_n(&stage->beats, beats + 1, __ATOMIC_RELEASE);
}
#endif

#ifdef __cplusplus
}
#endif

#endif /* DEFIB_PROCESS_AGENT_C_H_ */
