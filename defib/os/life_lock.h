// A lock that a thread holds for life, so that others hear of its end.
//
// The kernel marks a robust lock whose holder ends or executes another program (FUTEX_OWNER_DIED in
// its first word, the futex), and wakes who waits for it, before it tears down the memory: long
// before waitpid, pidfd and end-of-file tell (set_robust_list(2)). Inline and without a C++
// runtime, as the agent's core is.

#pragma once

#include <pthread.h>

#include <cstddef>

namespace defib::os {

inline constexpr std::size_t kLifeLockBytes = 64;
static_assert(sizeof(pthread_mutex_t) <= kLifeLockBytes);

// Makes it anew in shared memory of kLifeLockBytes, and takes it for the calling thread. What was
// there before belonged to an image that is gone. Nobody waits for it, so it is tried: a program
// under the thread sanitizer would be told of a lock that it holds for ever. False: not held.
inline bool hold_life_lock(unsigned char (&place)[kLifeLockBytes]) {
  auto* lock = reinterpret_cast<pthread_mutex_t*>(place);
  pthread_mutexattr_t attributes;
  if (pthread_mutexattr_init(&attributes) != 0) return false;
  const bool held = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) == 0 &&
                    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
                    pthread_mutex_init(lock, &attributes) == 0 && pthread_mutex_trylock(lock) == 0;
  pthread_mutexattr_destroy(&attributes);
  return held;
}

}  // namespace defib::os
