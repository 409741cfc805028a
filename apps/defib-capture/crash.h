// Where the snapshot of a crashed process comes from: copied by defib-snapshot before, copied here,
// or not to be had, and then why.

#pragma once

#include <sys/types.h>

#include <string>

#include "defib/base/error.h"
#include "defib/postmortem/crash_page.h"
#include "defib/postmortem/process_facts.h"
#include "defib/postmortem/snapshot.h"

namespace defib {

struct CrashOptions {
  int snapshot_fd = -1;   // of the raw snapshot; -1: there is none
  std::string why;        // why there was no capture; empty: there is, or shall be
  bool minicore = false;  // also leave a small core
};

// `facts`: null where they are not wanted. The error is what the report tells as `capture_error`.
Result<postmortem::Snapshot> obtain_crash(pid_t pid, postmortem::CrashPage& page,
                                          const CrashOptions& options,
                                          postmortem::ProcessFacts* facts);

// Beside the report: "crash-7.core" of "crash-7.json". What fails becomes a gap of the snapshot.
void leave_minicore(postmortem::Snapshot& snapshot, const std::string& report_path);

}  // namespace defib
