// A plugin that works, and meanwhile writes over the shared memory.

#pragma once

#include <string>

#include "defib/call/testcases/victims_api.h"

namespace defib::call::testcases {

struct HostileApi {
  static constexpr std::string_view kName = "hostile";
  static constexpr std::uint32_t kVersion = 1;
  // So many random changes before the reply, then more from a thread, as fast as it can, for so
  // many milliseconds. Everything about them follows from the seed.
  struct Scribble : Method<"scribble", int(std::uint64_t seed, int changes, int milliseconds)> {};
  struct Text : Method<"text", std::vector<std::string>(int)> {};
  struct Ticks : Stream<"ticks", Tick(std::int64_t count)> {};
  struct Lines : Stream<"lines", std::string(int count)> {};
  // Answers with a reply that says to be so long.
  struct Boast : Method<"boast", int(std::uint64_t size)> {};
  // Publishes so many records without a word to the reader, and crashes.
  struct Silent : Stream<"silent", Tick(int count)> {};
  using Methods = call::Methods<Scribble, Text, Ticks, Lines, Boast, Silent>;
};

}  // namespace defib::call::testcases
