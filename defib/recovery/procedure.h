// Procedure: named stages with dependencies, criticality, a timeout each, progress, abort and
// rollback. The store's 12 stages, the 10 steps of trading and a user's runbook are Procedures.
//
// Rules, which the property tests check over random graphs and failures against a model:
//   - the next stage is always the one added first among those whose needs have all been dealt
//   with;
//   - a failed critical stage ends the procedure with that stage's own error, and completed stages
//     are rolled back in reverse order of completion (those that have a rollback);
//   - a failed stage that is not critical is recorded; stages that need it are not run
//     (StageDependencyFailed names it), and fail critically if they are critical;
//   - a stage that overruns its time limit is asked to stop through its context; its error is
//     StageTimedOut with the stage's name, its progress and by how much it overran, whatever it
//     then returns. If it returned success, its work is there, so it is rolled back like a
//     completed stage when the procedure fails. Nothing can end a stage that never returns: it is
//     seen in progress(), from outside in the progress file, by its start and its limit;
//   - abort() from any thread ends it the same way with ProcedureAborted, which says where it came:
//   no
//     further stage starts, and completed stages are rolled back; an abort after the last stage
//     ended has no effect;
//   - a failed rollback does not stop the other rollbacks; the result then is RollbackFailed,
//     whose cause is the stage's error, and names what must be done by hand.
// A stage that fails leaves its own partial work to its next run, or undoes it before it returns.
//
// A procedure that was killed at any instruction can be run again: stages and rollbacks are to be
// idempotent, and `already_done` lets a stage say that its work is durable from an earlier run.
// Such a stage counts as completed, also for rollback, so that a run in several pieces ends as a
// run in one piece would have; a rollback therefore first makes `already_done` false, then undoes.

#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::recovery {

// What a running stage is given; valid until its run function returns. Thread rule: the stage's own
// thread; should_stop() and progress() from any.
class StageContext {
 public:
  virtual ~StageContext() = default;
  // True when the stage should return soon: aborted or out of time. Poll it every 10 ms or 1 MiB.
  virtual bool should_stop() const = 0;
  // The Error to return when should_stop() is true: StageTimedOut or ProcedureAborted.
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
  std::function<Result<>()> rollback;  // may be empty: nothing to undo
  std::function<bool()> already_done;  // may be empty: never
  std::string manual_undo;             // what a human does if the rollback fails
};

enum class StageOutcome {
  kNotRun,
  kCompleted,
  kSkippedDone,
  kFailed,
  kTimedOut,
  kAborted,
  kDependencyFailed,
  kRolledBack,
  kRollbackFailed
};
std::string_view to_string(StageOutcome outcome);

struct StageRecord {
  std::string name;
  StageOutcome outcome = StageOutcome::kNotRun;
  std::int64_t started_mono_ns = 0;
  os::Duration duration{0};
  std::vector<std::pair<std::string, std::string>> metrics;
  std::optional<Error> error;  // also kept when the stage was rolled back afterwards
  bool rolled_back = false;    // its rollback ran and succeeded
  std::optional<Error> rollback_error;
};

struct Progress {
  std::string stage;
  int stage_number = 0;  // from 1
  int stage_count = 0;
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  std::string what;
  std::int64_t stage_started_mono_ns =
      0;  // with time_limit: whether the stage is overdue right now
  os::Duration time_limit{0};
  os::Duration elapsed{0};    // of the stage, when this was told
  bool rolling_back = false;  // `stage` is being undone

  // Of the stage, 0 to 100; 0 where its total is not known.
  double percent() const;
  // Of the stage, if it goes on as fast as it has come so far; none while nothing is known.
  std::optional<os::Duration> time_left() const;
};

struct ProcedureResult {
  std::vector<StageRecord> stages;  // in the order of addition
  os::Duration duration{0};
  std::optional<Error> error;           // none: all critical stages completed
  std::string failed_stage;             // the stage that ended it; empty on success and abort
  std::optional<Error> observer_error;  // the first exception of the observer; never ends anything
  bool success() const { return !error.has_value(); }
  const StageRecord* find(std::string_view name) const;
};

class Procedure {
 public:
  // Is called by one thread at a time.
  class Observer {
   public:
    virtual ~Observer() = default;
    virtual void procedure_started(const Procedure&) {}
    virtual void stage_started(const StageRecord&) {}
    // Once for each stage that was dealt with, also when it was skipped or not run.
    virtual void stage_finished(const StageRecord&) {}
    virtual void progressed(const Progress&) {}  // from the thread that calls progress()
    virtual void rollback_finished(const StageRecord&) {}
    virtual void procedure_finished(const ProcedureResult&) {}
  };

  explicit Procedure(std::string name) : name_(std::move(name)) {}
  // Builder: procedure.add("wal").after("lock").critical().timeout(5s).run(f).rollback(g);
  class Builder {
   public:
    explicit Builder(Stage& stage) : stage_(stage) {}
    Builder& after(std::string name);
    Builder& critical(bool value = true);
    Builder& timeout(os::Duration limit);  // default 60 s; positive
    Builder& run(std::function<Result<>(StageContext&)> function);
    Builder& rollback(std::function<Result<>()> function, std::string manual_undo = {});
    Builder& already_done(std::function<bool()> function);

   private:
    Stage& stage_;
  };
  Builder add(std::string name);

  // ProcedureInvalid for unknown or circular dependencies, equal or empty names, a stage without a
  // run function, and limits that are not positive, before anything runs.
  Result<> validate() const;
  // Runs the stages on the calling thread. Exceptions of stages become CallbackThrew.
  ProcedureResult execute(const os::Clock& clock, Observer* observer = nullptr);
  // From any thread; also before execute(). Ends one execution: the next one runs again.
  void abort();
  // A snapshot, from any thread.
  Progress progress() const;
  const std::string& name() const { return name_; }
  bool has_stage(std::string_view name) const;
  int stage_count() const { return static_cast<int>(stages_.size()); }

 private:
  friend class ProcedureRun;
  std::string name_;
  std::vector<std::unique_ptr<Stage>> stages_;
  std::atomic<bool> aborted_ = false;
  mutable std::mutex progress_mutex_;  // guards progress_
  Progress progress_;
};

}  // namespace defib::recovery
