// Api: what a plugin offers, declared once for both sides.
//
//   struct PricesApi {
//     static constexpr std::string_view kName = "prices";
//     static constexpr std::uint32_t kVersion = 1;
//     struct Price : call::Method<"price", double(std::string symbol, int days)> {};
//     struct Ticks : call::Stream<"ticks", Tick(std::string symbol)> {};
//     using Methods = call::Methods<Price, Ticks>;
//   };
//
// A Method takes arguments and gives one value (or void). A Stream takes arguments and gives
// records of one type: trivially copyable ones travel as they lie in memory (kAnyBitsAreAValue),
// all others, such as std::string, encoded.
// Thread rule: types and pure functions.

#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <vector>

#include "defib/call/codec.h"

namespace defib::call {

template <std::size_t n>
struct FixedText {
  char text[n] = {};
  constexpr FixedText(const char (&from)[n]) {  // NOLINT(google-explicit-constructor)
    std::copy_n(from, n, text);
  }
  constexpr std::string_view view() const { return {text, n - 1}; }
};

namespace detail {

template <typename F>
struct Function;
template <typename R, typename... A>
struct Function<R(A...)> {
  using Result = R;
  using Arguments = std::tuple<Stored<A>...>;
  static constexpr std::size_t kArity = sizeof...(A);
  static std::string parameters() {
    std::string text = "(";
    append_schemas<std::remove_cvref_t<A>...>(text);
    return text + ")";
  }
  // What a plugin's function is called with.
  template <typename Callable>
  static constexpr bool kAccepts = std::is_invocable_r_v<R, Callable, A...>;
  template <typename Writer, typename Callable>
  static constexpr bool kStreams = std::is_invocable_v<Callable, Writer&, A...>;
  template <typename... Given>
  static constexpr bool kTakes =
      sizeof...(Given) == sizeof...(A) && (std::is_convertible_v<Given, A> && ...);
  template <typename Use>
  static auto with_parameters(Arguments& stored, Use&& use) {
    return std::apply([&](auto&... value) { return use(static_cast<A>(std::move(value))...); },
                      stored);
  }
};

}  // namespace detail

template <FixedText name, typename F>
struct Method {
  using Signature = F;
  using Function = detail::Function<F>;
  static constexpr bool kIsStream = false;
  static constexpr std::string_view kName = name.view();
  // "price(s,i4)->f8"
  static std::string signature() {
    return std::string(kName) + Function::parameters() + "->" + schema<typename Function::Result>();
  }
};

template <FixedText name, typename F>
struct Stream {
  using Signature = F;
  using Function = detail::Function<F>;
  using Record = typename Function::Result;
  static constexpr bool kIsStream = true;
  static constexpr bool kAsItLies = kAnyBitsAreAValue<Record>;
  static constexpr std::string_view kName = name.view();
  // "ticks(s)=>r24{i8,i8,i8}"
  static std::string signature() {
    std::string record;
    if constexpr (kAsItLies) {
      record = record_schema<Record>();
    } else {
      record = schema<Record>();
    }
    return std::string(kName) + Function::parameters() + "=>" + record;
  }
};

template <typename... M>
struct Methods {
  static constexpr std::size_t kCount = sizeof...(M);
  static std::vector<std::string> signatures() { return {M::signature()...}; }
  // The place of a method in the list; kCount where it is not in it.
  template <typename Wanted>
  static constexpr std::uint32_t index_of() {
    constexpr bool kSame[] = {std::is_same_v<Wanted, M>..., true};
    return static_cast<std::uint32_t>(std::find(kSame, kSame + kCount, true) - kSame);
  }
};

// What a worker tells about its plugin when it is ready.
struct PluginDescription {
  std::string name;
  std::uint32_t version = 0;
  std::vector<std::string> signatures;  // in the order of the Methods
};

template <typename Api>
PluginDescription describe() {
  return {std::string(Api::kName), Api::kVersion, Api::Methods::signatures()};
}

}  // namespace defib::call
