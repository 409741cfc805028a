#include "defib/process/heartbeat.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "defib/base/assert.h"

namespace defib::process {
namespace {

// A counting stage beat at some time since the look before: it is looked at so often that a hang is
// told within a quarter of its deadline, a look that comes late included.
constexpr int kFewestLooks = 4, kMostLooks = 8;  // a deadline
constexpr os::Duration kLookLate = std::chrono::microseconds(500);
// After a loss was told it is only looked for a new beat, and not more often than this.
constexpr os::Duration kTellTaleInterval = std::chrono::milliseconds(250);
// Clocks of two processors may differ by less; a stamp further ahead is corrupted.
constexpr std::int64_t kStampAheadNs = 1'000'000;

constexpr std::array<std::string_view, 6> kStateWords = {"none", "resting", "healthy",
                                                         "late", "held",    "lost"};

os::Duration look_interval(os::Duration deadline) {
  return std::max(deadline / kFewestLooks - kLookLate, deadline / kMostLooks);
}

}  // namespace

std::string_view to_string(HeartbeatState state) {
  return kStateWords.at(static_cast<std::size_t>(state));
}

HeartbeatWatch::Reading HeartbeatWatch::read(const AgentPage* page, std::size_t slot) const {
  Reading reading;
  os::Duration own{0};
  if (slot == kNotifySlot) {
    reading.use = StageUse::kWatched;
    reading.beats = notify_beats_;
    reading.stamp_ns = notify_stamp_ns_;
    own = notify_deadline_;
  } else if (page != nullptr) {
    const HeartbeatStage& stage = page->stages[slot];
    const std::uint32_t use = stage.in_use.load(std::memory_order_acquire);
    reading.use = static_cast<StageUse>(use);
    reading.beats = stage.beats.load(std::memory_order_acquire);
    reading.stamp_ns = stage.beat_mono_ns.load(std::memory_order_relaxed);
    reading.tid = stage.tid.load(std::memory_order_relaxed);
    reading.from_waits = (stage.flags & kStageFromWaits) != 0;
    own = std::chrono::milliseconds(stage.deadline_ms.load(std::memory_order_relaxed));
  }
  reading.deadline = own.count() != 0 ? own : options_.deadline;
  if (reading.deadline.count() > 0) {
    reading.deadline = std::max(reading.deadline, kShortestDeadline);
  }
  return reading;
}

std::string HeartbeatWatch::name_of(const AgentPage* page, std::size_t slot) const {
  if (slot == kNotifySlot) return "sd_notify";
  if (page == nullptr) return {};
  const char* const name = page->stages[slot].name;
  return std::string(name, strnlen(name, sizeof page->stages[slot].name));
}

// A stage found at rest is looked at once more, a deadline later. Where that same rest still goes
// on it is not looked at again: its resume rings (agent_core.cc).
void HeartbeatWatch::look_at_rest(Slot& slot, const Reading& reading, std::int64_t mono_ns) {
  const bool same_rest = slot.resting && slot.beats == reading.beats;
  if (same_rest && mono_ns < slot.due_ns) return;
  const bool once_more = !same_rest && reading.beats != 0;
  slot = Slot{};
  slot.beats = reading.beats;
  slot.resting = true;
  if (once_more) slot.due_ns = mono_ns + reading.deadline.count();
}

void HeartbeatWatch::look_at(std::size_t index, const Reading& reading, std::int64_t mono_ns,
                             Look& look) {
  Slot& slot = slots_[index];
  if (reading.use == StageUse::kPaused) return look_at_rest(slot, reading, mono_ns);
  if (reading.use != StageUse::kWatched || reading.beats == 0 || reading.deadline.count() <= 0) {
    slot = Slot{};
    return;
  }
  const bool changed =
      !slot.armed || reading.beats != slot.beats || reading.stamp_ns != slot.stamp_ns;
  if (changed) {
    if (slot.said >= Said::kAlert) look.recovered = true;
    slot = Slot{};
    slot.armed = true;
    slot.beats = reading.beats;
    slot.stamp_ns = reading.stamp_ns;
    slot.stamped = reading.stamp_ns > 0 && reading.stamp_ns <= mono_ns + kStampAheadNs;
    slot.last_beat_ns = slot.stamped ? std::min(reading.stamp_ns, mono_ns) : mono_ns;
  }
  slot.deadline = reading.deadline;
  const std::int64_t deadline_at = slot.last_beat_ns + slot.deadline.count();
  if (slot.said == Said::kHang) {
    slot.due_ns = mono_ns + std::max(slot.deadline, kTellTaleInterval).count();
    return;
  }
  if (mono_ns >= deadline_at && mono_ns >= slot.held_until_ns) {
    look.silent.push_back({index,
                           {},
                           reading.tid,
                           slot.stamped,
                           reading.from_waits,
                           slot.last_beat_ns,
                           os::Duration(mono_ns - slot.last_beat_ns),
                           slot.deadline,
                           slot.said});
    return;
  }
  look.beating.push_back({index, reading.tid, slot.last_beat_ns});
  slot.due_ns = std::max(deadline_at, slot.held_until_ns);
  if (!slot.stamped && slot.held_until_ns == 0) {
    slot.due_ns = std::min(slot.due_ns, mono_ns + look_interval(slot.deadline).count());
  }
}

HeartbeatWatch::Look HeartbeatWatch::look(const AgentPage* page, std::int64_t mono_ns) {
  Look look;
  if (page != nullptr && page->image_id.load(std::memory_order_relaxed) != image_) {
    // Another program was executed in the process: its counters begin anew.
    image_ = page->image_id.load(std::memory_order_relaxed);
    std::fill_n(slots_.begin(), kMaxStages, Slot{});
  }
  for (std::size_t i = 0; i < kSlots; ++i) look_at(i, read(page, i), mono_ns, look);
  for (Silence& silence : look.silent) silence.stage = name_of(page, silence.slot);
  return look;
}

std::optional<std::int64_t> HeartbeatWatch::next_due() const {
  std::optional<std::int64_t> next;
  for (const Slot& slot : slots_) {
    if (slot.due_ns != 0 && (!next || slot.due_ns < *next)) next = slot.due_ns;
  }
  return next;
}

void HeartbeatWatch::mark_told(std::size_t slot, std::int64_t mono_ns) {
  DEFIB_ASSERT(slot < kSlots);
  slots_[slot].said = Said::kHang;
  slots_[slot].due_ns = mono_ns + std::max(slots_[slot].deadline, kTellTaleInterval).count();
}

void HeartbeatWatch::hold(std::size_t slot, std::int64_t until_mono_ns, Said said) {
  DEFIB_ASSERT(slot < kSlots && said < Said::kHang);
  slots_[slot].said = said;
  slots_[slot].held_until_ns = until_mono_ns;
  slots_[slot].due_ns = until_mono_ns;
}

bool HeartbeatWatch::has_beaten(const AgentPage* page, std::size_t slot) const {
  DEFIB_ASSERT(slot < kSlots);
  const Reading reading = read(page, slot);
  return reading.use != StageUse::kWatched || reading.beats != slots_[slot].beats ||
         reading.stamp_ns != slots_[slot].stamp_ns;
}

void HeartbeatWatch::notify_beat(std::int64_t mono_ns) {
  ++notify_beats_;
  notify_stamp_ns_ = mono_ns;
}

HeartbeatWatch::View HeartbeatWatch::view(const AgentPage* page, std::int64_t mono_ns) const {
  View worst;
  double worst_share = -1;
  for (std::size_t i = 0; i < kSlots; ++i) {
    const Slot& slot = slots_[i];
    const Reading reading = read(page, i);
    if (reading.use == StageUse::kPaused && reading.beats != 0 &&
        worst.state == HeartbeatState::kNone) {
      worst = {HeartbeatState::kResting, name_of(page, i), os::Duration(0), reading.deadline};
    }
    if (!slot.armed || reading.use != StageUse::kWatched) continue;
    const bool beaten = has_beaten(page, i);
    std::int64_t last = slot.last_beat_ns;
    if (beaten) {
      const bool stamped = reading.stamp_ns > 0 && reading.stamp_ns <= mono_ns + kStampAheadNs;
      last = stamped ? reading.stamp_ns : mono_ns;
    }
    const os::Duration age(std::max<std::int64_t>(mono_ns - last, 0));
    const double deadline = static_cast<double>(slot.deadline.count());
    double share = static_cast<double>(age.count()) / deadline;
    const double healthy_share = options_.deadline.count() > 0
                                     ? static_cast<double>(options_.healthy.count()) /
                                           static_cast<double>(options_.deadline.count())
                                     : 1.0;
    HeartbeatState state = share > healthy_share ? HeartbeatState::kLate : HeartbeatState::kHealthy;
    if (!beaten && slot.held_until_ns != 0) state = HeartbeatState::kHeld;
    if (!beaten && slot.said == Said::kHang) state = HeartbeatState::kLost;
    if (state < worst.state || (state == worst.state && share <= worst_share)) continue;
    worst_share = share;
    worst = {state, name_of(page, i), age, slot.deadline};
  }
  return worst;
}

}  // namespace defib::process
