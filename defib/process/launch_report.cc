#include "defib/process/launch_report.h"

#include <fmt/core.h>

#include <array>
#include <cerrno>

#include "defib/os/fd.h"

namespace defib::process {
namespace {

using shim::StartStage;

// What failed, by which call, and what to do about it.
struct StageText {
  StartStage stage;
  std::string_view what;
  std::string_view call;
  std::string_view advice;
};
constexpr std::array kStages = {
    StageText{StartStage::kNotConfigured, "the shim was not told what to start", "", ""},
    StageText{StartStage::kFork, "no process could be made", "vfork",
              "look at the limits of processes and memory: `ulimit -u`, pids.max, `free`"},
    StageText{StartStage::kDirectory, "the working directory cannot be entered", "chdir",
              "make it, or let the service's user enter it and all directories above"},
    StageText{StartStage::kExec, "the program cannot be executed", "execve",
              "check that the service's user may read and execute it and its interpreter"},
    StageText{StartStage::kDescriptors, "its descriptors could not be set up", "dup2", ""},
    StageText{StartStage::kControlGroup, "its control group could not be made or entered", "mkdir",
              "give defib a group that it may change: Delegate=yes in its unit"},
    StageText{StartStage::kMemoryLimit, "memory_limit could not be set", "write",
              "give defib a group with the memory controller: Delegate=yes in its unit"},
    StageText{StartStage::kProcessLimit, "max_processes could not be set", "write",
              "give defib a group with the pids controller: Delegate=yes in its unit"},
    StageText{StartStage::kOomScore, "oom_score_adjust could not be set", "write",
              "lowering it takes CAP_SYS_RESOURCE; take 0 or more, or give defib that capability"},
    StageText{StartStage::kNice, "nice could not be set", "setpriority",
              "lowering it takes CAP_SYS_NICE; take 0 or more, or give defib that capability"},
    StageText{StartStage::kResourceLimit, "a limit could not be raised so far", "prlimit",
              "raising a hard limit takes CAP_SYS_RESOURCE; raise the supervisor's own limit, or "
              "ask for less"},
    StageText{StartStage::kGroups, "its groups could not be taken on", "setgroups",
              "run the daemon as root, with CAP_SETGID"},
    StageText{StartStage::kUser, "its user could not be taken on", "setresuid",
              "run the daemon as root, with CAP_SETUID; look at the user's limit of processes"},
    StageText{StartStage::kPrivileges, "no_new_privs could not be set", "prctl", ""},
    StageText{StartStage::kHook, "its pre_start hook failed", "",
              "the hook's output is in the service's log: `defib logs`"},
    StageText{StartStage::kTracer, "nobody traces it, so a crash will tell less (capture)",
              "ptrace(PTRACE_SEIZE)",
              "allow ptrace: /proc/sys/kernel/yama/ptrace_scope, SYS_PTRACE in a container; end a "
              "debugger that holds it; a restart seizes it again"},
};

const StageText& text_of(StartStage stage) {
  for (const StageText& one : kStages) {
    if (one.stage == stage) return one;
  }
  return kStages[0];
}

std::string subject_of(const ServiceSpec& spec, StartStage stage) {
  switch (stage) {
    case StartStage::kDirectory:
      return spec.working_directory;
    case StartStage::kExec:
      return spec.argv[0];
    case StartStage::kOomScore:
      return "/proc/self/oom_score_adj";
    case StartStage::kResourceLimit: {
      std::string names;
      for (const ProcessLimit& limit : spec.limits) {
        names += (names.empty() ? "limits." : ", limits.") + limit.name;
      }
      return names;
    }
    case StartStage::kMemoryLimit:
      return "memory.max or memory.limit_in_bytes";
    case StartStage::kProcessLimit:
      return "pids.max";
    default:
      return {};
  }
}

}  // namespace

std::string_view to_string(shim::Hook hook) {
  constexpr std::array<std::string_view, shim::kHooks> kNames = {"pre_start", "post_crash",
                                                                 "cleanup", "evidence_command"};
  const auto index = static_cast<std::size_t>(hook);
  return index < kNames.size() ? kNames[index] : "unknown";
}

Error start_error(const ServiceSpec& spec, const shim::StartFailed& failed) {
  const StageText& text = text_of(failed.stage);
  std::string_view what = text.what;
  const bool cut_off = failed.stage == StartStage::kHook && failed.error_number == EOWNERDEAD;
  if (cut_off) what = "its pre_start hook was cut off by the death of the shim";
  Error error = Error(Code::kStartFailed,
                      fmt::format("the service '{}' could not be started: {}", spec.name, what))
                    .with("program", spec.argv[0])
                    .with("stage", static_cast<std::int64_t>(failed.stage));
  if (failed.error_number != 0 && !text.call.empty()) {
    error = std::move(error).because(
        os::system_error(text.call, subject_of(spec, failed.stage), failed.error_number));
  }
  if (!text.advice.empty() && !cut_off) error = std::move(error).suggest(std::string(text.advice));
  return error;
}

Error shortfall_error(const ServiceSpec& spec, const shim::Shortfall& shortfall) {
  const StageText& text = text_of(shortfall.stage);
  return Error(Code::kPermissionDenied,
               fmt::format("the service '{}' runs with less than it asks for: {}", spec.name,
                           text.what))
      .with("service", spec.name)
      .because(
          os::system_error(text.call, subject_of(spec, shortfall.stage), shortfall.error_number))
      .suggest(std::string(text.advice));
}

HookReport hook_report(const ServiceSpec& spec, const shim::HookFinished& finished) {
  HookReport report;
  report.service = spec.name;
  report.generation = finished.generation;
  report.hook = to_string(finished.hook);
  report.timed_out = finished.timed_out != 0;
  report.started_mono_ns = finished.started_mono_ns;
  report.duration = os::Duration(finished.duration_ns);
  if (finished.error_number == 0) {
    report.status = os::exit_status_from_wait(finished.wait_status);
    report.ok = report.status.success() && !report.timed_out;
  }
  if (report.ok) return report;
  std::string why;
  if (report.timed_out) {
    why = fmt::format(
        "did not end within {} and was killed",
        os::format_duration(finished.hook == shim::Hook::kEvidence ? spec.evidence_timeout
                                                                   : spec.hook_timeout));
  } else if (finished.error_number == EOWNERDEAD) {
    why = "was ended, because its shim had died";
  } else if (finished.error_number == EALREADY) {
    why = "was left out, because it still runs from the time before";
  } else if (finished.error_number != 0) {
    why = fmt::format("could not be started: {}", text_of(finished.stage).what);
  } else {
    why = fmt::format("ended with {}", report.status.to_string());
  }
  report.error = Error(Code::kStartFailed,
                       fmt::format("{} of the service '{}' {}", report.hook, spec.name, why))
                     .with("service", spec.name)
                     .with("hook", report.hook);
  if (finished.error_number != 0 && finished.error_number != EOWNERDEAD &&
      finished.error_number != EALREADY) {
    report.error =
        std::move(*report.error)
            .because(os::system_error(text_of(finished.stage).call, {}, finished.error_number));
  }
  return report;
}

}  // namespace defib::process
