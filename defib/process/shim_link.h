// ShimLink: the supervisor's end of the connection to one shim, and the launching of shims.
//
// Thread rule: one thread.

#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/fd.h"
#include "defib/os/process.h"
#include "defib/process/service_spec.h"
#include "defib/process/shim_protocol.h"

namespace defib::process {

// One message from a shim. body() reads the struct; tail() is what follows it.
struct ShimMessage {
  shim::MessageHeader header{};
  std::string payload;
  std::vector<os::Fd> fds;

  // FrameMalformed where the payload is shorter than the struct.
  template <typename Body>
  Result<Body> body() const {
    Body value{};
    if (payload.size() < sizeof value) return malformed();
    __builtin_memcpy(&value, payload.data(), sizeof value);
    return value;
  }
  template <typename Body>
  std::string_view tail() const {
    return payload.size() < sizeof(Body) ? std::string_view{}
                                         : std::string_view(payload).substr(sizeof(Body));
  }

 private:
  Error malformed() const;
};

class ShimLink {
 public:
  ShimLink() = default;
  explicit ShimLink(os::Fd fd) : fd_(std::move(fd)) {}

  // To the shim that listens in this service directory. FileNotFound or SystemCallFailed
  // (connection refused) where none does.
  static Result<ShimLink> connect(const std::string& service_dir);

  bool connected() const { return fd_.valid(); }
  // Of the shim that listens at the other end; 0: not known.
  pid_t peer_pid() const;
  int fd() const { return fd_.get(); }
  void close() { fd_.reset(); }

  // Unavailable where the shim is gone, or has not read for so long that the socket is full.
  template <typename Body>
  Result<> send(shim::Type type, const Body& body, std::span<const int> fds = {}) {
    return send_bytes(type, {reinterpret_cast<const char*>(&body), sizeof body}, fds);
  }
  Result<> send_bytes(shim::Type type, std::string_view payload, std::span<const int> fds = {});
  // The next message, or nothing where none is there yet; Unavailable at the end of the connection.
  Result<std::optional<ShimMessage>> receive();
  // Waits for a message; Timeout after so many milliseconds.
  Result<ShimMessage> wait_for_message(int timeout_ms);

 private:
  os::Fd fd_;
};

struct ShimLaunch {
  std::string program;  // defib-shim
  std::string service_dir;
  std::string notify_address;  // abstract; empty: notify.sock in the directory
  // Of a service that outlived its shim; -1 and 0 where there is none.
  int notify_fd = -1;
  std::vector<std::pair<int, pid_t>> pages;  // at most two
  pid_t adopt_pid = 0;
  std::uint64_t adopt_start_time = 0;
};
struct LaunchedShim {
  os::Child process;
  ShimLink link;
};
Result<LaunchedShim> launch_shim(const ShimLaunch& launch);

// NOTIFY_SOCKET's value for a service directory: its notify.sock, or an abstract name where that
// path is too long for a UNIX socket.
std::string notify_address(const std::string& service_dir);
// The abstract name, which also services of users can reach that may not enter our directory.
std::string abstract_notify_address(const std::string& service_dir);

// The programs beside this one that supervision needs.
struct Programs {
  std::string shim;
  std::string capture;    // empty: there is none
  std::string snapshot;   // copies a crashed process and becomes `capture`; empty: it does both
  std::string agent_lib;  // empty: there is none
};
// ProgramNotFound where there is no defib-shim.
Result<Programs> find_programs(const std::string& program_dir);

}  // namespace defib::process
