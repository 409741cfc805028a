#include "defib/daemon/bundler.h"

#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "defib/obs/log.h"
#include "defib/os/files.h"

namespace defib::daemon {
namespace {

constexpr std::string_view kComponent = "bundle";
constexpr const char* kProgram = "defib-bundle";

// A file in memory, at its beginning.
os::Fd file_of(const BundleRequest& request) {
  const std::string text = to_json(request).dump();
  os::Fd fd(memfd_create("defib-bundle", MFD_CLOEXEC));
  const bool written = fd.valid() && ::write(fd.get(), text.data(), text.size()) ==
                                         static_cast<ssize_t>(text.size());
  return written && ::lseek(fd.get(), 0, SEEK_SET) == 0 ? std::move(fd) : os::Fd();
}

}  // namespace

Bundler::Bundler(os::EventLoop& loop, std::string state_dir, std::string machine_samples, Done done)
    : loop_(loop),
      state_dir_(std::move(state_dir)),
      machine_samples_(std::move(machine_samples)),
      done_(std::move(done)) {
  for (Slot& slot : slots_) slot.helper = std::make_unique<HelperProcess>(loop_);
}

Bundler::~Bundler() {
  for (auto* timer : {&later_timer_, &start_timer_}) {
    if (*timer != 0) loop_.cancel(*timer);
  }
  for (Slot& slot : slots_) {
    if (slot.timer != 0) loop_.cancel(slot.timer);
  }
  done_ = nullptr;
  for (Slot& slot : slots_) {
    if (slot.helper->running() || waiting_.empty()) continue;
    start(slot, waiting_.front());
    if (slot.timer != 0) loop_.cancel(slot.timer);
    waiting_.pop_front();
  }
  std::erase_if(waiting_, [](const Job& one) { return one.work == Work::kNote; });
  if (!waiting_.empty()) {
    obs::log(obs::Level::kWarning, kComponent, "failures have no bundle: the supervisor ends",
             {{"failures", waiting_.size()}});
  }
}

// 0: this one is not bundled.
int Bundler::next_number(const IncidentNews& news) {
  Incident& incident = incidents_[news.incident];
  // A warning may be the first; behind that, ends of processes have the places.
  if (news.detected && incident.failures > 0) return 0;
  // A process that hung was read while it did; its end adds nothing.
  if (incident.captured && !news.detected && news.generation == incident.generation) return 0;
  os::Files& files = os::real_files();
  const std::string base = fmt::format("{}/incidents/{}.bundle/", state_dir_, news.incident);
  // A supervisor before this one may have had some made.
  while (incident.failures < kMaxBundledFailures &&
         files.exists(base + std::to_string(incident.failures + 1))) {
    ++incident.failures;
  }
  if (incident.failures >= kMaxBundledFailures) return 0;
  incident.generation = news.generation;
  incident.captured = news.hangs && news.captured;
  return ++incident.failures;
}

void Bundler::hear(const IncidentNews& news, const ServiceConfig& config, pid_t pid,
                   std::uint64_t generation) {
  using What = IncidentNews::What;
  if (news.what == What::kClosed) {
    incidents_.erase(news.incident);
    return;
  }
  if (news.what != What::kFailed || news.again || news.incident.empty() || rules_.max_count == 0) {
    return;
  }
  const int number = next_number(news);
  if (number == 0) return;
  BundleRequest request = request_of(config);
  request.incident = news.incident;
  request.failure = number;
  request.cause = news.cause;
  request.live = news.detected || news.hangs;
  request.pid = request.live && news.pid == 0 ? pid : news.pid;
  request.generation = request.live && news.generation == 0 ? generation : news.generation;
  request.failed_mono_ns =
      news.failed_mono_ns != 0 && !news.detected ? news.failed_mono_ns : loop_.clock().mono_ns();
  request.report = news.report;
  if (news.captured && news.report.empty()) {
    request.report = fmt::format("{}/capture/{}-{}.json", request.service_dir(),
                                 news.hangs ? "hang" : "crash", request.generation);
  }
  if (!config.spec.evidence.empty() && !request.live) {
    request.evidence =
        fmt::format("{}/capture/evidence-{}.txt", request.service_dir(), request.generation);
  }
  push({std::move(request), Work::kCollect});
}

BundleRequest Bundler::request_of(const ServiceConfig& config) const {
  BundleRequest request;
  request.state_dir = state_dir_;
  request.service = config.spec.name;
  request.command = config.spec.argv;
  request.environment = config.spec.env;
  request.clear_environment = config.spec.clear_environment;
  request.machine_samples = machine_samples_;
  request.supervisor = ::getpid();
  request.rules = rules_;
  return request;
}

void Bundler::good(const ServiceConfig& config, pid_t pid, std::uint64_t generation, bool live) {
  // Nobody would compare anything with it.
  if (rules_.max_count == 0) return;
  BundleRequest request = request_of(config);
  request.pid = pid;
  request.generation = generation;
  request.live = live;
  push({std::move(request), Work::kNote});
}

void Bundler::push(Job job) {
  const auto is_note = [](const Job& one) { return one.work == Work::kNote; };
  const bool note = is_note(job);
  const auto first_note = std::ranges::find_if(waiting_, is_note);
  // A run that is not noted now is noted when it is good the next time.
  if (waiting_.size() >= kMaxWaiting && note) return;
  if (waiting_.size() >= kMaxWaiting && first_note != waiting_.end()) {
    waiting_.pop_back();
  } else if (waiting_.size() >= kMaxWaiting) {
    ++refused_;
    obs::log(obs::Level::kWarning, kComponent, "a failure has no bundle: too many wait",
             {{"incident", job.request.incident}, {"service", job.request.service}});
    return;
  }
  // Failures come first.
  waiting_.insert(note ? waiting_.end() : std::ranges::find_if(waiting_, is_note), std::move(job));
  // After what the loop is doing now, which may be a restart.
  if (start_timer_ != 0) return;
  start_timer_ = loop_.run_after(os::Duration(0), [this] {
    start_timer_ = 0;
    start_more();
  });
}

void Bundler::start_more() {
  for (Slot& slot : slots_) {
    while (!slot.helper->running() && !waiting_.empty()) {
      const Job job = std::move(waiting_.front());
      waiting_.pop_front();
      if (start(slot, job)) break;
    }
  }
}

bool Bundler::start(Slot& slot, const Job& job) {
  const os::Fd request = file_of(job.request);
  HelperProcess::Options options;
  const char* const verb = job.work == Work::kCollect    ? "collect"
                           : job.work == Work::kComplete ? "complete"
                                                         : "note";
  options.argv = {kProgram, verb};
  options.fds = {{request.get(), kBundleRequestFd}};
  const auto ended = [this, &slot, job](const os::ExitStatus& status, const std::string& words) {
    if (slot.timer != 0) loop_.cancel(slot.timer);
    slot.timer = 0;
    Result<> made;
    if (!status.success()) {
      made = Error(Code::kUnavailable,
                   fmt::format("the collector ended with {}{}{}", status.to_string(),
                               words.empty() ? "" : ": ", words));
      obs::log(obs::Level::kWarning, kComponent,
               job.work == Work::kNote ? "a good run is not noted" : "a bundle is not whole",
               {{"incident", job.request.incident},
                {"service", job.request.service},
                {"error", made.error()}});
    }
    if (job.work == Work::kCollect) {
      if (made) complete_later(job.request);
      if (done_) done_(job.request, made);
    }
    start_more();
  };
  if (!request.valid()) return false;
  if (const auto started = slot.helper->start(options, ended); !started) {
    obs::log(obs::Level::kWarning, kComponent,
             job.work == Work::kNote ? "a good run is not noted" : "a failure has no bundle",
             {{"incident", job.request.incident}, {"error", started.error()}});
    return false;
  }
  slot.timer = loop_.run_after(kTimeout, [this, &slot, job] {
    slot.timer = 0;
    slot.helper->end();
    obs::log(obs::Level::kWarning, kComponent, "a collector took too long and was killed",
             {{"incident", job.request.incident}, {"service", job.request.service}});
    start_more();
  });
  return true;
}

void Bundler::complete_later(const BundleRequest& request) {
  if (later_.size() >= kMaxWaiting) return;  // the export does it
  const std::int64_t due = std::max(request.failed_mono_ns + kBundleAfter.count(),
                                    later_.empty() ? 0 : later_.back().due_mono_ns);
  later_.push_back({due, {request, Work::kComplete}});
  arm();
}

void Bundler::arm() {
  if (later_timer_ != 0 || later_.empty()) return;
  later_timer_ = loop_.run_at(later_.front().due_mono_ns, [this] {
    later_timer_ = 0;
    while (!later_.empty() && later_.front().due_mono_ns <= loop_.clock().mono_ns()) {
      Job job = std::move(later_.front().job);
      later_.pop_front();
      push(std::move(job));
    }
    arm();
  });
}

}  // namespace defib::daemon
