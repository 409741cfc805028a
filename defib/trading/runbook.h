// Runbook: the ten steps as they are configured, and the steps that a user puts between them.
//
//   [runbook.builtin.safety_checks]      # any of the ten: time limit and tries
//   timeout = "10s"
//   retries = 2
//   retry_delay = "1s"
//   [[runbook.steps]]                    # a program of one's own
//   name = "risk_desk"
//   before = "gradual_resume"            # or after = "..."
//   exec = ["/usr/local/bin/ask-risk-desk"]
//   timeout = "30s"
//   retries = 1
//   on_failure = "stop"                  # or "continue"
//   meaning = "the risk desk has not released the book"
//   rollback = ["/usr/local/bin/tell-risk-desk", "withdrawn"]
//   manual_undo = "call the risk desk"
//
// An exec step is successful when its program exits with 0. It gets DEFIB_RUNBOOK_STEP and what the
// environment has; its output (at most 4 KiB of the end) becomes the step's metric, and the error's
// message when it fails. A dry run starts no program. Thread rule: one thread at a time.

#pragma once

#include <array>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/conf/conf.h"
#include "defib/os/clock.h"
#include "defib/recovery/procedure.h"

namespace defib::trading {

// The built-in steps, in their order.
inline constexpr std::array<std::string_view, 10> kRecoverySteps = {"analyze",
                                                                    "safety_checks",
                                                                    "load_state",
                                                                    "reconcile_positions",
                                                                    "recover_open_orders",
                                                                    "health_without_trading",
                                                                    "risk_checks",
                                                                    "market_check",
                                                                    "gradual_resume",
                                                                    "report_and_notify"};

struct StepLimits {
  std::string name;         // of the built-in step
  os::Duration timeout{0};  // zero: the step's own
  int retries = 0;          // of errors that may pass; further tries after the first
  os::Duration retry_delay = std::chrono::seconds(1);
};

struct ExecStep {
  std::string name;
  std::string before;  // one of the ten; or
  std::string after;
  std::vector<std::string> command;
  os::Duration timeout = std::chrono::seconds(30);
  int retries = 0;
  os::Duration retry_delay = std::chrono::seconds(1);
  bool stop_on_failure = true;
  std::string meaning;  // of a failure, in the user's words
  std::vector<std::string> rollback;
  std::string manual_undo;
};

struct Runbook {
  std::vector<StepLimits> builtin;
  std::vector<ExecStep> steps;
};

// Errors are kept by the document.
Runbook read_runbook(conf::Section section);

// Runs the step's program once or as often as it may try; RunbookStepFailed with what a failure
// means, the exit and the end of the output.
Result<> run_exec_step(const ExecStep& step, const os::Clock& clock,
                       recovery::StageContext& context);
Result<> roll_back_exec_step(const ExecStep& step);
// `run` again while its error may pass, at most `limits.retries` times more.
Result<> run_with_retries(const StepLimits& limits, const os::Clock& clock,
                          recovery::StageContext& context,
                          const std::function<Result<>(recovery::StageContext&)>& run);

}  // namespace defib::trading
