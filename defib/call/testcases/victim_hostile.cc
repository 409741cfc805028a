// Victim: it writes over the whole shared memory.

#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <thread>

#include "defib/call/plugin.h"
#include "defib/call/testcases/hostile_api.h"

namespace defib::call::testcases {
namespace {

struct Memory {
  unsigned char* start = nullptr;
  std::uint64_t size = 0;
};

// The channel's mapping, as any library could find it.
Memory find_memory() {
  Memory memory;
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[512];
  while (maps != nullptr && fgets(line, sizeof line, maps) != nullptr) {
    if (strstr(line, "defib-call") == nullptr) continue;
    unsigned long start = 0, end = 0;
    if (sscanf(line, "%lx-%lx", &start, &end) != 2) continue;
    memory = {reinterpret_cast<unsigned char*>(start), end - start};
  }
  if (maps != nullptr) fclose(maps);
  return memory;
}

std::uint64_t next(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15;
  std::uint64_t value = state;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

void change(const Memory& memory, std::uint64_t& state) {
  // Half of them where headers lie, a quarter at the beginning of a data area, a quarter anywhere.
  const std::uint64_t kind = next(state) % 8;
  std::uint64_t at = next(state) % (memory.size - 8);
  if (kind < 4) at = next(state) % sizeof(Channel);
  if (kind == 4 || kind == 5) at = at / 4096 * 4096 + next(state) % 64;
  if (next(state) % 4 != 0) at = at / 4 * 4;
  std::uint64_t value = 0;
  memcpy(&value, memory.start + at, sizeof value);
  switch (next(state) % 8) {
    case 0:
      value = 0;
      break;
    case 1:
      value = ~std::uint64_t{0};
      break;
    case 2:
      value += 1;
      break;
    case 3:
      value -= 1;
      break;
    case 4:
      value = next(state) % 4096;
      break;
    case 5:
      value ^= std::uint64_t{1} << (next(state) % 64);
      break;
    case 6:
      value = std::uint64_t{1} << (next(state) % 64);
      break;
    default:
      value = next(state);
  }
  const std::size_t size = std::size_t{1} << (next(state) % 4);
  memcpy(memory.start + at, &value, size);
}

int scribble(std::uint64_t seed, int changes, int milliseconds) {
  const Memory memory = find_memory();
  for (int i = 0; i < changes; ++i) change(memory, seed);
  std::thread([memory, seed, milliseconds]() mutable {
    timespec now = {};
    clock_gettime(CLOCK_MONOTONIC, &now);
    const auto until = now.tv_sec * 1000 + now.tv_nsec / 1'000'000 + milliseconds;
    while (now.tv_sec * 1000 + now.tv_nsec / 1'000'000 < until) {
      for (int i = 0; i < 100; ++i) change(memory, seed);
      clock_gettime(CLOCK_MONOTONIC, &now);
    }
  }).detach();
  return changes;
}

std::vector<std::string> text(int count) {
  return std::vector<std::string>(static_cast<std::size_t>(count), "some text");
}

void ticks(Writer<Tick>& out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    if (!out.push(Tick{i, i, {}, i * 7 + 1})) return;
  }
}

void lines(Writer<std::string>& out, int count) {
  for (int i = 0; i < count; ++i) {
    if (!out.push(std::string(static_cast<std::size_t>(i % 300), 'l'))) return;
  }
}

int boast(std::uint64_t size) {
  auto& channel = *reinterpret_cast<Channel*>(find_memory().start);
  const std::uint32_t number = channel.request.load();
  channel.reply_header = {number, static_cast<std::uint32_t>(ReplyStatus::kValue), size};
  channel.reply.store(number);
  wake_all(channel.reply);
  sleep(10);  // the host ends it
  return 0;
}

void silent(Writer<Tick>& out, int count) {
  static_cast<void>(out.push(Tick{-1, -1, {}, 0}));
  usleep(100'000);  // by now the reader has that one, and sleeps
  auto& channel = *reinterpret_cast<Channel*>(find_memory().start);
  channel.rings[0].head.fetch_add(static_cast<std::uint64_t>(count));
  abort();
}

}  // namespace
}  // namespace defib::call::testcases

using namespace defib::call::testcases;  // NOLINT(google-build-using-namespace)
using defib::call::On;
DEFIB_CALL_PLUGIN(HostileApi, On<HostileApi::Scribble, scribble>, On<HostileApi::Text, text>,
                  On<HostileApi::Ticks, ticks>, On<HostileApi::Lines, lines>,
                  On<HostileApi::Boast, boast>, On<HostileApi::Silent, silent>)
