// Descriptors in a message over a UNIX socket (unix(7), SCM_RIGHTS). Inline and without a C++
// runtime, as the agent's core is.

#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstring>

namespace defib::os {

// Room for the control data of a message with so many descriptors; lives as long as the message.
template <std::size_t kMost>
struct FdRoom {
  alignas(cmsghdr) char bytes[CMSG_SPACE(sizeof(int) * kMost)] = {};
};

// Lets the message carry `count` descriptors, 1 to kMost.
template <std::size_t kMost>
void attach_fds(msghdr& message, FdRoom<kMost>& room, const int* fds, std::size_t count) {
  const std::size_t size = count * sizeof(int);
  message.msg_control = room.bytes;
  message.msg_controllen = CMSG_SPACE(size);
  cmsghdr* attached = CMSG_FIRSTHDR(&message);
  attached->cmsg_level = SOL_SOCKET;
  attached->cmsg_type = SCM_RIGHTS;
  attached->cmsg_len = CMSG_LEN(size);
  std::memcpy(CMSG_DATA(attached), fds, size);
}

}  // namespace defib::os
