// Random: unpredictable numbers from the kernel, or a reproducible sequence from a seed.

#pragma once

#include <cstdint>
#include <string>

namespace defib::os {

// SplitMix64-seeded xoshiro256** (Blackman and Vigna, 2018). Not for secrets.
// Thread rule: one thread at a time.
class Random {
 public:
  explicit Random(std::uint64_t seed);
  std::uint64_t next();
  // Uniform in [0, bound); bound > 0.
  std::uint64_t below(std::uint64_t bound);
  // Uniform in [0, 1).
  double unit();

 private:
  std::uint64_t state_[4];
};

// From getrandom(2).
std::uint64_t random_seed();
// `bytes` random bytes in hexadecimal, from getrandom(2).
std::string random_hex(int bytes);

}  // namespace defib::os
