// Opening: the twelve stages from a directory to a store that may be written to.
//
// Until resource_cleanup nothing of the store is changed but the lock's own record: a store that
// cannot be recovered is left as it was found.
//
// Thread rule: one thread.

#pragma once

#include <memory>
#include <string>

#include "defib/recovery/procedure.h"
#include "defib/store/lock.h"
#include "defib/store/log_reader.h"
#include "defib/store/store.h"
#include "defib/store/versions.h"

namespace defib::store {

// `options` with files and clock filled in.
struct Opened {
  Identity identity;
  std::unique_ptr<StoreLock> lock;
  Catalog catalog;  // whoever takes it destroys its trees
  LogAssessment log;
  std::uint64_t checkpoint_lsn = 0;
  std::uint64_t tail_bytes = 0;      // of log behind the checkpoint
  bool was_clean = false;            // none of the five indicators held
  recovery::ProcedureResult result;  // empty where it was clean
};

Result<Opened> open_files(const std::string& dir, const Options& options);

}  // namespace defib::store
