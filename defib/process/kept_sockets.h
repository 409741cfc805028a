// KeptSockets: the sockets that defib keeps for a service over all its restarts, and those that the
// service stored itself.
//
// The supervisor opens them before the first start, the shim holds duplicates of them. Whoever
// survives gives them to the other; where both died, they are taken from the service that still
// runs. So a client meets a full queue while the service restarts, never a refused connection.
// Thread rule: one thread.

#pragma once

#include <sys/socket.h>

#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/fd.h"
#include "defib/process/shim_protocol.h"

namespace defib::process {

// "tcp:127.0.0.1:8080", "tcp:[::1]:8080", "udp:...", "unix:/path"; before it "NAME=", for
// LISTEN_FDNAMES. Without a name it is called "socket0" and so on, by its place.
struct SocketSpec {
  std::string text;  // without the name
  std::string name;
  std::string path;  // of a UNIX socket
  int type = SOCK_STREAM;
  sockaddr_storage address{};
  socklen_t address_size = 0;
};
// ConfigBadValue says which one is wrong and how they look.
Result<std::vector<SocketSpec>> parse_sockets(const std::vector<std::string>& texts);

class KeptSockets {
 public:
  // Holds a socket for each of these, and no other: kept where it is held already, else found among
  // what a shim sent, else taken from the process `service` (0: none runs), else opened.
  // AddressInUse names the one that somebody else holds; nothing is changed then.
  Result<> open(const std::vector<std::string>& texts, pid_t service);
  // What a shim holds: first the listening ones, then the stored ones, with the names of the latter
  // two after another, each ended by a zero byte.
  void take(const shim::Sockets& counts, std::string_view names, std::vector<os::Fd> fds);

  shim::Sockets counts() const;
  std::vector<int> descriptors() const;
  std::string names() const;

 private:
  struct Kept {
    std::string name;
    os::Fd fd;
  };
  std::vector<Kept> listening_, stored_;
  std::vector<os::Fd> found_;  // a shim's, until open() says which are wanted
};

}  // namespace defib::process
