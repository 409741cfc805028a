// The plugin that works.

#include <stdlib.h>
#include <time.h>

#include <stdexcept>

#include "defib/call/plugin.h"
#include "defib/call/testcases/victims_api.h"

namespace defib::call::testcases {
namespace {

void nothing() {}

double twice(double value) {
  return 2 * value;
}

std::string repeat(std::string_view text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

std::int64_t sum(std::span<const std::int64_t> values) {
  std::int64_t total = 0;
  for (const std::int64_t value : values) total += value;
  return total;
}

Spread same(const Spread& spread) {
  return spread;
}

int throw_it(std::string what) {
  if (what == "int") throw 7;
  if (what == "memory") throw std::bad_alloc();
  throw std::out_of_range(what);
}

int wait_for(int milliseconds, bool tells) {
  for (int i = 0; i < milliseconds; ++i) {
    const timespec pause = {0, 1'000'000};
    nanosleep(&pause, nullptr);
    if (tells) progress();
  }
  return milliseconds;
}

std::string log_in(Secret secret, std::string user) {
  if (secret.value == "crash") abort();
  return user + ":" + std::to_string(secret.value.size());
}

Tick tick(std::int64_t number) {
  return {number, number * 100, {}, number * 7 + 1};
}

void ticks(Writer<Tick>& out, std::int64_t from, std::int64_t count, int batch) {
  std::vector<Tick> some(static_cast<std::size_t>(batch));
  for (std::int64_t at = from; at < from + count;) {
    if (batch == 1) {
      if (!out.push(tick(at++))) return;
      continue;
    }
    std::size_t n = 0;
    while (n < some.size() && at < from + count) some[n++] = tick(at++);
    if (!out.push(std::span<const Tick>(some.data(), n))) return;
  }
}

void lines(Writer<std::string>& out, int count, int size) {
  for (int i = 0; i < count; ++i) {
    if (!out.push(std::to_string(i) + std::string(static_cast<std::size_t>(size), 'x'))) return;
  }
}

int deeper(int depth) {
  volatile char room[4096];
  room[0] = static_cast<char>(depth);
  return depth == -1 ? 0 : deeper(depth + 1) + room[0];
}

void bad_end(Writer<Tick>& out, int count, std::string how) {
  for (int i = 0; i < count; ++i) {
    if (!out.push(tick(i))) return;
  }
  if (how == "throw") throw std::runtime_error("the feed was closed");
  if (how == "crash") *reinterpret_cast<volatile int*>(8) = 1;
  if (how == "exit") exit(3);
  if (how == "overflow") deeper(1);
  if (how == "stand") wait_for(60'000, false);
  if (how == "slow") {
    wait_for(400, true);
    out.push(tick(count));
  }
}

}  // namespace
}  // namespace defib::call::testcases

using namespace defib::call::testcases;  // NOLINT(google-build-using-namespace)
using defib::call::On;
DEFIB_CALL_PLUGIN(EchoApi, On<EchoApi::Nothing, nothing>, On<EchoApi::Double, twice>,
                  On<EchoApi::Text, repeat>, On<EchoApi::Sum, sum>, On<EchoApi::Same, same>,
                  On<EchoApi::Throw, throw_it>, On<EchoApi::Wait, wait_for>,
                  On<EchoApi::Log, log_in>, On<EchoApi::Ticks, ticks>, On<EchoApi::Lines, lines>,
                  On<EchoApi::BadEnd, bad_end>)
