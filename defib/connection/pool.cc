#include "defib/connection/pool.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/connection/asymmetric_fence.h"
#include "defib/connection/pool_core.h"

namespace defib::connection {
namespace {

constexpr os::Duration kLongestRefusalPause = std::chrono::seconds(1);

// Which slot this thread took last: the next time it is free again, as a rule, and warm.
thread_local std::uint32_t last_slot = 0;

Error invalid(std::string_view option, std::string_view allowed) {
  return Error(Code::kInvalidArgument, fmt::format("the pool's {} must be {}", option, allowed))
      .with("option", option);
}

Result<> check_options(const PoolOptions& options) {
  if (options.max_size < 1 || options.max_size > PoolOptions::kMaxSize) {
    return invalid("max_size", "from 1 to 1024");
  }
  if (options.min_idle < 0 || options.min_idle > options.max_size) {
    return invalid("min_idle", "from 0 to max_size");
  }
  if (options.parallel_connects < 1 || options.parallel_connects > 64) {
    return invalid("parallel_connects", "from 1 to 64");
  }
  if (options.lifetime_spread < 0 || options.lifetime_spread > 0.9) {
    return invalid("lifetime_spread", "from 0 to 0.9");
  }
  if (options.transaction_attempts < 1 || options.retry.attempts < 1) {
    return invalid("attempts", "at least 1");
  }
  if (!options.commit_table.empty() && !is_table_name(options.commit_table)) {
    return invalid("commit_table", "a plain name such as defib_commits");
  }
  if (options.commit_resolution == CommitResolution::kDurable && options.in_doubt_log == nullptr) {
    return invalid("in_doubt_log", "given where commit_resolution is durable");
  }
  return {};
}

bool is_refused_write(const Error& error) {
  return class_of(error) == FailureClass::kWrongNode &&
         (error.field("sqlstate") == "25006" || error.field("native") == "1792");
}

// The server takes writes, and this transaction does not: no other server would do better.
Error asked_read_only(const Error& error) {
  return Error(Code::kStatementFailed,
               "the statement writes, and its transaction was asked to be read only")
      .with("class", to_string(FailureClass::kNever))
      .with("phase", to_string(Phase::kStatement))
      .with("transient", "no")
      .suggest("begin the transaction without read_only, or leave the write out")
      .because(error);
}

}  // namespace

PoolOptions PoolOptions::azure() {
  PoolOptions options;
  options.retry.attempts = 6;
  options.retry.initial = std::chrono::seconds(5);
  options.retry.maximum = std::chrono::seconds(60);
  return options;
}

std::string PoolState::to_string() const {
  return fmt::format("{} of {} sessions open, {} idle, {} busy, {} waiting{}{}{}", size, max, idle,
                     busy, waiting, paused ? ", paused" : "", closed ? ", closed" : "",
                     breaker_open ? ", breaker open" : "");
}

PoolCore::PoolCore(Dsn dsn, std::unique_ptr<Backend> backend, PoolOptions options)
    : dsn_(std::move(dsn)),
      backend_(std::move(backend)),
      options_(std::move(options)),
      clock_(options_.clock == nullptr ? &os::real_clock() : options_.clock),
      metrics_(options_.metrics, options_.name),
      server_(server_state(dsn_.server_name(), options_.gate, os::real_clock())),
      slots_(static_cast<std::size_t>(options_.max_size)),
      opening_pauses_({.base = options_.gate.probe_first, .cap = kLongestRefusalPause},
                      os::Random(os::random_seed())),
      random_(os::random_seed()) {}

// ---- Checkout. What every checkout and return goes through is compiled into one piece.

[[gnu::always_inline]] inline int PoolCore::try_take() {
  const auto size = static_cast<std::uint32_t>(slots_.size());
  const std::uint32_t first = last_slot < size ? last_slot : 0;
  for (std::uint32_t i = 0; i < size; ++i) {
    std::uint32_t index = first + i;
    if (index >= size) index -= size;
    std::uint32_t expected = kIdle;
    if (slots_[index].state.load(std::memory_order_relaxed) == kIdle &&
        slots_[index].state.compare_exchange_strong(expected, kBusy, std::memory_order_acquire)) {
      last_slot = index;
      return static_cast<int>(index);
    }
  }
  return -1;
}

// Without a round trip. Where the session is of no more use its slot is empty afterwards.
[[gnu::always_inline]] inline PoolCore::Vetted PoolCore::look_at(int index) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  bool expired = slot.generation != generation_.load(std::memory_order_relaxed);
  if (options_.timestamps) {
    const std::int64_t now = clock_->mono_ns();
    slot.borrowed_ns.store(now, std::memory_order_relaxed);
    expired |= now >= slot.expires_ns;
  }
  if (expired) {
    retire(index, Why::kLifetime);
    return Vetted::kRetired;
  }
  if (!options_.look_at_checkout) return Vetted::kGood;
  const Liveness seen = slot.session->look();
  if (seen == Liveness::kDead) {
    retire(index, Why::kStale);
    return Vetted::kRetired;
  }
  const bool ask =
      seen == Liveness::kSuspicious || (options_.query_at_checkout && seen != Liveness::kNoSocket);
  return ask ? Vetted::kToBeAsked : Vetted::kGood;
}

// Whether the session answers the health query. Where not, its slot is empty afterwards.
bool PoolCore::ask(int index, Deadline deadline) {
  Session& session = *slots_[static_cast<std::size_t>(index)].session;
  if (health_query(session, deadline & Deadline::after(options_.health_timeout))) return true;
  retire(index, Why::kStale);
  return false;
}

[[gnu::always_inline]] inline Lease PoolCore::lend(int index, const std::source_location& where) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  slot.file.store(where.file_name(), std::memory_order_relaxed);
  slot.line.store(where.line(), std::memory_order_relaxed);
  slot.checkouts.store(slot.checkouts.load(std::memory_order_relaxed) + 1,
                       std::memory_order_relaxed);
  return Lease(this, index, slot.session.get());
}

Error PoolCore::no_session(Code code, std::string_view what) const {
  const PoolState now = state();
  Error error =
      Error(code, fmt::format("{}; the pool '{}' has {}", what, options_.name, now.to_string()))
          .with("pool", options_.name)
          .with("state", now.to_string())
          .with("server", dsn_.server_name());
  if (code == Code::kPoolTimeout) error = std::move(error).with("transient", "yes");
  if (now.last_error) error = std::move(error).because(*now.last_error);
  return error;
}

[[gnu::always_inline]] inline Lease PoolCore::try_acquire(const std::source_location& where,
                                                          int& to_be_asked) {
  const bool may = !closed_.load(std::memory_order_relaxed) &&
                   !paused_.load(std::memory_order_relaxed) && !server_->gate.suspects_sessions();
  const int index = may ? try_take() : -1;
  if (index < 0) return {};
  const Vetted vetted = look_at(index);
  if (vetted == Vetted::kGood) return lend(index, where);
  if (vetted == Vetted::kToBeAsked) to_be_asked = index;
  return {};
}

Result<Lease> PoolCore::acquire(Deadline deadline, const std::source_location& where,
                                int to_be_asked) {
  if (to_be_asked >= 0 && ask(to_be_asked, deadline)) return lend(to_be_asked, where);
  while (true) {
    if (closed_.load(std::memory_order_relaxed)) {
      return no_session(Code::kPoolClosed, "no session");
    }
    const bool may = !paused_.load(std::memory_order_relaxed) && !server_->gate.suspects_sessions();
    int index = may ? try_take() : -1;
    if (index < 0) {
      DEFIB_TRY_ASSIGN(index, wait_for_slot(deadline));
    }
    const Vetted vetted = look_at(index);
    if (vetted == Vetted::kGood) return lend(index, where);
    if (vetted == Vetted::kToBeAsked && ask(index, deadline)) return lend(index, where);
  }
}

void PoolCore::update_front() {
  waiters_count_.store(static_cast<int>(waiters_.size()));
  front_since_ns_.store(waiters_.empty() ? 0 : waiters_.front()->since_ns);
  front_notified_.store(!waiters_.empty() && waiters_.front()->notified);
}

Result<int> PoolCore::wait_for_slot(Deadline deadline) {
  Waiter waiter;
  waiter.since_ns = os::real_clock().mono_ns();
  std::unique_lock lock(mutex_);
  const auto place = waiters_.insert(waiters_.end(), &waiter);
  update_front();
  const auto leave = [&] {
    waiters_.erase(place);
    update_front();
    metrics_.wait.record(os::Duration(os::real_clock().mono_ns() - waiter.since_ns));
  };
  while (true) {
    if (waiter.slot >= 0) return waiter.slot;  // who gave it took us off the list
    if (waiter.failed) return *waiter.failed;  // likewise
    if (closed_) {
      leave();
      lock.unlock();
      return no_session(Code::kPoolClosed, "no session");
    }
    // Before the look at the slots, so that whoever returns one behind it wakes us anew.
    waiter.notified = false;
    update_front();
    AsymmetricFence::heavy();
    const bool gate_open = server_->gate.state() == Gate::State::kOpen;
    if (!paused_ && !server_->gate.suspects_sessions()) {
      // Between the first look and the place on the list one may have come back.
      const int index = try_take();
      if (index >= 0) {
        leave();
        wake_front_for_idle();
        return index;
      }
    }
    if (gate_open && !paused_) {
      const Result<> allowed = server_->gate.allow();
      if (!allowed) {
        leave();
        lock.unlock();
        metrics_.exhausted.add();
        Error error = no_session(Code::kBreakerOpen, "no session is tried");
        return Error(Code::kBreakerOpen, error.message())
            .with("class", "NC")
            .with("transient", "yes")
            .with("pool", options_.name)
            .with("state", error.field("state"))
            .because(allowed.error());
      }
      continue;
    }
    want_for_waiters();
    const auto woken = [&] {
      return waiter.slot >= 0 || waiter.failed || waiter.notified || closed_;
    };
    if (deadline.is_never()) {
      waiter.ready.wait(lock, woken);
    } else if (!waiter.ready.wait_for(lock, std::max(os::Duration(0), deadline.remaining()),
                                      woken)) {
      leave();
      lock.unlock();
      metrics_.exhausted.add();
      const os::Duration waited(os::real_clock().mono_ns() - waiter.since_ns);
      return no_session(Code::kPoolTimeout, fmt::format("no session became free within {}",
                                                        os::format_duration(waited)));
    }
  }
}

// ---- Return.

// Makes the slot free, or gives it to the oldest waiter where that has waited too long already.
//
// A waiter says of itself that it waits and then looks at the slots; who returns one makes it free
// and then looks for waiters: one of the two sees the other. Returning is frequent and waiting is
// not, so the waiter pays for the order (AsymmetricFence).
[[gnu::always_inline]] inline void PoolCore::free_slot(int index) {
  if (front_since_ns_.load(std::memory_order_relaxed) != 0 && hand_to_front(index)) return;
  slots_[static_cast<std::size_t>(index)].state.store(kIdle, std::memory_order_release);
  AsymmetricFence::light();
  if (waiters_count_.load(std::memory_order_relaxed) > 0) wake_for_idle();
}

inline void PoolCore::give_back(int index, bool discard, Deadline limit) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  const bool current = slot.generation == generation_.load(std::memory_order_relaxed) &&
                       !closed_.load(std::memory_order_relaxed);
  if (discard || !current || !slot.session->is_pristine()) {
    Session& session = *slot.session;
    if (discard || session.lost()) return retire(index, Why::kFailed);
    if (!current) return retire(index, closed_ ? Why::kClosed : Why::kLifetime);
    if (!reset_session(slot, limit)) {
      return retire(index, session.lost() ? Why::kFailed : Why::kDirty);
    }
  }
  if (options_.timestamps) {
    slot.last_used_ns = clock_->mono_ns();
    slot.borrowed_ns.store(0, std::memory_order_relaxed);
  }
  free_slot(index);
}

// The caller's time includes the return: where none is left the session is closed instead, in the
// background.
bool PoolCore::reset_session(Slot& slot, Deadline limit) {
  const Deadline deadline = limit & Deadline::after(options_.health_timeout);
  if (deadline.passed()) return false;
  const Result<> done = slot.session->reset(deadline);
  metrics_.resets.add();
  if (!done && done.error().code() != Code::kNotSupportedByDriver) metrics_.reset_failures.add();
  return done.has_value();
}

void PoolCore::hand_on(int index) {
  free_slot(index);
}

// True where the oldest waiter is overdue, and has it now.
bool PoolCore::hand_to_front(int index) {
  const std::int64_t now = os::real_clock().mono_ns();
  const std::int64_t since = front_since_ns_.load(std::memory_order_relaxed);
  if (since == 0 || now - since < options_.starvation_bound.count()) return false;
  const std::lock_guard lock(mutex_);
  if (waiters_.empty() || paused_) return false;
  Waiter& front = *waiters_.front();
  waiters_.pop_front();
  update_front();
  metrics_.wait.record(os::Duration(now - front.since_ns));
  front.slot = index;
  // It may come from a check or from a connect, whose state nobody would end.
  slots_[static_cast<std::size_t>(index)].state.store(kBusy, std::memory_order_release);
  front.ready.notify_one();
  wake_front_for_idle();
  return true;
}

void PoolCore::wake_for_idle() {
  if (front_notified_.load(std::memory_order_relaxed)) return;
  const std::lock_guard lock(mutex_);
  wake_front();
}

// Who takes a session may have been woken for another one, which the next shall have.
void PoolCore::wake_front_for_idle() {
  if (waiters_.empty() || waiters_.front()->notified) return;
  AsymmetricFence::heavy();
  if (count(kIdle) > 0) wake_front();
}

void PoolCore::wake_front() {
  if (waiters_.empty() || paused_) return;
  Waiter& front = *waiters_.front();
  front.notified = true;
  update_front();
  front.ready.notify_one();
}

// Empties a slot that is ours (kBusy or kChecking). What it held is closed in the background.
void PoolCore::retire(int index, Why why) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  switch (why) {
    case Why::kStale:
      metrics_.closed_stale.add();
      break;
    case Why::kIdle:
      metrics_.closed_idle.add();
      break;
    case Why::kLifetime:
      metrics_.closed_lifetime.add();
      break;
    case Why::kDirty:
      metrics_.closed_dirty.add();
      break;
    case Why::kFailed:
      metrics_.closed_failed.add();
      break;
    case Why::kClosed:
      break;
  }
  Trash trash{std::move(slot.session), {}, {}};
  if (trash.session->overran()) {
    trash.ending = statement_that_ends(trash.session->info());
    trash.server = trash.session->info().server;
  }
  slot.borrowed_ns.store(0, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    slot.state.store(kEmpty);
    if (options_.background && !stopping_) {
      trash_.push_back(std::move(trash));
      kicked_ = true;
      want_for_waiters();  // somebody who waits can have another one
    }
  }
  maintenance_wake_.notify_one();
  changed_.notify_all();
}

void PoolCore::fail_waiters(const Error& error) {
  for (Waiter* waiter : waiters_) {
    waiter->failed = error;
    waiter->ready.notify_one();
  }
  waiters_.clear();
  update_front();
}

// ---- State.

int PoolCore::count(std::uint32_t state) const {
  int found = 0;
  for (const Slot& slot : slots_) found += slot.state.load() == state;
  return found;
}

int PoolCore::open_count() const {
  return count(kIdle) + count(kBusy) + count(kChecking);
}

PoolState PoolCore::state() const {
  PoolState now;
  now.max = options_.max_size;
  now.idle = count(kIdle);
  now.busy = count(kBusy);
  now.size = now.idle + now.busy + count(kChecking);
  now.paused = paused_;
  now.closed = closed_;
  now.breaker_open = server_->gate.state() == Gate::State::kOpen;
  const std::lock_guard lock(mutex_);
  now.waiting = static_cast<int>(waiters_.size());
  now.last_error = last_error_;
  return now;
}

void PoolCore::pause() {
  paused_ = true;
}

void PoolCore::resume() {
  std::unique_lock lock(mutex_);
  paused_ = false;
  for (Waiter* waiter : waiters_) {
    waiter->notified = true;
    waiter->ready.notify_one();
  }
  update_front();
}

void PoolCore::drain() {
  ++generation_;
  {
    const std::lock_guard lock(mutex_);
    kicked_ = true;
    first_host_ = 0;
  }
  maintenance_wake_.notify_one();
}

void PoolCore::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    wanted_ = 0;
    kicked_ = true;
    for (Waiter* waiter : waiters_) waiter->ready.notify_one();
  }
  maintenance_wake_.notify_one();
  openers_wake_.notify_all();
  changed_.notify_all();
}

// ---- The public faces.

void Lease::give_back(PoolCore* core, int slot, bool discard, Deadline limit) {
  core->give_back(slot, discard, limit);
}

Result<Rows> Lease::execute(const Statement& statement) {
  return execute(statement, Deadline::after(core_->options().command_timeout));
}

Result<Rows> Lease::execute(const Statement& statement, Deadline deadline) {
  Result<Rows> rows = session_->execute(statement, deadline & limit_);
  ++executed_;
  if (rows) ++succeeded_;
  if (!rows && read_only_ && is_refused_write(rows.error())) rows = asked_read_only(rows.error());
  core_->note_result(rows ? nullptr : &rows.error());
  return rows;
}

Pool::Pool(std::unique_ptr<PoolCore> core) : core_(std::move(core)) {}
Pool::~Pool() = default;

Result<std::unique_ptr<Pool>> Pool::open(Dsn dsn, std::unique_ptr<Backend> backend,
                                         PoolOptions options) {
  DEFIB_TRY(check_options(options));
  if (dsn.connect_timeout) options.connect_timeout = *dsn.connect_timeout;
  if (dsn.azure) options.retry = PoolOptions::azure().retry;
  if (dsn.poll_by_query) options.query_at_checkout = true;
  auto core = std::make_unique<PoolCore>(std::move(dsn), std::move(backend), std::move(options));
  core->start();
  return std::unique_ptr<Pool>(new Pool(std::move(core)));
}

Result<Lease> Pool::acquire(std::source_location where) {
  // As a rule one is free, and no clock is read for a deadline that nobody needs.
  int to_be_asked = -1;
  if (Lease lease = core_->try_acquire(where, to_be_asked); lease.valid()) return lease;
  return core_->acquire(Deadline::after(core_->options().acquire_timeout), where, to_be_asked);
}
Result<Lease> Pool::acquire(Deadline deadline, std::source_location where) {
  return core_->acquire(deadline, where);
}
Result<> Pool::run_erased(const std::function<Result<>(Lease&)>& work, const RunOptions& options,
                          std::source_location where) {
  return core_->run(work, options, where);
}
Result<> Pool::transaction_erased(const std::function<Result<>(Transaction&)>& work,
                                  const TransactionOptions& options, std::source_location where) {
  return core_->transaction(work, options, where);
}
Result<> Pool::warm_up(int count, Deadline deadline) {
  return core_->warm_up(count, deadline);
}
void Pool::pause() {
  core_->pause();
}
void Pool::resume() {
  core_->resume();
}
void Pool::drain() {
  core_->drain();
}
void Pool::close() {
  core_->close();
}
PoolState Pool::state() const {
  return core_->state();
}
const PoolMetrics& Pool::metrics() const {
  return core_->metrics();
}
ServerState& Pool::server() {
  return core_->server();
}
Result<std::vector<Settled>> Pool::settle_in_doubt(Deadline deadline) {
  return core_->settle(deadline);
}
void Pool::maintain() {
  core_->maintain();
}
Result<> Pool::check(Deadline deadline) {
  DEFIB_TRY_ASSIGN(Lease lease, acquire(deadline));
  DEFIB_TRY(lease.execute(Statement(core_->options().health_query), deadline));
  return {};
}

namespace {

class PoolProbe : public recovery::Probe {
 public:
  PoolProbe(Pool& pool, std::string name) : pool_(pool), name_(std::move(name)) {}
  std::string name() const override { return name_; }
  recovery::ProbeResult check(os::Duration timeout) override {
    const std::int64_t started = os::real_clock().mono_ns();
    const Result<> done = pool_.check(Deadline::after(timeout));
    const os::Duration took(os::real_clock().mono_ns() - started);
    if (done) return {.healthy = true, .detail = "answered in " + os::format_duration(took)};
    return {.healthy = false, .detail = done.error().message(), .error = done.error()};
  }

 private:
  Pool& pool_;
  std::string name_;
};

}  // namespace

std::unique_ptr<recovery::Probe> pool_probe(Pool& pool, std::string name) {
  return std::make_unique<PoolProbe>(pool, std::move(name));
}

}  // namespace defib::connection
