// What of the supervisor's news becomes which alert, with which severity: the one place. Pure.

#pragma once

#include <optional>
#include <string>

#include "defib/alert/event.h"
#include "defib/daemon/incident_recorder.h"

namespace defib::daemon {

// Nothing where the news is no alert.
std::optional<alert::Event> event_of(const IncidentNews& news);
// Whether two events of one service may become one with a count. The end of one incident's alerts
// says nothing of another's.
bool is_more_of(const alert::Event& one, const alert::Event& other);
// A shim died and was replaced.
alert::Event shim_lost_event(const std::string& service, const std::string& detail);
// The service goes on, without a standby that is ready.
alert::Event standby_lost_event(const std::string& service, const Error& error);
// The service was taken out of the configuration: nothing of it is open any more.
alert::Event removed_event(const std::string& service);

}  // namespace defib::daemon
