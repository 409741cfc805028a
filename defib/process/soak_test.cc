// A long life in short: thousands of restarts, replaced shims, take-overs, changed configurations,
// status questions. Afterwards supervisor and shim hold as many descriptors, processes and bytes as
// before.
//
// DEFIB_SOAK_ROUNDS: restarts (a service that crashes once a minute has 1,440 in a day).

#include <fmt/core.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>

#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

struct Holdings {
  std::ptrdiff_t own_descriptors = 0;
  std::ptrdiff_t shim_descriptors = 0;
  std::uint64_t own_bytes = 0;  // allocated
  std::uint64_t shim_bytes = 0;
  std::size_t processes = 0;
  std::uintmax_t files = 0;  // in the state directory
};

std::ptrdiff_t descriptors_of(const std::string& pid) {
  const std::filesystem::directory_iterator all("/proc/" + pid + "/fd");
  return std::distance(begin(all), end(all));
}

class Soak : public SupervisorTest {
 protected:
  Holdings holdings() {
    // What a dead instance leaves is taken away a moment after its end.
    ::usleep(100'000);
    Holdings now;
    now.own_descriptors = descriptors_of("self");
    now.shim_descriptors = descriptors_of(std::to_string(status().shim_pid));
    now.own_bytes = ::mallinfo2().uordblks;
    now.shim_bytes = os::process_usage(status().shim_pid, true)->pss_bytes;
    now.processes = processes().size();
    const std::filesystem::recursive_directory_iterator all(state_dir_);
    now.files = static_cast<std::uintmax_t>(std::distance(begin(all), end(all)));
    return now;
  }
  // Runs, with a ticket for the next restart, and everything told of the life before.
  void settle(std::size_t restarts) {
    run_until([&] {
      return seen_->starts.size() + seen_->adoptions.size() >= restarts && status().restart_ready &&
             processes().size() == 2;
    });
  }
  void round(int number);
  ServiceSpec spec() const {
    ServiceSpec spec = victim({"notify"});
    // The budget remembers what happened in its window, and shall forget here.
    spec.max_restarts = 1000;
    spec.restart_window = std::chrono::milliseconds(500);
    spec.log_max_bytes = 65536;
    return spec;
  }
};

void Soak::round(int number) {
  *seen_ = Recorder{};
  if (number % 7 == 3) {
    const pid_t shim = status().shim_pid;
    kill_one(shim, SIGKILL);
    run_until([&] { return seen_->new_shims.size() == 1 && status().restart_ready; });
  } else if (number % 11 == 5) {
    abandon_supervisor();
    make_supervisor();
    ASSERT_TRUE(supervisor_->add(spec()));
    settle(1);
  } else if (number % 5 == 1) {
    ServiceSpec changed = spec();
    changed.stop_timeout = std::chrono::seconds(1 + number % 9);
    ASSERT_TRUE(supervisor_->update(changed));
    settle(0);
  } else {
    constexpr int kSignals[] = {SIGKILL, SIGTERM, SIGUSR2, SIGABRT};
    kill_service(kSignals[number % 4]);
    settle(1);
  }
  for (int i = 0; i < 5; ++i) static_cast<void>(supervisor_->status());
  while (::waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

TEST_F(Soak, NothingIsLeaked) {
  const char* text = std::getenv("DEFIB_SOAK_ROUNDS");
  const int rounds = text != nullptr ? std::max(100, std::atoi(text)) : 385;
  // Every kind of round (7 x 11 x 5), until the budget remembers as many restarts as it ever does.
  constexpr int kWarmUp = 6 * 385;
  start(spec());
  settle(1);
  Holdings before;
  for (int number = 0; number < kWarmUp + rounds; ++number) {
    if (number == kWarmUp) before = holdings();
    round(number);
    if (HasFatalFailure()) return;
  }
  const Holdings after = holdings();
  EXPECT_EQ(after.own_descriptors, before.own_descriptors);
  EXPECT_EQ(after.shim_descriptors, before.shim_descriptors);
  EXPECT_EQ(after.processes, before.processes);
  EXPECT_EQ(after.files, before.files);
  // What a leak of one byte a restart would leave is more than what comes and goes by itself.
  const auto slack = static_cast<std::uint64_t>(rounds);
  EXPECT_LT(after.own_bytes, before.own_bytes + slack + 8192);
  EXPECT_LE(after.shim_bytes, before.shim_bytes + 8192);
  std::printf("  %d rounds after %d: descriptors %td, shim's %td, bytes %lu -> %lu, shim's %lu\n",
              rounds, kWarmUp, after.own_descriptors, after.shim_descriptors, before.own_bytes,
              after.own_bytes, after.shim_bytes);
}

}  // namespace
}  // namespace defib::process
