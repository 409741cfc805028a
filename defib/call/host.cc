#include "defib/call/host.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "defib/base/assert.h"
#include "defib/call/worker.h"
#include "defib/call/zygote_protocol.h"
#include "defib/os/files.h"

namespace defib::call {
namespace {

constexpr std::size_t kMaxReport = 8 << 20;

Error unavailable(std::string what, Error cause) {
  return Error(Code::kWorkerUnavailable, std::move(what)).because(std::move(cause));
}

// $VARIABLE, or the program beside this one, or its bare name, for PATH.
// `sibling`: a program that was named; its directory is another place to look in.
std::string find_program(const std::string& given, const char* variable, std::string_view name,
                         const std::string& sibling = {}) {
  if (!given.empty()) return given;
  if (const char* named = getenv(variable); named != nullptr && *named != '\0') return named;
  std::string beside = os::join_path(os::own_program_dir(), name);
  if (access(beside.c_str(), X_OK) == 0) return beside;
  const std::size_t directory = sibling.rfind('/');
  if (directory != std::string::npos) {
    std::string other = os::join_path(sibling.substr(0, directory), name);
    if (access(other.c_str(), X_OK) == 0) return other;
  }
  return std::string(name);
}

struct SocketPair {
  os::Fd ours, theirs;
};

Result<SocketPair> make_socket_pair() {
  int fds[2] = {-1, -1};
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return os::system_error("socketpair");
  }
  SocketPair pair{os::Fd(fds[0]), os::Fd(fds[1])};
  if (fcntl(pair.ours.get(), F_SETFL, O_NONBLOCK) != 0) return os::system_error("fcntl");
  return pair;
}

void drain(int event_fd) {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t size = read(event_fd, &count, sizeof count);
}

int run_worker(int channel_fd, int event_fd) {
  return worker_main(channel_fd, event_fd);
}

}  // namespace

struct Host::Worker {
  std::uint64_t number = 0;
  pid_t pid = -1;  // -1: not known yet
  os::Fd event_fd;
  os::Fd pidfd;  // of a child of our own
  WorkerEvents events;
  std::vector<std::function<void()>> when_pid_is_known;
};

// The last client may end on the host's own thread, which cannot wait for itself.
void Host::end_host(Host* host) {
  if (std::this_thread::get_id() != host->thread_.get_id()) {
    delete host;
    return;
  }
  std::thread([host] { delete host; }).detach();
}

Result<std::shared_ptr<Host>> Host::start(HostOptions options) {
  std::shared_ptr<Host> host(new Host(std::move(options)), end_host);
  DEFIB_TRY(host->start_thread());
  if (!host->options_.start_zygote) return host;
  const std::lock_guard lock(host->mutex_);
  DEFIB_TRY(host->start_zygote());
  return host;
}

namespace {

// Never destroyed: clients may outlive main().
struct Kept {
  std::mutex mutex;
  std::shared_ptr<Host> host;
};

Result<std::shared_ptr<Host>> start_once(Kept& kept, HostOptions options) {
  const std::lock_guard lock(kept.mutex);
  if (kept.host == nullptr) {
    DEFIB_TRY_ASSIGN(kept.host, Host::start(std::move(options)));
  }
  return kept.host;
}

}  // namespace

Result<std::shared_ptr<Host>> Host::shared() {
  static auto* kept = new Kept;
  return start_once(*kept, {});
}

Result<std::shared_ptr<Host>> Host::watcher() {
  static auto* kept = new Kept;
  return start_once(*kept, {.start_zygote = false});
}

Result<std::shared_ptr<Host>> Host::fork_here(HostOptions options) {
  std::error_code ignored;
  std::size_t threads = 0;
  for ([[maybe_unused]] const auto& task :
       std::filesystem::directory_iterator("/proc/self/task", ignored)) {
    ++threads;
  }
  if (threads != 1) {
    return Error(Code::kWorkerUnavailable,
                 fmt::format("the program cannot be forked for workers: {} threads run already",
                             threads))
        .suggest("call it first in main(), before anything starts a thread");
  }
  DEFIB_TRY_ASSIGN(SocketPair pair, make_socket_pair());
  const pid_t pid = fork();
  if (pid < 0) return unavailable("the zygote could not be forked", os::system_error("fork"));
  if (pid == 0) {
    pair.ours.reset();
    setsid();
    zygote_main(pair.theirs.get(), run_worker);
  }
  std::shared_ptr<Host> host(new Host(std::move(options)), end_host);
  host->zygote_is_fork_ = true;
  host->zygote_pid_ = pid;
  host->zygote_socket_ = std::move(pair.ours);
  DEFIB_TRY(host->start_thread());
  Host* self = host.get();
  host->loop_->post([self] {
    const auto watched = self->loop_->watch(self->zygote_socket_.get(), EPOLLIN,
                                            [self](std::uint32_t) { self->on_zygote(); });
    DEFIB_ASSERT(watched.has_value());
  });
  return host;
}

Result<> Host::start_thread() {
  // The processors of now are what the workers will have, whatever this thread is pinned to later.
  spins();
  DEFIB_TRY_ASSIGN(loop_, os::EventLoop::create());
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // Signals are for the program's own threads.
  thread_ = std::jthread([this] {
    prctl(PR_SET_NAME, "defib-call", 0, 0, 0);
    [[maybe_unused]] const auto ended = loop_->run();
  });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return {};
}

// With mutex_ held.
Result<> Host::start_zygote() {
  DEFIB_TRY_ASSIGN(SocketPair pair, make_socket_pair());
  os::SpawnOptions spawn;
  spawn.argv = {find_program(options_.worker_program, "DEFIB_WORKER", "defib-worker"), "zygote"};
  spawn.fds = {
      {pair.theirs.get(), 3}, {STDOUT_FILENO, STDOUT_FILENO}, {STDERR_FILENO, STDERR_FILENO}};
  spawn.new_session = true;
  auto child = os::spawn(spawn);
  if (!child) {
    return unavailable("the program that forks workers cannot be started", child.error())
        .suggest("install defib-worker beside the program, or name it in DEFIB_WORKER");
  }
  zygote_pid_ = child->pid();
  zygote_socket_ = std::move(pair.ours);
  const int socket = zygote_socket_.get();
  loop_->post([this, socket] {
    [[maybe_unused]] const auto watched =
        loop_->watch(socket, EPOLLIN, [this](std::uint32_t) { on_zygote(); });
  });
  return {};
}

Host::~Host() {
  loop_->stop();
  if (thread_.joinable()) thread_.join();
  zygote_socket_.reset();
  // It ends with the socket, and its workers with it.
  if (zygote_pid_ > 0) waitpid(zygote_pid_, nullptr, 0);
}

pid_t Host::pid_of(std::uint64_t number) const {
  const std::lock_guard lock(mutex_);
  const auto found = workers_.find(number);
  return found == workers_.end() ? -1 : found->second->pid;
}

pid_t Host::zygote_pid() const {
  const std::lock_guard lock(mutex_);
  return zygote_pid_;
}

std::size_t Host::workers() const {
  const std::lock_guard lock(mutex_);
  return workers_.size();
}

// With mutex_ held.
Result<> Host::send(const void* message, std::size_t size, const int* fds, std::size_t fd_count) {
  iovec part = {const_cast<void*>(message), size};
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  os::FdRoom<2> room;
  if (fd_count > 0) os::attach_fds(header, room, fds, fd_count);
  for (;;) {
    if (sendmsg(zygote_socket_.get(), &header, MSG_NOSIGNAL) >= 0) return {};
    // A full queue is emptied by the zygote, which waits for nobody.
    if (errno == EAGAIN) usleep(100);
    if (errno != EINTR && errno != EAGAIN) return os::system_error("sendmsg");
  }
}

Result<std::uint64_t> Host::add_worker(pid_t pid, int event_fd, WorkerEvents events) {
  auto worker = std::make_shared<Worker>();
  worker->pid = pid;
  worker->event_fd = os::Fd(fcntl(event_fd, F_DUPFD_CLOEXEC, 0));
  if (!worker->event_fd.valid()) return os::system_error("fcntl(F_DUPFD_CLOEXEC)");
  worker->events = std::move(events);
  worker->number = next_number_++;
  workers_[worker->number] = worker;
  loop_->post([this, worker] {
    {
      // It may have ended before its watch was made.
      const std::lock_guard lock(mutex_);
      if (!workers_.contains(worker->number)) return;
    }
    const auto watched =
        loop_->watch(worker->event_fd.get(), EPOLLIN, [this, worker](std::uint32_t) {
          drain(worker->event_fd.get());
          std::function<void()> crashed;
          {
            const std::lock_guard lock(mutex_);
            if (!workers_.contains(worker->number)) return;
            crashed = worker->events.crashed;
          }
          if (crashed) crashed();
        });
    DEFIB_ASSERT(watched.has_value());
  });
  return worker->number;
}

Result<std::uint64_t> Host::fork_worker(int channel_fd, int event_fd, WorkerEvents events) {
  const std::lock_guard lock(mutex_);
  if (!zygote_socket_.valid()) {
    if (zygote_is_fork_) {
      return Error(Code::kWorkerUnavailable, "the zygote that was forked at the start has died")
          .suggest("restart the program: it cannot be forked again once threads run");
    }
    DEFIB_TRY(start_zygote());
  }
  DEFIB_TRY_ASSIGN(const std::uint64_t number, add_worker(-1, event_fd, std::move(events)));
  const ToZygote message = {ToZygote::kFork, 0, number};
  const int fds[] = {channel_fd, event_fd};
  if (auto sent = send(&message, sizeof message, fds, 2); !sent) {
    workers_.erase(number);
    return unavailable("the zygote does not take the order for a worker", sent.error())
        .suggest("try again; a new zygote is started");
  }
  return number;
}

Result<std::uint64_t> Host::adopt_child(pid_t pid, int event_fd, WorkerEvents events) {
  const std::lock_guard lock(mutex_);
  DEFIB_TRY_ASSIGN(os::Fd pidfd, os::open_pidfd(pid));
  DEFIB_TRY_ASSIGN(const std::uint64_t number, add_worker(pid, event_fd, std::move(events)));
  const std::shared_ptr<Worker> worker = workers_[number];
  worker->pidfd = std::move(pidfd);
  loop_->post([this, worker] {
    // Nobody but this watch tells of its end, so it is still there.
    const auto watched = loop_->watch(worker->pidfd.get(), EPOLLIN,
                                      [this, n = worker->number](std::uint32_t) { on_child(n); });
    DEFIB_ASSERT(watched.has_value());
  });
  return number;
}

void Host::on_child(std::uint64_t number) {
  std::shared_ptr<Worker> worker;
  {
    const std::lock_guard lock(mutex_);
    const auto found = workers_.find(number);
    if (found == workers_.end()) return;
    worker = found->second;
  }
  loop_->unwatch(worker->pidfd.get());
  int status = 0;
  WorkerEnd end;
  if (waitpid(worker->pid, &status, 0) == worker->pid)
    end.status = os::exit_status_from_wait(status);
  end_worker(number, end);
}

void Host::kill_worker(std::uint64_t number) {
  const std::lock_guard lock(mutex_);
  const auto found = workers_.find(number);
  if (found == workers_.end()) return;
  if (found->second->pidfd.valid()) {
    syscall(SYS_pidfd_send_signal, found->second->pidfd.get(), SIGKILL, nullptr, 0);
    return;
  }
  const ToZygote message = {ToZygote::kKill, 0, number};
  // Where it fails the zygote is gone, and its workers with it.
  if (zygote_socket_.valid()) [[maybe_unused]]
    const auto sent = send(&message, sizeof message, nullptr, 0);
}

void Host::forget_worker(std::uint64_t number) {
  kill_worker(number);
  const std::lock_guard lock(mutex_);
  const auto found = workers_.find(number);
  if (found != workers_.end()) found->second->events = {};
}

void Host::on_zygote() {
  for (;;) {
    FromZygote message = {};
    const ssize_t size = recv(zygote_socket_.get(), &message, sizeof message, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) return zygote_gone();
    if (message.kind == FromZygote::kForked) {
      std::vector<std::function<void()>> waiting;
      {
        const std::lock_guard lock(mutex_);
        const auto found = workers_.find(message.number);
        if (found == workers_.end()) continue;
        found->second->pid = message.pid;
        waiting.swap(found->second->when_pid_is_known);
      }
      for (const auto& work : waiting) work();
      continue;
    }
    WorkerEnd end;
    end.max_rss_kb = message.max_rss_kb;
    if (message.kind == FromZygote::kEnded) end.status = os::exit_status_from_wait(message.status);
    end_worker(message.number, end);
  }
}

void Host::zygote_gone() {
  std::vector<std::uint64_t> numbers;
  pid_t pid = -1;
  {
    const std::lock_guard lock(mutex_);
    loop_->unwatch(zygote_socket_.get());
    zygote_socket_.reset();
    pid = std::exchange(zygote_pid_, -1);
    for (const auto& [number, worker] : workers_) {
      if (!worker->pidfd.valid()) numbers.push_back(number);
    }
  }
  if (pid > 0) waitpid(pid, nullptr, 0);
  for (const std::uint64_t number : numbers) end_worker(number, {});
}

void Host::end_worker(std::uint64_t number, const WorkerEnd& end) {
  std::shared_ptr<Worker> worker;
  std::function<void(const WorkerEnd&)> ended;
  std::vector<std::function<void()>> waiting;
  {
    const std::lock_guard lock(mutex_);
    const auto found = workers_.find(number);
    if (found == workers_.end()) return;
    worker = found->second;
    workers_.erase(found);
    ended = worker->events.ended;
    waiting.swap(worker->when_pid_is_known);
  }
  loop_->unwatch(worker->event_fd.get());
  if (ended) ended(end);
  // They find it gone, and say so.
  for (const auto& work : waiting) work();
}

void Host::post(std::function<void()> work) {
  loop_->post(std::move(work));
}

void Host::explain(std::uint64_t number, int channel_fd, std::size_t crash_page,
                   ReportHandler done) {
  std::shared_ptr<Worker> worker;
  {
    const std::lock_guard lock(mutex_);
    const auto found = workers_.find(number);
    if (found != workers_.end()) worker = found->second;
    if (worker != nullptr && worker->pid < 0) {
      worker->when_pid_is_known.push_back([this, number, channel_fd, crash_page, done] {
        explain(number, channel_fd, crash_page, done);
      });
      return;
    }
  }
  const auto refuse = [&](std::string_view why) {
    done(Error(Code::kUnavailable, fmt::format("there is no backtrace: {}", why)));
  };
  if (worker == nullptr) return refuse("the worker is gone");
  if (captures_ >= options_.max_captures) return refuse("other crashes are being explained");
  const int file = memfd_create("defib-report", MFD_CLOEXEC);
  if (file < 0) return refuse("no memory for the report");
  auto report = std::make_shared<os::Fd>(file);
  os::SpawnOptions spawn;
  // The copier becomes defib-capture when it has let the process go.
  const std::string program =
      find_program(options_.capture_program, "DEFIB_CAPTURE",
                   channel_fd >= 0 ? "defib-snapshot" : "defib-capture", options_.worker_program);
  if (channel_fd >= 0) {
    spawn.argv = {program,     "crash", "--pid",         fmt::to_string(worker->pid),
                  "--page-fd", "3",     "--page-offset", fmt::to_string(crash_page),
                  "--json"};
    spawn.fds = {{file, 1}, {channel_fd, 3}};
  } else {
    spawn.argv = {program, "analyze", fmt::to_string(worker->pid), "--json"};
    spawn.fds = {{file, 1}};
  }
  auto child = os::spawn(spawn);
  if (!child) return refuse(child.error().to_line());
  ++captures_;
  auto running = std::make_shared<os::Child>(std::move(*child));
  const auto watched =
      loop_->watch(running->pidfd(), EPOLLIN, [this, running, report, done](std::uint32_t) {
        loop_->unwatch(running->pidfd());
        --captures_;
        running->wait();
        std::string text(kMaxReport, '\0');
        const ssize_t size = pread(report->get(), text.data(), text.size(), 0);
        text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
        if (text.empty()) {
          return done(
              Error(Code::kUnavailable, "there is no backtrace: defib-capture wrote nothing"));
        }
        done(std::move(text));
      });
  DEFIB_ASSERT(watched.has_value());
}

}  // namespace defib::call
