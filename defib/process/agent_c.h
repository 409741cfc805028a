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
/* The service's own state as `defib status` shows it: "recovering", "ramping", "running" ... */
int defib_state(const char* state);
/* One event of the open incident: a JSON object with an "event" member. */
int defib_event(const char* json);
/* How many messages were meant to be sent and were not. */
uint64_t defib_notify_drops(void);

/* Counts: about a nanosecond, no system call. Silence is told within a quarter of the deadline. */
static inline void defib_beat(defib_stage* stage) {
  if (stage == 0) return;
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
  if (stage == 0) return;
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
