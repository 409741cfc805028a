// Client order ids that never repeat, and the record of every boot of the engine.
//
// id = owner(3) + epoch(5) + counter(8), base 36 in lower case, 16 characters of [a-z0-9]: it fits
// every venue's rule ([A-Za-z0-9]{1,18}). The epoch counts boots. It is made durable against power
// loss, together with the boot's record, in one transaction before anything else happens, so an id
// of this boot cannot have been used by any boot before it, however that one ended.
//
// The boot records are the evidence of the crash-loop gate: a boot that never wrote its clean end
// has crashed. Times carry boot id, monotonic and wall clock, so that a stepped clock hides
// nothing.
//
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/store/store.h"

namespace defib::trading {

inline constexpr std::size_t kOwnerLength = 3;
inline constexpr std::size_t kEpochLength = 5;
inline constexpr std::size_t kCounterLength = 8;
inline constexpr std::uint64_t kMaxEpoch = 60'466'175;           // 36^5 - 1
inline constexpr std::uint64_t kMaxCounter = 2'821'109'907'455;  // 36^8 - 1

struct BootRecord {
  std::uint64_t epoch = 0;
  std::string boot_id;       // the kernel's
  std::int64_t mono_ns = 0;  // when the engine started
  std::int64_t wall_ns = 0;
  bool clean = false;  // the engine ended by its own decision
  std::int64_t ended_wall_ns = 0;
};

struct ClientId {
  std::string owner;
  std::uint64_t epoch = 0;
  std::uint64_t counter = 0;
};

std::string format_client_id(const ClientId& id);
// nullopt where the text is not an id of this form: another program's order.
std::optional<ClientId> parse_client_id(std::string_view text);

class IdSource {
 public:
  // Increments the epoch and records the boot, synced (kPower), in one transaction. The first thing
  // that an engine does. InvalidArgument where `owner` is not three characters of [a-z0-9];
  // LimitExceeded after the last epoch. `least_epoch`: where the store may have forgotten boots
  // (damage.h).
  static Result<IdSource> begin_boot(store::Store& store, const os::Clock& clock, std::string owner,
                                     std::uint64_t least_epoch = 0);
  // Writes nothing and belongs to no boot (epoch 0): for looking only, never for real orders.
  static IdSource for_inspection(const os::Clock& clock, std::string owner);
  std::string next();
  std::uint64_t epoch() const { return boot_.epoch; }
  const BootRecord& boot() const { return boot_; }
  const std::string& owner() const { return owner_; }
  // Marks this boot as ended on purpose, synced. The last thing that an engine does.
  Result<> end_boot_cleanly(store::Store& store, const os::Clock& clock);

 private:
  IdSource(std::string owner, BootRecord boot) : owner_(std::move(owner)), boot_(std::move(boot)) {}
  std::string owner_;
  BootRecord boot_;
  std::uint64_t counter_ = 0;
};

// The newest `limit` boots, oldest first.
Result<std::vector<BootRecord>> read_boots(const store::Snapshot& snapshot, std::size_t limit);

// How many boots before the newest one ended without their clean mark within `window` before now.
// A crash's time is the start of the boot after it: within one kernel boot by the monotonic clock,
// else by the wall clock, and what seems to lie in the future counts. `boots` as from read_boots();
// the last one is the running one.
int crashes_within(const std::vector<BootRecord>& boots, const os::Clock& clock,
                   os::Duration window);

}  // namespace defib::trading
