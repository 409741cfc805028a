#include "defib/os/memory.h"

#include <sys/mman.h>

namespace defib::os {

void prefer_huge_pages(void* memory, std::size_t size) {
  ::madvise(memory, size, MADV_HUGEPAGE);
}

}  // namespace defib::os
