// The supervisor's side of the shim.

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

Shim* feeding = nullptr;  // feed_log() is a plain function; set while output is pumped

template <typename Body>
bool read_body(const char* bytes, size_t size, Body* body) {
  if (size < sizeof *body) return false;
  memcpy(body, bytes, sizeof *body);
  return true;
}

void close_all(const int* fds, int count) {
  for (int i = 0; i < count; ++i) close(fds[i]);
}

constexpr size_t kFeedChunk = 8192;

}  // namespace

void Shim::accept_connection() {
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd < 0) return;
  if (!peer_is_trusted(fd)) {
    close(fd);
    return;
  }
  take_connection(fd);
}

// A new supervisor takes the place of the one before: the lock on the service's name makes sure
// that there is only one that lives.
void Shim::take_connection(int fd) {
  drop_connection();
  connection_ = fd;
  const int bytes = 1 << 20;
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  watch(fd, EPOLLIN, kConnection);
}

void Shim::drop_connection() {
  if (connection_ < 0) return;
  unwatch(connection_);
  close(connection_);
  connection_ = -1;
  greeted_ = false;
  connection_blocked_ = false;
  log_feed_ = false;
  // The terminal was the supervisor's. Its reader must see the end of file.
  set_pass_through(PassThrough{}, nullptr, 0);
}

void Shim::on_message() {
  alignas(8) static char buffer[kMaxMessage];
  constexpr int kMaxPerRound = 64;
  for (int round = 0; round < kMaxPerRound && connection_ >= 0; ++round) {
    int fds[kMaxMessageFds];
    int fd_count = 0;
    const ssize_t size = receive_message(connection_, buffer, sizeof buffer, fds, &fd_count);
    if (size == -EAGAIN || size == -EINTR) return;
    if (size <= 0) return drop_connection();
    MessageHeader header;
    const size_t bytes = static_cast<size_t>(size);
    if (!read_body(buffer, bytes, &header) || header.magic != kMessageMagic ||
        header.version != kProtocolVersion) {
      close_all(fds, fd_count);
      return drop_connection();
    }
    handle(header, buffer + sizeof header, bytes - sizeof header, fds, fd_count);
  }
}

void Shim::handle(const MessageHeader& header, const char* body, size_t size, int* fds,
                  int fd_count) {
  const Type type = header.type;
  if (type == Type::kConfigure && fd_count == 1) {
    const int loaded = launch_.load(fds[0]);
    if (loaded < 0) return refuse(type, -loaded);
    if (loaded == 0) return;
    logs_.configure(launch_.header(), launch_.env());
    status_.record.restart = launch_.header().restart;
    status_.record.restart_after = launch_.header().restart_after;
    status_.record.restart_when = launch_.header().restart_when;
    for (Instance& one : instances_) {
      if (one.used) one.groups.adopt(launch_, one.pid);
    }
    if (!swept_) sweep_groups();
    if (prepared_.generation != 0) prepare(prepared_.generation);
    return;
  }
  if (type == Type::kSockets) {
    Sockets counts;
    if (read_body(body, size, &counts)) {
      return sockets_.replace(counts, body + sizeof counts, size - sizeof counts, fds, fd_count);
    }
  }
  if (type == Type::kPassThrough) {
    PassThrough request;
    if (read_body(body, size, &request)) return set_pass_through(request, fds, fd_count);
  }
  close_all(fds, fd_count);
  switch (type) {
    case Type::kHello: {
      Hello hello;
      if (read_body(body, size, &hello)) supervisor_pid_ = hello.supervisor_pid;
      return welcome();
    }
    case Type::kStart: {
      Start request;
      if (!read_body(body, size, &request)) break;
      if (request.role == InstanceRole::kStandby) {
        if (find(InstanceRole::kStandby) != nullptr) return refuse(type, EALREADY, request.role);
        if (!alive()) return refuse(type, ESRCH, request.role);
        return start(InstanceRole::kStandby, request.automatic != 0, 0);
      }
      if (alive()) {
        // A stop on request came before it; the start is meant for the time after.
        const Instance* active = find(InstanceRole::kActive);
        start_when_gone_ = active != nullptr && active->reason == StopReason::kRequested;
        if (start_when_gone_) return;
        return refuse(type, EALREADY);
      }
      end_standby();
      return request_start(request.automatic != 0, 0);
    }
    case Type::kStop: {
      Stop request;
      if (!read_body(body, size, &request)) break;
      return stop(request);
    }
    case Type::kSignal: {
      SignalRequest request;
      if (!read_body(body, size, &request)) break;
      const Instance* active = find(InstanceRole::kActive);
      if (active == nullptr) return refuse(type, ESRCH);
      if (request.group != 0 && active->group > 0) {
        kill(-active->group, request.signal);
      } else {
        signal_service(*active, request.signal);
      }
      return;
    }
    case Type::kTicket: {
      Ticket request;
      if (!read_body(body, size, &request)) break;
      if (!alive()) return;  // For an end that was told meanwhile it comes too late.
      ticket_ = request;
      return prepare_for_ticket();
    }
    case Type::kRunHook: {
      RunHook request;
      if (!read_body(body, size, &request) || request.hook != Hook::kCleanup) break;
      return run_cleanup();
    }
    case Type::kRevoke:
      ticket_ = Ticket{};
      pending_ = Ticket{};
      start_at_ = 0;
      cancel_waiting();
      return;
    case Type::kLogFeed: {
      LogFeed request;
      if (!read_body(body, size, &request)) break;
      log_feed_ = request.on != 0;
      return;
    }
    case Type::kAck: {
      Ack request;
      if (!read_body(body, size, &request)) break;
      return acknowledge(request.sequence);
    }
    case Type::kShutdown:
      // While it is being stopped, the end waits for its end.
      for (const Instance& one : instances_) {
        if (!one.used || saved(one).role == InstanceRole::kDying) continue;
        if (one.reason != StopReason::kRequested) return refuse(type, EBUSY);
      }
      ending_ = true;
      cancel_waiting();
      cleanup_until_ = mono_ns() + kCleanupLimitNs;
      return;
    default:
      break;
  }
  refuse(type, EINVAL);
}

bool Shim::send_now(Type type, const void* body, size_t body_size, const void* tail,
                    size_t tail_size, const int* fds, int fd_count) {
  if (connection_ < 0) return false;
  static char head[sizeof(MessageHeader) + sizeof(Welcome)];
  const MessageHeader header = {kMessageMagic, kProtocolVersion, type, 0};
  memcpy(head, &header, sizeof header);
  memcpy(head + sizeof header, body, body_size);
  return send_message(connection_, head, sizeof header + body_size, tail, tail_size, fds,
                      fd_count) == 0;
}

void Shim::welcome() {
  const Instance* active = find(InstanceRole::kActive);
  const Instance* standby = find(InstanceRole::kStandby);
  int fds[kMaxMessageFds] = {notify_};
  int fd_count = 1;
  const auto add_page = [&](const Instance* one) {
    if (one == nullptr || one->page.fd < 0) return 0u;
    fds[fd_count++] = one->page.fd;
    return 1u;
  };
  const uint32_t active_page = add_page(active), standby_page = add_page(standby);
  sockets_.descriptors(0, fds + fd_count);
  fd_count += sockets_.count();
  static char names[kMaxMessageFds * kMaxFdName];
  const size_t names_size = sockets_.names(0, names, sizeof names);
  static Welcome body;
  body = Welcome{
      getpid(),
      adopted_ ? 1u : 0u,
      active_page,
      standby_page,
      {static_cast<uint32_t>(sockets_.listening()), static_cast<uint32_t>(sockets_.stored())},
      journal_.dropped(),
      logs_.dropped(),
      ticket_.id != 0 ? ticket_.id : pending_.id,
      journal_.count(),
      ticket_.id != 0 ? ticket_.delay_ns : pending_.delay_ns,
      active != nullptr ? active->reason : StopReason::kNone,
      0,
      status_.record};
  sent_sequence_ = 0;
  if (!send_now(Type::kWelcome, &body, sizeof body, names, names_size, fds, fd_count)) {
    return drop_connection();
  }
  greeted_ = true;
  stored_changed_ = false;
  page_changed_ = active_page != 0;
}

// What the service stored, so that a supervisor can hand it to the next shim.
void Shim::tell_stored() {
  int fds[kMaxMessageFds];
  sockets_.descriptors(sockets_.listening(), fds);
  char names[kMaxStored * kMaxFdName];
  const size_t size = sockets_.names(sockets_.listening(), names, sizeof names);
  const Sockets counts = {0, static_cast<uint32_t>(sockets_.stored())};
  stored_changed_ =
      !send_now(Type::kStored, &counts, sizeof counts, names, size, fds, sockets_.stored());
}

void Shim::refuse(Type request, int error_number, InstanceRole role, uint32_t number) {
  flush_journal();  // What went before it is told before it.
  const Refused body = {request, static_cast<uint16_t>(role), error_number, number, 0};
  // Somebody may wait for it. Who is too slow to take it greets anew, and asks again.
  if (!send_now(Type::kRefused, &body, sizeof body, nullptr, 0, nullptr, 0)) drop_connection();
}

void Shim::acknowledge(uint64_t sequence) {
  StatusRecord& record = status_.record;
  uint64_t acknowledged = record.acknowledged;
  Journal::Entry entry;
  uint64_t at = 0;
  while (journal_.next_after(at, &entry) && entry.header.sequence <= sequence) {
    at = entry.header.sequence;
    Exited exited;
    if (entry.header.type == Type::kExited &&
        read_body(entry.bytes + sizeof(MessageHeader), entry.size - sizeof(MessageHeader),
                  &exited)) {
      acknowledged = exited.exit.number;
    }
  }
  journal_.acknowledge(sequence);
  if (acknowledged == record.acknowledged) return;
  record.acknowledged = acknowledged;
  status_.write_record();
}

void Shim::flush_journal() {
  if (connection_ < 0 || !greeted_) return;
  Journal::Entry entry;
  bool blocked = false;
  while (!blocked && journal_.next_after(sent_sequence_, &entry)) {
    Started started;
    const Instance* of_page = entry.header.type == Type::kStarted &&
                                      read_body(entry.bytes + sizeof(MessageHeader),
                                                entry.size - sizeof(MessageHeader), &started)
                                  ? find_generation(started.generation)
                                  : nullptr;
    const bool with_page = of_page != nullptr && of_page->page.fd >= 0;
    const int sent = send_message(connection_, entry.bytes, entry.size, nullptr, 0,
                                  with_page ? &of_page->page.fd : nullptr, with_page ? 1 : 0);
    if (sent == 0) {
      sent_sequence_ = entry.header.sequence;
    } else if (sent == -EAGAIN) {
      blocked = true;
    } else {
      return drop_connection();
    }
  }
  if (!blocked && page_changed_) {
    page_changed_ = !send_now(Type::kPageChanged, "", 0, nullptr, 0, nullptr, 0);
    blocked = page_changed_;
  }
  if (!blocked && stored_changed_) {
    tell_stored();
    blocked = stored_changed_;
  }
  epoll_event event = {};
  event.events = EPOLLIN | (blocked ? EPOLLOUT : 0u);
  event.data.u32 = kConnection;
  if (blocked != connection_blocked_) epoll_ctl(epoll_, EPOLL_CTL_MOD, connection_, &event);
  connection_blocked_ = blocked;
}

void Shim::feed_log(int stream, const char* bytes, size_t size) {
  while (size > 0) {
    const size_t part = size < kFeedChunk ? size : kFeedChunk;
    const Log body = {static_cast<uint32_t>(stream + 1), static_cast<uint32_t>(part),
                      feeding->feed_dropped_};
    if (!feeding->send_now(Type::kLog, &body, sizeof body, bytes, part, nullptr, 0)) {
      feeding->feed_dropped_ += part;
    }
    bytes += part;
    size -= part;
  }
}

void Shim::set_pass_through(const PassThrough& request, int* fds, int fd_count) {
  for (int stream = 0; stream < 2; ++stream) {
    if (terminal_watched_[stream]) unwatch(logs_.out(stream));
    terminal_watched_[stream] = false;
  }
  if (request.on != 0 && fd_count == 2) {
    logs_.pass_through(fds[0], fds[1]);
  } else {
    close_all(fds, fd_count);
    logs_.pass_through(-1, -1);
  }
  for (int stream = 0; stream < 2; ++stream) on_terminal(stream);
}

void Shim::on_output(int stream) {
  feeding = this;
  logs_.pump(stream, log_feed_ ? feed_log : nullptr);
  on_terminal(stream);
}

}  // namespace defib::process::shim
