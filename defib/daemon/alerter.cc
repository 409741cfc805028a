#include "defib/daemon/alerter.h"

#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>

#include "defib/alert/book.h"
#include "defib/daemon/alert_events.h"
#include "defib/obs/log.h"
#include "defib/os/random.h"

namespace defib::daemon {
namespace {

using alert::Event;

constexpr std::string_view kComponent = "alert";
constexpr const char* kProgram = "defib-alert";
constexpr int kExtraFd = 3;
constexpr int kMemoryFd = 4;
// As in alert/send.h, which is the sender's.
constexpr int kExitDiskTrouble = 74;
constexpr int kExitBusy = 75;
// Equal events of a service become one within this time.
constexpr os::Duration kTogether = std::chrono::seconds(1);
constexpr std::size_t kMaxHomeless = 64;
constexpr std::size_t kMaxWaiting = 64;  // kinds of events of one service

recovery::BackoffOptions start_backoff() {
  recovery::BackoffOptions options;
  options.base = std::chrono::milliseconds(200);
  options.cap = std::chrono::minutes(1);
  options.floor = std::chrono::milliseconds(50);
  return options;
}

// A file in memory, at its beginning.
os::Fd file_of(const std::vector<Event>& events) {
  std::string text;
  for (const Event& event : events) text += alert::encode_line(event.to_json()) + "\n";
  os::Fd fd(memfd_create("defib-alerts", MFD_CLOEXEC));
  const bool written = fd.valid() && ::write(fd.get(), text.data(), text.size()) ==
                                         static_cast<ssize_t>(text.size());
  return written && ::lseek(fd.get(), 0, SEEK_SET) == 0 ? std::move(fd) : os::Fd();
}

}  // namespace

Alerter::Alerter(os::EventLoop& loop, os::Files& files, std::string state_dir)
    : loop_(loop),
      files_(files),
      state_dir_(std::move(state_dir)),
      queue_(files, alert::queue_path(state_dir_)),
      sender_(loop),
      backoff_(start_backoff(), os::Random(os::random_seed())) {}

Alerter::~Alerter() {
  *alive_ = false;
  flush();
  for (auto* timer : {&flush_timer_, &start_timer_, &relieve_timer_}) {
    if (*timer != 0) loop_.cancel(*timer);
  }
  // The last events leave although nobody will run the loop any more.
  if (on_ && start_posted_ && !sender_.running()) {
    start_posted_ = false;
    start_sender();
  }
}

Result<> Alerter::set_receivers(const std::vector<alert::Receiver>& receivers) {
  if (receivers.empty() && !on_) return {};
  const bool first = !on_;
  on_ = !receivers.empty();
  const auto saved = alert::save_receivers(files_, state_dir_, receivers);
  sender_.terminate();  // the next one knows the new ones
  // An earlier sender may have been killed with something under way.
  if (on_ && first && files_.exists(os::join_path(alert::alerts_dir(state_dir_), "book"))) {
    start_sender();
  } else {
    wake();
  }
  return saved;
}

void Alerter::tell(Event event) {
  if (!on_) return;
  ++told_;
  event.wall_ns = loop_.clock().wall_ns();
  if (event.id.empty()) event.id = os::random_hex(8);
  Service& service = services_[event.service];
  const std::int64_t now = loop_.clock().mono_ns();
  std::erase_if(service.recent,
                [&](const Recent& one) { return now - one.mono_ns >= kTogether.count(); });
  const bool again = std::ranges::any_of(service.recent, [&](const Recent& one) {
    return one.type == event.type && one.cause == event.cause;
  });
  if (!again) {
    // What waits is older, and the order within a service is kept.
    std::vector<Event> events = std::move(service.waiting);
    service.waiting.clear();
    service.recent.push_back({event.type, event.cause, now});
    events.push_back(std::move(event));
    return append(std::move(events));
  }
  const auto same = std::ranges::find_if(service.waiting,
                                         [&](const Event& one) { return is_more_of(one, event); });
  if (same != service.waiting.end()) {
    event.count += same->count;
    service.waiting.erase(same);
  } else if (service.waiting.size() == kMaxWaiting) {
    ++dropped_;
    return;
  }
  service.waiting.push_back(std::move(event));
  if (flush_timer_ == 0) {
    flush_timer_ = loop_.run_after(kTogether, [this] {
      flush_timer_ = 0;
      flush();
    });
  }
}

void Alerter::flush() {
  std::vector<Event> events;
  for (auto& [name, service] : services_) {
    std::ranges::move(service.waiting, std::back_inserter(events));
    service.waiting.clear();
  }
  std::erase_if(services_, [&](const auto& entry) {
    return entry.second.recent.empty() ||
           loop_.clock().mono_ns() - entry.second.recent.back().mono_ns >= kTogether.count();
  });
  if (!events.empty()) append(std::move(events));
}

void Alerter::append(std::vector<Event> events) {
  if (const auto appended = queue_.append(events); !appended) {
    obs::log(obs::Level::kError, kComponent, "an alert cannot be queued; it is sent directly",
             {{"error", appended.error()}});
    for (Event& event : events) keep_homeless(std::move(event));
  }
  // It sees the queue's change, unless it is about to end.
  if (sender_.running()) return relieve_sender();
  if (start_posted_) return;
  // After what the loop is doing now, which may be a restart.
  start_posted_ = true;
  loop_.post([this, alive = alive_] {
    if (!*alive || !start_posted_) return;
    start_posted_ = false;
    start_sender();
  });
}

void Alerter::keep_homeless(Event event) {
  if (homeless_.size() == kMaxHomeless) {
    if (handed_over_ == 0) {
      ++dropped_;
      return;
    }
    // A sender has the oldest.
    homeless_.erase(homeless_.begin());
    --handed_over_;
  }
  homeless_.push_back(std::move(event));
}

// The one that runs was handed what there was when it started: the next one gets the rest. Not at
// once, so that each has the time to do something.
void Alerter::relieve_sender() {
  if (homeless_.size() <= handed_over_ || relieve_timer_ != 0) return;
  relieve_timer_ = loop_.run_after(kTogether, [this] {
    relieve_timer_ = 0;
    if (homeless_.size() > handed_over_) sender_.terminate();
  });
}

void Alerter::wake() {
  if (!on_ || sender_.running()) return;
  const auto text = os::read_file(files_, os::join_path(alert::alerts_dir(state_dir_), "due"), 64);
  std::int64_t due_ns = 0;
  if (text) std::from_chars(text->data(), text->data() + text->size(), due_ns);
  if (queue_.has_records() || !homeless_.empty()) return start_sender();
  if (due_ns == 0) return;
  const std::int64_t wait_ns = due_ns - loop_.clock().wall_ns();
  // None is noted for later than in an hour: the clock was set back since.
  if (wait_ns > alert::Book::kMaxWindowNs) return start_sender();
  start_later(os::Duration(std::max<std::int64_t>(0, wait_ns)));
}

void Alerter::start_later(os::Duration delay) {
  if (start_timer_ != 0) loop_.cancel(start_timer_);
  start_timer_ = loop_.run_after(delay, [this] {
    start_timer_ = 0;
    start_sender();
  });
}

void Alerter::start_sender() {
  if (sender_.running()) return;
  if (start_timer_ != 0) loop_.cancel(start_timer_);
  start_timer_ = 0;
  HelperProcess::Options options;
  options.argv = {kProgram, "send", "--state-dir", state_dir_};
  os::Fd extra;
  if (!homeless_.empty()) extra = file_of(homeless_);
  handed_over_ = extra.valid() ? homeless_.size() : 0;
  if (extra.valid()) {
    options.argv.insert(options.argv.end(), {"--extra-fd", fmt::format("{}", kExtraFd)});
    options.fds.emplace_back(extra.get(), kExtraFd);
  }
  if (!book_memory_.valid()) book_memory_ = os::Fd(memfd_create("defib-alert-book", MFD_CLOEXEC));
  if (book_memory_.valid()) {
    options.argv.insert(options.argv.end(), {"--memory-fd", fmt::format("{}", kMemoryFd)});
    options.fds.emplace_back(book_memory_.get(), kMemoryFd);
  }
  const auto started =
      sender_.start(options, [this](const os::ExitStatus& status, const std::string& last_words) {
        sender_ended(status, last_words);
      });
  if (started) return;
  handed_over_ = 0;
  obs::log(obs::Level::kError, kComponent, "alerts cannot be sent now",
           {{"error", started.error()}});
  start_later(backoff_.next());
}

void Alerter::sender_ended(const os::ExitStatus& status, const std::string& last_words) {
  const bool busy = status.known && status.exited && status.code == kExitBusy;
  const bool disk_trouble = status.known && status.exited && status.code == kExitDiskTrouble;
  if (status.success()) {
    backoff_.reset();
    homeless_.erase(homeless_.begin(), homeless_.begin() + static_cast<std::ptrdiff_t>(std::min(
                                                               handed_over_, homeless_.size())));
    handed_over_ = 0;
    // Something came between its last look and its end, or is due later.
    return wake();
  }
  const bool more = homeless_.size() > handed_over_;
  if (disk_trouble) {
    obs::log(obs::Level::kWarning, kComponent,
             "alerts are sent, but the disk does not keep what was sent; free space on it",
             {{"state_dir", state_dir_}});
  } else {
    handed_over_ = 0;
  }
  // What came meanwhile waits no longer.
  if (more) return start_sender();
  if (!busy && !disk_trouble) {
    obs::log(obs::Level::kWarning, kComponent, "the sender of alerts failed",
             {{"status", status.to_string()}, {"error", last_words}});
  }
  // Another supervisor's sender may end without what is due later: look again, ever more seldom.
  start_later(backoff_.next());
}

}  // namespace defib::daemon
