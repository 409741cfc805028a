#include "defib/call/session.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <filesystem>

#include "defib/base/assert.h"
#include "defib/base/visible_text.h"
#include "defib/call/worker.h"
#include "defib/os/clock.h"

namespace defib::call {
namespace {

constexpr std::int64_t kNsInMs = 1'000'000;
constexpr std::uint32_t kCaptureTimeoutMs = 100;
constexpr std::uint32_t kReadyNumber = 1;
constexpr std::size_t kMaxDescription = 1 << 20;
constexpr std::string_view kLoading = "loading the plugin";

std::int64_t mono_ns() {
  return os::real_clock().mono_ns();
}

std::uint64_t pages(std::uint64_t bytes) {
  return std::max<std::uint64_t>(kPage, (bytes + kPage - 1) / kPage * kPage);
}

// What the shared memory says now, and nothing that it says later.
template <typename T>
T copy_of(const T& shared) {
  T copy;
  std::memcpy(&copy, &shared, sizeof copy);
  asm volatile("" : : : "memory");
  return copy;
}

Error no_record(RingHeader& header, Milliseconds timeout) {
  header.reader_waits.store(0, std::memory_order_relaxed);
  return Error(Code::kTimeout, fmt::format("no record came within {} ms", timeout.count()));
}

}  // namespace

std::string Summary::text() const {
  std::string out;
  if (append != nullptr) append(out, arguments);
  return visible_text(out);
}

Result<std::shared_ptr<ChannelMapping>> ChannelMapping::create(const Geometry& geometry) {
  os::Fd fd(memfd_create("defib-call", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return os::system_error("memfd_create");
  const std::uint64_t size = geometry.total_bytes();
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return os::system_error("ftruncate");
  if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return os::system_error("fcntl(F_ADD_SEALS)");
  }
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd.get(), 0);
  if (memory == MAP_FAILED) return os::system_error("mmap");
  auto* channel = static_cast<Channel*>(memory);
  channel->geometry = geometry;
  return std::shared_ptr<ChannelMapping>(new ChannelMapping(channel, geometry, std::move(fd)));
}

ChannelMapping::~ChannelMapping() {
  munmap(channel_, geometry_.total_bytes());
}

Result<std::shared_ptr<Session>> Session::start(const std::string& plugin,
                                                const ClientOptions& options) {
  std::shared_ptr<Session> session(new Session(options));
  session->file_ = std::filesystem::path(plugin).filename().string();
  DEFIB_TRY(session->launch(plugin, nullptr, nullptr));
  return session;
}

Result<std::shared_ptr<Session>> Session::start_function(TableFunction function,
                                                         std::string_view name,
                                                         const ClientOptions& options) {
  std::shared_ptr<Session> session(new Session(options));
  session->file_ = name;
  DEFIB_TRY(session->launch("", function, nullptr));
  return session;
}

Result<std::shared_ptr<Session>> Session::start_forked(const PluginTable& table,
                                                       std::string_view name,
                                                       const ClientOptions& options) {
  std::shared_ptr<Session> session(new Session(options));
  session->file_ = name;
  DEFIB_TRY(session->launch("", nullptr, &table));
  return session;
}

Result<> Session::launch(const std::string& plugin, TableFunction function,
                         const PluginTable* forked) {
  Geometry geometry;
  geometry.rings = std::min(options_.max_streams, kMaxRings);
  geometry.request_bytes = pages(options_.max_request);
  geometry.reply_bytes = pages(options_.max_reply);
  geometry.ring_bytes = std::bit_ceil(pages(options_.stream_bytes));
  if (!geometry.valid()) {
    return Error(Code::kInvalidArgument,
                 "the sizes of a client's requests, replies and streams are at most 4 GB each");
  }
  DEFIB_TRY_ASSIGN(mapping_, ChannelMapping::create(geometry));
  event_fd_ = os::Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_fd_.valid()) return os::system_error("eventfd");
  host_ = options_.host;
  if (host_ == nullptr) {
    DEFIB_TRY_ASSIGN(host_, forked != nullptr ? Host::watcher() : Host::shared());
  }
  std::error_code ignored;
  const std::string path =
      plugin.empty() ? plugin : std::filesystem::absolute(plugin, ignored).string();
  const std::string launch =
      encode(Launch{path, reinterpret_cast<std::uintptr_t>(function), options_.isolation});
  if (launch.size() > geometry.request_bytes) {
    return Error(Code::kInvalidArgument, "the isolation's list of paths is too long");
  }
  Channel& channel = mapping_->channel();
  std::memcpy(mapping_->at(geometry.request_offset()), launch.data(), launch.size());
  channel.request_header.size = launch.size();
  channel.request.store(kReadyNumber);
  // Whoever looks at the crashed worker, and be it for its size, lets it go when it has seen it.
  const bool is_looked_at = options_.backtrace || options_.isolation.memory_bytes != 0;
  channel.crash.capture_timeout_ms = is_looked_at ? kCaptureTimeoutMs : 0;
  prepare_metrics();
  WorkerEvents events;
  events.ended = [weak = weak_from_this()](const WorkerEnd& end) {
    if (const auto self = weak.lock()) self->on_ended(end);
  };
  events.crashed = [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->on_crashed();
  };
  const CallRequest loading{0, kMaxRings, kLoading, {}, {}, options_.start_timeout};
  running_.store(&loading, std::memory_order_release);
  {
    // Its events, which take the mutex, find its number.
    const std::lock_guard lock(mutex_);
    auto started_worker =
        forked == nullptr ? host_->fork_worker(mapping_->fd(), event_fd_.get(), std::move(events))
                          : fork_here(*forked, std::move(events));
    if (!started_worker) return started_worker.error();
    worker_ = *started_worker;
  }
  auto ready = wait_until_ready(loading);
  end_running();
  if (!ready) return as_seen_by(ready.error(), kReadyNumber, kMaxRings);
  return {};
}

Result<std::uint64_t> Session::fork_here(const PluginTable& table, WorkerEvents events) {
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) {
    return Error(Code::kWorkerUnavailable, "the program could not be forked")
        .because(os::system_error("fork"));
  }
  if (pid == 0) {
    // The calling thread waits for us: its end is that of the program.
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (getppid() != parent) _exit(0);
    _exit(worker_main(mapping_->fd(), event_fd_.get(), &table));
  }
  auto adopted = host_->adopt_child(pid, event_fd_.get(), std::move(events));
  if (!adopted) {
    // Nobody else would ever hear of it.
    kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  return adopted;
}

Result<> Session::wait_until_ready(const CallRequest& loading) {
  Channel& channel = mapping_->channel();
  const std::int64_t deadline = mono_ns() + loading.timeout.count() * kNsInMs;
  DEFIB_TRY_ASSIGN(const bool ready, wait(channel.reply, 0, deadline, [&] {
                     return channel.reply.load(std::memory_order_acquire) != 0;
                   }));
  if (!ready) {
    return overran(loading, loading.timeout, worker_is_busy() ? Waited::kLate : Waited::kHung);
  }
  DEFIB_TRY(take_reply(loading, kReadyNumber, [&](std::string_view bytes) {
    if (bytes.size() > kMaxDescription) return false;
    auto description = decode<PluginDescription>(bytes);
    if (description) description_ = std::move(*description);
    return description.has_value();
  }));
  // From now on the end of the worker's main thread is a change of this word that wakes us.
  auto& word = life_word(channel);
  std::uint32_t value = word.load();
  if (value == 0 || (value & FUTEX_OWNER_DIED) != 0) return fail_by_end();
  word.compare_exchange_strong(value, value | FUTEX_WAITERS);
  life_value_ = value | FUTEX_WAITERS;
  return {};
}

Session::~Session() {
  if (worker_ != 0) host_->forget_worker(worker_);
}

pid_t Session::worker_pid() const {
  return host_->pid_of(worker_);
}

std::optional<Error> Session::fault() const {
  if (!faulted_.load(std::memory_order_acquire)) return std::nullopt;
  const std::lock_guard lock(mutex_);
  return faulted_error_;
}

std::optional<FaultReport> Session::report(Milliseconds timeout) const {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return report_.has_value(); });
  return report_;
}

Result<> Session::call(const CallRequest& request,
                       const std::function<bool(std::string_view)>& take) {
  if (const auto fault = this->fault()) return *fault;
  const Milliseconds timeout =
      request.timeout.count() > 0 ? request.timeout : options_.call_timeout;
  std::unique_lock lock(call_mutex_, std::defer_lock);
  if (!lock.try_lock() && !lock.try_lock_for(timeout)) {
    return Error(Code::kTimeout,
                 fmt::format("{} was not started: another call of this client took all its {} ms",
                             request.name, timeout.count()))
        .suggest("use a client for each thread, or raise call_timeout");
  }
  if (const auto fault = this->fault()) return *fault;
  const Geometry& geometry = mapping_->geometry();
  if (request.arguments.size() > geometry.request_bytes) {
    return Error(Code::kInvalidArgument,
                 fmt::format("the arguments of {} take {} bytes, and a request holds {}",
                             request.name, request.arguments.size(), geometry.request_bytes))
        .suggest("send less at a time, or raise max_request");
  }
  return call_locked(request, timeout, take);
}

// With call_mutex_ held. Nothing on the way of a call that is answered soon reads a clock, takes a
// lock that somebody else may have, or allocates.
Result<> Session::call_locked(const CallRequest& request, Milliseconds timeout,
                              const std::function<bool(std::string_view)>& take) {
  Channel& channel = mapping_->channel();
  const std::int64_t started = options_.metrics == nullptr ? 0 : mono_ns();
  const std::uint32_t last = request_;
  // 0 and the number of the start are never used again.
  request_ = request_ == UINT32_MAX ? kReadyNumber + 1 : request_ + 1;
  running_.store(&request, std::memory_order_release);
  std::memcpy(mapping_->at(mapping_->geometry().request_offset()), request.arguments.data(),
              request.arguments.size());
  channel.request_header = {request.method, request.arguments.size(), request.ring};
  channel.request.store(request_, std::memory_order_seq_cst);
  if (channel.worker_sleeps.load(std::memory_order_seq_cst) != 0) wake_all(channel.request);

  const auto replied = [&] { return channel.reply.load(std::memory_order_acquire) != last; };
  Waited waited = Waited::kDone;
  Result<> outcome;
  if (!spin(replied)) {
    auto late = wait_for_reply(last, timeout);
    if (!late) outcome = late.error();
    if (late) waited = *late;
  }
  if (outcome) {
    outcome = waited == Waited::kDone ? take_reply(request, request_, take)
                                      : Result<>(overran(request, timeout, waited));
  }
  end_running();
  if (!outcome) return as_seen_by(outcome.error(), request_, kMaxRings);
  if (started != 0) count_call(request.method, mono_ns() - started);
  return outcome;
}

void Session::end_running() {
  if (running_.exchange(nullptr, std::memory_order_acq_rel) != nullptr) return;
  // It was taken by who faults the client, and is in use as long as the mutex is.
  const std::lock_guard lock(mutex_);
}

// With hang_timeout, looks at the worker's progress in between.
Result<Session::Waited> Session::wait_for_reply(std::uint32_t last, Milliseconds timeout) {
  Channel& channel = mapping_->channel();
  const auto progress = [&] { return channel.notes.progress.load(std::memory_order_relaxed); };
  const auto replied = [&] { return channel.reply.load(std::memory_order_acquire) != last; };
  const std::int64_t deadline = mono_ns() + timeout.count() * kNsInMs;
  const std::int64_t step = options_.hang_timeout.count() * kNsInMs;
  for (;;) {
    const std::uint64_t before = progress();
    const std::int64_t until = step == 0 ? deadline : std::min(deadline, mono_ns() + step);
    DEFIB_TRY_ASSIGN(const bool done, wait(channel.reply, last, until, replied));
    if (done) return Waited::kDone;
    const bool stands = progress() == before;
    if (until == deadline) return stands && !worker_is_busy() ? Waited::kHung : Waited::kLate;
    if (stands) return Waited::kStoodStill;
  }
}

template <typename Done>
bool Session::spin(const Done& done) const {
  const auto& crash_state = mapping_->channel().crash.state;
  const std::uint32_t limit = spins();
  for (std::uint32_t i = 0; i < limit; ++i) {
    if (done()) return true;
    if (crash_state.load(std::memory_order_relaxed) != 0) return false;
    relax();
  }
  return done();
}

template <typename Done>
Result<bool> Session::wait(std::atomic<std::uint32_t>& word, std::uint32_t value,
                           std::int64_t deadline, const Done& done) {
  Channel& channel = mapping_->channel();
  auto& crash_state = channel.crash.state;
  const bool for_reply = &word == &channel.reply;
  if (for_reply) channel.host_sleeps.store(1, std::memory_order_seq_cst);
  waiting_.fetch_add(1, std::memory_order_seq_cst);
  const auto outcome = [&]() -> Result<bool> {
    for (;;) {
      const std::uint32_t wake = wake_.load(std::memory_order_acquire);
      if (done()) return true;
      DEFIB_TRY(look_at_worker());
      if (mono_ns() >= deadline) return false;
      const Awaited words[] = {
          {&word, value}, {&crash_state, 0}, {&wake_, wake}, {&life_word(channel), life_value_}};
      wait_any(words, life_value_ == 0 ? 3 : 4, deadline);
    }
  }();
  waiting_.fetch_sub(1, std::memory_order_relaxed);
  if (for_reply) channel.host_sleeps.store(0, std::memory_order_relaxed);
  return outcome;
}

Result<> Session::look_at_worker() {
  if (faulted_.load(std::memory_order_acquire)) return pending_error();
  Channel& channel = mapping_->channel();
  if (channel.crash.state.load(std::memory_order_acquire) != 0) return fail_by_crash_page();
  const std::uint32_t life = life_word(channel).load(std::memory_order_acquire);
  if (life_value_ != 0 && life != life_value_) return fail_by_end();
  {
    const std::lock_guard lock(mutex_);
    if (!end_) return {};
  }
  return fail_by_end();
}

Result<> Session::take_reply(const CallRequest& request, std::uint32_t number,
                             const std::function<bool(std::string_view)>& take) {
  const Channel& channel = mapping_->channel();
  const Geometry& geometry = mapping_->geometry();
  const std::uint32_t word = channel.reply.load(std::memory_order_acquire);
  const auto header = copy_of(channel.reply_header);
  const auto broken = [&](std::string why) {
    Fault fault;
    fault.message = std::move(why);
    return fail(std::move(fault));
  };
  if (word != number || header.number != number) {
    return broken(fmt::format("the reply has the number {}, not {}", header.number, number));
  }
  const bool too_large = header.status == static_cast<std::uint32_t>(ReplyStatus::kTooLarge);
  if (header.size > geometry.reply_bytes && !too_large) {
    return broken(fmt::format("the reply is {} bytes long, of at most {}", header.size,
                              geometry.reply_bytes));
  }
  const std::string_view bytes(mapping_->at(geometry.reply_offset()),
                               std::min(header.size, geometry.reply_bytes));
  const auto expected = number == kReadyNumber ? ReplyStatus::kReady : ReplyStatus::kValue;
  if (header.status != static_cast<std::uint32_t>(expected)) return refused(request, header, bytes);
  if (!take(bytes)) return broken("the reply is not of the declared type");
  return {};
}

// A reply that is no value, of a worker that lives on.
Result<> Session::refused(const CallRequest& request, const ReplyHeader& header,
                          std::string_view bytes) {
  const std::string name(request.name);
  switch (static_cast<ReplyStatus>(header.status)) {
    case ReplyStatus::kThrew: {
      const auto thrown = decode<std::pair<std::string, std::string>>(std::string(bytes));
      if (!thrown) break;
      return threw_error(name, request.summary.text(), thrown->first, thrown->second);
    }
    case ReplyStatus::kOutOfMemory:
      return Error(Code::kNativeOutOfMemory, fmt::format("{} got no memory", name))
          .with("method", name)
          .with("memory_limit", static_cast<std::int64_t>(options_.isolation.memory_bytes))
          .with("arguments", request.summary.text());
    case ReplyStatus::kBadArguments:
      // The types agree, or there would be no client.
      return Error(Code::kInvalidArgument,
                   fmt::format(
                       "the plugin refuses the arguments of {}: a value is none of its type", name))
          .with("method", name)
          .with("arguments", request.summary.text())
          .suggest("look at texts that must be UTF-8, and at numbers of enumerations");
    case ReplyStatus::kNoSuchMethod:
      return Error(Code::kApiMismatch, fmt::format("the plugin has no method {}", name));
    case ReplyStatus::kTooLarge:
      return Error(Code::kLimitExceeded,
                   fmt::format("the result of {} takes {} bytes, and a reply holds {}", name,
                               header.size, mapping_->geometry().reply_bytes))
          .suggest("ask for less at a time, or raise max_reply");
    case ReplyStatus::kUnloadable:
      return Error(Code::kPluginUnloadable,
                   fmt::format("the plugin cannot be loaded: {}",
                               visible_text(std::string(bytes.substr(0, kMaxSummary * 4)))));
    default:
      break;
  }
  Fault fault;
  fault.message = fmt::format("the reply's status is {}", header.status);
  return fail(std::move(fault));
}

Error Session::overran(const CallRequest& request, Milliseconds timeout, Waited waited) {
  Fault fault;
  fault.kind = waited == Waited::kLate ? FaultKind::kTimeLimit : FaultKind::kHang;
  fault.method = request.name;
  fault.arguments = request.summary.text();
  const Milliseconds time = waited == Waited::kStoodStill ? options_.hang_timeout : timeout;
  fault.message = waited == Waited::kLate ? fmt::format("it did not end within {} ms", time.count())
                                          : fmt::format("no progress for {} ms", time.count());
  return fail(std::move(fault));
}

// Whether any of its threads runs or waits for a processor, by /proc/PID/task/TID/stat.
bool Session::worker_is_busy() const {
  const pid_t pid = worker_pid();
  if (pid < 0) return false;
  std::error_code failed;
  for (const auto& task :
       std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), failed)) {
    const os::Fd stat(open((task.path() / "stat").c_str(), O_RDONLY | O_CLOEXEC));
    char text[512] = {};
    if (!stat.valid() || read(stat.get(), text, sizeof text - 1) <= 0) continue;
    const char* after_name = strrchr(text, ')');
    if (after_name != nullptr && after_name[1] == ' ' && after_name[2] == 'R') return true;
  }
  return false;
}

Result<std::uint32_t> Session::open_stream(const CallRequest& request) {
  CallRequest with_ring = request;
  std::uint32_t number = kMaxRings;
  {
    const std::lock_guard lock(mutex_);
    for (std::uint32_t i = 0; i < mapping_->geometry().rings && number == kMaxRings; ++i) {
      if (streams_[i].used && streams_[i].closed && ring_has_ended(i)) streams_[i] = {};
      if (!streams_[i].used) number = i;
    }
    if (number == kMaxRings) {
      return Error(Code::kLimitExceeded, fmt::format("the client has {} open streams already",
                                                     mapping_->geometry().rings))
          .suggest("close a stream, or raise max_streams");
    }
    streams_[number] = {true, false, std::string(request.name), request.summary.text()};
    RingHeader& header = mapping_->channel().rings[number];
    // The function that wrote to it has returned: nobody else touches it now.
    header.tail.store(0);
    header.head.store(0);
    header.reader_waits.store(0);
    header.cancelled.store(0);
    header.writer_waits.store(0);
    header.state.store(static_cast<std::uint32_t>(RingState::kOpen));
    header.error_size.store(0);
  }
  with_ring.ring = number;
  if (auto opened = call(with_ring, [](std::string_view) { return true; }); !opened) {
    const std::lock_guard lock(mutex_);
    streams_[number] = {};
    return opened.error();
  }
  return number;
}

RingReader Session::ring_reader(std::uint32_t number, std::uint64_t record_size) const {
  const Geometry& geometry = mapping_->geometry();
  const char* bytes = mapping_->at(geometry.ring_offset(number));
  return {mapping_->channel().rings[number], reinterpret_cast<const std::byte*>(bytes),
          geometry.ring_capacity(record_size)};
}

bool Session::ring_has_ended(std::uint32_t number) const {
  return mapping_->channel().rings[number].state.load(std::memory_order_acquire) !=
         static_cast<std::uint32_t>(RingState::kOpen);
}

void Session::close_stream(std::uint32_t number, RingReader& ring) {
  ring.cancel();
  const std::lock_guard lock(mutex_);
  streams_[number].closed = true;
}

Result<bool> Session::wait_for_records(RingReader& ring, std::uint32_t number,
                                       Milliseconds timeout) {
  RingHeader& header = ring.header();
  const auto more = [&] { return !ring.look() || ring.ready() > 0; };
  spin([&] { return more() || ring.state() != RingState::kOpen; });
  if (ring.ready() > 0) return true;
  const std::int64_t deadline = mono_ns() + timeout.count() * kNsInMs;
  while (!more()) {
    // A worker that wakes us for nothing does not keep us here.
    const std::int64_t now = mono_ns();
    const std::int64_t hung = hung_at(number);
    if (now >= hung) return hung_stream(number);
    if (now >= deadline) return no_record(header, timeout);
    const std::uint32_t seen = header.published.load(std::memory_order_acquire);
    // State before position: what was published before the end is seen with the end.
    if (ring.state() != RingState::kOpen) {
      if (more()) break;
      DEFIB_TRY(stream_end(ring, number));
      return false;
    }
    ring.give_back();
    header.reader_waits.store(1, std::memory_order_seq_cst);
    fence_for_all();
    if (more()) break;
    auto waited = wait(header.published, seen, std::min(deadline, hung), [&] {
      return header.published.load(std::memory_order_acquire) != seen || more();
    });
    if (!waited) {
      // What was published before the crash is whole, and stays readable.
      if (more()) break;
      return as_seen_by(waited.error(), 0, number);
    }
  }
  streams_[number].waits_since_ns = 0;
  // Only where it was set: the writer reads this line of the cache with each record.
  if (header.reader_waits.load(std::memory_order_relaxed) != 0) header.reader_waits.store(0);
  if (!ring.look()) return broken_stream(number, "the position of its end is impossible");
  return true;
}

// When a stream that waits for a record is hung: the hang_timeout after it began to wait, or after
// its worker last told of progress.
std::int64_t Session::hung_at(std::uint32_t number) {
  if (options_.hang_timeout.count() == 0) return INT64_MAX;
  StreamSlot& slot = streams_[number];
  const std::uint64_t progress = mapping_->channel().notes.progress.load(std::memory_order_relaxed);
  if (slot.waits_since_ns == 0 || progress != slot.progress) {
    slot.progress = progress;
    slot.waits_since_ns = mono_ns();
  }
  return slot.waits_since_ns + options_.hang_timeout.count() * kNsInMs;
}

Error Session::hung_stream(std::uint32_t number) {
  Fault fault;
  fault.kind = FaultKind::kHang;
  fault.message = fmt::format("no record and no progress for {} ms", options_.hang_timeout.count());
  return as_seen_by(fail(std::move(fault), number), 0, number);
}

Result<> Session::stream_end(const RingReader& ring, std::uint32_t number) {
  std::string name, arguments;
  {
    const std::lock_guard lock(mutex_);
    name = streams_[number].method;
    arguments = streams_[number].arguments;
  }
  switch (ring.state()) {
    case RingState::kEnded:
      return {};
    case RingState::kOutOfMemory:
      return Error(Code::kNativeOutOfMemory, fmt::format("{} got no memory", name))
          .with("method", name)
          .with("arguments", arguments);
    case RingState::kThrew: {
      const std::size_t size = std::min<std::size_t>(
          ring.header().error_size.load(std::memory_order_acquire), kRingErrorBytes);
      const std::string text(mapping_->channel().ring_errors[number], size);
      const auto thrown = decode<std::pair<std::string, std::string>>(text);
      return threw_error(name, arguments, thrown ? thrown->first : "",
                         thrown ? thrown->second : "its text was too long to be kept");
    }
    default:
      return broken_stream(number, "its state is impossible");
  }
}

Error Session::broken_stream(std::uint32_t number, std::string_view what) {
  Fault fault;
  fault.message = fmt::format("a stream is broken: {}", what);
  return as_seen_by(fail(std::move(fault), number), 0, number);
}

}  // namespace defib::call
