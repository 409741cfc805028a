// ProgressFile: a procedure's progress in a small file that other processes read at any moment, as
// `defib status` does, also after the writer was killed.
//
// The file holds two slots of kProgressSlot bytes, written in turn, each with a sequence number and
// a checksum: whatever instant a reader or a SIGKILL picks, the slot that is not being written is
// whole. Nothing is synced, because progress means nothing after a reboot.
// Format: docs/recovery.md. Thread rule: one writer a file, called by one thread at a time (which
// Procedure promises its observers); any number of readers in any process.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/recovery/procedure.h"
#include "defib/wire/json.h"

namespace defib::recovery {

inline constexpr std::size_t kProgressSlot = 2048;
// progressed() is written at most so often; starts and ends of stages always are.
inline constexpr os::Duration kProgressInterval = std::chrono::milliseconds(10);

enum class ProcedureState : std::uint8_t { kRunning, kRollingBack, kSucceeded, kFailed };
// "running", "rolling_back", "succeeded", "failed".
std::string_view to_string(ProcedureState state);

struct ProgressReport {
  std::string procedure = {};
  ProcedureState state = ProcedureState::kRunning;
  Progress progress = {};  // of the stage that runs, or ran last
  std::string error = {};  // the latest failure on one line; empty after success
  pid_t writer = 0;
  std::uint64_t writer_start_time = 0;  // clock ticks since boot: with boot_id whose pid it is
  std::string boot_id = {};
  std::int64_t started_mono_ns = 0;
  std::int64_t updated_mono_ns = 0;
  std::int64_t updated_wall_ns = 0;
  // The process that writes it lives. False while kRunning: it was killed in the middle, and the
  // procedure is to be run again.
  bool writer_alive = false;

  bool ended() const {
    return state == ProcedureState::kSucceeded || state == ProcedureState::kFailed;
  }
  // By how much the running stage has overrun its time limit; zero where it has not.
  os::Duration overrun(std::int64_t now_mono_ns) const;
  wire::Json to_json() const;  // "schema": "defib.progress/1"
};

class ProgressFile final : public Procedure::Observer {
 public:
  // Replaces what an earlier run left at `path`.
  static Result<std::unique_ptr<ProgressFile>> create(os::Files& files, const os::Clock& clock,
                                                      const std::string& path);
  void procedure_started(const Procedure& procedure) override;
  void stage_started(const StageRecord& record) override;
  void stage_finished(const StageRecord& record) override;
  void progressed(const Progress& progress) override;
  void rollback_finished(const StageRecord& record) override;
  void procedure_finished(const ProcedureResult& result) override;
  // The first failed write, after which nothing more is written: a recovery does not end because
  // its progress cannot be shown.
  const std::optional<Error>& error() const { return error_; }

 private:
  explicit ProgressFile(const os::Clock& clock) : clock_(clock) {}
  void write();

  const os::Clock& clock_;
  std::unique_ptr<os::File> file_;
  const Procedure* procedure_ = nullptr;
  ProgressReport report_;
  std::uint64_t sequence_ = 0;
  std::optional<Error> error_;
};

// NotFound where no run has written there yet; Corrupted where neither slot is whole.
Result<ProgressReport> read_progress(os::Files& files, const os::Clock& clock,
                                     const std::string& path);

}  // namespace defib::recovery
