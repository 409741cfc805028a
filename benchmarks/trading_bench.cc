// From the death of a trading engine to the first order of its replacement, with a thousand open
// orders, the real programs and the real recovery; beside it, in the same run, what the venue alone
// needs to be asked for the same facts (open orders, account, fills), which no recovery can avoid.

#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "benchmarks/trading_micro.h"
#include "benchmarks/trading_scale.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/store/store.h"
#include "defib/testbed/testbed.h"
#include "defib/trading/config.h"
#include "defib/trading/ledger.h"
#include "defib/venue/binance.h"
#include "defib/wire/json.h"

namespace {

using namespace defib;
using namespace std::chrono_literals;
using wire::Json;

constexpr int kOpenOrders = 1'000;
constexpr int kRuns = 7;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

Result<> wait_for_open_orders(testbed::Testbed& bed) {
  const std::int64_t deadline = os::real_clock().mono_ns() + os::Duration(60s).count();
  std::size_t open = 0;
  do {
    const auto snapshot =
        store::Store::open_read_only(trading::trading_store_dir(bed.state_dir()), store::Options());
    if (snapshot) {
      DEFIB_TRY_ASSIGN(const trading::LedgerState state, trading::read_ledger_state(**snapshot));
      open = state.orders.size();
      if (open >= kOpenOrders * 95 / 100) return {};
    }
    os::real_clock().sleep_for(100ms);
  } while (os::real_clock().mono_ns() < deadline);
  return Error(Code::kTimeout, fmt::format("only {} orders are open", open));
}

struct Sample {
  double restart_ms = 0;  // kill to the new main()
  double order_ms = 0;    // kill to the first order
};

Result<Sample> crash_once(testbed::Testbed& bed) {
  (void)bed.new_incident_lines();
  const pid_t engine = bed.engine_pid();
  const std::int64_t killed = os::real_clock().mono_ns();
  DEFIB_TRY(bed.kill(engine));
  Sample sample;
  const std::int64_t deadline = killed + os::Duration(30s).count();
  while (os::real_clock().mono_ns() < deadline) {
    for (const testbed::IncidentLine& entry : bed.new_incident_lines()) {
      const Json& line = entry.line;
      const auto since = [&](std::int64_t at) { return static_cast<double>(at - killed) / 1e6; };
      if (line["event"].as_string() == "restarted") {
        sample.restart_ms = since(line["started_mono_ns"].as_int(line["mono_ns"].as_int()));
      }
      if (line["event"].as_string() != "first_order") continue;
      sample.order_ms = since(line["sent_mono_ns"].as_int());
      DEFIB_TRY(bed.wait_for_state({"running"}, 10s));
      return sample;
    }
    os::real_clock().sleep_for(5ms);
  }
  return Error(Code::kTimeout, "no first order within 30 s");
}

// The venue's own answers to what every recovery has to ask.
Result<double> ask_venue(testbed::Testbed& bed) {
  DEFIB_TRY_ASSIGN(std::unique_ptr<venue::Venue> venue, bed.connect_venue());
  const std::int64_t started = os::real_clock().mono_ns();
  DEFIB_TRY(venue->server_time_ms());
  DEFIB_TRY(venue->rules());
  DEFIB_TRY(venue->open_orders());
  DEFIB_TRY(venue->balances());
  DEFIB_TRY(venue->quotes());
  return static_cast<double>(os::real_clock().mono_ns() - started) / 1e6;
}

void print_row(const char* what, double ours, const char* peer_name, double peer) {
  Json row = Json::object({{"bench", "trading"},
                           {"case", "crash with 1,000 open orders"},
                           {"metric", what},
                           {"unit", "ms"},
                           {"ours", ours}});
  row.set("peer_name", peer_name);
  row.set("peer", peer);
  row.set("ratio", ours / peer);
  row.set("limit", Json());
  row.set("runs", kRuns);
  fmt::print("{}\n", row.dump());
}

Result<> run(const std::string& dir) {
  testbed::TestbedOptions options;
  options.dir = dir;
  options.resting_orders = kOpenOrders;
  options.orders_per_tick = 40;
  options.tick = 50ms;
  options.max_order_age = 60s;
  options.recv_window = 500ms;
  options.visibility_lag = 50ms;
  options.settle = 50ms;
  options.watch = 300ms;
  options.check_every = 100ms;
  options.max_crashes = 1'000;
  options.max_restarts = 100;
  options.restart_delay = 0ms;
  options.heartbeat = 5s;
  DEFIB_TRY_ASSIGN(const auto bed, testbed::Testbed::create(options));
  DEFIB_TRY(bed->start_venue());
  DEFIB_TRY(bed->start_supervisor());
  DEFIB_TRY(bed->wait_for_state({"running"}, 20s));
  std::vector<double> restarts, orders, venue;
  for (int i = 0; i < kRuns; ++i) {
    DEFIB_TRY(wait_for_open_orders(*bed));
    DEFIB_TRY_ASSIGN(const double asked, ask_venue(*bed));
    DEFIB_TRY_ASSIGN(const Sample sample, crash_once(*bed));
    venue.push_back(asked);
    restarts.push_back(sample.restart_ms);
    orders.push_back(sample.order_ms);
  }
  print_row("kill -9 to new main(), p50", median(restarts), "asking the venue alone",
            median(venue));
  print_row("kill -9 to first order, p50", median(orders), "asking the venue alone", median(venue));
  print_row("kill -9 to first order, worst", *std::ranges::max_element(orders),
            "asking the venue alone", median(venue));
  return bed->stop_supervisor();
}

}  // namespace

// trading_bench [--json] [--only micro|report|scale|crash]
int main(int argc, char** argv) {
  char path[] = "/tmp/defib-bench-XXXXXX";
  const std::string dir = ::mkdtemp(path);
  const std::string_view only =
      argc > 2 && std::string_view(argv[argc - 2]) == "--only" ? argv[argc - 1] : "";
  const auto wants = [&](std::string_view part) { return only.empty() || only == part; };
  if (wants("micro")) bench::trading_micro(dir);
  if (wants("report")) bench::trading_report();
  if (wants("scale")) bench::trading_scale(dir);
  const auto done = wants("crash") ? run(dir) : Result<>();
  if (!done) {
    fmt::print(stderr, "{}\nfiles kept in {}\n", done.error().to_text(), dir);
    return 1;
  }
  (void)os::run_command({"rm", "-rf", dir}, 20'000);
  return 0;
}
