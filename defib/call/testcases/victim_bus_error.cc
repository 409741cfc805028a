// Victim: bus error.

#include <sys/mman.h>
#include <unistd.h>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  const int fd = memfd_create("short", 0);
  if (ftruncate(fd, 4096) != 0) return 1;
  void* memory = mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd, 0);
  return static_cast<volatile char*>(memory)[5000];
}

}  // namespace

DEFIB_VICTIM(break_it)
