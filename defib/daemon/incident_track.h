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

struct IncidentRecorder::Track {
  std::string service;
  std::string last_id;
  std::optional<recovery::Incident> incident;

  // Of the last failure.
  std::uint64_t failed_generation = 0;
  std::int64_t failed_mono_ns = 0;
  std::optional<Classification> by_status;  // what the exit status alone says
  std::optional<ExitFacts> end;             // by which it is classified where there is no report
  std::string report_path;                  // of defib-capture; empty: none is coming
  std::string limit;                        // what was over its limit
  std::string end_words;                    // "SIGKILL", "exit code 3"; of the last failure
  bool classified = false;
  bool process_failed = false;  // an exit or hang, not a warning alone

  // Of the time after it.
  bool replaced = false;
  bool healthy = false;
  // What came before the exit that it belongs to: a process may be replaced while it dies.
  std::optional<process::DyingReport> dying;
  std::optional<process::PromotionReport> promotion;
  std::optional<process::StartInfo> newest_start, start_before;
  std::uint64_t ready_generation = 0;
  bool says_ready = false;      // it said READY before, so that is waited for
  bool recovering = false;      // the service reports its own recovery
  std::string final_outcome;    // close as soon as it is classified
  std::string failed_incident;  // that ended as "failed", and nobody has started it since

  CrashGroups groups;
  int classifications = 0;  // lines of that kind in the open incident

  os::EventLoop::TimerId classify_timer = 0, health_timer = 0, sync_timer = 0, quiet_timer = 0;
  std::int64_t matched_lines = 0;

  std::uint64_t oom_kills = 0;    // told and not yet an end's cause
  std::int64_t oom_mono_ns = 0;   // when
  process::OomReport survived;    // kills of its processes that it outlived, as told last
  std::vector<wire::Json> cores;  // of an end that is not known yet
};

}  // namespace defib::daemon
