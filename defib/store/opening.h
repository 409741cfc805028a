// Opening: the twelve stages from a directory to a store that may be written to.
//
// Until resource_cleanup nothing of the store is changed but the lock's own record: a store that
// cannot be recovered is left as it was found.
//
// Thread rule: one thread.

#pragma once

#include <memory>
#include <string>
#include <vector>

#include "defib/recovery/procedure.h"
#include "defib/store/executor.h"
#include "defib/store/lock.h"
#include "defib/store/log_reader.h"
#include "defib/store/overlay.h"
#include "defib/store/page_file.h"
#include "defib/store/quarantine.h"
#include "defib/store/sorted_file.h"
#include "defib/store/store.h"
#include "defib/store/table_names.h"

namespace defib::store {

// The threads of a store whose caller gives it none.
struct OwnExecutors {
  std::unique_ptr<Threads> light;
  std::unique_ptr<Threads> heavy;
  std::unique_ptr<Threads> prompt;
};

struct Opened {
  Identity identity;
  std::unique_ptr<StoreLock> lock;
  OwnExecutors executors;  // null where the caller has one
  Manifest manifest;
  std::shared_ptr<const TableNames> names;
  std::vector<std::shared_ptr<const SortedFile>> files;  // newest first
  std::shared_ptr<MappedMemory> mapped;                  // of files
  std::shared_ptr<Overlay> overlay;                      // what the log adds to them
  LogAssessment log;
  std::vector<TornTail> torn;  // of segments that are there, and not copied to the quarantine
  std::vector<std::string> mapped_segments;  // whose bytes the overlay refers to
  std::uint64_t tail_bytes = 0;              // of log behind the checkpoint
  std::uint64_t replay_rate = 0;     // bytes of log a second, measured now or before; 0: unknown
  bool was_clean = false;            // none of the five indicators held
  recovery::ProcedureResult result;  // empty where it was clean
};

// `options` with files and clock filled in.
Result<Opened> open_files(const std::string& dir, const Options& options);

}  // namespace defib::store
