// What the benchmark's plugin offers.

#pragma once

#include <array>
#include <cstdint>

#include "defib/call/api.h"

namespace call_bench {

struct Record {
  std::int64_t number = 0;
  std::array<std::int64_t, 7> rest{};
};
static_assert(sizeof(Record) == 64);

struct BenchApi {
  static constexpr std::string_view kName = "bench";
  static constexpr std::uint32_t kVersion = 1;
  struct Empty : defib::call::Method<"empty", void()> {};
  // Takes so much memory, waits for so long, and crashes.
  struct Crash : defib::call::Method<"crash", void(int megabytes, int wait_us)> {};
  struct Records : defib::call::Stream<"records", Record(std::int64_t count, int batch)> {};
  using Methods = defib::call::Methods<Empty, Crash, Records>;
};

}  // namespace call_bench
