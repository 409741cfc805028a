// The connection level measured: the pool alone against a pool of a mutex, a condition variable and
// a deque in the same run; and real servers behind a proxy that breaks connections: liveness, black
// holes, restarts, commits that are cut, a storm of clients.
//
//   connection_bench [--json] [--long] [--quick] [--only CASE]    a case's name or its beginning
// --long: 9,000 cuts, 900 kills and 100 crashes of the server at commits, 30 s of the storm.

#include "benchmarks/connection_bench.h"

#include <fmt/core.h>
#include <string.h>

#include <string_view>

namespace defib::bench {

void print_row(const Row& row) {
  using wire::Json;
  Json json = Json::object({{"bench", "connection"},
                            {"case", row.bench_case},
                            {"metric", row.metric},
                            {"unit", row.unit},
                            {"ours", row.ours}});
  json.set("peer_name", row.peer_name.empty() ? Json() : Json(row.peer_name));
  json.set("peer", row.peer ? Json(*row.peer) : Json());
  json.set("ratio", row.peer && *row.peer != 0 ? Json(row.ours / *row.peer) : Json());
  json.set("limit", Json());
  json.set("runs", row.runs);
  if (!row.target.empty()) json.set("target", row.target);
  if (row.met) json.set("met", *row.met);
  fmt::print("{}\n", json.dump());
  (void)fflush(stdout);
}

namespace {

struct Case {
  const char* name;
  Result<> (*run)(const BenchOptions&);
};
constexpr Case kCases[] = {
    {"checkout", bench_checkout},
    {"fairness", bench_fairness},
    {"liveness", bench_liveness},
    {"idle_kills", bench_idle_kills},
    {"black_hole", bench_black_hole},
    {"restart", bench_restart},
    {"commits.cuts.libpq", bench_cuts_libpq},
    {"commits.cuts.psqlodbc", bench_cuts_psqlodbc},
    {"commits.cuts.mariadb", bench_cuts_mariadb},
    {"commits.backend_kills", bench_backend_kills},
    {"commits.client_kills", bench_client_kills},
    {"commits.server_crashes", bench_server_crashes},
    {"price", bench_resolution_price},
    {"storm", bench_storm},
};

int run(int argc, char** argv) {
  BenchOptions options;
  std::string_view only;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--long") {
      options.long_form = true;
    } else if (argument == "--quick") {
      options.quick = true;
    } else if (argument == "--only" && i + 1 < argc) {
      only = argv[++i];
    } else if (argument != "--json") {
      fmt::print("usage: connection_bench [--json] [--long] [--quick] [--only CASE]\ncases:\n");
      for (const Case& one : kCases) fmt::print("  {}\n", one.name);
      return argument == "--help" ? 0 : 2;
    }
  }
  for (const Case& one : kCases) {
    if (!std::string_view(one.name).starts_with(only)) continue;
    const Result<> done = one.run(options);
    if (!done) {
      fmt::print(stderr, "{}: {}\n", one.name, done.error().to_text());
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace defib::bench

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--storm-client") {
    return defib::bench::storm_client(argc, argv);
  }
  if (argc > 1 && std::string_view(argv[1]) == "--commit-client") {
    return defib::bench::commit_client(argc, argv);
  }
  return defib::bench::run(argc, argv);
}
