// DynamicClient: a plugin in a process of its own, used without its declaration.
//
//   DEFIB_TRY_ASSIGN(auto prices, call::DynamicClient::create("libprices.so"));
//   auto price = prices.call("price", Json::array({"ESM4", 30}));     // Result<Json>
//   DEFIB_TRY_ASSIGN(auto ticks, prices.open("ticks", Json::array({"ESM4"})));
//   for (;;) {
//     DEFIB_TRY_ASSIGN(std::optional<Json> tick, ticks.next());       // nothing: the end
//     if (!tick) break;
//   }
//
// Arguments, results and records are JSON, in the form of json_codec.h. Everything else is as with
// Client<Api> (client.h), which is faster and checked by the compiler: use that where the
// declaration is at hand.
// Thread rule: a client from any thread (its calls run one after the other); a stream from one
// thread at a time.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/call/ring.h"
#include "defib/call/schema.h"
#include "defib/call/session.h"
#include "defib/wire/json.h"

namespace defib::call {

struct DynamicMethod {
  std::string text;                    // as the plugin tells it, fit to be shown
  std::optional<Signature> signature;  // nothing where the text cannot be read
  std::optional<Error> unreadable;     // then why
  // Without arguments and types; where the text cannot be read, the text.
  std::string_view name() const { return signature ? std::string_view(signature->name) : text; }
};

// Records out of a worker.
class DynamicReader {
 public:
  DynamicReader(DynamicReader&& other) noexcept = default;
  DynamicReader& operator=(DynamicReader&& other) noexcept;
  // Tells the stream's function that no more is wanted.
  ~DynamicReader() { close(); }

  // The next record, or nothing at the end. Errors as of Reader<M>::next(); LimitExceeded for a
  // record that takes too much memory as JSON, after which the next one can be asked for.
  Result<std::optional<wire::Json>> next(Milliseconds timeout = Milliseconds(30'000));
  // Records that were taken so far.
  std::uint64_t delivered() const { return delivered_; }
  void cancel() { ring_.cancel(); }

 private:
  friend class DynamicClient;
  DynamicReader(std::shared_ptr<Session> session, std::uint32_t number,
                std::shared_ptr<const Signature> signature);
  Result<bool> wait(Milliseconds timeout);
  bool take_fixed();
  Result<bool> take_message();
  Result<std::optional<wire::Json>> decoded() const;
  void close();

  std::shared_ptr<Session> session_;  // and with it the mapping
  std::uint32_t number_;
  std::shared_ptr<const Signature> signature_;
  RingReader ring_;
  std::string record_;  // a copy, which the worker cannot change
  bool at_end_ = false;
  std::uint64_t delivered_ = 0;
};

class DynamicClient {
 public:
  // Starts a worker and loads the plugin into it. Errors as of Client<Api>::create(), without
  // ApiMismatch.
  static Result<DynamicClient> create(const std::string& plugin, const ClientOptions& options = {});

  const std::string& plugin_name() const { return name_; }  // its own, fit to be shown
  std::uint32_t plugin_version() const { return session_->description().version; }
  const std::vector<DynamicMethod>& methods() const { return *methods_; }
  // NotFound (with the methods that there are), ApiMismatch where its signature cannot be read.
  // The signature lives as long as the client.
  Result<const Signature*> find(std::string_view method) const;

  // `arguments`: an array, with one item a parameter. timeout 0: the client's. Errors as of
  // Client<Api>::call(); InvalidArgument names the argument and what is expected; LimitExceeded
  // for a result that takes too much memory as JSON.
  Result<wire::Json> call(std::string_view method, const wire::Json& arguments,
                          Milliseconds timeout = Milliseconds(0));
  // Errors as of a call; LimitExceeded where too many are open; ApiMismatch where the records do
  // not lie in memory as their structure tells (packed, or aligned by hand).
  Result<DynamicReader> open(std::string_view method, const wire::Json& arguments);

  std::optional<Error> fault() const { return session_->fault(); }
  // Waits for what is known of the fault. Nothing: no fault, or not in time.
  std::optional<FaultReport> report(Milliseconds timeout = Milliseconds(5000)) const {
    return session_->report(timeout);
  }
  pid_t worker_pid() const { return session_->worker_pid(); }

 private:
  explicit DynamicClient(std::shared_ptr<Session> session);
  Result<std::size_t> place_of(std::string_view method) const;

  std::shared_ptr<Session> session_;
  std::string name_;
  std::shared_ptr<const std::vector<DynamicMethod>> methods_;
};

}  // namespace defib::call
