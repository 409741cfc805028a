// RateBudget: what the venue's rate limit still allows, kept on this side so that recovery never
// runs into a refusal.
//
// Two forms of limit exist: a budget that is given anew every window (Binance: 6,000 weight a
// minute), and a counter that decays all the time (Kraken: 15 points, 0.33 a second). Where the
// venue's windows begin is not known; so no interval of a window's length, wherever it begins, may
// hold more than the budget. What the venue itself tells (a header) corrects the own count upwards.
// A part is kept back for orders and cancels: reading everything again must never stand in the way
// of reducing risk.
//
// With a file the count outlives the process: an engine that crashes in a loop asks the venue no
// more than one that does not. Processes that share the file share the budget, nearly: two that
// take at the same instant may count once.
// Pure but for that file and for sleeping by the given clock. Thread rule: one thread at a time.

#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"

namespace defib::venue {

struct RateLimit {
  std::int64_t capacity = 0;  // 0: nothing limits
  // One of the two:
  os::Duration window{0};             // capacity is given anew so often
  std::int64_t refill_per_1000s = 0;  // decays; thousandths of a unit a second
  // Of the capacity, for orders and cancels alone.
  int reserved_percent = 10;
  // How long until one unit is given back; zero: nothing limits.
  os::Duration per_unit() const;
};

class RateBudget {
 public:
  // Of a window.
  static constexpr std::size_t kSlices = 20;

  // `file`: where the count is kept; empty: nowhere. A file that cannot be used is done without.
  RateBudget(RateLimit limit, const os::Clock& clock, const std::string& file = {});

  // Takes `cost`, waiting for it by the clock up to `patience`; VenueRateLimited with
  // `nothing_sent` and `retry_after_ms` where it would take longer. `urgent`: may use the reserve,
  // and is never held back by an empty budget (the venue decides), only counted.
  Result<> take(std::int64_t cost, bool urgent, os::Duration patience, std::string_view venue);
  // What the venue says has been used so far, in this window.
  void learn_used(std::int64_t used);
  // How long until `cost` could be taken; zero: now.
  os::Duration wait_for(std::int64_t cost, bool urgent) const;
  std::int64_t used() const;

 private:
  struct Count {
    std::uint64_t boot = 0;  // times of another boot mean nothing
    std::int64_t at = 0;     // start of the newest slice, or when the counter was last settled
    // Millionths of a unit: of each slice, the newest first, and one more, since the oldest lies
    // partly within the window; or the counter, as the first.
    std::array<std::int64_t, kSlices + 1> used_micro = {};
  };
  static void settle(const RateLimit& limit, std::int64_t now, Count& count);
  Count counted() const;  // as of now
  void keep(const Count& count);
  std::int64_t allowed(bool urgent) const;
  os::Duration wait_in(const Count& count, std::int64_t cost, bool urgent) const;

  RateLimit limit_;
  const os::Clock* clock_;
  std::uint64_t boot_ = 0;
  Count count_;
  std::unique_ptr<os::File> file_;  // null: none
};

// How long reading `requests` requests of `cost` in all will take under the limit, when each takes
// `round_trip`, starting with nothing used.
os::Duration predict(const RateLimit& limit, std::int64_t requests, std::int64_t cost,
                     os::Duration round_trip);

}  // namespace defib::venue
