// FakeBackend: sessions without a server, for the pool's own logic and for measuring it alone.
//
// Thread rule: any thread.

#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "defib/connection/backend.h"

namespace defib::connection::testing {

// What the sessions of one fake server do; shared by the test and the backend.
struct FakeServer {
  std::atomic<bool> up{true};
  std::atomic<bool> read_only{false};
  std::atomic<bool> can_reset{true};
  std::atomic<int> epoch{0};  // sessions of an earlier one are dead
  std::atomic<int> connects{0}, connecting{0}, most_connecting{0}, open{0}, statements{0},
      resets{0}, checks{0};
  std::atomic<std::int64_t> connect_ns{0};  // how long a connect takes
  std::atomic<int> look_fd{-1};             // looked at, where it is set
  // Called for each statement, where set; its error is the statement's.
  std::function<Result<Rows>(const Statement&, int session)> on_execute;
  std::function<Result<>(int session)> on_commit;
  std::function<void(Deadline)> on_deadline;  // of each statement
  std::function<void(Deadline)> on_reset;
  // Of each connect, from 1, on the pool's own threads; its error is the connect's.
  std::function<Result<>(int number)> on_connect;
  std::optional<Error> connect_error;  // of every connect, where it is set before the pool is
};

// An Error as a backend makes it.
Error fake_error(Code code, FailureClass failure_class, const std::string& text);

std::unique_ptr<Backend> make_fake_backend(std::shared_ptr<FakeServer> server);

}  // namespace defib::connection::testing
