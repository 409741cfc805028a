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
  std::FILE* maps = std::fopen("/proc/self/smaps", "re");
  if (maps == nullptr) return;
  char line[512];
  std::uint64_t begin = 0, end = 0, own_kib = 0;
  bool constant = false;
  while (std::fgets(line, sizeof line, maps) != nullptr) {
    std::uint64_t from = 0, to = 0, inode = 0;
    char permissions[5] = {};
    if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %*s %*s %" SCNu64, &from, &to, permissions,
                    &inode) == 4) {
      begin = from;
      end = to;
      constant = inode != 0 &&
                 (std::strcmp(permissions, "r-xp") == 0 || std::strcmp(permissions, "r--p") == 0);
      continue;
    }
    // Where pointers were relocated, pages are this process's own, and would be lost.
    if (!constant || std::sscanf(line, "Anonymous: %" SCNu64, &own_kib) != 1 || own_kib != 0) {
      continue;
    }
    void* const pages = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr)
    ::madvise(pages, end - begin, MADV_DONTNEED);
  }
  std::fclose(maps);
}

}  // namespace defib::os
