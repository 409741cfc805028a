#include "defib/process/kept_sockets.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "defib/os/process.h"

namespace defib::process {
namespace {

constexpr int kBacklog = 4096;  // the kernel cuts it to net.core.somaxconn

Error bad_socket(std::string_view text, std::string_view rule) {
  return Error(Code::kConfigBadValue, fmt::format("sockets: '{}' {}", text, rule))
      .with("field", "sockets")
      .suggest(
          "write tcp:127.0.0.1:8080, tcp:[::1]:8080, udp:127.0.0.1:8125 or unix:/path, with an "
          "optional NAME= before it");
}

bool valid_name(std::string_view name) {
  return !name.empty() && name.size() < shim::kMaxFdName &&
         std::ranges::all_of(name, [](char c) { return c > ' ' && c < 0x7f && c != ':'; });
}

template <typename Address>
void set_address(SocketSpec& spec, const Address& address) {
  std::memcpy(&spec.address, &address, sizeof address);
  spec.address_size = sizeof address;
}

Result<> parse_inet(SocketSpec& spec, std::string_view where) {
  const std::size_t colon = where.rfind(':');
  if (colon == std::string_view::npos) return bad_socket(spec.text, "has no port");
  const std::string_view digits = where.substr(colon + 1);
  std::uint16_t port = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size() || port == 0) {
    return bad_socket(spec.text, "has no port from 1 to 65535");
  }
  std::string host(where.substr(0, colon));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port);
    host = host.substr(1, host.size() - 2);
    if (::inet_pton(AF_INET6, host.c_str(), &address.sin6_addr) == 1) {
      set_address(spec, address);
      return {};
    }
  } else {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    if (::inet_pton(AF_INET, host.c_str(), &address.sin_addr) == 1) {
      set_address(spec, address);
      return {};
    }
  }
  return bad_socket(spec.text, "has no numeric address");
}

Result<> parse_unix(SocketSpec& spec, std::string_view path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (!path.starts_with('/') || path.size() >= sizeof address.sun_path) {
    return bad_socket(spec.text, "is not an absolute path of at most 107 bytes");
  }
  spec.path = path;
  std::memcpy(address.sun_path, path.data(), path.size());
  set_address(spec, address);
  return {};
}

// Whether this descriptor is the socket that is wanted.
bool is_socket(int fd, const SocketSpec& spec) {
  int type = 0;
  socklen_t size = sizeof type;
  sockaddr_storage address{};
  socklen_t address_size = sizeof address;
  if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != spec.type ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &address_size) != 0) {
    return false;
  }
  int listens = 0;
  size = sizeof listens;
  // A connection that the service accepted has the same name.
  if (type == SOCK_STREAM &&
      (::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0)) {
    return false;
  }
  if (address.ss_family != spec.address.ss_family) return false;
  if (address.ss_family == AF_UNIX) {
    return spec.path == reinterpret_cast<const sockaddr_un&>(address).sun_path;
  }
  return std::memcmp(&address, &spec.address, spec.address_size) == 0;
}

os::Fd take_from(int pidfd, const SocketSpec& spec) {
  constexpr int kLast = shim::kFirstListenFd + shim::kMaxSockets + shim::kMaxStored;
  for (int number = shim::kFirstListenFd; number < kLast; ++number) {
    os::Fd fd(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, number, 0)));
    if (fd.valid() && is_socket(fd.get(), spec)) return fd;
  }
  return {};
}

// A UNIX socket's file outlives it. One that nobody listens on is removed.
void remove_stale(const SocketSpec& spec) {
  struct stat info{};
  if (::lstat(spec.path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  const os::Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const auto* address = reinterpret_cast<const sockaddr*>(&spec.address);
  const bool refused =
      ::connect(probe.get(), address, spec.address_size) != 0 && errno == ECONNREFUSED;
  if (refused) ::unlink(spec.path.c_str());
}

Result<os::Fd> open_one(const SocketSpec& spec) {
  if (!spec.path.empty()) remove_stale(spec);
  os::Fd fd(::socket(spec.address.ss_family, spec.type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return os::system_error("socket", spec.text);
  const int on = 1;
  if (spec.type == SOCK_STREAM && spec.path.empty()) {
    ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  }
  if (spec.address.ss_family == AF_INET6) {
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  }
  const auto* address = reinterpret_cast<const sockaddr*>(&spec.address);
  const bool bound = ::bind(fd.get(), address, spec.address_size) == 0 &&
                     (spec.type != SOCK_STREAM || ::listen(fd.get(), kBacklog) == 0);
  if (bound) return fd;
  if (errno != EADDRINUSE) return os::system_error("bind", spec.text);
  return Error(Code::kAddressInUse, fmt::format("'{}' is in use by another program", spec.text))
      .with("socket", spec.text);
}

}  // namespace

Result<std::vector<SocketSpec>> parse_sockets(const std::vector<std::string>& texts) {
  if (texts.size() > static_cast<std::size_t>(shim::kMaxSockets)) {
    return bad_socket(texts.back(), fmt::format("is more than the {} that a service may have",
                                                shim::kMaxSockets));
  }
  std::vector<SocketSpec> specs;
  for (const std::string& whole : texts) {
    SocketSpec spec;
    const std::size_t equals = whole.find('=');
    const bool named = equals < whole.find(':');
    spec.text = named ? whole.substr(equals + 1) : whole;
    spec.name = named ? whole.substr(0, equals) : fmt::format("socket{}", specs.size());
    if (!valid_name(spec.name)) return bad_socket(whole, "has an impossible name");
    const std::size_t colon = spec.text.find(':');
    const std::string kind = spec.text.substr(0, colon);
    const std::string_view where = colon == std::string::npos
                                       ? std::string_view{}
                                       : std::string_view(spec.text).substr(colon + 1);
    if (kind == "udp") spec.type = SOCK_DGRAM;
    if (kind == "unix") {
      DEFIB_TRY(parse_unix(spec, where));
    } else if (kind == "tcp" || kind == "udp") {
      DEFIB_TRY(parse_inet(spec, where));
    } else {
      return bad_socket(whole, "is of no kind that is known");
    }
    for (const SocketSpec& other : specs) {
      if (other.name == spec.name) return bad_socket(whole, "has the name of another one");
      if (other.text == spec.text) return bad_socket(whole, "stands there twice");
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

Result<> KeptSockets::open(const std::vector<std::string>& texts, pid_t service) {
  DEFIB_TRY_ASSIGN(const std::vector<SocketSpec> specs, parse_sockets(texts));
  os::Fd pidfd;
  if (!specs.empty() && service > 0) {
    if (auto opened = os::open_pidfd(service)) pidfd = std::move(*opened);
  }
  std::vector<Kept> result;
  std::vector<os::Fd*> sources;  // moved only once all are there
  for (const SocketSpec& spec : specs) {
    os::Fd* source = nullptr;
    for (Kept& kept : listening_) {
      if (is_socket(kept.fd.get(), spec)) source = &kept.fd;
    }
    for (os::Fd& fd : found_) {
      if (source == nullptr && is_socket(fd.get(), spec)) source = &fd;
    }
    sources.push_back(source);
    Kept kept{spec.name, {}};
    if (source == nullptr && pidfd.valid()) kept.fd = take_from(pidfd.get(), spec);
    if (source == nullptr && !kept.fd.valid()) {
      DEFIB_TRY_ASSIGN(kept.fd, open_one(spec));
    }
    result.push_back(std::move(kept));
  }
  for (std::size_t i = 0; i < result.size(); ++i) {
    if (sources[i] != nullptr) result[i].fd = std::move(*sources[i]);
  }
  listening_ = std::move(result);
  found_.clear();
  return {};
}

void KeptSockets::take(const shim::Sockets& counts, std::string_view names,
                       std::vector<os::Fd> fds) {
  if (fds.size() != std::size_t{counts.listening} + counts.stored) return;  // A shim that errs.
  std::vector<Kept> stored;
  for (std::size_t i = 0; i < fds.size(); ++i) {
    const std::size_t end = std::min(names.find('\0'), names.size());
    const std::string name(names.substr(0, end));
    names.remove_prefix(std::min(end + 1, names.size()));
    if (i < counts.listening) {
      if (listening_.empty()) found_.push_back(std::move(fds[i]));
    } else {
      stored.push_back({name, std::move(fds[i])});
    }
  }
  stored_ = std::move(stored);
}

shim::Sockets KeptSockets::counts() const {
  return {static_cast<std::uint32_t>(listening_.size()),
          static_cast<std::uint32_t>(stored_.size())};
}

std::vector<int> KeptSockets::descriptors() const {
  std::vector<int> all;
  for (const auto* list : {&listening_, &stored_}) {
    for (const Kept& kept : *list) all.push_back(kept.fd.get());
  }
  return all;
}

std::string KeptSockets::names() const {
  std::string all;
  for (const auto* list : {&listening_, &stored_}) {
    for (const Kept& kept : *list) all.append(kept.name).push_back('\0');
  }
  return all;
}

}  // namespace defib::process
