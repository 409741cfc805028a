#include "defib/connection/asymmetric_fence.h"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace defib::connection {

std::atomic<bool> AsymmetricFence::has_membarrier_{register_process()};

bool AsymmetricFence::register_process() {
  return ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

void AsymmetricFence::heavy() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!has_membarrier_.load(std::memory_order_relaxed)) return;
  // A filter of system calls may have come since: then both sides use full fences from now on.
  if (::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) != 0) {
    has_membarrier_ = false;
  }
}

}  // namespace defib::connection
