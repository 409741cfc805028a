#include "defib/daemon/http_helper.h"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <netinet/in.h>
#include <signal.h>

#include <charconv>

#include "defib/obs/log.h"
#include "defib/os/random.h"

namespace defib::daemon {
namespace {

constexpr std::string_view kComponent = "http";
constexpr const char* kProgram = "defib-http";

recovery::BackoffOptions start_backoff() {
  recovery::BackoffOptions options;
  options.base = std::chrono::milliseconds(200);
  options.cap = std::chrono::minutes(1);
  options.floor = std::chrono::milliseconds(50);
  options.first_immediate = true;
  options.reset_after = std::chrono::seconds(30);
  return options;
}

bool is_loopback(const std::string& host) {
  in_addr v4 = {};
  in6_addr v6 = {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6) != 0;
  return false;
}

bool is_address(const std::string& host) {
  in6_addr any = {};
  return inet_pton(AF_INET, host.c_str(), &any) == 1 ||
         inet_pton(AF_INET6, host.c_str(), &any) == 1;
}

}  // namespace

Result<ListenAddress> parse_listen(const std::string& text) {
  const auto wrong = [&](std::string_view why) {
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is no address to listen on: {}", text, why))
        .suggest("write ADDRESS:PORT, such as 127.0.0.1:9464 or [::1]:9464");
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return wrong("there is no port");
  ListenAddress address;
  address.host = text.substr(0, colon);
  const bool brackets = address.host.starts_with('[') && address.host.ends_with(']');
  if (brackets) address.host = address.host.substr(1, address.host.size() - 2);
  if (!brackets && address.host.find(':') != std::string::npos) {
    return wrong("an IPv6 address stands in brackets");
  }
  if (address.host == "localhost") address.host = "127.0.0.1";
  if (!is_address(address.host)) return wrong("it is no IP address");
  const std::string_view port = std::string_view(text).substr(colon + 1);
  const auto [end, failed] = std::from_chars(port.data(), port.data() + port.size(), address.port);
  if (failed != std::errc{} || end != port.data() + port.size())
    return wrong("the port is no number");
  address.loopback = is_loopback(address.host);
  return address;
}

Result<ListenAddress> check_http(const HttpSettings& settings) {
  DEFIB_TRY_ASSIGN(ListenAddress address, parse_listen(settings.listen));
  if (address.loopback) return address;
  if (!settings.allow_remote) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{} can be reached from other machines", settings.listen))
        .suggest("listen on 127.0.0.1, or say allow_remote = true and give a token");
  }
  if (settings.token.empty()) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{} can be reached from other machines, and there is no token",
                             settings.listen))
        .suggest("give token = \"env:NAME\" or \"file:PATH\"");
  }
  return address;
}

std::optional<HttpSettings> read_http(conf::Section section) {
  if (!section.present()) return std::nullopt;
  HttpSettings settings;
  section.value("listen", settings.listen);
  section.value("allow_remote", settings.allow_remote);
  conf::Secret token;
  section.value("token", token);
  section.secret_reference("token", settings.token);
  if (const auto checked = check_http(settings); !checked) {
    section.fail("listen", checked.error().message());
  }
  return settings;
}

HttpHelper::HttpHelper(os::EventLoop& loop, std::string state_dir)
    : loop_(loop),
      state_dir_(std::move(state_dir)),
      process_(loop),
      backoff_(start_backoff(), os::Random(os::random_seed())) {}

HttpHelper::~HttpHelper() {
  end();
}

void HttpHelper::end() {
  settings_.reset();
  if (timer_ != 0) loop_.cancel(timer_);
  timer_ = 0;
  process_.end();
}

void HttpHelper::serve(const std::optional<HttpSettings>& settings) {
  if (settings == settings_) return;
  settings_ = settings;
  backoff_.reset();
  if (timer_ != 0) loop_.cancel(timer_);
  timer_ = 0;
  if (process_.running()) return process_.terminate();  // its end starts the next one
  if (settings_) start();
}

void HttpHelper::start() {
  if (timer_ != 0) loop_.cancel(timer_);
  timer_ = 0;
  HelperProcess::Options options;
  options.argv = {kProgram, "--state-dir", state_dir_, "--listen", settings_->listen};
  if (!settings_->token.empty()) {
    options.argv.insert(options.argv.end(), {"--token", settings_->token});
  }
  if (settings_->allow_remote) options.argv.emplace_back("--allow-remote");
  options.dies_with_us = true;
  started_mono_ns_ = loop_.clock().mono_ns();
  const auto started =
      process_.start(options, [this](const os::ExitStatus& status, const std::string& last_words) {
        if (!settings_) return;
        // A change of the settings ends it too, and is no failure.
        if (status.known && !status.exited && status.signal == SIGTERM) return start();
        obs::log(obs::Level::kWarning, kComponent, "the HTTP helper ended; it is started again",
                 {{"status", status.to_string()}, {"error", last_words}});
        backoff_.succeeded_for(os::Duration(loop_.clock().mono_ns() - started_mono_ns_));
        timer_ = loop_.run_after(backoff_.next(), [this] { start(); });
      });
  if (started) return;
  obs::log(obs::Level::kError, kComponent, "HTTP is not served now", {{"error", started.error()}});
  timer_ = loop_.run_after(backoff_.next(), [this] { start(); });
}

}  // namespace defib::daemon
