// The paper venue under load: signed orders and listings over real HTTP on one connection, each
// order in the ledger before its answer; and the matching core alone.
//
// Prints JSON rows. The venue answers clients that are the subject of other measurements, so what
// counts is that it is never the bottleneck: 5,000 orders a second is the bound.

#include <fmt/core.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "defib/base/assert.h"
#include "defib/os/clock.h"
#include "defib/paper/service.h"
#include "defib/wire/http.h"
#include "defib/wire/json.h"

namespace {

using namespace defib;

constexpr int kOrders = 20'000;
constexpr int kRuns = 9;
constexpr std::string_view kSecret = "secret";

struct Row {
  std::string name;
  std::string metric;
  std::string unit;
  double value;
  int runs;
};

void print(const Row& row) {
  fmt::print("{}\n", wire::Json::object({{"bench", "paper"},
                                         {"case", row.name},
                                         {"metric", row.metric},
                                         {"unit", row.unit},
                                         {"ours", row.value},
                                         {"runs", row.runs}})
                         .dump());
}

double seconds_since(std::int64_t start_ns) {
  return static_cast<double>(os::real_clock().mono_ns() - start_ns) / 1e9;
}

double percentile(std::vector<double>& values, double part) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(static_cast<double>(values.size() - 1) * part)];
}

class Client {
 public:
  explicit Client(std::uint16_t port) : port_(port) {}
  // Seconds that the exchange took.
  double call(std::string method, const std::string& path, const std::string& parameters) {
    const std::string payload =
        fmt::format("{}{}timestamp={}", parameters, parameters.empty() ? "" : "&",
                    os::real_clock().wall_ns() / 1'000'000);
    wire::HttpRequest request;
    request.method = std::move(method);
    request.url = fmt::format("http://127.0.0.1:{}{}?{}&signature={}", port_, path, payload,
                              paper::hmac_sha256_hex(kSecret, payload));
    request.headers.emplace_back("X-MBX-APIKEY", "key");
    const std::int64_t start = os::real_clock().mono_ns();
    const Result<wire::HttpResponse> response = client_.send(request);
    const double seconds = seconds_since(start);
    DEFIB_ASSERT_MESSAGE(response.has_value() && response->status == 200, "the venue refused");
    return seconds;
  }

 private:
  std::uint16_t port_;
  wire::HttpClient client_;
};

std::string resting_order(int number) {
  return fmt::format(
      "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.0002&price={}&"
      "newClientOrderId=bench{}&newOrderRespType=ACK",
      25'000 + number % 5'000, number);
}

void measure_http(paper::Service& service) {
  auto server = wire::HttpServer::start(
      {}, [&](const wire::HttpRequest& request) { return service.trade(request); });
  DEFIB_ASSERT(server.has_value());
  Client client((*server)->port());
  std::vector<double> latencies;
  int placed = 0;
  const auto place_until = [&](int count) {
    while (placed < count) {
      latencies.push_back(client.call("POST", "/api/v3/order", resting_order(placed++)));
    }
  };
  const auto list = [&](int count) {
    std::vector<double> times;
    for (int i = 0; i < kRuns; ++i) times.push_back(client.call("GET", "/api/v3/openOrders", ""));
    print({fmt::format("list {} open orders", count), "median", "ms", percentile(times, 0.5) * 1e3,
           kRuns});
  };
  place_until(1'000);
  list(1'000);
  place_until(10'000);
  list(10'000);
  place_until(kOrders);
  const double busy = [&] {
    double sum = 0;
    for (const double latency : latencies) sum += latency;
    return sum;
  }();
  print({"orders over one connection", "rate", "orders/s", kOrders / busy, kOrders});
  print({"orders over one connection", "p50", "us", percentile(latencies, 0.5) * 1e6, kOrders});
  print({"orders over one connection", "p99", "us", percentile(latencies, 0.99) * 1e6, kOrders});
}

void measure_in_process(paper::Service& service) {
  std::vector<wire::HttpRequest> requests;
  for (int i = 0; i < kOrders; ++i) {
    const std::string payload =
        fmt::format("{}&recvWindow=60000&timestamp={}", resting_order(kOrders + i),
                    os::real_clock().wall_ns() / 1'000'000);
    requests.push_back({"POST",
                        fmt::format("/api/v3/order?{}&signature={}", payload,
                                    paper::hmac_sha256_hex(kSecret, payload)),
                        {{"X-MBX-APIKEY", "key"}},
                        {}});
  }
  const std::int64_t start = os::real_clock().mono_ns();
  for (const wire::HttpRequest& request : requests) {
    DEFIB_ASSERT(service.trade(request).response.status == 200);
  }
  print(
      {"orders without the network", "rate", "orders/s", kOrders / seconds_since(start), kOrders});
}

}  // namespace

int main() {
  char pattern[] = "/tmp/paper-bench-XXXXXX";
  const std::string directory = mkdtemp(pattern);
  paper::Service::Options options;
  options.binance = {"key", std::string(kSecret), {0, 0}};
  options.ledger_path = directory + "/ledger.jsonl";
  options.deposits = {{"USDT", Decimal::from_integer(1'000'000'000)}};
  {
    auto service = paper::Service::open(options, os::real_files(), os::real_clock());
    DEFIB_ASSERT(service.has_value());
    measure_http(**service);
    measure_in_process(**service);
  }
  const std::int64_t start = os::real_clock().mono_ns();
  DEFIB_ASSERT(paper::Service::open(options, os::real_files(), os::real_clock()).has_value());
  print({fmt::format("restart on a ledger of {} orders", 2 * kOrders), "time", "ms",
         seconds_since(start) * 1e3, 1});
  std::filesystem::remove_all(directory);
  return 0;
}
