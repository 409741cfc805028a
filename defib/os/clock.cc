#include "defib/os/clock.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>

#include "defib/os/files.h"

namespace defib::os {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

std::int64_t read_clock(clockid_t id) {
  timespec time{};
  ::clock_gettime(id, &time);
  return time.tv_sec * kSecond + time.tv_nsec;
}

class RealClock final : public Clock {
 public:
  std::int64_t mono_ns() const override { return read_clock(CLOCK_MONOTONIC); }
  std::int64_t wall_ns() const override { return read_clock(CLOCK_REALTIME); }
  std::string boot_id() const override {
    static const std::string id = [] {
      auto text = read_file(real_files(), "/proc/sys/kernel/random/boot_id", 64);
      std::string value = text ? *text : "unknown";
      while (value.ends_with('\n')) value.pop_back();
      return value;
    }();
    return id;
  }
  void sleep_for(Duration duration) const override {
    timespec time{duration.count() / kSecond, duration.count() % kSecond};
    if (duration.count() > 0) {
      while (::clock_nanosleep(CLOCK_MONOTONIC, 0, &time, &time) == EINTR) {
      }
    }
  }
};

}  // namespace

const Clock& real_clock() {
  static const RealClock& clock = *new RealClock;  // Never destroyed: usable during exit.
  return clock;
}

void FakeClock::reboot(Duration downtime) {
  ++boots_;
  boot_id_ = fmt::format("00000000-0000-4000-8000-{:012}", boots_);
  mono_ = 1'000'000'000;
  wall_ += downtime.count();
}

std::string format_time(std::int64_t wall_ns) {
  std::int64_t seconds = wall_ns / kSecond;
  std::int64_t nanos = wall_ns % kSecond;
  if (nanos < 0) --seconds, nanos += kSecond;
  const time_t time = seconds;
  tm parts{};
  ::gmtime_r(&time, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z", parts.tm_year + 1900,
                     parts.tm_mon + 1, parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec,
                     nanos);
}

std::int64_t parse_time(std::string_view text) {
  const std::string copy(text.substr(0, 40));
  tm parts{};
  int consumed = 0;
  if (std::sscanf(copy.c_str(), "%4d-%2d-%2dT%2d:%2d:%2d%n", &parts.tm_year, &parts.tm_mon,
                  &parts.tm_mday, &parts.tm_hour, &parts.tm_min, &parts.tm_sec, &consumed) != 6) {
    return -1;
  }
  std::size_t at = static_cast<std::size_t>(consumed);
  std::int64_t nanos = 0;
  if (at < copy.size() && copy[at] == '.') {
    std::int64_t unit = kSecond / 10;
    for (++at; at < copy.size() && copy[at] >= '0' && copy[at] <= '9'; ++at, unit /= 10) {
      nanos += (copy[at] - '0') * unit;
    }
  }
  if (copy.substr(at) != "Z") return -1;
  parts.tm_year -= 1900;
  parts.tm_mon -= 1;
  const std::int64_t seconds = ::timegm(&parts);
  constexpr std::int64_t kMost = INT64_MAX / kSecond - 1;  // the year 2262
  if (seconds < -kMost || seconds > kMost) return -1;
  return seconds * kSecond + nanos;
}

Duration parse_duration(std::string_view text) {
  const std::string copy(text.substr(0, 40));
  // strtod alone would also take "0x10" and "1e3".
  const std::size_t number_size = std::min(copy.find_first_not_of("0123456789."), copy.size());
  if (copy.empty() || copy[0] < '0' || copy[0] > '9') return Duration(-1);
  const std::string digits = copy.substr(0, number_size);
  char* end = nullptr;
  const double value = std::strtod(digits.c_str(), &end);
  if (*end != '\0') return Duration(-1);
  const std::string_view unit = std::string_view(copy).substr(number_size);
  double scale = -1;
  if (unit.empty() || unit == "s") scale = 1e9;
  if (unit == "ns") scale = 1;
  if (unit == "us") scale = 1e3;
  if (unit == "ms") scale = 1e6;
  if (unit == "m") scale = 60e9;
  if (unit == "h") scale = 3600e9;
  if (unit == "d") scale = 24 * 3600e9;
  const double nanos = value * scale;
  if (scale < 0 || !(nanos < 9e18)) return Duration(-1);
  return Duration(static_cast<std::int64_t>(std::llround(nanos)));
}

std::string format_duration(Duration duration) {
  const double nanos = static_cast<double>(duration.count());
  struct Unit {
    double size;
    const char* name;
  };
  constexpr Unit kUnits[] = {{3600e9, "h"}, {60e9, "min"}, {1e9, "s"}, {1e6, "ms"}, {1e3, "us"}};
  for (const Unit& unit : kUnits) {
    if (std::abs(nanos) < unit.size * 0.9995) continue;
    const double value = nanos / unit.size;
    const int decimals = std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : 2;
    return fmt::format("{:.{}f} {}", value, decimals, unit.name);
  }
  return fmt::format("{} ns", duration.count());
}

}  // namespace defib::os
