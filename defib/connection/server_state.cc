#include "defib/connection/server_state.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>

namespace defib::connection {
namespace {

recovery::BackoffOptions probe_pauses(const GateOptions& options) {
  recovery::BackoffOptions backoff;
  backoff.base = options.probe_first;
  backoff.cap = options.probe_max;
  backoff.reset_after = options.stable_after;
  return backoff;
}

}  // namespace

Gate::Gate(GateOptions options, const os::Clock& clock, std::uint64_t seed)
    : options_(options),
      clock_(&clock),
      backoff_(probe_pauses(options), os::Random(seed)),
      closed_since_ns_(clock.mono_ns()) {}

Result<> Gate::allow() const {
  if (state() == State::kClosed) return {};
  const std::lock_guard lock(mutex_);
  const std::int64_t left = std::max<std::int64_t>(0, next_probe_ns_ - clock_->mono_ns());
  Error error = Error(Code::kBreakerOpen,
                      fmt::format("the server is known to be down ({} failures in a row); it is "
                                  "probed again in {}",
                                  failures_, os::format_duration(os::Duration(left))))
                    .with("class", "NC")
                    .with("phase", "connect")
                    .with("transient", "yes")
                    .with("retry_in_ms", left / 1'000'000);
  if (last_) error = std::move(error).because(*last_);
  return error;
}

bool Gate::may_connect(int parallel, os::Duration& retry_in) {
  const std::lock_guard lock(mutex_);
  retry_in = options_.probe_max;
  if (state_ == State::kOpen) {
    const std::int64_t now = clock_->mono_ns();
    if (connecting_ > 0) return false;
    if (now < next_probe_ns_) {
      retry_in = os::Duration(next_probe_ns_ - now);
      return false;
    }
    ++probes_;
  } else {
    const int limit = slow_start_ == 0 ? parallel : std::min(parallel, slow_start_);
    if (connecting_ >= limit) return false;
  }
  ++connecting_;
  return true;
}

void Gate::connected() {
  {
    const std::lock_guard lock(mutex_);
    --connecting_;
    failures_ = 0;
    timeouts_ = 0;
    if (state_ == State::kOpen) {
      close_it();
    } else if (slow_start_ != 0) {
      slow_start_ *= 2;
      if (slow_start_ > 1024) slow_start_ = 0;
    }
  }
  closed_.notify_all();
}

void Gate::not_tried() {
  const std::lock_guard lock(mutex_);
  --connecting_;
}

void Gate::open_it(const Error& error) {
  last_ = error;
  const std::int64_t now = clock_->mono_ns();
  if (state_ == State::kClosed) {
    ++opened_;
    backoff_.succeeded_for(os::Duration(now - closed_since_ns_));
  }
  state_ = State::kOpen;
  next_probe_ns_ = now + backoff_.next().count();
}

void Gate::close_it() {
  state_ = State::kClosed;
  suspects_sessions_ = false;
  closed_since_ns_ = clock_->mono_ns();
  slow_start_ = 1;
}

// Connects that nobody answered opened it: one that was answered closes it. After statements that
// timed out only one that is answered, too, does.
void Gate::connect_refused() {
  {
    const std::lock_guard lock(mutex_);
    --connecting_;
    if (suspects_sessions_) {
      next_probe_ns_ = clock_->mono_ns() + backoff_.next().count();
      return;
    }
    failures_ = 0;
    if (state_ == State::kOpen) close_it();
  }
  closed_.notify_all();
}

void Gate::connect_failed(const Error& error) {
  const std::lock_guard lock(mutex_);
  --connecting_;
  last_ = error;
  ++failures_;
  if (state_ == State::kOpen || failures_ >= options_.failures) open_it(error);
}

void Gate::statement_timed_out(const Error& error) {
  if (timeouts_.fetch_add(1) + 1 < options_.failures) return;
  const std::lock_guard lock(mutex_);
  suspects_sessions_ = true;
  if (state_ == State::kOpen) return;
  failures_ = timeouts_.load();
  open_it(error);
}

bool Gate::wait_until_closed(Deadline deadline) {
  std::unique_lock lock(mutex_);
  const auto is_closed = [&] { return state_.load() == State::kClosed; };
  if (deadline.is_never()) {
    closed_.wait(lock, is_closed);
    return true;
  }
  return closed_.wait_for(lock, std::max(os::Duration(0), deadline.remaining()), is_closed);
}

std::optional<Error> Gate::last_error() const {
  const std::lock_guard lock(mutex_);
  return last_;
}

void RetryBudget::request() {
  std::int64_t now = tokens_.load(std::memory_order_relaxed);
  if (now >= reserve_) return;
  tokens_.fetch_add(kPerRequest, std::memory_order_relaxed);
}

bool RetryBudget::take() {
  std::int64_t now = tokens_.load(std::memory_order_relaxed);
  while (now >= kToken) {
    if (tokens_.compare_exchange_weak(now, now - kToken, std::memory_order_relaxed)) return true;
  }
  return false;
}

std::shared_ptr<ServerState> server_state(const std::string& name, GateOptions options,
                                          const os::Clock& clock) {
  struct All {
    std::mutex mutex;
    std::map<std::string, std::weak_ptr<ServerState>> by_name;  // guarded by mutex
  };
  static All& all = *new All;  // never destroyed: pools may outlive main()
  const std::lock_guard lock(all.mutex);
  std::erase_if(all.by_name, [](const auto& entry) { return entry.second.expired(); });
  if (auto known = all.by_name[name].lock()) return known;
  auto made = std::make_shared<ServerState>(options, clock, os::random_seed());
  all.by_name[name] = made;
  return made;
}

}  // namespace defib::connection
