// How the crash page bounds a capture, and how the process is let go: the same for whoever captures
// (capture.h, apps/defib-snapshot).

#pragma once

#include <stdint.h>

#include "defib/postmortem/crash_page.h"
#include "defib/postmortem/raw_copy_sigsafe.h"

namespace defib::postmortem {

// What is for the bundle alone may add so much to the time that the process waits.
inline constexpr int64_t kFactsTimeNs = 5'000'000;

// The hook waits no longer: the state becomes kCaptured, unless it has given up.
void release_crashed(CrashPage& page, int64_t now_ns);

// The deadlines, the crashed thread, and what is done when all is copied.
void bound_by_page(CrashPage& page, bool facts, raw::Capture& capture);

}  // namespace defib::postmortem
