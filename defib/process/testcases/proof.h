// Proof: a file mapping by which services with a standby show that at most one of them is active.
//
// Whoever becomes active takes `owner`; from then on its threads look at it all the time. One that
// sees another's name there is active together with another: a violation. One that takes it from a
// higher epoch than its own is one too.

#pragma once

#include <atomic>
#include <cstdint>

namespace defib::process {

struct Proof {
  std::atomic<std::uint64_t> owner;
  std::atomic<std::uint64_t> violations;
  std::atomic<std::uint64_t> activations;
  std::atomic<std::int64_t> active_ns;  // when the last one became active

  static constexpr std::uint64_t owner_of(std::uint64_t epoch, int pid) {
    return epoch << 24 | static_cast<std::uint64_t>(pid);
  }
  static constexpr std::uint64_t epoch_of(std::uint64_t owner) { return owner >> 24; }
};

}  // namespace defib::process
