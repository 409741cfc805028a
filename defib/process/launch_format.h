// The launch description: how the shim starts a service and its hooks. Part of shim_protocol.h,
// and under its rules: plain structs and constants, nothing of defib included.
//
// It is a memfd: LaunchHeader, then `bytes` bytes of NUL-terminated strings in this order: the
// fixed ones (LaunchText), argv..., env..., then the arguments of the hooks in the order of Hook.
// It is never on disk: environments hold secrets.

#pragma once

#include <cstddef>
#include <cstdint>

namespace defib::process::shim {

// The strings that every description has; empty: none.
enum class LaunchText : std::uint32_t {
  kProgram = 0,
  kDirectory = 1,
  kCapture = 2,    // the capture helper
  kNotify = 3,     // the abstract name of the notify socket; none: notify.sock in the directory
  kGroup = 4,      // of control groups: "NAME-HASH-", to which the generation is added
  kTreeDir = 5,    // where they are made: in version 2,
  kMemoryDir = 6,  // and in the hierarchies of version 1 that are needed
  kPidsDir = 7,
  kFreezerDir = 8,
};
inline constexpr std::uint32_t kLaunchFixedStrings = 9;

enum class ShimRestart : std::uint32_t { kAlways = 0, kOnFailure = 1, kNever = 2 };

// When a replacement may start: when the process is gone, with its memory, locks and sockets, or as
// soon as none of its threads can run the service's code any more.
enum class ShimRestartWhen : std::uint32_t { kGone = 0, kDying = 1 };

// Ends of a process by its own doing, as bits: exit codes and signals.
struct ExitSet {
  std::uint64_t codes[4];
  std::uint64_t signals;  // bit n - 1 is signal n
  friend bool operator==(const ExitSet&, const ExitSet&) = default;
};
static_assert(sizeof(ExitSet) == 40);

enum class Hook : std::uint32_t { kPreStart = 0, kPostCrash = 1, kCleanup = 2, kEvidence = 3 };
inline constexpr std::uint32_t kHooks = 4;
// What the evidence command may write: its output is a file of its own.
inline constexpr std::uint64_t kMaxEvidence = 1u << 20;

inline constexpr std::uint32_t kMaxGroups = 64;  // supplementary groups
inline constexpr std::uint32_t kMaxResourceLimits = 16;

// Which fields of the header are to be applied.
inline constexpr std::uint32_t kSetUser = 1u << 0;  // uid, gid and groups
inline constexpr std::uint32_t kSetUmask = 1u << 1;
inline constexpr std::uint32_t kSetNice = 1u << 2;
inline constexpr std::uint32_t kSetOomScore = 1u << 3;
inline constexpr std::uint32_t kNoNewPrivileges = 1u << 4;
inline constexpr std::uint32_t kMemoryInTree = 1u << 5;  // version 2 has the memory controller,
inline constexpr std::uint32_t kPidsInTree = 1u << 6;    // and the one that counts processes
inline constexpr std::uint32_t kPostCrashWaits = 1u << 7;
inline constexpr std::uint32_t kTraced = 1u << 8;    // seized for life by the capture helper
inline constexpr std::uint32_t kMinicore = 1u << 9;  // a capture also leaves a small core

struct ResourceLimit {
  std::uint32_t resource;  // RLIMIT_...
  std::uint32_t reserved;
  std::uint64_t soft;
  std::uint64_t hard;
};

struct LaunchHeader {
  std::uint32_t magic;    // kLaunchMagic
  std::uint32_t version;  // kLaunchVersion
  std::uint32_t bytes;
  std::uint32_t argc;
  std::uint32_t envc;                // the shim replaces DEFIB_GENERATION= in place
  std::uint32_t agent;               // kLaunchAgent, and a NotifyAccess from kNotifyAccessShift on
  std::uint32_t capture_timeout_ms;  // into the page; 0: the crash handler does not wait
  std::uint32_t log_files;
  std::uint64_t log_max_bytes;
  ShimRestart restart;  // as in the tickets; here for a promotion, which needs none
  ShimRestartWhen restart_when;
  std::uint32_t flags;
  std::uint32_t uid;
  std::uint32_t gid;
  std::uint32_t umask;
  std::int32_t nice;
  std::int32_t oom_score_adjust;
  std::uint32_t group_count;
  std::uint32_t limit_count;
  std::uint64_t memory_limit_bytes;  // of the control group; 0: none
  std::uint64_t max_processes;       // 0: none
  std::int64_t hook_timeout_ns;
  std::uint32_t hook_argc[kHooks];  // 0: no such hook
  std::uint32_t groups[kMaxGroups];
  ResourceLimit limits[kMaxResourceLimits];
  std::uint64_t log_total_bytes;      // of all log files; 0: log_files alone bounds them
  std::int64_t log_max_age_ns;        // of a log file; 0: no limit
  std::uint64_t log_rate;             // bytes a second; 0: no limit
  std::uint64_t log_burst;            // bytes beyond the rate
  std::uint32_t log_flags;            // kLogToJournal
  std::uint32_t evidence_timeout_ms;  // in place of hook_timeout_ns; 0 without that hook
  ExitSet restart_after;              // the ends of its own after which it is started again
};
inline constexpr std::uint32_t kLogToJournal = 1;
// In LaunchHeader::agent: make an agent page for each start.
inline constexpr std::uint32_t kLaunchAgent = 1;
inline constexpr std::uint32_t kNotifyAccessShift = 8;
// Whose notifications are believed: every process of the service's user, the main process, the main
// process and what the supervisor itself starts, nobody.
enum class NotifyAccess : std::uint32_t { kAll = 0, kMain = 1, kExec = 2, kNone = 3 };
inline NotifyAccess notify_access_of(const LaunchHeader& header) {
  return static_cast<NotifyAccess>((header.agent >> kNotifyAccessShift) & 3);
}
inline constexpr std::uint32_t kLaunchMagic = 0x434e4c44;  // "DLNC"
inline constexpr std::uint32_t kLaunchVersion = 4;
inline constexpr std::uint32_t kMaxLaunchBytes = 4u << 20;
static_assert(offsetof(LaunchHeader, flags) == 48);
static_assert(offsetof(LaunchHeader, memory_limit_bytes) == 80);
static_assert(offsetof(LaunchHeader, groups) == 120);
static_assert(offsetof(LaunchHeader, log_total_bytes) ==
              120 + 4 * kMaxGroups + 24 * kMaxResourceLimits);
static_assert(offsetof(LaunchHeader, restart_after) == 800 && sizeof(LaunchHeader) == 840);

// Where a start failed. With those marked W a start goes on where the operating system refuses for
// want of a privilege (Shortfall tells); everything else ends it.
enum class StartStage : std::uint32_t {
  kNotConfigured = 1,
  kFork = 2,
  kDirectory = 3,
  kExec = 4,
  kDescriptors = 5,
  kControlGroup = 6,    // W made, or entered
  kMemoryLimit = 7,     // W
  kProcessLimit = 8,    // W
  kOomScore = 9,        // W
  kNice = 10,           // W
  kResourceLimit = 11,  // W
  kGroups = 12,
  kUser = 13,
  kPrivileges = 14,  // no_new_privs
  kHook = 15,        // pre_start; error_number 0: it ended with a failure
  kTracer = 16,      // W EOWNERDEAD: it was seized, and its tracer died
};
inline constexpr std::uint32_t kStartStages = 17;

}  // namespace defib::process::shim
