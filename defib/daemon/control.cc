#include "defib/daemon/control.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "defib/obs/log.h"
#include "defib/os/socket.h"

namespace defib::daemon {
namespace {

constexpr std::size_t kChunk = 16 << 10;

wire::Json error_answer(const Error& error) {
  return wire::Json::object({{"error", wire::to_json(error)}});
}

// Waits until the socket allows `events`, or the deadline passes.
Result<> wait_for(int fd, short events, const os::Clock& clock, std::int64_t deadline) {
  while (true) {
    const std::int64_t left = deadline - clock.mono_ns();
    if (left <= 0) return Error(Code::kTimeout, "the supervising process did not answer in time");
    pollfd waiting = {fd, events, 0};
    const timespec limit = {left / 1'000'000'000, left % 1'000'000'000};
    const int ready = ppoll(&waiting, 1, &limit, nullptr);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return os::system_error("ppoll");
  }
}

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::listen(os::EventLoop& loop, std::string path,
                                                             Handler handler) {
  std::unique_ptr<ControlServer> server(
      new ControlServer(loop, std::move(path), std::move(handler)));
  DEFIB_TRY_ASSIGN(server->listener_, os::listen_unix(server->path_, os::SocketKind::kStream));
  // Its directory is closed to others already; this is the second lock.
  if (::chmod(server->path_.c_str(), 0600) != 0) return os::system_error("chmod", server->path_);
  DEFIB_TRY(loop.watch(server->listener_.get(), EPOLLIN,
                       [raw = server.get()](std::uint32_t) { raw->accept(); }));
  return server;
}

ControlServer::~ControlServer() {
  *alive_ = false;
  while (!connections_.empty()) drop(connections_.begin()->first);
  if (listener_.valid()) {
    loop_.unwatch(listener_.get());
    ::unlink(path_.c_str());
  }
}

void ControlServer::accept() {
  auto fd = os::accept_connection(listener_.get());
  if (!fd) return;
  const auto peer = os::peer_uid(fd->get());
  if (!peer || (*peer != geteuid() && *peer != 0)) {
    obs::log(obs::Level::kWarning, "control", "a request of another user was refused");
    return;
  }
  if (connections_.size() >= kMaxConnections) return;  // closing it tells the caller
  const std::uint64_t id = next_id_++;
  const int raw = fd->get();
  connections_[id].fd = std::move(*fd);
  const auto watched =
      loop_.watch(raw, EPOLLIN, [this, id](std::uint32_t events) { receive(id, events); });
  if (!watched) drop(id);
}

void ControlServer::receive(std::uint64_t id, std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush(id);
  const auto found = connections_.find(id);
  if (found == connections_.end() || (events & ~std::uint32_t{EPOLLOUT}) == 0) return;
  char buffer[kChunk];
  const ssize_t got = recv(found->second.fd.get(), buffer, sizeof buffer, 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return drop(id);
  found->second.decoder.push({buffer, static_cast<std::size_t>(got)});
  while (true) {
    // A handler may answer at once, and an answer that fails drops the connection.
    const auto still = connections_.find(id);
    if (still == connections_.end()) return;
    auto request = still->second.decoder.pop();
    if (!request) return drop(id);
    if (!request->has_value()) return;
    handler_(**request, [this, id, alive = alive_](const wire::Json& answer) {
      if (*alive) send(id, answer);
    });
  }
}

void ControlServer::send(std::uint64_t id, const wire::Json& answer) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  auto frame = wire::encode_frame(answer);
  if (!frame) frame = wire::encode_frame(error_answer(frame.error()));
  if (!frame) return drop(id);
  found->second.unsent += *frame;
  flush(id);
}

void ControlServer::flush(std::uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  Connection& connection = found->second;
  while (!connection.unsent.empty()) {
    const ssize_t sent = ::send(connection.fd.get(), connection.unsent.data(),
                                connection.unsent.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) return drop(id);
    if (sent <= 0) break;
    connection.unsent.erase(0, static_cast<std::size_t>(sent));
  }
  const std::uint32_t events = connection.unsent.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT;
  if (!loop_.modify(connection.fd.get(), events)) drop(id);
}

void ControlServer::drop(std::uint64_t id) {
  const auto found = connections_.find(id);
  if (found == connections_.end()) return;
  loop_.unwatch(found->second.fd.get());
  connections_.erase(found);
}

Result<wire::Json> call_control(const std::string& socket_path, const wire::Json& request,
                                os::Duration timeout) {
  const os::Clock& clock = os::real_clock();
  const std::int64_t deadline = clock.mono_ns() + timeout.count();
  auto socket = os::connect_unix(socket_path, os::SocketKind::kStream);
  if (!socket) {
    return Error(Code::kDaemonNotRunning, "no supervising process answers")
        .with("socket", socket_path)
        .because(std::move(socket.error()));
  }
  DEFIB_TRY_ASSIGN(std::string unsent, wire::encode_frame(request));
  while (!unsent.empty()) {
    DEFIB_TRY(wait_for(socket->get(), POLLOUT, clock, deadline));
    const ssize_t sent = ::send(socket->get(), unsent.data(), unsent.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) return os::system_error("send");
    if (sent > 0) unsent.erase(0, static_cast<std::size_t>(sent));
  }
  wire::FrameDecoder decoder;
  while (true) {
    DEFIB_TRY_ASSIGN(auto answer, decoder.pop());
    if (answer) {
      if (answer->has("error")) return error_from_json((*answer)["error"]);
      return std::move(*answer);
    }
    DEFIB_TRY(wait_for(socket->get(), POLLIN, clock, deadline));
    char buffer[kChunk];
    const ssize_t got = ::recv(socket->get(), buffer, sizeof buffer, 0);
    if (got < 0 && errno != EAGAIN && errno != EINTR) return os::system_error("recv");
    if (got == 0) {
      return Error(Code::kUnavailable, "the supervising process closed the connection");
    }
    if (got > 0) decoder.push({buffer, static_cast<std::size_t>(got)});
  }
}

Error error_from_json(const wire::Json& json) {
  const auto known = find_code(json["kind"].as_string());
  Error error(known ? known->code : Code::kInternal, std::string(json["message"].as_string()));
  for (const auto& [key, value] : json["fields"].members()) {
    error = std::move(error).with(key, value.as_string());
  }
  if (!json["suggested_action"].as_string().empty()) {
    error = std::move(error).suggest(std::string(json["suggested_action"].as_string()));
  }
  // Chains are short; the bound is against a peer that is not ours.
  constexpr int kMaxCauses = 16;
  std::vector<const wire::Json*> causes;
  for (const wire::Json* cause = &json["cause"]; cause->is_object() && causes.size() < kMaxCauses;
       cause = &(*cause)["cause"]) {
    causes.push_back(cause);
  }
  std::optional<Error> inner;
  for (auto cause = causes.rbegin(); cause != causes.rend(); ++cause) {
    const auto code = find_code((**cause)["kind"].as_string());
    Error one(code ? code->code : Code::kInternal, std::string((**cause)["message"].as_string()));
    inner = inner ? std::move(one).because(std::move(*inner)) : std::move(one);
  }
  return inner ? std::move(error).because(std::move(*inner)) : error;
}

}  // namespace defib::daemon
