// The pool alone: sessions without a server.

#include <fmt/core.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "benchmarks/connection_bench.h"
#include "defib/connection/pool.h"
#include "defib/connection/socket.h"
#include "defib/connection/testing/fake_backend.h"
#include "defib/obs/counters.h"
#include "defib/os/fd.h"

namespace defib::bench {
namespace {

using namespace std::chrono_literals;
using connection::Liveness;
using connection::Pool;
using connection::PoolOptions;
using connection::testing::FakeServer;

constexpr int kConnections = 32;

// The pool that everybody writes first. With `honest` it does what ours does beside: a look at the
// socket, times of the last use, a count and a histogram of the hold.
class PlainPool {
 public:
  PlainPool(int size, int look_fd, bool honest)
      : look_fd_(look_fd),
        honest_(honest),
        registry_(obs::Registry::in_memory()),
        checkouts_(registry_->counter("checkouts", "")) {
    for (int i = 0; i < size; ++i) free_.push_back({i, 0, 0});
  }
  struct Entry {
    int number = 0;
    std::int64_t borrowed_ns = 0, used_ns = 0;
  };
  Entry take() {
    Entry entry;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [&] { return !free_.empty(); });
      entry = free_.back();
      free_.pop_back();
    }
    if (honest_) {
      entry.borrowed_ns = os::real_clock().mono_ns();
      if (connection::look_at_socket(look_fd_) == Liveness::kDead) entry.number = -1;
      checkouts_.add();
    }
    return entry;
  }
  void give(Entry entry) {
    if (honest_) entry.used_ns = os::real_clock().mono_ns();
    {
      const std::lock_guard lock(mutex_);
      free_.push_back(entry);
    }
    ready_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<Entry> free_;  // guarded by mutex_
  int look_fd_;
  bool honest_;
  std::unique_ptr<obs::Registry> registry_;
  obs::Counter checkouts_;
};

// Operations a second over all threads.
template <typename Once>
double rate(int threads, os::Duration length, Once&& once) {
  std::atomic<bool> go{false}, stop{false};
  std::atomic<std::int64_t> total{0};
  std::vector<std::thread> workers;
  workers.reserve(static_cast<std::size_t>(threads));
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&] {
      std::int64_t count = 0;
      while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
      while (!stop.load(std::memory_order_relaxed)) {
        for (int i = 0; i < 64; ++i) once();
        count += 64;
      }
      total += count;
    });
  }
  const std::int64_t started = os::real_clock().mono_ns();
  go = true;
  os::real_clock().sleep_for(length);
  stop = true;
  for (std::thread& worker : workers) worker.join();
  return static_cast<double>(total) * 1e9 /
         static_cast<double>(os::real_clock().mono_ns() - started);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::unique_ptr<Pool> make_pool(const std::shared_ptr<FakeServer>& server, PoolOptions options) {
  static std::atomic<int> number{0};
  const std::string text = fmt::format("postgresql://bench{}/db", ++number);
  auto pool = Pool::open(*connection::Dsn::parse(text),
                         connection::testing::make_fake_backend(server), std::move(options));
  return std::move(*pool);
}

Result<> checkout_case(int threads, bool honest, const BenchOptions& options) {
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return os::system_error("socketpair");
  }
  const os::Fd one(sockets[0]), other(sockets[1]);
  auto server = std::make_shared<FakeServer>();
  server->look_fd = one.get();
  PoolOptions pool_options;
  pool_options.max_size = pool_options.min_idle = kConnections;
  pool_options.look_at_checkout = honest;
  pool_options.timestamps = honest;
  auto pool = make_pool(server, pool_options);
  DEFIB_TRY(pool->warm_up(kConnections, connection::Deadline::after(10s)));
  PlainPool plain(kConnections, one.get(), honest);
  const os::Duration length = options.quick ? 20ms : 300ms;
  std::vector<double> ours, peers;
  for (int run = 0; run < (options.quick ? 1 : 5); ++run) {
    ours.push_back(rate(threads, length, [&] { (void)pool->acquire(); }));
    peers.push_back(rate(threads, length, [&] { plain.give(plain.take()); }));
  }
  const double mine = median(ours) / 1e6, peer = median(peers) / 1e6;
  const double wanted = honest ? 1.0 : 2.0;
  print_row({.bench_case = honest ? "checkout + return, liveness, times and metrics on"
                                  : "checkout + return, no liveness",
             .metric = fmt::format("{} thread{}, {} sessions", threads, threads == 1 ? "" : "s",
                                   kConnections),
             .unit = "Mops/s",
             .ours = mine,
             .peer_name = "mutex + condvar + deque",
             .peer = peer,
             .target = honest ? "ratio >= 1" : "ratio >= 2",
             .met = mine >= wanted * peer,
             .runs = static_cast<int>(ours.size())});
  return {};
}

}  // namespace

Result<> bench_checkout(const BenchOptions& options) {
  for (const bool honest : {false, true}) {
    for (const int threads : {1, 2, 8, 32}) DEFIB_TRY(checkout_case(threads, honest, options));
  }
  return {};
}

// More threads than sessions: how long the unluckiest waits, against the mean.
Result<> bench_fairness(const BenchOptions& options) {
  for (const auto& [threads, sessions] : {std::pair{8, 4}, std::pair{32, 16}}) {
    auto server = std::make_shared<FakeServer>();
    PoolOptions pool_options;
    pool_options.max_size = sessions;
    auto pool = make_pool(server, pool_options);
    DEFIB_TRY(pool->warm_up(sessions, connection::Deadline::after(10s)));
    std::atomic<std::int64_t> worst{0}, sum{0}, count{0}, longest_hold{0};
    const auto raise = [](std::atomic<std::int64_t>& most, std::int64_t value) {
      std::int64_t seen = most;
      while (value > seen && !most.compare_exchange_weak(seen, value)) {
      }
    };
    std::vector<std::thread> workers;
    workers.reserve(static_cast<std::size_t>(threads));
    const std::int64_t until =
        os::real_clock().mono_ns() + os::Duration(options.quick ? 100ms : 3000ms).count();
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([&] {
        while (os::real_clock().mono_ns() < until) {
          const std::int64_t before = os::real_clock().mono_ns();
          auto lease = pool->acquire();
          const std::int64_t borrowed = os::real_clock().mono_ns();
          sum += borrowed - before;
          ++count;
          raise(worst, borrowed - before);
          os::real_clock().sleep_for(200us);
          raise(longest_hold, os::real_clock().mono_ns() - borrowed);
        }
      });
    }
    for (std::thread& worker : workers) worker.join();
    const double mean = static_cast<double>(sum) / static_cast<double>(count) / 1e3;
    const double most = static_cast<double>(worst) / 1e3;
    // A holder that the machine keeps from running returns later: no pool can help that.
    const double machine = static_cast<double>(longest_hold) / 1e3;
    print_row(
        {.bench_case = fmt::format("{} threads, {} sessions, held for 200 us", threads, sessions),
         .metric = fmt::format("longest wait (longest hold {:.0f} us)", machine),
         .unit = "us",
         .ours = most,
         .peer_name = "mean wait",
         .peer = mean,
         .target = "2 x mean + the longest hold",
         .met = most <= 2 * mean + machine,
         .runs = static_cast<int>(count.load())});
  }
  return {};
}

}  // namespace defib::bench
