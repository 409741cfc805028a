#include "defib/endpoint/exposition.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>
#include <set>

#include "defib/alert/queue.h"
#include "defib/daemon/metrics.h"
#include "defib/daemon/status.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"

namespace defib::endpoint {
namespace {

using Kind = obs::MetricSample::Kind;

constexpr std::string_view kStates[] = {
    "starting",    "running",  "degraded", "recovering", "monitoring", "ramping",
    "backing_off", "stopping", "stopped",  "standby",    "failed",     "awaiting_approval"};

constexpr std::size_t kPageBytes = 16 << 10, kServiceBytes = 2 << 10;

struct Zero {
  std::string_view name;
  std::string_view help;
};
// Counters of a service that begin with its first event: their zero lets a rate see that event.
constexpr Zero kZeros[] = {
    {"defib_service_starts_total", "Starts of a service's process"},
    {"defib_service_start_failures_total", "Starts that failed"},
    {"defib_service_hangs_total", "Lost heartbeats"},
    {"defib_service_unhealthy_total", "Times that health checks found it unhealthy"},
    {"defib_service_log_matches_total", "Lines of output that matched the pattern"},
    {"defib_service_crash_loops_total", "Times that the restarts were used up"},
    {"defib_service_slow_lanes_total", "Times that it came into the slow lane"},
    {"defib_service_adoptions_total", "Times that a running process was taken over"},
    {"defib_service_shim_replacements_total", "Shims that died and were replaced"},
    {"defib_service_lost_seconds_total", "Time from failures to the starts of replacements"},
    {"defib_incidents_opened_total", "Incidents that were opened"},
};

// Names of services hold nothing that would have to be escaped.
class Text {
 public:
  void family(std::string_view name, std::string_view help, std::string_view type) {
    fmt::format_to(std::back_inserter(out_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name,
                   type);
  }
  template <typename Value>
  void sample(std::string_view name, std::string_view service, Value value) {
    out_.append(name).append("{service=\"").append(service).append("\"} ");
    fmt::format_to(std::back_inserter(out_), "{}\n", value);
  }
  void line(std::string_view text) { out_.append(text); }
  // Of each service that `value` has something to say of.
  template <typename Get>
  void per_service(const Page& page, std::string_view name, std::string_view help,
                   std::string_view type, Get get) {
    bool begun = false;
    for (const ServiceNow& service : page.services) {
      const auto value = get(service);
      if (!value) continue;
      if (!begun) family(name, help, type);
      begun = true;
      sample(name, service.name, *value);
    }
  }
  std::string take() { return std::move(out_); }
  void reserve(std::size_t bytes) { out_.reserve(bytes); }

 private:
  std::string out_;
};

using Whole = std::optional<std::int64_t>;
using Real = std::optional<double>;

Whole flag(bool value) {
  return value ? 1 : 0;
}

void add_states(Text& text, const Page& page) {
  if (page.services.empty()) return;
  text.family("defib_service_state", "1 for the state that it is in", "gauge");
  for (const ServiceNow& service : page.services) {
    for (const std::string_view state : kStates) {
      text.line("defib_service_state{service=\"");
      text.line(service.name);
      text.line("\",state=\"");
      text.line(state);
      text.line(service.state == state ? "\"} 1\n" : "\"} 0\n");
    }
  }
}

void add_log_drops(Text& text, const Page& page) {
  if (page.services.empty()) return;
  constexpr std::string_view kName = "defib_service_log_dropped_bytes_total";
  text.family(kName, "Output that was not kept: beyond log_rate, or not taken by the disk",
              "counter");
  for (const ServiceNow& service : page.services) {
    text.line(
        fmt::format("{0}{{service=\"{1}\",reason=\"rate\"}} {2}\n"
                    "{0}{{service=\"{1}\",reason=\"disk\"}} {3}\n",
                    kName, service.name, service.log_dropped_by_rate, service.log_dropped_by_disk));
  }
}

void add_gauges(Text& text, const Page& page) {
  const auto gauge = [&](std::string_view name, std::string_view help, auto get) {
    text.per_service(page, name, help, "gauge", get);
  };
  using S = const ServiceNow&;
  gauge("defib_service_up", "Whether the service's process runs",
        [](S one) { return flag(one.pid != 0); });
  gauge("defib_service_ready", "Whether it said READY, or need not say it",
        [](S one) { return flag(one.pid != 0 && one.state != "starting"); });
  gauge("defib_service_supervised", "Whether a supervising process answers for it",
        [](S one) { return flag(one.supervised); });
  add_states(text, page);
  gauge("defib_service_restarts_in_window", "Restarts that the budget counts now",
        [](S one) { return Whole(one.restarts_in_window); });
  gauge("defib_service_restart_limit", "Restarts that the budget allows",
        [](S one) { return Whole(one.restart_limit); });
  gauge("defib_service_start_time_seconds", "When the process started, since 1970", [](S one) {
    return one.pid != 0 ? Real(static_cast<double>(one.started_wall_ns) / 1e9) : Real();
  });
  gauge("defib_service_memory_bytes", "Resident memory at the last sample",
        [](S one) { return one.pid != 0 ? Whole(one.memory_bytes) : Whole(); });
  gauge("defib_service_cpu_ratio", "Processor time at the last sample; 1 is one processor",
        [](S one) { return one.pid != 0 ? Real(one.cpu_percent / 100) : Real(); });
  gauge("defib_service_heartbeat_age_seconds",
        "Since the last beat of the stage nearest to its deadline", [](S one) {
          return one.heartbeat_age_ns < 0 ? Real()
                                          : Real(static_cast<double>(one.heartbeat_age_ns) / 1e9);
        });
  gauge("defib_service_slow_lane", "1 while it failed too often and waits for its next slow start",
        [](S one) { return flag(one.slow_lane); });
  add_log_drops(text, page);
  text.per_service(page, "defib_service_journal_dropped_lines_total",
                   "Lines that journald did not take", "counter",
                   [](S one) { return Whole(one.journal_dropped); });
  text.per_service(page, "defib_service_events_dropped_total",
                   "Events that the shim had no room for", "counter",
                   [](S one) { return Whole(one.events_dropped); });
}

// What was counted of a kind that services begin by themselves, with zeros for the others.
void add_with_zeros(Text& text, const Page& page, const Zero& zero,
                    const std::vector<const obs::MetricSample*>& counted) {
  if (counted.empty() && page.services.empty()) return;
  text.family(zero.name, zero.help, "counter");
  std::set<std::string_view> labels;
  for (const obs::MetricSample* one : counted) {
    labels.insert(one->labels);
    const auto value = static_cast<double>(one->value);
    text.line(one->unit == obs::Unit::kNanoseconds
                  ? fmt::format("{}{{{}}} {}\n", zero.name, one->labels, value / 1e9)
                  : fmt::format("{}{{{}}} {}\n", zero.name, one->labels, one->value));
  }
  std::string label;
  for (const ServiceNow& service : page.services) {
    label.assign("service=\"").append(service.name).append("\"");
    if (labels.contains(label)) continue;
    text.line(zero.name);
    text.line("{");
    text.line(label);
    text.line("} 0\n");
  }
}

void append_file(std::vector<obs::MetricSample>& samples, const std::string& path) {
  auto read = obs::read_metrics(path);
  if (!read) return;
  std::ranges::move(*read, std::back_inserter(samples));
}

}  // namespace

std::vector<obs::MetricSample> read_counters(const std::string& state_dir) {
  std::vector<obs::MetricSample> samples;
  os::Files& files = os::real_files();
  const std::string own = std::string(daemon::kCountersFile);
  append_file(samples, os::join_path(state_dir, own));
  // Those of `defib run`: counters.NAME.
  if (const auto names = files.list(state_dir)) {
    for (const std::string& name : *names) {
      if (name.starts_with(own + ".") && !name.ends_with(".replaced")) {
        append_file(samples, os::join_path(state_dir, name));
      }
    }
  }
  append_file(samples, os::join_path(alert::alerts_dir(state_dir), "counters"));
  merge(samples);
  return samples;
}

std::int64_t queue_bytes(const std::string& state_dir) {
  const auto file = os::real_files().open(alert::queue_path(state_dir), os::OpenMode::kRead);
  if (!file) return 0;
  const auto size = (*file)->size();
  return size ? static_cast<std::int64_t>(*size) : 0;
}

ServiceNow service_from_status(const wire::Json& service) {
  ServiceNow now;
  now.name = service["name"].as_string();
  now.state = service["state"].as_string();
  now.pid = service["pid"].as_int();
  now.supervised = service["supervised"].as_bool();
  now.restarts_in_window = service["recovery_attempts"].as_int();
  now.restart_limit = service["max_restarts"].as_int();
  now.started_wall_ns =
      std::max<std::int64_t>(0, os::parse_time(service["started_at"].as_string()));
  now.memory_bytes = std::llround(service["memory_mb"].as_double() * (1 << 20));
  now.cpu_percent = service["cpu_percent"].as_double();
  if (!service["heartbeat_age_ms"].is_null()) {
    now.heartbeat_age_ns = service["heartbeat_age_ms"].as_int() * 1'000'000;
  }
  now.slow_lane = service["slow_lane"].as_bool();
  now.log_dropped_by_rate = service["log_dropped_by_rate"].as_int();
  now.log_dropped_by_disk = service["log_bytes_dropped"].as_int() - now.log_dropped_by_rate;
  now.journal_dropped = service["journal_dropped"].as_int();
  now.events_dropped = service["events_dropped"].as_int();
  return now;
}

ServiceNow service_from_metrics(const wire::Json& row) {
  const auto& cells = row.items();
  ServiceNow now;
  if (cells.size() < daemon::kMetricsCells) return now;
  now.name = cells[0].as_string();
  now.state = cells[1].as_string();
  now.pid = cells[2].as_int();
  now.supervised = true;
  now.restarts_in_window = cells[3].as_int();
  now.restart_limit = cells[4].as_int();
  now.started_wall_ns = cells[5].as_int();
  now.memory_bytes = cells[6].as_int();
  now.cpu_percent = cells[7].as_double();
  now.heartbeat_age_ns = cells[8].as_int(-1);
  now.slow_lane = cells[9].as_bool();
  now.events_dropped = cells[10].as_int();
  return now;
}

std::string render(const Page& page) {
  std::vector<obs::MetricSample> others;
  std::vector<std::vector<const obs::MetricSample*>> counted(std::size(kZeros));
  for (const obs::MetricSample& one : page.counters) {
    const auto zero = std::ranges::find(kZeros, one.name, &Zero::name);
    if (zero == std::end(kZeros)) {
      others.push_back(one);
    } else {
      counted[static_cast<std::size_t>(zero - std::begin(kZeros))].push_back(&one);
    }
  }
  Text text;
  text.reserve(kPageBytes + page.services.size() * kServiceBytes);
  text.line(obs::render_prometheus(others));
  for (std::size_t i = 0; i < std::size(kZeros); ++i) {
    add_with_zeros(text, page, kZeros[i], counted[i]);
  }
  text.family("defib_supervisor_up", "Whether the daemon answers on its control socket", "gauge");
  text.line(fmt::format("defib_supervisor_up {}\n", page.supervised ? 1 : 0));
  text.family("defib_services", "Services that are known", "gauge");
  text.line(fmt::format("defib_services {}\n", page.services.size()));
  text.family("defib_alert_queue_bytes", "Size of the alert queue's file", "gauge");
  text.line(fmt::format("defib_alert_queue_bytes {}\n", page.queue_bytes));
  text.family("defib_build_info", "1; the version is a label", "gauge");
  text.line(fmt::format("defib_build_info{{version=\"{}\"}} 1\n", page.version));
  add_gauges(text, page);
  return text.take();
}

void merge(std::vector<obs::MetricSample>& samples) {
  std::sort(samples.begin(), samples.end(), [](const auto& a, const auto& b) {
    return a.name != b.name ? a.name < b.name : a.labels < b.labels;
  });
  std::size_t kept = 0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    obs::MetricSample& one = samples[i];
    const bool again =
        kept > 0 && samples[kept - 1].name == one.name && samples[kept - 1].labels == one.labels;
    if (!again) {
      if (kept != i) samples[kept] = std::move(one);
      ++kept;
      continue;
    }
    obs::MetricSample& first = samples[kept - 1];
    if (first.kind != one.kind) continue;
    if (first.kind == Kind::kGauge) {
      first.value = one.value;
    } else {
      first.value += one.value;
      first.sum += one.sum;
      first.largest = std::max(first.largest, one.largest);
      const std::size_t buckets = std::min(first.buckets.size(), one.buckets.size());
      for (std::size_t b = 0; b < buckets; ++b) first.buckets[b] += one.buckets[b];
    }
  }
  samples.resize(kept);
  // One name is of one kind and has one help, or the page is malformed.
  for (std::size_t i = 1; i < samples.size(); ++i) {
    if (samples[i].name == samples[i - 1].name) samples[i].help = samples[i - 1].help;
  }
}

}  // namespace defib::endpoint
