// What every backend must do, against real servers.

#include "defib/connection/backend.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <thread>

#include "defib/connection/libpq_backend.h"
#include "defib/connection/testing/fault_proxy.h"
#include "defib/connection/testing/rig.h"
#include "defib/connection/testing/servers.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;
using testing::FaultProxy;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::PostgresServer;

const Classifier& classifier() {
  static const Classifier one;
  return one;
}

class LibpqTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto started = PostgresServer::start();
    ASSERT_TRUE(started) << started.error().to_text();
    server_ = std::move(*started);
  }
  static void TearDownTestSuite() { server_.reset(); }
  void SetUp() override {
    auto proxy = FaultProxy::start(server_->port());
    ASSERT_TRUE(proxy);
    proxy_ = std::move(*proxy);
    open(server_->dsn(proxy_->port()));
  }
  void open(const std::string& text) {
    auto dsn = Dsn::parse(text);
    ASSERT_TRUE(dsn) << dsn.error().to_text();
    dsn_ = *dsn;
    auto backend = make_libpq_backend(*dsn, classifier());
    ASSERT_TRUE(backend) << backend.error().to_text();
    backend_ = std::move(*backend);
  }
  Result<std::unique_ptr<Session>> connect(os::Duration limit = 10s) {
    return backend_->connect({dsn_.hosts[0].host, dsn_.hosts[0].port, dsn_.user, dsn_.password},
                             Deadline::after(limit));
  }

  static std::unique_ptr<PostgresServer> server_;
  std::unique_ptr<FaultProxy> proxy_;
  Dsn dsn_;
  std::unique_ptr<Backend> backend_;
};
std::unique_ptr<PostgresServer> LibpqTest::server_;

TEST_F(LibpqTest, ValuesGoInAndComeOutTyped) {
  auto session = connect();
  ASSERT_TRUE(session) << session.error().to_text();
  const Statement statement(
      "SELECT $1::bigint, $2::text, $3::float8, $4::bool, $5::bytea, $6::text",
      {std::int64_t{42}, std::string("naïve"), 1.5, true, Blob{std::string("\0\1\377", 3)},
       std::monostate{}},
      true);
  for (int i = 0; i < 2; ++i) {
    const auto rows = (*session)->execute(statement, Deadline::after(5s));
    ASSERT_TRUE(rows) << rows.error().to_text();
    const std::vector<Value>& row = rows->rows.at(0);
    EXPECT_EQ(row[0], Value(std::int64_t{42}));
    EXPECT_EQ(row[1], Value(std::string("naïve")));
    EXPECT_EQ(row[2], Value(1.5));
    EXPECT_EQ(row[3], Value(true));
    EXPECT_EQ(row[4], Value(Blob{std::string("\0\1\377", 3)}));
    EXPECT_TRUE(is_null(row[5]));
  }
}

TEST_F(LibpqTest, ABlackHoleEndsAStatementAtItsDeadline) {
  os::Duration took{0};
  // A loaded machine gets more than one chance to be in time.
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(proxy_->set_mode(FaultProxy::Mode::kPass));
    auto session = connect();
    ASSERT_TRUE(session) << session.error().to_text();
    ASSERT_TRUE(proxy_->set_mode(FaultProxy::Mode::kBlackHole));
    const std::int64_t before = os::real_clock().mono_ns();
    const auto rows = (*session)->execute("SELECT 1", Deadline::after(200ms));
    took = os::Duration(os::real_clock().mono_ns() - before);
    ASSERT_FALSE(rows);
    EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded);
    EXPECT_EQ(class_of(rows.error()), FailureClass::kOutcomeUnknown);
    EXPECT_TRUE((*session)->lost());
    EXPECT_GE(took, 200ms);
    if (took <= 220ms) break;
  }
  EXPECT_LE(took, 220ms);
}

os::Duration since(std::int64_t before) {
  return os::Duration(os::real_clock().mono_ns() - before);
}

std::int64_t plans_of(Session& session) {
  const auto rows =
      session.execute("SELECT count(*) FROM pg_prepared_statements", Deadline::after(5s));
  return rows ? std::get<std::int64_t>(rows->rows.at(0).at(0)) : -1;
}

// What the server cannot do is no stale plan, however often it is tried.
TEST_F(LibpqTest, APreparedStatementThatTheServerCannotDoFailsAtOnce) {
  auto session = connect();
  ASSERT_TRUE(session) << session.error().to_text();
  const Statement statement("SELECT date_trunc($1::text, interval '1 day')", {std::string("week")},
                            true);
  for (int i = 0; i < 3; ++i) {
    const std::int64_t before = os::real_clock().mono_ns();
    const auto rows = (*session)->execute(statement, Deadline::after(2s));
    ASSERT_FALSE(rows);
    EXPECT_EQ(rows.error().code(), Code::kStatementFailed) << rows.error().to_text();
    EXPECT_EQ(rows.error().field("sqlstate"), "0A000");
    EXPECT_LT(since(before), 1s);
  }
  EXPECT_LE(plans_of(**session), 1);
  // In a transaction too, where the server takes no order after the error.
  for (int i = 0; i < 300; ++i) {
    ASSERT_TRUE((*session)->begin(Isolation::kDefault, false, Deadline::after(5s)));
    const auto rows = (*session)->execute(statement, Deadline::after(2s));
    ASSERT_FALSE(rows);
    ASSERT_EQ(rows.error().field("sqlstate"), "0A000") << i << rows.error().to_text();
    ASSERT_TRUE((*session)->rollback(Deadline::after(5s)));
  }
  EXPECT_LE(plans_of(**session), 256);
}

TEST_F(LibpqTest, AStalePlanIsMadeAnewOnceAndTheOldOneGoes) {
  auto session = connect();
  ASSERT_TRUE(session) << session.error().to_text();
  const auto execute = [&](const Statement& statement) {
    return (*session)->execute(statement, Deadline::after(5s));
  };
  ASSERT_TRUE(execute("CREATE TEMPORARY TABLE changing (a INT)"));
  const Statement statement("SELECT * FROM changing", {}, true);
  for (int i = 0; i < 3; ++i) {
    const auto rows = execute(statement);
    ASSERT_TRUE(rows) << rows.error().to_text();
    EXPECT_EQ(rows->columns.size(), static_cast<std::size_t>(i + 1));
    EXPECT_EQ(plans_of(**session), 1);
    ASSERT_TRUE(execute(fmt::format("ALTER TABLE changing ADD b{} INT", i)));
  }
  ASSERT_TRUE(execute("DEALLOCATE ALL"));
  EXPECT_TRUE(execute(statement));
}

TEST_F(LibpqTest, ACopyToTheClientIsRefusedAndTheNextSessionWorks) {
  auto rig = testing::Rig::make(testing::Driver::kLibpq);
  ASSERT_TRUE(rig) << rig.error().to_text();
  auto pool = (*rig)->pool();
  ASSERT_TRUE(pool) << pool.error().to_text();
  os::Duration took{0};
  // A loaded machine gets more than one chance to be in time.
  for (int i = 0; i < 5; ++i) {
    auto lease = (*pool)->acquire(Deadline::after(5s));
    ASSERT_TRUE(lease) << lease.error().to_text();
    const std::int64_t before = os::real_clock().mono_ns();
    const auto rows = lease->execute("COPY (SELECT 1) TO STDOUT", Deadline::after(300ms));
    took = since(before);
    ASSERT_FALSE(rows);
    EXPECT_EQ(rows.error().code(), Code::kNotSupportedByDriver) << rows.error().to_text();
    EXPECT_EQ(class_of(rows.error()), FailureClass::kNever);
    if (took <= 320ms) break;
  }
  EXPECT_LE(took, 320ms);
  auto next = (*pool)->acquire(Deadline::after(5s));
  ASSERT_TRUE(next) << next.error().to_text();
  EXPECT_TRUE(next->execute("SELECT 1", Deadline::after(5s)));
}

// Sends rows faster than libpq takes them: there is always something to read. No real server does.
class FloodingServer {
 public:
  FloodingServer() : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {}, .sin_zero = {}};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener_.get(), any, size), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener_.get(), any, &size), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::jthread([this] { serve(); });
  }
  std::string dsn() const {
    return fmt::format("postgresql://u@127.0.0.1:{}/d?sslmode=disable", port_);
  }

 private:
  static constexpr os::Duration kLongest = 600ms;
  static std::string number(std::uint32_t value, int bytes) {
    std::string out;
    for (int i = bytes - 1; i >= 0; --i) out += static_cast<char>(value >> (8 * i) & 0xff);
    return out;
  }
  static std::string message(char type, const std::string& body) {
    return type + number(static_cast<std::uint32_t>(body.size() + 4), 4) + body;
  }
  static std::string description(std::uint32_t columns) {
    std::string body = number(columns, 2);
    for (std::uint32_t i = 0; i < columns; ++i) {
      body += std::string("c\0", 2) + number(0, 4) + number(0, 2) + number(25, 4) +
              number(0xffff, 2) + number(0xffffffff, 4) + number(0, 2);
    }
    return message('T', body);
  }
  static std::string row(std::uint32_t columns) {
    std::string body = number(columns, 2);
    for (std::uint32_t i = 0; i < columns; ++i) body += number(1, 4) + "7";
    return message('D', body);
  }
  bool receive(char* to, std::size_t size) const {
    return ::recv(client_.get(), to, size, MSG_WAITALL) == static_cast<ssize_t>(size);
  }
  bool send(const std::string& bytes) const {
    return ::send(client_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  // The rest of a message after its type.
  bool skip_message() const {
    unsigned char size[4];
    if (!receive(reinterpret_cast<char*>(size), sizeof size)) return false;
    std::string body((size[0] << 24 | size[1] << 16 | size[2] << 8 | size[3]) - 4, '\0');
    return receive(body.data(), body.size());
  }
  void serve() {
    client_ = os::Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const std::string ready = message('Z', "I");
    char type = 0;
    if (!skip_message() || !send(message('R', number(0, 4)) + ready)) return;
    if (!receive(&type, 1) || !skip_message()) return;
    const std::string done = message('C', std::string("SELECT 1\0", 9));
    if (!send(description(5) + row(5) + done + ready)) return;
    if (!receive(&type, 1) || !skip_message() || !send(description(1))) return;
    std::string many;
    while (many.size() < 1 << 18) many += row(1);
    const Deadline end = Deadline::after(kLongest);
    while (!end.passed() && send(many)) {
    }
  }

  os::Fd listener_, client_;
  std::uint16_t port_ = 0;
  std::jthread thread_;
};

TEST_F(LibpqTest, AFloodOfRowsEndsAtTheDeadline) {
  os::Duration took{0};
  // A loaded machine gets more than one chance to be in time.
  for (int i = 0; i < 5; ++i) {
    FloodingServer server;
    open(server.dsn());
    auto session = connect();
    ASSERT_TRUE(session) << session.error().to_text();
    const std::int64_t before = os::real_clock().mono_ns();
    const auto rows = (*session)->execute("SELECT n FROM numbers", Deadline::after(100ms));
    took = since(before);
    ASSERT_FALSE(rows);
    EXPECT_EQ(rows.error().code(), Code::kDeadlineExceeded) << rows.error().to_text();
    EXPECT_TRUE((*session)->lost());
    if (took <= 120ms) break;
  }
  EXPECT_LE(took, 120ms);
}

TEST_F(LibpqTest, AWrongPasswordIsTheOperatorsAndIsNotShown) {
  dsn_.password = "hunter2-secret";
  const auto session = connect();
  ASSERT_FALSE(session);
  EXPECT_EQ(session.error().code(), Code::kLoginFailed) << session.error().to_text();
  EXPECT_EQ(session.error().field("sqlstate"), "28P01");
  EXPECT_EQ(class_of(session.error()), FailureClass::kOperator);
  EXPECT_THAT(session.error().to_text(), HasSubstr("password authentication failed"));
  EXPECT_THAT(session.error().to_text(), Not(HasSubstr("hunter2")));
}

}  // namespace
}  // namespace defib::connection
