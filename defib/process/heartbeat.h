// HeartbeatWatch: tells from the counters of the agent page whether a service still beats.
//
// A stage is armed by its first beat and lost when its counter stands still for its deadline. The
// page is looked at every quarter of the shortest deadline, and a loss needs four looks in a row at
// an unchanged counter: a supervisor that was itself kept from running does not blame the service.
// Pure: time is an argument. Reads the page, which the service may have corrupted, defensively.
// Thread rule: one thread.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "defib/os/clock.h"
#include "defib/process/agent_page.h"

namespace defib::process {

class HeartbeatWatch {
 public:
  // `default_deadline` 0: only stages with a deadline of their own count.
  explicit HeartbeatWatch(os::Duration default_deadline) : default_deadline_(default_deadline) {}

  struct Lost {
    std::string stage;
    os::Duration silent_for{0};
    os::Duration deadline{0};
  };
  // Looks at all stages. Each loss is told once, until the stage beats again. `page` may be
  // nullptr: then only sd_notify's heartbeat exists.
  std::optional<Lost> look(const AgentPage* page, std::int64_t mono_ns);

  // WATCHDOG=1 and WATCHDOG_USEC= of sd_notify, a stage beside those of the page.
  void notify_beat();
  void set_notify_deadline(os::Duration deadline) { notify_deadline_ = deadline; }

  // How long after a look the next one is due; nothing while no stage is armed.
  std::optional<os::Duration> period() const;
  // The age of the heartbeat that is nearest to its deadline, as of the last look.
  std::optional<os::Duration> age() const { return age_; }

 private:
  static constexpr std::size_t kNotifySlot = kMaxStages;
  static constexpr int kLooks = 4;
  struct Slot {
    std::uint64_t beats = 0;
    std::int64_t changed_at = 0;
    int looks = 0;  // since the counter changed
    bool armed = false;
    bool told = false;
    os::Duration deadline{0};
  };
  std::optional<Lost> look_at(Slot& slot, std::uint64_t beats, os::Duration deadline,
                              std::int64_t mono_ns);

  os::Duration default_deadline_;
  os::Duration notify_deadline_{0};
  std::uint64_t notify_beats_ = 0;
  std::uint32_t image_ = 0;
  std::array<Slot, kMaxStages + 1> slots_{};
  std::optional<os::Duration> age_;
};

}  // namespace defib::process
