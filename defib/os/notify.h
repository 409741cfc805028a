// The client's side of sd_notify(3), with defib's two own fields:
//   X_DEFIB_STATE=recovering|ramping|degraded|running|...   the service's state for `defib status`
//   X_DEFIB_EVENT={"event":"stage_started",...}             one event for the open incident
//
// A message never blocks for longer than its patience: a full queue is retried that long, then the
// message is dropped and counted, and the next message that gets through tells the supervisor the
// count (X_DEFIB_DROPPED). C only, as agent_core. Thread rule: every function from any thread.

#pragma once

#include <cstddef>
#include <cstdint>

namespace defib::os::notify {

inline constexpr int kPatienceMs = 50;
// Longest value of one field. A longer one is not sent, and counted as a drop.
inline constexpr std::size_t kMaxValue = 64 * 1024;

// Sends "KEY=value" to NOTIFY_SOCKET. Line breaks, which would start another field, become spaces.
// False where it was not delivered: nobody listens (nothing is lost then), or it was dropped.
bool send_field(const char* key, const char* value, std::size_t value_size,
                int patience_ms = kPatienceMs);

// "RELOADING=1" with the monotonic time, which the supervisor tells an old reload's end by.
bool send_reloading();
// "MAINPID=", with the inode of the process's pidfd where the kernel numbers them (Linux 6.9).
bool send_main_pid(int pid);
// The deadline for beats by WATCHDOG=1 in microseconds; 0 where this process need not beat: no
// WATCHDOG_USEC, or a WATCHDOG_PID of another process.
std::uint64_t watchdog_usec();
// Waits until every message before it has been taken from the queue, as sd_notify_barrier(3).
bool barrier(std::int64_t timeout_ms);
// Hands a descriptor to the supervisor to keep, with FDSTORE=1. False also for an impossible name
// (1 to 255 printable characters without ':').
bool store_fd(const char* name, std::size_t name_size, int fd, bool poll);
bool remove_stored_fd(const char* name, std::size_t name_size);

// Messages that were meant to be sent and were not.
std::uint64_t drops();

}  // namespace defib::os::notify
