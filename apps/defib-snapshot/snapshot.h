// What both uses of the program share: the command line, the crash page, and the way on to
// defib-capture.

#pragma once

#include <sys/types.h>

#include "defib/postmortem/crash_bound.h"

namespace defib::snapshot {

struct Options {
  pid_t pid = 0;
  int page_fd = -1;
  uint64_t page_offset = 0;
  bool minicore = false;
};
// False: not what this program understands; defib-capture shall say so.
bool parse_options(int argc, char** argv, Options* options);

// nullptr: it is no page.
postmortem::CrashPage* map_page(const Options& options);

// Becomes defib-capture, with these arguments and, where `snapshot_fd` is not negative, the
// descriptor of the raw snapshot. `command` replaces argv[1]. Returns only where that fails.
int become_capture(int argc, char** argv, const char* command, int snapshot_fd);

// `trace`: seizes the process for life (trace.cc).
int run_trace(int argc, char** argv, const Options& options);

void complain(const char* what, int error_number);

}  // namespace defib::snapshot
