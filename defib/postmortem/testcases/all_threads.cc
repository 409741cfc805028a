// Eight threads crash at the same moment; one of them must be reported, whole.

#include <barrier>
#include <vector>

#include "defib/postmortem/testcases/victim.h"

namespace {

constexpr int kThreads = 8;
std::barrier start_line(kThreads);

VICTIM_FUNCTION void crash_together(int* target) {
  *target = 7;  // fault
}

}  // namespace

int main() {
  victim::start(false);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([] {
      defib::postmortem::guard_thread_stack();
      start_line.arrive_and_wait();
      crash_together(victim::opaque<int*>(nullptr));
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 0;
}
