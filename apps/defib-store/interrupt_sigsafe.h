// What Ctrl-C and SIGTERM do to a recovery.
//
// A recovery may be ended at any instruction and the next one goes on, so there is nothing to be
// undone first: the process says so and ends with exit code 4.

#pragma once

namespace defib::store_program {

// Thread rule: once, before other threads are begun.
void end_on_interrupt();

}  // namespace defib::store_program
