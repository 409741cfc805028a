#include "defib/paper/rate_limits.h"

#include <algorithm>

namespace defib::paper {
namespace {

constexpr Micros kSecond = 1'000'000;
constexpr Micros kMinute = 60 * kSecond;
constexpr Micros kDay = 86'400 * kSecond;
constexpr int kIgnoredBeforeBan = 10;
constexpr Micros kFirstBan = 2 * kMinute;
constexpr Micros kLongestBan = 3 * kDay;
constexpr int kMaxDoublings = 12;  // two minutes doubled so often exceed three days

// Starts a new window where `now` lies in another one; true if it did.
bool roll(std::int64_t& window, Micros now, Micros length) {
  const std::int64_t current = now / length;
  if (current == window) return false;
  window = current;
  return true;
}

std::int64_t whole_seconds(Micros time) {
  return (time + kSecond - 1) / kSecond;
}

}  // namespace

RateLimits::Answer RateLimits::request(int weight, Micros now) {
  if (roll(minute_, now, kMinute)) used_weight_ = ignored_ = 0;
  if (now < banned_until_us_) {
    return {Verdict::kBanned, whole_seconds(banned_until_us_ - now), banned_until_us_};
  }
  used_weight_ += weight;
  if (options_.weight_per_minute == 0 || used_weight_ <= options_.weight_per_minute) return {};
  if (++ignored_ <= kIgnoredBeforeBan) {
    return {Verdict::kTooMany, whole_seconds((minute_ + 1) * kMinute - now), 0};
  }
  const Micros length = std::min(kFirstBan << std::min(bans_, kMaxDoublings), kLongestBan);
  ++bans_;
  banned_until_us_ = now + length;
  return {Verdict::kBanned, whole_seconds(length), banned_until_us_};
}

bool RateLimits::order(Micros now) {
  if (roll(ten_seconds_, now, 10 * kSecond)) orders_10s_ = 0;
  if (roll(day_, now, kDay)) orders_1d_ = 0;
  if (options_.orders_per_10s > 0 && orders_10s_ >= options_.orders_per_10s) return false;
  ++orders_10s_;
  ++orders_1d_;
  return true;
}

}  // namespace defib::paper
