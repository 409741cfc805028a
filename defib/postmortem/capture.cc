#include "defib/postmortem/capture.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/postmortem/crash_bound.h"
#include "defib/postmortem/raw_copy_sigsafe.h"
#include "defib/postmortem/raw_decode.h"

namespace defib::postmortem {
namespace {

// A small file of /proc; empty where it cannot be read.
std::string read_task(pid_t pid, pid_t tid, std::string_view name) {
  auto text = os::read_file(os::real_files(), fmt::format("/proc/{}/task/{}/{}", pid, tid, name));
  return text ? std::move(*text) : std::string();
}

std::vector<pid_t> list_threads(pid_t pid) {
  std::vector<pid_t> tids;
  const auto names = os::real_files().list(fmt::format("/proc/{}/task", pid));
  if (!names) return tids;
  for (const std::string& name : *names) {
    pid_t tid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), tid).ec == std::errc()) {
      tids.push_back(tid);
    }
    if (tids.size() >= raw::kMaxThreads) break;
  }
  return tids;
}

struct ThreadSample {
  char state = '?';
  std::int64_t busy_ns = 0;  // ran, or waited for a processor
};

ThreadSample sample_thread(pid_t pid, pid_t tid) {
  ThreadSample sample;
  const std::string stat = read_task(pid, tid, "stat");
  if (const std::size_t close = stat.rfind(')'); close != std::string::npos) {
    if (close + 2 < stat.size()) sample.state = stat[close + 2];
  }
  // "time on processor, time runnable but waiting, slices", in nanoseconds.
  const std::string times = read_task(pid, tid, "schedstat");
  std::int64_t running = 0;
  std::int64_t waiting = 0;
  const char* end = times.data() + times.size();
  const auto [space, error] = std::from_chars(times.data(), end, running);
  if (error == std::errc() && space != end) std::from_chars(space + 1, end, waiting);
  sample.busy_ns = running + waiting;
  return sample;
}

using BusyShares = std::map<pid_t, std::pair<char, double>>;

BusyShares sample_threads(pid_t pid, std::chrono::milliseconds window) {
  BusyShares shares;
  if (window.count() == 0) return shares;
  const os::Clock& clock = os::real_clock();
  std::map<pid_t, ThreadSample> first;
  for (const pid_t tid : list_threads(pid)) first[tid] = sample_thread(pid, tid);
  const std::int64_t started = clock.mono_ns();
  clock.sleep_for(window);
  const auto elapsed = static_cast<double>(clock.mono_ns() - started);
  for (const auto& [tid, before] : first) {
    const ThreadSample after = sample_thread(pid, tid);
    const double share = static_cast<double>(after.busy_ns - before.busy_ns) / elapsed;
    shares[tid] = {after.state, std::clamp(share, 0.0, 1.0)};
  }
  return shares;
}

// A raw snapshot in the memory of this program.
class OwnBuffer {
 public:
  OwnBuffer() : failed_(buffer_.open()) {}
  ~OwnBuffer() { buffer_.close(true); }
  OwnBuffer(const OwnBuffer&) = delete;
  OwnBuffer& operator=(const OwnBuffer&) = delete;
  Result<> ready() const {
    if (failed_ == 0) return {};
    return Error(Code::kCaptureFailed, "there is no memory for the capture")
        .because(os::system_error("memfd_create", {}, -failed_));
  }
  raw::Buffer& operator*() { return buffer_; }
  std::string_view bytes() const { return {buffer_.bytes(), buffer_.size()}; }

 private:
  raw::Buffer buffer_;
  int failed_;
};

raw::Capture wanted(pid_t pid, const CaptureOptions& options) {
  raw::Capture capture;
  capture.pid = pid;
  capture.stop_deadline_ns =
      os::real_clock().mono_ns() + std::chrono::nanoseconds(options.stop_timeout).count();
  capture.copy.stack_bytes = options.stack_bytes;
  capture.copy.crashed_stack_bytes = options.crashed_stack_bytes;
  return capture;
}

}  // namespace

Result<Snapshot> captured_crash(std::string_view raw, const CrashPage& page, ProcessFacts* facts) {
  Snapshot snapshot = snapshot_from_page(page);
  if (facts != nullptr) {
    facts->source = "crash";
    decode_facts(raw, *facts);
    if (facts->code.empty()) {
      facts->gaps.emplace_back("code: there is none at the program counter");
    }
  }
  auto decoded = decode_snapshot(raw, RawFiles::kTake, snapshot);
  if (facts != nullptr) {
    facts->pid = snapshot.pid;
    facts->maps = snapshot.maps_text;
  }
  if (decoded) return snapshot;
  return std::move(decoded.error())
      .with("signal", snapshot.signal.signal)
      .with("fault_address", fmt::format("{:#x}", snapshot.signal.fault_address))
      .with("pc", fmt::format("{:#x}", page.registers[kCrashPcRegister]));
}

Result<Snapshot> capture_crash(pid_t pid, CrashPage& page, const CaptureOptions& options,
                               ProcessFacts* facts) {
  if (page.state.load(std::memory_order_acquire) == static_cast<std::uint32_t>(CrashState::kNone)) {
    return Error(Code::kCaptureFailed, fmt::format("process {} has not reported a crash", pid))
        .with("pid", pid);
  }
  OwnBuffer buffer;
  if (auto ready = buffer.ready(); !ready) {
    release_crashed(page, os::real_clock().mono_ns());
    return ready.error();
  }
  raw::Capture capture = wanted(pid, options);
  bound_by_page(page, facts != nullptr, capture);
  raw::capture(*buffer, capture);
  return captured_crash(buffer.bytes(), page, facts);
}

Result<Snapshot> capture_live(pid_t pid, const CaptureOptions& options) {
  const BusyShares shares = sample_threads(pid, options.sample_window);
  OwnBuffer buffer;
  DEFIB_TRY(buffer.ready());
  raw::capture(*buffer, wanted(pid, options));
  Snapshot snapshot;
  DEFIB_TRY(decode_snapshot(buffer.bytes(), RawFiles::kTake, snapshot));
  for (ThreadSnapshot& thread : snapshot.threads) {
    const auto share = shares.find(thread.tid);
    if (share == shares.end()) continue;
    thread.state = share->second.first;
    thread.busy_share = share->second.second;
  }
  std::ranges::sort(snapshot.threads, {}, &ThreadSnapshot::tid);
  return snapshot;
}

}  // namespace defib::postmortem
