// The heartbeat from the program's own waiting calls (waits.cc).

#pragma once

namespace defib::agent {

// Finds the C library's functions behind the wrapped ones, so that no call has to.
void look_up_waiting_calls();
// Switches the heartbeat on where DEFIB_PRELOAD_HEARTBEAT asks for it. On the main thread, once the
// page is attached.
void beat_from_waits();

}  // namespace defib::agent
