// run: one call of the program's own code in a process of its own.
//
//   int main(int argc, char** argv) {
//     auto zygote = call::start_zygote();          // first of all: before there are threads
//     ...
//     Result<double> price = call::run<&vendor_price>("ESM4", 30);
//
// run<&function>(args...) has the zygote fork a worker that calls the function and gives its value
// back. The zygote is the program as it was at start_zygote(): small, with one thread. So the
// function sees the program's code, and its globals as they were then. This is the way to take.
//
//   Result<Book> book = call::run([&] { return rebuild(orders); });
//
// run(callable) forks the calling process as it is now, so that the callable sees everything.
// Limits of that, which are fork(2)'s:
//   - In the child there is one thread. A lock that another thread held is held for ever: the child
//     hangs where it takes it, and the time limit ends it. malloc's locks are safe with glibc.
//   - The fork takes longer the more memory the program has: 8 to 31 ms with 1 GiB.
//   - Descriptors are shared: what the callable reads or writes is read or written.
//   - exit() in the callable runs the program's own exit handlers, in the child.
// There is always a time limit. Arguments and values: codec.h. Errors as of a client's calls
// (NativeCrash and its kin, MethodThrew, NativeOutOfMemory), and WorkerUnavailable.
// Thread rule: any thread; start_zygote() once, while there is one thread.

#pragma once

#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "defib/base/error.h"
#include "defib/call/client.h"
#include "defib/call/plugin.h"
#include "defib/call/session.h"

namespace defib::call {

// The zygote of run<&function>; kept for the program's life.
Result<> start_zygote(HostOptions options = {});

namespace detail {

template <typename F>
struct FunctionPointer;
template <typename R, typename... A>
struct FunctionPointer<R (*)(A...)> {
  using Signature = R(A...);
};
template <typename R, typename... A>
struct FunctionPointer<R (*)(A...) noexcept> {
  using Signature = R(A...);
};

// "vendor_price" of what the compiler calls this instance.
template <auto function>
constexpr std::string_view function_name() {
  constexpr std::string_view kText = __PRETTY_FUNCTION__;
  constexpr std::string_view kBefore = "function = ";
  constexpr std::size_t kStart = kText.find(kBefore);
  if constexpr (kStart == std::string_view::npos) {
    return "a function";
  } else {
    constexpr std::string_view kRest = kText.substr(kStart + kBefore.size());
    return kRest.substr(0, kRest.find_first_of(";]"));
  }
}

template <typename Signature>
struct RunApi {
  static constexpr std::string_view kName = "run";
  static constexpr std::uint32_t kVersion = 1;
  struct Run : Method<"run", Signature> {};
  using Methods = call::Methods<Run>;
};

template <auto function>
const PluginTable* function_table() {
  using Api = RunApi<typename FunctionPointer<decltype(function)>::Signature>;
  return plugin_table<Api, On<typename Api::Run, function>>();
}

// Calls what `session` serves, once.
template <typename Signature, typename... Given>
Result<typename Function<Signature>::Result> call_once(Session& session, std::string_view name,
                                                       const Given&... given) {
  using R = typename Function<Signature>::Result;
  return Sender<Signature>::with_encoded(
      [&](const std::string& bytes, const Summary& summary) -> Result<R> {
        return ask<R>(session, {0, kMaxRings, name, bytes, summary, Milliseconds(0)});
      },
      given...);
}

Result<std::shared_ptr<Session>> start_function(TableFunction function, std::string_view name,
                                                const ClientOptions& options);

// The callable of a run(), in the process that was forked for it.
template <typename Callable>
struct Forked {
  static inline thread_local Callable* callable = nullptr;
  static std::invoke_result_t<Callable&> call() { return (*callable)(); }
};

}  // namespace detail

template <auto function, typename... Given>
  requires std::is_pointer_v<decltype(function)>
auto run_with(const ClientOptions& options, const Given&... given)
    -> Result<typename detail::Function<
        typename detail::FunctionPointer<decltype(function)>::Signature>::Result> {
  using Signature = typename detail::FunctionPointer<decltype(function)>::Signature;
  static_assert(detail::Function<Signature>::template kTakes<Given...>,
                "the function does not take these arguments");
  constexpr std::string_view kName = detail::function_name<function>();
  DEFIB_TRY_ASSIGN(const auto session,
                   detail::start_function(&detail::function_table<function>, kName, options));
  return detail::call_once<Signature>(*session, kName, given...);
}

template <auto function, typename... Given>
  requires std::is_pointer_v<decltype(function)>
auto run(const Given&... given) {
  return run_with<function>(ClientOptions{}, given...);
}

template <typename Callable>
auto run(Callable&& callable, const ClientOptions& options = {})
    -> Result<std::invoke_result_t<std::remove_reference_t<Callable>&>> {
  using Plain = std::remove_reference_t<Callable>;
  using R = std::invoke_result_t<Plain&>;
  using Here = detail::Forked<Plain>;
  Here::callable = &callable;
  const PluginTable* table = detail::function_table<&Here::call>();
  constexpr std::string_view kName = "a callable";
  DEFIB_TRY_ASSIGN(const auto session, Session::start_forked(*table, kName, options));
  return detail::call_once<R()>(*session, kName);
}

}  // namespace defib::call
