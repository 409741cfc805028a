#include "defib/daemon/sensor_config.h"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <charconv>

#include "defib/daemon/log_watch.h"
#include "defib/daemon/probe_attempt.h"
#include "defib/os/process.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;

constexpr conf::Range<os::Duration> kPositiveTime{1ms, 24h * 365};
constexpr conf::Range<os::Duration> kAnyTime{0s, 24h * 365};
constexpr conf::Range<int> kThreshold{1, 1000};
constexpr std::uint64_t kMegabyte = 1 << 20;

Error bad(std::string_view key, std::string message) {
  return Error(Code::kInvalidArgument, std::move(message)).with("key", key);
}

ProbeConfig read_probe(conf::Section section) {
  ProbeConfig probe;
  section.word("kind", probe.kind,
               {{"http", ProbeKind::kHttp}, {"tcp", ProbeKind::kTcp}, {"exec", ProbeKind::kExec}});
  if (!section.has("kind")) section.fail("", "a probe needs kind = \"http\", \"tcp\" or \"exec\"");
  probe.name = to_string(probe.kind);
  section.value("name", probe.name);
  section.value("url", probe.url);
  section.value("address", probe.address);
  section.value("command", probe.command);
  section.value("working_directory", probe.working_directory);
  section.value("interval", probe.policy.interval, kPositiveTime);
  section.value("timeout", probe.policy.timeout, kPositiveTime);
  section.value("failures", probe.policy.failures_to_unhealthy, kThreshold);
  section.value("successes", probe.policy.successes_to_healthy, kThreshold);
  section.value("start_grace", probe.policy.start_grace, kAnyTime);
  if (section.has("on_unhealthy")) {
    probe.action = process::LimitAction::kRestart;
    section.word(
        "on_unhealthy", *probe.action,
        {{"alert", process::LimitAction::kAlert}, {"restart", process::LimitAction::kRestart}});
  }
  // The key that belongs to another kind is a mistake of the kind or of the key.
  const struct {
    std::string_view key;
    ProbeKind kind;
  } kOwn[] = {{"url", ProbeKind::kHttp},
              {"address", ProbeKind::kTcp},
              {"command", ProbeKind::kExec},
              {"working_directory", ProbeKind::kExec}};
  for (const auto& [key, kind] : kOwn) {
    if (section.has(key) && kind != probe.kind) {
      section.fail(key, fmt::format("'{}' belongs to kind = \"{}\"", key, to_string(kind)));
    }
  }
  return probe;
}

LogPattern read_pattern(conf::Section section) {
  LogPattern pattern;
  pattern.match = section.required<std::string>("match");
  section.word("action", pattern.action,
               {{"alert", PatternAction::kAlert},
                {"recover", PatternAction::kRecover},
                {"restart", PatternAction::kRestart}});
  std::string rate;
  section.value("rate", rate);
  if (!rate.empty()) {
    if (const auto parsed = parse_rate(rate, pattern); !parsed) {
      section.fail("rate", parsed.error().message());
    }
  }
  enum class Stream : std::uint8_t { kStdout, kStderr, kBoth } stream = Stream::kBoth;
  section.word("stream", stream,
               {{"stdout", Stream::kStdout}, {"stderr", Stream::kStderr}, {"both", Stream::kBoth}});
  pattern.on_stdout = stream != Stream::kStderr;
  pattern.on_stderr = stream != Stream::kStdout;
  return pattern;
}

void read_recover(conf::Section& section, RecoverConfig& recover) {
  std::string signal;
  section.value("recover_signal", signal);
  if (!signal.empty()) {
    recover.signal = os::signal_number(signal);
    if (recover.signal == 0 || recover.signal == SIGKILL || recover.signal == SIGSTOP) {
      section.fail(
          "recover_signal",
          fmt::format("'{}' is no signal that a service can answer, such as SIGUSR1", signal));
      recover.signal = 0;
    }
  }
  section.value("recover_command", recover.command);
  section.value("recover_timeout", recover.timeout, kPositiveTime);
  section.value("recover_attempts", recover.attempts, kThreshold);
}

Result<> validate_probe(const ProbeConfig& probe) {
  if (probe.name.empty() || probe.name.size() > 64) {
    return bad("name", "a probe's name has 1 to 64 characters");
  }
  switch (probe.kind) {
    case ProbeKind::kHttp: {
      DEFIB_TRY(ProbeTarget::parse_url(probe.url));
      return {};
    }
    case ProbeKind::kTcp: {
      DEFIB_TRY(ProbeTarget::parse_address(probe.address));
      return {};
    }
    case ProbeKind::kExec:
      if (probe.command.empty() || probe.command[0].empty()) {
        return bad("command", fmt::format("the probe '{}' has no command", probe.name));
      }
      return {};
  }
  return {};
}

}  // namespace

std::string_view to_string(ProbeKind kind) {
  constexpr std::string_view kWords[] = {"http", "tcp", "exec"};
  return kWords[static_cast<std::size_t>(kind)];
}

std::string_view to_string(PatternAction action) {
  constexpr std::string_view kWords[] = {"alert", "recover", "restart"};
  return kWords[static_cast<std::size_t>(action)];
}

Result<> parse_rate(std::string_view text, LogPattern& pattern) {
  const auto wrong = [&] {
    return bad("rate", fmt::format("'{}' is no rate such as \"5/1m\": from 1 to {} lines, within "
                                   "1ms to 24h",
                                   text, kMaxPatternCount));
  };
  const std::size_t slash = text.find('/');
  const std::string_view number = text.substr(0, slash);
  int count = 0;
  const auto [end, failed] = std::from_chars(number.data(), number.data() + number.size(), count);
  if (failed != std::errc{} || end != number.data() + number.size() || count < 1 ||
      count > kMaxPatternCount || slash == std::string_view::npos) {
    return wrong();
  }
  const os::Duration window = os::parse_duration(text.substr(slash + 1));
  if (window < 1ms || window > 24h) return wrong();
  pattern.count = count;
  pattern.window = window;
  return {};
}

void read_sensors(conf::Section& section, SensorConfig& config) {
  for (conf::Section& probe : section.tables("probe")) config.probes.push_back(read_probe(probe));
  read_recover(section, config.recover);
  section.value("max_core_files", config.cores.max_files, {0, 1000});
  std::int64_t megabytes = static_cast<std::int64_t>(config.cores.max_bytes / kMegabyte);
  section.value("max_core_mb", megabytes, {1, 1 << 30});
  config.cores.max_bytes = static_cast<std::uint64_t>(megabytes) * kMegabyte;
  // log_pattern is a text (one pattern that alerts) or tables.
  if (section.has_tables("log_pattern")) {
    for (conf::Section& pattern : section.tables("log_pattern")) {
      config.log_patterns.push_back(read_pattern(pattern));
    }
    return;
  }
  std::string simple;
  section.value("log_pattern", simple);
  if (!simple.empty()) {
    config.log_patterns.emplace_back();
    config.log_patterns.back().match = std::move(simple);
  }
}

Result<> validate(const SensorConfig& config) {
  if (config.probes.size() > kMaxPatterns || config.log_patterns.size() > kMaxPatterns) {
    return bad("probe", fmt::format("a service has at most {} probes and {} log patterns",
                                    kMaxPatterns, kMaxPatterns));
  }
  for (std::size_t i = 0; i < config.probes.size(); ++i) {
    const ProbeConfig& probe = config.probes[i];
    DEFIB_TRY(validate_probe(probe));
    for (std::size_t j = 0; j < i; ++j) {
      if (config.probes[j].name != probe.name) continue;
      return bad("probe", fmt::format("two probes have the name '{}'", probe.name))
          .suggest("give each probe a name of its own");
    }
  }
  DEFIB_TRY(LogWatch::create(os::real_clock(), config.log_patterns, [](const LogMatch&) {}));
  const bool asks = std::ranges::any_of(config.log_patterns, [](const LogPattern& pattern) {
    return pattern.action == PatternAction::kRecover;
  });
  if (asks && !config.recover.possible()) {
    return bad("log_pattern", "action = \"recover\" needs recover_signal or recover_command")
        .suggest("say how the service is asked, or use action = \"restart\"");
  }
  return {};
}

}  // namespace defib::daemon
