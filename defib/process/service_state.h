// The life of a service as a table: in each state, what each event leads to.
//
// Nothing but next_state() changes the state of a service. The test walks all pairs.

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace defib::process {

// The words of `defib status`.
enum class ServiceState : std::uint8_t {
  kStarting,          // the program was started and is not ready yet
  kRunning,           // ready and healthy
  kDegraded,          // running, but a health check or a limit says otherwise
  kRecovering,        // the service says that it restores its state
  kMonitoring,        // the service says that it watches before it resumes
  kRamping,           // the service says that it resumes step by step
  kBackingOff,        // dead; the next start waits for the restart delay
  kStopping,          // asked to stop, or killed by us; still alive
  kStopped,           // not running, on request or by a clean exit
  kStandby,           // the service says that another one is active
  kFailed,            // not running, and not started again before `reset`
  kAwaitingApproval,  // the service says that a human must approve
};
inline constexpr int kServiceStates = 12;

enum class ServiceEvent : std::uint8_t {
  kStarted,      // a process exists (also: adopted)
  kReady,        // READY=1, or the program started where no READY is expected
  kSaysRunning,  // X_DEFIB_STATE=running, and so on
  kSaysRecovering,
  kSaysMonitoring,
  kSaysRamping,
  kSaysStandby,
  kSaysAwaitingApproval,
  kUnhealthy,
  kHealthy,
  kKilling,        // stopped on request, hung, over a limit: a signal is on its way
  kExitedFinal,    // ended; it shall not run again: on request, or cleanly by its policy
  kExitedFailed,   // ended by a failure; it shall not run again by itself
  kExitedRestart,  // ended; a replacement follows after a delay, or is on its way
  kReset,          // a human cleared a failure
};
inline constexpr int kServiceEvents = 15;

// The state after `event`, or nothing where the event does not concern that state (it is then
// ignored: for instance a health result that arrives after the death).
std::optional<ServiceState> next_state(ServiceState state, ServiceEvent event);

std::string_view to_string(ServiceState state);
std::string_view to_string(ServiceEvent event);
// The event for the word of X_DEFIB_STATE=, or nothing.
std::optional<ServiceEvent> event_for_word(std::string_view word);

// A process of the service exists.
bool is_alive(ServiceState state);

}  // namespace defib::process
