// Session: one client and its worker, without types. Client<Api> (client.h) is what people use.
//
// Invariants:
//   - The first fault is final: kept in one place, given to every pending and later call.
//   - No call and no reader waits beyond its deadline, and none misses the worker's end: they wait
//     at the reply, at the crash page, at the lock that the worker holds for life, and at a word
//     that this process changes when it faults the client.
//   - Nothing of the shared memory is used but copies that were checked.
//   - The mapping lives as long as its last user (session, stream, span).
// Thread rule: any thread; calls of one client run one after the other.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/call/api.h"
#include "defib/call/channel.h"
#include "defib/call/fault.h"
#include "defib/call/host.h"
#include "defib/call/isolation.h"
#include "defib/call/plugin.h"
#include "defib/call/ring.h"
#include "defib/obs/counters.h"
#include "defib/recovery/incident.h"

namespace defib::call {

using Milliseconds = std::chrono::milliseconds;

// What became known of a fault after a while.
struct FaultReport {
  Fault fault;
  Error error;                       // as the crashing call got it
  std::string backtrace;             // of the crashed or busy thread, a line a frame; empty: none
  std::string json;                  // the whole postmortem (docs/formats/crash.md); empty: none
  std::string no_backtrace_because;  // or no names in it; empty: there are
};

struct ClientOptions {
  // Of a call that does not bring its own. There is always one.
  Milliseconds call_timeout{30'000};
  // A call or stream whose worker shows no progress (call::progress(), records) for so long is
  // hung. 0: only the call's time limit ends it.
  Milliseconds hang_timeout{0};
  // From the fork to a loaded plugin.
  Milliseconds start_timeout{10'000};
  Isolation isolation = {};
  // The largest encoded arguments and results. Memory is used as far as it is needed.
  std::size_t max_request = 16 << 20;
  std::size_t max_reply = 16 << 20;
  // Streams that are open at the same time, at most 8, and the room of each (a power of two).
  std::uint32_t max_streams = 4;
  std::size_t stream_bytes = 4 << 20;
  // Have a crashed or hung worker explained; report() tells. It costs the worker's death some
  // milliseconds, and nobody waits for it.
  bool backtrace = true;
  // Runs on the host's thread when a fault and its backtrace are known. Must not block.
  std::function<void(const FaultReport&)> on_fault = {};
  // defib_call_native_crashes_total and the other metrics of docs/call.md; nullptr: not counted.
  obs::Registry* metrics = nullptr;
  // Every fault becomes an incident here, of the service `incident_service`; nullptr: none.
  recovery::IncidentLog* incidents = nullptr;
  std::string incident_service = "call";
  // nullptr: Host::shared().
  std::shared_ptr<Host> host = {};
};

// The shared memory. Unmapped with its last user.
class ChannelMapping {
 public:
  static Result<std::shared_ptr<ChannelMapping>> create(const Geometry& geometry);
  ~ChannelMapping();
  ChannelMapping(const ChannelMapping&) = delete;
  ChannelMapping& operator=(const ChannelMapping&) = delete;
  Channel& channel() const { return *channel_; }
  const Geometry& geometry() const { return geometry_; }
  const char* at(std::uint64_t offset) const {
    return reinterpret_cast<const char*>(channel_) + offset;
  }
  char* at(std::uint64_t offset) { return reinterpret_cast<char*>(channel_) + offset; }
  int fd() const { return fd_.get(); }

 private:
  ChannelMapping(Channel* channel, const Geometry& geometry, os::Fd fd)
      : channel_(channel), geometry_(geometry), fd_(std::move(fd)) {}
  Channel* channel_;
  Geometry geometry_;
  os::Fd fd_;
};

// Gives the table of a function of the program itself; its address means the same in a fork.
using TableFunction = const PluginTable* (*)();

// How a call's arguments are shown, made only when it fails.
struct Summary {
  const void* arguments = nullptr;
  void (*append)(std::string& out, const void* arguments) = nullptr;
  std::string text() const;
};

struct CallRequest {
  std::uint32_t method = 0;
  std::uint32_t ring = kMaxRings;  // of a stream
  std::string_view name;
  std::string_view arguments;  // encoded
  Summary summary;
  Milliseconds timeout{0};  // 0: the client's
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  // Errors: WorkerUnavailable, PluginUnloadable with the loader's words, NativeCrash and its kin
  // where loading crashed.
  static Result<std::shared_ptr<Session>> start(const std::string& plugin,
                                                const ClientOptions& options);
  // A function of the program itself, in a worker of a host that was made by Host::fork_here().
  // `name` is for people.
  static Result<std::shared_ptr<Session>> start_function(TableFunction function,
                                                         std::string_view name,
                                                         const ClientOptions& options);
  // In a fork of the calling process.
  static Result<std::shared_ptr<Session>> start_forked(const PluginTable& table,
                                                       std::string_view name,
                                                       const ClientOptions& options);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  const PluginDescription& description() const { return description_; }
  // The reply's bytes, given to `take` while they lie still; `take` returns false where they are
  // not what it expects. Errors: NativeCrash and its kin, ClientFaulted, MethodThrew, OutOfMemory,
  // InvalidArgument (the arguments are too large), Timeout (another call took the time).
  Result<> call(const CallRequest& request, const std::function<bool(std::string_view)>& take);

  // The number of the stream's ring.
  Result<std::uint32_t> open_stream(const CallRequest& request);
  // Its reader; `record_size` 0: of messages.
  RingReader ring_reader(std::uint32_t number, std::uint64_t record_size) const;
  // Waits for more than there is in the ring. False: the stream has ended. Errors as of a call,
  // also what the stream's function threw; Timeout (the client lives on).
  Result<bool> wait_for_records(RingReader& ring, std::uint32_t number, Milliseconds timeout);
  // The reader saw an impossible position, length or record.
  Error broken_stream(std::uint32_t number, std::string_view what);
  // Cancelled and, as soon as its function has returned, free for another stream.
  void close_stream(std::uint32_t number, RingReader& ring);

  std::optional<Error> fault() const;
  // Waits until the fault's report is there; nothing where there is no fault, or it takes longer.
  std::optional<FaultReport> report(Milliseconds timeout) const;
  pid_t worker_pid() const;
  const std::shared_ptr<ChannelMapping>& mapping() const { return mapping_; }

 private:
  struct StreamSlot {
    bool used = false;
    bool closed = false;  // its reader is gone; its function may still run
    std::string method;
    std::string arguments;
    // Of its reader alone: since when it waits without a record or a sign of progress; 0: it does
    // not.
    std::int64_t waits_since_ns = 0;
    std::uint64_t progress = 0;
  };
  enum class Waited : std::uint8_t {
    kDone,
    kLate,        // the time limit is over, and the worker works
    kHung,        // ... and it does not
    kStoodStill,  // for the hang_timeout
  };
  explicit Session(const ClientOptions& options) : options_(options) {}
  Result<> launch(const std::string& plugin, TableFunction function, const PluginTable* forked);
  Result<std::uint64_t> fork_here(const PluginTable& table, WorkerEvents events);
  Result<> wait_until_ready(const CallRequest& loading);
  Result<> call_locked(const CallRequest& request, Milliseconds timeout,
                       const std::function<bool(std::string_view)>& take);
  Result<Waited> wait_for_reply(std::uint32_t last, Milliseconds timeout);
  void end_running();
  Result<> take_reply(const CallRequest& request, std::uint32_t number,
                      const std::function<bool(std::string_view)>& take);
  Result<> refused(const CallRequest& request, const ReplyHeader& header, std::string_view bytes);
  // True when `done()`; false at the deadline. An error where the client is faulted meanwhile.
  template <typename Done>
  Result<bool> wait(std::atomic<std::uint32_t>& word, std::uint32_t value, std::int64_t deadline,
                    const Done& done);
  // Looks for a while before anybody sleeps. True: done.
  template <typename Done>
  bool spin(const Done& done) const;
  Result<> look_at_worker();
  Result<> stream_end(const RingReader& ring, std::uint32_t number);
  std::int64_t hung_at(std::uint32_t number);
  Error hung_stream(std::uint32_t number);
  bool ring_has_ended(std::uint32_t number) const;
  bool worker_is_busy() const;
  Error overran(const CallRequest& request, Milliseconds timeout, Waited waited);

  // session_fault.cc
  // `ring`: of the stream that showed it; else whatever runs is blamed.
  Error fail(Fault fault, std::uint32_t ring = kMaxRings);
  Error fail_by_crash_page();
  Error fail_by_end();
  bool is_out_of_memory(const CrashNote& note) const;
  Error pending_error() const;
  Error as_seen_by(Error error, std::uint32_t request, std::uint32_t ring) const;
  void name_running(Fault& fault);
  void name_stream(Fault& fault, std::uint32_t ring);
  std::string place_of(std::uint64_t pc) const;
  bool crashed_by_signal() const;
  void on_ended(const WorkerEnd& end);
  void on_crashed();
  void after_fault();
  void explain(bool crashed);
  void explained(bool crashed, Result<std::string> json);
  void release_crashed();
  void publish_report(Result<std::string> json);
  void record_incident(const FaultReport& report) const;
  void prepare_metrics();
  void count_crash();
  void count_call(std::uint32_t method, std::int64_t took_ns);

  ClientOptions options_;
  std::shared_ptr<Host> host_;
  std::shared_ptr<ChannelMapping> mapping_;
  os::Fd event_fd_;
  std::uint64_t worker_ = 0;
  std::string file_;  // the plugin's, without its directory
  PluginDescription description_;
  std::uint32_t life_value_ = 0;  // of the life word while the worker lives; 0: not ready yet
  // Both of the host's thread alone.
  bool explaining_ = false;
  std::optional<Result<std::string>> refused_;  // waits for the fault to be made

  mutable std::timed_mutex call_mutex_;  // one call at a time
  // Guarded by call_mutex_; also read by who has taken running_.
  std::uint32_t request_ = 1;  // the number of the latest

  // The present call. Who faults the client takes it away, with mutex_ held, and may use it until
  // the mutex is free again: a caller that finds it gone waits for that.
  std::atomic<const CallRequest*> running_{nullptr};

  std::atomic<std::uint32_t> wake_{0};  // changes when this process faults the client
  std::atomic<int> waiting_{0};         // threads that may sleep at wake_
  std::atomic<bool> faulted_{false};
  mutable std::mutex mutex_;  // guards what follows
  mutable std::condition_variable changed_;
  StreamSlot streams_[kMaxRings];
  std::optional<WorkerEnd> end_;
  std::optional<Fault> fault_;
  std::uint32_t blamed_request_ = 0;       // during which it happened; 0: none
  std::uint32_t blamed_ring_ = kMaxRings;  // where no call ran
  std::optional<Error> crash_error_, faulted_error_;
  std::optional<FaultReport> report_;

  std::vector<std::optional<obs::Histogram>> durations_;  // by method; guarded by call_mutex_
};

Error threw_error(const std::string& method, const std::string& arguments, const std::string& type,
                  const std::string& text);

}  // namespace defib::call
