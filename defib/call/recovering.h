// Recovering<Api>: a client that is made anew when it faults, under a policy.
//
//   call::Recovering<PricesApi> prices("libprices.so", options, {.attempts = 3});
//   auto price = prices.call<PricesApi::Price>("ESM4", 30);
//
// A call that faults the client is repeated on a fresh one where the policy says so; when attempts,
// breaker or creation end that, the call gets the last error, or what the fallback gives. Streams
// are opened through follow(), which goes on behind the last record that was delivered.
//
// A breaker opens after `crashes_to_open` faults without a success between them, and then fails at
// once (BreakerOpen, with the last crash as its cause) until `open_for` is over.
// Thread rule: any thread; calls run one after the other.

#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "defib/call/client.h"
#include "defib/os/clock.h"
#include "defib/os/random.h"
#include "defib/recovery/policy.h"

namespace defib::call {

struct RecoveryOptions {
  // Of one call, the first included.
  int attempts = 2;
  recovery::BackoffOptions backoff{.base = std::chrono::milliseconds(10),
                                   .cap = std::chrono::seconds(1),
                                   .first_immediate = true};
  recovery::CircuitBreaker::Options breaker{.failures = 4, .open_for = std::chrono::seconds(30)};
  // An item (Recovering::each) that crashes the library so often is skipped and reported. 0: never.
  int skip_after = 2;
  const os::Clock* clock = &os::real_clock();
};

struct RecoveryCounts {
  std::uint64_t crashes = 0;
  std::uint64_t clients_created = 0;
  std::uint64_t recovered = 0;  // a call or stream went on with a fresh client
  std::uint64_t fallbacks = 0;
  std::uint64_t skipped = 0;
};

// A fault of the client: what a fresh one may cure.
bool is_fault(const Error& error);
Error poisonous_item(std::size_t place, int crashes, const Error& crash);
// Counts defib_call_clients_recovered_total.
void count_recovered(const ClientOptions& options, const std::string& plugin);

template <typename Api>
class Recovering {
 public:
  Recovering(std::string plugin, ClientOptions client, RecoveryOptions options = {})
      : plugin_(std::move(plugin)),
        client_options_(std::move(client)),
        options_(options),
        breaker_(options.breaker, *options.clock) {}

  // The method's value; the last error where no attempt gave one.
  template <typename M, typename... Given>
  Result<typename M::Function::Result> call(const Given&... given) {
    return run<typename M::Function::Result>(
        [&](Client<Api>& client) { return client.template call<M>(given...); });
  }
  // As call(); where that fails by a fault or an open breaker, what `fallback` gives for the error
  // (a cached value, say).
  template <typename M, typename Fallback, typename... Given>
  Result<typename M::Function::Result> call_or(Fallback&& fallback, const Given&... given) {
    auto value = call<M>(given...);
    if (value || !falls_back(value.error())) return value;
    ++counts_.fallbacks;
    return std::forward<Fallback>(fallback)(value.error());
  }

  // Calls `use(client, item)` for each item, each on a client that works. An item that faults it
  // `skip_after` times is skipped: PoisonousItem, with its place and the crash as its cause, is
  // given to `skipped`. Returns at the first error that is no fault.
  template <typename Item, typename Use, typename Skipped>
  Result<> each(const std::vector<Item>& items, Use&& use, Skipped&& skipped) {
    for (std::size_t i = 0; i < items.size(); ++i) {
      int crashes = 0;
      for (;;) {
        auto done =
            once<void>([&](Client<Api>& client) -> Result<> { return use(client, items[i]); });
        if (done) break;
        if (!is_fault(done.error())) return done.error();
        if (++crashes < options_.skip_after || options_.skip_after == 0) continue;
        ++counts_.skipped;
        // It is the item that is ill, not the library.
        breaker_.succeeded();
        skipped(i, poisonous_item(i, crashes, done.error()));
        break;
      }
    }
    return {};
  }

  // Gives each record of a stream to `use`, which returns false for enough. `open(client, last)`
  // opens the stream behind the last record that was delivered (nothing at first), so that a
  // stream goes on after a crash without a gap and without a record twice. Returns at the end, when
  // `use` had enough, or with the last error when attempts in a row brought no record.
  template <typename M, typename Open, typename Use>
  Result<> follow(Open&& open, Use&& use) {
    std::optional<typename M::Record> last;
    int fruitless = 0;
    for (;;) {
      const std::uint64_t before = counts_.crashes;
      bool progressed = false;
      auto ended = once<void>([&](Client<Api>& client) -> Result<> {
        DEFIB_TRY_ASSIGN(Reader<M> reader, open(client, last));
        for (;;) {
          DEFIB_TRY_ASSIGN(std::optional<typename M::Record> record,
                           reader.next(client_options_.call_timeout));
          if (!record) return {};
          progressed = true;
          last = *record;
          if (!use(*record)) return {};
        }
      });
      if (ended || !is_fault(ended.error())) return ended;
      fruitless = progressed ? 0 : fruitless + 1;
      if (fruitless >= options_.attempts || counts_.crashes == before) return ended;
      // Its records show that the library works but for this crash.
      if (progressed) breaker_.succeeded();
    }
  }

  RecoveryCounts counts() const {
    const std::lock_guard lock(mutex_);
    return counts_;
  }
  recovery::CircuitBreaker::State breaker_state() const { return breaker_.state(); }

 private:
  static bool falls_back(const Error& error) {
    return is_fault(error) || error.code() == Code::kBreakerOpen ||
           error.code() == Code::kWorkerUnavailable;
  }

  template <typename R, typename Use>
  Result<R> run(Use&& use) {
    recovery::Backoff backoff(options_.backoff, os::Random(os::random_seed()));
    for (int attempt = 1;; ++attempt) {
      auto value = once<R>(use);
      if (value || !is_fault(value.error()) || attempt >= options_.attempts) return value;
      options_.clock->sleep_for(backoff.next());
    }
  }
  // One attempt on a client that works.
  template <typename R, typename Use>
  Result<R> once(Use&& use) {
    const std::lock_guard lock(mutex_);
    DEFIB_TRY(breaker_.allow());
    if (client_ && client_->fault()) client_.reset();
    if (!client_) {
      auto created = Client<Api>::create(plugin_, client_options_);
      if (!created) {
        breaker_.failed(created.error());
        if (is_fault(created.error())) ++counts_.crashes;
        return created.error();
      }
      client_ = std::move(*created);
      ++counts_.clients_created;
    }
    Result<R> value = use(*client_);
    if (!value && is_fault(value.error())) {
      ++counts_.crashes;
      after_crash_ = true;
      breaker_.failed(value.error());
      client_.reset();
      return value;
    }
    breaker_.succeeded();
    if (after_crash_) {
      after_crash_ = false;
      ++counts_.recovered;
      count_recovered(client_options_, plugin_);
    }
    return value;
  }

  std::string plugin_;
  ClientOptions client_options_;
  RecoveryOptions options_;
  mutable std::recursive_mutex mutex_;  // guards what follows; `use` may ask for counts()
  recovery::CircuitBreaker breaker_;
  std::optional<Client<Api>> client_;
  RecoveryCounts counts_;
  bool after_crash_ = false;  // the next success is a recovery
};

}  // namespace defib::call
