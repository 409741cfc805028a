// RateLimits: request weight a minute and new orders in ten seconds, with the venue's escalation:
// over the limit is 429, and going on regardless is a ban (418) that grows from two minutes to
// three days.
//
// One address, one account: everything counts together. Thread rule: one thread at a time.

#pragma once

#include <cstdint>

#include "defib/paper/types.h"

namespace defib::paper {

class RateLimits {
 public:
  // 0: no limit.
  struct Options {
    int weight_per_minute = 6000;
    int orders_per_10s = 100;
  };
  explicit RateLimits(Options options) : options_(options) {}

  enum class Verdict { kAllowed, kTooMany, kBanned };
  struct Answer {
    Verdict verdict = Verdict::kAllowed;
    std::int64_t retry_after_s = 0;
    Micros banned_until_us = 0;
  };
  // Counts the request; a refused one counts too.
  Answer request(int weight, Micros now);
  // Counts a new order; false where it is one too many.
  bool order(Micros now);

  int used_weight() const { return used_weight_; }
  int orders_10s() const { return orders_10s_; }
  int orders_1d() const { return orders_1d_; }
  const Options& options() const { return options_; }

 private:
  Options options_;
  std::int64_t minute_ = 0, ten_seconds_ = 0, day_ = 0;
  int used_weight_ = 0, orders_10s_ = 0, orders_1d_ = 0;
  int ignored_ = 0;  // requests sent in spite of a 429, in this minute
  int bans_ = 0;
  Micros banned_until_us_ = 0;
};

}  // namespace defib::paper
