// The parts of the trading benchmark that need no process: parsing a long list against simdjson's
// own walk over the same bytes, reconciling, and what an intent costs on the way of an order.

#include "benchmarks/trading_micro.h"

#include <fmt/core.h>
#include <simdjson.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "benchmarks/trading_scale.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/store/store.h"
#include "defib/trading/gateway.h"
#include "defib/trading/reconcile.h"
#include "defib/venue/binance_parse.h"
#include "defib/wire/json.h"

namespace defib::bench {
namespace {

constexpr int kListed = 100'000;
constexpr int kRuns = 7;
constexpr int kMillion = 1'000'000;
constexpr int kIntents = 20'000;

double ms_since(std::int64_t start) {
  return static_cast<double>(os::real_clock().mono_ns() - start) / 1e6;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void print(std::string_view name, std::string_view metric, std::string_view unit, double ours,
           std::string_view peer_name, std::optional<double> peer, std::optional<double> limit,
           int runs) {
  print_trading_row({name, metric, unit, ours, peer_name, peer, limit, runs});
}

std::string open_orders_document() {
  std::string text = "[";
  for (int i = 0; i < kListed; ++i) {
    text += fmt::format(
        R"({}{{"symbol":"BTCUSDT","orderId":{},"orderListId":-1,"clientOrderId":"dfb0000100{:06}",)"
        R"("price":"{}.10000000","origQty":"0.50000000","executedQty":"0.00000000",)"
        R"("cummulativeQuoteQty":"0.00000000","status":"NEW","timeInForce":"GTC","type":"LIMIT",)"
        R"("side":"BUY","stopPrice":"0.00000000","icebergQty":"0.00000000","time":1499827319559,)"
        R"("updateTime":1499827319559,"isWorking":true,"origQuoteOrderQty":"0.00000000",)"
        R"("workingTime":1499827319559,"selfTradePreventionMode":"NONE"}})",
        i == 0 ? "" : ",", 1'000'000 + i, i, 40'000 + i % 1'000);
  }
  return text + "]";
}

// Every member of every object is asked for, as its text, and nothing is kept.
std::size_t walk(simdjson::ondemand::parser& parser, std::string& body) {
  simdjson::ondemand::document document;
  std::size_t total = 0;
  if (parser.iterate(body.data(), body.size(), body.capacity()).get(document)) return 0;
  simdjson::ondemand::array array;
  if (document.get_array().get(array)) return 0;
  for (auto element : array) {
    simdjson::ondemand::object object;
    if (element.get_object().get(object)) return 0;
    for (auto field : object) {
      std::string_view key;
      simdjson::ondemand::value value;
      if (field.unescaped_key().get(key) || field.value().get(value)) return 0;
      std::string_view text;
      simdjson::ondemand::json_type type;
      if (value.type().get(type)) return 0;
      if (type == simdjson::ondemand::json_type::string) {
        if (value.get_string().get(text)) return 0;
        total += text.size();
      }
      total += key.size();
    }
  }
  return total;
}

void bench_parsing() {
  const std::string document = open_orders_document();
  std::vector<double> ours, theirs;
  std::size_t sum = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::string body = document;
    body.reserve(body.size() + simdjson::SIMDJSON_PADDING);
    std::int64_t start = os::real_clock().mono_ns();
    simdjson::ondemand::parser parser;
    sum += walk(parser, body);
    theirs.push_back(ms_since(start));
    start = os::real_clock().mono_ns();
    const auto orders = venue::parse_binance_orders(std::move(body));
    ours.push_back(ms_since(start));
    if (!orders || orders->size() != kListed || sum == 0) std::abort();
  }
  print("parse 100,000 Binance open orders", "time, p50", "ms", median(ours), "simdjson's own walk",
        median(theirs), std::nullopt, kRuns);
}

std::string number(int i) {
  return fmt::format("dfb00001{:08}", i);
}

std::uint64_t peak_resident() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::uint64_t>(usage.ru_maxrss) * 1'024;
}

std::uint64_t resident() {
  const auto usage = os::process_usage(::getpid());
  return usage ? usage->rss_bytes : 0;
}

// Equal on both sides but for a handful, as it is after a crash.
void bench_reconcile(int count) {
  const std::uint64_t before = resident();
  trading::LedgerState believed;
  believed.initialized = true;
  believed.instruments["BTCUSDT"] = {"BTCUSDT", "BTC", "USDT", Decimal::from_units(1'000'000),
                                     Decimal::from_units(1'000)};
  for (int i = 0; i < count; ++i) {
    trading::TrackedOrder tracked;
    venue::Order& order = tracked.order;
    order.client_id = number(i);
    order.venue_id = std::to_string(1'000'000 + i);
    order.symbol = "BTCUSDT";
    order.status = venue::OrderStatus::kNew;
    order.quantity = Decimal::from_units(50'000'000);
    order.price = Decimal::from_integer(40'000);
    believed.orders.emplace_hint(believed.orders.end(), order.client_id, std::move(tracked));
  }
  trading::VenueSnapshot snapshot;
  snapshot.symbols = {"BTCUSDT"};
  snapshot.stable = true;
  snapshot.open_orders.reserve(static_cast<std::size_t>(count));
  for (const auto& [key, tracked] : believed.orders) {
    snapshot.open_orders.push_back(tracked.order);
  }
  for (int i = 0; i < 100; ++i) snapshot.open_orders.pop_back();
  const double bytes =
      static_cast<double>(resident() - before) / (2.0 * static_cast<double>(count));
  const std::uint64_t peak = peak_resident();
  std::vector<double> times;
  const int runs = count > 200'000 ? 3 : kRuns;
  for (int run = 0; run < runs; ++run) {
    const std::int64_t start = os::real_clock().mono_ns();
    const auto found = trading::reconcile(believed, snapshot, {});
    times.push_back(ms_since(start));
    if (found.size() < 100) std::abort();
  }
  const std::string name = fmt::format("reconcile {} against {} orders", count, count);
  print(name, "time, p50", "ms", median(times), "", std::nullopt,
        count == kMillion ? std::optional(250.0) : std::nullopt, runs);
  print(name, "memory an order, both sides' own", "bytes", bytes, "", std::nullopt, std::nullopt,
        1);
  if (count < kMillion) return;  // the peak was higher before
  print(name, "memory an order that comparing adds", "bytes",
        static_cast<double>(peak_resident() - peak) / (2.0 * static_cast<double>(count)), "",
        std::nullopt, 100.0, 1);
}

double percentile(std::vector<double>& values, double part) {
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(part * static_cast<double>(values.size() - 1))];
}

trading::Intent intent(int i) {
  trading::Intent made;
  made.id = number(i);
  made.venue = "binance";
  made.symbol = "BTCUSDT";
  made.quantity = Decimal::from_units(50'000'000);
  made.price = Decimal::from_integer(40'000);
  made.reference_price = made.price;
  made.timestamp_ms = 1'700'000'000'000;
  made.fence_ms = made.timestamp_ms + 1'000;
  made.strategy = "maker";
  return made;
}

// One raw write and sync of the same bytes, in the same directory.
double raw_sync_us(const std::string& dir, int count) {
  auto file = os::real_files().open(dir + "/raw", os::OpenMode::kCreate);
  if (!file) std::abort();
  const std::string bytes = trading::encode_intent(intent(1)) + std::string(64, ' ');
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    const std::int64_t start = os::real_clock().mono_ns();
    const bool done =
        (*file)->write_at(static_cast<std::uint64_t>(i) * bytes.size(), bytes) && (*file)->sync();
    if (!done) std::abort();
    times.push_back(ms_since(start) * 1e3);
  }
  return percentile(times, 0.5);
}

void bench_intents(const std::string& dir, store::Durability durability) {
  const bool power = durability == store::Durability::kPower;
  const int count = power ? 300 : kIntents;
  store::Options options;
  auto store = store::Store::open(dir + (power ? "/power" : "/process"), options);
  if (!store) std::abort();
  auto log = trading::IntentLog::open(**store, durability);
  if (!log) std::abort();
  std::vector<double> times;
  for (int i = 0; i < count; ++i) {
    trading::Intent made = intent(i);
    const std::int64_t start = os::real_clock().mono_ns();
    const bool done = (*log)->append(made).has_value();
    times.push_back(ms_since(start) * 1e3);
    if (!done) std::abort();
    // Settled at once, so that few are open, as in a trading engine.
    made.state = trading::IntentState::kRejected;
    auto transaction = (*store)->begin();
    if (!transaction || !trading::IntentLog::write(**transaction, made) ||
        !(*transaction)->commit(store::Durability::kProcess)) {
      std::abort();
    }
    (*log)->remember(made);
  }
  if (power) {
    const std::string name = "intent before an order, power durability";
    print(name, "p50", "us", percentile(times, 0.5), "one raw write and sync",
          raw_sync_us(dir, count), std::nullopt, count);
    print(name, "p99", "us", percentile(times, 0.99), "", std::nullopt, std::nullopt, count);
    return;
  }
  const std::string name = "intent before an order, process durability";
  print(name, "p50", "us", percentile(times, 0.5), "", std::nullopt, 2.0, count);
  print(name, "p99", "us", percentile(times, 0.99), "", std::nullopt, 10.0, count);
}

}  // namespace

void print_trading_row(const TradingRow& row) {
  const auto number = [](std::optional<double> value) {
    return value ? wire::Json(*value) : wire::Json();
  };
  const std::optional<double> ratio = row.peer ? std::optional(row.ours / *row.peer) : row.peer;
  fmt::print("{}\n", wire::Json::object({{"bench", "trading"},
                                         {"case", row.name},
                                         {"metric", row.metric},
                                         {"unit", row.unit},
                                         {"ours", row.ours},
                                         {"peer_name", row.peer_name},
                                         {"peer", number(row.peer)},
                                         {"ratio", number(ratio)},
                                         {"limit", number(row.limit)},
                                         {"runs", row.runs}})
                         .dump());
  std::fflush(stdout);
}

void trading_micro(const std::string& dir) {
  bench_parsing();
  bench_reconcile(100'000);
  bench_reconcile(kMillion);
  bench_intents(dir, store::Durability::kProcess);
  bench_intents(dir, store::Durability::kPower);
}

}  // namespace defib::bench
