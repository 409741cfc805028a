// What `defib analyze` shows of a report besides what incidents carry: source lines, colours, and
// with --full arguments and locals. Thread rule: one thread.

#pragma once

#include <sys/types.h>

#include <string>

#include "apps/defib-capture/debugger.h"
#include "defib/postmortem/report.h"
#include "defib/wire/json.h"

namespace defib {

struct AnalyzeOptions {
  pid_t pid = 0;        // of a live process; 0: a core file
  std::string core;     // its path
  std::string exe;      // the core's program, where it lies elsewhere; else empty
  std::string sysroot;  // as for read_core()
  bool full = false;
  int full_timeout_s = kDebuggerTimeoutS;
  bool json = false;  // the document is wanted, else the text
};

struct Analysis {
  wire::Json document;
  std::string text;
};
Analysis show_analysis(const postmortem::Report& report, const AnalyzeOptions& options);

}  // namespace defib
