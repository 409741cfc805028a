// The system calls of the shim, each with the few words of meaning that it needs here.
//
// The shim is C in the clothes of C++: no exceptions, no allocation after its start but for the
// launch description, no library but libc, linked statically. Failures are negative errno values.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

namespace defib::process::shim {

int64_t mono_ns();
int64_t wall_ns();
// The start time of a process as in /proc/PID/stat, where it was started at that moment.
uint64_t start_time_now();
// `delay` from `at` on; never before it, and never beyond what a number holds.
int64_t later(int64_t at, int64_t delay);

// One line to stderr (the supervisor points it at shim.log): "defib-shim: WHAT: strerror".
void complain(const char* what, int error_number);

int pidfd_open(pid_t pid);
int pidfd_send(int pidfd, int signal);
// The number of the process that it stands for; 0 or less: it is gone, of another pid namespace, or
// this is no pidfd.
pid_t pidfd_pid(int pidfd);

// Reads a small file whole into `to` and ends it with a zero byte. The size, or -errno.
ssize_t read_small(const char* path, char* to, size_t capacity);

// The fields of /proc/PID/stat that matter.
struct ProcStat {
  char state;
  pid_t parent;
  pid_t session;
  uint64_t flags;  // PF_* of <linux/sched.h>
  uint64_t start_time;
  int exit_code;  // as by wait(2); of a zombie
  bool has_exit_code;
};
// False where there is no such process (or the text is not understood).
bool parse_stat(const char* text, ProcStat* stat);
bool read_stat(pid_t pid, ProcStat* stat);
// A process of that pid and start time exists and has not ended.
bool is_same_and_alive(pid_t pid, uint64_t start_time);
// The number has been used again: it belongs to a process with another start.
bool is_another(pid_t pid, uint64_t start_time);

// DEFIB_GENERATION in the environment with which a process was started. False where it has none.
bool read_generation(pid_t pid, uint64_t* generation);

// The exit status of a process that is not ours to reap, by a pidfd that was opened before its end
// (Linux 6.15). False where the kernel does not tell.
bool pidfd_exit_status(int pidfd, int* wait_status);

// The first or last occurrence, or nullptr.
const char* find_first(const char* text, char wanted);
const char* find_last(const char* text, char wanted);
// A decimal number at the beginning of the text; the position after it, or nullptr.
const char* parse_number(const char* text, uint64_t* value);
// Appends to a zero-terminated buffer; cuts silently at its end.
void append_text(char* to, size_t capacity, const char* text);
void append_number(char* to, size_t capacity, uint64_t value);

// One datagram with up to kMaxMessageFds descriptors. Returns 0 or -errno (-EAGAIN: the peer is
// slow).
int send_message(int socket, const void* head, size_t head_size, const void* body, size_t body_size,
                 const int* fds, int fd_count);
// Returns the size, 0 at the end of the connection, or -errno. `fds` has room for kMaxMessageFds;
// `*fd_count` tells how many came, and those beyond are closed.
ssize_t receive_message(int socket, void* to, size_t capacity, int* fds, int* fd_count);

// As the peer's user, by SO_PEERCRED: ourselves or root.
bool peer_is_trusted(int socket);

}  // namespace defib::process::shim
