#include "defib/process/sampler.h"

#include <algorithm>
#include <vector>

#include "defib/base/assert.h"

namespace defib::process {
namespace {

// The next multiple of the interval: the same instant for all who share it.
std::int64_t next_due(std::int64_t now, os::Duration interval) {
  return (now / interval.count() + 1) * interval.count();
}

}  // namespace

Sampler::~Sampler() {
  if (timer_ != 0) loop_.cancel(timer_);
}

Sampler::Id Sampler::add(os::Duration interval, std::function<void()> handler) {
  DEFIB_ASSERT(interval.count() > 0);
  const Id id = next_++;
  entries_.emplace(
      id, Entry{interval, next_due(loop_.clock().mono_ns(), interval), std::move(handler)});
  arm();
  return id;
}

void Sampler::remove(Id id) {
  if (entries_.erase(id) > 0) arm();
}

void Sampler::arm() {
  std::int64_t due = 0;
  for (const auto& [id, entry] : entries_) {
    if (due == 0 || entry.due_mono_ns < due) due = entry.due_mono_ns;
  }
  if (timer_ != 0 && due == armed_for_) return;
  if (timer_ != 0) loop_.cancel(timer_);
  timer_ = 0;
  armed_for_ = due;
  if (due == 0) return;
  timer_ = loop_.run_at(due, [this] {
    timer_ = 0;
    wake();
  });
}

void Sampler::wake() {
  ++wake_ups_;
  const std::int64_t now = loop_.clock().mono_ns();
  std::vector<Id> due;
  for (auto& [id, entry] : entries_) {
    if (entry.due_mono_ns > now) continue;
    entry.due_mono_ns = next_due(now, entry.interval);
    due.push_back(id);
  }
  for (const Id id : due) {
    const auto found = entries_.find(id);
    if (found == entries_.end()) continue;
    const std::function<void()> handler = found->second.handler;  // it may remove itself
    handler();
  }
  arm();
}

}  // namespace defib::process
