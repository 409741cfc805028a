// TCP connections, with a time limit.

#pragma once

#include <cstdint>
#include <string>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"

namespace defib::os {

// Connects to host:port, trying each address that the name has, within `timeout` for all of them;
// only the name's resolution is the system resolver's and takes its time. Unavailable says that
// nobody listens or the name is unknown, Timeout that no answer came. The descriptor is
// non-blocking and close-on-exec.
Result<Fd> connect_tcp(const std::string& host, std::uint16_t port, Duration timeout);

}  // namespace defib::os
