#include "defib/process/service_state.h"

#include <array>

namespace defib::process {
namespace {

using S = ServiceState;
using E = ServiceEvent;

constexpr std::array<std::string_view, kServiceStates> kStateNames = {
    "starting",    "running",  "degraded", "recovering", "monitoring", "ramping",
    "backing_off", "stopping", "stopped",  "standby",    "failed",     "awaiting_approval"};
constexpr std::array<std::string_view, kServiceEvents> kEventNames = {
    "started",      "ready",        "says_running",           "says_recovering", "says_monitoring",
    "says_ramping", "says_standby", "says_awaiting_approval", "unhealthy",       "healthy",
    "killing",      "exited_final", "exited_failed",          "exited_restart",  "reset"};

// No transition: the event does not concern the state.
constexpr S kNo = static_cast<S>(0xff);

// Short names, so that the table stays a table.
constexpr S kSt = S::kStarting, kRu = S::kRunning, kDe = S::kDegraded, kRe = S::kRecovering;
constexpr S kMo = S::kMonitoring, kRa = S::kRamping, kBo = S::kBackingOff, kSg = S::kStopping;
constexpr S kSd = S::kStopped, kSb = S::kStandby, kFa = S::kFailed, kAp = S::kAwaitingApproval;

// Rows are states, columns events, both in the order of their enums. A process that is being
// stopped says nothing that matters any more, a dead one neither; a start may be seen in any state
// without a process (by request, by a ticket, by adoption).
// clang-format off
constexpr S kTable[kServiceStates][kServiceEvents] = {
// start rdy  run  rcov moni ramp stby appr unhl heal kill fin  fail rest reset
  {kNo, kRu, kRu, kRe, kMo, kRa, kSb, kAp, kDe, kNo, kSg, kSd, kFa, kBo, kNo},  // starting
  {kNo, kNo, kNo, kRe, kMo, kRa, kSb, kAp, kDe, kNo, kSg, kSd, kFa, kBo, kNo},  // running
  {kNo, kNo, kNo, kRe, kMo, kRa, kSb, kAp, kNo, kRu, kSg, kSd, kFa, kBo, kNo},  // degraded
  {kNo, kNo, kRu, kNo, kMo, kRa, kSb, kAp, kDe, kNo, kSg, kSd, kFa, kBo, kNo},  // recovering
  {kNo, kNo, kRu, kRe, kNo, kRa, kSb, kAp, kDe, kNo, kSg, kSd, kFa, kBo, kNo},  // monitoring
  {kNo, kNo, kRu, kRe, kMo, kNo, kSb, kAp, kDe, kNo, kSg, kSd, kFa, kBo, kNo},  // ramping
  {kSt, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kSd, kFa, kNo, kSd},  // backing_off
  {kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kSd, kFa, kBo, kNo},  // stopping
  {kSt, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kFa, kBo, kNo},  // stopped
  {kNo, kNo, kRu, kRe, kMo, kRa, kNo, kAp, kDe, kNo, kSg, kSd, kFa, kBo, kNo},  // standby
  {kSt, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kNo, kSd, kNo, kNo, kSd},  // failed
  {kNo, kNo, kRu, kRe, kMo, kRa, kSb, kNo, kDe, kNo, kSg, kSd, kFa, kBo, kNo},  // awaiting_approval
};
// clang-format on

}  // namespace

std::optional<ServiceState> next_state(ServiceState state, ServiceEvent event) {
  const S next = kTable[static_cast<std::size_t>(state)][static_cast<std::size_t>(event)];
  if (next == kNo) return std::nullopt;
  return next;
}

std::string_view to_string(ServiceState state) {
  return kStateNames[static_cast<std::size_t>(state)];
}

std::string_view to_string(ServiceEvent event) {
  return kEventNames[static_cast<std::size_t>(event)];
}

std::optional<ServiceEvent> event_for_word(std::string_view word) {
  if (word == "running") return E::kSaysRunning;
  if (word == "degraded") return E::kUnhealthy;
  if (word == "recovering") return E::kSaysRecovering;
  if (word == "monitoring") return E::kSaysMonitoring;
  if (word == "ramping") return E::kSaysRamping;
  if (word == "standby") return E::kSaysStandby;
  if (word == "awaiting_approval") return E::kSaysAwaitingApproval;
  return std::nullopt;
}

bool is_alive(ServiceState state) {
  return state != S::kBackingOff && state != S::kStopped && state != S::kFailed;
}

}  // namespace defib::process
