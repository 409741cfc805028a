// What a supervisor and its guardian (apps/defib-guardian) say to one another. Plain structs, for
// both sides; docs/process.md tells it as prose.
//
// The guardian gives its child a SOCK_SEQPACKET socket and the locks that it keeps, by two
// variables of the environment, which the child removes from it at once:
//   DEFIB_GUARDIAN=SOCKET:PID:RESUMED   its number, the guardian's pid, 1 where a supervisor before
//                                       this one was at work already
//   DEFIB_LOCK_FDS=10,11,12             locks of files that are known by device and inode

#pragma once

#include <cstdint>

namespace defib::process::shim {

inline constexpr char kGuardianVariable[] = "DEFIB_GUARDIAN";
inline constexpr char kLockVariable[] = "DEFIB_LOCK_FDS";
inline constexpr char kResumedVariable[] = "DEFIB_RESUMED";  // of an upgrade without a guardian

enum class GuardianRequest : std::uint32_t {
  kKeepLock = 1,    // with the lock's descriptor
  kForgetLock = 2,  // of that device and inode
  kBegun = 3,       // the supervisor is at work: whoever follows it continues what it did
  kStartAgain = 4,  // when this supervisor ends, another one follows (an upgrade)
  kReady = 5,       // this supervisor has taken over what there was to take over
};

struct GuardianMessage {
  GuardianRequest kind;
  std::uint32_t reserved;
  std::uint64_t device;
  std::uint64_t inode;
};
static_assert(sizeof(GuardianMessage) == 24);

}  // namespace defib::process::shim
