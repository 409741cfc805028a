// Service: the whole venue behind two request handlers: the dialect for clients, and the
// administration for tests and demonstrations.
//
// Invariant: what an answer rests on is in the ledger before the answer leaves; when the ledger
// cannot be written, the venue answers nothing any more (failed()).
// Thread rule: every function from any thread; one mutex guards the state.

#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/paper/binance.h"
#include "defib/paper/binance_futures.h"
#include "defib/paper/coinbase.h"
#include "defib/paper/core.h"
#include "defib/paper/dialect.h"
#include "defib/paper/faults.h"
#include "defib/paper/kraken.h"
#include "defib/paper/ledger.h"
#include "defib/wire/http.h"

namespace defib::paper {

class Service {
 public:
  struct Options {
    Core::Options core;
    std::string dialect = "binance";  // or "kraken", "coinbase", "binance_futures"
    Binance::Options binance;
    Kraken::Options kraken;
    Coinbase::Options coinbase;
    BinanceFutures::Options futures;
    std::string ledger_path;
    // Made once, when the ledger is new.
    std::vector<std::pair<std::string, Decimal>> deposits;
    std::vector<FaultRule> faults;
  };
  using Reply = wire::HttpServer::Reply;

  // Opens or creates the ledger and goes on with its state.
  static Result<std::unique_ptr<Service>> open(Options options, os::Files& files,
                                               const os::Clock& clock);
  // The venue's own port. May sleep where the fault plan delays the request.
  Reply trade(const wire::HttpRequest& request);
  // The administration's port: /paper/... (docs/paper.md).
  Reply administer(const wire::HttpRequest& request);
  // Runs the market steps that are due; to be called every few milliseconds, so that the market
  // trades while no client is there.
  void tick();
  bool failed() const;
  std::string digest() const;

 private:
  Service(Options options, const os::Clock& clock);
  Micros now() const { return clock_.wall_ns() / 1000; }
  // Both with the mutex held. flush() is false where the ledger could not be written.
  bool flush();
  Result<wire::Json> administer_locked(std::string_view method, std::string_view path,
                                       const std::string& body);
  wire::Json state() const;
  wire::Json fault_list() const;
  Result<wire::Json> set_faults(std::string_view method, const std::string& body);
  Result<wire::Json> place_external(const wire::Json& body);
  Result<wire::Json> change(std::string_view path, const wire::Json& body);
  Result<std::uint32_t> symbol_of(const wire::Json& body) const;

  const os::Clock& clock_;
  mutable std::mutex mutex_;  // guards all below
  Core core_;
  FaultPlan faults_;
  std::unique_ptr<Dialect> dialect_;
  std::unique_ptr<Ledger> ledger_;
  bool failed_ = false;
};

}  // namespace defib::paper
