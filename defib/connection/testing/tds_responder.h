// TdsResponder: a small SQL Server that is none: it logs clients in, routes them on, and answers
// statements with the errors that a test wants to see, such as Azure's. It keeps no state of a
// session but what it was told: "SELECT 1 /* remember WORD */" answers "kept" where an earlier
// statement of the same session held the word.
//
// Thread rule: any thread; one thread for each connection.

#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "defib/base/error.h"
#include "defib/connection/testing/tds_protocol.h"
#include "defib/os/fd.h"

namespace defib::connection::testing {

class TdsResponder {
 public:
  struct Answer {
    std::int32_t error = 0;  // 0: success
    std::string text;
    bool hang_up = false;  // closes instead of answering
    bool silent = false;   // never answers
  };

  static Result<std::unique_ptr<TdsResponder>> start();
  ~TdsResponder();

  std::uint16_t port() const { return port_; }
  // To each login, until it is set back; 0: it succeeds.
  void fail_logins(std::int32_t number, const std::string& text);
  // Sends each login on to that port of this machine; 0: no more.
  void route_to(std::uint16_t port);
  // To statements that hold the word; to a transaction's end: "BEGIN", "COMMIT" and "ROLLBACK".
  void answer(const std::string& word, Answer answer);
  void forget_answers();
  int logins() const { return logins_.load(); }
  int statements() const { return statements_.load(); }
  std::optional<tds::Login> last_login() const;
  void close_all();

 private:
  TdsResponder() = default;
  void accept_loop();
  void serve(int fd);
  std::string reply_to_login(const tds::Login& login, bool& close);
  std::optional<std::string> reply_to(const tds::Message& message, std::string& told, bool& close);
  std::optional<std::string> reply_to_text(const std::string& text, std::string& told, bool& close);

  std::uint16_t port_ = 0;
  os::Fd listener_;
  std::atomic<int> logins_{0}, statements_{0};
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::int32_t login_error_ = 0;           // guarded by mutex_
  std::string login_text_;                 // guarded by mutex_
  std::uint16_t route_ = 0;                // guarded by mutex_
  std::map<std::string, Answer> answers_;  // guarded by mutex_
  std::optional<tds::Login> last_login_;   // guarded by mutex_
  std::vector<int> open_;                  // guarded by mutex_
  std::vector<std::thread> threads_;       // guarded by mutex_
  std::thread acceptor_;
};

}  // namespace defib::connection::testing
