// The raw snapshot: what is copied of a process while it stands still, as bytes and nothing else.
// Whoever copies (raw_copy_sigsafe.h) interprets next to nothing; raw_decode.h makes a Snapshot and
// ProcessFacts of it later, in another program.
//
//   offset  size     field
//   0       80       Header
//   80      ...      records: 24 bytes of Record, then `size` bytes, padded to a multiple of 8
//
// It lies in a memfd that the copier hands to the program that it becomes (execve), so it never
// touches a disk. Plain structs and constants; nothing of defib included. The content is of a
// process that may be corrupted, and a reader trusts no size and no number in it.

#pragma once

#include <cstddef>
#include <cstdint>

namespace defib::postmortem::raw {

inline constexpr std::uint64_t kMagic = 0x3157415246454431;  // "1DEFRAW1"
inline constexpr std::uint32_t kVersion = 1;

// Where the copy failed as a whole.
enum class Step : std::uint32_t { kNone = 0, kMemory = 1, kAttach = 2 };

struct Header {
  std::uint64_t magic;
  std::uint32_t version;
  std::int32_t pid;
  std::int64_t started_mono_ns;   // the first thread is being stopped
  std::int64_t captured_mono_ns;  // all is copied; 0: not reached
  std::int64_t released_mono_ns;
  std::uint64_t size;        // of header and records
  std::int32_t crashed_tid;  // as seen from outside; 0: not found
  std::int32_t root_fd;      // O_PATH of its root directory; -1: none
  std::int32_t exe_fd;       // its program; -1: none
  Step failed;
  std::int32_t error_number;
  std::int32_t tracer;  // that held the process already; 0: none
  std::int32_t own_child;
  std::uint32_t reserved;
};
static_assert(sizeof(Header) == 80);

enum class Kind : std::uint32_t {
  kThread = 1,          // number: tid; the bytes of NT_PRSTATUS
  kThreadName = 2,      // number: tid; comm
  kMemory = 3,          // address
  kCode = 4,            // address; around the fault
  kModule = 5,          // address; the beginning of the file as it is mapped
  kModuleFile = 6,      // address; number: a descriptor of the file, which has lost its name
  kFile = 7,            // number: a File
  kDescriptor = 8,      // number: the descriptor; where it leads
  kDescriptorInfo = 9,  // number: the descriptor; fdinfo
  kSocket = 10,         // a Socket
  kGap = 11,            // what could not be had, and why, in words
  kFactsGap = 12,       // the same of what is for the bundle
};

// Of /proc/PID.
enum class File : std::int32_t {
  kMaps = 1,
  kComm = 2,
  kExe = 3,  // the link's text
  kArguments = 4,
  kEnvironment = 5,
  kLimits = 6,
  kStatus = 7,
  kCgroup = 8,
  kWorkingDirectory = 9,
  kRoot = 10,
  kAuxv = 11,
};

struct Record {
  Kind kind;
  std::int32_t number;
  std::uint64_t address;
  std::uint32_t size;  // of the bytes that follow, without the padding
  std::uint32_t reserved;
};
static_assert(sizeof(Record) == 24);

// What a socket says of itself.
struct Socket {
  std::int32_t fd;
  std::int32_t domain;
  std::int32_t type;
  std::int32_t accepts;    // SO_ACCEPTCONN
  std::int32_t connected;  // it has a peer
  std::int32_t tcp_state;  // -1: not known
  std::int32_t receive_queue;
  std::int32_t send_queue;
  std::uint32_t local_size;
  std::uint32_t remote_size;
  unsigned char local[128];  // sockaddr_storage
  unsigned char remote[128];
};
static_assert(sizeof(Socket) == 296);

}  // namespace defib::postmortem::raw
