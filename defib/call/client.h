// Client<Api>: a plugin in a process of its own, used like an object of this one.
//
//   DEFIB_TRY_ASSIGN(auto prices, call::Client<PricesApi>::create("libprices.so"));
//   auto price = prices.call<PricesApi::Price>("ESM4", 30);           // Result<double>
//   DEFIB_TRY_ASSIGN(auto ticks, prices.open<PricesApi::Ticks>("ESM4"));
//   for (;;) {
//     DEFIB_TRY_ASSIGN(std::optional<Tick> tick, ticks.next());      // nothing: the end
//     if (!tick) break;
//   }
//
// When the library crashes, the call gets NativeCrash, and every other call and stream of this
// client ClientFaulted, at once and for ever; a new client works. Other clients notice nothing.
// Errors: docs/call.md.
// Thread rule: a client from any thread (its calls run one after the other); a stream from one
// thread at a time.

#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>

#include "defib/base/assert.h"
#include "defib/base/error.h"
#include "defib/call/api.h"
#include "defib/call/session.h"

namespace defib::call {

namespace detail {

template <typename... A>
Summary summary_of(const std::tuple<A...>& arguments) {
  return {&arguments, [](std::string& out, const void* given) {
            const auto& values = *static_cast<const std::tuple<A...>*>(given);
            std::apply(
                [&](const auto&... value) {
                  bool first = true;
                  ((out += first ? "" : ", ", first = false, summarize(out, value)), ...);
                },
                values);
          }};
}

// One call, and its reply as an R.
template <typename R>
Result<R> ask(Session& session, const CallRequest& request) {
  if constexpr (std::is_void_v<R>) {
    return session.call(request, [](std::string_view reply) { return reply.empty(); });
  } else {
    std::optional<R> value;
    DEFIB_TRY(session.call(request, [&](std::string_view reply) {
      value = decode<R>(reply);
      return value.has_value();
    }));
    return std::move(*value);
  }
}

// The arguments as the method declares them, so that 5 becomes a double where one is asked for.
// Texts and spans stay views.
template <typename Sent, typename Given>
decltype(auto) as_sent(const Given& given) {
  using T = std::remove_cvref_t<Sent>;
  if constexpr (std::is_same_v<T, Given> || kIsSpan<T> || kIsText<T>) {
    if constexpr (kIsText<T>) {
      return std::string_view(given);
    } else if constexpr (kIsSpan<T>) {
      return T(given);
    } else {
      return static_cast<const T&>(given);
    }
  } else {
    return static_cast<T>(given);
  }
}

template <typename Signature>
struct Sender;
template <typename R, typename... A>
struct Sender<R(A...)> {
  // Calls `use(encoded arguments, their summary)`.
  template <typename Use, typename... Given>
  static auto with_encoded(Use&& use, const Given&... given) {
    const std::tuple<decltype(as_sent<A>(given))...> values(as_sent<A>(given)...);
    std::string bytes;
    Encoder encoder(bytes);
    std::apply([&](const auto&... value) { (encoder.put(value), ...); }, values);
    return use(bytes, summary_of(values));
  }
};

}  // namespace detail

// Records out of a worker.
template <typename M>
class Reader {
 public:
  using Record = typename M::Record;

  Reader(Reader&&) noexcept = default;
  Reader& operator=(Reader&& other) noexcept {
    close();
    session_ = std::move(other.session_);
    number_ = other.number_;
    ring_ = other.ring_;
    at_end_ = other.at_end_;
    delivered_ = other.delivered_;
    return *this;
  }
  // Tells the stream's function that no more is wanted.
  ~Reader() { close(); }

  // The next record, or nothing at the end. Timeout where none comes in time: ask again. Errors of
  // the stream: what its function threw, NativeCrash, ClientFaulted; all records that were
  // published before come first.
  Result<std::optional<Record>> next(Milliseconds timeout = Milliseconds(30'000)) {
    if constexpr (M::kAsItLies) {
      if (ring_.ready() == 0) {
        DEFIB_TRY_ASSIGN(const bool more, wait(timeout));
        if (!more) return std::optional<Record>();
      }
      // What earlier calls took. This one's record must still be there when it is copied, once, to
      // where it is returned: a variable in between would cost as much again.
      ring_.give_back_some();
      const Record& record = records()[ring_.position() & (ring_.capacity() - 1)];
      ring_.pass(1);
      ++delivered_;
      return Result<std::optional<Record>>(std::in_place, std::in_place, record);
    } else {
      return next_message(timeout);
    }
  }
  // The records that are there, where they lie (waits for one at least; empty: the end). They stay
  // until consume(); a broken worker may change their values meanwhile, and nothing else.
  Result<std::span<const Record>> peek(Milliseconds timeout = Milliseconds(30'000))
    requires M::kAsItLies
  {
    if (ring_.ready() == 0) {
      DEFIB_TRY_ASSIGN(const bool more, wait(timeout));
      if (!more) return std::span<const Record>();
    }
    const std::uint64_t at = ring_.position() & (ring_.capacity() - 1);
    const std::uint64_t count = std::min(ring_.ready(), ring_.capacity() - at);
    return std::span<const Record>(records() + at, count);
  }
  void consume(std::size_t count)
    requires M::kAsItLies
  {
    DEFIB_ASSERT(count <= ring_.ready());
    ring_.advance(count);
    delivered_ += count;
  }
  // Records that were taken so far.
  std::uint64_t delivered() const { return delivered_; }
  void cancel() { ring_.cancel(); }

 private:
  template <typename Api>
  friend class Client;
  Reader(std::shared_ptr<Session> session, std::uint32_t number)
      : session_(std::move(session)),
        number_(number),
        ring_(session_->ring_reader(number, M::kAsItLies ? sizeof(Record) : 0)) {}

  const Record* records() const { return reinterpret_cast<const Record*>(ring_.bytes()); }
  Result<bool> wait(Milliseconds timeout) {
    if (at_end_) return false;
    if (ring_.look() && ring_.ready() > 0) return true;
    DEFIB_TRY_ASSIGN(const bool more, session_->wait_for_records(ring_, number_, timeout));
    at_end_ = !more;
    return more;
  }
  Result<std::optional<Record>> next_message(Milliseconds timeout) {
    for (;;) {
      std::string_view bytes;
      std::uint64_t units = 0;
      switch (read_message(ring_, bytes, units)) {
        case MessageRead::kMessage: {
          auto record = decode<Record>(bytes);
          if (!record)
            return session_->broken_stream(number_, "a record is not of the declared type");
          ring_.advance(units);
          ++delivered_;
          return record;
        }
        case MessageRead::kBroken:
          return session_->broken_stream(number_, "a record's length is impossible");
        case MessageRead::kNothing:
          break;
      }
      DEFIB_TRY_ASSIGN(const bool more, wait(timeout));
      if (!more) return std::optional<Record>();
    }
  }
  void close() {
    if (session_ != nullptr) session_->close_stream(number_, ring_);
    session_.reset();
  }

  std::shared_ptr<Session> session_;  // and with it the mapping
  std::uint32_t number_;
  RingReader ring_;
  bool at_end_ = false;
  std::uint64_t delivered_ = 0;
};

// What `Api` declares and `described` lacks or has otherwise, for a person; empty: they agree.
std::string api_difference(const PluginDescription& declared, const PluginDescription& described);

template <typename Api>
class Client {
 public:
  // Starts a worker and loads the plugin into it. Errors: WorkerUnavailable, PluginUnloadable,
  // ApiMismatch (another name, version or signature), NativeCrash and its kin where loading it
  // crashed, Unavailable where the machine cannot isolate as asked.
  static Result<Client> create(const std::string& plugin, const ClientOptions& options = {}) {
    DEFIB_TRY_ASSIGN(auto session, Session::start(plugin, options));
    return adopt(std::move(session));
  }
  // Of a session that was started before.
  static Result<Client> adopt(std::shared_ptr<Session> session) {
    const std::string difference = api_difference(describe<Api>(), session->description());
    if (!difference.empty()) return Error(Code::kApiMismatch, difference);
    return Client(std::move(session));
  }

  template <typename M, typename... Given>
  auto call(const Given&... given) {
    return call_within<M>(Milliseconds(0), given...);
  }
  // With a time limit of its own; 0: the client's.
  template <typename M, typename... Given>
  auto call_within(Milliseconds timeout, const Given&... given) {
    static_assert(!M::kIsStream, "open() a stream");
    static_assert(M::Function::template kTakes<Given...>,
                  "the method does not take these arguments");
    using R = typename M::Function::Result;
    return Sender<M>::with_encoded(
        [&](const std::string& bytes, const Summary& summary) -> Result<R> {
          return detail::ask<R>(*session_,
                                {index_of<M>(), kMaxRings, M::kName, bytes, summary, timeout});
        },
        given...);
  }
  // Errors as of a call; LimitExceeded where too many are open.
  template <typename M, typename... Given>
  Result<Reader<M>> open(const Given&... given) {
    static_assert(M::kIsStream, "call() a method");
    static_assert(M::Function::template kTakes<Given...>,
                  "the stream does not take these arguments");
    return Sender<M>::with_encoded(
        [&](const std::string& bytes, const Summary& summary) -> Result<Reader<M>> {
          const CallRequest request{index_of<M>(), kMaxRings, M::kName,
                                    bytes,         summary,   Milliseconds(0)};
          DEFIB_TRY_ASSIGN(const std::uint32_t number, session_->open_stream(request));
          return Reader<M>(session_, number);
        },
        given...);
  }

  // ClientFaulted, or nothing while the client can be used.
  std::optional<Error> fault() const { return session_->fault(); }
  // What is known of the fault, with its backtrace; waits for it. Nothing: no fault, or not in
  // time.
  std::optional<FaultReport> report(Milliseconds timeout = Milliseconds(5000)) const {
    return session_->report(timeout);
  }
  pid_t worker_pid() const { return session_->worker_pid(); }
  Session& session() const { return *session_; }

 private:
  template <typename M>
  using Sender = detail::Sender<typename M::Signature>;
  explicit Client(std::shared_ptr<Session> session) : session_(std::move(session)) {}
  template <typename M>
  static constexpr std::uint32_t index_of() {
    constexpr std::uint32_t kIndex = Api::Methods::template index_of<M>();
    static_assert(kIndex < Api::Methods::kCount, "the method is not in the Api's list");
    return kIndex;
  }
  std::shared_ptr<Session> session_;
};

}  // namespace defib::call
