#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION char read_journal(const char* journal) {
  return journal[4096];  // fault
}

}  // namespace

int main() {
  victim::start();
  char path[] = "/tmp/defib-bus-error-XXXXXX";
  const int fd = mkstemp(path);
  if (fd < 0 || ftruncate(fd, 8192) != 0) return 1;
  unlink(path);
  void* memory = mmap(nullptr, 8192, PROT_READ, MAP_SHARED, fd, 0);
  if (ftruncate(fd, 100) != 0) return 1;
  return read_journal(victim::opaque(static_cast<const char*>(memory)));
}
