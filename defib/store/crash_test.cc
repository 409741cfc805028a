// Power failures and kills after every operation of recorded workloads, and inside recovery.
//
// DEFIB_CRASH_POINTS says how many crash points all of these tests together are to reach,
// DEFIB_CRASH_SEED where the seeds begin, and DEFIB_CRASH_DEPTH how many crashes follow one another
// in the exhaustive test; tools/crash-test --long sets them.

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>

#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/workloads.h"

namespace defib::store {
namespace {

using testing_util::Campaign;
using testing_util::number_from_environment;
using testing_util::Workload;
using testing_util::workloads;

constexpr std::uint64_t kShortForm = 175'000;

// A workload's share for one kind of test.
std::uint64_t share(std::uint64_t percent) {
  return number_from_environment("DEFIB_CRASH_POINTS", kShortForm) * percent / 100 /
         workloads().size();
}

// Runs campaigns with one seed after the other until the share is reached, and prints the sum.
void run_until(std::uint64_t points, const Workload& workload, Campaign::Settings settings) {
  const auto start = std::chrono::steady_clock::now();
  const std::uint64_t first_seed = number_from_environment("DEFIB_CRASH_SEED", 1);
  std::uint64_t crashes = 0;
  std::uint64_t images = 0;
  std::uint64_t seed = first_seed;
  for (; crashes < points; ++seed) {
    settings.seed = seed;
    settings.max_points = points - crashes;
    Campaign campaign(settings);
    campaign.run(workload);
    crashes += campaign.crash_points();
    images += campaign.distinct_images();
    for (const std::string& violation : campaign.violations()) FAIL() << violation;
    ASSERT_FALSE(testing::Test::HasFailure()) << workload.name << ", seed " << seed;
    ASSERT_GT(campaign.crash_points(), 0U);
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  fmt::print("  {}: seeds {}..{}, {} crash points, {} distinct images, {:.1f} s\n", workload.name,
             first_seed, seed - 1, crashes, images, seconds);
  std::fflush(stdout);
}

class StoreCrash : public testing::TestWithParam<std::size_t> {
 protected:
  Workload workload() const { return workloads()[GetParam()]; }
};

TEST_P(StoreCrash, AfterEveryOperationTheRecoveredStateHoldsWhatWasAcknowledged) {
  run_until(share(60), workload(), {.seeds_per_point = 6});
}

TEST_P(StoreCrash, InsideRecoveryTooDownToTheThirdCrash) {
  run_until(share(40), workload(),
            {.seeds_per_point = 3, .nested_every = 6, .nested_depth = 3, .nested_samples = 2});
}

std::string name_of(const testing::TestParamInfo<std::size_t>& test) {
  std::string name = workloads()[test.param].name;
  std::ranges::replace(name, ' ', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Workloads, StoreCrash, testing::Range<std::size_t>(0, workloads().size()),
                         name_of);

// Every crash of every recovery of a small workload; at length, of every recovery from these too.
TEST(StoreCrashNested, ExhaustivelyForASmallWorkload) {
  for (const Workload& workload : workloads()) {
    if (!workload.is_small) continue;
    Campaign campaign(
        {.seed = number_from_environment("DEFIB_CRASH_SEED", 1),
         .seeds_per_point = 2,
         .nested_every = 1,
         .nested_depth = static_cast<unsigned>(number_from_environment("DEFIB_CRASH_DEPTH", 1)),
         .nested_samples = 0});
    campaign.run(workload);
    for (const std::string& violation : campaign.violations()) FAIL() << violation;
    fmt::print("  {}, exhaustively: {} crash points, {} distinct images\n", workload.name,
               campaign.crash_points(), campaign.distinct_images());
  }
}

}  // namespace
}  // namespace defib::store
