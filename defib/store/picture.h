// Picture: everything that a store's files say, read without changing any of them.
//
// Opening, read-only access, status, verification and repair all start from here, so that they
// cannot disagree about what the files mean.
//
// Thread rule: functions and values; beside a live writer a picture may catch files in motion, and
// the read-only entries (inspect.cc) then take another one.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/store/format.h"
#include "defib/store/lock.h"
#include "defib/store/log_reader.h"
#include "defib/store/page_file.h"
#include "defib/store/sorted_file.h"
#include "defib/store/store.h"
#include "defib/store/table_names.h"
#include "defib/store/view.h"

namespace defib::store {

// NotAStore where there is none, InconsistentState where it is damaged or missing beside data,
// StoreFormatUnsupported for another version or byte order, RecoveryConfigurationError for an
// impossible page size, RecoveryPermissionError where nobody may look.
Result<Identity> read_identity(os::Files& files, const std::string& dir);
// NotAStore where something other than a directory stands at `dir`.
Result<> check_is_no_file(os::Files& files, const std::string& dir);
// RecoveryPermissionError on a file system that is mounted read-only, RecoveryConfigurationError on
// one whose locks and syncs cannot be relied on.
Result<> check_file_system(os::Files& files, const std::string& dir);
// The directory of the log cannot be listed: RecoveryDependencyError, or RecoveryPermissionError.
Error missing_log(const std::string& dir, const Error& cause);
// What the operating system denied, as one of the store's errors.
Error permission_error(const Error& denied);
// Whether the directory holds nothing yet but what a creation that was killed leaves.
Result<bool> is_unused(os::Files& files, const std::string& dir);

// The five signs that recovery is needed, in the order of docs/store.md. Read-only; cheap: of the
// log it reads headers only.
std::vector<Indicator> read_indicators(os::Files& files, const os::Clock& clock,
                                       const std::string& dir);
bool any_present(const std::vector<Indicator>& indicators);
// "no_clean_shutdown, log_tail".
std::string names_of_present(const std::vector<Indicator>& indicators);

// Transactions of the live segments after the checkpoint, in order; views into the segments.
Result<std::vector<TransactionView>> live_transactions(const std::vector<Segment>& segments,
                                                       const LogAssessment& log,
                                                       std::uint64_t after_lsn);
// What store.h says of Store::stream(), up to commit `last`, of a log without a hole after
// `unbroken_from`.
Result<> stream_log(os::Files& files, const std::string& dir, const Identity& identity,
                    std::uint64_t unbroken_from, std::uint64_t from, std::uint64_t last,
                    const std::function<bool(const CommittedTransaction&)>& sink);

// The base and the runs that the manifest names, newest first. RecoveryImpossible (path, reason)
// where one is missing or is not the file that was written. `pulse` hears of files;
// `memory`: see SortedFile::open().
Result<std::vector<std::shared_ptr<const SortedFile>>> open_sorted_files(
    os::Files& files, const std::string& dir, const Manifest& manifest, const Identity& identity,
    const Pulse& pulse = {}, const std::shared_ptr<MappedMemory>& memory = nullptr);
// InconsistentState where a name or number stands twice.
Result<TableNames> table_names(const Manifest& manifest);
// What the manifest says to whoever judges the log.
std::optional<LogBase> log_base(const Manifest& manifest);
// The clean mark, where it is one of this store.
std::optional<CleanRecord> read_clean_record(os::Files& files, const std::string& dir,
                                             std::string_view uuid);
// Whether the page cache may hold what the device does not: after a failed write or sync, of which
// a marker or a note in memory tells.
bool distrusts_cache(os::Files& files, const os::Clock& clock, const std::string& dir,
                     std::string_view uuid);
// All that judges the log beside its segments and the checkpoint. To be read before these two, so
// that beside a live writer it never knows more than they.
LogContext log_context(os::Files& files, const os::Clock& clock, const std::string& dir,
                       const Identity& identity);

struct Picture {
  Identity identity;
  PageFilePicture pages;
  std::vector<Segment> segments;
  Result<LogAssessment> log = LogAssessment{};
};
// RecoveryImpossible where the manifest cannot be read.
Result<Picture> take_picture(os::Files& files, const os::Clock& clock, const std::string& dir);
// The state of the last commit that the files hold; the picture's segments go into it.
Result<ViewPtr> build_view(os::Files& files, const std::string& dir, Picture picture,
                           const std::shared_ptr<MappedMemory>& memory = nullptr);

}  // namespace defib::store
