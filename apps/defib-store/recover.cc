// `recover`: the stages of a recovery as they pass, or, with --dry-run, what they would do.

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "apps/defib-store/commands.h"
#include "apps/defib-store/interrupt.h"
#include "defib/store/plan.h"
#include "defib/store/store.h"

namespace defib::store_program {
namespace {

using store::Store;
using wire::Json;

constexpr std::int64_t kShowEvery = 50'000'000;  // ns: twenty times a second at most

// Shows the stages as they pass and keeps them for the report.
class StageWatcher : public recovery::Procedure::Observer {
 public:
  explicit StageWatcher(const Arguments& arguments)
      : arguments_(arguments),
        terminal_(!arguments.json && ::isatty(STDERR_FILENO) == 1),
        clock_(os::real_clock()) {}

  void stage_finished(const recovery::StageRecord& record) override {
    Json stage = Json::object({{"name", record.name},
                               {"outcome", recovery::to_string(record.outcome)},
                               {"duration_ns", record.duration.count()}});
    Json metrics = Json::object();
    for (const auto& [name, value] : record.metrics) metrics.set(name, value);
    stage.set("metrics", std::move(metrics));
    if (record.error) stage.set("error", error_json(*record.error, arguments_));
    stages_.push(std::move(stage));
    if (arguments_.json) return;
    if (terminal_) fmt::print(stderr, "\r\033[K");
    fmt::print("{:<24} {:<12} {:>9}", record.name, recovery::to_string(record.outcome),
               os::format_duration(record.duration));
    for (const auto& [name, value] : record.metrics) fmt::print("  {}={}", name, value);
    fmt::print("\n");
    std::fflush(stdout);
  }

  void progressed(const recovery::Progress& progress) override {
    if (progress.total == 0 || (!terminal_ && !arguments_.progress)) return;
    const std::int64_t now = clock_.mono_ns();
    const bool is_last = progress.done >= progress.total;
    if (progress.stage == shown_stage_ && !is_last && now - shown_at_ < kShowEvery) return;
    shown_at_ = now;
    shown_stage_ = progress.stage;
    const auto percent = static_cast<std::uint64_t>(progress.percent());
    const auto time_left = progress.time_left();
    const double left = time_left ? std::chrono::duration<double>(*time_left).count() : 0;
    if (arguments_.json) {
      fmt::print(stderr, "{}\n",
                 Json::object({{"schema", "defib.store_progress/1"},
                               {"stage", progress.stage},
                               {"stage_number", progress.stage_number},
                               {"stage_count", progress.stage_count},
                               {"done", progress.done},
                               {"total", progress.total},
                               {"what", progress.what},
                               {"percent", percent},
                               {"seconds_left", left}})
                     .dump());
    } else {
      fmt::print(stderr, "{}[{}/{}] {} {}%: {} of {} {}, about {:.1f} s left{}",
                 terminal_ ? "\r\033[K" : "", progress.stage_number, progress.stage_count,
                 progress.stage, percent, progress.done, progress.total, progress.what, left,
                 terminal_ ? "" : "\n");
    }
    std::fflush(stderr);
  }

  Json take_stages() { return std::move(stages_); }

 private:
  const Arguments& arguments_;
  bool terminal_;
  const os::Clock& clock_;
  std::int64_t shown_at_ = 0;
  std::string shown_stage_;
  Json stages_ = Json::array();
};

// The store is recovered, but something was not cleaned up, and the next recovery tries again.
void show_left_undone(const recovery::ProcedureResult& result, const Arguments& arguments) {
  std::fflush(stdout);
  for (const recovery::StageRecord& stage : result.stages) {
    if (!stage.error) continue;
    fmt::print(stderr, "{}: {}\n", stage.name, for_user(*stage.error, arguments).to_text());
  }
}

int recover(const Arguments& arguments) {
  Interrupt interrupt;
  StageWatcher watcher(arguments);
  store::Options options;
  options.create = false;
  options.stage_timeout = arguments.stage_timeout;
  options.stage_timeouts = arguments.stage_timeouts;
  options.observer = &watcher;
  options.stop = interrupt.token();
  auto store = Store::open(arguments.dir, options);
  interrupt.end_at_once();
  Json json = Json::object({{"schema", "defib.store_recovery/1"}, {"recovered", false}});
  std::optional<Error> error;
  if (!store) {
    error = store.error();
  } else {
    const auto& result = (*store)->recovery_result();
    json.set("recovered", !result.stages.empty()).set("duration_ns", result.duration.count());
    const auto snapshot = (*store)->snapshot();
    if (snapshot) {
      json.set("last_commit", (*snapshot)->position());
    } else {
      error = snapshot.error();
    }
    if (!arguments.json && result.stages.empty()) fmt::print("nothing to recover\n");
    if (!arguments.json) show_left_undone(result, arguments);
  }
  if (store) {
    if (const Result<> closed = (*store)->close(); !closed && !error) error = closed.error();
  }
  if (!arguments.json) return error ? report(*error, arguments) : 0;
  json.set("stages", watcher.take_stages());
  if (error) json.set("error", error_json(*error, arguments));
  print(json);
  return error ? exit_code(*error) : 0;
}

Json to_json(const store::Need& need) {
  Json json = Json::object({{"required", need.required}});
  return json.set("available", need.available > 0 ? Json(need.available) : Json());
}

Json to_json(const store::RecoveryPlan& plan, const Arguments& arguments) {
  Json indicators = Json::object();
  for (const store::Indicator& indicator : plan.indicators) {
    indicators.set(indicator.name, Json::object({{"present", indicator.present},
                                                 {"evidence", indicator.evidence}}));
  }
  Json stages = Json::array();
  for (const store::PlannedStage& stage : plan.stages) {
    Json one = Json::object({{"name", stage.name},
                             {"action", stage.action},
                             {"read_bytes", stage.read_bytes},
                             {"disk_bytes", stage.disk_bytes},
                             {"memory_bytes", stage.memory_bytes},
                             {"descriptors", stage.descriptors},
                             {"seconds", stage.seconds}});
    if (stage.obstacle) one.set("error", error_json(*stage.obstacle, arguments));
    stages.push(std::move(one));
  }
  Json losses = Json::array();
  for (const std::string& loss : plan.losses) losses.push(loss);
  return Json::object({{"schema", "defib.store_plan/1"},
                       {"recovery_needed", plan.needed && plan.lock_holder.empty()},
                       {"would_succeed", plan.obstacle() == nullptr},
                       {"lock_holder", plan.lock_holder.empty() ? Json() : Json(plan.lock_holder)},
                       {"indicators", std::move(indicators)},
                       {"checkpoint_commit", plan.checkpoint_commit},
                       {"last_commit", plan.last_commit},
                       {"log_bytes", plan.log_bytes},
                       {"replay_bytes", plan.replay_bytes},
                       {"replay_bytes_per_second", plan.bytes_per_second},
                       {"rate_is_measured", plan.rate_is_measured},
                       {"verdict", plan.verdict},
                       {"possible_losses", std::move(losses)},
                       {"memory", to_json(plan.memory)},
                       {"address_space", to_json(plan.address_space)},
                       {"disk", to_json(plan.disk)},
                       {"descriptors", to_json(plan.descriptors)},
                       {"closing_disk", to_json(plan.closing_disk)},
                       {"seconds", plan.seconds},
                       {"stages", std::move(stages)}});
}

// "1024 bytes of memory, 2 descriptors"; empty where it takes nothing that counts.
std::string taken_by(const store::PlannedStage& stage) {
  std::string text;
  const auto add = [&text](std::uint64_t amount, std::string_view what) {
    if (amount > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", amount, what);
  };
  add(stage.memory_bytes, "bytes of memory");
  add(stage.disk_bytes, "bytes of disk");
  add(stage.descriptors, stage.descriptors == 1 ? "descriptor" : "descriptors");
  return text;
}

// Exit code 0 where recovery would succeed, else that of its error.
int dry_run(const Arguments& arguments) {
  const auto plan = store::plan_recovery(arguments.dir, {});
  if (!plan) return report(plan.error(), arguments);
  const store::PlannedStage* obstacle = plan->obstacle();
  const int code = obstacle != nullptr ? exit_code(*obstacle->obstacle) : 0;
  if (arguments.json) {
    print(to_json(*plan, arguments));
    return code;
  }
  fmt::print("recovery needed: {}\n", plan->needed && plan->lock_holder.empty() ? "yes" : "no");
  for (const store::PlannedStage& stage : plan->stages) {
    fmt::print("{:<24} {}", stage.name, stage.action);
    const std::string taken = taken_by(stage);
    if (!taken.empty()) fmt::print("; takes up to {}", taken);
    if (stage.seconds >= 0.01) fmt::print(", about {:.2f} s", stage.seconds);
    fmt::print("\n");
  }
  fmt::print("needs at most {} bytes of memory, {} bytes of disk, {} descriptors; about {:.2f} s\n",
             plan->memory.required, plan->disk.required, plan->descriptors.required, plan->seconds);
  if (plan->closing_disk.required > 0) {
    fmt::print("closing it then writes up to {} bytes of what was replayed\n",
               plan->closing_disk.required);
  }
  for (const std::string& loss : plan->losses) fmt::print("possible loss: {}\n", loss);
  if (obstacle != nullptr) return report(*obstacle->obstacle, arguments);
  return 0;
}

}  // namespace

int run_recover(const Arguments& arguments) {
  return arguments.dry_run ? dry_run(arguments) : recover(arguments);
}

}  // namespace defib::store_program
