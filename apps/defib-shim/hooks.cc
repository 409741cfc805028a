#include "hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"

namespace defib::process::shim {
namespace {

constexpr uint32_t kHookMagic = 0x4b4f4f48;  // "HOOK"
constexpr char kHookFile[] = "hooks";
constexpr const char* kHookNames[kHooks] = {"pre_start", "post_crash", "cleanup",
                                            "evidence_command"};
constexpr Hook kAllHooks[kHooks] = {Hook::kPreStart, Hook::kPostCrash, Hook::kCleanup,
                                    Hook::kEvidence};
constexpr const char* kReasonNames[] = {"none",  "requested", "hung",   "unhealthy",
                                        "limit", "not_ready", "reboot", "log_pattern"};
static_assert(sizeof kReasonNames / sizeof kReasonNames[0] ==
              static_cast<size_t>(StopReason::kPattern) + 1);

off_t slot_at(Hook hook) {
  return static_cast<off_t>(kHookSlot * static_cast<size_t>(hook));
}

// The variables that tell a hook what it runs for. In memory that lives until the next call.
struct HookVariables {
  char name[32];
  char status[40];
  char signal[40];
  char reason[40];
  char* list[4];

  HookVariables(Hook hook, const ExitInfo& exit) {
    name[0] = status[0] = signal[0] = reason[0] = 0;
    append_text(name, sizeof name, "DEFIB_HOOK=");
    append_text(name, sizeof name, kHookNames[static_cast<size_t>(hook)]);
    append_text(status, sizeof status, "DEFIB_EXIT_STATUS=");
    append_text(signal, sizeof signal, "DEFIB_EXIT_SIGNAL=");
    append_text(reason, sizeof reason, "DEFIB_EXIT_REASON=");
    const bool known = exit.generation != 0 && exit.source != StatusSource::kUnknown;
    if (known && WIFSIGNALED(exit.wait_status)) {
      append_number(signal, sizeof signal, static_cast<uint64_t>(WTERMSIG(exit.wait_status)));
      // As shells count it.
      append_number(status, sizeof status,
                    128u + static_cast<unsigned>(WTERMSIG(exit.wait_status)));
    } else if (known) {
      append_number(status, sizeof status, static_cast<uint64_t>(WEXITSTATUS(exit.wait_status)));
    }
    const auto word = static_cast<size_t>(exit.reason);
    if (exit.generation != 0 && word < sizeof kReasonNames / sizeof kReasonNames[0]) {
      append_text(reason, sizeof reason, kReasonNames[word]);
    }
    list[0] = name;
    list[1] = status;
    list[2] = signal;
    list[3] = reason;
  }
};

}  // namespace

int Hooks::open_file(const char* boot_id) {
  append_text(boot_id_, sizeof boot_id_, boot_id);
  file_ = open(kHookFile, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  return file_ < 0 ? -errno : 0;
}

void Hooks::write_slot(Hook hook) {
  const HookRecord& record = slots_[static_cast<size_t>(hook)].record;
  if (pwrite(file_, &record, sizeof record, slot_at(hook)) < 0) complain("hooks", errno);
}

uint64_t Hooks::end_remains(Journal& journal) {
  constexpr int kEndLimitMs = 2000;
  uint64_t ticket_id = 0;
  for (const Hook hook : kAllHooks) {
    HookRecord record;
    // Pid, start time and boot id identify the process; nothing else of the record is relied on.
    if (pread(file_, &record, sizeof record, slot_at(hook)) != sizeof record ||
        record.magic != kHookMagic || record.hook != hook || record.pid <= 1 ||
        strncmp(record.boot_id, boot_id_, sizeof record.boot_id) != 0) {
      continue;
    }
    const int pidfd = pidfd_open(record.pid);
    ProcStat stat;
    if (pidfd >= 0 && read_stat(record.pid, &stat) && stat.start_time == record.start_time) {
      kill_descendants(record.pid, nullptr, 0);
      pidfd_send(pidfd, SIGKILL);
      if (getpgid(record.pid) == record.pid) kill(-record.pid, SIGKILL);
      pollfd wait = {pidfd, POLLIN, 0};
      poll(&wait, 1, kEndLimitMs);
    }
    if (pidfd >= 0) close(pidfd);
    const HookFinished report = {record.generation,      hook, 0, EOWNERDEAD, StartStage::kHook,
                                 record.started_mono_ns, 0,    0, 0};
    journal.add(Type::kHookFinished, &report, sizeof report);
    if (hook == Hook::kPreStart || record.ticket_id != 0) ticket_id = record.ticket_id;
    slots_[static_cast<size_t>(hook)] = Slot{};
    write_slot(hook);
  }
  return ticket_id;
}

bool Hooks::start(Launch& launch, Hook hook, uint64_t generation, uint64_t ticket_id,
                  const ExitInfo& last_exit, const ProcessDescriptors& fds, Journal& journal) {
  Slot& slot = slots_[static_cast<size_t>(hook)];
  HookFinished failure = {generation, hook, 0, EALREADY, StartStage::kHook, mono_ns(), 0, 0, 0};
  if (slot.record.pid > 0) {
    journal.add(Type::kHookFinished, &failure, sizeof failure);
    return false;
  }
  slot = Slot{};
  slot.record = {kHookMagic, hook, 0, 0, 0, generation, ticket_id, mono_ns(), {}};
  append_text(slot.record.boot_id, sizeof slot.record.boot_id, boot_id_);
  HookVariables variables(hook, last_exit);
  char* const* env = launch.hook_env(generation, variables.list, 4);
  const StartOutcome outcome =
      start_hook(launch, hook, env, fds, {file_, slot_at(hook), &slot.record});
  if (outcome.pid < 0) {
    slot.record.pid = 0;
    write_slot(hook);
    failure.stage = outcome.stage;
    failure.error_number = outcome.error_number;
    journal.add(Type::kHookFinished, &failure, sizeof failure);
    return false;
  }
  const LaunchHeader& header = launch.header();
  slot.deadline = slot.record.started_mono_ns +
                  (hook == Hook::kEvidence ? int64_t{header.evidence_timeout_ms} * 1'000'000
                                           : header.hook_timeout_ns);
  return true;
}

bool Hooks::any_running() const {
  for (const Slot& slot : slots_) {
    if (slot.record.pid > 0) return true;
  }
  return false;
}

bool Hooks::owns(pid_t pid) const {
  for (const Slot& slot : slots_) {
    if (slot.record.pid > 0 && slot.record.pid == pid) return true;
  }
  return false;
}

void Hooks::kill_now(Hook hook) {
  Slot& slot = slots_[static_cast<size_t>(hook)];
  slot.deadline = 0;
  if (slot.record.pid <= 0) return;
  kill_descendants(slot.record.pid, nullptr, 0);
  // It is our child and not waited for, so the number is its own, and its group's.
  kill(slot.record.pid, SIGKILL);
  kill(-slot.record.pid, SIGKILL);
}

void Hooks::kill_overdue(int64_t now) {
  for (const Hook hook : kAllHooks) {
    Slot& slot = slots_[static_cast<size_t>(hook)];
    if (slot.deadline == 0 || now < slot.deadline) continue;
    slot.timed_out = true;
    kill_now(hook);
  }
}

int64_t Hooks::next_deadline() const {
  int64_t next = 0;
  for (const Slot& slot : slots_) {
    if (slot.record.pid > 0 && slot.deadline != 0 && (next == 0 || slot.deadline < next)) {
      next = slot.deadline;
    }
  }
  return next;
}

Hooks::Ended Hooks::reap(pid_t pid, Journal& journal) {
  Ended ended;
  for (const Hook hook : kAllHooks) {
    Slot& slot = slots_[static_cast<size_t>(hook)];
    if (slot.record.pid <= 0 || slot.record.pid != pid) continue;
    kill(-pid, SIGKILL);  // What it left in the background does not outlive it.
    int status = 0;
    if (wait4(pid, &status, WNOHANG, nullptr) != pid) return ended;
    const HookFinished report = {slot.record.generation,
                                 hook,
                                 status,
                                 0,
                                 StartStage{},
                                 slot.record.started_mono_ns,
                                 mono_ns() - slot.record.started_mono_ns,
                                 slot.timed_out ? 1u : 0u,
                                 0};
    ended = {true, hook, status == 0 && !slot.timed_out};
    slot = Slot{};
    write_slot(hook);
    journal.add(Type::kHookFinished, &report, sizeof report);
    return ended;
  }
  return ended;
}

size_t Hooks::list(pid_t* to, size_t capacity) const {
  size_t count = 0;
  for (const Slot& slot : slots_) {
    if (slot.record.pid > 0 && count < capacity) to[count++] = slot.record.pid;
  }
  return count;
}

}  // namespace defib::process::shim
