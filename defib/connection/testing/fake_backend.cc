#include "defib/connection/testing/fake_backend.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/connection/socket.h"

namespace defib::connection::testing {
namespace {

class FakeSession : public Session {
 public:
  FakeSession(std::shared_ptr<FakeServer> server, int number)
      : server_(std::move(server)), number_(number), epoch_(server_->epoch) {
    info_.backend = "fake";
    info_.server_id = std::to_string(number);
    info_.read_only = server_->read_only;
    info_.can.reset = true;
    ++server_->open;
  }
  ~FakeSession() override { --server_->open; }

  const SessionInfo& info() const override { return info_; }
  Phase phase() const override { return Phase::kIdle; }
  bool lost() const override { return lost_; }
  bool overran() const override { return false; }
  bool in_transaction() const override { return in_transaction_; }
  bool dirty() const override { return dirty_; }
  bool is_pristine() const override { return !dirty_ && !lost_ && !in_transaction_; }
  Result<Rows> execute(const Statement& statement, Deadline deadline) override {
    ++server_->statements;
    if (server_->on_deadline) server_->on_deadline(deadline);
    dirty_ = true;
    if (epoch_ != server_->epoch) {
      lost_ = true;
      return fake_error(Code::kStatementOutcomeUnknown,
                        in_transaction_ ? FailureClass::kRetryNow : FailureClass::kOutcomeUnknown,
                        "the fake session is dead");
    }
    if (server_->on_execute) return server_->on_execute(statement, number_);
    return Rows{.columns = {"n"}, .rows = {{std::int64_t{1}}}, .affected = 1};
  }
  Result<> begin(Isolation, bool, Deadline) override {
    in_transaction_ = true;
    return {};
  }
  Result<> commit(Deadline) override {
    in_transaction_ = false;
    if (server_->on_commit) return server_->on_commit(number_);
    return {};
  }
  Result<> rollback(Deadline) override {
    in_transaction_ = false;
    return {};
  }
  Result<> reset(Deadline deadline) override {
    ++server_->resets;
    if (server_->on_reset) server_->on_reset(deadline);
    in_transaction_ = false;
    if (!server_->can_reset) return Error(Code::kNotSupportedByDriver, "it cannot be reset");
    dirty_ = false;
    return {};
  }
  Liveness look() const override {
    if (epoch_ != server_->epoch.load(std::memory_order_relaxed)) return Liveness::kDead;
    const int fd = server_->look_fd.load(std::memory_order_relaxed);
    return fd < 0 ? Liveness::kAlive : look_at_socket(fd);
  }
  void abandon() override {}
  void* native_handle() override { return this; }
  std::string placeholder(int) const override { return "?"; }

 private:
  std::shared_ptr<FakeServer> server_;
  int number_;
  int epoch_;
  SessionInfo info_;
  bool lost_ = false, dirty_ = false, in_transaction_ = false;
};

class FakeBackend : public Backend {
 public:
  explicit FakeBackend(std::shared_ptr<FakeServer> server) : server_(std::move(server)) {}
  std::string name() const override { return "fake"; }
  Result<std::unique_ptr<Session>> connect(const ConnectRequest&, Deadline deadline) override {
    const int number = ++server_->connects;
    const int now = ++server_->connecting;
    int most = server_->most_connecting;
    while (now > most && !server_->most_connecting.compare_exchange_weak(most, now)) {
    }
    const os::Duration takes(server_->connect_ns.load());
    if (takes.count() > 0) {
      os::real_clock().sleep_for(std::min(takes, std::max(os::Duration(0), deadline.remaining())));
    }
    --server_->connecting;
    if (server_->connect_error) return *server_->connect_error;
    if (server_->on_connect) DEFIB_TRY(server_->on_connect(number));
    if (!server_->up) {
      return fake_error(Code::kHostUnreachable, FailureClass::kNewConnection, "connection refused");
    }
    return std::unique_ptr<Session>(std::make_unique<FakeSession>(server_, number));
  }

 private:
  std::shared_ptr<FakeServer> server_;
};

}  // namespace

Error fake_error(Code code, FailureClass failure_class, const std::string& text) {
  const bool transient =
      failure_class != FailureClass::kNever && failure_class != FailureClass::kOperator;
  return Error(code, text)
      .with("class", to_string(failure_class))
      .with("phase", "statement")
      .with("transient", transient ? "yes" : "no");
}

std::unique_ptr<Backend> make_fake_backend(std::shared_ptr<FakeServer> server) {
  return std::make_unique<FakeBackend>(std::move(server));
}

}  // namespace defib::connection::testing
