#include "defib/endpoint/endpoint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <strings.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "defib/base/bytes.h"
#include "defib/daemon/control.h"
#include "defib/daemon/status.h"
#include "defib/endpoint/exposition.h"
#include "defib/os/files.h"
#include "defib/process/log_index.h"
#include "defib/process/service_spec.h"

namespace defib::endpoint {
namespace {

constexpr os::Duration kChangeTime = std::chrono::seconds(130);  // the daemon's own limit is 2 min
constexpr std::string_view kOps[] = {"start", "stop", "restart", "reset"};

wire::HttpResponse json_answer(int status, const wire::Json& json) {
  return {status, {{"Content-Type", "application/json"}}, json.dump() + "\n"};
}

wire::HttpResponse refusal(int status, std::string_view message) {
  wire::HttpResponse response = json_answer(
      status, wire::Json::object({{"error", wire::Json::object({{"message", message}})}}));
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer realm=\"defib\"");
  return response;
}

int status_of(const Error& error) {
  switch (error.code()) {
    case Code::kServiceUnknown:
    case Code::kNotFound:
      return 404;
    case Code::kDaemonNotRunning:
    case Code::kUnavailable:
    case Code::kLimitExceeded:
      return 503;
    case Code::kTimeout:
      return 504;
    default:
      return 409;
  }
}

bool is_service_name(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !name.empty() && name.size() <= process::kMaxServiceName && plain(name[0]) &&
         std::ranges::all_of(name,
                             [&](char c) { return plain(c) || c == '.' || c == '_' || c == '-'; });
}

// "/health" or "/health/NAME".
bool matches(std::string_view path, std::string_view prefix, std::string& service) {
  if (path == prefix) return true;
  if (!path.starts_with(prefix) || path[prefix.size()] != '/') return false;
  const std::string_view name = path.substr(prefix.size() + 1);
  if (!is_service_name(name)) return false;
  service = name;
  return true;
}

bool is_up(const wire::Json& service) {
  const std::string_view state = service["state"].as_string();
  return !service["pid"].is_null() && state != "starting" && state != "stopping";
}

// A service that somebody stopped is as it should be.
bool is_well(const wire::Json& service) {
  const std::string_view state = service["state"].as_string();
  return state == "stopped" || state == "standby" ||
         (is_up(service) && state != "degraded" && state != "awaiting_approval");
}

}  // namespace

Route parse_route(std::string_view target) {
  const std::string_view path = target.substr(0, target.find('?'));
  Route route;
  using What = Route::What;
  if (path == "/metrics") {
    route.what = What::kMetrics;
  } else if (path == "/status") {
    route.what = What::kStatus;
  } else if (matches(path, "/health", route.service)) {
    route.what = What::kHealth;
  } else if (matches(path, "/ready", route.service)) {
    route.what = What::kReady;
  } else if (constexpr std::string_view kPrefix = "/services/"; path.starts_with(kPrefix)) {
    const std::string_view rest = path.substr(kPrefix.size());
    const std::size_t slash = rest.find('/');
    if (slash == std::string_view::npos) return route;
    const std::string_view name = rest.substr(0, slash), op = rest.substr(slash + 1);
    if (!is_service_name(name) || std::ranges::find(kOps, op) == std::end(kOps)) return route;
    route.what = What::kChange;
    route.service = name;
    route.op = op;
  }
  return route;
}

bool equal_in_constant_time(std::string_view a, std::string_view b) {
  // The digests have one length, so that not even the secret's length shows.
  const std::string left = sha256(a), right = sha256(b);
  volatile unsigned char different = 0;
  for (std::size_t i = 0; i < left.size(); ++i) {
    different = static_cast<unsigned char>(different | (left[i] ^ right[i]));
  }
  return different == 0;
}

bool is_local_host(std::string_view host) {
  const bool bracket = host.starts_with('[');
  std::string_view name = host.substr(0, bracket ? host.find(']') : host.find(':'));
  if (bracket && !name.empty()) name.remove_prefix(1);
  if (name == "::1") return true;
  if (name.size() == 9 && strncasecmp(name.data(), "localhost", 9) == 0) return true;
  // 127.0.0.0/8 in numbers.
  return name.starts_with("127.") && name.size() <= 15 &&
         name.find_first_not_of("0123456789.") == std::string_view::npos;
}

std::int64_t MemoryReader::bytes(const std::string& service, std::int64_t pid,
                                 std::int64_t started_wall_ns) {
  Open& own = open_[service];
  if (own.pid != pid || own.started_wall_ns != started_wall_ns || !own.statm.valid()) {
    const std::string path = fmt::format("/proc/{}/statm", pid);
    own = {pid, started_wall_ns, os::Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC))};
  }
  // "size resident shared ...", in pages; of a process that is gone, nothing.
  char text[128];
  const ssize_t got = ::pread(own.statm.get(), text, sizeof text, 0);
  const std::string_view all(text, got > 0 ? static_cast<std::size_t>(got) : 0);
  const std::size_t space = all.find(' ');
  std::int64_t pages = 0;
  if (space != std::string_view::npos) {
    std::from_chars(all.data() + space + 1, all.data() + all.size(), pages);
  }
  return pages * ::sysconf(_SC_PAGESIZE);
}

void MemoryReader::forget_others(const std::set<std::string>& services) {
  std::erase_if(open_, [&](const auto& entry) { return !services.contains(entry.first); });
}

int Endpoint::authorize(const wire::HttpRequest& request) const {
  constexpr std::string_view kScheme = "Bearer ";
  const std::string_view value = request.header("Authorization");
  if (options_.token.empty()) return 403;
  if (value.size() < kScheme.size() ||
      strncasecmp(value.data(), kScheme.data(), kScheme.size()) != 0) {
    return 401;
  }
  const std::string_view given = value.substr(kScheme.size());
  return equal_in_constant_time(given, options_.token.reveal()) ? 200 : 403;
}

wire::HttpResponse Endpoint::handle(const wire::HttpRequest& request) {
  using What = Route::What;
  const std::string_view host = request.header("Host");
  if (options_.loopback && !host.empty() && !is_local_host(host)) {
    return refusal(403, "this address is for this machine alone");
  }
  const Route route = parse_route(request.url);
  if (route.what == What::kNone) return refusal(404, "there is nothing at this address");
  const bool reads = request.method == "GET" || request.method == "HEAD";
  const bool changes = route.what == What::kChange;
  if (changes ? request.method != "POST" : !reads) {
    wire::HttpResponse response = refusal(405, "this method is not allowed here");
    response.headers.emplace_back("Allow", changes ? "POST" : "GET, HEAD");
    return response;
  }
  const bool open = route.what == What::kHealth || route.what == What::kReady;
  if (changes || (!options_.loopback && !open)) {
    const int allowed = authorize(request);
    if (allowed == 401) return refusal(401, "a token is needed: Authorization: Bearer TOKEN");
    if (allowed == 403) {
      return refusal(403, options_.token.empty() ? "no token is configured: [http] token"
                                                 : "the token is wrong");
    }
  }
  switch (route.what) {
    case What::kMetrics:
      return metrics();
    case What::kHealth:
      return health(route.service);
    case What::kReady:
      return ready(route.service);
    case What::kStatus:
      return json_answer(200, status().json);
    case What::kChange:
      return change(route.service, route.op);
    case What::kNone:
      break;
  }
  return refusal(404, "there is nothing at this address");
}

Endpoint::Status Endpoint::status() {
  const std::lock_guard lock(mutex_);
  const std::int64_t now = os::real_clock().mono_ns();
  if (asked_mono_ns_ != INT64_MIN && now - asked_mono_ns_ < options_.status_age.count()) {
    return status_;
  }
  os::Files& files = os::real_files();
  auto collected = daemon::collect_status(files, options_.state_dir, "");
  Status fresh;
  if (collected) {
    fresh.json = std::move(*collected);
  } else {
    fresh.json = wire::Json::object({{"schema", "defib.status/1"},
                                     {"services", wire::Json::array()},
                                     {"error", wire::to_json(collected.error())}});
  }
  const auto& services = fresh.json["services"].items();
  fresh.supervised = std::ranges::any_of(
      services, [](const wire::Json& service) { return service["supervised"].as_bool(); });
  if (!fresh.supervised) {
    // A daemon without services answers too.
    const auto answer =
        daemon::call_control(os::join_path(options_.state_dir, daemon::kControlSocket),
                             wire::Json::object({{"op", "status"}}), std::chrono::seconds(2));
    fresh.supervised = answer.has_value();
  }
  status_ = std::move(fresh);
  asked_mono_ns_ = os::real_clock().mono_ns();
  return status_;
}

// The daemon's short answer, and the status of services that others supervise, or nobody.
std::string Endpoint::make_page() {
  Page page;
  page.version = options_.version;
  page.counters = read_counters(options_.state_dir);
  page.queue_bytes = queue_bytes(options_.state_dir);
  const auto answer =
      daemon::call_control(os::join_path(options_.state_dir, daemon::kControlSocket),
                           wire::Json::object({{"op", "metrics"}}), std::chrono::seconds(2));
  page.supervised = answer.has_value();
  const std::string services = os::join_path(options_.state_dir, "services");
  std::set<std::string> known;
  if (answer) {
    for (const wire::Json& row : (*answer)["rows"].items()) {
      page.services.push_back(service_from_metrics(row));
      ServiceNow& one = page.services.back();
      known.insert(one.name);
      if (const auto log = process::read_log_counters(os::join_path(services, one.name))) {
        one.log_dropped_by_rate = static_cast<std::int64_t>(log->dropped_by_rate);
        one.log_dropped_by_disk = static_cast<std::int64_t>(log->dropped_by_disk);
        one.journal_dropped = static_cast<std::int64_t>(log->journal_dropped);
      }
      if (one.pid != 0 && one.memory_bytes == 0) {
        one.memory_bytes = memory_.bytes(one.name, one.pid, one.started_wall_ns);
      }
    }
    memory_.forget_others(known);
  }
  const auto names = os::real_files().list(services);
  const bool others = names && std::ranges::any_of(*names, [&](const std::string& name) {
                        return !known.contains(name);
                      });
  if (others) {
    const Status now = status();
    for (const wire::Json& service : now.json["services"].items()) {
      ServiceNow one = service_from_status(service);
      if (!known.contains(one.name)) page.services.push_back(std::move(one));
    }
  }
  return render(page);
}

wire::HttpResponse Endpoint::metrics() {
  const std::lock_guard lock(page_mutex_);
  const std::int64_t now = os::real_clock().mono_ns();
  if (page_mono_ns_ == INT64_MIN || now - page_mono_ns_ >= options_.status_age.count()) {
    page_ = make_page();
    page_mono_ns_ = os::real_clock().mono_ns();
  }
  return {200, {{"Content-Type", "text/plain; version=0.0.4; charset=utf-8"}}, page_};
}

wire::HttpResponse Endpoint::health(std::string_view name) {
  const Status now = status();
  wire::Json unwell = wire::Json::array();
  bool known = name.empty();
  for (const wire::Json& service : now.json["services"].items()) {
    const bool meant = name.empty() || service["name"].as_string() == name;
    known = known || meant;
    if (meant && !is_well(service)) {
      unwell.push(wire::Json::object({{"name", service["name"]}, {"state", service["state"]}}));
    }
  }
  if (!known) return refusal(404, "there is no such service");
  // The daemon's health is that it answers; a service's, that it is as it should be.
  const bool good = now.supervised && (name.empty() || unwell.size() == 0);
  return json_answer(good ? 200 : 503,
                     wire::Json::object({{"status", good ? "ok" : "unhealthy"},
                                         {"daemon", now.supervised ? "ok" : "not answering"},
                                         {"unwell", std::move(unwell)}}));
}

wire::HttpResponse Endpoint::ready(std::string_view name) {
  const Status now = status();
  wire::Json waiting = wire::Json::array();
  bool known = name.empty();
  for (const wire::Json& service : now.json["services"].items()) {
    const bool meant = name.empty() || service["name"].as_string() == name;
    known = known || meant;
    const bool rests = name.empty() && service["state"].as_string() == "stopped";
    const bool standby = service["state"].as_string() == "standby";
    if (meant && !rests && !standby && !is_up(service)) {
      waiting.push(wire::Json::object({{"name", service["name"]}, {"state", service["state"]}}));
    }
  }
  if (!known) return refusal(404, "there is no such service");
  const bool good = now.supervised && waiting.size() == 0;
  return json_answer(good ? 200 : 503,
                     wire::Json::object({{"ready", good}, {"waiting_for", std::move(waiting)}}));
}

wire::HttpResponse Endpoint::change(const std::string& service, const std::string& op) {
  const std::string socket =
      daemon::control_socket_of(os::real_files(), options_.state_dir, service);
  const auto answer = daemon::call_control(
      socket, wire::Json::object({{"op", op}, {"name", service}}), kChangeTime);
  {
    const std::lock_guard lock(mutex_);
    asked_mono_ns_ = INT64_MIN;
  }
  {
    const std::lock_guard lock(page_mutex_);
    page_mono_ns_ = INT64_MIN;
  }
  if (!answer) {
    return json_answer(status_of(answer.error()),
                       wire::Json::object({{"error", wire::to_json(answer.error())}}));
  }
  return json_answer(
      200, wire::Json::object(
               {{"schema", "defib.control/1"}, {"ok", true}, {"name", service}, {"did", op}}));
}

}  // namespace defib::endpoint
