#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <tuple>

#include "apps/defib/commands.h"
#include "apps/defib/output.h"
#include "defib/base/visible_text.h"
#include "defib/daemon/crash_groups.h"
#include "defib/daemon/incident_view.h"
#include "defib/daemon/status.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/recovery/explain.h"
#include "defib/recovery/incident.h"
#include "defib/report/advice.h"

namespace defib::cli {
namespace {

constexpr os::Duration kWatchPeriod = std::chrono::seconds(1);
constexpr std::size_t kMaxFramesShown = 32;
constexpr std::size_t kMaxThreadsShown = 8;

std::string or_dash(const std::string& text) {
  return text.empty() ? "-" : text;
}

// "2026-11-20 13:05:58" of an RFC 3339 time.
std::string short_time(std::string_view time) {
  std::string text(time.substr(0, 19));
  std::replace(text.begin(), text.end(), 'T', ' ');
  return text;
}

std::string number_or_dash(const wire::Json& value, const char* format) {
  return value.is_number() ? fmt::format(fmt::runtime(format), value.as_double()) : "-";
}

// "engine: backing_off because it ended: exit code 1; start in 27.3 s".
std::string explanation(const wire::Json& service) {
  const wire::Json& next = service["next_action"];
  if (!next.is_object() && !service["reason"].is_string()) return {};
  std::string text =
      fmt::format("{}: {}", service["name"].as_string(), service["state"].as_string());
  if (service["reason"].is_string()) {
    text += fmt::format(", because {}", service["reason"].as_string());
  }
  const std::string_view what = next["what"].as_string();
  if (what == "reset") {
    text += fmt::format("; `defib reset {}` starts it", service["name"].as_string());
  } else if (next["in_seconds"].is_number()) {
    std::string words(what);
    std::replace(words.begin(), words.end(), '_', ' ');
    text += fmt::format("; {} in {}", words,
                        short_duration(std::max(0.0, next["in_seconds"].as_double())));
  }
  return text + "\n";
}

std::string status_table(const wire::Json& status) {
  Table table({"NAME", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY", "CPU", "HEARTBEAT",
               "LAST INCIDENT"});
  bool unsupervised = false;
  for (const wire::Json& service : status["services"].items()) {
    const std::string state(service["state"].as_string());
    const bool supervised = service["supervised"].as_bool();
    unsupervised = unsupervised || !supervised;
    const wire::Json& uptime = service["uptime_seconds"];
    table.add({{std::string(service["name"].as_string()), Style::kBold},
               {supervised ? state : state + " *", style_of(state)},
               {number_or_dash(service["pid"], "{:.0f}")},
               {uptime.is_number() ? short_duration(uptime.as_double()) : "-"},
               {fmt::format("{}", service["restart_count"].as_int())},
               {number_or_dash(service["memory_mb"], "{:.1f} MB")},
               {number_or_dash(service["cpu_percent"], "{:.1f} %")},
               {number_or_dash(service["heartbeat_age_ms"], "{:.0f} ms")},
               {or_dash(std::string(service["last_incident"].as_string()))}});
  }
  std::string text = table.to_text();
  for (const wire::Json& service : status["services"].items()) {
    const wire::Json& standby = service["standby"];
    if (standby["pid"].is_number()) {
      text +=
          fmt::format("{}: standby {} {}\n", service["name"].as_string(), standby["pid"].as_int(),
                      standby["ready"].as_bool() ? "is ready" : "initialises");
    }
    if (service["standby_error"].is_string()) {
      text += fmt::format("{}: {}\n", service["name"].as_string(),
                          styled(Style::kBad, service["standby_error"].as_string()));
    }
  }
  for (const wire::Json& service : status["services"].items()) {
    text += explanation(service);
    if (!service["last_error"].is_string()) continue;
    text += fmt::format("{}: {}\n", service["name"].as_string(),
                        styled(Style::kBad, service["last_error"].as_string()));
  }
  if (unsupervised) {
    text += styled(Style::kDim, "* nobody supervises it now; shown is what was known last\n");
  }
  return text;
}

// Unhealthy is what was asked about: one service by its name.
int status_exit_code(const CommandLine& line, const wire::Json& status) {
  if (line.name.empty()) return kDone;
  const std::string_view state = status["services"].items().front()["state"].as_string();
  return state == "failed" || state == "degraded" ? kFailed : kDone;
}

Result<recovery::IncidentLog> open_incidents(const CommandLine& line) {
  return recovery::IncidentLog::open(os::real_files(), os::real_clock(), state_dir_of(line));
}

void add_classification(const wire::Json& incident, std::string& text) {
  const wire::Json& found = incident["classification"];
  text += fmt::format("\n{}  {}", styled(Style::kBold, "Cause"), found["cause"].as_string());
  if (!found["subtype"].as_string().empty()) {
    text += fmt::format(" ({})", found["subtype"].as_string());
  }
  if (found["signal"].is_string()) text += fmt::format(", {}", found["signal"].as_string());
  if (found["fault_address"].is_string()) {
    text += fmt::format(" at {}", found["fault_address"].as_string());
  }
  text += fmt::format(", confidence {:.0f} %\n", found["confidence"].as_double() * 100);
  for (const wire::Json& sentence : found["evidence"].items()) {
    text += fmt::format("  - {}\n", sentence.as_string());
  }
}

// Of the program's own code, mostly stripped; a library of the system seldom matters.
bool lacks_its_name(const wire::Json& frame) {
  const std::string_view module = frame["module"].as_string();
  const bool is_system = module.starts_with("/usr/lib/") || module.starts_with("/lib");
  return frame["function"].as_string().empty() && !frame["build_id"].as_string().empty() &&
         !is_system;
}

std::string frame_line(const wire::Json& frame, std::size_t number) {
  const std::string_view module = frame["module"].as_string(), file = frame["file"].as_string();
  std::string function(frame["function"].as_string());
  if (function.empty()) {
    function = module.empty() ? "??"
                              : fmt::format("{}+{}", module.substr(module.rfind('/') + 1),
                                            frame["offset"].as_string());
  }
  std::string text = fmt::format("  #{:<2} {}", number, function);
  if (!file.empty()) {
    text += fmt::format("  {}:{}", file, frame["line"].as_int());
  } else if (!module.empty()) {
    text += styled(Style::kDim, fmt::format("  {}", module));
  }
  return text + '\n';
}

// The one that crashed; where none did, those that wait for one another are among the others.
void add_threads(const wire::Json& incident, std::string& text) {
  const wire::Json::Array& threads = incident["threads"].items();
  const bool crashed = std::ranges::any_of(
      threads, [](const wire::Json& thread) { return thread["crashed"].as_bool(); });
  std::size_t shown = 0;
  bool nameless = false;
  for (const wire::Json& thread : threads) {
    if (crashed && !thread["crashed"].as_bool()) continue;
    if (shown++ == kMaxThreadsShown) break;
    text += fmt::format("\n{}  {} ({})\n", styled(Style::kBold, "Thread"), thread["tid"].as_int(),
                        thread["name"].as_string());
    const wire::Json::Array& frames = thread["frames"].items();
    for (std::size_t i = 0; i < std::min(frames.size(), kMaxFramesShown); ++i) {
      text += frame_line(frames[i], i);
      nameless = nameless || lacks_its_name(frames[i]);
    }
    if (frames.size() > kMaxFramesShown) {
      text += fmt::format("      and {} more\n", frames.size() - kMaxFramesShown);
    }
  }
  if (crashed ? threads.size() > 1 : threads.size() > kMaxThreadsShown) {
    text += fmt::format("\n{} threads in all: defib report {} --format text\n", threads.size(),
                        incident["id"].as_string());
  }
  if (nameless) {
    text += fmt::format(
        "\nWith the debug files of the modules without names, elsewhere too:\n"
        "  defib incident show {} --json | defib symbolize --debug-dir DIR\n",
        incident["id"].as_string());
  }
}

void add_group(const wire::Json& group, std::string& text) {
  if (group["count"].as_int() == 0) return;
  text += fmt::format("\n{}  {} in {}: {}\n", styled(Style::kBold, "Seen"),
                      group["count"].as_int() == 1
                          ? "once"
                          : fmt::format("{} times since {} UTC", group["count"].as_int(),
                                        short_time(group["first_seen"].as_string())),
                      group["incidents"].size() == 1 ? "this incident"
                                                     : "the incidents listed by "
                                                       "`defib incidents --group`",
                      group["text"].as_string());
}

void add_changes(const wire::Json& changes, std::string& text) {
  if (!changes.is_object()) return;
  text += fmt::format("\n{}", styled(Style::kBold, "Changed since the last good run"));
  if (!changes["since"].is_object()) {
    text += fmt::format("  {}\n", changes["note"].as_string());
    return;
  }
  text += fmt::format(" (generation {}, good at {} UTC)\n", changes["since"]["generation"].as_int(),
                      short_time(changes["since"]["good_at"].as_string()));
  for (const wire::Json& line : changes["differences"].items()) {
    text += fmt::format("  - {}\n", line.as_string());
  }
  if (changes["differences"].size() > 0) return;
  text += "  nothing\n";
  for (const wire::Json& line : changes["last_change"]["differences"].items()) {
    text += fmt::format("  - before that run: {}\n", line.as_string());
  }
}

// What a line of the timeline says beside its event.
std::string summary_of(const wire::Json& entry) {
  std::string text;
  for (const char* key : {"what", "stage", "state", "status", "cause", "outcome", "pid", "rule",
                          "detail", "line", "message"}) {
    const wire::Json& value = entry[key];
    if (value.is_string() && !value.as_string().empty()) {
      text += fmt::format("  {}: {}", key, value.as_string().substr(0, 120));
    } else if (value.is_number()) {
      text += fmt::format("  {}: {}", key, value.as_int());
    }
  }
  if (entry["downtime_ns"].is_number()) {
    text += fmt::format("  downtime: {}",
                        os::format_duration(os::Duration(entry["downtime_ns"].as_int())));
  }
  return text;
}

void add_bundle(const wire::Json& bundle, std::string& text) {
  if (!bundle.is_object()) return;
  text += fmt::format("\n{}  {}\n", styled(Style::kBold, "Bundle"), bundle["path"].as_string());
  for (const wire::Json& failure : bundle["failures"].items()) {
    std::string parts;
    for (const wire::Json& part : failure["parts"].items()) {
      parts += fmt::format("{}{}", parts.empty() ? "" : ", ", part["name"].as_string());
      if (part.has("cut")) parts += " (cut)";
    }
    text += fmt::format("  {}  {}\n", failure["failure"].as_int(),
                        parts.empty() ? "its collector was killed" : parts);
    for (const wire::Json& one : failure["missing"].items()) {
      text += styled(Style::kDim, fmt::format("     without {}: {}\n", one["name"].as_string(),
                                              one["why"].as_string()));
    }
  }
}

// Names of threads, lines of output, and what else a process may choose: no text of them steers the
// terminal.
wire::Json visible(const wire::Json& value) {
  if (value.is_string()) return visible_text(value.as_string());
  if (value.is_array()) {
    wire::Json array = wire::Json::array();
    for (const wire::Json& item : value.items()) array.push(visible(item));
    return array;
  }
  if (!value.is_object()) return value;
  wire::Json object = wire::Json::object();
  for (const auto& [key, member] : value.members()) object.set(visible_text(key), visible(member));
  return object;
}

std::string incident_text(const wire::Json& incident) {
  const std::string outcome(incident["outcome"].as_string());
  std::string text = fmt::format(
      "{}  {}\n{}  {}\n{}  {}, {}\n{}  {}\n", styled(Style::kBold, "Incident"),
      incident["id"].as_string(), styled(Style::kBold, "Service "), incident["service"].as_string(),
      styled(Style::kBold, "Outcome "), styled(style_of(outcome), outcome),
      short_time(incident["opened_at"].as_string()) + " UTC", styled(Style::kBold, "Head    "),
      incident["head_hash"].as_string());
  add_classification(incident, text);
  add_group(incident["group"], text);
  add_changes(incident["changes"], text);
  add_threads(incident, text);
  text += fmt::format("\n{}  {}", styled(Style::kBold, "What to do"),
                      report::to_text(report::advise(report::advice_facts(incident))));
  add_bundle(incident["bundle"], text);
  text += fmt::format("\n{}\n", styled(Style::kBold, "Timeline"));
  const auto& timeline = incident["timeline"].items();
  const std::int64_t start = timeline.empty() ? 0 : timeline.front()["mono_ns"].as_int();
  for (const wire::Json& entry : timeline) {
    const double after = static_cast<double>(entry["mono_ns"].as_int() - start) / 1e9;
    text += fmt::format("  {:+10.3f} s  {:<18}{}\n", after, entry["event"].as_string(),
                        summary_of(entry));
  }
  return text;
}

}  // namespace

namespace {

struct ServiceGroup {
  std::string service;
  daemon::CrashGroup group;
};

// Of all services, what was seen last first.
std::vector<ServiceGroup> all_groups(const std::string& state_dir) {
  std::vector<ServiceGroup> all;
  const std::string services = os::join_path(state_dir, "services");
  const auto names = os::real_files().list(services);
  if (!names) return all;
  for (const std::string& name : *names) {
    const auto groups = daemon::CrashGroups::read(os::real_files(), os::join_path(services, name));
    for (const daemon::CrashGroup& group : groups.groups()) all.push_back({name, group});
  }
  std::ranges::sort(all, [](const ServiceGroup& one, const ServiceGroup& other) {
    return std::tie(other.group.last_at, one.service, one.group.id) <
           std::tie(one.group.last_at, other.service, other.group.id);
  });
  return all;
}

int groups_command(const CommandLine& line) {
  const std::vector<ServiceGroup> all = all_groups(state_dir_of(line));
  if (line.json) {
    wire::Json list = wire::Json::array();
    for (const ServiceGroup& one : all) {
      wire::Json json = wire::Json::object({{"service", one.service}});
      const wire::Json group = one.group.to_json();
      for (const auto& [key, value] : group.members()) json.set(key, value);
      list.push(std::move(json));
    }
    print_json(wire::Json::object({{"schema", "defib.groups/1"}, {"groups", std::move(list)}}));
    return kDone;
  }
  if (all.empty()) {
    print(fmt::format("no failures in {}\n", state_dir_of(line)));
    return kDone;
  }
  Table table({"SERVICE", "COUNT", "FIRST SEEN (UTC)", "LAST SEEN (UTC)", "LAST INCIDENT", "WHAT"});
  for (const ServiceGroup& one : all) {
    table.add({{one.service, Style::kBold},
               {std::to_string(one.group.count)},
               {short_time(one.group.first_at)},
               {short_time(one.group.last_at)},
               {one.group.incidents.empty() ? "-" : one.group.incidents.back()},
               {one.group.text}});
  }
  print(table.to_text());
  return kDone;
}

}  // namespace

Result<int> status_command(const CommandLine& line) {
  const std::string state_dir = state_dir_of(line);
  while (true) {
    DEFIB_TRY_ASSIGN(const wire::Json status,
                     daemon::collect_status(os::real_files(), state_dir, line.name));
    if (line.json) {
      print_json(status, line.watch ? -1 : 2);
    } else {
      if (line.watch) print("\x1b[H\x1b[2J");
      print(status["services"].size() == 0 ? fmt::format("no services in {}\n", state_dir)
                                           : status_table(status));
    }
    if (!line.watch) return status_exit_code(line, status);
    os::real_clock().sleep_for(kWatchPeriod);
  }
}

Result<int> incidents_command(const CommandLine& line) {
  if (line.group) return groups_command(line);
  DEFIB_TRY_ASSIGN(const recovery::IncidentLog log, open_incidents(line));
  DEFIB_TRY_ASSIGN(const auto all, log.list());
  if (line.json) {
    wire::Json list = wire::Json::array();
    for (const recovery::IncidentSummary& one : all) list.push(one.to_json());
    print_json(
        wire::Json::object({{"schema", "defib.incidents/1"}, {"incidents", std::move(list)}}));
    return kDone;
  }
  if (all.empty()) {
    print(fmt::format("no incidents in {}\n", state_dir_of(line)));
    return kDone;
  }
  Table table({"INCIDENT", "SERVICE", "OPENED (UTC)", "CAUSE", "OUTCOME"});
  for (const recovery::IncidentSummary& one : all) {
    table.add({{one.id, Style::kBold},
               {or_dash(one.service)},
               {short_time(one.opened_at)},
               {one.cause},
               {one.outcome, style_of(one.outcome)}});
  }
  print(table.to_text());
  return kDone;
}

Result<int> incident_show_command(const CommandLine& line) {
  DEFIB_TRY_ASSIGN(const recovery::IncidentLog log, open_incidents(line));
  DEFIB_TRY_ASSIGN(const std::string id, log.find(line.subject));
  DEFIB_TRY_ASSIGN(const std::vector<wire::Json> lines, log.read(id));
  if (lines.empty()) {
    return Error(Code::kIncidentChainBroken, fmt::format("the incident {} is empty", id));
  }
  wire::Json incident = daemon::incident_document(lines);
  daemon::add_context(incident, state_dir_of(line));
  if (line.json) {
    print_json(incident);
  } else {
    print(incident_text(visible(incident)));
  }
  return kDone;
}

Result<int> verify_command(const CommandLine& line) {
  DEFIB_TRY_ASSIGN(const recovery::IncidentLog log, open_incidents(line));
  DEFIB_TRY_ASSIGN(const std::string id, log.find(line.subject));
  DEFIB_TRY_ASSIGN(const recovery::VerifyResult result, log.verify(id, line.head));
  if (line.json) {
    print_json(wire::Json::object(
        {{"schema", "defib.verify/1"},
         {"id", id},
         {"intact", result.intact},
         {"lines", result.lines},
         {"head_hash", result.head_hash},
         {"head_line", result.head_line},
         {"problem", result.problem.empty() ? wire::Json() : wire::Json(result.problem)}}));
  } else if (result.intact) {
    print(fmt::format("{}: {}, {} lines, head {}\n", id, styled(Style::kGood, "intact"),
                      result.lines, result.head_hash));
  } else {
    print(fmt::format("{}: {}\n", id, styled(Style::kBad, "broken")));
    return Error(Code::kIncidentChainBroken, result.problem).with("incident", id);
  }
  return result.intact ? kDone : kFailed;
}

// A cause of an incident: what to do about it, with NAME and ID for what the incident would name.
Result<int> explain_cause(const CommandLine& line) {
  report::AdviceFacts facts;
  facts.cause = line.subject;
  facts.has_stack = true;
  const report::Advice advice = report::advise(facts);
  if (line.json) {
    print_json(wire::Json::object({{"schema", "defib.explain/1"},
                                   {"cause", line.subject},
                                   {"text", advice.title},
                                   {"advice", report::to_json(advice)},
                                   {"try", advice.steps.front().text}}));
  } else {
    print(report::to_text(advice) + fmt::format("try: {}\n", advice.steps.front().text));
  }
  return kDone;
}

Result<int> explain_command(const CommandLine& line) {
  // What stands in a file is a decision, also where a gate has the name of a cause.
  const bool decision = !line.from.empty();
  if (!decision && report::is_cause(line.subject)) return explain_cause(line);
  const auto text = recovery::explain_code(line.subject);
  if (decision || !text) {
    // Not a code: a verdict of a decision, which the trading program knows.
    std::vector<std::string> arguments = {"explain", line.subject};
    if (line.json) arguments.emplace_back("--json");
    if (decision) arguments.insert(arguments.end(), {"--from", line.from});
    if (!line.config.empty()) arguments.insert(arguments.end(), {"--config", line.config});
    const Error missing = exec_helper("defib-trade", std::move(arguments), state_dir_of(line));
    return Error(Code::kNotFound,
                 fmt::format("'{}' is neither an error code, a cause nor a known verdict",
                             line.subject))
        .because(missing)
        .suggest(
            "give a number (-73), a name (DatabaseLocked), a cause (deadlock), or a decision's "
            "id");
  }
  if (!line.json) {
    print(*text + (text->ends_with('\n') ? "" : "\n"));
    return kDone;
  }
  const CodeInfo info = *find_code(line.subject);
  print_json(wire::Json::object({{"schema", "defib.explain/1"},
                                 {"code", static_cast<int>(info.code)},
                                 {"kind", info.name},
                                 {"class", to_string(info.error_class)},
                                 {"text", info.text},
                                 {"try", info.guidance}}));
  return kDone;
}

}  // namespace defib::cli
