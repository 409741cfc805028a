// One notification by the protocol of sd_notify(3), written here once more by hand: the programs
// under test stand for services that do not have our agent.

#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "defib/os/pass_fds.h"

// With a descriptor where `fd` is one. Ends the program where nobody receives it.
inline void send_notify(std::string_view text, int fd = -1) {
  const std::string_view path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path[0] == '@') address.sun_path[0] = 0;
  iovec part = {const_cast<char*>(text.data()), text.size()};
  msghdr message{};
  message.msg_name = &address;
  message.msg_namelen = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  defib::os::FdRoom<1> room;
  if (fd >= 0) defib::os::attach_fds(message, room, &fd, 1);
  const int sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (sendmsg(sender, &message, 0) < 0) _exit(97);
  close(sender);
}
