// AsymmetricFence: orders a store before a later load, for a frequent side and a rare one: light()
// costs nothing where heavy() can have the kernel put a full fence into every running thread of the
// process (membarrier(2)); elsewhere both are full fences.
//
//   frequent: x = 1; light(); read y          rare: y = 1; heavy(); read x
// One of the two reads the other's 1.
// Thread rule: any thread.

#pragma once

#include <atomic>

namespace defib::connection {

class AsymmetricFence {
 public:
  static void light() {
    if (has_membarrier_.load(std::memory_order_relaxed)) {
      std::atomic_signal_fence(std::memory_order_seq_cst);
    } else {
      std::atomic_thread_fence(std::memory_order_seq_cst);
    }
  }
  static void heavy();

 private:
  static bool register_process();
  static std::atomic<bool> has_membarrier_;
};

}  // namespace defib::connection
