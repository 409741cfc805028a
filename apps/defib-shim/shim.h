// Shim: the parent of one service. See main.cc for what it promises.
//
// One thread, one epoll loop. Sources of events are few and fixed; the only lists are the journal
// and the running captures, both bounded.

#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "journal.h"
#include "launch.h"
#include "log_pump.h"
#include "status_file.h"

namespace defib::process::shim {

struct ShimOptions {
  int connection_fd = -1;                // to the supervisor that starts us
  int notify_fd = -1;                    // the notify socket of the shim before us
  int page_fd = -1;                      // the agent page of the running service
  const char* notify_address = nullptr;  // an abstract name; else notify.sock
  uint64_t adopt_pid = 0;                // what the supervisor knows of the running service
  uint64_t adopt_start_time = 0;
};

class Shim {
 public:
  // In the service's directory. 0 or -errno; -EBUSY: another shim is there.
  int open_all(const ShimOptions& options);
  void run();

 private:
  enum Source : uint32_t {
    kListener,
    kConnection,
    kServicePidfd,
    kWake,
    kStdout,
    kStderr,
    kOut,
    kErr,
    kNotifySocket,
    kSignals,
  };
  struct Capture {
    pid_t pid = 0;
    uint64_t generation = 0;
    int64_t deadline = 0;
  };
  static constexpr int kMaxCaptures = 4;
  static constexpr int64_t kCaptureLimitNs = 60'000'000'000;  // a capture that hangs is killed
  static constexpr int64_t kIdleLimitNs = 30'000'000'000;     // alone and without a service: exit
  static constexpr int64_t kCleanupLimitNs = 5'000'000'000;   // of the children of a dead service

  static constexpr int64_t kLeftoverLimitNs = 500'000'000;  // a replacement waits so long for them

  // Set-up.
  int take_lock();
  int open_sockets(const ShimOptions& options);
  int open_notify(const char* abstract_name);
  void watch(int fd, uint32_t events, Source source);
  void unwatch(int fd);
  void resume(const ShimOptions& options);
  void adopt_page(int page_fd);

  // The service's life.
  bool alive() const { return pid_ > 0; }
  void start(bool automatic, uint64_t ticket_id);
  void service_ended();
  bool learn_status(ExitInfo* exit);
  // Kills what the service left; the number of children that are still there.
  int kill_leftovers();
  void await_leftovers();
  void reap_children();
  bool is_capture(pid_t pid) const;
  void watch_process(pid_t pid);
  void stop(const Stop& request);
  void follow_main_pid(pid_t pid, uint64_t pidfd_id);
  void forget_process();
  void use_ticket(const ExitInfo& exit, Exited* report);

  // Events.
  void on_signals();
  void on_wake();
  void on_notify();
  bool may_notify(pid_t sender);
  void take_notification(const char* text, size_t size, pid_t sender);
  void extend_stop(uint64_t microseconds);
  void on_timers(int64_t now);
  int wait_timeout_ms(int64_t now) const;
  void on_output(int stream);
  void on_terminal(int stream);
  void dispatch(Source source);
  void start_capture();
  void captured(Capture& capture, int wait_status);
  void give_up_capture();

  // The supervisor.
  void accept_connection();
  void take_connection(int fd);
  void drop_connection();
  void on_message();
  void handle(const MessageHeader& header, const char* body, size_t size, int* fds, int fd_count);
  void welcome();
  void refuse(Type request, int error_number);
  void acknowledge(uint64_t sequence);
  void flush_journal();
  bool send_now(Type type, const void* body, size_t body_size, const void* tail, size_t tail_size,
                const int* fds, int fd_count);
  static void feed_log(int stream, const char* bytes, size_t size);
  void set_pass_through(const PassThrough& request, int* fds, int fd_count);

  Journal journal_;
  LogPump logs_;
  StatusFile status_;
  Launch launch_;
  PageHandle page_;

  int epoll_ = -1;
  int lock_ = -1;
  int null_ = -1;
  int listener_ = -1;
  int connection_ = -1;
  int notify_ = -1;
  int signals_ = -1;
  int wake_ = -1;
  uint64_t sent_sequence_ = 0;
  bool greeted_ = false;
  bool connection_blocked_ = false;  // EPOLLOUT is asked for
  bool log_feed_ = false;
  bool page_changed_ = false;
  uint64_t feed_dropped_ = 0;
  bool ending_ = false;  // a supervisor asked for the end
  bool terminal_watched_[2] = {};
  bool fifo_watched_[2] = {};

  pid_t pid_ = 0;
  int pidfd_ = -1;
  int stat_fd_ = -1;
  bool is_child_ = false;  // ours to wait for
  bool adopted_ = false;
  bool crash_handled_ = false;
  // Until the service changes it, that of the launch description.
  NotifyAccess notify_access_ = NotifyAccess::kAll;
  bool access_changed_ = false;
  bool stranger_told_ = false;  // in this generation
  bool stop_extendable_ = false;
  pid_t supervisor_pid_ = 0;
  StopReason reason_ = StopReason::kNone;
  pid_t group_ = 0;       // the process group of the service
  int64_t kill_at_ = 0;   // 0: nothing is being stopped
  Ticket ticket_ = {};    // id 0: none
  int64_t start_at_ = 0;  // of a delayed start; 0: none
  Ticket pending_ = {};   // what the delayed start uses
  int64_t idle_since_ = 0;
  int64_t cleanup_until_ = 0;  // children that the dead service left are being killed
  pid_t announced_pid_ = 0;    // MAINPID= of a process that lives beside the main one
  Capture captures_[kMaxCaptures];
};

}  // namespace defib::process::shim
