// The report on 100,000 orders: PDF with summary, charts and exceptions, JSON and CSV with all.

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "benchmarks/trading_scale.h"
#include "defib/os/clock.h"
#include "defib/report/csv.h"
#include "defib/report/document.h"
#include "defib/report/pdf.h"

namespace defib::bench {
namespace {

using wire::Json;

constexpr int kOrders = 100'000;
constexpr int kRuns = 3;

// As a recovery tells of its orders: each settled, and now and then a step with its exposure.
Json event_of(int number) {
  const bool step = number % 1'000 == 0;
  Json event =
      Json::object({{"seq", number + 2},
                    {"at", os::format_time(1'796'000'000'000'000'000 + number * 1'000'000)},
                    {"mono_ns", number * 1'000'000},
                    {"event", step ? "ramp_watch" : "intent_settled"},
                    {"by", "service"}});
  if (step) {
    event.set("step", 1).set("steps", 3).set("percent", 50).set("max_risk", "low");
    event.set("exposure", std::to_string(100'000 + number)).set("exposure_limit", "500000");
  } else {
    event.set("id", fmt::format("dfb00001{:08}", number));
    event.set("state", number % 3 == 0 ? "never_accepted" : "accepted");
    event.set("explanation", fmt::format("found open as order {} with 0.5 filled", number));
  }
  return event;
}

report::Input input_of() {
  Json timeline = Json::array(
      {Json::object({{"seq", 1}, {"at", "2026-11-20T13:05:58.123456789Z"}, {"event", "opened"}})});
  for (int i = 0; i < kOrders; ++i) timeline.push(event_of(i));
  report::Input input;
  input.incident = Json::object({{"schema", "defib.incident/1"},
                                 {"id", "20261120T130558Z-1a2b3c"},
                                 {"service", "engine"},
                                 {"opened_at", "2026-11-20T13:05:58.123456789Z"},
                                 {"cause", "null_dereference"},
                                 {"timeline", std::move(timeline)}});
  return input;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

void trading_report() {
  const report::Input input = input_of();
  std::array<std::vector<double>, 4> times;  // PDF, JSON, CSV, together
  for (int run = 0; run < kRuns; ++run) {
    const std::int64_t start = os::real_clock().mono_ns();
    std::int64_t last = start;
    const auto lap = [&](std::vector<double>& into) {
      const std::int64_t now = os::real_clock().mono_ns();
      into.push_back(static_cast<double>(now - last) / 1e6);
      last = now;
    };
    const auto pdf = report::to_pdf(report::make_document(input));
    lap(times[0]);
    const std::string json = input.incident.dump(2);
    lap(times[1]);
    const std::string csv = report::to_csv(input.incident);
    lap(times[2]);
    times[3].push_back(static_cast<double>(last - start) / 1e6);
    if (!pdf || json.size() < kOrders || std::ranges::count(csv, '\n') != kOrders + 2) std::abort();
  }
  constexpr std::string_view kName = "report on 100,000 orders";
  print_trading_row({kName, "PDF, p50", "ms", median(times[0]), "", {}, {}, kRuns});
  print_trading_row({kName, "JSON, p50", "ms", median(times[1]), "", {}, {}, kRuns});
  print_trading_row({kName, "CSV, p50", "ms", median(times[2]), "", {}, {}, kRuns});
  print_trading_row({kName, "together, p50", "ms", median(times[3]), "", {}, 1'000.0, kRuns});
}

}  // namespace defib::bench
