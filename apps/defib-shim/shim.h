// Shim: the parent of one service. See main.cc for what it promises.
//
// One epoll loop, whose thread does everything; the other threads only sleep until a process begins
// to die (LifeWatch). Sources of events are few and fixed; the only lists are the journal, the
// processes of the service and the running captures, all bounded.

#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "fence.h"
#include "hooks.h"
#include "instance.h"
#include "journal.h"
#include "launch.h"
#include "log_pump.h"
#include "socket_store.h"
#include "status_file.h"

namespace defib::process::shim {

struct ShimOptions {
  int connection_fd = -1;  // to the supervisor that starts us
  int notify_fd = -1;      // the notify socket of the shim before us
  struct Page {
    int fd = -1;
    uint64_t pid = 0;
  };
  Page pages[2];                         // the agent pages of running processes
  const char* notify_address = nullptr;  // an abstract name; else notify.sock
  uint64_t adopt_pid = 0;                // what the supervisor knows of the running service
  uint64_t adopt_start_time = 0;
};

class Shim {
 public:
  explicit Shim(Instance* instances) : instances_(instances) {}
  // In the service's directory. 0 or -errno; -EBUSY: another shim is there.
  int open_all(const ShimOptions& options);
  void run();

 private:
  friend struct ShimFuzz;  // shim_fuzz.cc
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
    kMemory,
  };
  struct Capture {
    pid_t pid = 0;
    uint64_t generation = 0;
    int64_t started_mono_ns = 0;  // of the process; older output is not its
    int64_t deadline = 0;         // then it is killed
    int page_fd = -1;       // outlives the process: what can still be learnt when the helper fails
    bool releases = false;  // the process still waits for it
    bool late = false;      // it was killed because the process had waited long enough
    bool by_page = false;   // the second helper, which reads the page alone
    int wait_status = 0;    // of one that is kEarly
  };
  // As a capture's pid: it is done, and its process has not ended yet.
  static constexpr pid_t kEarly = -1;
  static constexpr int kMaxCaptures = 4;
  static constexpr int64_t kCaptureLimitNs = 60'000'000'000;  // a report that hangs is ended
  static constexpr int64_t kPageReportLimitNs = 5'000'000'000;
  static constexpr int64_t kIdleLimitNs = 30'000'000'000;    // alone and without a service: exit
  static constexpr int64_t kCleanupLimitNs = 5'000'000'000;  // of the children of a dead service

  static constexpr int64_t kLeftoverLimitNs = 500'000'000;  // a replacement waits so long for them
  static constexpr int64_t kSlotRetryNs = 5'000'000;  // where too many are dying, the start waits
  // A crash handler may hand the signal on to one that recovers: then the looks end.
  static constexpr int kLooksAfterCrash = 10;
  static constexpr uint32_t kSourceBits = 8;  // above them, the index of the instance

  // Set-up.
  int take_lock();
  int open_sockets(const ShimOptions& options);
  int open_notify(const char* abstract_name);
  void watch(int fd, uint32_t events, uint32_t source);
  void unwatch(int fd);
  void resume(const ShimOptions& options);
  void adopt(Instance& one, int page_fd);
  void adopt_page(Instance& one, int page_fd);
  void resume_instances(bool same_boot, const ShimOptions& options);
  bool take_adopted(const ShimOptions& options);

  // The processes of the service.
  StatusInstance& saved(const Instance& one) { return status_.record.instances[index(one)]; }
  const StatusInstance& saved(const Instance& one) const {
    return status_.record.instances[index(one)];
  }
  size_t index(const Instance& one) const { return static_cast<size_t>(&one - instances_.begin()); }
  Instance* find(InstanceRole role);
  const Instance* find(InstanceRole role) const { return const_cast<Shim*>(this)->find(role); }
  Instance* find_generation(uint64_t generation);
  // The process, or one of its descendants: by pid, then by session; else the active one.
  Instance* find_sender(pid_t pid);
  bool alive() const { return find(InstanceRole::kActive) != nullptr; }
  bool any() const;
  void start(InstanceRole role, bool automatic, uint64_t ticket_id);
  void watch_process(Instance& one, pid_t pid);
  void watch_again(Instance& one);
  void free_instance(Instance& one);

  // Its end.
  void ended(Instance& one);
  bool take_exit(Instance& one, ExitInfo* exit);
  const ExitInfo* recorded_exit(const Instance& one) const;
  static void reap(const Instance& one);
  // It announced this process, and the number is still that one's.
  static bool has_announced(const Instance& one, pid_t pid);
  bool follow_successor(Instance& one);
  void note_exit(Instance& one, ExitInfo& exit);
  void after_active(const ExitInfo& exit, Exited* report);
  bool learn_status(Instance& one, ExitInfo* exit);
  // Kills what dead processes of the service left; the number of children that are still there.
  int kill_leftovers();
  bool read_children(char* to, size_t capacity);
  bool is_leftover(pid_t pid);
  void await_leftovers();
  void reap_children();
  bool is_capture(pid_t pid) const;
  void stop(const Stop& request);
  void stop_one(Instance& one, const Stop& request);
  // To the process alone; nobody else gets it, whatever its number means by now.
  void signal_service(const Instance& one, int signal) const;
  void take_main_pid(Instance& one, const char* text, const int* fds, int fd_count);
  void follow_main_pid(Instance& one, pid_t pid, int pidfd);
  static void extend_stop(Instance& one, uint64_t microseconds);
  void use_ticket(int64_t noticed, InstanceRole role, uint64_t* ticket_id, int64_t* delay_ns);

  // Its death, before its end (dying.cc).
  void watch_life(Instance& one);
  void look_at_life(Instance& one);
  void fenced(Instance& one, const FenceLook& look);
  void tell_dying(Instance& one, DyingSign sign);
  bool should_replace(const Instance& one, int exit_code) const;
  void promote(uint64_t old_generation, bool early);
  static void give_role(Instance& one, uint64_t epoch);
  void end_standby();

  // Before a start and around an end (launch_flow.cc). Only starts of the active process wait.
  struct WaitingStart {
    bool wanted = false;
    bool automatic = false;
    bool prepared = false;  // its pre_start hook succeeded
    uint64_t ticket_id = 0;
  };
  ProcessDescriptors output_descriptors() const;
  void request_start(bool automatic, uint64_t ticket_id);
  void start_waiting();
  void fail_waiting(int error_number);
  void cancel_waiting();
  bool reap_hook(pid_t pid);
  void run_cleanup();
  void run_evidence(const ExitInfo& exit);
  void run_post_crash(const ExitInfo& exit);
  void resume_hooks(const char* boot_id);
  void tell_shortfalls(uint64_t generation, const StartOutcome& outcome);
  void prepare(uint64_t generation);
  void prepare_for_ticket();
  void forget_prepared();
  void sweep_soon();
  void sweep_groups();
  void watch_memory(Instance& one);
  void on_memory(Instance& one);
  void look_at_memory(Instance& one);
  bool next_stop_signal(Instance& one, int64_t now);
  void kill_family(Instance& one);
  void use_notify_name();
  void remove_groups();

  // Events.
  void on_signals();
  void on_wake();
  // Whether more may be waiting.
  bool on_notify();
  bool may_notify(const Instance& one, pid_t sender) const;
  void take_notification(const char* text, size_t size, pid_t sender);
  void take_unheard(Instance& one);
  bool take_line(Instance& one, const char* line, size_t length);
  void store_descriptors(const char* text, const int* fds, int fd_count);
  void on_timers(int64_t now);
  int wait_timeout_ms(int64_t now) const;
  void on_output(int stream);
  void on_terminal(int stream);
  void dispatch(uint32_t source);
  void look_at_crash(Instance& one);
  void start_capture(Instance& one);
  void start_tracer(Instance& one);
  void tracer_ended(Instance& one, int wait_status);
  void end_tracer(Instance& one);
  void traced_crash(Instance& one);
  Capture* free_capture();
  const char* reporter() const;
  struct CaptureOf {
    pid_t pid;
    uint64_t generation;
    int64_t started_mono_ns;
  };
  CaptureOf capture_of(const Instance& one) const {
    return {one.pid, saved(one).generation, static_cast<int64_t>(saved(one).started_mono_ns)};
  }
  pid_t start_capture_helper(const char* command, const CaptureOf& of, int page_fd,
                             const char* why);
  static bool was_copied(const Capture& capture);
  void capture_overdue(Capture& capture, int64_t now);
  void captured(Capture& capture, int wait_status);
  void tell_captured(Capture& capture, int wait_status);
  void tell_early_captures(uint64_t generation);
  bool report_by_page(Capture& capture, const char* why, int64_t number);
  static void give_up_capture(Instance& one);

  // The supervisor.
  void accept_connection();
  void take_connection(int fd);
  void drop_connection();
  void on_message();
  void handle(const MessageHeader& header, const char* body, size_t size, int* fds, int fd_count);
  void welcome();
  void refuse(Type request, int error_number, InstanceRole role = InstanceRole::kActive,
              uint32_t number = 0);
  void acknowledge(uint64_t sequence);
  void flush_journal();
  bool send_now(Type type, const void* body, size_t body_size, const void* tail, size_t tail_size,
                const int* fds, int fd_count);
  static void feed_log(int stream, const char* bytes, size_t size);
  void set_pass_through(const PassThrough& request, int* fds, int fd_count);
  void tell_stored();

  Journal journal_;
  LogPump logs_;
  StatusFile status_;
  Launch launch_;
  SocketStore sockets_;
  Instances instances_;

  int epoll_ = -1;
  int lock_ = -1;
  int null_ = -1;
  int children_ = -1;  // of read_children(), from its first use on
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
  bool stored_changed_ = false;
  uint64_t feed_dropped_ = 0;
  pid_t supervisor_pid_ = 0;  // as it said
  bool ending_ = false;       // a supervisor asked for the end
  bool terminal_watched_[2] = {};
  bool fifo_watched_[2] = {};

  bool adopted_ = false;          // the active process was started by a shim before us
  Ticket ticket_ = {};            // id 0: none
  int64_t start_at_ = 0;          // of a delayed start; 0: none
  bool start_when_gone_ = false;  // asked for while the one before was being stopped on request
  Ticket pending_ = {};           // what the delayed start uses
  InstanceRole pending_role_ = InstanceRole::kActive;
  int64_t idle_since_ = 0;
  int64_t cleanup_until_ = 0;  // children that the dead service left are being killed
  Capture captures_[kMaxCaptures];

  Hooks hooks_;
  WaitingStart waiting_;  // for a hook
  bool cleanup_wanted_ = false;
  // Of the next start.
  struct Prepared {
    uint64_t generation = 0;  // 0: nothing is prepared
    Cgroup groups;
    int refused[kStartStages] = {};
    PageHandle page;
  };
  Prepared prepared_;
  PageHandle old_page_;   // of the last process that ended
  bool swept_ = false;    // groups of shims before us were looked for
  int64_t sweep_at_ = 0;  // when dead groups are removed; 0: there are none
  int64_t sweep_step_ns_ = 0;
};

}  // namespace defib::process::shim
