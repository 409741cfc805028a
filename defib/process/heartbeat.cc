#include "defib/process/heartbeat.h"

#include <algorithm>
#include <cstring>

namespace defib::process {

std::optional<HeartbeatWatch::Lost> HeartbeatWatch::look_at(Slot& slot, std::uint64_t beats,
                                                            os::Duration deadline,
                                                            std::int64_t mono_ns) {
  slot.deadline = deadline;
  slot.armed = beats != 0 && deadline > os::Duration::zero();
  if (!slot.armed || beats != slot.beats) {
    slot.beats = beats;
    slot.changed_at = mono_ns;
    slot.looks = 0;
    slot.told = false;
  } else {
    ++slot.looks;
  }
  if (!slot.armed) return std::nullopt;
  const os::Duration silent(mono_ns - slot.changed_at);
  const bool nearest = !age_ || silent > *age_;
  if (nearest) age_ = silent;
  if (silent < deadline || slot.looks < kLooks || slot.told) return std::nullopt;
  slot.told = true;
  return Lost{{}, silent, deadline};
}

std::optional<HeartbeatWatch::Lost> HeartbeatWatch::look(const AgentPage* page,
                                                         std::int64_t mono_ns) {
  age_.reset();
  std::optional<Lost> first;
  if (page != nullptr && page->image_id.load(std::memory_order_relaxed) != image_) {
    // Another program was executed in the process: its counters begin anew.
    image_ = page->image_id.load(std::memory_order_relaxed);
    std::fill_n(slots_.begin(), kMaxStages, Slot{});
  }
  for (std::size_t i = 0; page != nullptr && i < kMaxStages; ++i) {
    const HeartbeatStage& stage = page->stages[i];
    const bool watched = stage.in_use.load(std::memory_order_acquire) ==
                         static_cast<std::uint32_t>(StageUse::kWatched);
    const std::uint32_t own_ms = stage.deadline_ms.load(std::memory_order_relaxed);
    const os::Duration deadline =
        own_ms != 0 ? os::Duration(std::chrono::milliseconds(own_ms)) : default_deadline_;
    const std::uint64_t beats = watched ? stage.beats.load(std::memory_order_relaxed) : 0;
    auto lost = look_at(slots_[i], beats, deadline, mono_ns);
    if (!lost || first) continue;
    lost->stage.assign(stage.name, strnlen(stage.name, sizeof stage.name));
    first = std::move(lost);
  }
  auto lost = look_at(slots_[kNotifySlot], notify_beats_,
                      notify_deadline_.count() > 0 ? notify_deadline_ : default_deadline_, mono_ns);
  if (lost && !first) {
    lost->stage = "sd_notify";
    first = std::move(lost);
  }
  return first;
}

void HeartbeatWatch::notify_beat() {
  ++notify_beats_;
}

std::optional<os::Duration> HeartbeatWatch::period() const {
  std::optional<os::Duration> shortest;
  for (const Slot& slot : slots_) {
    if (slot.armed && (!shortest || slot.deadline < *shortest)) shortest = slot.deadline;
  }
  if (!shortest) return std::nullopt;
  return std::max(*shortest / kLooks, os::Duration(std::chrono::milliseconds(1)));
}

}  // namespace defib::process
