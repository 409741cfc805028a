// Power failures and kills after every operation of recorded workloads, and inside recovery.

#include <gtest/gtest.h>

#include <cstdlib>

#include "defib/store/testing/crash_harness.h"

namespace defib::store {
namespace {

using testing_util::Campaign;
using testing_util::Workload;
using testing_util::workloads;

// How many times the short form's seeds are run; tools/crash-test --long sets it.
std::uint64_t scale() {
  const char* text = std::getenv("DEFIB_CRASH_SCALE");
  return text != nullptr ? std::strtoull(text, nullptr, 10) : 1;
}

class StoreCrash : public testing::TestWithParam<int> {};

TEST_P(StoreCrash, AfterEveryOperationTheRecoveredStateHoldsWhatWasAcknowledged) {
  const Workload workload = workloads()[static_cast<std::size_t>(GetParam())];
  SCOPED_TRACE(workload.name);
  std::uint64_t points = 0;
  for (std::uint64_t seed = 1; seed <= 2 * scale(); ++seed) {
    Campaign campaign({.seed = seed, .seeds_per_point = 6, .wrapper = nullptr});
    campaign.run(workload);
    points += campaign.crash_points();
    for (const std::string& violation : campaign.violations()) FAIL() << violation;
  }
  RecordProperty("crash_points", std::to_string(points));
}

TEST_P(StoreCrash, InsideRecoveryToo) {
  const Workload workload = workloads()[static_cast<std::size_t>(GetParam())];
  SCOPED_TRACE(workload.name);
  std::uint64_t points = 0;
  for (std::uint64_t seed = 1; seed <= scale(); ++seed) {
    Campaign campaign({.seed = seed, .seeds_per_point = 2, .nested_every = 5, .wrapper = nullptr});
    campaign.run(workload);
    points += campaign.crash_points();
    for (const std::string& violation : campaign.violations()) FAIL() << violation;
  }
  RecordProperty("crash_points", std::to_string(points));
}

INSTANTIATE_TEST_SUITE_P(Workloads, StoreCrash, testing::Range(0, 7));

}  // namespace
}  // namespace defib::store
