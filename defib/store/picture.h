// Picture: everything that a store's files say, read without changing any of them.
//
// Opening, read-only access, status, verification and repair all start from here, so that they
// cannot disagree about what the files mean.
//
// Thread rule: functions and values; beside a live writer a picture may catch files in motion, and
// the read-only entries (inspect.cc) then take another one.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/store/format.h"
#include "defib/store/lock.h"
#include "defib/store/log_reader.h"
#include "defib/store/store.h"
#include "defib/store/versions.h"

namespace defib::store {

// NotAStore where there is none, InconsistentState where it is damaged or missing beside data,
// StoreFormatUnsupported for another version.
Result<Identity> read_identity(os::Files& files, const std::string& dir);
// Whether the directory holds nothing yet but what a creation that was killed leaves.
Result<bool> is_unused(os::Files& files, const std::string& dir);

// The newest checkpoint's name, or an empty text where there is none.
Result<std::string> newest_checkpoint(os::Files& files, const std::string& dir);

// The five signs that recovery is needed, in the order of docs/store.md. Read-only; cheap: of the
// log it reads headers only.
std::vector<Indicator> read_indicators(os::Files& files, const os::Clock& clock,
                                       const std::string& dir);
bool any_present(const std::vector<Indicator>& indicators);
// "no_clean_shutdown, log_tail".
std::string names_of_present(const std::vector<Indicator>& indicators);

// The segments named, read and scanned.
Result<std::vector<Segment>> read_segments(os::Files& files, const std::string& dir,
                                           const std::vector<std::string>& names,
                                           const Identity& identity, const Pulse& pulse);

// What the log builds on, as the checkpoint says it.
std::optional<LogBase> log_base(const std::optional<CheckpointHeader>& checkpoint);

// Transactions of the live segments after the checkpoint, in order; views into the segments.
Result<std::vector<TransactionView>> live_transactions(const std::vector<Segment>& segments,
                                                       const LogAssessment& log,
                                                       std::uint64_t after_lsn);

// Replays into trees that nobody else sees; erased tables stay in the catalog, empty.
void apply(Catalog& catalog, const TransactionView& transaction);

// RecoveryImpossible around the checkpoint's own error, if it was damage.
Error checkpoint_unusable(Error cause);

}  // namespace defib::store
