// Many clients of one server that goes down and comes back.

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "benchmarks/connection_bench.h"
#include "defib/connection/pool.h"
#include "defib/connection/socket.h"
#include "defib/os/process.h"
#include "defib/os/socket.h"
#include "defib/os/tcp.h"

namespace defib::bench {
namespace {

using namespace std::chrono_literals;
using connection::Deadline;
using connection::Dsn;
using connection::Lease;
using connection::Pool;
using connection::PoolOptions;
using connection::Rows;
using connection::Session;
using connection::Statement;

// Sessions that are nothing but a connection to a stub which accepts.
class StubSession : public connection::Session {
 public:
  explicit StubSession(os::Fd fd) : fd_(std::move(fd)) {}
  const connection::SessionInfo& info() const override { return info_; }
  connection::Phase phase() const override { return connection::Phase::kIdle; }
  bool lost() const override { return lost_; }
  bool overran() const override { return false; }
  bool in_transaction() const override { return false; }
  bool dirty() const override { return false; }
  Result<Rows> execute(const Statement&, Deadline) override {
    if (look() != connection::Liveness::kDead) return Rows();
    lost_ = true;
    return Error(Code::kConnectionLost, "the stub has gone")
        .with("class", "NC")
        .with("transient", "yes");
  }
  Result<> begin(connection::Isolation, bool, Deadline) override { return {}; }
  Result<> commit(Deadline) override { return {}; }
  Result<> rollback(Deadline) override { return {}; }
  Result<> reset(Deadline) override { return {}; }
  connection::Liveness look() const override { return connection::look_at_socket(fd_.get()); }
  void abandon() override {}
  void* native_handle() override { return nullptr; }
  std::string placeholder(int) const override { return "?"; }

 private:
  os::Fd fd_;
  connection::SessionInfo info_;
  bool lost_ = false;
};

class StubBackend : public connection::Backend {
 public:
  std::string name() const override { return "stub"; }
  Result<std::unique_ptr<Session>> connect(const connection::ConnectRequest& request,
                                           Deadline deadline) override {
    attempts.fetch_add(1);
    auto fd = os::connect_tcp(request.host, request.port, deadline.remaining());
    if (!fd) {
      return Error(Code::kHostUnreachable, "the stub refuses")
          .with("class", "NC")
          .with("transient", "yes")
          .because(fd.error());
    }
    return std::unique_ptr<Session>(std::make_unique<StubSession>(std::move(*fd)));
  }
  static inline std::atomic<std::int64_t> attempts{0};
};

// Accepts, and says nothing; its listener can be taken away with all it has accepted.
class Stub {
 public:
  Result<> up(std::uint16_t port) {
    listener_ = os::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    ::setsockopt(listener_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    if (::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        ::listen(listener_.get(), 4096) != 0) {
      return os::system_error("listen");
    }
    acceptor_ = std::thread([this] {
      while (true) {
        const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0) return;
        sessions_.emplace_back(fd);
        ++accepted_;
      }
    });
    return {};
  }
  void down() {
    if (!acceptor_.joinable()) return;
    ::shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    listener_ = os::Fd();
    sessions_.clear();
  }
  ~Stub() { down(); }
  int accepted() const { return accepted_.load(); }

 private:
  os::Fd listener_;
  std::vector<os::Fd> sessions_;
  std::thread acceptor_;
  std::atomic<int> accepted_{0};
};

struct Client {
  os::Child child;
  os::Fd to, from;
  std::string ask(std::string_view line) {
    if (!line.empty()) (void)!::write(to.get(), line.data(), line.size());
    std::string answer;
    char c = 0;
    while (::read(from.get(), &c, 1) == 1 && c != '\n') answer += c;
    return answer;
  }
};

Result<Client> start_client(const char* self, std::uint16_t port) {
  int in[2], out[2];
  if (::pipe2(in, O_CLOEXEC) != 0 || ::pipe2(out, O_CLOEXEC) != 0) return os::system_error("pipe2");
  const os::Fd their_in(in[0]), their_out(out[1]);
  Client client;
  client.to = os::Fd(in[1]);
  client.from = os::Fd(out[0]);
  os::SpawnOptions options;
  options.argv = {self, "--storm-client", std::to_string(port)};
  options.fds = {{their_in.get(), 0}, {their_out.get(), 1}, {2, 2}};
  options.parent_death_signal = SIGKILL;
  DEFIB_TRY_ASSIGN(client.child, os::spawn(options));
  return client;
}

}  // namespace

// argv: --storm-client PORT: says "ready", then at the end of its input what it counted.
int storm_client(int argc, char** argv) {
  if (argc < 3) return 2;
  const auto dsn = Dsn::parse(fmt::format("postgresql://u@127.0.0.1:{}/db", argv[2]));
  PoolOptions options;
  options.max_size = options.min_idle = 32;
  options.gate.retry_reserve = 100;
  auto pool = Pool::open(*dsn, std::make_unique<StubBackend>(), options);
  if (!pool || !(*pool)->warm_up(32, Deadline::after(60s))) return 3;
  fmt::print("ready\n");
  (void)fflush(stdout);
  std::atomic<bool> stop{false};
  std::thread user([&] {
    while (!stop) {
      connection::RunOptions limit;
      limit.timeout = 60s;
      (void)(*pool)->run([](Lease& db) { return db.execute("SELECT 1"); }, limit);
      os::real_clock().sleep_for(20ms);
    }
  });
  char line[64];
  std::int64_t before = 0;
  while (::fgets(line, sizeof line, stdin) != nullptr) {
    const std::int64_t now = StubBackend::attempts.load();
    fmt::print("{} {} {}\n", now - before, (*pool)->server().gate.probes(), (*pool)->state().size);
    (void)fflush(stdout);
    before = now;
  }
  stop = true;
  user.join();
  return 0;
}

Result<> bench_storm(const BenchOptions& options) {
  const int processes = options.quick ? 3 : 50;
  const os::Duration down = options.quick ? 500ms : options.long_form ? 30s : 8s;
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
  char self[4096] = {};
  if (::readlink("/proc/self/exe", self, sizeof self - 1) < 0) return os::system_error("readlink");
  DEFIB_TRY_ASSIGN(const std::uint16_t port, os::free_port());
  Stub stub;
  DEFIB_TRY(stub.up(port));
  std::vector<Client> clients;
  for (int i = 0; i < processes; ++i) {
    DEFIB_TRY_ASSIGN(Client client, start_client(self, port));
    clients.push_back(std::move(client));
  }
  for (Client& client : clients) {
    if (client.ask("") != "ready") return Error(Code::kInternal, "a client did not start");
    (void)client.ask("\n");
  }
  stub.down();
  os::real_clock().sleep_for(down);
  std::int64_t most = 0, total = 0, beyond = 0;
  for (Client& client : clients) {
    long attempts = 0, probes = 0;
    int size = 0;
    (void)::sscanf(client.ask("\n").c_str(), "%ld %ld %d", &attempts, &probes, &size);
    most = std::max<std::int64_t>(most, attempts);
    total += attempts;
    // Before the breaker opens: 3 failures, with at most 4 attempts under way.
    beyond += std::max<std::int64_t>(0, attempts - probes - 7);
  }
  const std::int64_t up_at = os::real_clock().mono_ns();
  DEFIB_TRY(stub.up(port));
  int full = 0;
  while (full < processes && os::real_clock().mono_ns() - up_at < 30'000'000'000) {
    full = 0;
    for (Client& client : clients) {
      const std::string answer = client.ask("\n");
      full += answer.ends_with(" 32") ? 1 : 0;
    }
    os::real_clock().sleep_for(5ms);
  }
  const double back = static_cast<double>(os::real_clock().mono_ns() - up_at) / 1e6;
  const double seconds = static_cast<double>(down.count()) / 1e9;
  const std::string name =
      fmt::format("{} processes x 32 sessions, server down for {:.1f} s", processes, seconds);
  print_row({.bench_case = name,
             .metric = "attempts beyond one probe a process and back-off step",
             .unit = "",
             .ours = static_cast<double>(beyond),
             .target = "0",
             .met = beyond == 0,
             .runs = processes});
  print_row({.bench_case = name,
             .metric = "attempts a process and second, mean",
             .unit = "1/s",
             .ours = static_cast<double>(total) / processes / seconds,
             .runs = processes});
  print_row({.bench_case = name,
             .metric = "all sessions of all processes again",
             .unit = "ms",
             .ours = back,
             .met = full == processes ? std::optional<bool>() : std::optional<bool>(false),
             .runs = processes});
  for (Client& client : clients) {
    client.to = os::Fd();
    (void)client.child.signal(SIGKILL);
    (void)client.child.wait();
  }
  return {};
}

}  // namespace defib::bench
