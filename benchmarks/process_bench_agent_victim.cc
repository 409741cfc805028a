// A large service for the benchmark of supervision:
//
//   process_bench_agent_victim FILE MB          appends its main()'s monotonic time to FILE
//   process_bench_agent_victim FILE MB standby  the time at which it became active instead
//
// Touches MB megabytes and then appends to FILE.ready; runs until killed.

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "defib/process/agent_c.h"

namespace {

void stamp(const std::string& path) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const std::int64_t ns = now.tv_sec * 1'000'000'000LL + now.tv_nsec;
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (write(fd, &ns, sizeof ns) != sizeof ns) _exit(1);
  close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  const std::string file = argv[1];
  const bool standby = argc > 3;
  if (!standby) stamp(file);
  defib_attach();
  const std::size_t size = static_cast<std::size_t>(std::atoi(argv[2])) << 20;
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) return 1;
  defib_ready();
  stamp(file + ".ready");
  if (standby && defib_wait_active(-1) == 1) stamp(file);
  while (true) pause();
}
