#include "defib/trading/runbook.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "defib/os/process.h"

namespace defib::trading {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kOutputKept = 4'096;
constexpr int kMaxRetries = 100;
constexpr std::size_t kMaxSteps = 100;
constexpr os::Duration kSlice = 50ms;

bool is_builtin(std::string_view name) {
  return std::find(kRecoverySteps.begin(), kRecoverySteps.end(), name) != kRecoverySteps.end();
}

std::string tail(std::string_view text) {
  if (text.size() > kOutputKept) text.remove_prefix(text.size() - kOutputKept);
  while (text.ends_with('\n')) text.remove_suffix(1);
  return std::string(text);
}

// Waits, but not for longer than the step may run.
Result<> pause(const os::Clock& clock, os::Duration delay, recovery::StageContext& context) {
  const std::int64_t until = clock.mono_ns() + delay.count();
  while (clock.mono_ns() < until) {
    if (context.should_stop()) return context.stop_error();
    clock.sleep_for(std::min(kSlice, os::Duration(until - clock.mono_ns())));
  }
  return {};
}

Result<std::string> run_program(const std::vector<std::string>& command, os::Duration timeout) {
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(timeout).count();
  DEFIB_TRY_ASSIGN(const os::CommandOutput output,
                   os::run_command(command, static_cast<int>(std::max<std::int64_t>(1, ms))));
  if (output.status.success()) return tail(output.text);
  return Error(Code::kRunbookStepFailed,
               fmt::format("{} ended with {}", command.front(), output.status.to_string()))
      .with("exit", output.status.to_string())
      .with("output", tail(output.text));
}

ExecStep read_step(conf::Section section) {
  ExecStep step;
  section.value("name", step.name);
  if (step.name.empty()) section.fail("name", "a step needs a name");
  section.value("before", step.before);
  section.value("after", step.after);
  if (step.before.empty() == step.after.empty()) {
    section.fail("before", "say either `before` or `after`, and one of the ten steps");
  }
  const std::string& at = step.before.empty() ? step.after : step.before;
  if (!at.empty() && !is_builtin(at)) {
    section.fail(step.before.empty() ? "after" : "before", "no step of the recovery has this name");
  }
  section.value("exec", step.command);
  if (step.command.empty()) section.fail("exec", "a step needs a program");
  section.value("timeout", step.timeout, {10ms, 24h});
  section.value("retries", step.retries, {0, kMaxRetries});
  section.value("retry_delay", step.retry_delay, {0s, 1h});
  section.word("on_failure", step.stop_on_failure, {{"stop", true}, {"continue", false}});
  section.value("meaning", step.meaning);
  section.value("rollback", step.rollback);
  section.value("manual_undo", step.manual_undo);
  return step;
}

}  // namespace

Runbook read_runbook(conf::Section section) {
  Runbook runbook;
  if (!section.present()) return runbook;
  for (auto& [name, table] : section.named_tables("builtin")) {
    StepLimits limits;
    limits.name = name;
    if (!is_builtin(name)) {
      table.fail({}, "no step of the recovery has this name");
    }
    table.value("timeout", limits.timeout, {10ms, 24h});
    table.value("retries", limits.retries, {0, kMaxRetries});
    table.value("retry_delay", limits.retry_delay, {0s, 1h});
    runbook.builtin.push_back(std::move(limits));
  }
  std::set<std::string> taken;
  for (conf::Section table : section.tables("steps")) {
    ExecStep step = read_step(table);
    if (is_builtin(step.name) || !taken.insert(step.name).second) {
      table.fail("name", "another step has this name already");
    }
    if (runbook.steps.size() >= kMaxSteps) table.fail("name", "too many steps");
    runbook.steps.push_back(std::move(step));
  }
  return runbook;
}

Result<> run_exec_step(const ExecStep& step, const os::Clock& clock,
                       recovery::StageContext& context) {
  const std::int64_t deadline = clock.mono_ns() + step.timeout.count();
  for (int attempt = 0;; ++attempt) {
    const os::Duration left = os::Duration(std::max<std::int64_t>(1, deadline - clock.mono_ns()));
    Result<std::string> output = run_program(step.command, left);
    context.metric("attempts", std::to_string(attempt + 1));
    if (output) {
      context.metric("output", *output);
      return {};
    }
    if (context.should_stop()) return context.stop_error();
    if (attempt >= step.retries) {
      return Error(Code::kRunbookStepFailed,
                   fmt::format("the step {} failed{}{}: {}", step.name,
                               step.meaning.empty() ? "" : ", which means: ", step.meaning,
                               output.error().to_line()))
          .with("step", step.name)
          .with("attempts", attempt + 1)
          .with("output", output.error().field("output"))
          .because(output.error());
    }
    DEFIB_TRY(pause(clock, step.retry_delay, context));
  }
}

Result<> roll_back_exec_step(const ExecStep& step) {
  const Result<std::string> output = run_program(step.rollback, step.timeout);
  if (!output) return output.error();
  return {};
}

Result<> run_with_retries(const StepLimits& limits, const os::Clock& clock,
                          recovery::StageContext& context,
                          const std::function<Result<>(recovery::StageContext&)>& run) {
  for (int attempt = 0;; ++attempt) {
    Result<> result = run(context);
    if (result || attempt >= limits.retries || !is_retryable(result.error())) return result;
    context.metric("retries", std::to_string(attempt + 1));
    DEFIB_TRY(pause(clock, limits.retry_delay, context));
  }
}

}  // namespace defib::trading
