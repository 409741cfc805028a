#include "defib/call/recovering.h"

#include <fmt/format.h>

#include <filesystem>

namespace defib::call {

bool is_fault(const Error& error) {
  switch (error.code()) {
    case Code::kNativeCrash:
    case Code::kClientFaulted:
    case Code::kNativeTimeLimit:
    case Code::kNativeHang:
    case Code::kNativeProtocol:
    case Code::kNativeLimit:
    case Code::kNativeExit:
    case Code::kWorkerKilled:
      return true;
    default:
      return false;
  }
}

void count_recovered(const ClientOptions& options, const std::string& plugin) {
  if (options.metrics == nullptr) return;
  options.metrics
      ->counter("defib_call_clients_recovered_total",
                "Faulted clients after which a fresh one did its first work",
                {{"plugin", std::filesystem::path(plugin).filename().string()}})
      .add();
}

Error poisonous_item(std::size_t place, int crashes, const Error& crash) {
  return Error(Code::kPoisonousItem,
               fmt::format("item {} crashed the native library {} times and is skipped", place,
                           crashes))
      .with("item", static_cast<std::int64_t>(place))
      .because(crash);
}

}  // namespace defib::call
