// What the parts of process_bench share: rows, percentiles, and the end where something fails.

#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "defib/base/assert.h"
#include "defib/base/error.h"
#include "defib/wire/json.h"

// process_bench_hang.cc
void bench_hangs(const std::string& dir);
// process_bench_scale.cc
void bench_scale(const std::string& dir, const std::string& victim);

template <typename T>
T must(defib::Result<T> result) {
  if (!result) {
    fmt::print(stderr, "{}\n", result.error().to_text());
    std::exit(1);
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline double percentile(std::vector<double>& values, double fraction) {
  DEFIB_ASSERT(!values.empty());
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(fraction * static_cast<double>(values.size() - 1))];
}

// A JSON row, as tools/bench-table reads it.
inline void print_row(std::string_view name, std::string_view metric, std::string_view unit,
                      double ours, std::string_view peer_name, std::optional<double> peer,
                      std::optional<double> limit, int runs) {
  const auto number = [](std::optional<double> value) {
    return value ? defib::wire::Json(*value) : defib::wire::Json();
  };
  const std::optional<double> ratio = peer ? std::optional(ours / *peer) : std::nullopt;
  fmt::print("{}\n", defib::wire::Json::object({{"bench", "process"},
                                                {"case", name},
                                                {"metric", metric},
                                                {"unit", unit},
                                                {"ours", ours},
                                                {"peer_name", peer_name},
                                                {"peer", number(peer)},
                                                {"ratio", number(ratio)},
                                                {"limit", number(limit)},
                                                {"runs", runs}})
                         .dump());
}
