// Tasks: what a child process of the store's benchmark does with its engine, once.
//
// A task is given as "NAME key=value...", prints one line of JSON on stdout when it is done, and
// with then=hold waits to be killed, then=close closes cleanly, then=rest checkpoints first;
// without it the process ends where it is, like a crash.
//
//   describe                          version
//   commits  dir threads seconds      synced commits of one record; latencies
//   puts     dir records batch ...    unsynced transactions; rate, bytes written
//   churn    dir key_space batch      endless puts, each with a counter (see kCounterKey)
//   open     dir                      open and first read; then what it holds
//   reads    dir records gets         random gets and ordered scans
//   flip     dir records              reads every key after one bit was flipped
//   checkpoint_latency  dir records   synced commits beside a checkpoint and merges
//   memory   dir records              the largest anonymous memory under writes, reads and scans

#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/wire/json.h"

namespace defib::bench {

inline constexpr std::size_t kKeySize = 16;
inline constexpr std::size_t kValueSize = 100;
inline constexpr std::size_t kRecordBytes = kKeySize + kValueSize;  // of the user's
// What `churn` writes in every transaction: the number of transactions so far, 8 bytes.
inline constexpr std::string_view kCounterKey = "~counter";

class Parameters {
 public:
  static Result<Parameters> parse(int count, char** words);
  std::string text(const std::string& name, const std::string& fallback = "") const;
  std::uint64_t number(const std::string& name, std::uint64_t fallback = 0) const;
  double real(const std::string& name, double fallback) const;

 private:
  std::map<std::string, std::string> values_;
};

// Record `number` of the data: random keys are spread over the whole range, no two alike.
std::string make_key(std::uint64_t number, bool random);
// Incompressible, and different for different numbers. A view that lives for ever.
std::string_view make_value(std::uint64_t number);

double median(std::vector<double> values);
// The value below which `fraction` of them lie. Sorts.
double percentile(std::vector<std::uint32_t>& values, double fraction);
// {"per_s", "p50_us", "p99_us", "p999_us"} of latencies in ns. Sorts.
wire::Json latency_json(std::vector<std::uint32_t>& latencies_ns, double seconds);

Result<wire::Json> run_task(const std::string& name, const Parameters& parameters);

}  // namespace defib::bench
