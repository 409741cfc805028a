#include "defib/report/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "defib/base/text.h"
#include "defib/base/visible_text.h"
#include "defib/os/clock.h"
#include "defib/report/advice.h"
#include "defib/report/trading_blocks.h"

namespace defib::report {
namespace {

using wire::Json;

constexpr std::size_t kMaxTimeline = 200;
constexpr std::size_t kMaxThreads = 256;
constexpr std::size_t kMaxFrames = 256;
constexpr std::size_t kMaxLogLines = 400;
constexpr std::size_t kMaxKernelLines = 100;
constexpr std::size_t kMaxRows = 300;
constexpr std::size_t kMaxCell = 2000;

std::string cell(std::string_view text) {
  std::string shown = visible_text(text.substr(0, kMaxCell));
  std::ranges::replace(shown, '\n', ' ');
  std::ranges::replace(shown, '\t', ' ');
  return shown;
}

std::string cell(const std::string& text) {
  return cell(std::string_view(text));
}

std::string cell(const Json& value) {
  if (value.is_null()) return "";
  return value.is_string() ? cell(value.as_string()) : cell(value.dump());
}

// "2026-11-20 13:05:58.123 UTC"
std::string short_time(std::string_view time) {
  if (time.size() < 23) return cell(time);
  std::string text = cell(time.substr(0, 23));
  std::ranges::replace(text, 'T', ' ');
  return text + " UTC";
}

std::string bytes_text(double bytes) {
  constexpr std::string_view kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 ? 0 : 1, kUnits[unit]);
}

class Builder {
 public:
  explicit Builder(const Input& input) : in_(input) {}
  Document build();

 private:
  void heading(std::string text) { add(BlockKind::kHeading).text = std::move(text); }
  void paragraph(std::string_view text) { add(BlockKind::kParagraph).text = cell(text); }
  void list(const Json& texts);
  void lines_of(std::string_view text, std::size_t last, std::string title);
  Block& add(BlockKind kind);
  void row(Block& table, std::string_view name, const std::string& value);

  void summary();
  void cause();
  void changes();
  void advice();
  void timeline();
  void code();
  void registers();
  void stacks();
  void stack(const Json& thread);
  void samples();
  void output();
  void process();
  void machine();
  void trading();
  void missing();

  const Json& threads() const {
    const Json& own = in_.crash["threads"];
    return own.size() > 0 ? own : in_.incident["threads"];
  }
  const Json& classification() const { return in_.incident["classification"]; }

  const Input& in_;
  Document document_;
  bool is_kill_ = false;  // the record of `defib kill`: it has no cause
};

Block& Builder::add(BlockKind kind) {
  document_.blocks.emplace_back();
  document_.blocks.back().kind = kind;
  return document_.blocks.back();
}

void Builder::row(Block& table, std::string_view name, const std::string& value) {
  if (!value.empty()) table.rows.push_back({std::string(name), value});
}

void Builder::list(const Json& texts) {
  Block& block = add(BlockKind::kList);
  for (const Json& text : texts.items()) {
    if (block.items.size() < kMaxRows) block.items.push_back({cell(text), {}});
  }
}

// The last lines of a text, in a block of their own.
void Builder::lines_of(std::string_view text, std::size_t last, std::string title) {
  if (text.empty()) return;
  Block& block = add(BlockKind::kPre);
  block.folded = !title.empty();
  block.text = std::move(title);
  std::size_t begin = text.size();
  for (std::size_t count = 0; begin > 0 && count <= last; ++count) {
    const std::size_t end = text.rfind('\n', begin - 1);
    if (end == text.npos) {
      begin = 0;
    } else {
      begin = end;
      if (count == last) ++begin;
    }
  }
  std::string_view rest = text.substr(begin);
  while (!rest.empty()) {
    block.lines.push_back(visible_text(next_line(rest).substr(0, kMaxCell)));
  }
}

void Builder::summary() {
  const Json& incident = in_.incident;
  Block& table = add(BlockKind::kTable);
  row(table, "Incident", cell(incident["id"]));
  row(table, "Service", cell(incident["service"]));
  row(table, "Opened", short_time(incident["opened_at"].as_string()));
  if (incident["closed_at"].is_string()) {
    row(table, "Closed", short_time(incident["closed_at"].as_string()));
  }
  row(table, "Outcome", cell(incident["outcome"]));
  for (const Json& entry : incident["timeline"].items()) {
    if (!entry["downtime_ns"].is_number()) continue;
    row(table, "Downtime", os::format_duration(os::Duration(entry["downtime_ns"].as_int())));
    break;
  }
  const Json& group = incident["group"];
  if (group["count"].as_int() > 0) {
    const std::string first = short_time(group["first_seen"].as_string());
    row(table, "Seen",
        group["count"].as_int() == 1
            ? "once, " + first
            : fmt::format("{} times since {}", group["count"].as_int(), first));
  }
  row(table, "Signature", cell(classification()["signature"]["text"]));
  if (in_.manifest["pid"].as_int() > 0) {
    row(table, "Process",
        fmt::format("{}, generation {}", in_.manifest["pid"].as_int(),
                    in_.manifest["generation"].as_int()));
  }
  row(table, "Program", cell(in_.manifest["versions"]["exe"]));
  row(table, "Build id", cell(in_.manifest["versions"]["build_id"]));
  row(table, "Kernel", cell(in_.manifest["versions"]["kernel"]));
  if (in_.failures > 1) {
    row(table, "Failure", fmt::format("{} of {} that have a bundle", in_.failure, in_.failures));
  }
  row(table, "Head hash", cell(incident["head_hash"]));
}

void Builder::cause() {
  if (is_kill_) return;
  const Json& found = classification();
  heading("Cause");
  std::string text = cell(found["cause"]);
  if (!found["subtype"].as_string().empty()) text += fmt::format(" ({})", cell(found["subtype"]));
  if (found["signal"].is_string()) text += fmt::format(", {}", cell(found["signal"]));
  if (found["fault_address"].is_string()) {
    text += fmt::format(" at {}", cell(found["fault_address"]));
  }
  paragraph(fmt::format("{}, confidence {:.0f} %", text, found["confidence"].as_double() * 100));
  list(found["evidence"]);
  if (const std::string message = cell(in_.crash["message"]); !message.empty()) {
    paragraph(fmt::format("The process left the text: {}", message));
  }
}

void Builder::changes() {
  if (!in_.changes.is_object()) return;
  heading("What changed since the last good run");
  const Json& since = in_.changes["since"];
  if (!since.is_object()) return paragraph(in_.changes["note"].as_string());
  paragraph(fmt::format("The last good run is generation {}, found good at {}.",
                        since["generation"].as_int(), short_time(since["good_at"].as_string())));
  if (in_.changes["differences"].size() > 0) return list(in_.changes["differences"]);
  paragraph("Nothing: program, files, command, environment, settings and libraries are the same.");
  const Json& before = in_.changes["last_change"];
  if (before["differences"].size() == 0) return;
  paragraph(fmt::format("The last change before it, after {}:",
                        short_time(before["between"].items().front().as_string())));
  list(before["differences"]);
}

void Builder::advice() {
  AdviceFacts facts = advice_facts(in_.incident);
  facts.changed = facts.changed || in_.changes["differences"].size() > 0;
  const Advice advice = advise(facts);
  heading("What to do");
  paragraph(advice.title);
  Block& block = add(BlockKind::kList);
  block.numbered = true;
  for (const AdviceStep& step : advice.steps) {
    block.items.push_back({cell(step.text), cell(step.command)});
  }
  paragraph("Safe to resume: " + advice.resume);
}

std::string event_text(const Json& entry) {
  std::string text;
  for (const auto& [key, value] : entry.members()) {
    const bool of_line = key == "seq" || key == "at" || key == "mono_ns" || key == "boot_id" ||
                         key == "event" || key == "hash" || key == "tail" || key == "decision" ||
                         key == "by_status" || key == "evidence" || key == "schema";
    // Moments are in the columns beside it, or in the incident's file.
    const bool moment = key.ends_with("_ns") || key.ends_with("_at");
    if (of_line || moment || value.is_null() || text.size() > 300) continue;
    if (value.is_object() || value.is_array()) continue;
    std::string shown = cell(value);
    if (shown.empty()) continue;
    if (shown.size() > 120) shown = visible_text(shown.substr(0, 120)) + "...";
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", cell(key), shown);
  }
  return text;
}

void Builder::timeline() {
  const auto& entries = in_.incident["timeline"].items();
  if (entries.empty()) return;
  heading("Timeline");
  Block& table = add(BlockKind::kTable);
  table.titled = true;
  table.rows.push_back({"Time (UTC)", "After", "Event", "What"});
  const std::int64_t start = entries.front()["mono_ns"].as_int();
  for (const Json& entry : entries) {
    if (table.rows.size() > kMaxTimeline) break;
    const double after = static_cast<double>(entry["mono_ns"].as_int() - start) / 1e9;
    std::string time = cell(entry["at"].as_string().substr(0, 23));
    std::ranges::replace(time, 'T', ' ');
    table.rows.push_back({std::move(time), fmt::format("{:+.3f} s", after), cell(entry["event"]),
                          event_text(entry)});
  }
  if (entries.size() > kMaxTimeline) {
    paragraph(fmt::format("{} further events are in the incident's file.",
                          entries.size() - kMaxTimeline));
  }
}

void Builder::code() {
  if (in_.disassembly.empty()) return;
  heading("Code around the fault");
  Block& block = add(BlockKind::kPre);
  std::string_view rest = in_.disassembly;
  while (!rest.empty() && block.lines.size() < kMaxRows) {
    const std::string_view line = next_line(rest);
    if (line.starts_with("=>")) block.marked.push_back(block.lines.size());
    block.lines.push_back(visible_text(line.substr(0, kMaxCell)));
  }
}

void Builder::registers() {
  const auto& registers = in_.crash["registers"].members();
  if (registers.empty()) return;
  heading("Registers");
  constexpr std::size_t kColumns = 3;
  Block& table = add(BlockKind::kTable);
  for (std::size_t i = 0; i < registers.size() && i < kMaxRows; ++i) {
    if (i % kColumns == 0) table.rows.emplace_back();
    table.rows.back().push_back(cell(registers[i].first));
    table.rows.back().push_back(cell(registers[i].second));
  }
}

void Builder::stack(const Json& thread) {
  Block& block = add(BlockKind::kPre);
  block.text = fmt::format("Thread {} ({})", thread["tid"].as_int(), cell(thread["name"]));
  const bool crashed = thread["crashed"].as_bool();
  if (crashed) block.text += ", crashed";
  block.folded = !crashed;
  std::size_t number = 0;
  bool own_marked = !crashed;
  for (const Json& frame : thread["frames"].items()) {
    if (number == kMaxFrames) break;
    std::string line = fmt::format("#{:<3} ", number);
    const std::string function = cell(frame["function"]), file = cell(frame["file"]),
                      module = cell(frame["module"]);
    line += function.empty() ? fmt::format("{}+{}", module, cell(frame["offset"])) : function;
    if (!file.empty()) {
      line += fmt::format("  {}:{}", file, frame["line"].as_int());
      // The innermost one whose source is known is mostly the program's own.
      if (!own_marked) block.marked.push_back(number);
      own_marked = true;
    } else if (!function.empty() && !module.empty()) {
      line += fmt::format("  {}", module);
    }
    if (frame["inlined"].as_bool()) line += " (inlined)";
    block.lines.push_back(std::move(line));
    ++number;
  }
  if (thread["truncated"].as_bool()) block.lines.emplace_back("     and more");
  if (thread["unwind_error"].is_string()) {
    block.lines.push_back("     the walk ends here: " + cell(thread["unwind_error"]));
  }
}

void Builder::stacks() {
  const Json& all = threads();
  if (all.size() == 0) return;
  heading(all.size() == 1 ? "Stack" : fmt::format("Stacks of all {} threads", all.size()));
  std::size_t count = 0;
  for (const bool crashed : {true, false}) {
    for (const Json& thread : all.items()) {
      if (thread["crashed"].as_bool() != crashed || count++ >= kMaxThreads) continue;
      stack(thread);
    }
  }
}

// A number of each sample; of a counter, its growth in a second.
struct Series {
  const char* title;
  const char* unit;
  const char* name;
  double factor;
  bool grows;
};

std::optional<Chart> chart_of(const Json& ring, const Series& series, std::int64_t failed_ns) {
  const auto& names = ring["names"].items();
  const auto at = std::ranges::find(names, Json(series.name));
  if (at == names.end()) return std::nullopt;
  const auto place = static_cast<std::size_t>(at - names.begin());
  Chart chart{series.title, series.unit, {}};
  std::optional<Point> before;
  std::int64_t generation = -1;
  for (const Json& sample : ring["samples"].items()) {
    const auto& numbers = sample["numbers"].items();
    if (place >= numbers.size()) continue;
    const double seconds =
        static_cast<double>(os::parse_time(sample["at"].as_string()) - failed_ns) / 1e9;
    const double value = numbers[place].as_double() * series.factor;
    // Counters of a service begin anew with each process.
    const std::int64_t process = numbers.size() > 1 ? numbers[1].as_int() : 0;
    const bool same = generation == process ||
                      std::string_view(series.name).find("_ticks") != std::string_view::npos;
    generation = process;
    if (!series.grows) {
      chart.points.push_back({seconds, value});
    } else if (before && same && seconds > before->seconds && value >= before->value) {
      chart.points.push_back({seconds, (value - before->value) / (seconds - before->seconds)});
    }
    before = Point{seconds, value};
  }
  if (chart.points.size() < 2) return std::nullopt;
  return chart;
}

void Builder::samples() {
  constexpr Series kService[] = {{"Memory (resident)", "MB", "rss_bytes", 1.0 / (1 << 20), false},
                                 {"Processor", "%", "cpu_ns", 1e-7, true},
                                 {"Threads", "", "threads", 1, false},
                                 {"Descriptors", "", "descriptors", 1, false}};
  constexpr Series kMachine[] = {
      {"Machine: memory available", "MB", "memory_available", 1.0 / (1 << 20), false},
      {"Machine: load of a minute", "", "load1_milli", 1e-3, false}};
  const std::int64_t failed = os::parse_time(in_.manifest["failed_at"].as_string());
  Block block;
  block.kind = BlockKind::kCharts;
  for (const Series& series : kService) {
    if (auto chart = chart_of(in_.samples["service"], series, failed)) {
      block.charts.push_back(std::move(*chart));
    }
  }
  for (const Series& series : kMachine) {
    if (auto chart = chart_of(in_.samples["machine"], series, failed)) {
      block.charts.push_back(std::move(*chart));
    }
  }
  if (block.charts.empty()) return;
  heading("Before the failure");
  paragraph("Seconds before and after the failure, which is at 0.");
  document_.blocks.push_back(std::move(block));
}

void Builder::output() {
  if (!in_.log_important.empty() || !in_.log.empty()) heading("Output");
  if (!in_.log_important.empty()) {
    paragraph("The last 20 lines that tell of errors, and 50 of warnings.");
    lines_of(in_.log_important, 200, "");
  }
  lines_of(in_.log, kMaxLogLines, "Output of the five minutes before");
  lines_of(in_.evidence, kMaxLogLines, "Output of evidence_command");
  lines_of(in_.kernel, kMaxKernelLines, "The kernel's messages");
}

void Builder::process() {
  const Json& process = in_.process;
  if (!process.is_object()) return;
  heading("Process");
  Block& table = add(BlockKind::kTable);
  std::string command;
  for (const Json& word : process["command_line"].items()) {
    command += fmt::format("{}{}", command.empty() ? "" : " ", word.as_string());
  }
  row(table, "Command", cell(command));
  row(table, "Directory", cell(process["cwd"]));
  row(table, "Control group", cell(process["cgroup"]));
  row(table, "Known from", cell(process["source"]));
  const auto sub_table = [&](std::string title, std::vector<std::string> titles) -> Block& {
    Block& block = add(BlockKind::kTable);
    block.text = std::move(title);
    block.folded = block.titled = true;
    block.rows.push_back(std::move(titles));
    return block;
  };
  if (process["environment"].size() > 0) {
    Block& block = sub_table("Environment", {"Name", "Value"});
    for (const auto& [name, value] : process["environment"].members()) {
      if (block.rows.size() <= kMaxRows) block.rows.push_back({cell(name), cell(value)});
    }
  }
  if (process["limits"].size() > 0) {
    Block& block = sub_table("Limits", {"Name", "Soft", "Hard", "Unit"});
    for (const Json& one : process["limits"].items()) {
      block.rows.push_back(
          {cell(one["name"]), cell(one["soft"]), cell(one["hard"]), cell(one["unit"])});
    }
  }
  if (process["descriptors"].size() > 0) {
    Block& block = sub_table(fmt::format("{} descriptors", process["descriptors"].size()),
                             {"Number", "Target", "Socket"});
    for (const Json& one : process["descriptors"].items()) {
      if (block.rows.size() > kMaxRows) break;
      const Json& socket = one["socket"];
      std::string words;
      for (const char* key : {"protocol", "local", "remote", "state"}) {
        if (const std::string word = cell(socket[key]); !word.empty()) {
          words += fmt::format("{}{}", words.empty() ? "" : " ", word);
        }
      }
      block.rows.push_back({cell(one["fd"]), cell(one["target"]), std::move(words)});
    }
  }
  if (in_.crash["modules"].size() > 0) {
    Block& block = sub_table("Modules", {"Path", "Start", "Build id"});
    for (const Json& one : in_.crash["modules"].items()) {
      if (block.rows.size() > kMaxRows) break;
      block.rows.push_back({cell(one["path"]), cell(one["start"]), cell(one["build_id"])});
    }
  }
}

void Builder::machine() {
  const Json& system = in_.system;
  if (!system.is_object()) return;
  heading("Machine");
  Block& table = add(BlockKind::kTable);
  row(table, "Kernel", cell(system["kernel"]));
  row(table, "Processors", cell(system["processors"]));
  row(table, "Load", cell(system["load"]));
  std::string_view memory = system["memory"].as_string();
  while (!memory.empty()) {
    const std::string_view line = next_line(memory);
    const std::size_t colon = line.find(':');
    for (const char* name : {"MemTotal", "MemAvailable", "SwapFree"}) {
      if (line.substr(0, colon) != name) continue;
      std::string_view value = line.substr(colon + 1);
      value.remove_prefix(std::min(value.find_first_not_of(' '), value.size()));
      row(table, name, cell(value));
    }
  }
  if (system["disk"].is_object()) {
    row(table, "Disk free",
        fmt::format("{} of {}", bytes_text(system["disk"]["free_bytes"].as_double()),
                    bytes_text(system["disk"]["size_bytes"].as_double())));
  }
}

void Builder::trading() {
  const Json& events =
      in_.incident["timeline"].size() > 0 ? in_.incident["timeline"] : in_.timeline;
  std::int64_t failed = os::parse_time(in_.manifest["failed_at"].as_string());
  if (failed < 0) failed = os::parse_time(in_.incident["opened_at"].as_string());
  for (Block& block : trading_blocks(events, failed)) {
    document_.blocks.push_back(std::move(block));
  }
}

void Builder::missing() {
  Block block;
  block.kind = BlockKind::kList;
  for (const Json& one : in_.manifest["missing"].items()) {
    block.items.push_back({fmt::format("{}: {}", cell(one["name"]), cell(one["why"])), {}});
  }
  for (const Json& one : in_.manifest["parts"].items()) {
    if (!one["cut"].is_string()) continue;
    block.items.push_back({fmt::format("{} without {}", cell(one["name"]), cell(one["cut"])), {}});
  }
  for (const Json* gaps : {&in_.crash["gaps"], &in_.process["gaps"]}) {
    for (const Json& gap : gaps->items()) block.items.push_back({cell(gap), {}});
  }
  if (in_.crash["capture_error"].is_object()) {
    block.items.push_back({cell(in_.crash["capture_error"]["message"]), {}});
  }
  if (!in_.manifest.is_object()) {
    block.items.push_back({"the incident has no bundle: only its own events are shown", {}});
  } else if (!in_.manifest["complete"].as_bool()) {
    block.items.push_back(
        {"the bundle is not complete yet: output and timeline of the minute after are missing",
         {}});
  }
  if (block.items.empty()) return;
  if (block.items.size() > kMaxRows) block.items.resize(kMaxRows);
  heading("What is missing, and why");
  document_.blocks.push_back(std::move(block));
}

Document Builder::build() {
  const Json& found = classification();
  const std::string scope = advice_facts(in_.incident).kill_scope;
  is_kill_ = !scope.empty();
  document_.title =
      is_kill_ ? fmt::format("kill switch: {}", cell(scope))
               : fmt::format("{}: {}", cell(in_.incident["service"]), cell(found["cause"]));
  const auto& evidence = found["evidence"].items();
  if (!evidence.empty()) document_.subtitle = cell(evidence.front());
  document_.made_by = cell(in_.made_by);
  summary();
  cause();
  changes();
  advice();
  timeline();
  stacks();
  code();
  registers();
  samples();
  output();
  process();
  machine();
  trading();
  missing();
  return std::move(document_);
}

}  // namespace

Document make_document(const Input& input) {
  return Builder(input).build();
}

}  // namespace defib::report
