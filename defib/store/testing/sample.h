// Sample: which cases of a long campaign a run tries.
//
// All of them; or, with DEFIB_SAMPLE=N in the environment, the first and of the others one in N,
// chosen by DEFIB_SAMPLE_SEED (default 1) and the case's number. What was chosen is printed, so
// that nobody takes a sample for the whole. With a sanitizer, which makes every case several times
// as slow, CTest asks for one (CMakeLists.txt).

#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>

#include "defib/os/sim_disk.h"
#include "defib/store/testing/store_util.h"

namespace defib::store::testing_util {

// Of cases that are few and long, one in so many is one in N.
inline constexpr std::uint64_t kFewCases = 8;

class Sample {
 public:
  explicit Sample(std::string what, std::uint64_t share = 1)
      : what_(std::move(what)),
        one_in_(std::max<std::uint64_t>(1, number_from_environment("DEFIB_SAMPLE", 1) / share)),
        seed_(number_from_environment("DEFIB_SAMPLE_SEED", 1)) {}
  Sample(const Sample&) = delete;
  Sample& operator=(const Sample&) = delete;
  ~Sample() {
    if (is_all()) return;
    fmt::print("  {}: {} of {} (one in {}, seed {})\n", what_, taken_, asked_, one_in_, seed_);
    std::fflush(stdout);
  }
  bool is_all() const { return one_in_ == 1; }
  // Whether to try the next case; `number` is its own among those of this sample.
  bool takes(std::uint64_t number) {
    ++asked_;
    const bool taken = asked_ == 1 || os::sim::mix(seed_, number, one_in_) % one_in_ == 0;
    if (taken) ++taken_;
    return taken;
  }
  std::uint64_t taken() const { return taken_; }

 private:
  const std::string what_;
  const std::uint64_t one_in_;
  const std::uint64_t seed_;
  std::uint64_t asked_ = 0;
  std::uint64_t taken_ = 0;
};

}  // namespace defib::store::testing_util
