// What a crash costs: the path of a real service under the real shim, from the fault on.
//
//   known            until the shim has heard of it
//   released         until the process was copied and let go
//   stopped          how long of that its threads stood still
//   replacement      until the main() of the replacement (restart_when = "dying")
//   report           until the JSON report is on the disk, the first one (cold) and later ones
//   hook             work in a second with the agent preloaded and without: what it costs until
//   then sampling         one core's share for the ring of samples of one service
//
// With 1 MB and 4 GB of memory. Peers, in the same run: `eu-stack --core -s` and `gdb -batch -ex
// 'thread apply all bt'` on a core of the same victim (tools/bench-peers debuggers; else what the
// system has). Prints JSON rows.

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "benchmarks/process_bench.h"
#include "defib/os/clock.h"
#include "defib/os/file_watch.h"
#include "defib/os/process.h"
#include "defib/os/process_tree.h"
#include "defib/postmortem/samples.h"
#include "defib/process/supervisor.h"

namespace {

using namespace defib;
using namespace defib::process;

constexpr int kSmallRounds = 25, kLargeRounds = 7, kPeerRounds = 5, kColdRounds = 3;
constexpr int kLargeMegabytes = 4096;

void row(std::string_view name, std::string_view metric, std::string_view unit, double ours,
         std::string_view peer_name, std::optional<double> peer, int runs,
         std::optional<double> target = std::nullopt) {
  wire::Json json = wire::Json::object({{"bench", "postmortem"},
                                        {"case", name},
                                        {"metric", metric},
                                        {"unit", unit},
                                        {"ours", ours},
                                        {"peer_name", peer_name},
                                        {"peer", peer ? wire::Json(*peer) : wire::Json()},
                                        {"ratio", peer ? wire::Json(ours / *peer) : wire::Json()},
                                        {"limit", wire::Json()},
                                        {"runs", runs}});
  if (target) {
    json.set("target", *target);
    json.set("met", ours <= *target);
  }
  fmt::print("{}\n", json.dump());
}

struct Times {
  std::vector<double> known, released, stopped, replacement, cold, warm;
};

class Watcher : public SupervisorObserver {
 public:
  explicit Watcher(os::EventLoop& loop) : loop_(loop) {}
  void dying(const DyingReport& report) override {
    if (report.sign == shim::DyingSign::kCrashFlag) known_ns = report.noticed_mono_ns;
  }
  // That it is there is told after the end of the process, which takes long with much memory.
  void watch_reports(os::FileWatch& files, const std::string& dir) {
    must(files.add(dir, IN_CREATE | IN_MOVED_TO, [this](std::uint32_t, std::string_view name) {
      if (name.starts_with("crash-") && name.substr(name.find('.')) == ".json")
        on_disk_ns = loop_.clock().mono_ns();
    }));
  }
  void captured(const CaptureReport& report) override {
    told = true;
    path = report.path;
    ok = report.ok;
    if (!report.ok) {
      fmt::print(stderr, "postmortem_bench: a capture failed: {}\n",
                 report.error ? report.error->to_text() : "");
    }
  }
  void started(const StartInfo& info) override { start = info; }
  void start_failed(const std::string&, const Error& error) override {
    fmt::print(stderr, "{}\n", error.to_text());
    std::exit(1);
  }
  std::int64_t known_ns = 0, on_disk_ns = 0;
  bool told = false, ok = false;
  std::string path;
  StartInfo start;

 private:
  os::EventLoop& loop_;
};

std::vector<std::int64_t> read_stamps(const std::string& path) {
  const auto bytes = os::read_file(os::real_files(), path);
  std::vector<std::int64_t> stamps(bytes ? bytes->size() / sizeof(std::int64_t) : 0);
  if (!stamps.empty()) std::memcpy(stamps.data(), bytes->data(), stamps.size() * 8);
  return stamps;
}

void run_until(os::EventLoop& loop, const std::function<bool()>& condition) {
  const auto timer = loop.run_every(std::chrono::milliseconds(2), [&] {
    if (condition()) loop.stop();
  });
  while (!condition()) must(loop.run());
  loop.cancel(timer);
}

// One service's life: `rounds` crashes. The first report of each life is a cold one; before the
// second the symbol tables are made, as the supervisor has it done for a service that stays
// healthy.
void bench_crashes(const std::string& dir, const std::string& victim, int megabytes, int rounds,
                   Times& times) {
  std::filesystem::create_directories(dir);
  const std::string stamps = dir + "/stamps";
  const std::unique_ptr<os::EventLoop> loop = must(os::EventLoop::create());
  Watcher watcher(*loop);
  Supervisor::Options options;
  options.state_dir = dir + "/state";
  const auto supervisor = must(Supervisor::create(*loop, options, watcher));
  ServiceSpec spec;
  spec.name = "bench";
  spec.argv = {victim, stamps, std::to_string(megabytes)};
  spec.max_restarts = 1'000'000;
  spec.restart_delay = os::Duration(0);
  spec.same_crash_limit = 0;
  spec.restart_when = RestartWhen::kDying;
  must(supervisor->add(spec));
  must(supervisor->start("bench"));
  std::size_t started = 1;
  const auto is_ready = [&] { return read_stamps(stamps + ".ready").size() >= started; };
  run_until(*loop, is_ready);
  const std::string captures = options.state_dir + "/services/bench/capture";
  const std::unique_ptr<os::FileWatch> files = must(os::FileWatch::create(*loop));
  watcher.watch_reports(*files, captures);
  for (int round = 0; round < rounds; ++round) {
    if (round == 1) {
      must(os::run_command(
          {os::own_program_dir() + "/defib-capture", "warm", std::to_string(watcher.start.pid),
           "--symbol-cache", captures + "/symbols"},
          60'000));
    }
    // The ticket for the next start is made durable after the last one: not what is measured.
    loop->run_after(std::chrono::milliseconds(200), [&] { loop->stop(); });
    must(loop->run());
    watcher.known_ns = watcher.on_disk_ns = 0;
    watcher.told = false;
    ::kill(watcher.start.pid, SIGUSR1);
    ++started;
    run_until(*loop,
              [&] { return watcher.told && watcher.known_ns != 0 && watcher.on_disk_ns != 0; });
    run_until(*loop, is_ready);
    // On a machine that is busy with other work; that it happened has been said.
    if (!watcher.ok) continue;
    const auto text = must(os::read_file(os::real_files(), watcher.path));
    const wire::Json report = must(wire::Json::parse(text));
    const std::int64_t crashed = report["crashed_mono_ns"].as_int();
    const auto since = [crashed](std::int64_t at) {
      return static_cast<double>(at - crashed) / 1e6;
    };
    times.known.push_back(since(watcher.known_ns));
    times.released.push_back(static_cast<double>(report["captured_in_ns"].as_int()) / 1e6);
    times.stopped.push_back(static_cast<double>(report["stopped_ns"].as_int()) / 1e6);
    times.replacement.push_back(since(read_stamps(stamps)[started - 1]));
    (round == 0 ? times.cold : times.warm).push_back(since(watcher.on_disk_ns));
    DEFIB_ASSERT(report["threads"].size() == 8);
  }
  bool done = false;
  supervisor->shutdown([&] {
    done = true;
    loop->stop();
  });
  while (!done) must(loop->run());
}

struct Peer {
  std::string name;
  std::vector<double> ms;
};

// A core of the victim, or empty where the kernel sends cores elsewhere.
std::string core_of(const std::string& dir, const std::string& victim) {
  std::filesystem::create_directories(dir);
  const std::string script = fmt::format(
      "cd {0}; ulimit -c unlimited; {1} {0}/core-stamps 1 & victim=$!; "
      "while ! [ -s {0}/core-stamps.ready ]; do sleep 0.01; done; kill -USR1 $victim; wait $victim",
      dir, victim);
  static_cast<void>(os::run_command({"/bin/bash", "-c", script}, 30'000).has_value());
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().filename().string().starts_with("core") && entry.file_size() > 100'000) {
      return entry.path();
    }
  }
  return {};
}

// The program that the benchmark unpacked, or the system's; empty: there is none.
std::string find_peer(const std::string& root, const std::string& name) {
  for (const std::string& place : {root + "/usr/bin/", std::string("/usr/bin/")}) {
    if (::access((place + name).c_str(), X_OK) == 0) return place + name;
  }
  return {};
}

Peer bench_peer(const std::string& name, const std::vector<std::string>& argv,
                const std::string& expects) {
  Peer peer{name, {}};
  for (int round = 0; round < kPeerRounds; ++round) {
    const std::int64_t start = os::real_clock().mono_ns();
    const auto output = os::run_command(argv, 120'000);
    const double ms = static_cast<double>(os::real_clock().mono_ns() - start) / 1e6;
    if (!output || output->text.find(expects) == std::string::npos) {
      fmt::print(stderr, "postmortem_bench: {} did not show the stack\n", name);
      return {name, {}};
    }
    peer.ms.push_back(ms);
  }
  return peer;
}

// Rounds of work in a second, with the agent and without, in turn.
void bench_hook(const std::string& victim, const std::string& agent) {
  constexpr int kRounds = 7;
  std::vector<double> with, without;
  const auto run = [&](const std::string& preload) {
    // Supervised as the shim does it, or the agent does nothing at all.
    std::vector<std::string> argv = {"/usr/bin/env"};
    if (!preload.empty()) argv.push_back("LD_PRELOAD=" + preload);
    argv.insert(argv.end(), {victim, "work", "1"});
    const auto output = must(os::run_command(argv, 30'000));
    return std::strtod(output.text.c_str(), nullptr);
  };
  for (int round = 0; round < kRounds; ++round) {
    without.push_back(run({}));
    with.push_back(run(agent));
  }
  row("hook", "work in a second, p50", "1/s", percentile(with, 0.5), "without the agent",
      percentile(without, 0.5), kRounds);
}

void bench_sampling(const std::string& dir) {
  constexpr int kSamples = 2000;
  constexpr double kIntervalSeconds = 5;
  auto ring = must(postmortem::SampleRing::open(dir + "/ring", postmortem::SampleKind::kService));
  rusage before{}, after{};
  ::getrusage(RUSAGE_SELF, &before);
  for (int i = 0; i < kSamples; ++i) {
    std::array<std::uint64_t, postmortem::kServiceNumbers> numbers{};
    DEFIB_ASSERT(postmortem::sample_process(::getpid(), 1, numbers));
    must(ring.add(os::real_clock().mono_ns(), os::real_clock().wall_ns(), numbers));
  }
  ::getrusage(RUSAGE_SELF, &after);
  const auto seconds = [](const rusage& usage) {
    return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  };
  const double each = (seconds(after) - seconds(before)) / kSamples;
  row("sampling", "processor time of a sample", "us", each * 1e6, "", std::nullopt, kSamples);
  row("sampling", "share of a core, each service", "%", each / kIntervalSeconds * 100, "",
      std::nullopt, kSamples, 0.05);
}

void print_times(const std::string& size, Times& times, Peer& eu_stack, Peer& gdb) {
  const int runs = static_cast<int>(times.known.size());
  for (const double fraction : {0.5, 0.99}) {
    const std::string p = fmt::format("p{:.0f}", fraction * 100);
    const auto value = [fraction](std::vector<double>& values) {
      return percentile(values, fraction);
    };
    const bool judged = fraction < 0.9;
    row("known_" + size, p, "ms", value(times.known), "", std::nullopt, runs);
    row("released_" + size, p, "ms", value(times.released), "", std::nullopt, runs,
        judged ? std::optional(3.0) : std::nullopt);
    row("stopped_" + size, p, "ms", value(times.stopped), "", std::nullopt, runs);
    row("replacement_" + size, p, "ms", value(times.replacement), "", std::nullopt, runs);
    const std::optional<double> peer =
        eu_stack.ms.empty() ? std::nullopt : std::optional(percentile(eu_stack.ms, 0.5));
    const std::optional<double> slow =
        gdb.ms.empty() ? std::nullopt : std::optional(percentile(gdb.ms, 0.5));
    const double cold = value(times.cold), warm = value(times.warm);
    row("report_cold_" + size, p, "ms", cold, eu_stack.name, peer,
        static_cast<int>(times.cold.size()),
        judged && peer ? std::optional(*peer * 1.2) : std::nullopt);
    row("report_cold_" + size, p, "ms", cold, gdb.name, slow, static_cast<int>(times.cold.size()),
        judged && slow ? std::optional(*slow / 8) : std::nullopt);
    row("report_warm_" + size, p, "ms", warm, eu_stack.name, peer,
        static_cast<int>(times.warm.size()), judged ? std::optional(20.0) : std::nullopt);
    row("report_warm_" + size, p, "ms", warm, gdb.name, slow, static_cast<int>(times.warm.size()),
        judged && slow ? std::optional(*slow / 8) : std::nullopt);
  }
}

}  // namespace

int main(int argc, char** argv) {
  bool quick = false;
  std::string_view only;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--json") continue;
    if (argument == "--quick") {
      quick = true;
    } else if (argument == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else {
      fmt::print(stderr,
                 "postmortem_bench [--json] [--quick] [--only PART]\n"
                 "  --json   rows as JSON, one a line: there is no other form\n"
                 "  --quick  tiny sizes and no peers: shows that it works, measures nothing\n"
                 "  --only   1mb, 4gb or cost\n");
      return argument == "--help" ? 0 : 2;
    }
  }
  const auto wanted = [only](std::string_view part) { return only.empty() || only == part; };
  const std::string bin = os::own_program_dir();
  const std::string peers = bin + "/../../peers/debuggers/root";
  char dir_text[] = "/tmp/defib-postmortem-bench-XXXXXX";
  DEFIB_ASSERT(::mkdtemp(dir_text) != nullptr);
  const std::string dir = dir_text, victim = bin + "/postmortem_bench_victim";

  Peer eu_stack{"eu-stack --core -s", {}}, gdb{"gdb -batch", {}};
  const bool with_peers = !quick && only != "cost";
  const std::string core = with_peers ? core_of(dir + "/core", victim) : std::string();
  if (core.empty() && with_peers) {
    fmt::print(stderr, "postmortem_bench: no core file here, so no peers (core_pattern)\n");
  }
  if (const std::string path = find_peer(peers, "eu-stack"); !core.empty() && !path.empty()) {
    const std::string libraries = "LD_LIBRARY_PATH=" + peers + "/usr/lib/x86_64-linux-gnu";
    eu_stack = bench_peer(eu_stack.name,
                          {"/usr/bin/env", libraries, path, "--core=" + core, "-s", "-e", victim},
                          "fill_order");
  }
  if (const std::string path = find_peer(peers, "gdb"); !core.empty() && !path.empty()) {
    gdb = bench_peer(gdb.name, {path, "-batch", "-ex", "thread apply all bt", victim, core},
                     "fill_order");
  }

  if (wanted("1mb")) {
    Times small;
    for (int life = 0; life < (quick ? 1 : kColdRounds); ++life) {
      bench_crashes(fmt::format("{}/small-{}", dir, life), victim, 1,
                    quick ? 3 : kSmallRounds / kColdRounds + 1, small);
    }
    print_times("1mb", small, eu_stack, gdb);
  }
  std::error_code ignored;
  const auto free_pages = static_cast<std::uint64_t>(::sysconf(_SC_AVPHYS_PAGES));
  const std::uint64_t free_megabytes =
      free_pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE)) >> 20;
  // The one that dies and its replacement are there at the same time.
  const bool has_room = free_megabytes > std::uint64_t{kLargeMegabytes} * 5 / 2;
  if (!quick && wanted("4gb") && has_room) {
    Times large;
    bench_crashes(dir + "/large", victim, kLargeMegabytes, kLargeRounds, large);
    print_times("4gb", large, eu_stack, gdb);
  }
  if (!quick && wanted("4gb") && !has_room) {
    fmt::print(stderr, "postmortem_bench: too little free memory for the victim of 4 GB\n");
  }
  if (wanted("cost")) bench_sampling(dir);
  if (wanted("cost") && !quick) bench_hook(victim, bin + "/../lib/libdefib-agent.so");
  std::filesystem::remove_all(dir, ignored);
  return 0;
}
