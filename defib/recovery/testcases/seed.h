// Where a random test begins: a new seed, which is printed, or the one in DEFIB_SEED.

#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "defib/os/random.h"

namespace defib::recovery::testcases {

inline std::uint64_t first_seed() {
  if (const char* given = std::getenv("DEFIB_SEED")) return std::strtoull(given, nullptr, 10);
  const std::uint64_t seed = os::random_seed() % 1'000'000'000;
  fmt::print("first seed {} (DEFIB_SEED={} repeats it)\n", seed, seed);
  std::fflush(stdout);  // A forked child would print it again.
  return seed;
}

}  // namespace defib::recovery::testcases
