// What a supervisor and a shim say to one another, and what the shim leaves on disk.
//
// The shim is a static program without a C++ runtime to speak of: this header holds plain structs,
// constants and inline functions only, and includes nothing of defib. docs/formats/shim.md tells
// the same as prose.
//
// Transport: UNIX SOCK_SEQPACKET `shim.sock` in the service's directory; one message a packet:
// MessageHeader, then the struct of that type, then (where the type says so) bytes up to the end of
// the packet. Both ends are of the same user (SO_PEERCRED) and of the same protocol version.
// Events carry a sequence number; the shim keeps each until it is acknowledged and sends them again
// to the next supervisor, so that none is lost by a death of either.

#pragma once

#include <cstddef>
#include <cstdint>

#include "defib/process/launch_format.h"

namespace defib::process::shim {

inline constexpr std::uint32_t kMessageMagic = 0x4d485344;  // "DSHM"
#ifndef DEFIB_SHIM_PROTOCOL                                 // tests build shims of other versions
#define DEFIB_SHIM_PROTOCOL 6
#endif
inline constexpr std::uint16_t kProtocolVersion = DEFIB_SHIM_PROTOCOL;
inline constexpr std::size_t kMaxMessage = 16384;

// Names inside the service's directory, which is the shim's working directory.
inline constexpr char kSocketName[] = "shim.sock";
inline constexpr char kNotifyName[] = "notify.sock";
inline constexpr char kStatusName[] = "status";
inline constexpr char kShimLockName[] = "shim.lock";
inline constexpr char kStdoutName[] = "stdout.fifo";
inline constexpr char kStderrName[] = "stderr.fifo";
inline constexpr char kWakeName[] = "wake.fifo";
inline constexpr char kLogDir[] = "logs";
inline constexpr char kLogCurrent[] = "logs/current";
inline constexpr char kCaptureDir[] = "capture";
inline constexpr char kPageMemfdName[] = "defib-agent";

// Descriptors of the service beyond 0, 1, 2. High, so that LISTEN_FDS (3...) stays free.
inline constexpr int kAgentPageFd = 30;
inline constexpr int kAgentWakeFd = 31;
// Sockets that the service is given, from 3 on: those of its specification, and those that it
// stored itself (FDSTORE=1). Together they stay below kAgentPageFd.
inline constexpr int kFirstListenFd = 3;
inline constexpr int kMaxSockets = 16;
inline constexpr int kMaxStored = 8;
inline constexpr std::size_t kMaxFdName = 64;  // with its zero byte
// Descriptors of one message: the notify socket, two pages, and all of the above.
inline constexpr int kMaxMessageFds = 3 + kMaxSockets + kMaxStored;
static_assert(kFirstListenFd + kMaxSockets + kMaxStored <= kAgentPageFd);

enum class Type : std::uint16_t {
  // Supervisor to shim.
  kHello = 1,        // Hello
  kConfigure = 2,    // Configure, with the launch description as a descriptor (memfd)
  kStart = 3,        // Start
  kStop = 4,         // Stop
  kSignal = 5,       // SignalRequest
  kTicket = 6,       // Ticket: permission for the next start, and its delay
  kRevoke = 7,       // no body: takes the ticket back
  kPassThrough = 8,  // PassThrough, with two descriptors (stdout, stderr) or none (end)
  kLogFeed = 9,      // LogFeed
  kAck = 10,         // Ack
  kShutdown = 11,    // no body: ends the shim; refused while the service lives
  kRunHook = 20,     // RunHook: the service came to rest
  kSockets = 12,     // Sockets, then their names, with their descriptors
  // Shim to supervisor; those marked E carry a sequence and are kept until acknowledged.
  kWelcome = 33,       // Welcome, then the sockets' names; descriptors as Welcome says
  kStarted = 34,       // E Started, with the agent page
  kStartFailed = 35,   // E StartFailed
  kExited = 36,        // E Exited
  kCrashFlag = 37,     // E CrashFlag
  kCaptured = 38,      // E Captured
  kNotify = 39,        // E Notify, then the datagram's bytes
  kPageChanged = 40,   // no body: the agent rang (a stage was armed)
  kLog = 41,           // Log, then bytes; never kept, dropped while the supervisor is slow
  kRefused = 42,       // Refused
  kDying = 43,         // E Dying
  kPromoted = 44,      // E Promoted
  kHookFinished = 50,  // E HookFinished
  kShortfall = 51,     // E Shortfall
  kOomKill = 52,       // E OomKill
  kNotifySocket = 53,  // no body, with the notify socket: it has another name from now on
  kFollowed = 46,      // E Followed
  kStored = 45,        // Sockets (stored ones only), then their names, with their descriptors
};

struct MessageHeader {
  std::uint32_t magic;
  std::uint16_t version;
  Type type;
  std::uint64_t sequence;  // of events marked E; else 0
};
static_assert(sizeof(MessageHeader) == 16);

struct Hello {
  std::int32_t supervisor_pid;
  std::uint32_t reserved;
};

// What a process of the service is to it.
enum class InstanceRole : std::uint32_t {
  kActive = 0,
  kStandby = 1,  // initialised, and waiting to be promoted
  kDying = 2,    // fenced: another one has taken, or may take, its place
};

struct Start {
  std::uint32_t automatic;  // 1: counts as a restart
  InstanceRole role;        // kActive or kStandby
};

// The descriptors travel with the message in this order, the names as zero-terminated strings.
struct Sockets {
  std::uint32_t listening;  // of the specification
  std::uint32_t stored;     // by FDSTORE=1
};

enum class StopReason : std::uint32_t {
  kNone = 0,       // it died by itself
  kRequested = 1,  // stop or restart on request
  kHung = 2,
  kUnhealthy = 3,
  kLimit = 4,
  kNotReady = 5,
  kReboot = 6,   // nobody's request: the machine was started anew in between
  kPattern = 7,  // its output said that it must be replaced
};

// One signal of a graceful end, and how long its effect is waited for.
struct StopStep {
  std::int32_t signal;
  std::uint32_t reserved;
  std::int64_t grace_ns;
};
inline constexpr std::uint32_t kMaxStopSteps = 8;  // the first one included

struct Stop {
  StopReason reason;
  std::int32_t signal;    // sent to the main process first; 0: none
  std::int64_t grace_ns;  // then the further signals, then SIGKILL to everything of the service
  // The process that is meant; another one that took its place meanwhile is not touched. 0: all.
  std::uint64_t generation;
  std::uint32_t step_count;
  std::uint32_t number;  // echoed in Refused
  StopStep steps[kMaxStopSteps - 1];
};

struct SignalRequest {
  std::int32_t signal;
  std::uint32_t group;  // 1: to the whole process group
};

// Valid for one start after an end that calls_for_restart(); also when the supervisor is gone by
// then. An end that equals the held one is left to the supervisor, which has seen such ends before
// and must look closer.
struct Ticket {
  std::int64_t delay_ns;     // between the death and the start; 0: at once
  std::uint64_t id;          // echoed in Started
  ShimRestart restart;       // for ends that are not the program's own: killed by us, or unknown
  std::uint32_t holds;       // 1: held_status counts
  std::int32_t held_status;  // a wait status
  std::uint32_t reserved;
  ExitSet restart_after;  // of the program's own ends
};
static_assert(sizeof(Ticket) == 72);

struct PassThrough {
  std::uint32_t on;
  std::uint32_t reserved;
};

struct LogFeed {
  std::uint32_t on;
  std::uint32_t reserved;
};

struct Ack {
  std::uint64_t sequence;  // this one and all before it
};

// Where an exit status was learnt.
enum class StatusSource : std::uint32_t {
  kUnknown = 0,
  kWait = 1,        // waitid by the parent
  kProcStat = 2,    // the zombie's /proc/PID/stat, field 52
  kPidfdInfo = 3,   // PIDFD_GET_INFO with PIDFD_INFO_EXIT (Linux 6.15)
  kSupervisor = 4,  // waited for by the supervisor, which had become the parent
};

struct ExitInfo {
  std::uint64_t number;  // counts the exits in this directory, from 1; 0: none
  std::uint64_t generation;
  std::int32_t pid;
  std::int32_t wait_status;  // as by wait(2); meaningless where source is kUnknown
  StatusSource source;
  StopReason reason;
  std::int64_t noticed_mono_ns;  // when the shim woke up for it
  std::int64_t reaped_mono_ns;   // when the status was known
  std::int64_t noticed_wall_ns;
  std::int64_t crashed_mono_ns;  // by the crash page; 0: no crash flag
  std::int64_t cpu_ns;           // user and system; 0: unknown
  std::uint64_t max_rss_bytes;   // 0: unknown
  InstanceRole role;             // kDying: it was active, and was replaced before it was gone
  std::uint32_t oom_kills;       // processes that the kernel killed for the memory limit
};
static_assert(sizeof(ExitInfo) == 88);

// The phases of a service, and of each of its processes, as the status file tells them.
enum class Phase : std::uint32_t {
  kNone = 0,      // never started
  kStarting = 1,  // forked, the program not yet executed
  kRunning = 2,
  kExited = 3,
};

inline constexpr std::uint32_t kSaidReady = 1;     // READY=1 came
inline constexpr std::uint32_t kSaidWatchdog = 2;  // WATCHDOG=1 came: its silence is watched

// One process of the service that has not ended as far as the shim knows.
struct StatusInstance {
  std::uint64_t generation;      // 0: the slot is free
  std::uint64_t start_time;      // /proc/PID/stat field 22
  std::uint64_t epoch;           // with which it was made active; 0: it never was
  std::int64_t started_mono_ns;  // exec succeeded
  std::int64_t started_wall_ns;
  std::int32_t pid;
  InstanceRole role;
  Phase phase;          // kStarting or kRunning
  std::uint32_t ready;  // kSaidReady, kSaidWatchdog
  char state_word[24];  // the last X_DEFIB_STATE
};
static_assert(sizeof(StatusInstance) == 80);

// An active one, a standby, and those that are dying.
inline constexpr int kMaxInstances = 6;

// MAINPID=: the process that is followed once that generation's present one has ended.
struct Announced {
  std::uint64_t generation;  // 0: none
  std::uint64_t start_time;
  std::int32_t pid;
  std::uint32_t reserved;
};

// One slot of the file `status`. The file is two slots of kStatusSlot bytes, written alternately
// with one pwrite; the valid slot with the higher sequence counts, so a reader never sees half.
// The first four fields are the same in every version, so that a file of another one is told from
// a damaged one, and left alone with its service.
inline constexpr int kKeptExits = 4;
struct StatusRecord {
  std::uint64_t magic;    // kStatusMagic
  std::uint32_t version;  // kStatusVersion
  std::uint32_t crc;      // CRC32C of the whole slot with this field zero
  std::uint64_t sequence;
  std::uint64_t generation;    // counts the starts in this directory, from 1
  std::uint64_t exit_number;   // counts the exits
  std::uint64_t acknowledged;  // the number of the newest exit that a supervisor acknowledged
  std::uint64_t epoch;         // counts the activations
  std::uint64_t restarts;      // automatic ones since the last start by request
  Phase phase;                 // of the service, which is that of its active process
  std::int32_t shim_pid;
  ShimRestart restart;  // as it was last configured: for a shim that has not been told yet
  ShimRestartWhen restart_when;
  ExitSet restart_after;
  char boot_id[40];
  StatusInstance instances[kMaxInstances];
  // Of the last processes that ended, newest first; number 0: none. Where the instance still has
  // its slot, nothing was done about its end yet.
  ExitInfo exits[kKeptExits];
  Announced announced;
  std::uint64_t reserved;
};
inline constexpr std::uint64_t kStatusMagic = 0x3154415453464544;  // "DEFSTAT1"
inline constexpr std::uint32_t kStatusVersion = 4;
inline constexpr std::size_t kStatusSlot = 1024;
static_assert(sizeof(StatusRecord) == kStatusSlot);
static_assert(offsetof(StatusRecord, crc) == 12 && offsetof(StatusRecord, sequence) == 16);
static_assert(offsetof(StatusRecord, boot_id) == 120);
static_assert(offsetof(StatusRecord, instances) == 160);
static_assert(offsetof(StatusRecord, exits) == 640);
static_assert(offsetof(StatusRecord, announced) == 992);

inline const StatusInstance* find_instance(const StatusRecord& record, InstanceRole role) {
  for (const StatusInstance& one : record.instances) {
    if (one.generation != 0 && one.role == role) return &one;
  }
  return nullptr;
}

// The newest exit of an active process, or nullptr.
inline const ExitInfo* last_service_exit(const StatusRecord& record) {
  for (const ExitInfo& exit : record.exits) {
    if (exit.number != 0 && exit.role != InstanceRole::kStandby) return &exit;
  }
  return nullptr;
}

// With it come the notify socket, then the pages and the sockets that it announces, in that order;
// the sockets' names follow the struct.
struct Welcome {
  std::int32_t shim_pid;
  std::uint32_t adopted;       // 1: the service was started by a shim before this one
  std::uint32_t active_page;   // 1: its page follows
  std::uint32_t standby_page;  // 1: its page follows
  Sockets sockets;
  std::uint64_t events_dropped;     // the journal was full while no supervisor listened
  std::uint64_t log_bytes_dropped;  // the disk was full
  std::uint64_t ticket_id;          // held now, or used by a delayed start; 0: none
  std::uint64_t pending_events;     // so many events follow that were kept for us
  std::int64_t ticket_delay_ns;     // of that ticket
  StopReason stopping;              // why the active process is being stopped; kNone: it is not
  std::uint32_t reserved;
  StatusRecord status;
};

struct Started {
  std::uint64_t generation;
  std::uint64_t start_time;
  std::int64_t started_mono_ns;
  std::int64_t started_wall_ns;
  std::uint64_t ticket_id;  // 0: by request
  std::int32_t pid;
  std::uint32_t automatic;
  std::uint64_t epoch;  // of an active one
  InstanceRole role;
  std::uint32_t reserved;
};

// The process ended, and the one that it had announced by MAINPID= goes on as the service.
struct Followed {
  std::uint64_t generation;
  std::uint64_t start_time;
  std::int32_t pid;
  std::int32_t old_pid;
};

struct StartFailed {
  std::uint64_t generation;
  std::uint64_t ticket_id;
  StartStage stage;
  std::int32_t error_number;
  InstanceRole role;
  std::uint32_t reserved;
};

struct RunHook {
  Hook hook;
  std::uint32_t reserved;
};

struct HookFinished {
  std::uint64_t generation;  // pre_start: of the start that it is for
  Hook hook;
  std::int32_t wait_status;   // as by wait(2), where error_number is 0
  std::int32_t error_number;  // it could not be started; EOWNERDEAD: its shim died meanwhile
  StartStage stage;           // where error_number says that it could not be started
  std::int64_t started_mono_ns;
  std::int64_t duration_ns;
  std::uint32_t timed_out;  // 1: killed with its group at hook_timeout
  std::uint32_t reserved;
};

// What the service was to have and does not have, because the system refuses it. Told once for each
// launch description.
struct Shortfall {
  std::uint64_t generation;
  StartStage stage;
  std::int32_t error_number;
};

// The kernel killed processes of the service for its memory limit, and the service lives.
struct OomKill {
  std::uint64_t generation;
  std::int64_t noticed_mono_ns;
  std::uint64_t limit_bytes;
  std::uint32_t oom_kills;  // since the start
  std::uint32_t reserved;
};

struct Exited {
  ExitInfo exit;
  std::uint64_t ticket_id;  // the ticket that starts the replacement; 0: none does
  std::int64_t restart_delay_ns;
  std::uint32_t capture_running;  // 1: Captured follows
  std::uint32_t promotes;         // 1: the standby takes its place, Promoted follows
};

// How it was known that a process dies before it was gone.
enum class DyingSign : std::uint32_t {
  kCrashFlag = 1,  // its crash handler rang
  kLifeLock = 2,   // the kernel released the lock of its page, and no thread can run any more
};

struct Dying {
  std::uint64_t generation;
  std::int32_t pid;
  DyingSign sign;
  std::int64_t noticed_mono_ns;
};

// A standby became active, after the one before was fenced or gone.
struct Promoted {
  std::uint64_t generation;  // of the standby
  std::uint64_t old_generation;
  std::uint64_t epoch;
  std::int64_t promoted_mono_ns;
  std::int64_t promoted_wall_ns;
  std::uint64_t ticket_id;  // the ticket that starts the next standby; 0: none
  std::int64_t standby_delay_ns;
  std::int32_t pid;
  std::uint32_t fenced_early;  // 1: before the one before was gone
};

struct CrashFlag {
  std::uint64_t generation;
  std::int32_t pid;
  std::int32_t signal;
  std::int64_t crashed_mono_ns;
  std::int64_t noticed_mono_ns;
};

struct Captured {
  std::uint64_t generation;  // the report is capture/crash-GENERATION.json
  std::int32_t wait_status;  // of defib-capture; negative: -errno, it could not be started
  std::uint32_t reserved;
};

struct Notify {
  std::uint64_t generation;
  std::int32_t pid;  // the sender, by SCM_CREDENTIALS
  std::uint32_t size;
};

struct Log {
  std::uint32_t stream;  // 1 stdout, 2 stderr
  std::uint32_t size;
  std::uint64_t dropped;  // bytes that the feed lost so far
};

struct Refused {
  Type request;
  std::uint16_t role;  // of a refused start
  std::int32_t error_number;
  std::uint32_t number;  // of a refused stop
  std::uint32_t reserved;
};

// CRC32C, four bytes at a time: a record is written twice between a death and the replacement.
struct ChecksumTables {
  std::uint32_t of[4][256];
  constexpr ChecksumTables() : of{} {
    constexpr std::uint32_t kPolynomial = 0x82f63b78;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      std::uint32_t crc = byte;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1u) != 0 ? kPolynomial : 0);
      of[0][byte] = crc;
    }
    for (int table = 1; table < 4; ++table) {
      for (int byte = 0; byte < 256; ++byte) {
        const std::uint32_t crc = of[table - 1][byte];
        of[table][byte] = (crc >> 8) ^ of[0][crc & 255u];
      }
    }
  }
};

inline std::uint32_t checksum(const void* bytes, std::size_t size) {
  static constexpr ChecksumTables kTables;
  const auto& of = kTables.of;
  std::uint32_t crc = 0xffffffffu;
  const auto* at = static_cast<const unsigned char*>(bytes);
  for (; size >= 4; size -= 4, at += 4) {
    crc ^= at[0] | at[1] << 8 | at[2] << 16 | static_cast<std::uint32_t>(at[3]) << 24;
    crc =
        of[3][crc & 255u] ^ of[2][(crc >> 8) & 255u] ^ of[1][(crc >> 16) & 255u] ^ of[0][crc >> 24];
  }
  for (; size > 0; --size, ++at) crc = (crc >> 8) ^ of[0][(crc ^ *at) & 255u];
  return ~crc;
}

inline std::uint32_t status_checksum(StatusRecord record) {
  record.crc = 0;
  return checksum(&record, sizeof record);
}
// Whole, of whatever version.
inline bool status_whole(const StatusRecord& record) {
  return record.magic == kStatusMagic && record.crc == status_checksum(record);
}
inline bool status_valid(const StatusRecord& record) {
  if (record.version != kStatusVersion || record.boot_id[sizeof record.boot_id - 1] != 0 ||
      !status_whole(record)) {
    return false;
  }
  for (const StatusInstance& one : record.instances) {
    if (one.state_word[sizeof one.state_word - 1] != 0) return false;
  }
  return true;
}

inline bool contains(const ExitSet& set, int wait_status) {
  const unsigned signal = static_cast<unsigned>(wait_status) & 0x7f;
  if (signal > 64) return false;
  if (signal != 0) return ((set.signals >> (signal - 1)) & 1) != 0;
  const unsigned code = (static_cast<unsigned>(wait_status) >> 8) & 0xff;
  return ((set.codes[code / 64] >> (code % 64)) & 1) != 0;
}

// Two wait statuses are one end, whether or not a core was written.
inline bool same_end(int wait_status, int other) {
  constexpr int kCoreFlag = 0x80;
  return (wait_status & ~kCoreFlag) == (other & ~kCoreFlag);
}

// Whether the service shall run again after that end. An unknown status counts as a failure:
// staying down without knowing why is worse than one start too many.
inline bool wants_restart(ShimRestart restart, const ExitSet& restart_after, const ExitInfo& exit) {
  // After a boot the configuration decides, as for the first time.
  if (exit.reason == StopReason::kRequested || exit.reason == StopReason::kReboot) return false;
  if (exit.reason != StopReason::kNone || exit.source == StatusSource::kUnknown) {
    return restart != ShimRestart::kNever;
  }
  return contains(restart_after, exit.wait_status);
}

// Whether this ticket may start the replacement.
inline bool calls_for_restart(const Ticket& ticket, const ExitInfo& exit) {
  if (!wants_restart(ticket.restart, ticket.restart_after, exit)) return false;
  const bool own_end = exit.reason == StopReason::kNone && exit.source != StatusSource::kUnknown;
  return ticket.holds == 0 || !own_end || !same_end(exit.wait_status, ticket.held_status);
}

}  // namespace defib::process::shim
