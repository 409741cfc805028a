// Heartbeats: what a beat costs the service, and how long after its deadline a hang is told.
//
//   heartbeat_cost   one counting and one stamped beat, beside a bare read of the clock
//   hang_told        from the deadline (the last beat plus the deadline) until the supervisor
//   tells,
//                    for deadlines of 5, 20, 100 and 1000 ms, stamped and counting; no kill
//                    included
//
// The service sleeps for ever after its last beat. All services run at the same time. The limit of
// a counting stage is a quarter of its deadline, that of a stamped one a millisecond.

#include <fmt/core.h>
#include <stdlib.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "benchmarks/process_bench.h"
#include "defib/base/assert.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/process/agent.h"
#include "defib/process/supervisor.h"

namespace {

using namespace defib;
using namespace defib::process;

// Of this thread alone: what others take of the processor does not count.
std::int64_t processor_time_ns() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return used.tv_sec * 1'000'000'000LL + used.tv_nsec;
}

// Nanoseconds of processor time for each of many calls, the median of some repeats.
template <typename Call>
double nanoseconds_each(Call call) {
  constexpr int kCalls = 2'000'000;
  std::vector<double> repeats;
  for (int repeat = 0; repeat < 9; ++repeat) {
    const std::int64_t start = processor_time_ns();
    for (int i = 0; i < kCalls; ++i) {
      call();
      asm volatile("" ::: "memory");  // Each beat is written.
    }
    repeats.push_back(static_cast<double>(processor_time_ns() - start) / kCalls);
  }
  return percentile(repeats, 0.5);
}

void bench_cost() {
  static HeartbeatStage slot;
  Heartbeat heartbeat(&slot);
  heartbeat.beat();
  static std::atomic<std::int64_t> last;
  const double clock =
      nanoseconds_each([] { last.store(agent_core::now_mono_ns(), std::memory_order_relaxed); });
  print_row("heartbeat_cost", "counting, p50", "ns", nanoseconds_each([&] { heartbeat.beat(); }),
            "a store of the clock", clock, 3, 9);
  print_row("heartbeat_cost", "stamped, p50", "ns",
            nanoseconds_each([&] { heartbeat.beat_stamped(); }), "a store of the clock", clock, 40,
            9);
}

struct Case {
  std::string kind;
  int deadline_ms;
  std::size_t rounds;
  std::vector<std::int64_t> told_at = {};
};

class Times : public SupervisorObserver {
 public:
  Times(os::EventLoop& loop, std::map<std::string, Case>& cases) : loop_(loop), cases_(cases) {}
  void hung(const HangReport& hang) override {
    cases_.at(hang.service).told_at.push_back(loop_.clock().mono_ns());
    const bool done = std::ranges::all_of(cases_, [](const auto& entry) {
      return entry.second.told_at.size() >= entry.second.rounds;
    });
    if (done) loop_.stop();
  }

 private:
  os::EventLoop& loop_;
  std::map<std::string, Case>& cases_;
};

void add_service(Supervisor& supervisor, const std::string& name, const Case& one,
                 const std::string& file) {
  ServiceSpec spec;
  spec.name = name;
  spec.argv = {
      os::own_program_dir() + "/process_bench_hanging", one.kind, std::to_string(one.deadline_ms),
      std::to_string(std::max(one.deadline_ms / 4, 1)), "5",      "sleep"};
  spec.env = {{"HANG_FILE", file}};
  spec.restart = RestartPolicy::kAlways;
  spec.max_restarts = 1'000'000;
  spec.restart_delay = os::Duration(0);
  spec.capture = CaptureMode::kNone;
  must(supervisor.add(spec));
  must(supervisor.start(name));
}

void print_case(const Case& one, const std::string& file) {
  const std::string bytes = must(os::read_file(os::real_files(), file));
  std::vector<double> beyond;
  for (std::size_t i = 0; i < one.rounds; ++i) {
    std::int64_t last_beat = 0;
    DEFIB_ASSERT((i + 1) * sizeof last_beat <= bytes.size());
    std::memcpy(&last_beat, bytes.data() + i * sizeof last_beat, sizeof last_beat);
    const std::int64_t deadline_at = last_beat + one.deadline_ms * 1'000'000LL;
    beyond.push_back(static_cast<double>(one.told_at[i] - deadline_at) / 1e6);
  }
  const std::string name = fmt::format("hang_told_{}_{}ms", one.kind, one.deadline_ms);
  const double limit = one.kind == "stamped" ? 1.0 : one.deadline_ms / 4.0;
  for (const double fraction : {0.5, 0.99}) {
    print_row(name, fmt::format("beyond the deadline, p{:.0f}", fraction * 100), "ms",
              percentile(beyond, fraction), "", std::nullopt, limit, static_cast<int>(one.rounds));
  }
}

}  // namespace

void bench_hangs(const std::string& dir) {
  bench_cost();
  os::raise_own_priority(false);
  const std::unique_ptr<os::EventLoop> loop = must(os::EventLoop::create());
  std::map<std::string, Case> cases;
  for (const char* kind : {"stamped", "counting"}) {
    for (const auto& [deadline_ms, rounds] :
         {std::pair(5, 200), std::pair(20, 120), std::pair(100, 60), std::pair(1000, 8)}) {
      const std::string name = fmt::format("{}-{}", kind, deadline_ms);
      cases[name] = {kind, deadline_ms, static_cast<std::size_t>(rounds)};
    }
  }
  Times times(*loop, cases);
  Supervisor::Options options;
  options.state_dir = dir + "/hangs";
  const auto supervisor = must(Supervisor::create(*loop, options, times));
  const auto file = [&](const std::string& name) { return fmt::format("{}/{}.beats", dir, name); };
  for (const auto& [name, one] : cases) add_service(*supervisor, name, one, file(name));
  must(loop->run());
  for (const auto& [name, one] : cases) print_case(one, file(name));
  bool done = false;
  supervisor->shutdown([&] {
    done = true;
    loop->stop();
  });
  while (!done) must(loop->run());
  os::lower_own_priority();
}
