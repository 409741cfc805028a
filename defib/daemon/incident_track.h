// IncidentRecorder::Track: what the recorder knows of one service. Internal to the recorder's
// files. Thread rule: the recorder's.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "defib/daemon/crash_groups.h"
#include "defib/daemon/incident_recorder.h"

namespace defib::daemon {

// Of a process, or of one that could not be started; what its verdict needs.
struct IncidentRecorder::Failure {
  std::uint64_t generation = 0;               // 0: no process failed
  std::optional<Classification> by_status;    // what the exit status alone says
  std::optional<ExitFacts> end;               // by which it is classified where there is no report
  std::string end_words;                      // "SIGKILL", "exit code 3"
  std::string report_path;                    // of defib-capture; empty: none is coming
  bool report_due = false;                    // captured() will tell of it
  std::int64_t replaced_mono_ns = INT64_MAX;  // when the next run began, as far as it is known
  os::EventLoop::TimerId timer = 0;           // when the exit status decides
};

struct IncidentRecorder::Track {
  std::string service;
  std::string last_id;
  std::optional<recovery::Incident> incident;

  // The newest failure decides the incident's cause and its end. Those before it that still wait
  // for their verdicts have them without that.
  Failure failed;
  std::vector<Failure> earlier;
  std::uint64_t ended_generation = 0;  // the newest whose end the incident has
  std::int64_t failed_mono_ns = 0;
  std::string limit;            // what was over its limit
  bool classified = false;      // the newest failure, or the warning where none followed it
  bool process_failed = false;  // an exit, not a warning alone

  // Of the time after it.
  bool replaced = false;
  bool healthy = false;
  // What came before the exit that it belongs to: a process may be replaced while it dies.
  std::optional<process::DyingReport> dying;
  std::optional<process::PromotionReport> promotion;
  std::optional<process::StartInfo> newest_start, start_before;
  std::uint64_t ready_generation = 0;
  bool says_ready = false;              // it said READY before, so that is waited for
  bool recovering = false;              // the service reports its own recovery
  std::string final_outcome;            // close as soon as it is classified
  std::vector<std::string> failed_row;  // incidents that ended as "failed", with no start since

  CrashGroups groups;
  int classifications = 0;  // lines of that kind in the open incident

  os::EventLoop::TimerId health_timer = 0, sync_timer = 0, quiet_timer = 0;
  std::int64_t matched_lines = 0;

  std::uint64_t oom_kills = 0;    // told and not yet an end's cause
  std::int64_t oom_mono_ns = 0;   // when
  process::OomReport survived;    // kills of its processes that it outlived, as told last
  std::vector<wire::Json> cores;  // of an end that is not known yet
};

}  // namespace defib::daemon
