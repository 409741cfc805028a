// What the next borrower of a session sees of the one before: nothing, in each cell of the table in
// docs/connection_survival.md, which is made anew by
//   DEFIB_REGENERATE=1 build/release/bin/connection_test --gtest_filter='*Survival*'

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <map>

#include "defib/connection/testing/rig.h"
#include "defib/os/files.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;
using testing::Driver;
using testing::Rig;

const std::string kPage = DEFIB_SOURCE_DIR "/docs/connection_survival.md";

// `probe` answers "kept" or "1" where the thing is still there; an error says that it has gone. The
// responder behind FreeTDS keeps no state but the statements of its session: it answers "kept"
// where one of them held the word behind `remember`.
struct Item {
  const char* name;
  const char *postgres_set, *postgres_probe;
  const char *mariadb_set, *mariadb_probe;
  const char *sqlite_set, *sqlite_probe;
  const char *mssql_set, *mssql_probe;
};
constexpr const char* kRemember = "SELECT 1 /* remember MINE */";
constexpr Item kItems[] = {
    {"session variable", "SET application_name = 'kept'",
     "SELECT current_setting('application_name')", "SET @mine = 'kept'", "SELECT @mine", nullptr,
     nullptr, nullptr, nullptr},
    {"setting", "SET work_mem = '7MB'", "SELECT 'kept' WHERE current_setting('work_mem') = '7MB'",
     "SET SESSION sort_buffer_size = 1048576",
     "SELECT 'kept' FROM dual WHERE @@sort_buffer_size = 1048576", "PRAGMA recursive_triggers = 1",
     "SELECT recursive_triggers FROM pragma_recursive_triggers", "SET LOCK_TIMEOUT 1234 -- MINE",
     kRemember},
    {"setting through a function", "SELECT set_config('work_mem', '9MB', false)",
     "SELECT 'kept' WHERE current_setting('work_mem') = '9MB'", nullptr, nullptr, nullptr, nullptr,
     "EXEC sp_set_session_context 'MINE', 'kept'", kRemember},
    {"temporary table", "CREATE TEMP TABLE mine AS SELECT 'kept' AS x", "SELECT x FROM mine",
     "CREATE TEMPORARY TABLE mine AS SELECT 'kept' AS x", "SELECT x FROM mine",
     "CREATE TEMP TABLE mine AS SELECT 'kept' AS x", "SELECT x FROM mine",
     "SELECT 'kept' AS x INTO #MINE", kRemember},
    {"prepared statement", "PREPARE mine AS SELECT 'kept'", "EXECUTE mine", nullptr, nullptr,
     nullptr, nullptr, "DECLARE @MINE INT; EXEC sp_prepare @MINE OUTPUT, NULL, N'SELECT 1'",
     kRemember},
    {"current database or schema", "SET search_path = pg_catalog",
     "SELECT 'kept' WHERE current_setting('search_path') = 'pg_catalog'", "USE mysql",
     "SELECT 'kept' FROM dual WHERE DATABASE() = 'mysql'", nullptr, nullptr, "USE MINE", kRemember},
    {"isolation level", "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
     "SELECT 'kept' WHERE current_setting('default_transaction_isolation') = 'serializable'",
     "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
     "SELECT 'kept' FROM dual WHERE @@tx_isolation = 'SERIALIZABLE'", nullptr, nullptr,
     "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE -- MINE", kRemember},
    {"read-only mode", "SET default_transaction_read_only = on",
     "SELECT 'kept' WHERE current_setting('default_transaction_read_only') = 'on'",
     "SET SESSION TRANSACTION READ ONLY", "SELECT 'kept' FROM dual WHERE @@tx_read_only = 1",
     "PRAGMA query_only = 1", "SELECT query_only FROM pragma_query_only", nullptr, nullptr},
    {"user context", "SET ROLE pg_read_all_stats",
     "SELECT 'kept' WHERE current_user = 'pg_read_all_stats'", nullptr, nullptr, nullptr, nullptr,
     "EXECUTE AS USER = 'MINE'", kRemember},
    {"lock of the session", "SELECT pg_advisory_lock(42)",
     "SELECT 'kept' FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
     "SELECT GET_LOCK('mine', 1)",
     "SELECT 'kept' FROM dual WHERE IS_USED_LOCK('mine') = CONNECTION_ID()", nullptr, nullptr,
     "EXEC sp_getapplock 'MINE', 'Exclusive', 'Session'", kRemember},
    {"open transaction", "BEGIN; CREATE TABLE never (x INTEGER)",
     "SELECT 'kept' FROM pg_class WHERE relname = 'never'", "START TRANSACTION READ ONLY",
     "SELECT 'kept' FROM dual WHERE @@in_transaction = 1", nullptr, nullptr,
     "BEGIN TRANSACTION MINE", kRemember},
    {"cursor", "BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 'kept'; COMMIT", "FETCH mine",
     nullptr, nullptr, nullptr, nullptr, "DECLARE MINE CURSOR GLOBAL FOR SELECT 1; OPEN MINE",
     kRemember},
    {"subscription", "LISTEN mine", "SELECT 'kept' FROM pg_listening_channels()", nullptr, nullptr,
     nullptr, nullptr, nullptr, nullptr},
    {"last generated key", nullptr, nullptr, "SELECT LAST_INSERT_ID(77)",
     "SELECT 'kept' FROM dual WHERE LAST_INSERT_ID() = 77", nullptr, nullptr, nullptr, nullptr},
};
constexpr Driver kDrivers[] = {Driver::kLibpq, Driver::kPsqlodbc, Driver::kMariadb, Driver::kSqlite,
                               Driver::kFreetds};

struct Cell {
  Driver driver;
  int item;
};

std::pair<const char*, const char*> texts(const Cell& cell) {
  const Item& item = kItems[cell.item];
  switch (cell.driver) {
    case Driver::kMariadb:
      return {item.mariadb_set, item.mariadb_probe};
    case Driver::kSqlite:
      return {item.sqlite_set, item.sqlite_probe};
    case Driver::kFreetds:
      return {item.mssql_set, item.mssql_probe};
    default:
      return {item.postgres_set, item.postgres_probe};
  }
}

std::vector<Cell> cells() {
  std::vector<Cell> all;
  for (const Driver driver : kDrivers) {
    for (int i = 0; i < static_cast<int>(std::size(kItems)); ++i) {
      if (texts({driver, i}).first != nullptr) all.push_back({driver, i});
    }
  }
  return all;
}

bool is_kept(Session& session, const char* probe) {
  const auto rows = session.execute(Statement(probe), Deadline::after(5s));
  return rows && (rows->scalar() == "kept" || rows->scalar() == "1");
}

std::string cell_name(const ::testing::TestParamInfo<Cell>& info) {
  std::string name = testing::name_of(info.param.driver) + "_" + kItems[info.param.item].name;
  for (char& c : name) {
    if (c == ' ') c = '_';
  }
  std::erase(name, '-');
  return name;
}

// Filled by the cells, written by the last test.
std::map<std::pair<int, Driver>, std::string>& table() {
  static auto& all = *new std::map<std::pair<int, Driver>, std::string>;
  return all;
}

class SurvivalTest : public ::testing::TestWithParam<Cell> {};

TEST_P(SurvivalTest, NothingOfTheBorrowerBeforeIsSeen) {
  const auto [set, probe] = texts(GetParam());
  auto rig = Rig::make(GetParam().driver);
  ASSERT_TRUE(rig) << rig.error().to_text();
  PoolOptions options;
  options.max_size = 1;
  auto pool = (*rig)->pool(options);
  ASSERT_TRUE(pool);
  std::string first_id;
  {
    auto lease = (*pool)->acquire();
    ASSERT_TRUE(lease) << lease.error().to_text();
    first_id = lease->session().info().server_id;
    const auto done = lease->session().execute(Statement(set), Deadline::after(5s));
    ASSERT_TRUE(done) << done.error().to_text();
    EXPECT_TRUE(is_kept(lease->session(), probe)) << "the probe sees nothing to begin with";
  }
  auto lease = (*pool)->acquire();
  ASSERT_TRUE(lease) << lease.error().to_text();
  const bool same = (*pool)->metrics().created.value() == 1;
  EXPECT_FALSE(is_kept(lease->session(), probe)) << "it survived";
  table()[{GetParam().item, GetParam().driver}] = same ? "gone, reset" : "gone, closed";
}

INSTANTIATE_TEST_SUITE_P(Cells, SurvivalTest, ::testing::ValuesIn(cells()), cell_name);

// After a session was lost its successor is new; what comes back by itself is the prepared form of
// a Statement.
class RecoveryTest : public ::testing::TestWithParam<Driver> {};

TEST_P(RecoveryTest, PreparedStatementsArePreparedAnewByThemselves) {
  auto rig = Rig::make(GetParam());
  ASSERT_TRUE(rig) << rig.error().to_text();
  PoolOptions options;
  options.max_size = 1;
  auto pool = (*rig)->pool(options);
  ASSERT_TRUE(pool);
  const Statement prepared("SELECT 40 + 2", {}, true);
  for (int i = 0; i < 3; ++i) {
    SessionInfo info;
    const auto rows = (*pool)->run([&](Lease& db) {
      info = db.session().info();
      return db.execute(prepared);
    });
    ASSERT_TRUE(rows) << rows.error().to_text();
    EXPECT_EQ(rows->scalar(), "42");
    const auto killed = (*rig)->kill(info);
    ASSERT_TRUE(killed) << killed.error().to_text();
  }
  EXPECT_GE((*pool)->metrics().created.value(), 3u);
}

INSTANTIATE_TEST_SUITE_P(Drivers, RecoveryTest, ::testing::ValuesIn(testing::kNetworked),
                         [](const auto& driver) { return testing::name_of(driver.param); });

// Writes or compares the page when all cells have run.
class TableKeeper : public ::testing::Environment {
 public:
  void TearDown() override {
    if (table().size() != cells().size()) return;
    std::string page =
        "# What survives in a session\n\n"
        "Made by the tests (`survival_test.cc`), one for each cell: a borrower leaves something, "
        "returns the\nsession, and the next borrower looks for it. `reset`: the same session was "
        "reset; `closed`: the\ndriver cannot reset, so the pool closed it. After a session was "
        "lost nothing of it survives, and a\nStatement with `prepared` is prepared anew by itself. "
        "FreeTDS talks to a responder, which remembers what\nits session was told and nothing "
        "else: its column shows that the pool closes such sessions, not what\nSQL Server keeps.\n\n"
        "| | libpq | psqlodbc | MariaDB ODBC | SQLite ODBC | FreeTDS "
        "|\n|---|---|---|---|---|---|\n";
    for (int i = 0; i < static_cast<int>(std::size(kItems)); ++i) {
      page += fmt::format("| {} |", kItems[i].name);
      for (const Driver driver : kDrivers) {
        const auto found = table().find({i, driver});
        page += fmt::format(" {} |", found == table().end() ? "-" : found->second);
      }
      page += "\n";
    }
    if (::getenv("DEFIB_REGENERATE") != nullptr) {
      ASSERT_TRUE(os::write_file_atomically(os::real_files(), kPage, page));
      return;
    }
    const auto committed = os::read_file(os::real_files(), kPage);
    ASSERT_TRUE(committed) << committed.error().to_text();
    EXPECT_TRUE(*committed == page) << "docs/connection_survival.md differs:\n" << page;
  }
};
const ::testing::Environment* const table_keeper =
    ::testing::AddGlobalTestEnvironment(new TableKeeper);

}  // namespace
}  // namespace defib::connection
