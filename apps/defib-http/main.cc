// defib-http: serves /metrics, /health, /ready, /status and service control over HTTP, beside the
// daemon, which starts it where defib.toml has [http]. docs/http.md is its page.

#include <fmt/core.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>

#include <string_view>

#include "defib/daemon/http_helper.h"
#include "defib/endpoint/endpoint.h"
#include "defib/process/state_dir.h"
#include "defib/wire/http.h"

namespace defib::http_app {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view kHelp =
    "Usage: defib-http [--state-dir DIR] [--listen ADDRESS:PORT] [--token REFERENCE]\n"
    "                  [--allow-remote]\n\n"
    "Serves metrics, health and control of a defib daemon over HTTP. The daemon starts it by "
    "itself\n"
    "where its configuration has [http].\n\n"
    "  --state-dir DIR     of the daemon (default: $DEFIB_STATE_DIR)\n"
    "  --listen A:P        default 127.0.0.1:9464\n"
    "  --token REFERENCE   env:NAME or file:PATH; without it nothing can be changed\n"
    "  --allow-remote      an address that other machines reach; needs a token\n\n"
    "Example:\n  defib-http --state-dir /var/lib/defib --token file:/etc/defib/token\n";

constexpr int kPageMemory = 384 << 10;
// Limits of one client, so that none keeps the others out.
constexpr int kConnections = 64;
constexpr std::size_t kMaxBody = 16 << 10;
constexpr std::chrono::seconds kIdleTime{5};
constexpr os::Duration kRequestTime = 5s;

struct Arguments {
  std::string state_dir = process::default_state_dir(false);
  daemon::HttpSettings http;
  bool help = false;
};

Result<Arguments> parse(int argc, char** argv) {
  Arguments arguments;
  for (int i = 1; i < argc; ++i) {
    const std::string_view key = argv[i];
    if (key == "--help" || key == "-h") {
      arguments.help = true;
      continue;
    }
    if (key == "--allow-remote") {
      arguments.http.allow_remote = true;
      continue;
    }
    std::string* const value = key == "--state-dir" ? &arguments.state_dir
                               : key == "--listen"  ? &arguments.http.listen
                               : key == "--token"   ? &arguments.http.token
                                                    : nullptr;
    if (value == nullptr || ++i == argc) {
      return Error(Code::kWrongUsage, fmt::format("unknown or incomplete option '{}'", key))
          .suggest("`defib-http --help`");
    }
    *value = argv[i];
  }
  return arguments;
}

Result<> serve(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const daemon::ListenAddress address, daemon::check_http(arguments.http));
  endpoint::Endpoint::Options options;
  options.state_dir = arguments.state_dir;
  options.version = DEFIB_VERSION;
  options.loopback = address.loopback;
  if (!arguments.http.token.empty()) {
    DEFIB_TRY_ASSIGN(options.token, conf::read_secret(arguments.http.token));
  }
  endpoint::Endpoint endpoint(std::move(options));
  // Before the server's threads, which inherit the mask.
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGPIPE}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  wire::HttpServer::Options server_options;
  server_options.host = address.host;
  server_options.port = address.port;
  server_options.threads = kConnections;
  server_options.max_body = kMaxBody;
  server_options.idle_timeout = kIdleTime;
  server_options.request_timeout = kRequestTime;
  DEFIB_TRY_ASSIGN(const auto server,
                   wire::HttpServer::start(server_options, [&](const wire::HttpRequest& request) {
                     return wire::HttpServer::Reply{endpoint.handle(request),
                                                    wire::HttpServer::Delivery::kNormal};
                   }));
  while (true) {
    int signal = 0;
    if (sigwait(&signals, &signal) == 0 && signal != SIGPIPE) return {};
  }
}

int main(int argc, char** argv) {
  // A page of metrics is made and freed again and again: its memory is kept.
  mallopt(M_MMAP_THRESHOLD, kPageMemory);
  mallopt(M_TRIM_THRESHOLD, 4 * kPageMemory);
  const auto arguments = parse(argc, argv);
  if (arguments && arguments->help) {
    fwrite(kHelp.data(), 1, kHelp.size(), stdout);
    return 0;
  }
  const Result<> done = arguments ? serve(*arguments) : Result<>(arguments.error());
  if (done) return 0;
  const std::string text = done.error().to_text() + "\n";
  fwrite(text.data(), 1, text.size(), stderr);
  const bool usage =
      done.error().code() == Code::kWrongUsage || done.error().code() == Code::kInvalidArgument;
  return usage ? 2 : 1;
}

}  // namespace
}  // namespace defib::http_app

int main(int argc, char** argv) {
  return defib::http_app::main(argc, argv);
}
