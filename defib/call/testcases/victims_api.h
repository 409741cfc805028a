// What the victim plugins offer: each method is broken in the way that its plugin is named for.

#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "defib/call/api.h"

namespace defib::call::testcases {

struct Tick {
  std::int64_t number = 0;
  std::int64_t price = 0;
  std::array<std::int64_t, 5> rest{};
  std::int64_t check = 0;  // number * 7 + 1: what a torn record does not have
};
static_assert(sizeof(Tick) == 64);

// One method that breaks, one that works.
struct VictimApi {
  static constexpr std::string_view kName = "victim";
  static constexpr std::uint32_t kVersion = 1;
  struct Break : Method<"break", int(std::string, int)> {};
  struct Add : Method<"add", int(int, int)> {};
  using Methods = call::Methods<Break, Add>;
};

struct Leg {
  std::string symbol;
  double ratio = 0;
  friend bool operator==(const Leg&, const Leg&) = default;
};
struct Spread {
  std::string name;
  std::vector<Leg> legs;
  std::optional<std::int64_t> expiry;
  std::variant<std::string, std::int32_t, Leg> tag;
  std::map<std::string, double> greeks;
  friend bool operator==(const Spread&, const Spread&) = default;
};

// Everything that works.
struct EchoApi {
  static constexpr std::string_view kName = "echo";
  static constexpr std::uint32_t kVersion = 3;
  struct Nothing : Method<"nothing", void()> {};
  struct Double : Method<"double", double(double)> {};
  struct Text : Method<"text", std::string(std::string_view, int)> {};
  struct Sum : Method<"sum", std::int64_t(std::span<const std::int64_t>)> {};
  struct Same : Method<"same", Spread(const Spread&)> {};
  struct Throw : Method<"throw", int(std::string)> {};
  struct Wait : Method<"wait", int(int milliseconds, bool progress)> {};
  struct Log : Method<"log", std::string(Secret, std::string)> {};
  struct Ticks : Stream<"ticks", Tick(std::int64_t from, std::int64_t count, int batch)> {};
  struct Lines : Stream<"lines", std::string(int count, int size)> {};
  struct BadEnd : Stream<"bad_end", Tick(int count, std::string how)> {};
  using Methods =
      call::Methods<Nothing, Double, Text, Sum, Same, Throw, Wait, Log, Ticks, Lines, BadEnd>;
};

}  // namespace defib::call::testcases
