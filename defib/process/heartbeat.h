// HeartbeatWatch: tells from the agent page which stages of a service are silent, and when it has
// to look next.
//
// A stage is armed by its first beat, and silent when it then does not beat for its deadline.
//   - A stamped stage says when it beat last. One look a deadline is enough: at the newest stamp
//     plus the deadline, where a healthy stage has a newer stamp.
//   - A counting stage is looked at every quarter of its deadline, and its silence counts from the
//     look that saw the counter change last.
// Silence is not yet a hang: the caller judges it (starvation.h), and says mark_told() or hold().
//
// Pure: time is an argument. Reads the page, which the service may have corrupted, defensively.
// Thread rule: one thread.

#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/os/clock.h"
#include "defib/process/agent_page.h"

namespace defib::process {

// How fresh the heartbeats of a service are.
enum class HeartbeatState : std::uint8_t {
  kNone,     // no stage is armed
  kResting,  // all that are armed rest on purpose
  kHealthy,  // every beat is younger than the healthy age
  kLate,     // one is older, within its deadline
  kHeld,     // beyond its deadline, and judged not to be a hang (so far)
  kLost,     // told as a hang
};
// "none", "resting", "healthy", "late", "held", "lost".
std::string_view to_string(HeartbeatState state);

class HeartbeatWatch {
 public:
  struct Options {
    os::Duration deadline{0};  // of stages without one of their own; 0: those do not count
    // A beat older than this is late. Stages with a deadline of their own are late after the same
    // share of it.
    os::Duration healthy{0};
  };
  // What a shorter deadline is taken for.
  static constexpr os::Duration kShortestDeadline = std::chrono::milliseconds(5);
  static constexpr std::size_t kNotifySlot = kMaxStages;
  static constexpr std::size_t kSlots = kMaxStages + 1;

  explicit HeartbeatWatch(Options options) : options_(options) {}

  // What was said of a silence so far.
  enum class Said : std::uint8_t { kNothing, kHeld, kAlert, kHang };
  // A stage beyond its deadline.
  struct Silence {
    std::size_t slot = 0;
    std::string stage;  // "sd_notify" for WATCHDOG=1
    pid_t tid = 0;      // the thread that beats, as the service numbers it; 0: not known
    bool stamped = false;
    bool from_waits = false;  // beaten by the program's own waiting calls
    std::int64_t last_beat_ns = 0;
    os::Duration silent_for{0};
    os::Duration deadline{0};
    Said said = Said::kNothing;
  };
  struct Armed {
    std::size_t slot = 0;
    pid_t tid = 0;
    std::int64_t last_beat_ns = 0;
  };
  struct Look {
    std::vector<Silence> silent;  // each needs mark_told() or hold()
    std::vector<Armed> beating;   // armed, and within their deadlines
    bool recovered = false;       // a stage of which an alert or a hang was said beats again
  };
  // Looks at all stages. `page` may be nullptr: then only sd_notify's heartbeat exists.
  Look look(const AgentPage* page, std::int64_t mono_ns);
  // When the next look is due; nothing while no stage is armed.
  std::optional<std::int64_t> next_due() const;
  // It was told as a hang: nothing more is said of it until the stage beats again.
  void mark_told(std::size_t slot, std::int64_t mono_ns);
  // The silence is no hang so far: it is silent again at `until_mono_ns`, unless it beats.
  void hold(std::size_t slot, std::int64_t until_mono_ns, Said said);
  // Whether the stage has beaten since the last look.
  bool has_beaten(const AgentPage* page, std::size_t slot) const;

  // WATCHDOG=1 and WATCHDOG_USEC= of sd_notify, a stage beside those of the page. The stamp is the
  // arrival.
  void notify_beat(std::int64_t mono_ns);
  void set_notify_deadline(os::Duration deadline) { notify_deadline_ = deadline; }

  // The stage that is nearest to its deadline, as of now.
  struct View {
    HeartbeatState state = HeartbeatState::kNone;
    std::string stage;
    os::Duration age{0};
    os::Duration deadline{0};
  };
  View view(const AgentPage* page, std::int64_t mono_ns) const;

 private:
  // What the page (or sd_notify) says of a stage.
  struct Reading {
    StageUse use = StageUse::kFree;
    std::uint64_t beats = 0;
    std::int64_t stamp_ns = 0;
    os::Duration deadline{0};
    pid_t tid = 0;
    bool from_waits = false;
  };
  struct Slot {
    std::uint64_t beats = 0;
    std::int64_t stamp_ns = 0;
    std::int64_t last_beat_ns = 0;  // as far as it is known
    std::int64_t due_ns = 0;        // of the next look; 0: none
    std::int64_t held_until_ns = 0;
    os::Duration deadline{0};
    bool armed = false;
    bool resting = false;
    bool stamped = false;
    Said said = Said::kNothing;
  };
  Reading read(const AgentPage* page, std::size_t slot) const;
  std::string name_of(const AgentPage* page, std::size_t slot) const;
  void look_at_rest(Slot& slot, const Reading& reading, std::int64_t mono_ns);
  void look_at(std::size_t index, const Reading& reading, std::int64_t mono_ns, Look& look);

  Options options_;
  os::Duration notify_deadline_{0};
  std::uint64_t notify_beats_ = 0;
  std::int64_t notify_stamp_ns_ = 0;
  std::uint32_t image_ = 0;
  std::array<Slot, kSlots> slots_{};
};

}  // namespace defib::process
