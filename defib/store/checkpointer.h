// Checkpointer: turns frozen overlays into runs, and runs into a new base.
//
// It owns the manifest and the open files that the manifest names. Each step writes a new file,
// makes it and its name durable, and then names it in the manifest through the page file; what the
// manifest does not name any more is removed. A crash anywhere leaves the manifest before or after
// the step, and at most a file that nobody names, which the next opening removes.
//
// Thread rule: one call at a time (the engine's checkpoint mutex).

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/store/format.h"
#include "defib/store/overlay.h"
#include "defib/store/page_file.h"
#include "defib/store/sorted_file.h"
#include "defib/store/table_names.h"

namespace defib::store {

// Called with the bytes written since the last call; its error ends the work.
using Pace = std::function<Result<>(std::uint64_t)>;

struct CheckpointStart {
  std::uint64_t boundary = 0;  // the last commit that the frozen overlays hold; 0: nothing new
  std::uint32_t chain_crc = 0;
  std::uint64_t epoch = 0;
  std::vector<std::shared_ptr<const OverlayView>> frozen;  // newest first
  std::shared_ptr<const TableNames> names;
};

struct CheckpointFailure {
  Error error;
  bool is_reading = false;  // what was there could not be read; nothing failed to be written
};

class Checkpointer {
 public:
  struct Start {
    std::string dir;
    Identity identity;
    Manifest manifest;
    std::vector<std::shared_ptr<const SortedFile>> files;  // newest first
    std::shared_ptr<MappedMemory> mapped;                  // that new files take part in
  };
  Checkpointer(os::Files& files, const os::Clock& clock, Start start);

  // Frozen overlays to a run (to a base where there is no file yet), durable and in the manifest.
  std::optional<CheckpointFailure> write_run(const CheckpointStart& start,
                                             std::uint64_t replay_rate, const Pace& pace);
  // Too many runs, or runs that outweigh the base.
  bool merge_is_due() const;
  std::optional<CheckpointFailure> merge(const Pace& pace);
  // Base and runs to one base, without erased records. Nothing to do where there is one file.
  std::optional<CheckpointFailure> merge_all(const Pace& pace);
  // Removes files that a merge replaced. Views that read them keep them in being.
  Result<> remove_replaced();
  // The page file as after a clean close.
  Result<> settle();

  const std::vector<std::shared_ptr<const SortedFile>>& files() const { return files_; }
  const Manifest& manifest() const { return manifest_; }
  std::uint64_t bytes_written() const { return bytes_written_; }

 private:
  std::optional<CheckpointFailure> merge_newest(std::size_t count, const Pace& pace);
  std::optional<CheckpointFailure> write_sorted(
      SortedKind kind, std::uint64_t last_commit,
      const std::function<std::unique_ptr<LayerCursor>(TableId)>& source,
      const std::vector<TableId>& tables, const Pace& pace, SortedFileInfo& info);
  Result<> write_manifest(Manifest next);
  Result<> discard(const std::string& path);

  os::Files& disk_;
  const os::Clock& clock_;
  const std::string dir_;
  const std::string data_dir_;
  const Identity identity_;
  Manifest manifest_;
  // Never given twice: a manifest whose writing failed may be the one that the next opening finds.
  std::uint64_t next_generation_;
  std::optional<PageFile> page_file_;                     // opened at the first write
  std::vector<std::shared_ptr<const SortedFile>> files_;  // newest first
  std::shared_ptr<MappedMemory> mapped_;
  std::vector<std::string> replaced_;  // paths
  std::uint64_t bytes_written_ = 0;
};

}  // namespace defib::store
