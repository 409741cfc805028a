// With the argument "thread" the overflow happens on a further thread's stack.

#include <string_view>

#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION int visit(int depth) {
  volatile char frame[512] = {};
  frame[0] = static_cast<char>(depth);
  return visit(depth + 1) + frame[0];  // fault
}

}  // namespace

int main(int argc, char** argv) {
  victim::start();
  if (argc > 1 && std::string_view(argv[1]) == "thread") {
    std::thread([] {
      defib::postmortem::guard_thread_stack();
      visit(0);
    }).join();
  }
  return visit(0);
}
