// What the shim says of starts and hooks, in words for an operator.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/process.h"
#include "defib/process/service_spec.h"
#include "defib/process/shim_protocol.h"

namespace defib::process {

// StartFailed, with the system's error as its cause and what to do about that stage.
Error start_error(const ServiceSpec& spec, const shim::StartFailed& failed);
// What the service has to do without, and what it would need to have it.
Error shortfall_error(const ServiceSpec& spec, const shim::Shortfall& shortfall);

struct HookReport {
  std::string service;
  std::uint64_t generation = 0;
  std::string hook;  // "pre_start" "post_crash" "cleanup"
  bool ok = false;
  bool timed_out = false;
  os::ExitStatus status;  // unknown where it was not started or its end was not seen
  std::int64_t started_mono_ns = 0;
  os::Duration duration{0};
  std::optional<Error> error;  // where it is not ok
};
HookReport hook_report(const ServiceSpec& spec, const shim::HookFinished& finished);

std::string_view to_string(shim::Hook hook);

}  // namespace defib::process
