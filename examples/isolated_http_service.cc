// An HTTP service around a native library that may crash: a fresh client for each request, so that
// a request that crashes the library gets an error, and all others their data.
//
//   isolated_http_service PLUGIN [PORT]
//
//   GET /price?symbol=ESM4&days=30   {"symbol","days","price"}; 502 with the Error where the
//                                    library crashed, hung or ended; 400 for a bad question
//   GET /live                        what a long-lived client has streamed meanwhile
//   GET /metrics                     defib_call_*, for contrib/prometheus/defib-call.rules.yml
//
// Prints its address, and ends with SIGTERM or SIGINT.

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <charconv>
#include <cstdio>
#include <thread>

#include "defib/call/client.h"
#include "defib/call/recovering.h"
#include "defib/obs/counters.h"
#include "defib/wire/http.h"
#include "defib/wire/json.h"
#include "examples/prices_api.h"

namespace examples {
namespace {

using defib::Code;
using defib::Error;
using defib::Result;
using defib::wire::Json;
using Prices = defib::call::Client<PricesApi>;
using Ticks = defib::call::Reader<PricesApi::Ticks>;

constexpr std::chrono::milliseconds kCallTimeout{2000};

// One client for as long as the service lives, whose stream nobody's crash may touch.
class LiveFeed {
 public:
  LiveFeed(Prices client, Ticks ticks)
      : client_(std::move(client)),
        thread_([this, ticks = std::move(ticks)](const std::stop_token& stop) mutable {
          read(ticks, stop);
        }) {}

  static Result<std::unique_ptr<LiveFeed>> start(const std::string& plugin,
                                                 const defib::call::ClientOptions& options) {
    DEFIB_TRY_ASSIGN(Prices client, Prices::create(plugin, options));
    DEFIB_TRY_ASSIGN(Ticks ticks, client.open<PricesApi::Ticks>("ESM4", 0));
    return std::make_unique<LiveFeed>(std::move(client), std::move(ticks));
  }

  Json status() const {
    return Json::object({{"received", received_.load()},
                         {"gaps", gaps_.load()},
                         {"ended", ended_.load()},
                         {"worker_pid", client_.worker_pid()}});
  }

 private:
  void read(Ticks& ticks, const std::stop_token& stop) {
    constexpr std::chrono::milliseconds kLookForStop{100};
    std::int64_t expected = 0;
    while (!stop.stop_requested()) {
      const auto tick = ticks.next(kLookForStop);
      if (!tick && tick.error().code() == Code::kTimeout) continue;
      if (!tick || !*tick) break;
      if ((*tick)->number != expected) ++gaps_;
      expected = (*tick)->number + 1;
      ++received_;
    }
    ended_ = true;
  }

  Prices client_;
  std::atomic<std::uint64_t> received_{0};
  std::atomic<std::uint64_t> gaps_{0};
  std::atomic<bool> ended_{false};
  std::jthread thread_;
};

class Service {
 public:
  static Result<std::unique_ptr<Service>> start(std::string plugin, std::uint16_t port) {
    auto service = std::make_unique<Service>(std::move(plugin));
    DEFIB_TRY_ASSIGN(service->live_, LiveFeed::start(service->plugin_, service->options_));
    defib::wire::HttpServer::Options http;
    http.port = port;
    DEFIB_TRY_ASSIGN(service->server_,
                     defib::wire::HttpServer::start(
                         http, [self = service.get()](const defib::wire::HttpRequest& request) {
                           return defib::wire::HttpServer::Reply{self->answer(request)};
                         }));
    return service;
  }
  explicit Service(std::string plugin)
      : plugin_(std::move(plugin)), metrics_(defib::obs::Registry::in_memory()) {
    options_.call_timeout = kCallTimeout;
    options_.metrics = metrics_.get();
    options_.isolation.memory_bytes = std::uint64_t{512} << 20;
    options_.isolation.no_network = true;
  }
  std::uint16_t port() const { return server_->port(); }

 private:
  static defib::wire::HttpResponse json(int status, const Json& json) {
    return {status, {{"Content-Type", "application/json"}}, json.dump() + "\n"};
  }
  static defib::wire::HttpResponse failed(const Error& error) {
    const int status = defib::call::is_fault(error)               ? 502
                       : error.code() == Code::kInvalidArgument   ? 400
                       : error.code() == Code::kWorkerUnavailable ? 503
                                                                  : 500;
    return json(status, Json::object({{"error", defib::wire::to_json(error)}}));
  }

  defib::wire::HttpResponse answer(const defib::wire::HttpRequest& request) {
    const std::string_view path = std::string_view(request.url).substr(0, request.url.find('?'));
    if (path == "/price") {
      const auto price = this->price(request);
      return price ? json(200, *price) : failed(price.error());
    }
    if (path == "/live") return json(200, live_->status());
    if (path == "/metrics") {
      return {200, {{"Content-Type", "text/plain; version=0.0.4"}}, metrics_->render_prometheus()};
    }
    return json(404, Json::object({{"error", "there is no such page"}}));
  }

  Result<Json> price(const defib::wire::HttpRequest& request) {
    const std::size_t query = request.url.find('?');
    std::string symbol;
    int days = 0;
    for (const auto& [key, value] : defib::wire::parse_query(
             query == std::string::npos ? "" : std::string_view(request.url).substr(query + 1))) {
      if (key == "symbol") symbol = value;
      if (key != "days") continue;
      const auto [end, wrong] = std::from_chars(value.data(), value.data() + value.size(), days);
      if (wrong != std::errc() || end != value.data() + value.size()) {
        return Error(Code::kInvalidArgument, "days is a whole number");
      }
    }
    if (symbol.empty()) return Error(Code::kInvalidArgument, "the symbol is missing");
    // The request's own client: whatever it breaks, it breaks for itself.
    DEFIB_TRY_ASSIGN(Prices client, Prices::create(plugin_, options_));
    DEFIB_TRY_ASSIGN(const double price, client.call<PricesApi::Price>(symbol, days));
    return Json::object({{"symbol", symbol}, {"days", days}, {"price", price}});
  }

  std::string plugin_;
  std::unique_ptr<defib::obs::Registry> metrics_;
  defib::call::ClientOptions options_;
  std::unique_ptr<LiveFeed> live_;
  std::unique_ptr<defib::wire::HttpServer> server_;
};

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    fmt::print(stderr, "usage: isolated_http_service PLUGIN [PORT]\n");
    return 2;
  }
  // Before there are threads, so that the signals wait for this one.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  const auto port = static_cast<std::uint16_t>(argc == 3 ? std::atoi(argv[2]) : 0);
  const auto service = Service::start(argv[1], port);
  if (!service) {
    fmt::print(stderr, "{}\n", service.error().to_text());
    return 1;
  }
  fmt::print("http://127.0.0.1:{}\n", (*service)->port());
  std::fflush(stdout);
  int signal = 0;
  sigwait(&signals, &signal);
  return 0;
}

}  // namespace
}  // namespace examples

int main(int argc, char** argv) {
  return examples::main(argc, argv);
}
