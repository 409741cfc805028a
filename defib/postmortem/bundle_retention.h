// Which bundles stay: by age, number and size together. Thread rule: one thread.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::postmortem {

struct BundleRules {
  os::Duration max_age = std::chrono::hours(720);
  std::uint64_t max_count = 100;
  std::uint64_t max_total_bytes = 1u << 30;
  friend bool operator==(const BundleRules&, const BundleRules&) = default;
};

// Removes the oldest bundles of DIR (STATE/incidents) that are beyond the rules, whole, and nothing
// else; never that of the incident `kept`. The ids of the removed ones.
Result<std::vector<std::string>> apply_retention(const std::string& directory,
                                                 const BundleRules& rules, std::string_view kept,
                                                 std::int64_t now_wall_ns);

}  // namespace defib::postmortem
