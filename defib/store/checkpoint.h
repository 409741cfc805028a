// Checkpoint: every record of one catalog in a file of its own, sorted by table and key.
//
// It is written under a temporary name, synced, and renamed, so a file with a checkpoint's name is
// complete; whatever does not verify in it is damage. Layout: a header page, chunks of about 64 KiB
// under a checksum each, and a footer with the counts (docs/formats/store.md).
//
// Thread rule: functions; the files are the caller's to keep from others.

#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/store/format.h"
#include "defib/store/log_reader.h"
#include "defib/store/versions.h"

namespace defib::store {

// Writes `dir`/checkpoint-LSN.ckpt with the state of `catalog`; returns its size. `between` is
// called about every MiB, outside of all locks.
Result<std::uint64_t> write_checkpoint(os::Files& files, const std::string& dir,
                                       const CheckpointHeader& header, const Catalog& catalog,
                                       const std::function<void()>& between);

// Names of checkpoint files in `dir`, newest first.
Result<std::vector<std::string>> list_checkpoints(os::Files& files, const std::string& dir);

// Corrupted where it does not verify; InconsistentState where it is another store's.
Result<CheckpointHeader> read_checkpoint_header(os::Files& files, const std::string& path,
                                                const Identity& identity);
// The whole file, verified. The trees of the catalog are the caller's to destroy or hand on.
Result<Catalog> read_checkpoint(os::Files& files, const std::string& path, const Identity& identity,
                                const Pulse& pulse);

// What can still be read of a damaged one: every record of every sound chunk goes to `sink`, every
// gap is told in words.
std::vector<std::string> salvage_checkpoint(std::string_view bytes,
                                            const std::function<void(const RecordView&)>& sink);

}  // namespace defib::store
