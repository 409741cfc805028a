// StoreLock: one process at a time opens a store for writing.
//
// The lock is the kernel's (an advisory lock of the open file description on DIR/LOCK), so it is
// free the moment its holder is gone; no age or pid file decides. The file's content only says who
// holds it, for messages and for the recovery indicator: pid, start time and boot id together name
// one process for ever.
//
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "defib/os/clock.h"
#include "defib/os/files.h"

namespace defib::store {

struct LockRecord {
  std::string state;  // recovering, open, migrating, closed; dropped: let go without a clean end
  int pid = 0;
  std::uint64_t start_time = 0;  // clock ticks since boot
  std::string boot_id;
  std::string since;  // RFC 3339
  std::string program;
};

// One line of text under a checksum.
std::string encode(const LockRecord& record);
std::optional<LockRecord> decode_lock_record(std::string_view text);
// None where there is no lock file or its content is unreadable.
std::optional<LockRecord> read_lock_record(os::Files& files, const std::string& dir);

enum class HolderState { kNone, kDead, kDying, kAlive };
HolderState holder_state(const LockRecord& record, const os::Clock& clock);
// "pid 123 (engine), since 2026-01-01T00:00:00Z"; empty where the record's process is not alive.
std::string living_holder(const std::optional<LockRecord>& record, const os::Clock& clock);

// What a reader, who takes no lock, sees of a store's writers at one moment.
struct WriterSight {
  std::string text;      // of the lock's file, and the names of log segments, base and runs
  bool is_held = false;  // by a process that lives
};
WriterSight see_writer(os::Files& files, const std::string& dir, const os::Clock& clock);

// Repeats `attempt` while its result is not settled and may come from files that a writer was
// changing. Where one came, went or made a checkpoint meanwhile, that is more than likely, and it
// is tried many times; where one only lives, a few times.
template <typename Attempt, typename Settled>
auto look_until(os::Files& files, const std::string& dir, const os::Clock& clock,
                const Attempt& attempt, const Settled& settled) {
  constexpr int kMaxMoving = 64;
  constexpr int kMaxStill = 8;
  WriterSight before = see_writer(files, dir, clock);
  for (int moving = 0, still = 0;;) {
    auto result = attempt();
    if (settled(result)) return result;
    WriterSight after = see_writer(files, dir, clock);
    const bool has_moved = before.text != after.text;
    const bool may_be_in_motion = has_moved || before.is_held || after.is_held;
    if (!may_be_in_motion ||
        ++(has_moved ? moving : still) >= (has_moved ? kMaxMoving : kMaxStill)) {
      return result;
    }
    before = std::move(after);
  }
}

// DatabaseLocked by the process of the record, or by one that nobody knows; its cause is
// RecoveryProgress while that one recovers.
Error locked_error(const std::string& path, const std::optional<LockRecord>& record,
                   HolderState state);

class StoreLock {
 public:
  // Waits up to `wait` for a holder that is dying, and not after `should_stop` answers true (that
  // is Cancelled); fails at once with DatabaseLocked, which names it, for one that lives.
  static Result<StoreLock> acquire(os::Files& files, const std::string& dir, const os::Clock& clock,
                                   os::Duration wait,
                                   const std::function<bool()>& should_stop = {});
  StoreLock(StoreLock&&) = default;
  StoreLock& operator=(StoreLock&&) = delete;
  // A process that lives on without the store is not to be taken for its holder: the record says
  // so, for what that is worth without a sync.
  ~StoreLock();
  // Rewrites and syncs the record.
  Result<> set_state(std::string_view state);
  // What stood there before.
  const std::optional<LockRecord>& previous() const { return previous_; }

 private:
  StoreLock(std::unique_ptr<os::File> file, std::optional<LockRecord> previous,
            const os::Clock& clock)
      : file_(std::move(file)), previous_(std::move(previous)), clock_(&clock) {}
  LockRecord record(std::string_view state) const;

  std::unique_ptr<os::File> file_;  // null: moved from
  std::optional<LockRecord> previous_;
  const os::Clock* clock_;
  bool is_named_ = false;  // the record names this process as the holder
};

}  // namespace defib::store
