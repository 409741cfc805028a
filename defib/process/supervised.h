// Supervised: one service under its supervisor. Internal to the module; Supervisor is the face.
//
// The object follows its shim: it changes state only by events (of the shim, of its timers, of its
// caller) through the table in service_state.h. Events carry the generation of the process that
// they are about; what concerns an earlier process is reported, but changes nothing.
// Thread rule: the loop's thread.

#pragma once

#include <signal.h>

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "defib/os/event_loop.h"
#include "defib/os/file_watch.h"
#include "defib/os/process_tree.h"
#include "defib/process/cgroup_places.h"
#include "defib/process/heartbeat.h"
#include "defib/process/kept_sockets.h"
#include "defib/process/launch_description.h"
#include "defib/process/limits.h"
#include "defib/process/memory_cgroup.h"
#include "defib/process/restart_policy.h"
#include "defib/process/sampler.h"
#include "defib/process/shim_link.h"
#include "defib/process/starvation.h"
#include "defib/process/supervisor.h"

namespace defib::process {

struct SupervisionContext {
  os::EventLoop& loop;
  os::Files& files;
  const os::Clock& clock;
  SupervisorObserver& observer;
  StateDir dir;
  Programs programs;
  CgroupPlaces cgroups;
  std::set<std::string> told;  // warnings, each once
  std::unique_ptr<Sampler> sampler;
  std::unique_ptr<os::FileWatch> file_watch;  // made when it is first needed
};

// A mapping of the agent page for reading, with its descriptor (to hand it to the next shim).
class PageView {
 public:
  PageView() = default;
  PageView(PageView&& other) noexcept
      : fd_(std::move(other.fd_)), page_(std::exchange(other.page_, nullptr)) {}
  PageView& operator=(PageView&& other) noexcept {
    std::swap(fd_, other.fd_);
    std::swap(page_, other.page_);
    return *this;
  }
  ~PageView();
  // An empty view where the descriptor is no agent page.
  static PageView map(os::Fd fd);
  const AgentPage* page() const { return page_; }
  int fd() const { return fd_.get(); }

 private:
  os::Fd fd_;
  const AgentPage* page_ = nullptr;
};

// The process that waits to be promoted.
struct Standby {
  std::uint64_t generation = 0;
  pid_t pid = 0;  // 0: none
  std::int64_t started_mono_ns = 0;
  bool ready = false;
  std::string state_word;
  PageView page;
};

class Supervised {
 public:
  // Locks the name, and greets a shim that listens; its answer is waited for by open().
  static Result<std::unique_ptr<Supervised>> begin(SupervisionContext& context, ServiceSpec spec);
  // Adopts or prepares. See Supervisor::add().
  Result<> open();
  ~Supervised();

  Result<> start();
  Result<> stop(StopReason reason = StopReason::kRequested);
  Result<> restart();
  Result<> reset();
  Result<> signal(int number);
  Result<> update(ServiceSpec spec);
  void clock_stepped();
  void report_health(recovery::Health health, const std::string& detail,
                     std::optional<LimitAction> action);
  void report_ready();
  Result<> replace(StopReason reason, Error why);
  Result<> pass_through(int stdout_fd, int stderr_fd);
  Result<> feed_log(bool on);
  // Ends the shim; `done` when it is gone. The service must not run.
  void end_shim(std::function<void()> done);

  const os::File& name_lock() const { return *lock_; }

  const std::string& name() const { return spec_.name; }
  bool alive() const { return pid_ > 0; }
  bool capturing() const { return captures_running_ > 0; }
  ServiceStatus status(bool with_usage = true) const;

 private:
  Supervised(SupervisionContext& context, ServiceSpec spec);

  // The shim.
  Result<> connect_or_launch();
  Result<> greet(ShimLink link);
  Result<> attach();
  Result<ShimLink> launch();
  Result<> wait_for_welcome();
  Result<> prepare_dir() const;
  Result<> configure(bool monitoring);
  void catch_up_soon();
  void hold_output();
  void catch_up();
  Result<os::Fd> describe(bool monitoring);
  void warn(const Error& warning, bool asked_for);
  void request_cleanup();
  Result<> on_hook_finished(const ShimMessage& message);
  Result<> on_shortfall(const ShimMessage& message);
  Result<> on_oom_kill(const ShimMessage& message);
  void on_readable();
  void handle(ShimMessage message);
  void lost_shim();
  void relaunch();
  void on_shim_ended();
  bool collect_orphan(pid_t pid, siginfo_t* info);
  void wait_for_orphan(ExitReport* report);
  void reap_orphans();

  // What the shim says.
  Result<> on_welcome(ShimMessage& message);
  Result<> on_started(ShimMessage& message);
  Result<> on_start_failed(const ShimMessage& message);
  Result<> on_exited(const ShimMessage& message);
  void note_failure(ExitReport& report, bool current);
  ExitReport make_report(const shim::Exited& exited) const;
  void adopt(const shim::StatusInstance& active, const shim::Welcome& welcome);
  void take_pages_and_sockets(ShimMessage& message, const shim::Welcome& welcome);
  Result<> on_dying(const ShimMessage& message);
  Result<> on_crash_flag(const ShimMessage& message);
  Result<> on_captured(const ShimMessage& message);
  Result<> on_refused(const ShimMessage& message);
  void nothing_to_stop(std::uint32_t number);
  Result<> on_followed(const ShimMessage& message);
  void follow(pid_t pid, std::uint64_t start_time);
  Result<> on_notify(const ShimMessage& message);
  bool on_notify_field(std::string_view key, std::string_view value);
  void on_says_ready();
  void on_says_reloading();
  void on_says_stopping();
  void on_watchdog_trigger();
  void extend_timeouts(os::Duration time);
  void reset_said();
  void arm_ready_timer();
  void arm_runtime_timer();
  void replayed();
  void ask_again(bool runs);
  Result<> send_stop(shim::Stop request);

  // The standby, and the sockets that are kept (supervised_standby.cc).
  Result<> on_standby_started(ShimMessage& message, const shim::Started& started);
  void on_standby_exited(const ExitReport& report);
  Result<> on_promoted(const ShimMessage& message);
  void ensure_standby();
  void watch_standby();
  void lose_standby(Error why);
  Result<> open_sockets();
  Result<> send_sockets();
  Result<> on_stored(ShimMessage& message);

  // Life.
  void change(ServiceEvent event);
  void begin_process(pid_t pid, std::uint64_t start_time, std::int64_t mono_ns,
                     std::int64_t wall_ns);
  void end_process();
  void after_exit(const ExitReport& report);
  void call_off_start();
  // The last that was asked for is that it ends, if only to be started again.
  bool stop_requested() const {
    return stop_asked_ && stop_asked_->reason == shim::StopReason::kRequested;
  }
  void wait_for_capture();
  void decide();
  void follow(const RestartPlanner::Decision& decision);
  void start_later(os::Duration delay);
  void automatic_start();
  void give_up(const Error& error);
  void resume_decision();
  void tell_trouble();
  void grant_ticket();
  void account_ticket_use();
  Result<> send_start(bool automatic);
  Error last_exit_error(const ExitReport& report) const;

  // Watching.
  void look_at_heartbeat();
  void arm_heartbeat();
  void judge_silence(const HeartbeatWatch::Silence& silence, os::Duration late);
  void on_hung(HangReport report);
  void on_beats_again();
  bool has_unread_notification() const;
  std::string agent_text() const;
  void capture_then_kill(StopReason reason);
  void kill_now(StopReason reason);
  void ready_if_all_said();
  void wait_for_ready(os::Duration time);
  void explain(ServiceStatus& status) const;

  // Limits (supervised_limits.cc).
  struct Sampling {
    Sampler::Id id = 0;  // 0: nothing needs samples
    os::ProcessTree tree;
    CpuWindow window;
    LimitJudge judge;
    std::int64_t at_mono_ns = 0;  // of the last sample
    os::TreeUsage usage;
    std::uint64_t memory_bytes = 0;
    std::string_view memory_source = "rss";
    std::uint64_t pss_bytes = 0;
    std::int64_t pss_not_before_mono_ns = 0;
    int cgroup_looks = 0;
    std::optional<MemoryCgroup> cgroup;
    std::unique_ptr<MemoryEvents> events;
    os::EventLoop::TimerId event_timer = 0;  // an event that came too soon after the last one
    std::uint64_t oom_kills = 0;
  };
  void watch_limits();
  void end_sampling();
  void sample();
  bool take_sample() const;
  void add_usage(ServiceStatus& status, bool fresh) const;
  void measure_memory(std::int64_t now) const;
  void look_for_cgroup();
  void on_memory_event();
  void count_oom_kills();
  LimitReport limit_report(Resource resource, double value, double limit) const;
  void hold_memory_limit();
  void judge(Resource resource, double value);
  void over_limit(const LimitReport& report);
  void healthy_if_all_agree();
  void cancel(os::EventLoop::TimerId& timer);
  std::string capture_path(std::string_view kind, std::uint64_t generation) const;
  std::string hang_report_path() const;

  SupervisionContext& context_;
  ServiceSpec spec_;
  std::string dir_;
  std::unique_ptr<os::File> lock_;
  std::optional<RestartPlanner> planner_;

  ShimLink link_;
  os::Child shim_;  // valid where this supervisor started it
  pid_t shim_pid_ = 0;
  os::Fd notify_fd_;               // kept for the next shim, so that no notification is lost
  os::Fd output_[2];               // hold_output()
  bool attached_ = false;          // Welcome came, at least once
  std::uint64_t replay_left_ = 0;  // kept events that are still to come
  bool ticket_seen_used_ = false;
  int shim_losses_ = 0;  // in quick succession
  std::int64_t last_loss_mono_ns_ = 0;
  std::function<void()> shim_ended_;
  bool feed_log_ = false;
  int out_ = -1, err_ = -1;  // passed through; the caller's

  ServiceState state_ = ServiceState::kStopped;
  std::uint64_t generation_ = 0;
  std::uint64_t reported_exit_ = 0;
  pid_t pid_ = 0;
  std::uint64_t start_time_ = 0;
  std::int64_t started_mono_ns_ = 0;
  std::int64_t started_wall_ns_ = 0;
  std::uint64_t restarts_ = 0;
  bool ready_ = false;
  std::uint64_t epoch_ = 0;
  // Processes whose shim died: we may be the one who waits for them.
  struct Orphan {
    pid_t pid = 0;
    os::Fd pidfd;
  };
  std::vector<Orphan> orphans_;
  bool restart_requested_ = false;
  bool shim_waits_ = false;  // with a start of its own, when it greeted us
  bool shim_stops_ = false;  // the service, when it greeted us
  // restart() found no process. Should the shim have started one that it has not told of yet, that
  // one began too early, and is restarted as soon as it is known.
  bool fresh_asked_ = false;
  bool restart_when_started_ = false;
  bool starting_again_ = false;  // an end that is followed by a start is no rest
  // Asked of a shim that has not answered yet: asked again of the next one, should it be killed.
  std::optional<shim::Start> start_asked_;
  std::optional<shim::Stop> stop_asked_;
  // Of the stops on request that the shim has, the newest that it has not answered: by a refusal,
  // or by the end of the process. 0: none. Until then no start is sent, so that there are never two
  // of them of which one is called off.
  std::uint32_t stop_unanswered_ = 0;
  std::uint32_t stops_sent_ = 0;
  std::string status_text_;
  // What the process has said of itself by sd_notify.
  struct Said {
    std::string error;
    std::optional<std::int64_t> exit_status;
    std::uint64_t unknown = 0;
    std::int64_t reloading_since_ns = 0;  // 0: it is not reloading
  };
  Said said_;
  // When the timers of the same names are due, which EXTEND_TIMEOUT_USEC= moves.
  std::int64_t ready_due_ns_ = 0, reload_due_ns_ = 0, self_stop_due_ns_ = 0, runtime_due_ns_ = 0;
  std::optional<Error> last_error_;
  std::optional<ExitReport> last_exit_;
  bool configured_monitoring_ = false;  // what the shim's launch description says
  bool ticket_known_ = false;           // whether a ticket was used before us would have been told
  bool found_shim_ = false;             // it listened already
  std::optional<shim::ExitInfo> undecided_;  // how it ended, by the status file alone
  bool ended_before_ = false;  // found without a process, under a shim of an earlier supervisor
  bool deciding_ = false;      // ended; the decision waits for a capture
  std::uint64_t ticket_id_ = 0;
  os::Duration ticket_delay_{0};
  std::uint64_t next_ticket_ = 1;
  std::int64_t next_start_mono_ns_ = 0;
  bool slow_lane_ = false;  // that start is one of the slow lane

  Standby standby_;
  recovery::Backoff standby_backoff_;
  bool standby_by_ticket_ = false;  // the shim starts the next one by itself
  os::EventLoop::TimerId standby_timer_ = 0;
  std::int64_t standby_due_ns_ = 0;                 // of that timer
  os::EventLoop::TimerId standby_ready_timer_ = 0;  // until its READY=1
  std::optional<Error> standby_error_;              // why the last one was lost; none: one is ready
  KeptSockets sockets_;

  PageView page_;
  HeartbeatWatch heartbeat_;
  StallWatch stall_;
  std::int64_t heartbeat_due_ns_ = 0;  // of the timer; 0: none
  bool degraded_by_heartbeat_ = false;
  os::EventLoop::TimerId heartbeat_timer_ = 0;
  os::EventLoop::TimerId healthy_timer_ = 0;
  os::EventLoop::TimerId ready_timer_ = 0;
  os::EventLoop::TimerId reload_timer_ = 0;
  os::EventLoop::TimerId self_stop_timer_ = 0;
  os::EventLoop::TimerId runtime_timer_ = 0;
  os::EventLoop::TimerId start_timer_ = 0;
  os::EventLoop::TimerId relaunch_timer_ = 0;
  os::EventLoop::TimerId catch_up_timer_ = 0;
  os::EventLoop::TimerId capture_timer_ = 0;
  os::EventLoop::TimerId decide_timer_ = 0;
  os::Child capture_;  // of a hung service
  bool killing_ = false;
  int captures_running_ = 0;
  StopReason stop_reason_ = StopReason::kNone;  // of what is being stopped
  std::int64_t kill_at_mono_ns_ = 0;            // SIGKILL follows the stop signal
  bool said_ready_ = false;                     // READY=1
  bool probe_ready_ = false;                    // the ready_probe passed
  bool probes_unhealthy_ = false;

  mutable Sampling sampling_;  // a question for the status takes a sample too
  std::uint64_t log_bytes_dropped_ = 0;
  std::uint64_t events_dropped_ = 0;
  std::string agent_obstacle_;  // why the agent is not preloaded; empty: it is
};

}  // namespace defib::process
