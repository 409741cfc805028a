// Sockets on this machine: UNIX sockets whose path may be long, TCP on loopback for tests.

#pragma once

#include <cstdint>
#include <string>

#include "defib/base/error.h"
#include "defib/os/fd.h"

namespace defib::os {

enum class SocketKind { kStream, kSeqpacket, kDatagram };

// UNIX socket paths hold 108 bytes; these go through /proc/self/fd/DIR/NAME, so that only the last
// component is bounded. listen_unix removes a stale socket of nobody. Non-blocking, close-on-exec.
Result<Fd> listen_unix(const std::string& path, SocketKind kind);
Result<Fd> connect_unix(const std::string& path, SocketKind kind);
Result<Fd> accept_connection(int listener);
// Effective user id of the peer (SO_PEERCRED).
Result<unsigned> peer_uid(int socket);
// A TCP port of 127.0.0.1 that was free a moment ago, for tests.
Result<std::uint16_t> free_port();

}  // namespace defib::os
