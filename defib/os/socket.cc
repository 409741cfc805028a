#include "defib/os/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "defib/os/files.h"

namespace defib::os {
namespace {

int socket_type(SocketKind kind) {
  switch (kind) {
    case SocketKind::kStream:
      return SOCK_STREAM;
    case SocketKind::kSeqpacket:
      return SOCK_SEQPACKET;
    case SocketKind::kDatagram:
      return SOCK_DGRAM;
  }
  return SOCK_STREAM;
}

struct Address {
  Fd dir;
  sockaddr_un value{};
};

Result<Address> unix_address(const std::string& path) {
  Address address;
  const std::string dir = parent_dir(path);
  address.dir = Fd(::open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!address.dir.valid()) return system_error("open", dir);
  const std::string name = path.substr(path.rfind('/') + 1);
  const std::string proxy = fmt::format("/proc/self/fd/{}/{}", address.dir.get(), name);
  if (proxy.size() >= sizeof address.value.sun_path) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the socket name '{}' is longer than a UNIX socket allows", name));
  }
  address.value.sun_family = AF_UNIX;
  std::memcpy(address.value.sun_path, proxy.c_str(), proxy.size() + 1);
  return address;
}

Result<Fd> make_socket(SocketKind kind) {
  Fd fd(::socket(AF_UNIX, socket_type(kind) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return system_error("socket");
  return fd;
}

}  // namespace

Result<Fd> connect_unix(const std::string& path, SocketKind kind) {
  DEFIB_TRY_ASSIGN(const Address address, unix_address(path));
  DEFIB_TRY_ASSIGN(Fd fd, make_socket(kind));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address.value),
                sizeof address.value) != 0) {
    return system_error("connect", path);
  }
  return fd;
}

Result<Fd> listen_unix(const std::string& path, SocketKind kind) {
  DEFIB_TRY_ASSIGN(const Address address, unix_address(path));
  DEFIB_TRY_ASSIGN(Fd fd, make_socket(kind));
  if (real_files().exists(path)) {
    if (connect_unix(path, kind)) {
      return system_error("bind", path, EADDRINUSE);
    }
    ::unlink(path.c_str());
  }
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address.value), sizeof address.value) !=
      0) {
    return system_error("bind", path);
  }
  if (kind != SocketKind::kDatagram && ::listen(fd.get(), 64) != 0) {
    return system_error("listen", path);
  }
  return fd;
}

Result<Fd> accept_connection(int listener) {
  Fd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return system_error("accept");
  return fd;
}

Result<unsigned> peer_uid(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return system_error("getsockopt(SO_PEERCRED)");
  }
  return credentials.uid;
}

Result<std::uint16_t> free_port() {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return system_error("socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(fd.get(), generic, size) != 0) return system_error("bind", "127.0.0.1");
  if (::getsockname(fd.get(), generic, &size) != 0) return system_error("getsockname");
  return ntohs(address.sin_port);
}

}  // namespace defib::os
