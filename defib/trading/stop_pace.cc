#include "defib/trading/stop_pace.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <string>
#include <utility>

namespace defib::trading {
namespace {

// Nothing positive where the error names no time.
std::int64_t named_ms(const Error& error) {
  const std::string text(error.field("retry_after_ms"));
  std::int64_t ms = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), ms);
  constexpr std::int64_t kLongestMs = 24LL * 3'600 * 1'000;
  return problem == std::errc() && end == text.data() + text.size() ? std::min(ms, kLongestMs) : 0;
}

}  // namespace

StopPace::StopPace(const os::Clock& clock, os::Duration at_most, os::Duration named)
    : clock_(&clock),
      end_ns_(clock.mono_ns() + at_most.count()),
      named_end_ns_(clock.mono_ns() + std::max(at_most, named).count()) {}

void StopPace::failed(const Error& error) {
  const os::Duration after = std::chrono::milliseconds(named_ms(error));
  if (after.count() <= 0) {
    soon_ = true;
    return;
  }
  named_ = named_ ? std::min(*named_, after) : after;
}

void StopPace::reading_failed(const Error& error) {
  if (error.code() == Code::kVenueRateLimited) refused_ = true;
  failed(error);
}

bool StopPace::wait() {
  owes_reading_ = refused_ && !soon_ && (cancelled_ || owes_reading_);
  cancelled_ = refused_ = false;
  const bool named = named_ && !soon_ && (!left_ || *named_ < *left_);
  if (named) {
    next_ = *named_;
  } else if (left_ && !soon_) {
    next_ = *left_;
  } else {
    next_ = pause_;
    pause_ = std::min(pause_ * 2, kLongestPause);
  }
  soon_ = false;
  named_.reset();
  left_.reset();
  const std::int64_t end = named ? named_end_ns_ : end_ns_;
  if (clock_->mono_ns() + next_.count() > end) return false;
  clock_->sleep_for(next_);
  return true;
}

}  // namespace defib::trading
