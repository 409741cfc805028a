// Victim: use after unmap.

#include <sys/mman.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(page, 4096);
  return *static_cast<volatile int*>(page);
}

}  // namespace

DEFIB_VICTIM(break_it)
