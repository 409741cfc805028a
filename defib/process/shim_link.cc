#include "defib/process/shim_link.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/pass_fds.h"
#include "defib/os/socket.h"

namespace defib::process {
namespace {

constexpr std::size_t kMaxFds = shim::kMaxMessageFds;
constexpr std::size_t kMaxSocketPath = 107;

Error gone(std::string_view what) {
  return Error(Code::kUnavailable, fmt::format("the service's shim is gone: {}", what));
}

bool is_executable(const std::string& path) {
  return ::access(path.c_str(), X_OK) == 0;
}

}  // namespace

Error ShimMessage::malformed() const {
  return Error(Code::kFrameMalformed, fmt::format("the shim's message of type {} has only {} bytes",
                                                  static_cast<int>(header.type), payload.size()));
}

Result<ShimLink> ShimLink::connect(const std::string& service_dir) {
  DEFIB_TRY_ASSIGN(os::Fd fd, os::connect_unix(os::join_path(service_dir, shim::kSocketName),
                                               os::SocketKind::kSeqpacket));
  return ShimLink(std::move(fd));
}

pid_t ShimLink::peer_pid() const {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(fd_.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? peer.pid : 0;
}

Result<> ShimLink::send_bytes(shim::Type type, std::string_view payload, std::span<const int> fds) {
  if (!connected()) return gone("there is no connection");
  DEFIB_ASSERT(fds.size() <= kMaxFds &&
               payload.size() + sizeof(shim::MessageHeader) <= shim::kMaxMessage);
  shim::MessageHeader header = {shim::kMessageMagic, shim::kProtocolVersion, type, 0};
  iovec parts[2] = {{&header, sizeof header}, {const_cast<char*>(payload.data()), payload.size()}};
  os::FdRoom<kMaxFds> room;
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  if (!fds.empty()) os::attach_fds(message, room, fds.data(), fds.size());
  while (::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return gone(std::strerror(errno)).because(os::system_error("sendmsg"));
  }
  return {};
}

Result<std::optional<ShimMessage>> ShimLink::receive() {
  if (!connected()) return gone("there is no connection");
  ShimMessage result;
  result.payload.resize(shim::kMaxMessage);
  iovec parts[2] = {{&result.header, sizeof result.header},
                    {result.payload.data(), result.payload.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t size = 0;
  while ((size = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0) {
    if (errno == EAGAIN) return std::optional<ShimMessage>{};
    if (errno != EINTR) return gone(std::strerror(errno));
  }
  for (cmsghdr* attached = CMSG_FIRSTHDR(&message); attached != nullptr;
       attached = CMSG_NXTHDR(&message, attached)) {
    if (attached->cmsg_level != SOL_SOCKET || attached->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (attached->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      result.fds.emplace_back(load<int>(CMSG_DATA(attached) + i * sizeof(int)));
    }
  }
  if (size == 0) return gone("it closed the connection");
  if (static_cast<std::size_t>(size) < sizeof result.header ||
      result.header.magic != shim::kMessageMagic ||
      result.header.version != shim::kProtocolVersion) {
    return Error(Code::kFrameMalformed, "the shim speaks another protocol");
  }
  result.payload.resize(static_cast<std::size_t>(size) - sizeof result.header);
  return std::optional<ShimMessage>(std::move(result));
}

Result<ShimMessage> ShimLink::wait_for_message(int timeout_ms) {
  const std::int64_t deadline = os::real_clock().mono_ns() + timeout_ms * 1'000'000LL;
  while (true) {
    DEFIB_TRY_ASSIGN(std::optional<ShimMessage> message, receive());
    if (message) return std::move(*message);
    const std::int64_t left = (deadline - os::real_clock().mono_ns()) / 1'000'000;
    if (left <= 0) {
      return Error(Code::kTimeout,
                   fmt::format("the service's shim did not answer in {} ms", timeout_ms));
    }
    pollfd wait = {fd_.get(), POLLIN, 0};
    ::poll(&wait, 1, static_cast<int>(left));
  }
}

Result<LaunchedShim> launch_shim(const ShimLaunch& launch) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
    return os::system_error("socketpair");
  }
  ShimLink link{os::Fd(pair[0])};
  const os::Fd theirs(pair[1]);
  const os::Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const std::string log_path = os::join_path(launch.service_dir, "shim.log");
  const os::Fd log(
      ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (!null.valid() || !log.valid()) return os::system_error("open", log_path);
  os::SpawnOptions options;
  options.argv = {launch.program, launch.service_dir, "--connection", "3"};
  options.fds = {{null.get(), 0}, {null.get(), 1}, {log.get(), 2}, {theirs.get(), 3}};
  if (launch.notify_fd >= 0) {
    options.argv.insert(options.argv.end(), {"--notify-fd", "4"});
    options.fds.emplace_back(launch.notify_fd, 4);
  } else if (!launch.notify_address.empty()) {
    options.argv.insert(options.argv.end(), {"--notify-address", launch.notify_address});
  }
  int next = 5;
  for (const auto& [fd, pid] : launch.pages) {
    options.argv.insert(options.argv.end(), {"--page", fmt::format("{}:{}", next, pid)});
    options.fds.emplace_back(fd, next++);
  }
  if (launch.adopt_pid > 0) {
    options.argv.insert(options.argv.end(), {"--adopt", fmt::format("{}:{}", launch.adopt_pid,
                                                                    launch.adopt_start_time)});
  }
  options.new_session = true;
  DEFIB_TRY_ASSIGN(os::Child child, os::spawn(options));
  return LaunchedShim{std::move(child), std::move(link)};
}

std::string abstract_notify_address(const std::string& service_dir) {
  return "@defib/" + sha256_hex(service_dir).substr(0, 32);
}

std::string notify_address(const std::string& service_dir) {
  std::string path = os::join_path(service_dir, shim::kNotifyName);
  return path.size() <= kMaxSocketPath ? path : abstract_notify_address(service_dir);
}

Result<Programs> find_programs(const std::string& program_dir) {
  const std::string dir = program_dir.empty() ? os::own_program_dir() : program_dir;
  Programs programs;
  programs.shim = os::join_path(dir, "defib-shim");
  if (!is_executable(programs.shim)) {
    return Error(Code::kProgramNotFound, fmt::format("there is no defib-shim in '{}'", dir))
        .with("path", programs.shim)
        .suggest("install all of defib's programs into one directory");
  }
  if (std::string capture = os::join_path(dir, "defib-capture"); is_executable(capture)) {
    programs.capture = std::move(capture);
    // It ends in the other one, so it is of no use alone.
    std::string snapshot = os::join_path(dir, "defib-snapshot");
    if (is_executable(snapshot)) programs.snapshot = std::move(snapshot);
  }
  for (const char* place :
       {"", "../lib", "../lib/defib", "../lib/x86_64-linux-gnu", "../lib/aarch64-linux-gnu"}) {
    std::string library = os::join_path(os::join_path(dir, place), "libdefib-agent.so");
    if (::access(library.c_str(), R_OK) != 0) continue;
    programs.agent_lib = std::move(library);
    break;
  }
  return programs;
}

}  // namespace defib::process
