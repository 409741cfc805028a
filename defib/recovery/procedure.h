// Procedure: named stages with dependencies, criticality, a timeout each, progress, abort and
// rollback. The store's 12 stages, the 10 steps of trading and a user's runbook are Procedures.
//
// Rules, which the property tests check over random graphs and failures:
//   - a stage runs after all stages that it names in after(); otherwise in the order of addition;
//   - a failed critical stage ends the procedure with that stage's own error, and completed stages
//     are rolled back in reverse order of completion (those that have a rollback);
//   - a failed stage that is not critical is recorded; stages that need it are not run
//     (StageDependencyFailed names it), and fail critically if they are critical;
//   - a stage that overruns its timeout is asked to stop through its context; its error is
//     StageTimedOut with the stage's name and progress, whatever it then returns;
//   - abort() from any thread ends it the same way with ProcedureAborted;
//   - a failed rollback does not stop the other rollbacks; the result then is RollbackFailed,
//     whose cause is the stage's error, and names what must be done by hand.
// A procedure that was killed at any instruction can be run again: stages are to be idempotent,
// and `already_done` lets a stage say that its work is durable from an earlier run.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::recovery {

// What a running stage is given. Thread rule: the stage's own thread, progress() from any.
class StageContext {
 public:
  virtual ~StageContext() = default;
  // True when the stage should return soon: aborted or out of time. Poll it every 10 ms or 1 MiB.
  virtual bool should_stop() const = 0;
  // The Error to return when should_stop() is true.
  virtual Error stop_error() const = 0;
  virtual void progress(std::uint64_t done, std::uint64_t total, std::string_view what) = 0;
  virtual void metric(std::string_view name, std::string value) = 0;
};

struct Stage {
  std::string name;
  std::vector<std::string> needs;
  bool is_critical = true;
  os::Duration time_limit = std::chrono::seconds(60);
  std::function<Result<>(StageContext&)> run;
  std::function<Result<>()> rollback;             // may be empty: nothing to undo
  std::function<bool()> already_done;             // may be empty: never
  std::string manual_undo;                        // what a human does if the rollback fails
};

enum class StageOutcome {
  kNotRun, kCompleted, kSkippedDone, kFailed, kTimedOut, kAborted, kDependencyFailed, kRolledBack,
  kRollbackFailed
};
std::string_view to_string(StageOutcome outcome);

struct StageRecord {
  std::string name;
  StageOutcome outcome = StageOutcome::kNotRun;
  std::int64_t started_mono_ns = 0;
  os::Duration duration{0};
  std::vector<std::pair<std::string, std::string>> metrics;
  std::optional<Error> error;
  std::optional<Error> rollback_error;
};

struct Progress {
  std::string stage;
  int stage_number = 0;   // from 1
  int stage_count = 0;
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  std::string what;
};

struct ProcedureResult {
  std::vector<StageRecord> stages;   // in the order of addition
  os::Duration duration{0};
  std::optional<Error> error;        // none: all critical stages completed
  bool success() const { return !error.has_value(); }
  const StageRecord* find(std::string_view name) const;
};

class Procedure {
 public:
  class Observer {
   public:
    virtual ~Observer() = default;
    virtual void stage_started(const StageRecord&) {}
    virtual void stage_finished(const StageRecord&) {}
    virtual void progressed(const Progress&) {}   // from the stage's thread
  };

  explicit Procedure(std::string name) : name_(std::move(name)) {}
  // Builder: procedure.add("wal").after("lock").critical().timeout(5s).run(f).rollback(g);
  class Builder {
   public:
    explicit Builder(Stage& stage) : stage_(stage) {}
    Builder& after(std::string name);
    Builder& critical(bool value = true);
    Builder& timeout(os::Duration limit);
    Builder& run(std::function<Result<>(StageContext&)> function);
    Builder& rollback(std::function<Result<>()> function, std::string manual_undo = {});
    Builder& already_done(std::function<bool()> function);

   private:
    Stage& stage_;
  };
  Builder add(std::string name);

  // ProcedureInvalid for unknown or circular dependencies and equal names, before anything runs.
  Result<> validate() const;
  // Runs the stages on the calling thread. Exceptions of stages become CallbackThrew.
  ProcedureResult execute(const os::Clock& clock, Observer* observer = nullptr);
  // From any thread; also before execute().
  void abort();
  // A snapshot, from any thread.
  Progress progress() const;
  const std::string& name() const { return name_; }

 private:
  friend class ProcedureRun;
  std::string name_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::atomic<bool> aborted_ = false;
  mutable std::mutex progress_mutex_;  // guards progress_
  Progress progress_;
};

}  // namespace defib::recovery
