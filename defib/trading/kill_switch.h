// KillSwitch: a person stops sending, of everything, of one venue or of one strategy, at once and
// from outside of the engine.
//
// The switch is a file, DIR/kill/engaged.json, written atomically and synced before anything else
// happens; it outlives every process. The gateway looks at it before each order (one look a
// millisecond at most), so an engine that runs sends nothing more, and one that starts sends
// nothing at all. Doubt is refusal: a file that cannot be read, or looked for, engages everything;
// only one that is not there does not. DIR/kill is made when the engine starts, and what another
// user writes there (an operator as root) is given to the directory's owner, so that it can be
// read.
//
// Cancelling and proving that nothing is open is kill_venue(): it does not need the engine.
// Thread rule: one thread at a time.

#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::trading {

// "all", "venue:NAME" or "strategy:NAME".
struct KillRecord {
  std::string scope;
  std::string by;
  std::string reason;
  std::int64_t at_wall_ns = 0;
  wire::Json to_json() const;
};

class KillSwitch {
 public:
  KillSwitch(os::Files& files, const os::Clock& clock, const std::string& state_dir);

  // Makes the directory, as the user whose engine looks into it.
  Result<> prepare() const;
  // Synced when it returns. Engaging twice keeps the first record. InvalidArgument where the scope
  // has another form or no person is named.
  Result<> engage(std::string_view scope, std::string_view by, std::string_view reason);
  // NotFound where the scope is not engaged; InvalidArgument without a name and a reason.
  Result<> release(std::string_view scope, std::string_view by, std::string_view reason);
  // Reads the file. Corrupted where it is none of ours.
  Result<std::vector<KillRecord>> read() const;
  // What stops an order of this strategy at this venue; cheap, at most a millisecond old.
  std::optional<KillRecord> stops(std::string_view venue, std::string_view strategy);

 private:
  Result<> write(const std::vector<KillRecord>& records) const;

  os::Files* files_;
  const os::Clock* clock_;
  std::string path_;
  std::int64_t looked_mono_ns_ = 0;
  std::vector<KillRecord> seen_;
};

struct KillOutcome {
  std::string venue;
  bool verified = false;  // nothing (of the scope) was open when it was read last
  int rounds = 0;
  std::size_t cancelled = 0;  // still seen open after a cancel
  std::vector<venue::Order> still_open;
  bool switch_armed = false;  // the venue's dead-man's switch
  std::vector<Error> errors;
  wire::Json to_json() const;
};

struct KillOptions {
  std::vector<std::string> symbols = {};
  // Only these client ids, as for one strategy; empty with `only_listed`: nothing.
  std::vector<std::string> client_ids = {};
  bool only_listed = false;
  // How long rounds may follow each other beyond `quiet`, and how long where the venue itself names
  // the time when it will listen again.
  os::Duration at_most = std::chrono::seconds(10);
  os::Duration named = std::chrono::seconds(90);
  // Requests that left before the switch was seen are accepted until their fence; the proof needs
  // a reading after that. Zero: the venue's own window and lag.
  os::Duration quiet{0};
  // Zero: not armed. What is sent within it after a release is cancelled too.
  os::Duration arm_switch{0};
};
// Cancels and reads back until nothing of the scope is open and no request can still be under way.
// Never throws away an error: a cancel that timed out is UNKNOWN, and only the reading counts.
KillOutcome kill_venue(venue::Venue& venue, const os::Clock& clock, const KillOptions& options);
// KillNotVerified naming what is still open; none where all were verified.
std::optional<Error> kill_error(const std::vector<KillOutcome>& outcomes);

}  // namespace defib::trading
