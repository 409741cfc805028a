// What the pool does beside its borrowers: opening, checking, refilling and closing sessions.

#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "defib/connection/pool_core.h"
#include "defib/obs/log.h"

namespace defib::connection {
namespace {

using namespace std::chrono_literals;

constexpr os::Duration kEndingTimeout = 5s;
constexpr std::size_t kMaxEndings = 8;  // at one step

bool fits(Target target, bool read_only) {
  return target == Target::kAny || (target == Target::kStandby) == read_only;
}

}  // namespace

void PoolCore::start() {
  if (!options_.background) return;
  for (int i = 0; i < options_.parallel_connects; ++i) {
    openers_.emplace_back([this] { run_opener(); });
  }
  maintenance_ = std::thread([this] { run_maintenance(); });
}

PoolCore::~PoolCore() {
  close();
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  openers_wake_.notify_all();
  maintenance_wake_.notify_all();
  for (std::thread& opener : openers_) opener.join();
  if (maintenance_.joinable()) maintenance_.join();
}

// ---- Opening.

Result<std::unique_ptr<Session>> PoolCore::connect_to(const HostPort& host, Deadline deadline) {
  ConnectRequest request{host.host, host.port, dsn_.user, dsn_.password};
  if (options_.credentials) {
    DEFIB_TRY_ASSIGN(Credentials now, options_.credentials());
    request.user = std::move(now.user);
    request.password = std::move(now.password);
  }
  return backend_->connect(request, deadline);
}

// The hosts in order; one of the wrong kind is passed over. Names are resolved anew at every
// attempt. Of several errors the last one is told; that a host is of the wrong kind only where
// there is no other, or where the pool itself would take it, so that the server does serve.
Result<std::unique_ptr<Session>> PoolCore::connect_somewhere(Deadline deadline, Target target,
                                                             std::string_view server) {
  std::vector<HostPort> hosts = dsn_.hosts;
  if (hosts.empty()) hosts.emplace_back();
  std::size_t first = 0;
  {
    const std::lock_guard lock(mutex_);
    first = first_host_;
  }
  const auto named = std::ranges::find(hosts, server, &HostPort::to_string);
  if (named != hosts.end()) first = static_cast<std::size_t>(named - hosts.begin());
  std::optional<Error> last;
  bool serves = false;
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    const std::size_t at = (first + i) % hosts.size();
    const auto share = deadline.remaining() / static_cast<std::int64_t>(hosts.size() - i);
    auto session = connect_to(hosts[at], deadline & Deadline::after(share));
    if (!session) {
      if (!serves) last = session.error();
      continue;
    }
    const bool read_only = (*session)->info().read_only;
    const bool is_ours = fits(dsn_.target, read_only);
    if (fits(target, read_only)) {
      const std::lock_guard lock(mutex_);
      if (is_ours) first_host_ = at;
      return session;
    }
    serves |= is_ours;
    if (last && !is_ours) continue;
    Error wrong = Error(Code::kWrongNode, fmt::format("{} is {}", hosts[at].to_string(),
                                                      read_only ? "a standby, which takes no writes"
                                                                : "the primary, not a standby"))
                      .with("class", to_string(FailureClass::kWrongNode))
                      .with("phase", "connect")
                      .with("server", hosts[at].to_string())
                      .with("transient", "yes");
    if (last) wrong = std::move(wrong).because(*last);
    last = std::move(wrong);
  }
  return *last;
}

// With the breaker's permission, and telling it what came of it.
Result<std::unique_ptr<Session>> PoolCore::connect_and_tell(Deadline deadline, Target target,
                                                            std::string_view server) {
  const std::int64_t started = os::real_clock().mono_ns();
  auto session =
      connect_somewhere(deadline & Deadline::after(options_.connect_timeout), target, server);
  // A probe has to show that the server answers, not only that it accepts.
  if (session && server_->gate.state() == Gate::State::kOpen &&
      !health_query(**session, deadline & Deadline::after(options_.health_timeout))) {
    session = Error(Code::kConnectionFailed, "the server accepts sessions and answers nothing")
                  .with("class", "NC")
                  .with("transient", "yes");
  }
  metrics_.abandoned.set(backend_->abandoned());
  if (session) {
    metrics_.connect.record(os::Duration(os::real_clock().mono_ns() - started));
    failures_in_row_ = 0;
    metrics_.consecutive_failures.set(0);
    server_->gate.connected();
    return session;
  }
  metrics_.connection_failures.add();
  metrics_.consecutive_failures.set(++failures_in_row_);
  if (server_is_silent(session.error())) {
    server_->gate.connect_failed(session.error());
  } else {
    server_->gate.connect_refused();
  }
  const std::lock_guard lock(mutex_);
  last_error_ = session.error();
  return session;
}

// The server is alive and gives no session: it is asked less and less often, by one at a time.
void PoolCore::refused(const Error& error) {
  const std::lock_guard lock(mutex_);
  os::Duration pause = opening_pauses_.next();
  // The right node may be there at any moment, and nobody is burdened by being looked at.
  if (class_of(error) == FailureClass::kWrongNode) {
    pause = std::min(pause, options_.gate.probe_max);
  }
  next_open_ns_ = os::real_clock().mono_ns() + pause.count();
}

// How long an opener has to wait before it may ask; zero: not at all.
os::Duration PoolCore::opening_pause(bool probing) {
  if (probing || opening_pauses_.attempts() == 0) return {};
  if (opening_ > 0) return options_.gate.probe_max;
  return std::max(os::Duration(0), os::Duration(next_open_ns_ - os::real_clock().mono_ns()));
}

bool PoolCore::open_one() {
  int index = -1;
  for (std::size_t i = 0; i < slots_.size() && index < 0; ++i) {
    std::uint32_t expected = kEmpty;
    if (slots_[i].state.compare_exchange_strong(expected, kOpening)) index = static_cast<int>(i);
  }
  if (index < 0 && server_->gate.state() == Gate::State::kClosed) {
    server_->gate.not_tried();
    return true;
  }
  // Before the connect: a session that is being opened while the pool is drained is an old one.
  const std::uint32_t generation = generation_.load();
  auto session = connect_and_tell(Deadline(), dsn_.target, {});
  if (session) {
    metrics_.created.add();
    {
      const std::lock_guard lock(mutex_);
      opening_pauses_.reset();
    }
    // A probe of a pool that is full has done its work.
    if (index >= 0) opened(index, std::move(*session), generation);
    return true;
  }
  if (!server_is_silent(session.error())) refused(session.error());
  if (index >= 0) slots_[static_cast<std::size_t>(index)].state.store(kEmpty);
  const Error& error = session.error();
  const bool hopeless = class_of(error) == FailureClass::kOperator;
  const bool gate_open = server_->gate.state() == Gate::State::kOpen;
  if ((hopeless || gate_open) && open_count() == 0) {
    const Error failed =
        no_session(gate_open && !hopeless ? Code::kBreakerOpen : Code::kConnectionFailed,
                   hopeless ? "no session can be opened" : "no session is tried any more");
    const Error told = Error(failed.code(), failed.message())
                           .with("class", to_string(class_of(error)))
                           .with("transient", hopeless ? "no" : "yes")
                           .with("pool", options_.name)
                           .with("state", failed.field("state"))
                           .because(error);
    const std::lock_guard lock(mutex_);
    fail_waiters(told);
  }
  changed_.notify_all();
  return false;
}

void PoolCore::opened(int index, std::unique_ptr<Session> session, std::uint32_t generation) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  const std::int64_t now = clock_->mono_ns();
  slot.session = std::move(session);
  slot.generation = generation;
  slot.last_used_ns = slot.checked_ns = now;
  slot.told_ns.store(0);
  slot.expires_ns = Deadline::kNever;
  if (options_.max_lifetime.count() > 0) {
    const std::lock_guard lock(random_mutex_);
    const double life = static_cast<double>(options_.max_lifetime.count());
    slot.expires_ns =
        now + static_cast<std::int64_t>(life * (1.0 - options_.lifetime_spread * random_.unit()));
  }
  if (closed_) {
    slot.state.store(kBusy);
    return retire(index, Why::kClosed);
  }
  hand_on(index);
  changed_.notify_all();
}

void PoolCore::want_more(int count) {
  const std::lock_guard lock(mutex_);
  wanted_ = std::max(wanted_, count);
  openers_wake_.notify_all();
}

// One for each who waits, as far as there is room. Called whenever one of the two has changed: a
// waiter comes, a slot becomes empty, an opener has ended.
void PoolCore::want_for_waiters() {
  if (paused_ || closed_) return;
  const int openable = options_.max_size - open_count() - opening_;
  const int unserved = static_cast<int>(waiters_.size()) - opening_ - count(kIdle);
  const int target = std::min(unserved, openable);
  if (wanted_ >= target) return;
  wanted_ = target;
  openers_wake_.notify_all();
}

void PoolCore::run_opener() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const bool probing = server_->gate.state() == Gate::State::kOpen && !closed_;
    if (wanted_ <= 0 && !probing) {
      openers_wake_.wait(lock);
      continue;
    }
    os::Duration retry_in = opening_pause(probing);
    if (retry_in.count() > 0) {
      openers_wake_.wait_for(lock, retry_in);
      continue;
    }
    if (!server_->gate.may_connect(options_.parallel_connects, retry_in)) {
      openers_wake_.wait_for(lock, retry_in);
      continue;
    }
    if (wanted_ > 0) --wanted_;
    ++opening_;
    lock.unlock();
    const bool success = open_one();
    lock.lock();
    --opening_;
    if (success) {
      // The slow start may allow for more now.
      openers_wake_.notify_all();
    } else if (server_->gate.state() == Gate::State::kClosed && !waiters_.empty()) {
      openers_wake_.wait_for(lock, 10ms);
    }
    want_for_waiters();
    if (opened_seen_ != server_->gate.opened()) {
      opened_seen_ = server_->gate.opened();
      metrics_.breaker_opened.add();
      openers_wake_.notify_all();
    }
  }
}

Result<> PoolCore::warm_up(int count, Deadline deadline) {
  count = std::min(count, options_.max_size);
  want_more(count - open_count());
  std::unique_lock lock(mutex_);
  const auto is_done = [&] { return open_count() >= count || closed_; };
  while (!is_done()) {
    if (deadline.passed()) {
      lock.unlock();
      return no_session(Code::kPoolTimeout,
                        fmt::format("only {} of {} sessions were opened", open_count(), count));
    }
    wanted_ = std::max(wanted_, count - open_count() - opening_);
    openers_wake_.notify_all();
    changed_.wait_for(
        lock, std::min<os::Duration>(10ms, std::max(os::Duration(0), deadline.remaining())));
  }
  return {};
}

// ---- Checking.

bool PoolCore::health_query(Session& session, Deadline deadline) {
  const auto rows = session.execute(Statement(options_.health_query), deadline);
  if (rows && session.reset(deadline)) return true;
  if (rows && !session.lost()) return true;  // a driver that cannot reset
  metrics_.health_check_failures.add();
  return false;
}

void PoolCore::tell_long_borrow(Slot& slot, std::int64_t now) {
  const std::int64_t since = slot.borrowed_ns.load(std::memory_order_relaxed);
  if (options_.long_borrow.count() <= 0 || since == 0 || since == slot.told_ns.load()) return;
  if (now - since < options_.long_borrow.count()) return;
  slot.told_ns.store(since);
  metrics_.long_borrows.add();
  const char* file = slot.file.load(std::memory_order_relaxed);
  obs::log(obs::Level::kWarning, "connection", "a session is kept for long",
           {{"pool", options_.name},
            {"for", os::format_duration(os::Duration(now - since))},
            {"borrower", fmt::format("{}:{}", file == nullptr ? "?" : file,
                                     slot.line.load(std::memory_order_relaxed))}});
}

void PoolCore::look_over(int index, std::int64_t now) {
  Slot& slot = slots_[static_cast<std::size_t>(index)];
  if (slot.state.load() == kBusy) return tell_long_borrow(slot, now);
  std::uint32_t expected = kIdle;
  if (!slot.state.compare_exchange_strong(expected, kChecking)) return;
  if (closed_) return retire(index, Why::kClosed);
  if (slot.generation != generation_.load() || now >= slot.expires_ns) {
    return retire(index, Why::kLifetime);
  }
  if (now - slot.last_used_ns >= options_.idle_timeout.count() &&
      open_count() > options_.min_idle) {
    return retire(index, Why::kIdle);
  }
  if (slot.session->look() == Liveness::kDead) return retire(index, Why::kStale);
  const bool due =
      options_.check_every.count() > 0 &&
      now - std::max(slot.checked_ns, slot.last_used_ns) >= options_.check_every.count();
  if (due) {
    slot.checked_ns = now;
    if (!health_query(*slot.session, Deadline::after(options_.health_timeout))) {
      return retire(index, Why::kStale);
    }
  }
  hand_on(index);
}

void PoolCore::refill() {
  if (closed_) return;
  const std::lock_guard lock(mutex_);
  want_for_waiters();
  wake_front_for_idle();
  const int missing = options_.min_idle - open_count() - opening_;
  if (missing > wanted_) wanted_ = missing;
  if (wanted_ > 0 || server_->gate.state() == Gate::State::kOpen) openers_wake_.notify_all();
}

// Closes what was retired, and has the server end what nobody waits for any more.
void PoolCore::empty_trash() {
  std::vector<Trash> trash;
  {
    const std::lock_guard lock(mutex_);
    trash.swap(trash_);
  }
  std::map<std::string, std::vector<std::string>> endings;  // by server
  std::size_t kept = 0;
  for (Trash& one : trash) {
    one.session.reset();
    if (!one.ending.empty() && kept++ < kMaxEndings) endings[one.server].push_back(one.ending);
  }
  if (endings.empty() || server_->gate.state() == Gate::State::kOpen || closed_) return;
  const Deadline deadline = Deadline::after(kEndingTimeout);
  for (const auto& [server, statements] : endings) {
    auto session = connect_somewhere(deadline, dsn_.target, server);
    if (!session || (*session)->info().server != server) continue;
    for (const std::string& one : statements) (void)(*session)->execute(Statement(one), deadline);
  }
}

void PoolCore::maintain() {
  const std::int64_t now = clock_->mono_ns();
  for (std::size_t i = 0; i < slots_.size(); ++i) look_over(static_cast<int>(i), now);
  empty_trash();
  refill();
  std::uint64_t checkouts = 0;
  for (const Slot& slot : slots_) checkouts += slot.checkouts.load(std::memory_order_relaxed);
  const PoolState seen = state();
  metrics_.size.set(seen.size);
  metrics_.idle.set(seen.idle);
  metrics_.waiting.set(seen.waiting);
  const std::lock_guard lock(mutex_);
  metrics_.checkouts.add(checkouts - counted_);
  counted_ = checkouts;
}

void PoolCore::run_maintenance() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    maintain();
    lock.lock();
    if (stopping_) break;
    maintenance_wake_.wait_for(lock, options_.maintenance_every,
                               [&] { return kicked_ || stopping_; });
    kicked_ = false;
  }
  lock.unlock();
  maintain();
  empty_trash();
}

}  // namespace defib::connection
