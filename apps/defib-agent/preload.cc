// libdefib-agent.so: the agent for programs that cannot be changed. `defib run` preloads it.
//
// Before main() it attaches to the page that the shim made for this process: fatal signals that
// still have their default action are then handled by the crash hook, also on threads that overflow
// their stack. Where it is asked to, it beats from the program's own waiting calls (waits.cc). That
// is all it does by itself; it starts no thread, writes nothing, and exports the C face
// (process/agent_c.h) for programs that look it up.
//
// Invariants: in a process that is not the supervised one (a child that inherited LD_PRELOAD) it
// does nothing. It brings no C++ runtime, and hides all of its symbols but the C face.
// LD_PRELOAD stays in the environment: a service started by a script with `exec` is covered too.

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "defib/postmortem/crash_hook_sigsafe.h"
#include "defib/postmortem/terminate_text.h"
#include "defib/process/agent_core.h"
#include "waits.h"

namespace {

using defib::process::agent_core::Attached;

struct ThreadStart {
  void* (*function)(void*);
  void* argument;
};

pthread_key_t guarded_key;
bool has_guarded_key = false;

// Runs in each new thread of the program.
void* run_guarded(void* argument) {
  const ThreadStart start = *static_cast<ThreadStart*>(argument);
  free(argument);
  if (defib::postmortem::guard_thread_stack()) {
    // Its destructor runs when the thread ends, however it ends.
    pthread_setspecific(guarded_key, &guarded_key);
  }
  return start.function(start.argument);
}

void unguard(void*) {
  defib::postmortem::unguard_thread_stack();
}

__attribute__((constructor)) void attach_before_main() {
  defib::agent::look_up_waiting_calls();
  if (defib::process::agent_core::attach(true) != Attached::kYes) return;
  has_guarded_key = pthread_key_create(&guarded_key, unguard) == 0;
  defib::postmortem::install_terminate_text_for_program(&defib::process::agent_core::page()->crash);
  defib::agent::beat_from_waits();
}

}  // namespace

// The program's threads get an alternate signal stack each, because a handler for the overflow of a
// stack cannot run on that stack.
extern "C" __attribute__((visibility("default"))) int pthread_create(
    pthread_t* thread, const pthread_attr_t* attributes, void* (*function)(void*),
    void* argument) noexcept {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (create == nullptr) return EAGAIN;
  if (!has_guarded_key || defib::process::agent_core::page() == nullptr) {
    return create(thread, attributes, function, argument);
  }
  auto* start = static_cast<ThreadStart*>(malloc(sizeof(ThreadStart)));
  if (start == nullptr) return EAGAIN;
  *start = {function, argument};
  const int result = create(thread, attributes, run_guarded, start);
  if (result != 0) free(start);
  return result;
}
