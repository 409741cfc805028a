// store_bench: our store beside RocksDB, LevelDB, LMDB and SQLite, and beside what the machine can
// do without a store, all in one run.
//
// It conducts: every measurement is a process of its own (store_bench_NAME, one for each engine) in
// a directory of its own, ours and the peers' in turn, and each figure is a median. Rows carry the
// target that we hold ourselves to, and whether it is met. docs/benchmarks.md says what each case
// does and how the peers are set up.

#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "benchmarks/store_harness.h"
#include "defib/os/files.h"

namespace defib::bench {
namespace {

constexpr std::array kCases = {
    Case{"commits", "synced commits, 1 and 16 threads, beside the raw disk", commit_case},
    Case{"puts", "unsynced puts, one and 100 a transaction", put_case},
    Case{"kill", "what a kill -9 in the middle of putting leaves", kill_case},
    Case{"reads", "random gets and ordered scans", read_case},
    Case{"sizes", "bytes in the log, at rest, and written in all", size_case},
    Case{"recovery", "kill -9 to the first read, everything in the log", recovery_case},
    Case{"tail", "a large store with a short tail; clean openings", tail_case},
    Case{"budget", "kills at random against the recovery budget", budget_case},
    Case{"flips", "one flipped bit, in three states", flip_case},
    Case{"checkpoint", "commits beside a checkpoint and merges", checkpoint_case},
    Case{"memory", "the largest anonymous memory", memory_case},
};

constexpr std::string_view kDirPrefix = "store-bench-";

struct Arguments {
  bool json = false;
  bool is_quick = false;
  bool is_alone = false;
  int runs = 0;
  std::vector<std::string> only;
  std::string dir;
};

void print_usage() {
  fmt::print(
      "store_bench [--json] [--quick] [--runs N] [--only CASE[,CASE]] [--alone] [--dir DIR]\n"
      "  --json   rows as JSON, one a line; else for people\n"
      "  --quick  tiny sizes, one run: shows that it works, measures nothing\n"
      "  --runs   of each measurement (5; 3 of the long ones)\n"
      "  --only   these cases alone\n"
      "  --alone  without the peers\n"
      "  --dir    the file system to measure (where the program lies)\n"
      "cases:\n");
  for (const Case& one : kCases) fmt::print("  {:<12} {}\n", one.name, one.text);
}

std::vector<std::string> split(std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    if (comma > 0) parts.emplace_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

Result<Arguments> parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    const bool has_value = i + 1 < argc;
    if (option == "--json") {
      arguments.json = true;
    } else if (option == "--quick") {
      arguments.is_quick = true;
    } else if (option == "--alone") {
      arguments.is_alone = true;
    } else if (option == "--runs" && has_value) {
      arguments.runs = std::atoi(argv[++i]);
      if (arguments.runs < 1) return Error(Code::kWrongUsage, "--runs needs a number from 1 on");
    } else if (option == "--only" && has_value) {
      arguments.only = split(argv[++i]);
    } else if (option == "--dir" && has_value) {
      arguments.dir = argv[++i];
    } else {
      return Error(Code::kWrongUsage, fmt::format("what is '{}'?", option));
    }
  }
  for (const std::string& name : arguments.only) {
    if (std::ranges::find(kCases, name, &Case::name) == kCases.end()) {
      std::string names;
      for (const Case& one : kCases) names += fmt::format(" {}", one.name);
      return Error(Code::kWrongUsage, fmt::format("there is no case '{}', but:{}", name, names));
    }
  }
  return arguments;
}

// What runs that were killed left behind, gigabytes at worst: each names its directory by its pid.
void remove_leftovers(const std::string& dir) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(dir, ignored)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kDirPrefix)) continue;
    pid_t pid = 0;
    std::from_chars(name.data() + kDirPrefix.size(), name.data() + name.size(), pid);
    if (pid > 0 && ::kill(pid, 0) != 0) std::filesystem::remove_all(entry.path(), ignored);
  }
}

int run_limit_task(int argc, char** argv) {
  const auto run = [&]() -> Result<wire::Json> {
    if (argc < 3) return Error(Code::kWrongUsage, "--limit needs a name");
    DEFIB_TRY_ASSIGN(const auto parameters, Parameters::parse(argc - 3, argv + 3));
    return run_limit(argv[2], parameters);
  };
  const auto result = run();
  if (!result) {
    fmt::print(stderr, "{}\n", result.error().to_text());
    return 1;
  }
  fmt::print("{}\n", result->dump());
  return 0;
}

int conduct(const Arguments& arguments) {
  Scale scale = arguments.is_quick ? Scale::quick() : Scale{};
  if (arguments.runs > 0) {
    scale.runs = arguments.runs;
    scale.long_runs = std::min(scale.long_runs, arguments.runs);
  }
  const std::string dir =
      arguments.dir.empty() ? os::parent_dir(os::own_program_dir()) : arguments.dir;
  remove_leftovers(dir);
  Harness harness(scale, os::join_path(dir, fmt::format("{}{}", kDirPrefix, ::getpid())),
                  arguments.json);
  if (!arguments.is_alone) harness.find_peers();
  for (const Case& one : kCases) {
    if (!arguments.only.empty() &&
        std::ranges::find(arguments.only, one.name) == arguments.only.end()) {
      continue;
    }
    const std::int64_t start = os::real_clock().mono_ns();
    harness.say(fmt::format("{}: {}", one.name, one.text));
    one.run(harness);
    const os::Duration took(os::real_clock().mono_ns() - start);
    harness.say(fmt::format("{} took {}", one.name, os::format_duration(took)));
  }
  harness.say_noise();
  // The quick form is a test; else what was missed stands in its row.
  return arguments.is_quick && !harness.is_correct() ? 1 : 0;
}

}  // namespace
}  // namespace defib::bench

int main(int argc, char** argv) {
  using namespace defib::bench;
  const std::string_view first = argc > 1 ? argv[1] : "";
  if (first == "--limit") return run_limit_task(argc, argv);
  if (first == "--help" || first == "-h") {
    print_usage();
    return 0;
  }
  const auto arguments = parse(argc, argv);
  if (!arguments) {
    fmt::print(stderr, "error: {}\ntry: store_bench --help\n", arguments.error().message());
    return 2;
  }
  return conduct(*arguments);
}
