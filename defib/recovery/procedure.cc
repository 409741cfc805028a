#include "defib/recovery/procedure.h"

#include <fmt/core.h>

#include <algorithm>
#include <exception>
#include <map>

#include "defib/base/assert.h"

namespace defib::recovery {
namespace {

double seconds(os::Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

std::string describe(const Progress& progress) {
  if (progress.total == 0 && progress.what.empty()) return "no progress reported";
  std::string text = fmt::format("{} of {}", progress.done, progress.total);
  if (!progress.what.empty()) text += fmt::format(" ({})", progress.what);
  return text;
}

// Calls user code; what it throws becomes CallbackThrew.
template <typename Function>
Result<> call_guarded(std::string_view what, std::string_view stage, const Function& function) {
  std::string thrown;
  try {
    return function();
  } catch (const std::exception& exception) {
    thrown = exception.what();
  } catch (...) {
    thrown = "an exception that is not a std::exception";
  }
  return Error(Code::kCallbackThrew, fmt::format("{} of stage {} threw: {}", what, stage, thrown))
      .with("stage", stage)
      .with("exception", thrown);
}

// The effects of such a stage are in place, unless its record says otherwise.
bool counts_as_completed(StageOutcome outcome) {
  return outcome == StageOutcome::kCompleted || outcome == StageOutcome::kSkippedDone;
}

}  // namespace

std::string_view to_string(StageOutcome outcome) {
  switch (outcome) {
    case StageOutcome::kNotRun:
      return "not_run";
    case StageOutcome::kCompleted:
      return "completed";
    case StageOutcome::kSkippedDone:
      return "skipped_done";
    case StageOutcome::kFailed:
      return "failed";
    case StageOutcome::kTimedOut:
      return "timed_out";
    case StageOutcome::kAborted:
      return "aborted";
    case StageOutcome::kDependencyFailed:
      return "dependency_failed";
    case StageOutcome::kRolledBack:
      return "rolled_back";
    case StageOutcome::kRollbackFailed:
      return "rollback_failed";
  }
  DEFIB_UNREACHABLE("StageOutcome");
}

double Progress::percent() const {
  if (total == 0) return 0;
  return 100.0 * static_cast<double>(std::min(done, total)) / static_cast<double>(total);
}

std::optional<os::Duration> Progress::time_left() const {
  if (done == 0 || total == 0 || elapsed <= os::Duration::zero()) return std::nullopt;
  if (done >= total) return os::Duration::zero();
  const double left = static_cast<double>(total - done) / static_cast<double>(done);
  const double ns = left * static_cast<double>(elapsed.count());
  constexpr double kLongest = 9e18;  // what a Duration holds, about
  return os::Duration(static_cast<std::int64_t>(std::min(ns, kLongest)));
}

const StageRecord* ProcedureResult::find(std::string_view name) const {
  for (const StageRecord& record : stages) {
    if (record.name == name) return &record;
  }
  return nullptr;
}

Procedure::Builder& Procedure::Builder::after(std::string name) {
  stage_.needs.push_back(std::move(name));
  return *this;
}
Procedure::Builder& Procedure::Builder::critical(bool value) {
  stage_.is_critical = value;
  return *this;
}
Procedure::Builder& Procedure::Builder::timeout(os::Duration limit) {
  stage_.time_limit = limit;
  return *this;
}
Procedure::Builder& Procedure::Builder::run(std::function<Result<>(StageContext&)> function) {
  stage_.run = std::move(function);
  return *this;
}
Procedure::Builder& Procedure::Builder::rollback(std::function<Result<>()> function,
                                                 std::string manual_undo) {
  stage_.rollback = std::move(function);
  stage_.manual_undo = std::move(manual_undo);
  return *this;
}
Procedure::Builder& Procedure::Builder::already_done(std::function<bool()> function) {
  stage_.already_done = std::move(function);
  return *this;
}

Procedure::Builder Procedure::add(std::string name) {
  stages_.push_back(std::make_unique<Stage>());
  stages_.back()->name = std::move(name);
  return Builder(*stages_.back());
}

// One execution. Lives on the stack of execute().
class ProcedureRun {
 public:
  ProcedureRun(Procedure& procedure, const os::Clock& clock, Procedure::Observer* observer)
      : procedure_(procedure), clock_(clock), observer_(observer) {}

  ProcedureResult run();

 private:
  class Context;
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  void prepare();
  std::size_t next_stage() const;
  std::size_t failed_dependency(std::size_t index) const;
  void execute_stage(std::size_t index);
  void refuse_stage(std::size_t index, std::size_t dependency);
  void run_stage(std::size_t index);
  void judge(std::size_t index, Result<> returned, Context& context);
  void finish_stage(std::size_t index);
  void roll_back();
  void roll_back_stage(std::size_t index, std::vector<std::string>& by_hand);
  void publish(const Progress& progress);
  bool aborted() const { return procedure_.aborted_.load(std::memory_order_acquire); }
  Error abort_error(std::string_view stage, std::string_view reached) const;
  const Stage& stage(std::size_t index) const { return *procedure_.stages_[index]; }
  StageRecord& record(std::size_t index) { return result_.stages[index]; }

  template <typename Function>
  void observe(const Function& function);

  Procedure& procedure_;
  const os::Clock& clock_;
  Procedure::Observer* observer_;
  std::mutex observer_mutex_;  // lets the observer see one call at a time; guards observer_error
  ProcedureResult result_;
  std::vector<std::vector<std::size_t>> needs_;  // by index, from names
  std::vector<bool> settled_;                    // dealt with: run, skipped or refused
  std::vector<bool> completed_;                  // settled, and those that need it may run
  std::vector<std::size_t> to_undo_;             // in order of completion
};

class ProcedureRun::Context : public StageContext {
 public:
  Context(ProcedureRun& run, std::size_t index, int number)
      : run_(run), stage_(run.stage(index)), record_(run.record(index)) {
    progress_.stage = stage_.name;
    progress_.stage_number = number;
    progress_.stage_count = run.procedure_.stage_count();
    progress_.stage_started_mono_ns = record_.started_mono_ns;
    progress_.time_limit = stage_.time_limit;
    run_.publish(progress_);
  }

  bool should_stop() const override {
    const bool stop = late() || run_.aborted();
    if (stop) told_to_stop_.store(true, std::memory_order_relaxed);
    return stop;
  }

  Error stop_error() const override { return late() ? timeout_error() : abort_error(); }

  void progress(std::uint64_t done, std::uint64_t total, std::string_view what) override {
    const std::lock_guard lock(mutex_);
    progress_.done = done;
    progress_.total = total;
    progress_.what = what;
    progress_.elapsed = elapsed();
    run_.publish(progress_);
    run_.observe([&](Procedure::Observer& observer) { observer.progressed(progress_); });
  }

  void metric(std::string_view name, std::string value) override {
    record_.metrics.emplace_back(name, std::move(value));
  }

  os::Duration elapsed() const {
    return os::Duration(run_.clock_.mono_ns() - record_.started_mono_ns);
  }
  bool late() const { return elapsed() >= stage_.time_limit; }

  Error abort_error() const { return run_.abort_error(stage_.name, reached()); }

  Error timeout_error() const {
    const std::string reached = this->reached();
    const os::Duration overrun = elapsed() - stage_.time_limit;
    const bool told = told_to_stop_.load(std::memory_order_relaxed);
    return Error(Code::kStageTimedOut,
                 fmt::format("stage {} overran its time limit of {} by {} at {}{}", stage_.name,
                             os::format_duration(stage_.time_limit), os::format_duration(overrun),
                             reached, told ? "" : "; it never asked whether it should stop"))
        .with("stage", stage_.name)
        .with("timeout_seconds", fmt::format("{}", seconds(stage_.time_limit)))
        .with("progress", reached)
        .with("overrun_seconds", fmt::format("{}", seconds(overrun)))
        .with("asked_whether_to_stop", told ? "yes" : "no");
  }

 private:
  std::string reached() const {
    const std::lock_guard lock(mutex_);
    return describe(progress_);
  }

  ProcedureRun& run_;
  const Stage& stage_;
  StageRecord& record_;
  mutable std::mutex mutex_;  // guards progress_
  Progress progress_;
  mutable std::atomic<bool> told_to_stop_ = false;
};

template <typename Function>
void ProcedureRun::observe(const Function& function) {
  if (observer_ == nullptr) return;
  const std::lock_guard lock(observer_mutex_);
  const Result<> called = call_guarded("the observer", procedure_.name_, [&]() -> Result<> {
    function(*observer_);
    return {};
  });
  if (!called && !result_.observer_error) result_.observer_error = called.error();
}

void ProcedureRun::publish(const Progress& progress) {
  const std::lock_guard lock(procedure_.progress_mutex_);
  procedure_.progress_ = progress;
}

Error ProcedureRun::abort_error(std::string_view stage, std::string_view reached) const {
  return Error(Code::kProcedureAborted, fmt::format("{} was aborted on request at stage {}: {}",
                                                    procedure_.name_, stage, reached))
      .with("procedure", procedure_.name_)
      .with("stage", stage)
      .with("progress", reached);
}

void ProcedureRun::prepare() {
  const std::size_t count = procedure_.stages_.size();
  result_.stages.resize(count);
  needs_.resize(count);
  settled_.resize(count, false);
  completed_.resize(count, false);
  for (std::size_t i = 0; i < count; ++i) {
    record(i).name = stage(i).name;
    for (const std::string& need : stage(i).needs) {
      for (std::size_t j = 0; j < count; ++j) {
        if (stage(j).name == need) needs_[i].push_back(j);
      }
    }
  }
}

ProcedureResult ProcedureRun::run() {
  const std::int64_t started = clock_.mono_ns();
  prepare();
  observe([&](Procedure::Observer& observer) { observer.procedure_started(procedure_); });
  if (const Result<> valid = procedure_.validate(); !valid) {
    result_.error = valid.error();
  }
  while (!result_.error) {
    const std::size_t index = next_stage();
    if (aborted()) {
      // One that came while the last stage ran undoes it with the others.
      const bool all = index == kNone;
      result_.error = all ? abort_error("none", "all stages had ended")
                          : abort_error(stage(index).name, "it had not begun");
      break;
    }
    if (index == kNone) break;
    execute_stage(index);
  }
  if (result_.error) roll_back();
  // An abort ends the execution in which it arrived, and is used up by it.
  procedure_.aborted_.store(false, std::memory_order_release);
  result_.duration = os::Duration(clock_.mono_ns() - started);
  observe([&](Procedure::Observer& observer) { observer.procedure_finished(result_); });
  return std::move(result_);
}

std::size_t ProcedureRun::next_stage() const {
  for (std::size_t i = 0; i < settled_.size(); ++i) {
    const auto is_settled = [this](std::size_t need) { return settled_[need]; };
    if (!settled_[i] && std::ranges::all_of(needs_[i], is_settled)) return i;
  }
  return kNone;
}

std::size_t ProcedureRun::failed_dependency(std::size_t index) const {
  for (const std::size_t need : needs_[index]) {
    if (!completed_[need]) return need;
  }
  return kNone;
}

void ProcedureRun::execute_stage(std::size_t index) {
  const std::size_t dependency = failed_dependency(index);
  if (dependency != kNone) {
    refuse_stage(index, dependency);
  } else {
    run_stage(index);
  }
  finish_stage(index);
}

void ProcedureRun::refuse_stage(std::size_t index, std::size_t dependency) {
  StageRecord& own = record(index);
  const StageRecord& needed = record(dependency);
  own.outcome = StageOutcome::kDependencyFailed;
  own.started_mono_ns = clock_.mono_ns();
  Error error(Code::kStageDependencyFailed,
              fmt::format("stage {} was not run because {}, which it needs, ended as {}", own.name,
                          needed.name, to_string(needed.outcome)));
  error = std::move(error).with("stage", own.name).with("dependency", needed.name);
  if (needed.error) {
    error =
        std::move(error).with("dependency_error", needed.error->to_line()).because(*needed.error);
  }
  own.error = std::move(error);
}

void ProcedureRun::run_stage(std::size_t index) {
  StageRecord& own = record(index);
  own.started_mono_ns = clock_.mono_ns();
  if (stage(index).already_done) {
    bool done = false;
    const Result<> asked = call_guarded("already_done", own.name, [&]() -> Result<> {
      done = stage(index).already_done();
      return {};
    });
    if (!asked || done) {
      own.outcome = done ? StageOutcome::kSkippedDone : StageOutcome::kFailed;
      if (!asked) own.error = asked.error();
      return;
    }
  }
  // Asking may have taken long (a scan of what is on disk); the limit is for the work.
  own.started_mono_ns = clock_.mono_ns();
  const auto number = 1 + std::ranges::count(settled_, true);
  Context context(*this, index, static_cast<int>(number));
  observe([&](Procedure::Observer& observer) { observer.stage_started(own); });
  judge(index,
        call_guarded("the run function", own.name, [&] { return stage(index).run(context); }),
        context);
}

// Turns what a stage returned, and when, into its outcome.
void ProcedureRun::judge(std::size_t index, Result<> returned, Context& context) {
  StageRecord& own = record(index);
  own.duration = context.elapsed();
  if (context.late()) {
    own.outcome = StageOutcome::kTimedOut;
    own.error = context.timeout_error();
    if (returned) {
      // It did its work, only too late: it must be undone with the others.
      to_undo_.push_back(index);
    } else if (returned.error().code() != Code::kStageTimedOut) {
      own.error = std::move(*own.error).because(std::move(returned.error()));
    }
  } else if (returned) {
    own.outcome = StageOutcome::kCompleted;
  } else if (aborted()) {
    own.outcome = StageOutcome::kAborted;
    own.error = context.abort_error();
    if (returned.error().code() != Code::kProcedureAborted) {
      own.error = std::move(*own.error).because(std::move(returned.error()));
    }
  } else {
    own.outcome = StageOutcome::kFailed;
    own.error = std::move(returned.error());
  }
}

void ProcedureRun::finish_stage(std::size_t index) {
  StageRecord& own = record(index);
  settled_[index] = true;
  if (counts_as_completed(own.outcome)) {
    completed_[index] = true;
    to_undo_.push_back(index);
  } else if (own.outcome == StageOutcome::kAborted) {
    result_.error = own.error;
  } else if (stage(index).is_critical) {
    result_.error = own.error;
    result_.failed_stage = own.name;
  }
  observe([&](Procedure::Observer& observer) { observer.stage_finished(own); });
}

void ProcedureRun::roll_back() {
  std::vector<std::string> by_hand;
  for (auto index = to_undo_.rbegin(); index != to_undo_.rend(); ++index) {
    if (stage(*index).rollback) roll_back_stage(*index, by_hand);
  }
  if (by_hand.empty()) return;
  std::string steps;
  for (const std::string& step : by_hand) steps += (steps.empty() ? "" : "; ") + step;
  result_.error =
      Error(Code::kRollbackFailed, fmt::format("{} failed, and undoing {} of its stages failed: {}",
                                               procedure_.name_, by_hand.size(), steps))
          .with("procedure", procedure_.name_)
          .with("manual_intervention_needed", steps)
          .because(std::move(*result_.error))
          .suggest(fmt::format("do by hand: {}", steps));
}

void ProcedureRun::roll_back_stage(std::size_t index, std::vector<std::string>& by_hand) {
  StageRecord& own = record(index);
  publish({.stage = own.name,
           .stage_number = 0,
           .stage_count = procedure_.stage_count(),
           .what = "undoing",
           .stage_started_mono_ns = clock_.mono_ns(),
           .rolling_back = true});
  observe([&](Procedure::Observer& observer) { observer.progressed(procedure_.progress()); });
  const Result<> undone = call_guarded("the rollback", own.name, stage(index).rollback);
  const bool completed = counts_as_completed(own.outcome);
  if (undone) {
    own.rolled_back = true;
    if (completed) own.outcome = StageOutcome::kRolledBack;
  } else {
    own.rollback_error = undone.error();
    if (completed) own.outcome = StageOutcome::kRollbackFailed;
    const std::string& manual = stage(index).manual_undo;
    by_hand.push_back(fmt::format("{}: {} ({})", own.name,
                                  manual.empty() ? "check and undo what this stage did" : manual,
                                  undone.error().message()));
  }
  observe([&](Procedure::Observer& observer) { observer.rollback_finished(own); });
}

namespace {

Error invalid(const std::string& procedure, std::string_view stage, std::string message) {
  return Error(Code::kProcedureInvalid, fmt::format("{}: {}", procedure, message))
      .with("procedure", procedure)
      .with("stage", stage);
}

// "a needs b needs a", or an empty text. All needs exist.
std::string find_circle(const std::vector<std::unique_ptr<Stage>>& stages) {
  std::map<std::string_view, const Stage*> left;
  for (const auto& stage : stages) left[stage->name] = stage.get();
  const auto is_left = [&](const std::string& name) { return left.contains(name); };
  // Take away stages whose needs are all gone; what cannot be taken away waits for itself.
  for (std::size_t before = left.size() + 1; left.size() < before;) {
    before = left.size();
    for (const auto& stage : stages) {
      if (std::ranges::none_of(stage->needs, is_left)) left.erase(stage->name);
    }
  }
  if (left.empty()) return {};
  // From any of them, following needs that are left ends on the circle.
  const auto step = [&](const Stage* stage) {
    return left.at(*std::ranges::find_if(stage->needs, is_left));
  };
  const Stage* start = left.begin()->second;
  for (std::size_t i = 0; i < left.size(); ++i) start = step(start);
  std::string circle = start->name;
  const Stage* next = start;
  do {
    next = step(next);
    circle += " needs " + next->name;
  } while (next != start);
  return circle;
}

}  // namespace

Result<> Procedure::validate() const {
  const auto find = [this](std::string_view name) -> const Stage* {
    for (const auto& stage : stages_) {
      if (stage->name == name) return stage.get();
    }
    return nullptr;
  };
  for (const auto& stage : stages_) {
    const std::string& own = stage->name;
    if (own.empty()) return invalid(name_, own, "a stage has no name");
    if (find(own) != stage.get()) {
      return invalid(name_, own, fmt::format("two stages are called {}", own));
    }
    if (!stage->run) return invalid(name_, own, fmt::format("stage {} has nothing to run", own));
    if (stage->time_limit <= os::Duration::zero()) {
      return invalid(name_, own, fmt::format("the time limit of stage {} is not positive", own));
    }
    for (const std::string& need : stage->needs) {
      if (find(need) == nullptr) {
        return invalid(name_, own,
                       fmt::format("stage {} needs {}, which does not exist", own, need));
      }
    }
  }
  if (const std::string circle = find_circle(stages_); !circle.empty()) {
    return invalid(name_, circle.substr(0, circle.find(' ')),
                   fmt::format("stages wait for one another: {}", circle));
  }
  return {};
}

bool Procedure::has_stage(std::string_view name) const {
  return std::ranges::any_of(stages_, [&](const auto& stage) { return stage->name == name; });
}

ProcedureResult Procedure::execute(const os::Clock& clock, Observer* observer) {
  return ProcedureRun(*this, clock, observer).run();
}

void Procedure::abort() {
  aborted_.store(true, std::memory_order_release);
}

Progress Procedure::progress() const {
  const std::lock_guard lock(progress_mutex_);
  return progress_;
}

}  // namespace defib::recovery
