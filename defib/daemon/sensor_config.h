// What watches a service from outside, as the user describes it: probes, log patterns, core files,
// and how the service is asked to recover (docs/daemon.md).

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/conf/conf.h"
#include "defib/os/clock.h"
#include "defib/process/service_spec.h"
#include "defib/recovery/probe.h"

namespace defib::daemon {

enum class ProbeKind : std::uint8_t { kHttp, kTcp, kExec };
std::string_view to_string(ProbeKind kind);  // "http" "tcp" "exec"

// [[service.X.probe]]
struct ProbeConfig {
  std::string name;  // unique in the service; "http", "tcp", "exec" where none is given
  ProbeKind kind = ProbeKind::kHttp;
  std::string url;                   // http: http://HOST[:PORT][/PATH]
  std::string address;               // tcp: HOST:PORT
  std::vector<std::string> command;  // exec: exit code 0 is healthy
  std::string working_directory;     // exec: where; empty: the supervisor's own
  recovery::ProbePolicy policy;
  // What an unhealthy service gets; nothing: the service's on_unhealthy.
  std::optional<process::LimitAction> action;
  friend bool operator==(const ProbeConfig&, const ProbeConfig&) = default;
};

enum class PatternAction : std::uint8_t { kAlert, kRecover, kRestart };
std::string_view to_string(PatternAction action);  // "alert" "recover" "restart"

// [[service.X.log_pattern]]
struct LogPattern {
  std::string match;  // a POSIX extended regular expression, with \d \s \w \b
  PatternAction action = PatternAction::kAlert;
  // It acts when so many lines matched within the window, and then counts anew.
  int count = 1;
  os::Duration window = std::chrono::minutes(1);
  bool on_stdout = true;
  bool on_stderr = true;
  friend bool operator==(const LogPattern&, const LogPattern&) = default;
};
inline constexpr int kMaxPatternCount = 10'000;
inline constexpr std::size_t kMaxPatterns = 32;  // and probes, of one service

// "5/1m": five lines within a minute. InvalidArgument says what is wrong.
Result<> parse_rate(std::string_view text, LogPattern& pattern);

// How a service that still runs is asked to recover: by a signal, a command, or both.
struct RecoverConfig {
  int signal = 0;                    // 0: none
  std::vector<std::string> command;  // empty: none
  os::Duration timeout = std::chrono::seconds(30);
  int attempts = 3;  // in a row; the next one is a restart
  bool possible() const { return signal != 0 || !command.empty(); }
  friend bool operator==(const RecoverConfig&, const RecoverConfig&) = default;
};

// The core files of the service that are kept; the oldest go first.
struct CoreLimits {
  int max_files = 4;                     // 0: none is kept
  std::uint64_t max_bytes = 4ULL << 30;  // of all together
  friend bool operator==(const CoreLimits&, const CoreLimits&) = default;
};

struct SensorConfig {
  std::vector<ProbeConfig> probes;
  std::vector<LogPattern> log_patterns;
  RecoverConfig recover;
  CoreLimits cores;
  friend bool operator==(const SensorConfig&, const SensorConfig&) = default;
};

// The keys and tables above, of the table [service.X].
void read_sensors(conf::Section& section, SensorConfig& config);
// What spans several keys, and the patterns' and addresses' own syntax.
Result<> validate(const SensorConfig& config);

}  // namespace defib::daemon
