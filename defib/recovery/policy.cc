#include "defib/recovery/policy.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::recovery {

Moment moment_now(const os::Clock& clock) {
  return {clock.boot_id(), clock.mono_ns(), clock.wall_ns()};
}

os::Duration age_of(const Moment& moment, const os::Clock& clock) {
  const std::int64_t mono = clock.mono_ns();
  if (moment.boot_id == clock.boot_id()) return os::Duration(mono - moment.mono_ns);
  // It happened before this boot began, so it is at least as old as the boot.
  return os::Duration(std::max(clock.wall_ns() - moment.wall_ns, mono));
}

os::Duration Backoff::next() {
  const int attempt = attempts_;
  if (attempts_ < std::numeric_limits<int>::max()) ++attempts_;
  int exponent = attempt;
  if (options_.first_immediate) {
    if (attempt == 0) return os::Duration::zero();
    exponent = attempt - 1;
  }
  // The power may be infinite; the smaller of it and the cap is not. Nothing grows from nothing
  // (and infinitely many times nothing is no number).
  const double grown = options_.base.count() <= 0 ? 0
                                                  : static_cast<double>(options_.base.count()) *
                                                        std::pow(options_.multiplier, exponent);
  const auto cap = static_cast<double>(options_.cap.count());
  const std::int64_t bound = grown < cap ? static_cast<std::int64_t>(grown) : options_.cap.count();
  const std::int64_t floor = options_.floor.count();
  const std::int64_t upper = std::max(bound, floor);
  if (!options_.jitter) return os::Duration(upper);
  if (options_.spread > 0) {
    const double widened = static_cast<double>(upper) * (1 + options_.spread);
    const auto most = static_cast<std::int64_t>(std::min(widened, cap));
    const auto least = static_cast<std::int64_t>(static_cast<double>(most) / (1 + options_.spread));
    const auto range = static_cast<std::uint64_t>(most - least) + 1;
    return os::Duration(least + static_cast<std::int64_t>(random_.below(range)));
  }
  const auto width = static_cast<std::uint64_t>(upper - floor) + 1;
  return os::Duration(floor + static_cast<std::int64_t>(random_.below(width)));
}

void Backoff::succeeded_for(os::Duration healthy) {
  if (options_.reset_after > os::Duration::zero() && healthy >= options_.reset_after) reset();
}

namespace {

constexpr std::string_view kBudgetMagic = "DFBUDGET";
constexpr std::uint32_t kBudgetVersion = 1;
constexpr std::size_t kBudgetHeader = 16;  // magic, version, checksum
constexpr std::size_t kMaxBudgetFile = 16 << 20;
// Events that have left the window are kept up to this number, so that the window may be widened.
constexpr std::size_t kKeptEvents = 1024;
// The drift of the wall clock against the monotonic one that is not worth writing down.
constexpr os::Duration kToleratedStep = std::chrono::seconds(1);

Error damaged_budget(const std::string& path, std::string_view what) {
  return Error(Code::kCorrupted, fmt::format("the budget file {} is damaged: {}", path, what))
      .with("path", path)
      .suggest(fmt::format("look why it was damaged, then remove {}: the count starts anew", path));
}

}  // namespace

Result<Budget> Budget::open(os::Files& files, const os::Clock& clock, Options options) {
  if (options.limit < 0 || options.window <= os::Duration::zero()) {
    return Error(Code::kInvalidArgument,
                 "a budget needs a limit of at least 0 and a window longer than 0");
  }
  Budget budget(files, clock, std::move(options));
  if (!files.exists(budget.options_.path)) return budget;
  DEFIB_TRY_ASSIGN(const std::string content,
                   os::read_file(files, budget.options_.path, kMaxBudgetFile));
  DEFIB_TRY(budget.load(content));
  budget.rebase();
  if (std::exchange(budget.prepared_, false)) {
    const bool dirty = budget.dirty_;
    budget.add_event();
    budget.events_.back().presumed = true;
    // In memory alone: the file goes on saying the same.
    if (budget.options_.holder_is_asked) budget.dirty_ = dirty;
  }
  // What cannot be written now stays marked, and goes with the next change.
  if (budget.dirty_) static_cast<void>(budget.write().has_value());
  return budget;
}

Result<> Budget::load(std::string_view content) {
  Reader reader(content);
  if (reader.bytes(kBudgetMagic.size()) != kBudgetMagic) {
    return damaged_budget(options_.path, "it does not begin with DFBUDGET");
  }
  const std::uint32_t version = reader.u32();
  const std::uint32_t checksum = reader.u32();
  if (!reader.ok()) return damaged_budget(options_.path, "it is cut short");
  if (version != kBudgetVersion) {
    return damaged_budget(options_.path, fmt::format("its version is {}, not 1", version));
  }
  if (crc32c(content.substr(kBudgetHeader)) != checksum) {
    return damaged_budget(options_.path, "its checksum does not match");
  }
  prepared_ = reader.u8() != 0;
  const std::uint32_t count = reader.u32();
  for (std::uint32_t i = 0; i < count && reader.ok(); ++i) {
    Event event;
    event.boot_id = reader.text();
    event.mono_ns = reader.i64();
    event.wall_ns = reader.i64();
    events_.push_back(std::move(event));
  }
  if (!reader.finished()) return damaged_budget(options_.path, "its length does not match");
  if (!events_.empty()) written_offset_ = events_.back().wall_ns - events_.back().mono_ns;
  return {};
}

Result<> Budget::write() {
  const auto kept = [this](const Event& event) { return in_window(event); };
  if (events_.size() > kKeptEvents) {
    const auto excess = static_cast<std::ptrdiff_t>(events_.size() - kKeptEvents);
    const auto first_kept = std::find_if(events_.begin(), events_.begin() + excess, kept);
    events_.erase(events_.begin(), first_kept);
  }
  // Only the latest wall clock is worth comparing with that of another boot.
  const std::int64_t offset = wall_offset();
  for (Event& event : events_) {
    if (event.boot_id == boot_id_) event.wall_ns = event.mono_ns + offset;
  }
  std::string body;
  Writer writer(body);
  writer.u8(prepared_ ? 1 : 0);
  writer.u32(static_cast<std::uint32_t>(events_.size()));
  for (const Event& event : events_) {
    writer.text(event.boot_id);
    writer.i64(event.mono_ns);
    writer.i64(event.wall_ns);
  }
  std::string content;
  Writer header(content);
  header.bytes(kBudgetMagic);
  header.u32(kBudgetVersion);
  header.u32(crc32c(body));
  DEFIB_ASSERT(content.size() == kBudgetHeader);
  DEFIB_TRY(os::write_file_atomically(*files_, options_.path, content + body));
  dirty_ = false;
  presumed_in_file_ = presumed_spent();
  written_offset_ = offset;
  return {};
}

// Brings events of earlier boots onto this boot's monotonic clock.
void Budget::rebase() {
  const Event now = stamp();
  for (Event& event : events_) {
    if (event.boot_id == now.boot_id) continue;
    event.mono_ns = now.mono_ns - age(event).count();
    event.boot_id = now.boot_id;
    dirty_ = true;
  }
}

os::Duration Budget::age(const Event& event) const {
  const std::int64_t mono = clock_->mono_ns();
  if (event.boot_id == boot_id_) return os::Duration(mono - event.mono_ns);
  // It happened before this boot began, so it is at least as old as the boot.
  return os::Duration(std::max(clock_->wall_ns() - event.wall_ns, mono));
}

std::int64_t Budget::wall_offset() const {
  return clock_->wall_ns() - clock_->mono_ns();
}

Budget::Event Budget::stamp() const {
  return {{boot_id_, clock_->mono_ns(), clock_->wall_ns()}};
}

void Budget::add_event() {
  events_.push_back(stamp());
  dirty_ = true;
}

int Budget::used() const {
  return static_cast<int>(
      std::ranges::count_if(events_, [this](const Event& event) { return in_window(event); }));
}

os::Duration Budget::frees_in() const {
  std::vector<os::Duration> remaining;  // until each counted event leaves the window
  for (const Event& event : events_) {
    if (in_window(event)) remaining.push_back(options_.window - age(event));
  }
  const auto limit = static_cast<std::size_t>(options_.limit);
  if (limit == 0) return os::Duration::max();
  if (remaining.size() < limit) return os::Duration(0);
  std::ranges::sort(remaining);
  return remaining[remaining.size() - limit];
}

Result<> Budget::check_free() const {
  const auto limit = static_cast<std::size_t>(options_.limit);
  const auto counted = static_cast<std::size_t>(used());
  if (counted < limit) return {};
  const std::string window = os::format_duration(options_.window);
  if (limit == 0) {
    return Error(Code::kBudgetExhausted, "the budget allows no attempt at all: its limit is 0")
        .with("limit", std::int64_t{0});
  }
  const os::Duration free_after = frees_in();
  return Error(Code::kBudgetExhausted,
               fmt::format("{} of {} attempts in {} are used up; the next is free in {}", counted,
                           limit, window, os::format_duration(free_after)))
      .with("used", static_cast<std::int64_t>(counted))
      .with("limit", static_cast<std::int64_t>(limit))
      .with("window_seconds",
            fmt::format("{}", std::chrono::duration<double>(options_.window).count()))
      .with("frees_in_seconds",
            fmt::format("{}", std::chrono::duration<double>(free_after).count()));
}

Result<> Budget::spend() {
  DEFIB_TRY(check_free());
  add_event();
  Result<> written = write();
  // Not allowed, so not spent. Should the new file have got into place all the same, the event
  // counts after a restart, which errs on the safe side.
  if (!written) events_.pop_back();
  return written;
}

Result<> Budget::prepare() {
  if (prepared_) return {};
  DEFIB_TRY(check_free());
  prepared_ = true;
  dirty_ = true;
  Result<> written = write();
  if (!written) prepared_ = false;
  return written;
}

void Budget::prepare_unsaved() {
  if (prepared_) return;
  DEFIB_ASSERT_MESSAGE(!exhausted(), "the budget is used up");
  prepared_ = true;
  dirty_ = true;
}

void Budget::use_prepared() {
  DEFIB_ASSERT_MESSAGE(prepared_, "no ticket was prepared");
  prepared_ = false;
  add_event();
}

Result<> Budget::settle() {
  const os::Duration stepped(std::abs(wall_offset() - written_offset_));
  const bool stale = !events_.empty() && stepped > kToleratedStep;
  return dirty_ || stale ? write() : Result<>();
}

bool Budget::presumed_spent() const {
  return std::ranges::any_of(events_, &Event::presumed);
}

void Budget::confirm_spent() {
  if (std::erase_if(events_, [](const Event& event) { return event.presumed; }) > 0) add_event();
}

Result<> Budget::keep_out() {
  if (std::erase_if(events_, [](const Event& event) { return event.presumed; }) == 0) return {};
  prepared_ = true;
  dirty_ = dirty_ || presumed_in_file_;
  return presumed_in_file_ ? write() : Result<>();
}

Result<> Budget::give_back() {
  if (!prepared_ && !presumed_spent()) return {};
  prepared_ = false;
  std::erase_if(events_, [](const Event& event) { return event.presumed; });
  dirty_ = true;
  return write();
}

Result<> Budget::reset() {
  events_.clear();
  prepared_ = false;
  dirty_ = true;
  return write();
}

void Budget::set_limit(int limit, os::Duration window) {
  DEFIB_ASSERT(limit >= 0 && window > os::Duration::zero());
  options_.limit = limit;
  options_.window = window;
}

Result<> CircuitBreaker::allow() {
  const std::int64_t now = clock_->mono_ns();
  const std::int64_t since = state_ == State::kHalfOpen ? probe_started_at_ : opened_at_;
  const os::Duration waited(now - since);
  if (state_ == State::kClosed) return {};
  if (waited >= options_.open_for) {
    state_ = State::kHalfOpen;
    probe_started_at_ = now;
    return {};
  }
  const os::Duration left = options_.open_for - waited;
  Error error(Code::kBreakerOpen,
              fmt::format("the circuit breaker is {} after {} failures in a row; next try in {}",
                          state_ == State::kOpen ? "open" : "waiting for its probe", failures_,
                          os::format_duration(left)));
  error = std::move(error).with("retry_in_ms", left.count() / 1'000'000);
  if (last_) error = std::move(error).because(*last_);
  return error;
}

void CircuitBreaker::succeeded() {
  if (state_ == State::kOpen) return;
  state_ = State::kClosed;
  failures_ = 0;
  last_.reset();
}

void CircuitBreaker::failed(const Error& error) {
  if (state_ == State::kOpen) return;
  last_ = error;
  if (failures_ < std::numeric_limits<int>::max()) ++failures_;
  if (state_ == State::kHalfOpen || failures_ >= options_.failures) {
    state_ = State::kOpen;
    opened_at_ = clock_->mono_ns();
  }
}

}  // namespace defib::recovery
