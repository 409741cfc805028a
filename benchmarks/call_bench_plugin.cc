// The plugin of ./bench call.

#include "benchmarks/call_bench_plugin.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "defib/call/plugin.h"

namespace {

using call_bench::BenchApi;
using call_bench::Record;

void empty() {}

std::int64_t now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * std::int64_t{1'000'000'000} + now.tv_nsec;
}

void crash(int megabytes, int wait_us) {
  const std::size_t size = static_cast<std::size_t>(megabytes) << 20;
  if (size > 0) memset(malloc(size), 1, size);
  const std::int64_t until = now_ns() + wait_us * std::int64_t{1000};
  while (now_ns() < until) {
  }
  *reinterpret_cast<volatile int*>(8) = 1;
}

void records(defib::call::Writer<Record>& out, std::int64_t count, int batch) {
  if (batch == 1) {
    Record record;
    for (std::int64_t i = 0; i < count; ++i) {
      record.number = i;
      if (!out.push(record)) return;
    }
    return;
  }
  std::array<Record, 64> some;
  for (std::int64_t at = 0; at < count; at += batch) {
    for (int i = 0; i < batch; ++i) some[static_cast<std::size_t>(i)].number = at + i;
    if (!out.push(std::span<const Record>(some.data(), static_cast<std::size_t>(batch)))) return;
  }
}

}  // namespace

DEFIB_CALL_PLUGIN(BenchApi, defib::call::On<BenchApi::Empty, empty>,
                  defib::call::On<BenchApi::Crash, crash>,
                  defib::call::On<BenchApi::Records, records>)
