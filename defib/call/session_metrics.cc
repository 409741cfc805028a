// What a Session counts. docs/call.md has the list.

#include <fmt/format.h>

#include "defib/call/session.h"

namespace defib::call {

void Session::prepare_metrics() {
  if (options_.metrics == nullptr) return;
  options_.metrics
      ->counter("defib_call_clients_created_total", "Clients of native libraries that were created",
                {{"plugin", file_}})
      .add();
}

void Session::count_crash() {
  if (options_.metrics == nullptr) return;
  std::string failure;
  {
    const std::lock_guard lock(mutex_);
    failure = to_string(fault_->kind);
  }
  options_.metrics
      ->counter("defib_call_native_crashes_total", "Faults of native libraries, by their kind",
                {{"plugin", file_}, {"failure", failure}})
      .add();
}

// With call_mutex_ held.
void Session::count_call(std::uint32_t method, std::int64_t took_ns) {
  if (options_.metrics == nullptr || method >= description_.signatures.size()) return;
  if (durations_.size() <= method) durations_.resize(description_.signatures.size());
  if (!durations_[method]) {
    const std::string& signature = description_.signatures[method];
    durations_[method] = options_.metrics->histogram(
        "defib_call_operation_duration_seconds", "Time of calls that gave a value",
        obs::Unit::kNanoseconds,
        {{"plugin", file_}, {"method", signature.substr(0, signature.find('('))}});
  }
  durations_[method]->record(took_ns < 0 ? 0 : static_cast<std::uint64_t>(took_ns));
}

}  // namespace defib::call
