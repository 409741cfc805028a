// Random histories of crashes: whatever happens to service, shim, supervisor, machine and clocks,
// there are never more automatic restarts in a window than the spec allows, and no history ends
// anywhere but in running, waiting with a timer, stopped, or failed and waiting for a human.
//
// DEFIB_CRASH_HISTORIES says how many (the long form is 1,000,000), DEFIB_SEED where they begin.
// The oracle knows the true time, which no clock of the machine shows, and counts starts itself; of
// the planner it knows nothing.

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "defib/os/random.h"
#include "defib/process/restart_policy.h"

namespace defib::process {
namespace {

using namespace std::chrono_literals;
using Verdict = RestartPlanner::Verdict;

// As little of a file system as the planner needs, because there are a million of them.
class SmallFiles : public os::Files {
 public:
  bool full = false;

  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    if (mode == os::OpenMode::kRead && !content_.contains(path)) return missing(path);
    if (mode != os::OpenMode::kRead && full) return Error(Code::kNoSpace, "no space (injected)");
    return std::unique_ptr<os::File>(new SmallFile(*this, &content_[path]));
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    if (!content_.contains(from)) return missing(from);
    content_[to] = std::move(content_[from]);
    content_.erase(from);
    return {};
  }
  Result<> remove(const std::string& path) override {
    content_.erase(path);
    return {};
  }
  Result<> create_dirs(const std::string&) override { return {}; }
  Result<> sync_dir(const std::string&) override { return {}; }
  Result<std::vector<std::string>> list(const std::string&) override {
    return std::vector<std::string>{};
  }
  bool exists(const std::string& path) override { return content_.contains(path); }
  bool is_dir(const std::string&) override { return false; }
  Result<std::uint64_t> free_space(const std::string&) override { return std::uint64_t{1} << 40; }

 private:
  class SmallFile : public os::File {
   public:
    SmallFile(SmallFiles& files, std::string* bytes) : files_(files), bytes_(bytes) {}
    Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
      if (offset >= bytes_->size()) return std::size_t{0};
      return bytes_->copy(to, size, offset);
    }
    Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
      if (files_.full) return Error(Code::kNoSpace, "no space (injected)");
      if (bytes_->size() < offset + bytes.size()) bytes_->resize(offset + bytes.size());
      bytes_->replace(offset, bytes.size(), bytes);
      return {};
    }
    Result<> sync() override { return {}; }
    Result<> truncate(std::uint64_t size) override {
      bytes_->resize(size);
      return {};
    }
    Result<std::uint64_t> size() override { return std::uint64_t{bytes_->size()}; }
    Result<> drop_cache() override { return {}; }
    Result<> try_lock() override { return {}; }

   private:
    SmallFiles& files_;
    std::string* bytes_;
  };
  static Error missing(const std::string& path) { return Error(Code::kNotFound, path); }
  std::map<std::string, std::string> content_;
};

// True time, in seconds; the oracle's own idea of what is allowed.
class Oracle {
 public:
  Oracle(int limit, std::int64_t window) : limit_(limit), window_(window) {}
  void restarted(std::int64_t now) {
    starts_.push_back(now);
    const auto in_window = std::count_if(starts_.begin(), starts_.end(),
                                         [&](std::int64_t at) { return now - at < window_; });
    worst_ = std::max(worst_, static_cast<int>(in_window));
  }
  // A human's reset allows a new budget.
  void forget() { starts_.clear(); }
  bool kept() const { return worst_ <= limit_; }

 private:
  int limit_;
  std::int64_t window_;
  std::vector<std::int64_t> starts_;
  int worst_ = 0;
};

enum class Where { kRunning, kWaiting, kStopped, kFailed, kNowhere };

// A service with its shim and its supervisor, which may be away.
class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed) {
    spec_.name = "x";
    spec_.argv = {"x"};
    constexpr RestartPolicy kPolicies[] = {RestartPolicy::kOnFailure, RestartPolicy::kAlways,
                                           RestartPolicy::kNever};
    spec_.restart = kPolicies[random_.below(8) < 6 ? 0 : random_.below(3)];
    spec_.max_restarts = static_cast<int>(random_.below(6));
    spec_.restart_window = std::chrono::seconds(600);
    spec_.restart_delay = std::chrono::seconds(random_.below(3) * 10);
    spec_.restart_delay_cap = 60s;
    spec_.healthy_after = 30s;
    spec_.on_crash_loop = random_.below(2) == 0 ? CrashLoopAction::kStop : CrashLoopAction::kSlow;
    spec_.slow_lane_interval = std::chrono::seconds(1 + random_.below(120));
    if (random_.below(4) == 0) spec_.same_crash_limit = 0;
    if (random_.below(4) == 0) spec_.max_downtime = 100s;
    if (random_.below(4) == 0) spec_.no_restart_exit_codes = *parse_exit_set({"7"});
    oracle_.emplace(spec_.max_restarts, spec_.restart_window / 1s);
    clock_.advance(24h);
    supervise();
    start_by_request();
  }

  void step() {
    const auto what = random_.below(12);
    trace(what);
    switch (what) {
      case 0:
        return kill_supervisor();
      case 1:
        return step_clock();
      case 2:
        return reboot();
      case 3:
        return command();
      case 4:
        files_.full = random_.below(3) == 0;
        return write_what_was_left();

      default:
        return crash();
    }
  }

  // Time passes until nothing would happen by itself any more.
  Where settle() {
    files_.full = false;
    supervise();
    write_what_was_left();
    for (int i = 0; i < 64 && !running_ && timer_ >= 0; ++i) pass(timer_ - now_ + 1);
    if (running_) return Where::kRunning;
    if (timer_ >= 0) return Where::kWaiting;
    if (failed_) return Where::kFailed;
    return stopped_ ? Where::kStopped : Where::kNowhere;
  }
  bool kept() const { return oracle_->kept(); }

 private:
  // For a history that failed: DEFIB_TRACE=1 with its seed.
  void trace(std::uint64_t what) const {
    static const bool on = std::getenv("DEFIB_TRACE") != nullptr;
    if (!on) return;
    fmt::print("{} s: step {}, {} by {}, timer {}, used {} of {}{}\n", now_, what,
               running_ ? "runs" : "down", by_shim_ ? "shim" : "supervisor", timer_,
               planner_ ? planner_->used_in_window() : -1, spec_.max_restarts,
               files_.full ? ", disk full" : "");
  }

  void pass(std::int64_t seconds) {
    while (seconds > 0) {
      const std::int64_t some =
          timer_ >= 0 ? std::min(seconds, std::max<std::int64_t>(timer_ - now_, 0)) : seconds;
      clock_.advance(std::chrono::seconds(some));
      now_ += some;
      seconds -= some;
      if (timer_ < 0 || now_ < timer_) continue;
      if (!fire() && seconds > 0) {
        clock_.advance(std::chrono::seconds(seconds));
        now_ += seconds;
        return;
      }
    }
  }

  // The timer's owner acts; false where the owner is away.
  bool fire() {
    if (!by_shim_ && !planner_) {
      timer_ = -1;  // The next supervisor remembers it.
      return false;
    }
    timer_ = -1;
    if (by_shim_) {
      begin(true);
      if (planner_) {
        planner_->used();
        planner_->started(clock_.mono_ns(), false);
        grant();
      } else {
        told_used_ = true;
      }
      return true;
    }
    const auto decision = planner_->start_now(generation_);
    if (decision.verdict != Verdict::kStart) return follow(decision), true;
    begin(true);
    planner_->started(clock_.mono_ns(), false);
    grant();
    return true;
  }

  void begin(bool automatic) {
    running_ = true;
    stopped_ = failed_ = false;
    ++generation_;
    started_ = now_;
    if (automatic && !uncounted_) oracle_->restarted(now_);
    if (automatic) trace(99);
  }

  void grant() {
    ticket_.reset();
    if (!may_restart(spec_)) return;
    const auto permit = planner_->permit(generation_);
    if (!permit) return;
    ticket_ = shim::Ticket{permit->delay.count(),
                           1,
                           shim_policy(spec_.restart),
                           permit->held_status ? 1u : 0u,
                           permit->held_status.value_or(0),
                           0,
                           restart_after(spec_)};
  }

  void crash() {
    pass(static_cast<std::int64_t>(random_.below(90)));
    if (!running_) return;
    if (planner_ && os::Duration(std::chrono::seconds(now_ - started_)) >= spec_.healthy_after) {
      planner_->healthy();
      grant();
    }
    constexpr int kEnds[] = {SIGSEGV, SIGSEGV, SIGSEGV, SIGKILL, 0, 3 << 8, 7 << 8};
    exit_ = {};
    exit_.wait_status = kEnds[random_.below(std::size(kEnds))];
    exit_.source =
        random_.below(10) == 0 ? shim::StatusSource::kUnknown : shim::StatusSource::kWait;
    exit_.reason = random_.below(8) == 0 ? shim::StopReason::kHung : shim::StopReason::kNone;
    running_ = false;
    const auto ticket = std::exchange(ticket_, std::nullopt);
    const bool by_ticket = ticket && shim::calls_for_restart(*ticket, exit_);
    if (planner_) {
      note_failure();
    } else {
      told_ends_.push_back({generation_, exit_, by_ticket});
    }
    if (by_ticket) {
      by_shim_ = true;
      timer_ = now_ + (ticket->delay_ns + 999'999'999) / 1'000'000'000;
      if (ticket->delay_ns == 0) fire();
      return;
    }
    if (planner_) decide();
  }

  void note_failure() {
    os::ExitStatus status;
    if (exit_.source != shim::StatusSource::kUnknown) {
      status = os::exit_status_from_wait(exit_.wait_status);
    }
    if (is_clean(spec_, status) && exit_.reason == shim::StopReason::kNone) return;
    CrashPrint print = crash_print(status, exit_.reason, 1, nullptr);
    if (print.counts() && !status.exited) print.place = random_.below(4) == 0 ? "b" : "a";
    planner_->failed(generation_, clock_.mono_ns(), print);
  }

  void decide() {
    if (const auto earlier = planner_->pending(generation_)) return follow(*earlier);
    if (!wants_restart(spec_, exit_)) {
      if (planner_->has_ticket()) planner_->unused();
      stopped_ = true;
      return;
    }
    follow(planner_->decide(generation_));
  }

  void follow(const RestartPlanner::Decision& decision) {
    by_shim_ = false;
    failed_ = decision.verdict == Verdict::kGiveUp;
    timer_ = failed_ ? -1 : now_ + (decision.delay.count() + 999'999'999) / 1'000'000'000;
  }

  void kill_supervisor() {
    if (!planner_) return supervise();
    planner_.reset();
    told_used_ = false;
    if (!by_shim_) timer_ = -1;
    // With a full disk the count is in memory alone; but the service is not lost with it.
    if (files_.full) uncounted_ = true;
  }

  // A supervisor comes, and hears what happened.
  void supervise(bool fresh_boot = false) {
    if (planner_) return;
    planner_.emplace(RestartPlanner::open(files_, clock_, "d", spec_, os::Random(random_.next())));
    unseen_step_ = unseen_step_ && files_.full;
    bool undecided = false;
    for (const End& end : std::exchange(told_ends_, {})) {
      exit_ = end.exit;
      std::swap(generation_, told_generation_ = end.generation);
      note_failure();
      std::swap(generation_, told_generation_);
      undecided = !end.by_ticket;
    }
    const bool shim_waits = !running_ && by_shim_ && timer_ >= 0;
    if (std::exchange(told_used_, false)) {
      planner_->used();
    } else if (planner_->presumed_spent() && !shim_waits &&
               (running_ ? !fresh_boot : undecided || planner_->pending(generation_))) {
      planner_->unused();  // Its shim knows, or a decision that nobody has acted upon.
    } else if (!shim_waits) {
      planner_->presume_used();  // After a reboot nobody knows.
    }
    if (running_) {
      planner_->started(clock_.mono_ns(), false);
      ticket_.reset();  // revoked, and granted anew
      grant();
    } else if (!shim_waits) {
      if (undecided) {
        decide();
      } else if (const auto pending = planner_->pending(generation_); pending && !stopped_) {
        follow(*pending);
      } else if (!stopped_ && !fresh_boot) {
        decide();  // The status file tells how it ended, and that nobody has acted on it.
      }
    }
  }

  void start_by_request() {
    planner_->forget_pending();
    timer_ = -1;
    by_shim_ = false;
    begin(false);
    planner_->started(clock_.mono_ns(), true);
    grant();
  }

  void command() {
    if (!planner_) return;
    switch (random_.below(3)) {
      case 0:
        if (!running_) start_by_request();
        return;
      case 1:
        planner_->reset();
        oracle_->forget();
        if (running_) return grant();
        return start_by_request();
      default:
        running_ = false;
        planner_->forget_pending();
        if (planner_->has_ticket()) planner_->unused();
        ticket_.reset();
        timer_ = -1;
        by_shim_ = failed_ = false;
        stopped_ = true;
    }
  }

  // As with every look at the service's memory.
  void write_what_was_left() {
    if (!planner_) return;
    planner_->settle();
    if (files_.full || !uncounted_) return;
    uncounted_ = false;
    oracle_->forget();
  }

  void step_clock() {
    constexpr auto kYear = std::chrono::seconds(31'536'000);
    clock_.step_wall(random_.below(2) == 0 ? kYear : -kYear);
    if (planner_) planner_->settle();  // The kernel tells the supervisor.
    unseen_step_ = !planner_ || files_.full;
  }

  // Everything is gone but the files; the service starts with the machine.
  void reboot() {
    // What is in memory alone does not outlive the machine, and a step that no supervisor saw
    // before the reboot is the one thing that nobody can know.
    if (files_.full || unseen_step_) return;
    planner_.reset();
    const auto down = static_cast<std::int64_t>(1 + random_.below(120));
    clock_.reboot(std::chrono::seconds(down));
    now_ += down;
    told_used_ = false;
    told_ends_.clear();
    ticket_.reset();
    timer_ = -1;
    by_shim_ = false;
    running_ = false;
    supervise(true);
    if (timer_ < 0 && !failed_ && !stopped_) start_by_request();
  }

  struct End {
    std::uint64_t generation;
    shim::ExitInfo exit;
    bool by_ticket;
  };
  os::Random random_;
  SmallFiles files_;
  os::FakeClock clock_;
  ServiceSpec spec_;
  std::optional<RestartPlanner> planner_;
  std::optional<Oracle> oracle_;
  std::optional<shim::Ticket> ticket_;
  shim::ExitInfo exit_{};
  std::uint64_t generation_ = 0, told_generation_ = 0;
  std::vector<End> told_ends_;
  bool told_used_ = false, unseen_step_ = false;
  bool uncounted_ = false;  // a supervisor died with what it could not write
  bool running_ = false, stopped_ = false, failed_ = false;
  bool by_shim_ = false;
  std::int64_t now_ = 0, started_ = 0;
  std::int64_t timer_ = -1;
};

TEST(CrashHistory, NeverMoreRestartsThanTheWindowAllowsAndNeverStuck) {
  const char* asked = std::getenv("DEFIB_CRASH_HISTORIES");
  const std::uint64_t histories = asked != nullptr ? std::strtoull(asked, nullptr, 10) : 20'000;
  const char* given = std::getenv("DEFIB_SEED");
  const std::uint64_t first =
      given != nullptr ? std::strtoull(given, nullptr, 10) : os::random_seed() % 1'000'000'000;
  fmt::print("{} histories from seed {} (DEFIB_CRASH_HISTORIES, DEFIB_SEED)\n", histories, first);
  std::map<Where, std::uint64_t> ends;
  for (std::uint64_t seed = first; seed < first + histories; ++seed) {
    World world(seed);
    const int steps = 4 + static_cast<int>(seed % 24);
    for (int i = 0; i < steps; ++i) world.step();
    const Where where = world.settle();
    ASSERT_TRUE(world.kept()) << "too many restarts in a window: DEFIB_SEED=" << seed;
    ASSERT_NE(where, Where::kNowhere) << "stuck: DEFIB_SEED=" << seed;
    ++ends[where];
  }
  // A test in which one of them never happens would prove less than it says.
  for (const Where where : {Where::kRunning, Where::kStopped, Where::kFailed}) {
    EXPECT_GT(ends[where], histories / 100) << static_cast<int>(where);
  }
}

}  // namespace
}  // namespace defib::process
