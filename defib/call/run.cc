#include "defib/call/run.h"

#include <mutex>

namespace defib::call {
namespace {

struct Zygote {
  std::mutex mutex;
  std::shared_ptr<Host> host;  // guarded by mutex
};

Zygote& own_zygote() {
  static auto* zygote = new Zygote;  // Never destroyed: threads may run on after main().
  return *zygote;
}

}  // namespace

Result<> start_zygote(HostOptions options) {
  Zygote& zygote = own_zygote();
  const std::lock_guard lock(zygote.mutex);
  if (zygote.host != nullptr) return {};
  DEFIB_TRY_ASSIGN(zygote.host, Host::fork_here(std::move(options)));
  return {};
}

namespace detail {

Result<std::shared_ptr<Session>> start_function(TableFunction function, std::string_view name,
                                                const ClientOptions& options) {
  ClientOptions with_host = options;
  {
    Zygote& zygote = own_zygote();
    const std::lock_guard lock(zygote.mutex);
    if (zygote.host == nullptr) {
      return Error(Code::kWorkerUnavailable,
                   "there is no zygote of this program to run a function in")
          .suggest("call defib::call::start_zygote() first in main()");
    }
    with_host.host = zygote.host;
  }
  return Session::start_function(function, name, with_host);
}

}  // namespace detail
}  // namespace defib::call
