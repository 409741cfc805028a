// Copies a process, raw (raw_snapshot.h), and lets it go.
//
// Invariants:
//   - It allocates nothing, takes no lock and needs no C++ runtime: it is part of a program that
//     must start in a fraction of a millisecond (apps/defib-snapshot).
//   - The process is never left stopped: release() is called on every path, and the kernel lets go
//     of what a dead tracer held.
//   - Every wait and every loop ends: at a deadline, or at a constant.
//   - Nothing is written into the process.
// Thread rule: one thread, from beginning to end (a tracer is a thread).

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "defib/postmortem/raw_snapshot.h"

namespace defib::postmortem::raw {

inline constexpr size_t kMaxBytes = 64u << 20;
inline constexpr size_t kMaxThreads = 4096;
inline constexpr size_t kMaxModules = 1000;
inline constexpr size_t kMaxDescriptors = 1024;

// The memfd that records are appended to.
class Buffer {
 public:
  // 0 or -errno.
  int open();
  // Unmaps; the descriptor stays open for whoever it is handed to, unless `and_file`.
  void close(bool and_file);
  int fd() const { return fd_; }
  Header& header() { return *reinterpret_cast<Header*>(memory_); }
  const char* bytes() const { return memory_; }
  size_t size() const { return size_; }

  // Room for a record of up to `max` bytes, or nullptr: then the snapshot is full. finish() keeps
  // the first `used` of them.
  char* begin(Kind kind, int32_t number, uint64_t address, size_t max);
  void finish(size_t used);
  void add(Kind kind, int32_t number, uint64_t address, const void* from, size_t size);
  // "WHAT: WHY"; the number, where it is not negative, stands between them.
  void gap(Kind kind, const char* what, int64_t number, const char* why);

 private:
  char* memory_ = nullptr;
  size_t size_ = 0;
  int fd_ = -1;
};

// The threads of one process, held stopped.
class Stopped {
 public:
  // 0 or -errno.
  int open(pid_t pid);
  void close();
  // Stops all threads, also those that start meanwhile. `held`: one that stands already with this
  // signal on its way to it (a tracer's), or 0. False: none could be stopped; error_number() says
  // why.
  bool stop(Buffer& buffer, int64_t deadline_ns, pid_t held, int held_signal);
  // `last`: the thread that ends the process once it goes on. Signals on their way are delivered.
  void release(pid_t last);
  size_t count() const { return stopped_; }
  pid_t tid(size_t index) const;
  bool holds(pid_t tid) const;
  int error_number() const { return error_number_; }

 private:
  struct Thread {
    pid_t tid;
    int signal;
    enum State : int { kWaiting, kStopped, kLost } state;
  };
  bool seize_new_threads();
  void await(Buffer& buffer, Thread& thread, int64_t deadline_ns);
  void release_one(const Thread& thread);
  Thread* find(pid_t tid) const;

  pid_t pid_ = 0;
  Thread* threads_ = nullptr;
  size_t count_ = 0;
  size_t stopped_ = 0;
  bool own_child_ = false;
  bool traced_ = false;  // by us, since before
  int error_number_ = 0;
};

struct CopyOptions {
  size_t stack_bytes = 64 * 1024;
  size_t crashed_stack_bytes = 256 * 1024;
  int64_t deadline_ns = INT64_MAX;  // what is not copied then is left out, and named
  int64_t facts_deadline_ns = 0;    // the same for copy_facts(); 0: not at all
  bool link_map = false;            // also what a debugger finds the loaded libraries by
  // Of the crashed thread (as it calls itself; 0: none), from the handler; null: its own.
  pid_t crashed_tid = 0;
  const uint64_t* crashed_registers = nullptr;  // in DWARF numbering, as in the crash page
};

// Everything that needs the process to stand still, the most wanted first.
void copy_stopped(Buffer& buffer, pid_t pid, const Stopped& stopped, const CopyOptions& options);

// What it is: name, program, command line.
void copy_identity(Buffer& buffer, pid_t pid, int64_t deadline_ns);

// What /proc tells besides: environment, limits, descriptors, sockets, and the code at
// `pc` (0: none). True where one of the sockets could not be asked.
bool copy_facts(Buffer& buffer, pid_t pid, uint64_t pc, int64_t deadline_ns);

// The whole of it: stops, copies, calls `captured` (null: nothing) when all is copied, and lets go.
// False: the header says what failed.
struct Capture {
  pid_t pid = 0;
  int64_t stop_deadline_ns = 0;
  CopyOptions copy;
  // Of a tracer: the thread that stands already, with this signal on its way to it.
  pid_t held = 0;
  int held_signal = 0;
  void (*captured)(void* context, int64_t now_ns) = nullptr;
  void* context = nullptr;
};
bool capture(Buffer& buffer, const Capture& capture);

// What can be read of [address, address + size).
size_t read_memory(pid_t pid, uint64_t address, void* to, size_t size);
void for_each_thread(pid_t pid, void (*use)(void* context, pid_t tid), void* context);
// The number behind "Key:" in /proc/PID/status, the last of several; 0: none.
pid_t status_number(pid_t pid, pid_t tid, const char* key);
int64_t mono_ns();

}  // namespace defib::postmortem::raw
