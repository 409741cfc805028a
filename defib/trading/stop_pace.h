// StopPace: how long stopping goes on, and how long it waits between its rounds.
//
// A venue that says "slower" names the time when it will listen again, and is not asked before.
// Everything else is tried again soon, then less often. Rounds are bounded by time, not by number:
// a budget that is used up must not end a stop after a second.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <optional>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::trading {

class StopPace {
 public:
  static constexpr os::Duration kFirstPause = std::chrono::milliseconds(200);
  static constexpr os::Duration kLongestPause = std::chrono::seconds(2);

  // `at_most`: how long rounds may follow each other; `named`: how long where the venue itself
  // names the time of the next.
  StopPace(const os::Clock& clock, os::Duration at_most, os::Duration named);

  // Whether this round cancels. Not where a cancel went through and the venue had no room for the
  // reading behind it: another cancel would use up what the reading waits for.
  bool cancels() const { return !owes_reading_; }
  bool owes_reading() const { return owes_reading_; }
  void owe_reading(bool owed) { owes_reading_ = owed; }
  void cancelled() { cancelled_ = true; }
  // What went wrong in this round.
  void failed(const Error& error);
  void reading_failed(const Error& error);
  // Something is still open, so that the next round need not wait for the venue's word.
  void still_open() { soon_ = true; }
  // Nothing is left but to wait so long: the fence of a request, or the lag of an order.
  void only_wait(os::Duration left) { left_ = left; }
  // Waits for the next round. False: there is no time for it; next() says when one makes sense.
  bool wait();
  os::Duration next() const { return next_; }

 private:
  const os::Clock* clock_;
  std::int64_t end_ns_;
  std::int64_t named_end_ns_;
  os::Duration pause_ = kFirstPause;
  os::Duration next_ = kFirstPause;
  bool owes_reading_ = false;
  // Of this round.
  bool cancelled_ = false;
  bool refused_ = false;  // a reading, by the venue's limit
  bool soon_ = false;
  std::optional<os::Duration> named_;  // the soonest that was named
  std::optional<os::Duration> left_;
};

}  // namespace defib::trading
