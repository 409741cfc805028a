#include "defib/recovery/probe.h"

#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "defib/os/process.h"
#include "defib/os/tcp.h"

namespace defib::recovery {
namespace {

constexpr std::size_t kShownOutput = 200;

ProbeResult unhealthy(Error error) {
  ProbeResult result;
  result.detail = error.to_line();
  result.error = std::move(error);
  return result;
}

Error probe_failed(const std::string& name, const std::string& why) {
  return Error(Code::kProbeFailed, fmt::format("the check {} failed: {}", name, why))
      .with("probe", name);
}

class TcpProbe final : public Probe {
 public:
  TcpProbe(std::string host, std::uint16_t port) : host_(std::move(host)), port_(port) {}

  std::string name() const override { return fmt::format("tcp {}:{}", host_, port_); }

  ProbeResult check(os::Duration timeout) override {
    const std::int64_t started = os::real_clock().mono_ns();
    const Result<os::Fd> connected = os::connect_tcp(host_, port_, timeout);
    if (!connected) {
      return unhealthy(
          probe_failed(name(), connected.error().message()).because(connected.error()));
    }
    const os::Duration took(os::real_clock().mono_ns() - started);
    return {.healthy = true, .detail = fmt::format("connected in {}", os::format_duration(took))};
  }

 private:
  std::string host_;
  std::uint16_t port_;
};

class ExecProbe final : public Probe {
 public:
  explicit ExecProbe(std::vector<std::string> argv) : argv_(std::move(argv)) {}

  std::string name() const override {
    return fmt::format("exec {}", argv_.empty() ? std::string("(nothing)") : argv_.front());
  }

  ProbeResult check(os::Duration timeout) override {
    if (argv_.empty()) return unhealthy(probe_failed(name(), "it has no command"));
    const auto whole_ms = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
    const auto limit_ms = std::clamp<std::int64_t>(whole_ms, 1, std::numeric_limits<int>::max());
    const Result<os::CommandOutput> output = os::run_command(argv_, static_cast<int>(limit_ms));
    if (!output) {
      return unhealthy(probe_failed(name(), output.error().message()).because(output.error()));
    }
    std::string detail = output->status.to_string();
    if (const std::string shown = first_line(output->text); !shown.empty()) {
      detail += ": " + shown;
    }
    if (!output->status.success()) return unhealthy(probe_failed(name(), detail));
    return {.healthy = true, .detail = std::move(detail)};
  }

 private:
  static std::string first_line(const std::string& text) {
    return text.substr(0, std::min(text.find('\n'), kShownOutput));
  }
  std::vector<std::string> argv_;
};

}  // namespace

bool HealthTracker::add(const ProbeResult& result, std::int64_t mono_ns) {
  const Health before = health_;
  if (result.healthy) {
    failures_ = 0;
    if (successes_ < policy_.successes_to_healthy) ++successes_;
    if (successes_ >= policy_.successes_to_healthy) {
      health_ = Health::kHealthy;
      last_error_.reset();
    }
    return health_ != before;
  }
  successes_ = 0;
  last_error_ = result.error;
  if (mono_ns - started_ < policy_.start_grace.count()) return false;
  if (failures_ < std::numeric_limits<int>::max()) ++failures_;
  if (failures_ >= policy_.failures_to_unhealthy) health_ = Health::kUnhealthy;
  return health_ != before;
}

std::unique_ptr<Probe> tcp_probe(std::string host, std::uint16_t port) {
  return std::make_unique<TcpProbe>(std::move(host), port);
}

std::unique_ptr<Probe> exec_probe(std::vector<std::string> argv) {
  return std::make_unique<ExecProbe>(std::move(argv));
}

}  // namespace defib::recovery
