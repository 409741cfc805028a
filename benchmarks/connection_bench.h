// What the connection benchmark's files share.

#pragma once

#include <optional>
#include <string>

#include "defib/base/error.h"
#include "defib/wire/json.h"

namespace defib::bench {

struct Row {
  std::string bench_case, metric, unit;
  double ours = 0;
  std::string peer_name = {};
  std::optional<double> peer = {};
  std::string target = {};  // in words
  std::optional<bool> met = {};
  int runs = 1;
};
void print_row(const Row& row);

struct BenchOptions {
  bool long_form = false;
  bool quick = false;
};

// connection_bench_pool.cc
Result<> bench_checkout(const BenchOptions& options);
Result<> bench_fairness(const BenchOptions& options);
// connection_bench_network.cc
Result<> bench_liveness(const BenchOptions& options);
Result<> bench_idle_kills(const BenchOptions& options);
Result<> bench_black_hole(const BenchOptions& options);
Result<> bench_restart(const BenchOptions& options);
// connection_bench_commits.cc
Result<> bench_cuts_libpq(const BenchOptions& options);
Result<> bench_cuts_psqlodbc(const BenchOptions& options);
Result<> bench_cuts_mariadb(const BenchOptions& options);
Result<> bench_backend_kills(const BenchOptions& options);
Result<> bench_client_kills(const BenchOptions& options);
Result<> bench_server_crashes(const BenchOptions& options);
Result<> bench_resolution_price(const BenchOptions& options);
// A client that is killed at its commits.
int commit_client(int argc, char** argv);
// connection_bench_storm.cc
Result<> bench_storm(const BenchOptions& options);
// A client of the storm, in a process of its own; its exit code.
int storm_client(int argc, char** argv);

}  // namespace defib::bench
