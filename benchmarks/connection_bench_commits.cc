// Commits whose answers are lost, and what finding them out costs.

#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <thread>
#include <vector>

#include "benchmarks/connection_bench.h"
#include "defib/bindings/in_doubt_store.h"
#include "defib/connection/testing/rig.h"
#include "defib/os/files.h"
#include "defib/os/random.h"
#include "defib/store/store.h"

namespace defib::bench {
namespace {

using namespace std::chrono_literals;
using connection::CommitResolution;
using connection::Deadline;
using connection::Dsn;
using connection::Pool;
using connection::PoolOptions;
using connection::Rows;
using connection::Session;
using connection::Statement;
using connection::Transaction;
using connection::testing::Driver;
using connection::testing::FaultProxy;
using connection::testing::PostgresServer;
using connection::testing::Rig;

constexpr const char* kTable = "defib_commits";

// What was told against what is stored: each transaction adds one row with its own number.
struct Ledger {
  std::set<int> told_stored, told_not, told_unknown;
  int duplicates = 0, losses = 0, phantoms = 0;

  Result<> judge(Session& session) {
    DEFIB_TRY_ASSIGN(const Rows rows, session.execute("SELECT id, COUNT(*) FROM ledger GROUP BY id",
                                                      Deadline::after(30s)));
    std::set<int> stored;
    for (const auto& row : rows.rows) {
      const int id = ::atoi(to_text(row[0]).c_str());
      stored.insert(id);
      duplicates += to_text(row[1]) != "1";
    }
    for (const int id : told_stored) losses += !stored.contains(id);
    for (const int id : told_not) phantoms += stored.contains(id);
    return {};
  }
  void note(int id, const Result<>& done) {
    if (done) {
      told_stored.insert(id);
    } else if (done.error().code() == Code::kCommitUnknown) {
      told_unknown.insert(id);
    } else {
      told_not.insert(id);
    }
  }
  void print(const std::string& name, int cuts) const {
    print_row({.bench_case = name,
               .metric = "duplicates + losses + phantoms",
               .unit = "",
               .ours = static_cast<double>(duplicates + losses + phantoms),
               .target = "0",
               .met = duplicates + losses + phantoms == 0,
               .runs = cuts});
    print_row({.bench_case = name,
               .metric = "told as unknown",
               .unit = "",
               .ours = static_cast<double>(told_unknown.size()),
               .runs = cuts});
  }
};

Result<> make_ledger(Session& session) {
  DEFIB_TRY(make_commit_table(session, kTable, Deadline::after(5s)));
  DEFIB_TRY(session.execute("DROP TABLE IF EXISTS ledger", Deadline::after(5s)));
  DEFIB_TRY(session.execute("CREATE TABLE ledger (id INTEGER)", Deadline::after(5s)));
  return {};
}

PoolOptions commit_options(bool with_table) {
  PoolOptions options;
  options.max_size = 4;
  options.transaction_attempts = 8;
  options.gate.retry_reserve = 1'000'000;
  if (with_table) options.commit_table = kTable;
  return options;
}

Result<> add_row(Pool& pool, int id) {
  connection::TransactionOptions limits;
  limits.timeout = 60s;
  return pool.transaction(
      [&](Transaction& tx) -> Result<> {
        DEFIB_TRY(tx.execute(Statement(fmt::format("INSERT INTO ledger (id) VALUES ({})", id))));
        return {};
      },
      limits);
}

Result<> cut_campaign(Driver driver, int cuts) {
  DEFIB_TRY_ASSIGN(const auto rig, Rig::make(driver));
  DEFIB_TRY_ASSIGN(const auto session, rig->connect_directly());
  DEFIB_TRY(make_ledger(*session));
  DEFIB_TRY_ASSIGN(const auto pool, rig->pool(commit_options(!rig->is_postgres())));
  Ledger ledger;
  for (int i = 0; rig->proxy().cuts_done() < cuts; ++i) {
    rig->proxy().cut_commits(i % 2 == 0 ? FaultProxy::Cut::kRequest : FaultProxy::Cut::kReply);
    ledger.note(i, add_row(*pool, i));
  }
  rig->proxy().cut_commits(FaultProxy::Cut::kNone);
  DEFIB_TRY_ASSIGN(const auto judge, rig->connect_directly());
  DEFIB_TRY(ledger.judge(*judge));
  ledger.print("COMMIT cut by the proxy, " + connection::testing::name_of(driver), cuts);
  print_row({.bench_case = "COMMIT cut by the proxy, " + connection::testing::name_of(driver),
             .metric = "finding out, p99",
             .unit = "ms",
             .ours = static_cast<double>(pool->metrics().resolve.quantile(0.99)) / 1e6,
             .target = "<= 50 ms",
             .met = pool->metrics().resolve.quantile(0.99) <= 50'000'000,
             .runs = cuts});
  return {};
}

// The server's side of the session is killed at a random moment around COMMIT.
Result<> backend_kills(int kills) {
  DEFIB_TRY_ASSIGN(const auto rig, Rig::make(Driver::kLibpq));
  DEFIB_TRY_ASSIGN(const auto session, rig->connect_directly());
  DEFIB_TRY(make_ledger(*session));
  DEFIB_TRY_ASSIGN(const auto pool, rig->pool(commit_options(false)));
  os::Random random(7);
  std::atomic<bool> stop{false};
  std::atomic<int> done_kills{0};
  std::thread killer([&] {
    while (!stop) {
      os::real_clock().sleep_for(os::Duration(static_cast<std::int64_t>(random.below(4'000'000))));
      const auto killed = session->execute(
          "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE backend_type = "
          "'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'",
          Deadline::after(5s));
      if (killed) done_kills += static_cast<int>(killed->scalar_int().value_or(0));
    }
  });
  Ledger ledger;
  for (int i = 0; done_kills < kills; ++i) ledger.note(i, add_row(*pool, i));
  stop = true;
  killer.join();
  DEFIB_TRY(ledger.judge(*session));
  ledger.print("backend terminated at work, libpq", done_kills);
  return {};
}

Result<> server_crashes(int crashes) {
  DEFIB_TRY_ASSIGN(const auto server, PostgresServer::start());
  DEFIB_TRY_ASSIGN(const Dsn dsn, Dsn::parse(server->dsn()));
  const auto make = [&] {
    return connection::testing::make_backend(dsn, connection::testing::plain_classifier());
  };
  DEFIB_TRY_ASSIGN(const auto direct, make());
  const auto connect = [&] {
    return direct->connect({dsn.hosts[0].host, dsn.hosts[0].port, dsn.user, dsn.password},
                           Deadline::after(30s));
  };
  {
    DEFIB_TRY_ASSIGN(const auto session, connect());
    DEFIB_TRY(make_ledger(*session));
  }
  DEFIB_TRY_ASSIGN(auto backend, make());
  DEFIB_TRY_ASSIGN(const auto pool, Pool::open(dsn, std::move(backend), commit_options(true)));
  std::atomic<bool> stop{false};
  std::vector<std::thread> clients;
  clients.reserve(4);
  std::vector<Ledger> ledgers(4);
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([&, t] {
      for (int i = 0; !stop; ++i) {
        const int id = t * 1'000'000 + i;
        ledgers[static_cast<std::size_t>(t)].note(id, add_row(*pool, id));
      }
    });
  }
  os::Random random(11);
  const auto crash_again_and_again = [&]() -> Result<> {
    for (int i = 0; i < crashes; ++i) {
      os::real_clock().sleep_for(150ms +
                                 os::Duration(static_cast<std::int64_t>(random.below(50'000'000))));
      DEFIB_TRY(server->kill_all());
      // The kernel frees the shared memory and the lock file's owner is seen to be gone.
      DEFIB_TRY(server->restart());
    }
    os::real_clock().sleep_for(300ms);
    return {};
  };
  const Result<> crashed = crash_again_and_again();
  stop = true;
  for (std::thread& client : clients) client.join();
  DEFIB_TRY(crashed);
  DEFIB_TRY_ASSIGN(const auto session, connect());
  Ledger all;
  for (const Ledger& one : ledgers) {
    all.told_stored.insert(one.told_stored.begin(), one.told_stored.end());
    all.told_not.insert(one.told_not.begin(), one.told_not.end());
    all.told_unknown.insert(one.told_unknown.begin(), one.told_unknown.end());
  }
  DEFIB_TRY(all.judge(*session));
  all.print("server killed (-9) at work, 4 clients, libpq, commit table", crashes);
  return {};
}

// Where a client is killed. The first one is the parent's doing, at any moment; the others are the
// client's own, between its record and what settles it.
constexpr std::string_view kMoments[] = {"any", "recorded", "sent", "committed"};

// A log whose process is killed at a moment of its choice.
class FatalLog : public connection::InDoubtLog {
 public:
  using Say = std::function<void(const std::string&)>;
  FatalLog(std::unique_ptr<connection::InDoubtLog> log, std::string moment, int after, Say say)
      : log_(std::move(log)), moment_(std::move(moment)), left_(after), say_(std::move(say)) {}
  Result<> put(const std::string& id, const std::string& record) override {
    DEFIB_TRY(log_->put(id, record));
    DEFIB_TRY_ASSIGN(const connection::InDoubt in_doubt, connection::InDoubt::decode(record));
    labels_[id] = in_doubt.label;
    --left_;
    if (left_ == 0 && moment_ == "recorded") die();
    if (left_ == 0 && moment_ == "sent") {
      // While COMMIT is under way: a commit takes some hundred microseconds.
      const os::Duration delay(static_cast<std::int64_t>(os::random_seed() % 600'000));
      std::thread([delay] {
        os::real_clock().sleep_for(delay);
        die();
      }).detach();
    }
    return {};
  }
  Result<> erase(const std::string& id) override {
    if (left_ == 0 && moment_ == "committed") die();
    if (labels_.contains(id)) say_("answered " + labels_[id]);
    return log_->erase(id);
  }
  Result<std::vector<std::pair<std::string, std::string>>> all() override { return log_->all(); }

 private:
  static void die() { ::kill(::getpid(), SIGKILL); }
  std::unique_ptr<connection::InDoubtLog> log_;
  std::string moment_;
  int left_;
  Say say_;
  std::map<std::string, std::string> labels_;  // of records by id
};

Result<os::Child> start_commit_client(const std::string& dir, int first, std::string_view moment,
                                      int after) {
  char self[4096] = {};
  if (::readlink("/proc/self/exe", self, sizeof self - 1) < 0) return os::system_error("readlink");
  os::SpawnOptions options;
  options.argv = {self,
                  "--commit-client",
                  connection::testing::postgres().dsn(),
                  dir,
                  std::to_string(first),
                  std::string(moment),
                  std::to_string(after)};
  options.parent_death_signal = SIGKILL;
  options.fds = {{2, 2}};
  return os::spawn(options);
}

// What the clients wrote of themselves, one line each.
struct Told {
  Ledger ledger;
  std::set<int> tried, answered;
  int settled_stored = 0, settled_not = 0;
  double worst_settle_ms = 0;

  explicit Told(std::string_view text) {
    bool settles = false;
    while (!text.empty()) {
      const std::string line(text.substr(0, text.find('\n')));
      text.remove_prefix(std::min(line.size() + 1, text.size()));
      const int id = ::atoi(line.substr(line.find(' ') + 1).c_str());
      if (line.starts_with("try")) tried.insert(id);
      if (line.starts_with("answered")) answered.insert(id);
      if (line.starts_with("stored")) ledger.told_stored.insert(id);
      if (line.starts_with("not")) ledger.told_not.insert(id);
      if (line.starts_with("took")) {
        worst_settle_ms = std::max(worst_settle_ms, static_cast<double>(id) / 1e3);
      }
      if (settles) {
        settled_stored += line.starts_with("stored") ? 1 : 0;
        settled_not += line.starts_with("not") ? 1 : 0;
      }
      settles = line.starts_with("settled");
    }
    // Whoever was neither told nor settled had not sent its COMMIT: it must not be stored. Not so
    // one that had its answer and was killed before it could note it.
    for (const int id : tried) {
      if (!ledger.told_stored.contains(id) && !answered.contains(id)) ledger.told_not.insert(id);
    }
  }
};

// A client that writes in-doubt records is killed; the next start settles what it left.
Result<> client_kills(int kills) {
  DEFIB_TRY_ASSIGN(const auto rig, Rig::make(Driver::kLibpq));
  DEFIB_TRY_ASSIGN(const auto session, rig->connect_directly());
  DEFIB_TRY(make_ledger(*session));
  const connection::testing::TempDir dir;
  const std::string told_path = os::join_path(dir.path(), "told");
  os::Random random(13);
  for (int i = 0; i < kills; ++i) {
    const std::string_view moment = kMoments[i % std::size(kMoments)];
    DEFIB_TRY_ASSIGN(os::Child child, start_commit_client(dir.path(), i * 10'000, moment,
                                                          1 + static_cast<int>(random.below(5))));
    if (moment == "any") {
      // It has begun when its line of this round is there.
      const std::string mark = fmt::format("start {}\n", i * 10'000);
      for (int look = 0; look < 5000; ++look) {
        const auto told = os::read_file(os::real_files(), told_path);
        if (told && told->find(mark) != std::string::npos) break;
        os::real_clock().sleep_for(2ms);
      }
      os::real_clock().sleep_for(
          os::Duration(static_cast<std::int64_t>(random.below(100'000'000))));
      (void)child.signal(SIGKILL);
    }
    const os::ExitStatus ended = child.wait();
    if (ended.signal != SIGKILL) return Error(Code::kInternal, "a client was not killed");
  }
  // One more start settles what the last one left.
  DEFIB_TRY_ASSIGN(os::Child last, start_commit_client(dir.path(), -1, "any", 0));
  if (!last.wait().success()) return Error(Code::kInternal, "the last client failed");
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(os::real_files(), told_path));
  Told told(text);
  DEFIB_TRY(told.ledger.judge(*session));
  const std::string name = "client killed (-9) at its commits, durable";
  told.ledger.print(name, kills);
  const int settled = told.settled_stored + told.settled_not;
  // Those that were killed with a record in the log, which are half of them for certain.
  print_row({.bench_case = name,
             .metric = fmt::format("settled by the next start ({} committed, {} rolled back)",
                                   told.settled_stored, told.settled_not),
             .unit = "",
             .ours = static_cast<double>(settled),
             .target = "at least half of the kills, of both kinds",
             .met = settled >= kills / 2 && told.settled_stored > 0 && told.settled_not > 0,
             .runs = kills});
  print_row({.bench_case = name,
             .metric = "settled after its start, worst",
             .unit = "ms",
             .ours = told.worst_settle_ms,
             .target = "< 1000 ms",
             .met = told.worst_settle_ms < 1000,
             .runs = kills});
  return {};
}

int scale_of(const BenchOptions& options) {
  return options.quick ? 1 : options.long_form ? 100 : 5;
}

}  // namespace

// argv: --commit-client DSN DIR FIRST MOMENT AFTER; -1 for FIRST: only settles.
int commit_client(int argc, char** argv) {
  if (argc < 7) return 2;
  const std::string dir = argv[3];
  const int first = ::atoi(argv[4]);
  auto store = store::Store::open(os::join_path(dir, "store"), store::Options());
  if (!store) return 3;
  const auto dsn = Dsn::parse(argv[2]);
  auto backend = connection::testing::make_backend(*dsn, connection::testing::plain_classifier());
  FILE* told = ::fopen(os::join_path(dir, "told").c_str(), "a");
  const auto say = [&](const std::string& line) {
    ::fputs((line + "\n").c_str(), told);
    ::fflush(told);
  };
  FatalLog log(bindings::in_doubt_in_store(**store), argv[5], ::atoi(argv[6]), say);
  PoolOptions options = commit_options(false);
  options.commit_resolution = CommitResolution::kDurable;
  options.in_doubt_log = &log;
  options.on_settled = [&](const connection::Settled& one) {
    say("settled " + one.record.label);
    if (one.outcome == connection::CommitOutcome::kCommitted) say("stored " + one.record.label);
    if (one.outcome == connection::CommitOutcome::kRolledBack) say("not " + one.record.label);
  };
  auto pool = Pool::open(*dsn, std::move(*backend), options);
  if (!pool) return 4;
  const std::int64_t before = os::real_clock().mono_ns();
  const auto settled = (*pool)->settle_in_doubt(Deadline::after(10s));
  if (!settled) {
    fmt::print(stderr, "{}\n", settled.error().to_text());
    return 5;
  }
  if (!settled->empty()) {
    say(fmt::format("took {}", (os::real_clock().mono_ns() - before) / 1000));
  }
  if (first < 0) return 0;
  say(fmt::format("start {}", first));
  for (int id = first;; ++id) {
    say(fmt::format("try {}", id));
    connection::TransactionOptions labelled;
    labelled.label = std::to_string(id);
    const auto done = (*pool)->transaction(
        [&](Transaction& tx) -> Result<> {
          DEFIB_TRY(tx.execute(Statement(fmt::format("INSERT INTO ledger (id) VALUES ({})", id))));
          return {};
        },
        labelled);
    if (done) say(fmt::format("stored {}", id));
  }
}

Result<> bench_cuts_libpq(const BenchOptions& options) {
  return cut_campaign(Driver::kLibpq, 40 * scale_of(options));
}
Result<> bench_cuts_psqlodbc(const BenchOptions& options) {
  return cut_campaign(Driver::kPsqlodbc, 30 * scale_of(options));
}
Result<> bench_cuts_mariadb(const BenchOptions& options) {
  return cut_campaign(Driver::kMariadb, 20 * scale_of(options));
}
Result<> bench_backend_kills(const BenchOptions& options) {
  return backend_kills(5 * scale_of(options));
}
Result<> bench_client_kills(const BenchOptions& options) {
  return client_kills(4 * scale_of(options));
}
Result<> bench_server_crashes(const BenchOptions& options) {
  return server_crashes(scale_of(options));
}

// One small transaction on PostgreSQL, with each way of finding out.
Result<> bench_resolution_price(const BenchOptions& options) {
  DEFIB_TRY_ASSIGN(const auto rig, Rig::make(Driver::kLibpq));
  DEFIB_TRY_ASSIGN(const auto session, rig->connect_directly());
  DEFIB_TRY(make_ledger(*session));
  const connection::testing::TempDir dir;
  DEFIB_TRY_ASSIGN(const auto store,
                   store::Store::open(os::join_path(dir.path(), "store"), store::Options()));
  const auto log = bindings::in_doubt_in_store(*store);
  const int runs = options.quick ? 20 : 400;
  std::optional<double> without;
  for (const auto& [mode, name] :
       {std::pair{CommitResolution::kOff, "off"}, std::pair{CommitResolution::kMemory, "memory"},
        std::pair{CommitResolution::kDurable, "durable"}}) {
    PoolOptions pool_options = commit_options(false);
    pool_options.commit_resolution = mode;
    pool_options.in_doubt_log = log.get();
    DEFIB_TRY_ASSIGN(auto backend, connection::testing::make_backend(
                                       rig->direct_dsn(), connection::testing::plain_classifier()));
    DEFIB_TRY_ASSIGN(const auto pool,
                     Pool::open(rig->direct_dsn(), std::move(backend), pool_options));
    std::vector<double> times;
    for (int i = 0; i < runs; ++i) {
      const std::int64_t before = os::real_clock().mono_ns();
      DEFIB_TRY(add_row(*pool, i));
      times.push_back(static_cast<double>(os::real_clock().mono_ns() - before) / 1e3);
    }
    std::ranges::sort(times);
    const double p50 = times[times.size() / 2];
    if (!without) without = p50;
    print_row({.bench_case = fmt::format("a transaction of one insert, commit_resolution {}", name),
               .metric = "p50",
               .unit = "us",
               .ours = p50,
               .peer_name = "off",
               .peer = without,
               .runs = runs});
  }
  return {};
}

}  // namespace defib::bench
