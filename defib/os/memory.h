// Advice about plain memory of this process.
//
// Thread rule: any thread.

#pragma once

#include <cstddef>

namespace defib::os {

inline constexpr std::size_t kHugePage = 2 << 20;

// The range will be used as a whole and at random: large pages save faults and look-ups of
// addresses. Advice only; begin and size are multiples of kHugePage (madvise(2), MADV_HUGEPAGE).
void prefer_huge_pages(void* memory, std::size_t size);

// For a process that now waits for rare events: gives unused heap back, and unmaps the pages of
// program text and constants that its start needed. Those that are used again come back from the
// page cache, some microseconds each (madvise(2), MADV_DONTNEED). Nothing but memory use changes.
void release_startup_memory();

}  // namespace defib::os
