// What host and zygote say to one another over a socket of packets. Both are of one program's
// version: the zygote is a fork of the host, or the defib-worker beside it.

#pragma once

#include <cstdint>

#include "defib/os/pass_fds.h"

namespace defib::call {

struct ToZygote {
  // kFork carries the channel's memfd and an eventfd.
  enum Kind : std::uint32_t { kFork = 1, kKill = 2 };
  Kind kind = kFork;
  std::uint32_t unused = 0;
  std::uint64_t number = 0;  // the host's name of the worker
};

struct FromZygote {
  enum Kind : std::uint32_t { kForked = 1, kFailed = 2, kEnded = 3 };
  Kind kind = kForked;
  std::int32_t pid = 0;
  std::uint64_t number = 0;
  std::int32_t status = 0;  // as wait(2) gives it; of kFailed an errno
  std::uint32_t unused = 0;
  std::int64_t max_rss_kb = 0;
};

}  // namespace defib::call
