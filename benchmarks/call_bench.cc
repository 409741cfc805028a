// Isolated calls beside their limits, each measured in the same run: a bare spin-then-futex
// ping-pong over shared memory, a pipe, gRPC where it can be had, a bare ring, a bare fork with a
// handshake.
//
// Method: two processes; on two cores each is pinned to its own where there are two, on one core
// both to the first. Times are medians and p99 of single operations; rates are medians of runs.
// Prints JSON rows; the rows with "peer" have the peer of the same run.

#include <fmt/core.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "benchmarks/call_bench_plugin.h"
#include "defib/base/assert.h"
#include "defib/call/client.h"
#include "defib/call/spares.h"
#include "defib/os/clock.h"
#include "defib/os/process.h"
#include "defib/wire/json.h"

namespace {

using namespace defib;
using call_bench::BenchApi;
using call_bench::Record;

bool quick = false;
int scaled(int count) {
  return quick ? std::max(2, count / 100) : count;
}

std::int64_t now_ns() {
  return os::real_clock().mono_ns();
}

double percentile(std::vector<double> values, double part) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(static_cast<double>(values.size() - 1) * part)];
}

void row(std::string_view name, std::string_view metric, std::string_view unit, double ours,
         std::string_view peer_name, std::optional<double> peer, std::size_t runs) {
  auto json = wire::Json::object({{"bench", "call"},
                                  {"case", name},
                                  {"metric", metric},
                                  {"unit", unit},
                                  {"ours", ours},
                                  {"runs", static_cast<std::int64_t>(runs)}});
  if (peer) json.set("peer_name", peer_name).set("peer", *peer).set("ratio", ours / *peer);
  fmt::print("{}\n", json.dump());
}

void rows(std::string_view name, const std::vector<double>& ours, std::string_view peer_name,
          const std::vector<double>& peer, std::string_view unit) {
  for (const auto& [metric, part] : {std::pair("p50", 0.5), std::pair("p99", 0.99)}) {
    row(name, metric, unit, percentile(ours, part), peer_name, percentile(peer, part), ours.size());
  }
}

void pin(pid_t pid, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu < 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i) CPU_SET(i, &set);
  } else {
    CPU_SET(cpu, &set);
  }
  sched_setaffinity(pid, sizeof set, &set);
}

// The other side of a floor: a child that ends with us.
pid_t fork_peer(const std::function<void()>& work) {
  const pid_t pid = fork();
  DEFIB_ASSERT(pid >= 0);
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    work();
    _exit(0);
  }
  return pid;
}
void end_peer(pid_t pid) {
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

template <typename T>
T* shared() {
  void* memory =
      mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  DEFIB_ASSERT(memory != MAP_FAILED);
  return new (memory) T;
}

std::vector<double> times_of(int count, const std::function<void()>& operation) {
  for (int i = 0; i < count / 10 + 1; ++i) operation();
  std::vector<double> times;
  times.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    const std::int64_t start = now_ns();
    operation();
    times.push_back(static_cast<double>(now_ns() - start));
  }
  return times;
}

struct PingPong {
  alignas(64) std::atomic<std::uint32_t> there{0};
  alignas(64) std::atomic<std::uint32_t> back{0};
  alignas(64) std::atomic<std::uint32_t> there_sleeps{0};
  alignas(64) std::atomic<std::uint32_t> back_sleeps{0};
};

void await(std::atomic<std::uint32_t>& word, std::atomic<std::uint32_t>& sleeps,
           std::uint32_t old) {
  for (std::uint32_t i = 0; i < call::spins(); ++i) {
    if (word.load(std::memory_order_acquire) != old) return;
    call::relax();
  }
  while (word.load(std::memory_order_acquire) == old) {
    sleeps.store(1);
    if (word.load() == old) call::wait_while(word, old, -1);
    sleeps.store(0);
  }
}
void post(std::atomic<std::uint32_t>& word, std::atomic<std::uint32_t>& sleeps,
          std::uint32_t value) {
  word.store(value);
  if (sleeps.load() != 0) call::wake_all(word);
}

std::vector<double> shared_memory_floor(int count, int own_cpu, int peer_cpu) {
  auto* pair = shared<PingPong>();
  pin(0, own_cpu);
  const pid_t peer = fork_peer([pair, peer_cpu] {
    pin(0, peer_cpu);
    for (std::uint32_t i = 0;; ++i) {
      await(pair->there, pair->there_sleeps, i);
      post(pair->back, pair->back_sleeps, i + 1);
    }
  });
  std::uint32_t number = 0;
  auto times = times_of(count, [&] {
    post(pair->there, pair->there_sleeps, ++number);
    await(pair->back, pair->back_sleeps, number - 1);
  });
  end_peer(peer);
  return times;
}

std::vector<double> pipe_floor(int count, int own_cpu, int peer_cpu) {
  int there[2], back[2];
  DEFIB_ASSERT(pipe(there) == 0 && pipe(back) == 0);
  pin(0, own_cpu);
  const auto transfer = [](auto function, int fd, char* byte) {
    DEFIB_ASSERT(function(fd, byte, 1) == 1);
  };
  const pid_t peer = fork_peer([&] {
    pin(0, peer_cpu);
    char byte = 0;
    while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) {
    }
  });
  char byte = 1;
  auto times = times_of(count, [&] {
    transfer(write, there[1], &byte);
    transfer(read, back[0], &byte);
  });
  end_peer(peer);
  for (const int fd : {there[0], there[1], back[0], back[1]}) close(fd);
  return times;
}

// gRPC over a UNIX socket, measured by a program of its own; nothing where that was not built
// (./bench call builds it where its library can be had).
std::vector<double> grpc_peer(int count) {
  std::vector<double> times;
  const std::string program = os::own_program_dir() + "/call_peer_grpc";
  if (access(program.c_str(), X_OK) != 0) {
    fmt::print(stderr, "without gRPC: {} was not built (tools/bench-peers rpc)\n", program);
    return times;
  }
  FILE* out = popen(fmt::format("'{}' {}", program, count).c_str(), "r");
  DEFIB_ASSERT(out != nullptr);
  double time = 0;
  while (fscanf(out, "%lf", &time) == 1) times.push_back(time);
  if (pclose(out) != 0) times.clear();
  return times;
}

call::ClientOptions options() {
  call::ClientOptions chosen;
  chosen.backtrace = false;
  chosen.host = call::Host::start().value();
  return chosen;
}

const std::string& plugin() {
  static const std::string path = os::own_program_dir() + "/../lib/plugins/call_bench_plugin.so";
  return path;
}

call::Client<BenchApi> client_on(int own_cpu, int worker_cpu) {
  auto made = call::Client<BenchApi>::create(plugin(), options());
  DEFIB_ASSERT_MESSAGE(made.has_value(), "the plugin cannot be loaded");
  while (made->worker_pid() < 0) std::this_thread::yield();
  pin(made->worker_pid(), worker_cpu);
  pin(0, own_cpu);
  return std::move(*made);
}

void round_trips() {
  const int count = scaled(200'000);
  const int other = sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 1 : 0;
  const auto calls = [&](int own_cpu, int worker_cpu) {
    auto client = client_on(own_cpu, worker_cpu);
    return times_of(count, [&] { DEFIB_ASSERT(client.call<BenchApi::Empty>().has_value()); });
  };
  if (other == 1) {
    const auto ours = calls(0, 1);
    rows("empty_call_two_cores", ours, "bare spin-then-futex", shared_memory_floor(count, 0, 1),
         "ns");
    rows("empty_call_two_cores", ours, "pipe", pipe_floor(count / 20 + 1, 0, 1), "ns");
    // A process that may use one core alone does not spin: it is another program for it.
    pin(0, -1);
    if (const auto grpc = grpc_peer(count / 20 + 1); !grpc.empty()) {
      rows("empty_call_two_cores", ours, "gRPC, UNIX socket", grpc, "ns");
    }
  }
}

// In a process of its own that is pinned before anything asks how many cores there are.
void round_trips_on_one_core() {
  const pid_t pid = fork();
  DEFIB_ASSERT(pid >= 0);
  if (pid == 0) {
    pin(0, 0);
    const int count = scaled(100'000);
    auto client = client_on(0, 0);
    const auto ours =
        times_of(count, [&] { DEFIB_ASSERT(client.call<BenchApi::Empty>().has_value()); });
    rows("empty_call_one_core", ours, "pipe", pipe_floor(count, 0, 0), "ns");
    rows("empty_call_one_core", ours, "bare futex", shared_memory_floor(count, 0, 0), "ns");
    fflush(stdout);
    _exit(0);
  }
  waitpid(pid, nullptr, 0);
}

// A ring of the same size without anything else: no check, no wake-up, no end.
constexpr std::uint64_t kSlots = 64 * 1024;
struct BareRing {
  alignas(64) std::atomic<std::uint64_t> head{0};
  alignas(64) std::atomic<std::uint64_t> tail{0};
  alignas(64) Record records[kSlots];
};

double bare_ring_rate(std::int64_t count, int batch) {
  auto* ring = shared<BareRing>();
  const pid_t peer = fork_peer([ring, count, batch] {
    pin(0, 1);
    std::uint64_t tail = 0;
    Record record;
    for (std::int64_t at = 0; at < count; at += batch) {
      const auto want = static_cast<std::uint64_t>(at + batch);
      while (want - tail > kSlots) tail = ring->tail.load(std::memory_order_acquire);
      for (int i = 0; i < batch; ++i) {
        record.number = at + i;
        ring->records[static_cast<std::uint64_t>(at + i) % kSlots] = record;
      }
      ring->head.store(want, std::memory_order_release);
    }
    for (;;) pause();
  });
  pin(0, 0);
  std::uint64_t at = 0;
  std::int64_t sum = 0;
  const std::int64_t start = now_ns();
  while (at < static_cast<std::uint64_t>(count)) {
    const std::uint64_t head = ring->head.load(std::memory_order_acquire);
    for (; at < head; ++at) sum += ring->records[at % kSlots].number;
    ring->tail.store(at, std::memory_order_release);
  }
  const double seconds = static_cast<double>(now_ns() - start) / 1e9;
  DEFIB_ASSERT(sum != 0);
  end_peer(peer);
  munmap(ring, sizeof *ring);
  return static_cast<double>(count) / seconds / 1e6;
}

double stream_rate(std::int64_t count, int batch, bool by_peek) {
  auto client = client_on(0, 1);
  auto reader = client.open<BenchApi::Records>(count, batch).value();
  std::int64_t sum = 0;
  const std::int64_t start = now_ns();
  for (;;) {
    if (by_peek) {
      const auto some = reader.peek();
      DEFIB_ASSERT(some.has_value());
      if (some->empty()) break;
      for (const Record& record : *some) sum += record.number;
      reader.consume(some->size());
    } else {
      const auto record = reader.next();
      DEFIB_ASSERT(record.has_value());
      if (!*record) break;
      sum += (*record)->number;
    }
  }
  const double seconds = static_cast<double>(now_ns() - start) / 1e9;
  DEFIB_ASSERT(sum == count * (count - 1) / 2);
  return static_cast<double>(count) / seconds / 1e6;
}

void streams() {
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2) return;
  const std::int64_t count = quick ? 320'000 : 32'000'000;
  const int runs = quick ? 1 : 7;
  for (const int batch : {1, 32}) {
    for (const bool by_peek : {true, false}) {
      std::vector<double> ours, bare;
      for (int i = 0; i < runs; ++i) {
        ours.push_back(stream_rate(count, batch, by_peek));
        bare.push_back(bare_ring_rate(count, batch));
      }
      row(fmt::format("records_64_bytes_published_{}_{}", batch, by_peek ? "peek" : "next"), "p50",
          "M/s", percentile(ours, 0.5), "bare ring", percentile(bare, 0.5), ours.size());
    }
  }
  pin(0, -1);
}

// fork, and one byte through a pipe when the child runs.
std::vector<double> fork_floor(int count) {
  int fds[2];
  DEFIB_ASSERT(pipe(fds) == 0);
  std::vector<pid_t> children;
  auto times = times_of(count, [&] {
    children.push_back(fork_peer([&] {
      const char byte = 1;
      DEFIB_ASSERT(write(fds[1], &byte, 1) == 1);
    }));
    char byte = 0;
    DEFIB_ASSERT(read(fds[0], &byte, 1) == 1);
  });
  for (const pid_t child : children) waitpid(child, nullptr, 0);
  close(fds[0]);
  close(fds[1]);
  return times;
}

void fresh_clients() {
  const int count = scaled(300);
  const auto floor = fork_floor(count);
  const call::ClientOptions chosen = options();
  const auto first_answer = [](call::Client<BenchApi>& client) {
    DEFIB_ASSERT(client.call<BenchApi::Empty>().has_value());
  };
  call::Spares<BenchApi> spares(plugin(), chosen, 1);
  std::vector<double> warm;
  for (int i = 0; i < count; ++i) {
    DEFIB_ASSERT(spares.wait_until_full(call::Milliseconds(5000)));
    const std::int64_t start = now_ns();
    auto client = spares.take();
    DEFIB_ASSERT(client.has_value());
    first_answer(*client);
    warm.push_back(static_cast<double>(now_ns() - start));
  }
  const auto cold = times_of(count, [&] {
    auto client = call::Client<BenchApi>::create(plugin(), chosen);
    DEFIB_ASSERT(client.has_value());
    first_answer(*client);
  });
  const auto in_us = [](std::vector<double> times) {
    for (double& time : times) time /= 1000;
    return times;
  };
  rows("fresh_client_from_a_spare", in_us(warm), "bare fork and handshake", in_us(floor), "us");
  rows("fresh_client_cold", in_us(cold), "bare fork and handshake", in_us(floor), "us");
}

// From the crash (the first look at the clock in its handler) to the Error in the caller's hands.
void crashes() {
  const int count = scaled(100);
  const call::ClientOptions chosen = options();
  for (const int megabytes : {0, 512, 2048}) {
    if (quick && megabytes > 0) continue;
    for (const int wait_us : {0, 5000}) {
      std::vector<double> known;
      for (int i = 0; i < (megabytes == 0 ? count : count / 10 + 1); ++i) {
        auto client = call::Client<BenchApi>::create(plugin(), chosen);
        DEFIB_ASSERT(client.has_value());
        // Memory takes long: what is spun for is over, so those callers sleep.
        if (wait_us == 0 && megabytes > 0) continue;
        const auto error = client->call<BenchApi::Crash>(megabytes, wait_us);
        const std::int64_t end = now_ns();
        DEFIB_ASSERT(!error && error.error().code() == Code::kNativeCrash);
        const std::int64_t crashed = client->session().mapping()->channel().crash.crashed_mono_ns;
        known.push_back(static_cast<double>(end - crashed) / 1000);
      }
      if (known.empty()) continue;
      for (const auto& [metric, part] : {std::pair("p50", 0.5), std::pair("p90", 0.9)}) {
        row(fmt::format("crash_to_error_{}_{}MB", wait_us == 0 ? "spinning" : "sleeping",
                        megabytes),
            metric, "us", percentile(known, part), "", std::nullopt, known.size());
      }
    }
  }
}

void idle_workers() {
  const call::ClientOptions chosen = options();
  std::vector<call::Client<BenchApi>> clients;
  for (int i = 0; i < (quick ? 5 : 100); ++i) {
    clients.push_back(call::Client<BenchApi>::create(plugin(), chosen).value());
  }
  os::real_clock().sleep_for(std::chrono::milliseconds(200));
  const auto switches = [] {
    // All threads of this process.
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nvcsw;
  };
  const long before = switches();
  os::real_clock().sleep_for(std::chrono::seconds(quick ? 1 : 5));
  // The sleep itself is one.
  row("100_idle_workers", "wake-ups of the host", "", static_cast<double>(switches() - before - 1),
      "", std::nullopt, 1);
}

}  // namespace

int main(int argc, char** argv) {
  std::string only;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--quick") {
      quick = true;
    } else if (argument == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else if (argument != "--json") {
      fmt::print(stderr,
                 "call_bench [--json] [--quick] [--only round|one|stream|fresh|crash|idle]\n");
      return 2;
    }
  }
  const std::pair<std::string_view, void (*)()> cases[] = {
      {"one", round_trips_on_one_core}, {"round", round_trips}, {"stream", streams},
      {"fresh", fresh_clients},         {"crash", crashes},     {"idle", idle_workers}};
  for (const auto& [name, run] : cases) {
    if (only.empty() || only == name) run();
    fflush(stdout);
  }
}
