#include "defib/venue/rate_budget.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

namespace defib::venue {
namespace {

constexpr std::int64_t kMicro = 1'000'000;
constexpr std::int64_t kNsPerMs = 1'000'000;
// Two requests may reach the venue closer together than they left.
constexpr std::int64_t kMarginNs = 50 * kNsPerMs;

}  // namespace

RateBudget::RateBudget(RateLimit limit, const os::Clock& clock, const std::string& file)
    : limit_(limit), clock_(&clock), boot_(std::hash<std::string>()(clock.boot_id())) {
  count_.boot = boot_;
  count_.at = clock.mono_ns();
  if (file.empty() || limit.capacity == 0) return;
  if (auto opened = os::real_files().open(file, os::OpenMode::kCreate)) file_ = std::move(*opened);
}

void RateBudget::settle(const RateLimit& limit, std::int64_t now, Count& count) {
  if (limit.window.count() > 0) {
    const std::int64_t slice = limit.window.count() / static_cast<std::int64_t>(kSlices);
    const std::int64_t passed = (now - count.at) / slice;
    if (passed <= 0) return;
    auto& used = count.used_micro;
    const auto shift = std::min(static_cast<std::size_t>(passed), used.size());
    std::ranges::copy_backward(used.begin(), used.end() - static_cast<std::ptrdiff_t>(shift),
                               used.end());
    std::fill_n(used.begin(), shift, 0);
    count.at += passed * slice;
    return;
  }
  // refill_per_1000s thousandths of a unit a second are so many millionths in a microsecond's
  // thousandth; computed in microseconds to stay within 64 bits.
  const std::int64_t passed_us = (now - count.at) / 1'000;
  const std::int64_t decayed = passed_us * limit.refill_per_1000s / 1'000;
  count.used_micro[0] = std::max<std::int64_t>(0, count.used_micro[0] - decayed);
  count.at += passed_us * 1'000;
}

RateBudget::Count RateBudget::counted() const {
  Count count = count_;
  std::array<char, sizeof(Count)> bytes;
  if (file_ != nullptr) {
    const auto read = file_->read_at(0, bytes.data(), bytes.size());
    Count kept;
    if (read && *read == sizeof(Count)) {
      std::memcpy(&kept, bytes.data(), sizeof kept);
      if (kept.boot == boot_ && kept.at <= clock_->mono_ns()) count = kept;
    }
  }
  settle(limit_, clock_->mono_ns(), count);
  return count;
}

void RateBudget::keep(const Count& count) {
  count_ = count;
  if (file_ == nullptr) return;
  const std::string_view bytes(reinterpret_cast<const char*>(&count), sizeof count);
  if (!file_->write_at(0, bytes)) file_.reset();
}

std::int64_t RateBudget::allowed(bool urgent) const {
  return urgent ? limit_.capacity : limit_.capacity * (100 - limit_.reserved_percent) / 100;
}

os::Duration RateBudget::wait_for(std::int64_t cost, bool urgent) const {
  return limit_.capacity == 0 ? os::Duration(0) : wait_in(counted(), cost, urgent);
}

os::Duration RateBudget::wait_in(const Count& count, std::int64_t cost, bool urgent) const {
  // A request that costs more than all there is may leave when nothing is used.
  const std::int64_t room = std::max<std::int64_t>(0, allowed(urgent) - cost) * kMicro;
  const auto& used = count.used_micro;
  std::int64_t sum = std::accumulate(used.begin(), used.end(), std::int64_t{0});
  if (sum <= room) return os::Duration(0);
  if (limit_.window.count() > 0) {
    // Slices leave the window, the oldest first.
    const std::int64_t slice = limit_.window.count() / static_cast<std::int64_t>(kSlices);
    std::int64_t left = 0;
    for (std::size_t oldest = used.size(); oldest-- > 0 && sum > room;) {
      sum -= used[oldest];
      ++left;
    }
    return os::Duration(count.at + left * slice + kMarginNs - clock_->mono_ns());
  }
  if (limit_.refill_per_1000s <= 0) return os::Duration::max();
  const std::int64_t us =
      ((sum - room) * 1'000 + limit_.refill_per_1000s - 1) / limit_.refill_per_1000s;
  return os::Duration((us + 1) * 1'000);
}

Result<> RateBudget::take(std::int64_t cost, bool urgent, os::Duration patience,
                          std::string_view venue) {
  if (limit_.capacity == 0) return {};
  const std::int64_t deadline = clock_->mono_ns() + patience.count();
  for (os::Duration wait = wait_for(cost, urgent); !urgent && wait.count() > 0;
       wait = wait_for(cost, urgent)) {
    if (wait.count() > deadline - clock_->mono_ns()) {
      return Error(Code::kVenueRateLimited,
                   fmt::format("the rate budget of {} is used up for another {}", venue,
                               os::format_duration(wait)))
          .with("retry_after_ms", (wait.count() + kNsPerMs - 1) / kNsPerMs)
          .with("nothing_sent", "true");
    }
    clock_->sleep_for(wait);
  }
  Count count = counted();
  count.used_micro[0] += cost * kMicro;
  keep(count);
  return {};
}

void RateBudget::learn_used(std::int64_t used) {
  if (limit_.capacity == 0) return;
  Count count = counted();
  const auto& known = count.used_micro;
  const std::int64_t sum = std::accumulate(known.begin(), known.end(), std::int64_t{0});
  if (used * kMicro <= sum) return;
  count.used_micro[0] += used * kMicro - sum;
  keep(count);
}

std::int64_t RateBudget::used() const {
  const Count count = counted();
  return std::accumulate(count.used_micro.begin(), count.used_micro.end(), std::int64_t{0}) /
         kMicro;
}

os::Duration RateLimit::per_unit() const {
  if (capacity <= 0) return os::Duration(0);
  if (window.count() > 0) return window / capacity;
  if (refill_per_1000s <= 0) return os::Duration(0);
  return os::Duration(std::chrono::seconds(1'000)) / refill_per_1000s;
}

os::Duration predict(const RateLimit& limit, std::int64_t requests, std::int64_t cost,
                     os::Duration round_trip) {
  const os::Duration work = round_trip * requests;
  const std::int64_t room = limit.capacity * (100 - limit.reserved_percent) / 100;
  if (limit.capacity == 0 || cost <= room || requests == 0) return work;
  if (limit.window.count() > 0) {
    // Only whole requests fit into a window.
    const std::int64_t each = std::max<std::int64_t>(1, cost / requests);
    const std::int64_t a_window = std::max<std::int64_t>(1, room / each) * each;
    const std::int64_t windows = (cost - 1) / a_window;
    const std::int64_t tail = cost - windows * a_window;
    // A slice leaves as a whole, and not before its last request is a window old.
    const os::Duration cycle = limit.window + limit.window / RateBudget::kSlices;
    return cycle * windows + round_trip * std::max<std::int64_t>(1, tail / each);
  }
  if (limit.refill_per_1000s <= 0) return os::Duration::max();
  const std::int64_t over_ms = (cost - room) * 1'000'000 / limit.refill_per_1000s;
  // The counter decays while the requests are under way.
  return std::max(work, os::Duration(std::chrono::milliseconds(over_ms)));
}

}  // namespace defib::venue
