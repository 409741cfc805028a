// IncidentRecorder: turns what the supervisor tells into incidents (recovery/incident.h).
//
// One service has at most one open incident. It is opened by the first failure, and takes in every
// further one until it is closed:
//   recovered   the service said so (event "recovery_closed", or state "running" after its own
//               recovery began), or a degraded service is healthy again
//   restarted   the replacement became ready, or ran for kHealthyTime, and nothing was said
//   stopped     somebody stopped the service, or it ended cleanly
//   failed      it is not started again by itself (crash loop, or its policy)
// and it is never closed before its cause is classified, or the classification is overdue. Each
// failure of a process has a verdict of its own; the cause is that of the newest one.
//
// A recorder that is killed at any moment is continued by the next one from the file: begin() reads
// an incident that was left open, and exits that the shim tells a second time are known by their
// generation. Files are synced here, on the loop's thread, but never before a replacement may
// start: the shim does that by its ticket.
// Thread rule: the loop's thread.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/daemon/crash_groups.h"
#include "defib/daemon/exit_cause.h"
#include "defib/os/event_loop.h"
#include "defib/os/files.h"
#include "defib/postmortem/redact.h"
#include "defib/process/run_output.h"
#include "defib/process/supervisor.h"
#include "defib/recovery/incident.h"

namespace defib::daemon {

// A replacement that neither says READY nor fails is healthy after so long.
inline constexpr os::Duration kHealthyTime = std::chrono::seconds(2);
// A classification that is not there by then is overdue, and the exit status decides.
inline constexpr os::Duration kClassificationTime = std::chrono::seconds(15);
// Between an exit without a capture and its classification, which reads the last lines of output:
// they may still be in the pipe.
inline constexpr os::Duration kOutputTime = std::chrono::milliseconds(50);
// Matching lines of output open an incident; without a further one for so long it is closed.
inline constexpr os::Duration kPatternQuietTime = std::chrono::seconds(10);

// What a detector has to say: the incident's event "detected", and the cause as far as it knows.
struct Finding {
  std::string cause;                  // of docs/cli.md
  wire::Json fields;                  // of the event; "what" says which detector
  std::vector<std::string> evidence;  // sentences, with numbers
  std::string source;                 // of the classification
  std::string message;                // for the log
  std::string detail;                 // what tells it from others of its cause; may be empty
  bool ends_service = false;          // the process is ended for it, and its end is classified
  bool closes_when_quiet = false;     // the incident, when nothing like it was found for a while
};

// What happened, for whoever alerts and counts: the recorder is the one place that knows it all.
struct IncidentNews {
  enum class What : std::uint8_t {
    kFailed,          // one failure, the first of an incident or a further one
    kCrashLoop,       // it is not started again by itself
    kSlowLane,        // it crashes too often, and is tried again slowly
    kApprovalNeeded,  // recovery waits for a human
    kClosed,
    kRunsAgain,   // a service was started whose incident ended as "failed"; one of each such
    kUnrecorded,  // the disk takes no incident
  };
  What what = What::kFailed;
  std::string service;
  std::string incident, head;  // empty: none
  std::string cause;           // the vocabulary of docs/cli.md, as far as it is known at once
  std::string message;
  std::string id;         // told again (its teller was killed in between), news have the same id
  std::string outcome;    // of kClosed
  bool opens = false;     // it is the incident's first
  bool down = false;      // no replacement follows
  bool detected = false;  // by a look at the living service, not by its end
  bool again = false;     // perhaps told by an earlier recorder: not to be counted
  // Of kFailed: the process, as far as it is known, and its report, which may still be on its way.
  pid_t pid = 0;
  std::uint64_t generation = 0;
  std::int64_t failed_mono_ns = 0;
  std::string report;
  bool captured = false;  // there is one, or will be
  bool hangs = false;     // it lives, and is about to be ended or told of
};

class IncidentRecorder {
 public:
  // What a service wrote between two moments (CLOCK_MONOTONIC), for the classification: the last
  // bytes of it.
  using LogTail = std::function<process::RunOutput(
      const std::string& service, std::int64_t from_mono_ns, std::int64_t until_mono_ns)>;
  // What the kernel said of an end.
  using KernelLog = std::function<postmortem::KernelLines(const ExitFacts& end)>;
  static Result<std::unique_ptr<IncidentRecorder>> create(os::EventLoop& loop, os::Files& files,
                                                          const std::string& state_dir,
                                                          LogTail log_tail,
                                                          KernelLog kernel_log = kernel_evidence);
  ~IncidentRecorder();
  IncidentRecorder(const IncidentRecorder&) = delete;
  IncidentRecorder& operator=(const IncidentRecorder&) = delete;

  using OnNews = std::function<void(const IncidentNews& news)>;
  // Called for what happens from now on; with `tell_again` also for the newest incident of each
  // service that begins, in case an earlier recorder was killed before it told.
  void on_news(OnNews on_news, bool tell_again) {
    on_news_ = std::move(on_news);
    tell_again_ = tell_again;
  }

  // Knows the secrets of a service. Lines of output, and what was made of them, are redacted before
  // they are written; without it, what names and forms betray alone.
  using RedactorOf = std::function<postmortem::Redactor(const std::string& service)>;
  void redact_with(RedactorOf redactor_of) { redactor_of_ = std::move(redactor_of); }

  // Continues what an earlier recorder left open. Every other function does this by itself where it
  // is the first one for a service; call it only while the service's lock is held.
  void begin(const std::string& service);
  // The service is not supervised here any more; an open incident stays open.
  void end(const std::string& service);

  // As SupervisorObserver's functions of the same names.
  void started(const process::StartInfo& info);
  void start_failed(const std::string& service, const Error& error);
  void dying(const process::DyingReport& report);
  void exited(const process::ExitReport& report);
  void promoted(const process::PromotionReport& report);
  void captured(const process::CaptureReport& report);
  void hung(const process::HangReport& report);
  void limit_exceeded(const process::LimitReport& report);
  void hook_finished(const process::HookReport& report);
  void oom_killed(const process::OomReport& report);
  void state_changed(const std::string& service, process::ServiceState from,
                     process::ServiceState to);
  void notified(const process::NotifyEvent& event);
  void crash_loop(const std::string& service, const Error& error);
  void slow_lane(const std::string& service, const Error& error, os::Duration delay);
  // `started_mono_ns` 0: not known.
  void adopted(const std::string& service, pid_t pid, std::uint64_t generation,
               std::int64_t started_mono_ns = 0);

  void limit_cleared(const process::LimitReport& report);
  void out_of_memory(const std::string& service, std::uint64_t kills);
  // Ready by READY=1 or by a probe.
  void ready(const std::string& service);

  // Opens an incident, or adds to the one that is open.
  void found(const std::string& service, Finding finding);
  // Adds an event where an incident is open.
  void note(const std::string& service, std::string_view event, const wire::Json& fields);
  // The service left a core file: an event of the incident of that end, which may still be unknown.
  void core_dumped(const std::string& service, const wire::Json& fields);

  // The newest incident of the service, open or not; empty: none.
  std::string last_incident(const std::string& service) const;
  bool has_open(const std::string& service) const;
  // Nothing more will be written about it now: no incident is open, or it waits for an event of
  // the service's.
  bool settled(const std::string& service) const;

 private:
  struct Failure;
  struct Track;
  IncidentRecorder(os::EventLoop& loop, os::Files& files, std::string state_dir,
                   recovery::IncidentLog log, LogTail log_tail, KernelLog kernel_log);
  Track& track(const std::string& service);
  const Track* find(const std::string& service) const;
  void continue_open(Track& track);
  bool open(Track& track, const wire::Json& fields);
  void resume(Track& track, const std::string& id);
  void replay(Track& track, const wire::Json& line);
  void replay_failure(Track& track, const wire::Json& line);
  static void add_to_row(std::vector<std::string>& row, const std::string& id);
  std::vector<std::string> failed_row(
      const Track& track, const std::vector<recovery::IncidentSummary>& newest_first) const;
  void append(Track& track, std::string_view event, const wire::Json& fields,
              recovery::Durability durability);
  void schedule_sync(Track& track);
  static void note_end(Track& track, std::uint64_t generation, std::string_view ended_by,
                       const std::string& report_path);
  static void note_hang(Track& track, std::uint64_t generation, bool kills,
                        const std::string& report_path);
  static void note_replacement(Track& track, std::uint64_t generation, std::int64_t mono_ns);
  static Failure* waiting(Track& track, std::uint64_t generation);
  void put_aside(Track& track);
  void forget_failures(Track& track);
  void wait_for_classification(Track& track, Failure& failure);
  void wait_for_classification(Track& track, Failure& failure, os::Duration time);
  void classify(Track& track, Failure& failure);
  void classify_now(Track& track, Failure& failure);
  static std::uint32_t kills_at_end(Track& track, const process::ExitReport& report);
  static std::int64_t start_of(const Track& track, std::uint64_t generation);
  process::RunOutput output_of_end(const Track& track, const Failure& failure) const;
  void classify_by_report(Track& track, Failure& failure);
  void write_classification(Track& track, Failure& failure, const wire::Json& classification,
                            const wire::Json& threads, std::string_view source);
  postmortem::Redactor redactor_of(const Track& track) const;
  void add_group(Track& track, const Failure& failure, wire::Json& fields);
  void catch_up_groups(Track& track, const std::vector<recovery::IncidentSummary>& newest_first);
  void save_groups(const Track& track);
  void service_event(Track& track, const std::string& text);
  void messages_lost(Track& track, const std::string& count);
  void service_state(Track& track, const std::string& word);
  void wait_for_health(Track& track);
  void append_dying(Track& track);
  void append_promoted(Track& track);
  void close_when_quiet(Track& track);
  void close_if_due(Track& track);
  void close(Track& track, std::string_view outcome);
  void cancel(os::EventLoop::TimerId& timer);
  void tell(const Track& track, IncidentNews news);
  static IncidentNews failure_news(const Track& own, std::string_view cause, std::string message,
                                   bool opens);
  void tell_failure(const Track& track, IncidentNews news, bool down);
  void tell_again(const Track& track, const recovery::IncidentSummary& summary);
  void tell_approval_needed(const Track& track);
  void tell_slow_lane(const Track& track, std::string message);
  void tell_unrecorded(const Track& track, const Error& error);

  os::EventLoop& loop_;
  os::Files& files_;
  std::string state_dir_;
  RedactorOf redactor_of_;
  OnNews on_news_;
  bool tell_again_ = false;
  recovery::IncidentLog log_;
  std::optional<std::vector<recovery::IncidentSummary>> listed_;  // while services are taken over
  os::EventLoop::TimerId forget_list_ = 0;
  LogTail log_tail_;
  KernelLog kernel_log_;
  std::map<std::string, std::unique_ptr<Track>> tracks_;
};

}  // namespace defib::daemon
