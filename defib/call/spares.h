// Spares: clients that are ready before they are asked for, so that one that crashed is replaced in
// microseconds and not after a fork and a dlopen.
//
//   call::Spares<PricesApi> spares("libprices.so", options, 2);
//   auto prices = spares.take();          // Result<Client<PricesApi>>
//
// A thread makes up for what was taken. take() gives a spare that still works, and where there is
// none creates a client itself. Making spares stops after kMostFailures failures in a row, until
// one is taken again: a plugin that cannot be loaded is not loaded for ever.
// Thread rule: any thread.

#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "defib/call/client.h"

namespace defib::call {

// Without types.
class SpareSessions {
 public:
  static constexpr int kMostFailures = 3;
  SpareSessions(std::string plugin, ClientOptions options, std::size_t count);
  ~SpareSessions();
  SpareSessions(const SpareSessions&) = delete;
  SpareSessions& operator=(const SpareSessions&) = delete;
  Result<std::shared_ptr<Session>> take();
  // Until so many are ready, or making them has failed. For tests and for a start without
  // surprises.
  bool wait_until_full(Milliseconds timeout) const;

 private:
  void refill(const std::stop_token& stop);
  const std::string plugin_;
  const ClientOptions options_;
  const std::size_t count_;
  mutable std::mutex mutex_;  // guards what follows
  mutable std::condition_variable_any changed_;
  std::deque<std::shared_ptr<Session>> ready_;
  int failures_ = 0;
  std::jthread thread_;
};

template <typename Api>
class Spares {
 public:
  Spares(std::string plugin, ClientOptions options, std::size_t count)
      : sessions_(std::move(plugin), std::move(options), count) {}
  // Errors as of Client<Api>::create().
  Result<Client<Api>> take() {
    DEFIB_TRY_ASSIGN(auto session, sessions_.take());
    return Client<Api>::adopt(std::move(session));
  }
  bool wait_until_full(Milliseconds timeout) const { return sessions_.wait_until_full(timeout); }

 private:
  SpareSessions sessions_;
};

}  // namespace defib::call
