// Plan: what recovering a store would do, found out without doing any of it.
//
// It takes the same picture of the files that recovery takes, judges it by the same rules, and says
// stage by stage what follows. No byte of the store and no time of change is touched, also beside a
// live writer.
//
// Thread rule: functions; any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/store/resources.h"
#include "defib/store/store.h"

namespace defib::store {

struct PlannedStage {
  std::string name;
  std::string action = {};  // in words
  std::uint64_t read_bytes = 0;
  std::uint64_t disk_bytes = 0;        // written at most
  std::uint64_t memory_bytes = 0;      // held at most, more than the stages before
  std::uint64_t descriptors = 0;       // open at once
  double seconds = 0;                  // estimated
  std::optional<Error> obstacle = {};  // it would fail with this, and the stages after it not run
};

struct RecoveryPlan {
  bool needed = false;
  std::string lock_holder;  // a living process; nothing is to be recovered while it works
  std::vector<Indicator> indicators;
  std::uint64_t checkpoint_commit = 0;
  std::uint64_t last_commit = 0;
  std::uint64_t log_bytes = 0;
  std::uint64_t replay_bytes = 0;      // of log behind the checkpoint
  std::uint64_t bytes_per_second = 0;  // of replay, as measured last or assumed
  bool rate_is_measured = false;
  std::string verdict;               // on the log's end
  std::vector<std::string> losses;   // possible ones
  std::vector<PlannedStage> stages;  // all twelve
  Need memory;                       // bytes
  Need address_space;                // bytes; only where this process's is limited
  Need disk;                         // bytes
  Need descriptors;
  Need closing_disk;  // bytes that closing the recovered store writes, for the replayed commits
  double seconds = 0;
  const PlannedStage* obstacle() const;  // the first stage that would fail; null: none
};

// NotAStore, StoreFormatUnsupported: there is nothing to plan for. Everything that recovery itself
// would meet is in the plan.
Result<RecoveryPlan> plan_recovery(const std::string& dir, Options options);

}  // namespace defib::store
