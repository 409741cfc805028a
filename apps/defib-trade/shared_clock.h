// SharedClock: one time for a paper venue and the engines that trade on it, in several processes,
// that runs ahead wherever somebody sleeps: a fence of seconds costs milliseconds, and yet no
// request is late because a machine is slow, since work is timed at its true speed.
//
// What runs ahead is an offset in a mapped file. The engine's sleep moves it; the venue's moves it
// more slowly, so that a request which is delayed there outlives the patience of its client.

#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "defib/base/assert.h"
#include "defib/os/clock.h"

namespace defib {

class SharedClock : public os::Clock {
 public:
  // Ahead by so much in each slice of a sleep.
  static constexpr os::Duration kEngineStep = std::chrono::milliseconds(50);
  static constexpr os::Duration kVenueStep = std::chrono::milliseconds(4);

  SharedClock(const std::string& path, os::Duration step) : step_(step) {
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    DEFIB_ASSERT(fd >= 0 && ::ftruncate(fd, sizeof(Offset)) == 0);
    void* mapped = ::mmap(nullptr, sizeof(Offset), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    DEFIB_ASSERT(mapped != MAP_FAILED);
    offset_ = static_cast<Offset*>(mapped);
  }
  SharedClock(const SharedClock&) = delete;
  SharedClock& operator=(const SharedClock&) = delete;
  ~SharedClock() override { ::munmap(offset_, sizeof(Offset)); }

  std::int64_t mono_ns() const override { return os::real_clock().mono_ns() + offset_->load(); }
  std::int64_t wall_ns() const override { return os::real_clock().wall_ns() + offset_->load(); }
  std::string boot_id() const override { return os::real_clock().boot_id(); }
  void sleep_for(os::Duration duration) const override {
    const std::int64_t end = mono_ns() + duration.count();
    for (std::int64_t left = duration.count(); left > 0; left = end - mono_ns()) {
      os::real_clock().sleep_for(kSlice);
      *offset_ += std::min(left, std::max(step_.count(), duration.count() / kSlices));
    }
  }
  // Time that passes while nobody lives.
  void advance(os::Duration duration) const { *offset_ += duration.count(); }

 private:
  using Offset = std::atomic<std::int64_t>;
  static_assert(Offset::is_always_lock_free);
  static constexpr os::Duration kSlice = std::chrono::microseconds(100);
  static constexpr std::int64_t kSlices = 1'000;  // of one sleep, at most

  os::Duration step_;
  Offset* offset_ = nullptr;
};

}  // namespace defib
