// The child processes of the store's benchmark: one task, one line of JSON, and an end that closes
// nothing unless the task said so.

#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>

#include "benchmarks/store_tasks.h"

int main(int argc, char** argv) {
  using namespace defib;
  const auto run = [&]() -> Result<wire::Json> {
    if (argc < 2) return Error(Code::kWrongUsage, "no task; ./bench store runs these programs");
    DEFIB_TRY_ASSIGN(const auto parameters, bench::Parameters::parse(argc - 2, argv + 2));
    return bench::run_task(argv[1], parameters);
  };
  const auto result = run();
  if (!result) {
    fmt::print(stderr, "{}\n", result.error().to_text());
    return 1;
  }
  fmt::print("{}\n", result->dump());
  std::fflush(stdout);
  _exit(0);
}
