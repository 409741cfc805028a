// Host: the workers of this process: a zygote that forks them, and one thread that watches them.
//
// The zygote is a small process of its own (the program defib-worker, or a fork of this program
// made early), so that a worker costs a fork of little memory, whatever the size of this process,
// and no thread of it is copied.
//
// Invariants:
//   - Idle workers cost nothing: the watching thread sleeps until a descriptor is readable.
//   - A worker is killed by its parent, the zygote, by its number: never a foreign process that has
//     got its pid.
//   - When this process dies, the zygote reads the end of its socket, and ends; the kernel kills
//     its workers (PR_SET_PDEATHSIG).
//   - A zygote that dies takes its workers with it: their clients are faulted. The next worker gets
//     a new one.
// Thread rule: any thread.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"
#include "defib/os/process.h"

namespace defib::call {

struct HostOptions {
  // The program that becomes the zygote. Empty: $DEFIB_WORKER, or defib-worker beside this program,
  // or by PATH.
  std::string worker_program = {};
  // What copies and explains a crashed worker. Empty: $DEFIB_CAPTURE, or defib-capture in the same
  // places and beside worker_program; where there is none, crashes have no backtrace.
  std::string capture_program = {};
  // false: none is started until a worker is asked for.
  bool start_zygote = true;
  // Backtraces that are made at the same time; a crash beyond them has none.
  int max_captures = 2;
};

// What the kernel told of a worker's end.
struct WorkerEnd {
  os::ExitStatus status;
  std::int64_t max_rss_kb = 0;
};

// A worker as its session sees it. `ended` and `crashed` run on the host's thread.
struct WorkerEvents {
  std::function<void(const WorkerEnd&)> ended;
  std::function<void()> crashed;  // its eventfd was written: it waits in its crash hook
};

// A postmortem in defib-capture's form (docs/formats/crash.md), or why there is none.
using ReportHandler = std::function<void(Result<std::string> json)>;

class Host : public std::enable_shared_from_this<Host> {
 public:
  // Starts the zygote. WorkerUnavailable says why not.
  static Result<std::shared_ptr<Host>> start(HostOptions options = {});
  // The process's own, started at first use; the same for everybody.
  static Result<std::shared_ptr<Host>> shared();
  // One for children that this process forks itself: without a zygote until it is asked for one.
  static Result<std::shared_ptr<Host>> watcher();
  // One whose zygote is a fork of this process. Call it first in main(): WorkerUnavailable where
  // other threads run already.
  static Result<std::shared_ptr<Host>> fork_here(HostOptions options = {});
  ~Host();
  Host(const Host&) = delete;
  Host& operator=(const Host&) = delete;

  // Has a worker forked that gets both descriptors. Returns its number; what becomes of it arrives
  // by the events. WorkerUnavailable.
  Result<std::uint64_t> fork_worker(int channel_fd, int event_fd, WorkerEvents events);
  // A child that this process forked itself.
  Result<std::uint64_t> adopt_child(pid_t pid, int event_fd, WorkerEvents events);
  // SIGKILL; nothing happens where it has ended.
  void kill_worker(std::uint64_t number);
  // Its events are not called any more, but for one that runs already, and it is killed.
  void forget_worker(std::uint64_t number);
  // Starts defib-capture for a worker that waits in its crash hook (`crash_page` its offset in
  // `channel_fd`), or that hangs (`channel_fd` -1). `done` runs on the host's thread.
  void explain(std::uint64_t number, int channel_fd, std::size_t crash_page, ReportHandler done);
  // Runs it on the host's thread.
  void post(std::function<void()> work);

  // -1: not known yet, or ended.
  pid_t pid_of(std::uint64_t number) const;
  pid_t zygote_pid() const;
  std::size_t workers() const;

 private:
  struct Worker;
  struct Zygote;
  explicit Host(HostOptions options) : options_(std::move(options)) {}
  static void end_host(Host* host);
  Result<> start_thread();
  Result<> start_zygote();
  void on_zygote();
  void zygote_gone();
  void on_child(std::uint64_t number);
  void end_worker(std::uint64_t number, const WorkerEnd& end);
  Result<std::uint64_t> add_worker(pid_t pid, int event_fd, WorkerEvents events);
  Result<> send(const void* message, std::size_t size, const int* fds, std::size_t fd_count);

  HostOptions options_;
  std::unique_ptr<os::EventLoop> loop_;
  mutable std::mutex mutex_;  // guards what follows
  std::map<std::uint64_t, std::shared_ptr<Worker>> workers_;
  std::uint64_t next_number_ = 1;
  os::Fd zygote_socket_;
  pid_t zygote_pid_ = -1;
  bool zygote_is_fork_ = false;
  int captures_ = 0;
  std::jthread thread_;
};

// In the zygote: forks workers for the host at the other end of `socket` until it is gone.
// `worker` runs in each, with the channel and the eventfd, and its value is the exit code.
[[noreturn]] void zygote_main(int socket, int (*worker)(int channel_fd, int event_fd));

}  // namespace defib::call
