// Worker: the side of a channel where the fragile code runs.
//
// Invariants:
//   - Limits, the crash hook and the lock that tells of the worker's end are in place before a byte
//     of the plugin is mapped.
//   - The worker ends by _exit when the host is gone: its zygote kills it (PR_SET_PDEATHSIG).
// Thread rule: serve() on the process's main thread.

#pragma once

#include <functional>
#include <string>

#include "defib/base/error.h"
#include "defib/call/channel.h"
#include "defib/call/isolation.h"
#include "defib/call/plugin.h"

namespace defib::call {

// What a worker is told first, encoded in the request bytes.
struct Launch {
  std::string plugin;          // path; empty: a function of the program itself
  std::uint64_t function = 0;  // address of what gives its table (Session::start_function)
  Isolation isolation;
};

// In a process that was forked for it: maps the channel, puts limits and hook in place, loads the
// plugin, and serves it until the host is gone; returns only where the channel is none.
// `channel_fd`: the memfd; `event_fd` wakes the host's watcher at a crash. With `own_table` nothing
// is loaded: it is served.
int worker_main(int channel_fd, int event_fd, const PluginTable* own_table = nullptr);

}  // namespace defib::call
