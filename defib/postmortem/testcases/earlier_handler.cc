// The program has a handler for SIGSEGV already, which ends it with code 9. With the argument
// "leave" the hook is told to leave such signals alone.

#include <string_view>

#include "defib/postmortem/testcases/victim.h"

namespace {

void on_signal(int) {
  _exit(9);
}

VICTIM_FUNCTION void crash(int* target) {
  *target = 7;  // fault
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGSEGV, on_signal);
  if (argc > 1 && std::string_view(argv[1]) == "leave") {
    void* memory = mmap(nullptr, sizeof(defib::postmortem::CrashPage), PROT_READ | PROT_WRITE,
                        MAP_SHARED, victim::kPageFd, 0);
    defib::postmortem::install_crash_hook(static_cast<defib::postmortem::CrashPage*>(memory),
                                          victim::kEventFd, {.only_default = true});
  } else {
    victim::start();
  }
  crash(victim::opaque<int*>(nullptr));
  return 0;
}
