// Channel: the memory that a host and one worker share.
//
//   offset  size   what
//        0    64   Geometry: sizes; written by the host before the worker exists
//       64    64   request: its number (host writes, worker waits) and its header
//      128    64   worker sleeps: 1 while the worker waits in the kernel
//      192    64   reply: its number (worker writes, host waits) and its header
//      256    64   host sleeps: 1 while a caller waits in the kernel
//      320    64   life: a robust lock that the worker's main thread holds (its end is told by the
//                  kernel before the memory is torn down)
//      384  1024   crash page (postmortem/crash_page.h)
//     1408   256   worker's notes: phase, exit code, where the plugin lies
//     1664  2048   ring headers, 256 bytes each
//     3712  4096   the rings' errors: {type, text} of what a stream threw, 512 bytes each
//     then, on pages of their own: request bytes, reply bytes, the rings' bytes
//
// Invariants:
//   - The mapping is a memfd sealed against shrinking and growing, so that reading it never faults.
//   - The host trusts no bit of it: it copies a header, checks the copy and uses the copy; sizes
//   and
//     offsets come from its own Geometry, never from the mapping. What the worker scribbles makes
//     the client faulted, at worst.
//   - Plain integers and atomics only.
// Thread rule: one caller and one reader a ring at a time on the host's side (Session and the
// readers see to it).

#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "defib/postmortem/crash_page.h"

namespace defib::call {

inline constexpr std::uint64_t kChannelMagic = 0x31304c4c4143464dULL;
inline constexpr std::uint32_t kChannelVersion = 1;
inline constexpr std::uint32_t kMaxRings = 8;
inline constexpr std::size_t kRingErrorBytes = 512;
inline constexpr std::size_t kPage = 4096;
// What a line of the processor's cache may be; adjacent ones are fetched in pairs.
inline constexpr std::size_t kLine = 64;

struct Geometry {
  std::uint64_t magic = kChannelMagic;
  std::uint32_t version = kChannelVersion;
  std::uint32_t rings = 0;          // at most kMaxRings
  std::uint64_t request_bytes = 0;  // each a multiple of kPage
  std::uint64_t reply_bytes = 0;
  std::uint64_t ring_bytes = 0;  // of one ring; a power of two
  friend bool operator==(const Geometry&, const Geometry&) = default;

  std::uint64_t request_offset() const { return 2 * kPage; }
  std::uint64_t reply_offset() const { return request_offset() + request_bytes; }
  std::uint64_t ring_offset(std::uint32_t ring) const {
    return reply_offset() + reply_bytes + ring * ring_bytes;
  }
  // In the unit of a ring's positions: records where they are of one size (0: they are not), a
  // power of two; else bytes.
  std::uint64_t ring_capacity(std::uint64_t record_size) const {
    return record_size != 0 ? std::bit_floor(ring_bytes / record_size) : ring_bytes;
  }
  std::uint64_t total_bytes() const { return ring_offset(rings); }
  bool valid() const {
    constexpr std::uint64_t kMost = std::uint64_t{1} << 32;
    return magic == kChannelMagic && version == kChannelVersion && rings <= kMaxRings &&
           request_bytes % kPage == 0 && reply_bytes % kPage == 0 && request_bytes >= kPage &&
           reply_bytes >= kPage && request_bytes <= kMost && reply_bytes <= kMost &&
           ring_bytes >= kPage && ring_bytes <= kMost && std::has_single_bit(ring_bytes);
  }
};

// What the worker is doing, as it says itself.
enum class Phase : std::uint32_t {
  kStarting = 0,
  kLimited,  // its limits are set; the plugin is being loaded
  kReady,    // waits for requests
  kCalling,  // a method runs
  kExiting,  // exit() runs: somebody in the worker called it
};

struct WorkerNotes {
  std::atomic<std::uint32_t> phase;
  std::atomic<std::int32_t> exit_code;      // of exit(), in phase kExiting
  std::atomic<std::uint64_t> progress;      // counted by the plugin (call::progress())
  std::atomic<std::uint64_t> plugin_start;  // addresses of the plugin's code
  std::atomic<std::uint64_t> plugin_end;
  std::atomic<std::uint64_t> address_space;  // that it may have, in bytes; 0: no limit
};

// A number and what belongs to it lie in one line of the cache, so that they travel as one.
struct RequestHeader {
  std::uint32_t method;  // its place in the Api's list
  std::uint64_t size;    // of the encoded arguments
  std::uint32_t ring;    // of a stream method
};

enum class ReplyStatus : std::uint32_t {
  kValue = 1,     // the encoded result; of a stream method nothing: it runs
  kThrew,         // {type, what()} of an exception
  kOutOfMemory,   // std::bad_alloc
  kBadArguments,  // the arguments could not be decoded
  kNoSuchMethod,
  kTooLarge,    // the encoded result does not fit; its size
  kReady,       // of number 1: a PluginDescription
  kUnloadable,  // of number 1: why not
};

struct ReplyHeader {
  std::uint32_t number;  // again, so that a reply that was written over shows
  std::uint32_t status;
  std::uint64_t size;
};

// Positions count bytes since the stream began, or records where they are of one size; both only
// grow. `head - tail` never exceeds the ring.
struct RingHeader {
  // Host writes.
  alignas(kLine) std::atomic<std::uint64_t> tail;  // read and given back
  std::atomic<std::uint32_t> reader_waits;         // 1: wake `published`
  std::atomic<std::uint32_t> cancelled;            // 1: the reader wants no more
  // Worker writes.
  alignas(kLine) std::atomic<std::uint64_t> head;       // published
  alignas(kLine) std::atomic<std::uint32_t> published;  // changes with each wake-up of the reader
  std::atomic<std::uint32_t> writer_waits;              // 1: wake `returned`
  std::atomic<std::uint32_t> state;                     // RingState
  std::atomic<std::uint32_t> error_size;                // of the ring's error
  // Host writes.
  alignas(kLine) std::atomic<std::uint32_t> returned;  // changes with each wake-up of the writer
};
static_assert(sizeof(RingHeader) == 256);

enum class RingState : std::uint32_t { kOpen = 0, kEnded = 1, kThrew = 2, kOutOfMemory = 3 };

struct Channel {
  Geometry geometry;
  alignas(kLine) std::atomic<std::uint32_t> request;
  RequestHeader request_header;
  alignas(kLine) std::atomic<std::uint32_t> worker_sleeps;
  alignas(kLine) std::atomic<std::uint32_t> reply;
  ReplyHeader reply_header;
  alignas(kLine) std::atomic<std::uint32_t> host_sleeps;
  alignas(kLine) unsigned char life[kLine];  // a pthread_mutex_t; its first word is the futex
  alignas(kLine) postmortem::CrashPage crash;
  alignas(kLine) unsigned char crash_rest[1024 - sizeof(postmortem::CrashPage)];
  alignas(kLine) WorkerNotes notes;
  alignas(kLine) unsigned char notes_rest[256 - 2 * kLine];
  alignas(kLine) RingHeader rings[kMaxRings];
  char ring_errors[kMaxRings][kRingErrorBytes];
};
static_assert(offsetof(Channel, request) == 64);
static_assert(offsetof(Channel, life) == 320);
static_assert(offsetof(Channel, crash) == 384);
static_assert(sizeof(Channel) <= 2 * kPage);

inline std::atomic<std::uint32_t>& life_word(Channel& channel) {
  return *reinterpret_cast<std::atomic<std::uint32_t>*>(channel.life);
}

// futex(2) on shared memory. A wait may end without a reason.
void wake_all(std::atomic<std::uint32_t>& word);
// False: `word` held another value, or the time was over.
bool wait_while(std::atomic<std::uint32_t>& word, std::uint32_t value, std::int64_t timeout_ns);

// A word to wait at, and the value that it is expected to hold.
struct Awaited {
  std::atomic<std::uint32_t>* word = nullptr;
  std::uint32_t value = 0;
};
// Until one of at most 8 words does not hold its value, somebody wakes one, or the monotonic
// deadline (0: none) has come (futex_waitv(2), Linux 5.16). May end without a reason.
void wait_any(const Awaited* words, std::size_t count, std::int64_t deadline_mono_ns);

// After it, every processor that runs a thread of a process that has registered has seen what we
// wrote before it, and we see what it wrote before (membarrier(2),
// MEMBARRIER_CMD_GLOBAL_EXPEDITED). So the side that publishes often needs no fence, and the side
// that goes to sleep pays for both.
void fence_for_all();
// Once in each process that relies on others' fence_for_all(). False where the kernel has none.
bool register_for_fences();

// How often to look before sleeping: 0 where the process had one processor when it first asked,
// since then the other side cannot run meanwhile.
std::uint32_t spins();
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace defib::call
