// Deadline: the moment by which a call has to have returned. One deadline covers all that a call
// does: waiting, checking, connecting, executing and repeating.
//
// Thread rule: like a number.

#pragma once

#include <algorithm>
#include <cstdint>

#include "defib/os/clock.h"

namespace defib::connection {

class Deadline {
 public:
  // Far enough away to mean "none", near enough to be added to.
  static constexpr std::int64_t kNever = INT64_MAX / 2;

  Deadline() = default;  // never
  static Deadline at(std::int64_t mono_ns) { return Deadline(mono_ns); }
  static Deadline after(os::Duration duration, const os::Clock& clock = os::real_clock()) {
    if (duration.count() >= kNever) return Deadline(kNever);
    return Deadline(clock.mono_ns() + duration.count());
  }

  std::int64_t mono_ns() const { return mono_ns_; }
  bool is_never() const { return mono_ns_ >= kNever; }
  // Negative where it has passed.
  os::Duration remaining(const os::Clock& clock = os::real_clock()) const {
    return os::Duration(mono_ns_ - clock.mono_ns());
  }
  bool passed(const os::Clock& clock = os::real_clock()) const {
    return remaining(clock).count() <= 0;
  }
  // For poll(2): rounded up, so that a wait never ends before the deadline; -1 where it is never.
  int poll_ms(const os::Clock& clock = os::real_clock()) const {
    if (is_never()) return -1;
    const std::int64_t left = std::max<std::int64_t>(0, remaining(clock).count());
    return static_cast<int>(std::min<std::int64_t>((left + 999'999) / 1'000'000, 86'400'000));
  }
  // The earlier of the two.
  friend Deadline operator&(Deadline a, Deadline b) { return at(std::min(a.mono_ns_, b.mono_ns_)); }

 private:
  explicit Deadline(std::int64_t mono_ns) : mono_ns_(mono_ns) {}
  std::int64_t mono_ns_ = kNever;
};

}  // namespace defib::connection
