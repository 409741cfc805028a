// How a Session becomes faulted, and what becomes known of it.

#include <fmt/format.h>
#include <linux/futex.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "defib/base/visible_text.h"
#include "defib/call/session.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/wire/json.h"

namespace defib::call {
namespace {

// How long to wait for the kernel to tell how a worker ended; tearing down 4 GB takes 250 ms.
constexpr std::chrono::seconds kEndWait{5};
constexpr std::uint64_t kMaxStatm = 4096;
// With less room than this, a request for memory was probably refused.
constexpr std::uint64_t kLargeBlock = 4 << 20;

bool is_in(const wire::Json& thread, std::string_view file) {
  return std::ranges::any_of(thread["frames"].items(), [&](const wire::Json& frame) {
    return frame["module"].as_string().ends_with(file);
  });
}

// The crashed thread; where none crashed, the first that is in the plugin's code, or the first.
const wire::Json* shown_thread(const wire::Json& report, std::string_view plugin_file) {
  const auto& threads = report["threads"].items();
  auto chosen = std::ranges::find_if(
      threads, [](const wire::Json& thread) { return thread["crashed"].as_bool(); });
  if (chosen == threads.end()) {
    chosen = std::ranges::find_if(
        threads, [&](const wire::Json& thread) { return is_in(thread, plugin_file); });
  }
  if (chosen == threads.end()) chosen = threads.begin();
  return chosen == threads.end() ? nullptr : &*chosen;
}

std::string first_backtrace(const wire::Json& report, std::string_view plugin_file) {
  std::string text;
  const wire::Json* thread = shown_thread(report, plugin_file);
  if (thread == nullptr) return text;
  constexpr std::size_t kMostFrames = 64;
  std::size_t count = 0;
  for (const wire::Json& frame : (*thread)["frames"].items()) {
    if (count == kMostFrames) break;
    const std::string_view function = frame["function"].as_string();
    const std::string_view module = frame["module"].as_string();
    text += fmt::format("#{} ", count++);
    if (function.empty()) {
      text += module.empty() ? frame["pc"].as_string()
                             : fmt::format("{}+{}", module, frame["offset"].as_string());
    } else {
      text += function;
    }
    if (!frame["file"].as_string().empty()) {
      text += fmt::format(" at {}:{}", frame["file"].as_string(), frame["line"].as_int());
    } else if (!function.empty() && !module.empty()) {
      text += fmt::format(" in {}", module);
    }
    text += '\n';
  }
  return text;
}

// Why there is no backtrace, or no names in it; empty: it has all.
std::string what_is_missing(const wire::Json& report, std::string_view plugin_file) {
  const wire::Json* thread = shown_thread(report, plugin_file);
  if (thread == nullptr || (*thread)["frames"].items().empty()) {
    return "the postmortem has no frames";
  }
  const auto has_name = [](const wire::Json& frame) {
    return !frame["function"].as_string().empty();
  };
  if (std::ranges::all_of((*thread)["frames"].items(), has_name)) return {};
  std::string why;
  const auto add = [&why](std::string_view reason) {
    if (!reason.empty()) why += fmt::format("{}{}", why.empty() ? "" : "; ", reason);
  };
  add(report["capture_error"]["message"].as_string());
  for (const wire::Json& gap : report["gaps"].items()) add(gap.as_string());
  return why.empty() ? "some frames lie in code without symbols" : why;
}

// A fault in words for the incident's record.
wire::Json to_json(const Fault& fault) {
  wire::Json json = wire::Json::object({{"cause", incident_cause(fault.kind)},
                                        {"failure", to_string(fault.kind)},
                                        {"method", fault.method},
                                        {"arguments", fault.arguments}});
  if (fault.signal != 0) json.set("signal", os::signal_name(fault.signal));
  if (fault.signal != 0) json.set("fault_address", fmt::format("{:#x}", fault.address));
  if (!fault.place.empty()) json.set("place", fault.place);
  if (!fault.message.empty()) json.set("text", fault.message);
  return json;
}

}  // namespace

Error threw_error(const std::string& method, const std::string& arguments, const std::string& type,
                  const std::string& text) {
  const std::string shown_type = visible_text(type);
  const std::string shown = visible_text(text);
  return Error(Code::kMethodThrew, fmt::format("{} threw {}{}{}", method,
                                               shown_type.empty() ? "an exception" : shown_type,
                                               shown.empty() ? "" : ": ", shown))
      .with("method", method)
      .with("exception", shown_type)
      .with("text", shown)
      .with("arguments", arguments);
}

Error Session::pending_error() const {
  const std::lock_guard lock(mutex_);
  return *faulted_error_;
}

// The call or stream during which it happened gets the crash itself, all others that the client is
// faulted.
Error Session::as_seen_by(Error error, std::uint32_t request, std::uint32_t ring) const {
  if (error.code() != Code::kClientFaulted) return error;
  const std::lock_guard lock(mutex_);
  if (!fault_) return error;
  const bool own = (blamed_request_ != 0 && blamed_request_ == request) ||
                   (blamed_ring_ != kMaxRings && blamed_ring_ == ring);
  return own ? *crash_error_ : error;
}

// The first fault is final.
Error Session::fail(Fault fault, std::uint32_t ring) {
  // Of a crash the host's thread hears by the worker's eventfd; it need not be woken for it.
  const bool told = crashed_by_signal() && fault.kind != FaultKind::kProtocol;
  {
    const std::lock_guard lock(mutex_);
    if (fault_) return *faulted_error_;
    if (ring == kMaxRings) {
      name_running(fault);
    } else {
      name_stream(fault, ring);
    }
    fault.at_wall_ns = os::real_clock().wall_ns();
    crash_error_ = crash_error(fault);
    faulted_error_ = faulted_error(fault, *crash_error_);
    fault_ = std::move(fault);
  }
  faulted_.store(true, std::memory_order_release);
  wake_.fetch_add(1, std::memory_order_seq_cst);
  if (waiting_.load(std::memory_order_seq_cst) != 0) wake_all(wake_);
  count_crash();
  if (!told) {
    host_->post([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->after_fault();
    });
  }
  return pending_error();
}

// With mutex_ held: the method that runs, or else a stream.
void Session::name_running(Fault& fault) {
  if (const CallRequest* running = running_.exchange(nullptr, std::memory_order_acq_rel)) {
    blamed_request_ = request_;
    blamed_ring_ = running->ring;
    fault.method = running->name;
    fault.arguments = running->summary.text();
    return;
  }
  for (std::uint32_t i = 0; i < kMaxRings; ++i) {
    if (streams_[i].used && !streams_[i].closed) return name_stream(fault, i);
  }
}

// With mutex_ held.
void Session::name_stream(Fault& fault, std::uint32_t ring) {
  blamed_ring_ = ring;
  fault.method = streams_[ring].method;
  fault.arguments = streams_[ring].arguments;
}

// "libprices.so+0x1139" where the address lies in the plugin, as far as the worker told where that
// is; else the address.
std::string Session::place_of(std::uint64_t pc) const {
  const WorkerNotes& notes = mapping_->channel().notes;
  const std::uint64_t start = notes.plugin_start.load(std::memory_order_relaxed);
  const std::uint64_t end = notes.plugin_end.load(std::memory_order_relaxed);
  if (pc >= start && pc < end) return fmt::format("{}+{:#x}", file_, pc - start);
  return fmt::format("{:#x}", pc);
}

// A crash under a limit of memory: by an exception that nobody caught, or by a null pointer while
// there is no room for another block. The worker waits in its crash hook and can be looked at.
bool Session::is_out_of_memory(const CrashNote& note) const {
  if (note.message.find("std::bad_alloc") != std::string::npos) return true;
  if (note.kind != FaultKind::kNullDereference) return false;
  const std::uint64_t limit = mapping_->channel().notes.address_space.load();
  const pid_t pid = worker_pid();
  if (limit == 0 || pid < 0) return false;
  const auto text = os::read_file(os::real_files(), fmt::format("/proc/{}/statm", pid), kMaxStatm);
  if (!text) return false;
  std::uint64_t pages = 0;
  std::from_chars(text->data(), text->data() + text->size(), pages);
  return pages * kPage + kLargeBlock >= limit;
}

Error Session::fail_by_crash_page() {
  alignas(postmortem::CrashPage) unsigned char bytes[sizeof(postmortem::CrashPage)];
  std::memcpy(bytes, static_cast<const void*>(&mapping_->channel().crash), sizeof bytes);
  asm volatile("" : : : "memory");
  const auto note = read_crash(*reinterpret_cast<const postmortem::CrashPage*>(bytes));
  Fault fault;
  if (!note) {
    fault.message = "its crash page tells of no signal that is a crash";
    return fail(std::move(fault));
  }
  fault.kind = note->kind;
  fault.signal = note->signal;
  fault.address = note->address;
  fault.message = note->message;
  fault.place = place_of(note->pc);
  if (options_.isolation.memory_bytes != 0 && is_out_of_memory(*note)) {
    fault.kind = FaultKind::kOutOfMemory;
  }
  return fail(std::move(fault));
}

Error Session::fail_by_end() {
  const WorkerNotes& notes = mapping_->channel().notes;
  Fault fault;
  if (notes.phase.load(std::memory_order_acquire) == static_cast<std::uint32_t>(Phase::kExiting)) {
    fault.kind = FaultKind::kExit;
    fault.exit_code = notes.exit_code.load(std::memory_order_relaxed);
    return fail(std::move(fault));
  }
  std::optional<WorkerEnd> end;
  // What the kernel writes there, and nothing else, is the end of the worker's main thread.
  const std::uint32_t life = life_word(mapping_->channel()).load(std::memory_order_acquire);
  const bool told = life == (FUTEX_OWNER_DIED | FUTEX_WAITERS) || life == FUTEX_OWNER_DIED;
  if (!told && life != life_value_) {
    fault.message = "the lock that it holds for life was changed";
    return fail(std::move(fault));
  }
  {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, kEndWait, [this] { return end_.has_value() || fault_.has_value(); });
    end = end_;
  }
  // Its crash page may have been written in between.
  if (mapping_->channel().crash.state.load(std::memory_order_acquire) != 0) {
    return fail_by_crash_page();
  }
  if (end) {
    classify_end(fault, *end);
  } else {
    fault.message = "its main thread has ended, and the process has not";
  }
  return fail(std::move(fault));
}

void Session::on_ended(const WorkerEnd& end) {
  {
    const std::lock_guard lock(mutex_);
    end_ = end;
  }
  changed_.notify_all();
  wake_.fetch_add(1, std::memory_order_seq_cst);
  wake_all(wake_);
  // Somebody is told even where nobody calls.
  if (!faulted_.load(std::memory_order_acquire)) {
    [[maybe_unused]] const Error error =
        mapping_->channel().crash.state.load() != 0 ? fail_by_crash_page() : fail_by_end();
  }
}

void Session::on_crashed() {
  if (!crashed_by_signal()) return;
  // First of all: the worker waits for it.
  if (options_.backtrace) explain(true);
  [[maybe_unused]] const Error error = fail_by_crash_page();
  after_fault();
}

// On the host's thread: everything that takes longer than the caller may wait.
void Session::after_fault() {
  FaultKind kind;
  {
    const std::lock_guard lock(mutex_);
    kind = fault_->kind;
  }
  const bool lives = kind == FaultKind::kTimeLimit || kind == FaultKind::kHang;
  if (options_.backtrace && (lives || crashed_by_signal())) return explain(!lives);
  if (!crashed_by_signal()) host_->kill_worker(worker_);
  release_crashed();
  publish_report(Error(Code::kUnavailable, options_.backtrace ? "this kind of end leaves no stack"
                                                              : "backtraces are switched off"));
}

// On the host's thread.
void Session::explain(bool crashed) {
  if (std::exchange(explaining_, true)) {
    if (refused_) explained(crashed, *std::exchange(refused_, std::nullopt));
    return;
  }
  std::uint64_t worker = 0;
  {
    const std::lock_guard lock(mutex_);
    worker = worker_;
  }
  host_->explain(worker, crashed ? mapping_->fd() : -1, offsetof(Channel, crash),
                 [weak = weak_from_this(), crashed](Result<std::string> json) {
                   const auto self = weak.lock();
                   if (self != nullptr) self->explained(crashed, std::move(json));
                 });
}

// On the host's thread. What is refused at once is told before there is a fault that it could be
// published with; until then the worker is looked at, too.
void Session::explained(bool crashed, Result<std::string> json) {
  {
    const std::lock_guard lock(mutex_);
    if (!fault_) {
      refused_ = std::move(json);
      return;
    }
  }
  release_crashed();
  if (!crashed) host_->kill_worker(worker_);
  publish_report(std::move(json));
}

// A worker that nobody explains need not wait for it in its crash hook.
void Session::release_crashed() {
  auto& state = mapping_->channel().crash.state;
  std::uint32_t expected = static_cast<std::uint32_t>(postmortem::CrashState::kCrashed);
  if (state.compare_exchange_strong(expected,
                                    static_cast<std::uint32_t>(postmortem::CrashState::kGivenUp))) {
    wake_all(state);
  }
}

bool Session::crashed_by_signal() const {
  return mapping_->channel().crash.state.load(std::memory_order_acquire) != 0;
}

// On the host's thread, once.
void Session::publish_report(Result<std::string> json) {
  FaultReport report{{}, Error(Code::kInternal, ""), {}, {}, {}};
  {
    const std::lock_guard lock(mutex_);
    if (report_ || !fault_) return;
    report.fault = *fault_;
    report.error = *crash_error_;
  }
  if (json) {
    report.json = std::move(*json);
    const auto parsed = wire::Json::parse(report.json);
    if (parsed) report.backtrace = first_backtrace(*parsed, file_);
    report.no_backtrace_because = parsed ? what_is_missing(*parsed, file_)
                                         : "the postmortem is no JSON: " + parsed.error().to_line();
  } else {
    report.no_backtrace_because = json.error().to_line();
  }
  {
    const std::lock_guard lock(mutex_);
    report_ = report;
  }
  changed_.notify_all();
  record_incident(report);
  if (options_.on_fault) options_.on_fault(report);
}

// What cannot be recorded must not hurt the program: it is told through the log of the report.
void Session::record_incident(const FaultReport& report) const {
  if (options_.incidents == nullptr) return;
  wire::Json opened = to_json(report.fault);
  opened.set("plugin", file_);
  auto incident = options_.incidents->create(options_.incident_service, opened);
  if (!incident) return;
  wire::Json captured = wire::Json::object({{"backtrace", report.backtrace}});
  if (!report.no_backtrace_because.empty()) captured.set("missing", report.no_backtrace_because);
  if (!incident->append("captured", captured, recovery::Durability::kSoon)) return;
  wire::Json classified = to_json(report.fault);
  classified.set("error", wire::to_json(report.error));
  if (!incident->append("classified", classified, recovery::Durability::kSoon)) return;
  // The client is gone for good, and nothing but it: a new one is its user's to make.
  [[maybe_unused]] const auto closed = incident->close("stopped");
}

}  // namespace defib::call
