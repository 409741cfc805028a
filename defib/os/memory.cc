#include "defib/os/memory.h"

#include <malloc.h>
#include <sys/mman.h>

#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace defib::os {

void prefer_huge_pages(void* memory, std::size_t size) {
  ::madvise(memory, size, MADV_HUGEPAGE);
}

void release_startup_memory() {
  ::malloc_trim(0);
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (maps == nullptr) return;
  char line[512];
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    std::uint64_t begin = 0, end = 0, inode = 0;
    char permissions[5] = {};
    const int fields = std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %" SCNu64, &begin,
                                   &end, permissions, &inode);
    // Text alone: it is never written. Read-only data holds relocated pointers of this process.
    if (fields != 4 || inode == 0 || std::strcmp(permissions, "r-xp") != 0) continue;
    void* const text = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr)
    ::madvise(text, end - begin, MADV_DONTNEED);
  }
  std::fclose(maps);
}

}  // namespace defib::os
