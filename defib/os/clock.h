// Clock: the only source of time. Injected, so that tests never sleep to see time pass.
//
// mono_ns() measures durations and deadlines (CLOCK_MONOTONIC: never steps, stops in suspend, and
// starts anew at each boot). wall_ns() is for people and for the outside world (CLOCK_REALTIME).

#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

namespace defib::os {

using Duration = std::chrono::nanoseconds;

class Clock {
 public:
  virtual ~Clock() = default;
  virtual std::int64_t mono_ns() const = 0;
  // Nanoseconds since 1970-01-01 UTC.
  virtual std::int64_t wall_ns() const = 0;
  // The kernel's boot id (a UUID), by which monotonic times of two boots are told apart.
  virtual std::string boot_id() const = 0;
  // Sleeps; the fake clock advances itself instead.
  virtual void sleep_for(Duration duration) const = 0;
};

// Lives for ever; safe from every thread.
const Clock& real_clock();

// Stands still until told otherwise. Safe from every thread.
class FakeClock : public Clock {
 public:
  explicit FakeClock(std::int64_t mono = 1'000'000'000,
                     std::int64_t wall = 1'700'000'000'000'000'000)
      : mono_(mono), wall_(wall) {}
  std::int64_t mono_ns() const override { return mono_.load(); }
  std::int64_t wall_ns() const override { return wall_.load(); }
  std::string boot_id() const override { return boot_id_; }
  void sleep_for(Duration duration) const override { advance(duration); }

  void advance(Duration duration) const {
    mono_ += duration.count();
    wall_ += duration.count();
  }
  // The wall clock alone, as an administrator or NTP would.
  void step_wall(Duration duration) { wall_ += duration.count(); }
  // A new boot: another boot id, and monotonic time from near zero.
  void reboot(Duration downtime);

 private:
  mutable std::atomic<std::int64_t> mono_;
  mutable std::atomic<std::int64_t> wall_;
  std::string boot_id_ = "00000000-0000-4000-8000-000000000000";
  int boots_ = 0;
};

// RFC 3339 in UTC with nanoseconds: "2026-11-20T13:05:58.123456789Z".
std::string format_time(std::int64_t wall_ns);
// Nanoseconds since 1970, or -1 where the text is not RFC 3339 UTC or its time does not fit (years
// 1677 to 2262 do).
std::int64_t parse_time(std::string_view text);
// "250ms", "30s", "5m", "1h"; a bare number is seconds. Negative results mean malformed.
Duration parse_duration(std::string_view text);
// "812 us", "1.24 s": three significant digits, for people.
std::string format_duration(Duration duration);

}  // namespace defib::os
