// The pool and real servers, with a proxy between that breaks connections.

#include <fmt/core.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "benchmarks/connection_bench.h"
#include "defib/connection/testing/rig.h"
#include "defib/os/tcp.h"

namespace defib::bench {
namespace {

using namespace std::chrono_literals;
using connection::Deadline;
using connection::Lease;
using connection::Pool;
using connection::PoolOptions;
using connection::testing::Driver;
using connection::testing::FaultProxy;
using connection::testing::Rig;

double us(std::int64_t ns) {
  return static_cast<double>(ns) / 1e3;
}
double ms(std::int64_t ns) {
  return static_cast<double>(ns) / 1e6;
}

constexpr Driver kNetworkedDrivers[] = {Driver::kLibpq, Driver::kPsqlodbc, Driver::kMariadb,
                                        Driver::kFreetds};

}  // namespace

Result<> bench_liveness(const BenchOptions&) {
  for (const Driver driver : kNetworkedDrivers) {
    DEFIB_TRY_ASSIGN(const auto rig, Rig::make(driver));
    DEFIB_TRY_ASSIGN(const auto session, rig->connect());
    constexpr int kLooks = 20'000;
    std::vector<std::int64_t> looks, queries;
    for (int i = 0; i < kLooks; ++i) {
      const std::int64_t before = os::real_clock().mono_ns();
      (void)session->look();
      looks.push_back(os::real_clock().mono_ns() - before);
    }
    for (int i = 0; i < 500; ++i) {
      const std::int64_t before = os::real_clock().mono_ns();
      DEFIB_TRY(session->execute("SELECT 1", Deadline::after(5s)));
      queries.push_back(os::real_clock().mono_ns() - before);
    }
    std::ranges::sort(looks);
    std::ranges::sort(queries);
    print_row({.bench_case = "liveness, " + connection::testing::name_of(driver),
               .metric = "look at the socket, p50",
               .unit = "us",
               .ours = us(looks[looks.size() / 2]),
               .peer_name = "SELECT 1",
               .peer = us(queries[queries.size() / 2]),
               .target = "< 1 us",
               .met = looks[looks.size() / 2] < 1000,
               .runs = kLooks});
  }
  return {};
}

// Sessions die while idle, in turn by reset, by end of file and by the server's administrator.
Result<> bench_idle_kills(const BenchOptions& options) {
  const int trials = options.quick ? 10 : 1000;
  for (const Driver driver : kNetworkedDrivers) {
    DEFIB_TRY_ASSIGN(const auto rig, Rig::make(driver));
    PoolOptions pool_options;
    pool_options.max_size = 1;
    pool_options.maintenance_every = 1h;
    DEFIB_TRY_ASSIGN(const auto pool, rig->pool(pool_options));
    int dead = 0;
    for (int i = 0; i < trials; ++i) {
      {
        DEFIB_TRY_ASSIGN(Lease lease, pool->acquire());
        const connection::SessionInfo info = lease.session().info();
        lease.release();
        const std::string ending = statement_that_ends(info);
        if (i % 3 == 2 && driver != Driver::kFreetds) {
          DEFIB_TRY(rig->administer(connection::Statement(ending)));
          // Until the server's farewell has come through the proxy.
          while (rig->proxy().connections() > 0) os::real_clock().sleep_for(50us);
        } else if (i % 3 == 0) {
          rig->proxy().reset_all();
        } else {
          rig->proxy().close_all();
        }
      }
      DEFIB_TRY_ASSIGN(Lease lease, pool->acquire());
      const auto rows = lease.execute("SELECT 1");
      dead += rows ? 0 : 1;
    }
    print_row(
        {.bench_case = "sessions that died while idle, " + connection::testing::name_of(driver),
         .metric = "dead ones handed out",
         .unit = "",
         .ours = static_cast<double>(dead),
         .target = "0",
         .met = dead == 0,
         .runs = trials});
  }
  return {};
}

Result<> bench_black_hole(const BenchOptions& options) {
  const int trials = options.quick ? 2 : 20;
  constexpr os::Duration kLimit = 100ms;
  for (const Driver driver : kNetworkedDrivers) {
    std::int64_t worst = 0, machine = 0;
    int late = 0;
    const auto judge = [&](std::int64_t before) {
      const std::int64_t over = os::real_clock().mono_ns() - before - kLimit.count();
      worst = std::max(worst, over);
      late += over > 20'000'000;
    };
    for (int i = 0; i < trials; ++i) {
      DEFIB_TRY_ASSIGN(const auto rig, Rig::make(driver));
      DEFIB_TRY_ASSIGN(const auto session, rig->connect());
      DEFIB_TRY_ASSIGN(const auto other, rig->connect());
      DEFIB_TRY_ASSIGN(const auto third, rig->connect());
      DEFIB_TRY(other->begin(connection::Isolation::kDefault, false, Deadline::after(5s)));
      DEFIB_TRY(other->execute("SELECT 1", Deadline::after(5s)));
      DEFIB_TRY(rig->proxy().set_mode(FaultProxy::Mode::kBlackHole));
      std::int64_t before = os::real_clock().mono_ns();
      (void)session->execute("SELECT 1", Deadline::after(kLimit));
      judge(before);
      before = os::real_clock().mono_ns();
      (void)other->commit(Deadline::after(kLimit));
      judge(before);
      before = os::real_clock().mono_ns();
      (void)rig->connect(kLimit);
      judge(before);
      before = os::real_clock().mono_ns();
      (void)third->execute(connection::Statement("SELECT 1", {}, true), Deadline::after(kLimit));
      judge(before);
      before = os::real_clock().mono_ns();
      os::real_clock().sleep_for(kLimit);
      machine = std::max(machine, os::real_clock().mono_ns() - before - kLimit.count());
    }
    print_row({.bench_case = "black hole, " + connection::testing::name_of(driver),
               .metric = "worst time beyond the deadline (statement, commit, connect, prepare)",
               .unit = "ms",
               .ours = ms(worst),
               .peer_name = "a sleep of that length, worst",
               .peer = ms(machine),
               .target = "<= 20 ms",
               .met = late == 0,
               .runs = trials * 4});
  }
  return {};
}

Result<> bench_restart(const BenchOptions& options) {
  const int runs = options.quick ? 1 : 3;
  DEFIB_TRY_ASSIGN(const auto server, connection::testing::PostgresServer::start());
  DEFIB_TRY_ASSIGN(const connection::Dsn dsn, connection::Dsn::parse(server->dsn()));
  PoolOptions pool_options;
  pool_options.max_size = pool_options.min_idle = 32;
  pool_options.parallel_connects = 8;
  DEFIB_TRY_ASSIGN(auto backend,
                   connection::testing::make_backend(dsn, connection::testing::plain_classifier()));
  DEFIB_TRY_ASSIGN(const auto pool, Pool::open(dsn, std::move(backend), pool_options));
  DEFIB_TRY(pool->warm_up(32, Deadline::after(20s)));
  std::vector<double> firsts, refills;
  for (int i = 0; i < runs; ++i) {
    DEFIB_TRY(server->immediately());
    std::int64_t first = 0;
    std::thread caller([&] {
      const auto rows = pool->run([](Lease& db) { return db.execute("SELECT 1"); });
      if (rows) first = os::real_clock().mono_ns();
    });
    os::real_clock().sleep_for(500ms);
    DEFIB_TRY(server->launch());
    // The port accepts when a session can be had, not while the server still recovers.
    std::int64_t accepting = 0;
    while (accepting == 0) {
      DEFIB_TRY_ASSIGN(auto prober, connection::testing::make_backend(
                                        dsn, connection::testing::plain_classifier()));
      const auto session = prober->connect(
          {dsn.hosts[0].host, dsn.hosts[0].port, dsn.user, dsn.password}, Deadline::after(5s));
      if (session) accepting = os::real_clock().mono_ns();
    }
    caller.join();
    if (first == 0) return Error(Code::kInternal, "no success after the restart");
    while (pool->state().size < 32 && os::real_clock().mono_ns() - accepting < 10'000'000'000) {
      os::real_clock().sleep_for(1ms);
    }
    firsts.push_back(std::max(0.0, ms(first - accepting)));
    refills.push_back(ms(os::real_clock().mono_ns() - accepting));
  }
  print_row({.bench_case = "PostgreSQL restarted",
             .metric = "first success after the server takes sessions, worst",
             .unit = "ms",
             .ours = *std::ranges::max_element(firsts),
             .target = "<= 100 ms",
             .met = *std::ranges::max_element(firsts) <= 100,
             .runs = runs});
  print_row({.bench_case = "PostgreSQL restarted",
             .metric = "32 sessions again, worst",
             .unit = "ms",
             .ours = *std::ranges::max_element(refills),
             .target = "<= 1000 ms",
             .met = *std::ranges::max_element(refills) <= 1000,
             .runs = runs});
  return {};
}

}  // namespace defib::bench
