// FenceResolver: settles intents whose fate is unknown, without ever sending anything again.
//
// For each UNKNOWN intent: wait until the venue's own clock is past the fence; then look for it in
// the open list, by its id, and in the fills. Found: adopted as it is. Absent: noted with the
// venue's time; absent again at least one visibility lag later: proved never accepted, and handed
// back to its strategy (its price is stale). Two orders for one intent: DuplicateOrder, a hard
// stop. A fill of an order that nobody knows, and that the intent could have caused, blocks the
// proof.
//
// Nothing is kept but what the intent log keeps: a resolver that was killed starts over.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/trading/intents.h"
#include "defib/trading/ledger.h"
#include "defib/venue/venue.h"

namespace defib::trading {

struct Settled {
  std::string intent_id;
  IntentState state = IntentState::kUnknown;
  std::string explanation;  // "found open as order 12 with 0.5 filled"
};

struct ResolveProgress {
  std::vector<Settled> settled;   // by this call
  std::vector<Settled> blocked;   // absent, but an unexplained trade stands against the proof
  int remaining = 0;              // still UNKNOWN
  std::int64_t next_mono_ns = 0;  // call again then; 0: nothing is left to do
};

class FenceResolver {
 public:
  struct Options {
    // Added to the venue's own visibility lag and to the fence; covers the clock's resolution.
    std::int64_t margin_ms = 50;
  };
  FenceResolver(Ledger& ledger, venue::Venue& venue, const os::Clock& clock, Options options)
      : ledger_(&ledger), venue_(&venue), clock_(&clock), options_(options) {}

  // Does what can be done now; never waits. Venue errors are returned and leave all as it was.
  Result<ResolveProgress> poll();
  // Polls and sleeps until nothing is left or `deadline_mono_ns` has passed.
  Result<ResolveProgress> run_until(std::int64_t deadline_mono_ns);

 private:
  struct FirstAbsence {
    std::int64_t server_ms = 0;  // the venue's time before that reading
    bool blocked = false;
  };
  std::int64_t due_time_ms(const Intent& intent) const;
  Result<> examine(const std::vector<Intent>& due, const std::vector<Intent>& early,
                   const std::vector<std::string>& symbols, std::int64_t server_ms,
                   ResolveProgress& progress);
  Result<std::optional<venue::Order>> find(const Intent& intent,
                                           const std::vector<venue::Order>& open) const;
  Result<> judge_absent(const Intent& intent, std::int64_t server_ms, ResolveProgress& progress);
  const venue::Fill* suspicious_fill(const Intent& intent) const;
  Result<> adopt(const Intent& intent, const venue::Order& order, ResolveProgress& progress);
  Result<> prove_absent(const Intent& intent, std::int64_t first_ms, std::int64_t second_ms,
                        ResolveProgress& progress);

  Ledger* ledger_;
  venue::Venue* venue_;
  const os::Clock* clock_;
  Options options_;
  std::map<std::string, FirstAbsence> absent_;
};

}  // namespace defib::trading
