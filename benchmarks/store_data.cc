// The data of the store's benchmark, and what both its processes reckon with.

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>

#include "benchmarks/store_engine.h"
#include "benchmarks/store_tasks.h"
#include "defib/base/bytes.h"
#include "defib/os/random.h"

namespace defib::bench {
namespace {

constexpr std::size_t kPoolSize = 1 << 20;

const std::string& pool() {
  static const std::string* const bytes = [] {
    os::Random random(7);
    auto* filled = new std::string();
    while (filled->size() < kPoolSize + kValueSize) Writer(*filled).u64(random.next());
    return filled;
  }();
  return *bytes;
}

// The finalizer of SplitMix64: a bijection, so different numbers stay different.
std::uint64_t mixed(std::uint64_t number) {
  number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9;
  number = (number ^ (number >> 27)) * 0x94d049bb133111eb;
  return number ^ (number >> 31);
}

}  // namespace

Result<Parameters> Parameters::parse(int count, char** words) {
  Parameters parameters;
  for (int i = 0; i < count; ++i) {
    const std::string_view word = words[i];
    const std::size_t equals = word.find('=');
    if (equals == std::string_view::npos) {
      return Error(Code::kWrongUsage, "'" + std::string(word) + "' is not key=value");
    }
    parameters.values_.emplace(word.substr(0, equals), word.substr(equals + 1));
  }
  return parameters;
}

std::string Parameters::text(const std::string& name, const std::string& fallback) const {
  const auto found = values_.find(name);
  return found == values_.end() ? fallback : found->second;
}

std::uint64_t Parameters::number(const std::string& name, std::uint64_t fallback) const {
  const std::string value = text(name);
  std::uint64_t number = fallback;
  if (!value.empty()) std::from_chars(value.data(), value.data() + value.size(), number);
  return number;
}

double Parameters::real(const std::string& name, double fallback) const {
  const std::string value = text(name);
  return value.empty() ? fallback : std::strtod(value.c_str(), nullptr);
}

std::string make_key(std::uint64_t number, bool random) {
  std::string key(kKeySize, '\0');
  store_value(key.data(), __builtin_bswap64(random ? mixed(number) : number));
  store_value(key.data() + 8, __builtin_bswap64(number));
  return key;
}

std::string_view make_value(std::uint64_t number) {
  return std::string_view(pool()).substr(mixed(~number) % kPoolSize, kValueSize);
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[values.size() / 2];
}

double percentile(std::vector<std::uint32_t>& values, double fraction) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(fraction * static_cast<double>(values.size() - 1))];
}

wire::Json latency_json(std::vector<std::uint32_t>& latencies_ns, double seconds) {
  return wire::Json::object({{"per_s", static_cast<double>(latencies_ns.size()) / seconds},
                             {"p50_us", percentile(latencies_ns, 0.5) / 1e3},
                             {"p99_us", percentile(latencies_ns, 0.99) / 1e3},
                             {"p999_us", percentile(latencies_ns, 0.999) / 1e3}});
}

std::uint64_t bytes_of_files(const std::string& dir, std::string_view suffix) {
  std::uint64_t bytes = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(dir, ignored)) {
    if (!entry.is_regular_file(ignored)) continue;
    struct stat status;
    if (!entry.path().filename().string().ends_with(suffix)) continue;
    if (::stat(entry.path().c_str(), &status) != 0) continue;
    // Neither holes nor space that was allocated in advance.
    bytes += static_cast<std::uint64_t>(std::min(status.st_size, status.st_blocks * 512));
  }
  return bytes;
}

Error engine_error(std::string message) {
  return Error(Code::kIoError, std::move(message));
}

}  // namespace defib::bench
