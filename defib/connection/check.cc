#include "defib/connection/check.h"

#include <fmt/core.h>

#include <algorithm>
#include <functional>

namespace defib::connection {
namespace {

using namespace std::chrono_literals;

constexpr int kQueries = 50;
constexpr int kLooks = 1000;
constexpr os::Duration kSlack = 20ms;
constexpr os::Duration kShort = 300ms;

os::Duration since(std::int64_t started) {
  return os::Duration(os::real_clock().mono_ns() - started);
}

class Checker {
 public:
  Checker(Backend& backend, const Dsn& dsn, os::Duration timeout)
      : backend_(backend), dsn_(dsn), timeout_(timeout) {}

  Result<CheckReport> run(bool self_test) {
    report_.data_source = dsn_.redacted();
    const std::int64_t started = os::real_clock().mono_ns();
    DEFIB_TRY_ASSIGN(session_, connect());
    report_.connect = since(started);
    report_.info = session_->info();
    DEFIB_TRY(measure());
    if (self_test) {
      step("prepared statement", [&](CheckStep& s) { return prepared(s); });
      step("error is classified", [&](CheckStep& s) { return classified(s); });
      step("failed transaction", [&](CheckStep& s) { return failed_transaction(s); });
      step("reset", [&](CheckStep& s) { return reset(s); });
      step("deadline", [&](CheckStep& s) { return deadline(s); });
      step("end is noticed", [&](CheckStep& s) { return end_is_noticed(s); });
    }
    return std::move(report_);
  }

 private:
  Deadline limit() const { return Deadline::after(timeout_); }

  Result<std::unique_ptr<Session>> connect() {
    std::vector<HostPort> hosts = dsn_.hosts;
    if (hosts.empty()) hosts.emplace_back();
    std::optional<Error> last;
    for (const HostPort& host : hosts) {
      auto session = backend_.connect({host.host, host.port, dsn_.user, dsn_.password}, limit());
      if (session) return session;
      last = session.error();
    }
    return *last;
  }

  Result<> measure() {
    std::vector<os::Duration> times;
    for (int i = 0; i < kQueries; ++i) {
      const std::int64_t started = os::real_clock().mono_ns();
      DEFIB_TRY(session_->execute("SELECT 1", limit()));
      times.push_back(since(started));
    }
    std::ranges::sort(times);
    report_.query_p50 = times[times.size() / 2];
    report_.query_max = times.back();
    const std::int64_t started = os::real_clock().mono_ns();
    for (int i = 0; i < kLooks; ++i) (void)session_->look();
    report_.look_p50 = since(started) / kLooks;
    return {};
  }

  void step(const char* name, const std::function<Result<>(CheckStep&)>& work) {
    CheckStep step;
    step.name = name;
    const std::int64_t started = os::real_clock().mono_ns();
    Result<> done;
    if (session_->lost() || session_->look() == Liveness::kDead) {
      auto another = connect();
      if (another) {
        session_ = std::move(*another);
      } else {
        done = another.error();
      }
    }
    if (done) done = work(step);
    step.took = since(started);
    step.passed = done.has_value();
    if (!done) step.error = done.error();
    report_.steps.push_back(std::move(step));
  }

  static Result<> wrong(std::string text) { return Error(Code::kInternal, std::move(text)); }

  Result<> prepared(CheckStep& step) {
    for (std::int64_t i = 0; i < 3; ++i) {
      const std::string cast = session_->info().engine == Engine::kPostgresql ? "::bigint" : "";
      DEFIB_TRY_ASSIGN(
          const Rows rows,
          session_->execute(Statement("SELECT " + session_->placeholder(1) + cast, {i}, true),
                            limit()));
      if (rows.scalar() != std::to_string(i)) return wrong("it answered " + rows.scalar());
    }
    step.detail = "executed three times with other values";
    return {};
  }

  Result<> classified(CheckStep& step) {
    const auto rows = session_->execute("SELECT FROM WHERE", limit());
    if (rows) return wrong("nonsense was accepted");
    const FailureClass found = class_of(rows.error());
    step.detail = fmt::format("a syntax error has class {}", to_string(found));
    if (found != FailureClass::kNever) return rows.error();
    return {};
  }

  Result<> failed_transaction(CheckStep& step) {
    DEFIB_TRY(session_->begin(Isolation::kDefault, false, limit()));
    DEFIB_TRY(session_->execute("SELECT 1", limit()));
    (void)session_->execute("SELECT FROM WHERE", limit());
    const auto committed = session_->commit(limit());
    DEFIB_TRY(session_->rollback(limit()));
    if (committed) return wrong("a commit after an error was told as done");
    step.detail = "its commit was refused: " + std::string(committed.error().kind());
    return {};
  }

  Result<> reset(CheckStep& step) {
    const char *set = nullptr, *get = nullptr;
    if (session_->info().engine == Engine::kPostgresql) {
      set = "SET application_name = 'defib-check-mark'";
      get = "SELECT current_setting('application_name')";
    } else if (session_->info().engine == Engine::kMariadb) {
      set = "SET @defib_check = 'defib-check-mark'";
      get = "SELECT @defib_check";
    } else {
      step.skipped = true;
      step.detail = "the engine has no setting to try it with";
      return {};
    }
    DEFIB_TRY(session_->execute(set, limit()));
    const auto done = session_->reset(limit());
    if (!done && done.error().code() == Code::kNotSupportedByDriver) {
      step.detail = "the driver cannot; a pool closes such sessions";
      DEFIB_TRY_ASSIGN(session_, connect());
      return {};
    }
    DEFIB_TRY(done);
    DEFIB_TRY_ASSIGN(const Rows rows, session_->execute(get, limit()));
    if (rows.scalar() == "defib-check-mark") return wrong("a setting survived the reset");
    step.detail = "a setting of the session was gone after it";
    return {};
  }

  Result<> deadline(CheckStep& step) {
    std::string slow;
    if (session_->info().engine == Engine::kPostgresql) slow = "SELECT pg_sleep(3)";
    if (session_->info().engine == Engine::kMariadb) slow = "SELECT SLEEP(3)";
    if (session_->info().engine == Engine::kMssql) slow = "WAITFOR DELAY '00:00:03'";
    if (slow.empty()) {
      step.skipped = true;
      step.detail = "the engine has no statement that waits";
      return {};
    }
    // Three tries, because a loaded machine may be late by itself.
    os::Duration took{0};
    for (int i = 0; i < 3; ++i) {
      if (i > 0) {
        DEFIB_TRY_ASSIGN(session_, connect());
      }
      const std::int64_t started = os::real_clock().mono_ns();
      const auto rows = session_->execute(Statement(slow), Deadline::after(kShort));
      took = since(started);
      if (rows) {
        return wrong("a statement of 3 s was told as done after " + os::format_duration(took));
      }
      if (took <= kShort + kSlack) break;
    }
    step.detail = fmt::format("a statement with a deadline of 300 ms returned after {}",
                              os::format_duration(took));
    if (took > kShort + kSlack) return wrong("it returned late: " + os::format_duration(took));
    return {};
  }

  Result<> end_is_noticed(CheckStep& step) {
    const std::string ending = statement_that_ends(session_->info());
    if (ending.empty() || !session_->info().can.socket_liveness) {
      step.skipped = true;
      step.detail = "there is no socket to look at";
      return {};
    }
    DEFIB_TRY_ASSIGN(const auto other, connect());
    const auto ended = other->execute(Statement(ending), limit());
    if (!ended && !other->lost()) {
      step.skipped = true;
      step.detail = "the user may not end its own sessions";
      return {};
    }
    const std::int64_t started = os::real_clock().mono_ns();
    while (session_->look() != Liveness::kDead) {
      if (since(started) > 2s) return wrong("a session that the server has ended looks alive");
      os::real_clock().sleep_for(1ms);
    }
    step.detail = "a session that the server ended was seen dead without a round trip";
    return {};
  }

  Backend& backend_;
  const Dsn& dsn_;
  os::Duration timeout_;
  std::unique_ptr<Session> session_;
  CheckReport report_;
};

}  // namespace

bool CheckReport::passed() const {
  return std::ranges::all_of(steps, [](const CheckStep& step) { return step.passed; });
}

Result<CheckReport> check_database(Backend& backend, const Dsn& dsn, bool self_test,
                                   os::Duration timeout) {
  return Checker(backend, dsn, timeout).run(self_test);
}

}  // namespace defib::connection
