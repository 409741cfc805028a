// Plugin: what the code in a worker is written against. This header is all that it needs; what it
// refers to is in the program that loads the plugin.
//
//   // libprices.so
//   #include "defib/call/plugin.h"
//   #include "prices_api.h"
//   double price(std::string symbol, int days) { return vendor_price(symbol.c_str(), days); }
//   void ticks(defib::call::Writer<Tick>& out, std::string symbol) {
//     while (vendor_next(symbol.c_str(), &tick) && out.push(tick)) {}
//   }
//   DEFIB_CALL_PLUGIN(PricesApi, defib::call::On<PricesApi::Price, price>,
//                     defib::call::On<PricesApi::Ticks, ticks>)
//
// A method may throw: its caller gets the exception's type and text as an ordinary Error, and the
// client lives on. std::bad_alloc becomes an Error about memory. Methods run one at a time, on the
// worker's main thread; each stream runs on a thread of its own. Globals are the client's own: one
// client, one process.

#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "defib/call/api.h"
#include "defib/call/channel.h"
#include "defib/call/ring.h"

namespace defib::call {

inline constexpr std::uint32_t kPluginAbi = 1;
inline constexpr char kPluginEntry[] = "defib_call_plugin_v1";

// Tells that a long method gets on. A client with a `hang_timeout` takes a worker whose progress
// stands still for so long for hung.
void progress();

// The records of a stream. push() waits while the ring is full.
template <typename T>
class Writer {
 public:
  explicit Writer(RingWriter& ring) : ring_(&ring) {}

  // False: the reader wants no more; return then.
  bool push(const T& record) {
    if constexpr (kAnyBitsAreAValue<T>) {
      if (!ring_->reserve(1)) return false;
      records()[ring_->head() & (ring_->capacity() - 1)] = record;
      ring_->advance(1);
      ring_->publish();
      return true;
    } else {
      bytes_.clear();
      Encoder(bytes_).put(record);
      bool too_large = false;
      if (write_message(*ring_, bytes_, too_large)) return true;
      if (too_large) throw std::length_error("a record is larger than half of the stream's ring");
      return false;
    }
  }
  // As many at once: the reader is woken at most once for each piece that the ring has room for.
  bool push(std::span<const T> records_given) {
    if constexpr (kAnyBitsAreAValue<T>) {
      const std::uint64_t most = ring_->capacity() / 4;
      while (!records_given.empty()) {
        const std::uint64_t count = records_given.size() < most ? records_given.size() : most;
        if (!ring_->reserve(count)) return false;
        put(records_given.first(count));
        ring_->publish();
        records_given = records_given.subspan(count);
      }
      return true;
    } else {
      for (const T& record : records_given) {
        if (!push(record)) return false;
      }
      return true;
    }
  }
  bool cancelled() const { return ring_->cancelled(); }

 private:
  T* records() { return reinterpret_cast<T*>(ring_->bytes()); }
  void put(std::span<const T> some) {
    const std::uint64_t at = ring_->head() & (ring_->capacity() - 1);
    const std::uint64_t to_end = ring_->capacity() - at;
    const std::uint64_t first = some.size() < to_end ? some.size() : to_end;
    std::memcpy(static_cast<void*>(records() + at), some.data(), first * sizeof(T));
    std::memcpy(static_cast<void*>(records()), some.data() + first,
                (some.size() - first) * sizeof(T));
    ring_->advance(some.size());
  }
  RingWriter* ring_;
  std::string bytes_;
};

// How a result leaves a method: bytes for the reply.
using Reply = std::string;

// A plugin as its worker sees it. Plain types: the two are compiled apart.
struct PluginMethod {
  const char* signature;
  bool is_stream;
  bool as_it_lies;  // of a stream: records of one size
  std::uint64_t record_size;
  // Method: gives the reply's status; never throws.
  ReplyStatus (*invoke)(std::string_view arguments, Reply& reply);
  // Stream: returns when the stream has ended; never throws.
  ReplyStatus (*stream)(std::string_view arguments, RingWriter& ring, Reply& reply);
};
struct PluginTable {
  std::uint32_t abi;
  std::uint32_t version;
  const char* name;
  std::uint32_t count;
  const PluginMethod* methods;
};

// The exception that is being handled, as {type, text}.
ReplyStatus describe_exception(Reply& reply);

namespace detail {

template <auto function, typename F>
ReplyStatus invoke(std::string_view bytes, Reply& reply) {
  typename F::Arguments arguments{};
  Decoder decoder(bytes);
  if (!decoder.get(arguments) || !decoder.done()) return ReplyStatus::kBadArguments;
  try {
    F::with_parameters(arguments, [&](auto&&... argument) {
      if constexpr (std::is_void_v<typename F::Result>) {
        function(std::forward<decltype(argument)>(argument)...);
      } else {
        const typename F::Result& result = function(std::forward<decltype(argument)>(argument)...);
        Encoder(reply).put(result);
      }
    });
    return ReplyStatus::kValue;
  } catch (...) {
    return describe_exception(reply);
  }
}

template <auto function, typename M>
ReplyStatus stream(std::string_view bytes, RingWriter& ring, Reply& reply) {
  using F = typename M::Function;
  typename F::Arguments arguments{};
  Decoder decoder(bytes);
  if (!decoder.get(arguments) || !decoder.done()) return ReplyStatus::kBadArguments;
  try {
    Writer<typename M::Record> writer(ring);
    F::with_parameters(arguments, [&](auto&&... argument) {
      function(writer, std::forward<decltype(argument)>(argument)...);
    });
    return ReplyStatus::kValue;
  } catch (...) {
    return describe_exception(reply);
  }
}

}  // namespace detail

// Binds one of the Api's methods to a function.
template <typename M, auto function>
struct On {
  using Bound = M;
  static PluginMethod entry() {
    static const std::string signature = M::signature();
    PluginMethod method = {signature.c_str(), M::kIsStream, false, 0, nullptr, nullptr};
    if constexpr (M::kIsStream) {
      static_assert(M::Function::template kStreams<Writer<typename M::Record>, decltype(function)>,
                    "the function of a stream takes a Writer<Record>& and the declared arguments");
      method.as_it_lies = M::kAsItLies;
      method.record_size = sizeof(typename M::Record);
      method.stream = &detail::stream<function, M>;
    } else {
      static_assert(M::Function::template kAccepts<decltype(function)>,
                    "the function does not take the declared arguments, or gives another result");
      method.invoke = &detail::invoke<function, typename M::Function>;
    }
    return method;
  }
};

template <typename Api, typename... Bindings>
const PluginTable* plugin_table() {
  return []<typename... M>(Methods<M...>) {
    constexpr auto kTimes = []<typename Wanted>(Wanted*) {
      return (0 + ... + (std::is_same_v<typename Bindings::Bound, Wanted> ? 1 : 0));
    };
    static_assert(((kTimes(static_cast<M*>(nullptr)) == 1) && ...),
                  "each method of the Api is bound to one function");
    static_assert(sizeof...(Bindings) == sizeof...(M),
                  "a function is bound to no method of the Api");
    static PluginMethod methods[sizeof...(M) + 1];
    ((methods[Api::Methods::template index_of<typename Bindings::Bound>()] = Bindings::entry()),
     ...);
    static const std::string name(Api::kName);
    static const PluginTable table = {kPluginAbi, Api::kVersion, name.c_str(), sizeof...(M),
                                      methods};
    return &table;
  }(typename Api::Methods{});
}

}  // namespace defib::call

#define DEFIB_CALL_PLUGIN(Api, ...)                                                   \
  extern "C" __attribute__((visibility("default"))) const ::defib::call::PluginTable* \
  defib_call_plugin_v1() {                                                            \
    return ::defib::call::plugin_table<Api, __VA_ARGS__>();                           \
  }
