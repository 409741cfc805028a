#include "defib/postmortem/symbolize.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "defib/base/bytes.h"
#include "defib/base/text.h"
#include "defib/postmortem/debug_files.h"
#include "defib/postmortem/guarded.h"
#include "defib/postmortem/symbolizer.h"
#include "defib/postmortem/unwind.h"

namespace defib::postmortem {
namespace {

constexpr std::uint8_t kAnswerRecord = 1;
constexpr std::uint8_t kGapRecord = 2;

constexpr std::size_t kMaxModules = 4096;
constexpr std::size_t kMaxQueries = 1'000'000;
// Where modules that lie nowhere are said to lie.
constexpr std::uint64_t kFirstAddress = std::uint64_t{1} << 40;
constexpr std::uint64_t kModuleSpan = std::uint64_t{1} << 38;

using ModuleKey = std::pair<std::string, std::string>;  // path, build id

struct Plan {
  std::vector<ModuleKey> modules;
  std::vector<std::size_t> module_of;  // of each query
};

Plan plan_of(const std::vector<SymbolQuery>& queries) {
  Plan plan;
  std::map<ModuleKey, std::size_t> index;
  for (const SymbolQuery& query : queries) {
    const ModuleKey key = {query.module, query.build_id};
    const auto [at, is_new] = index.try_emplace(key, plan.modules.size());
    if (is_new) plan.modules.push_back(key);
    plan.module_of.push_back(at->second);
  }
  return plan;
}

void write_gap(const GuardOutput& output, std::string_view line) {
  std::string record;
  Writer out(record);
  out.u8(kGapRecord);
  out.text(line);
  output.write(record);
}

// In the child.
void symbolize_here(const std::vector<SymbolQuery>& queries, const Plan& plan,
                    const SymbolOptions& options, const std::set<std::size_t>& left_out,
                    const GuardOutput& output) {
  std::vector<std::string> refused;
  std::vector<Module> modules;
  for (std::size_t i = 0; i < plan.modules.size(); ++i) {
    const auto& [path, build_id] = plan.modules[i];
    output.mark(static_cast<std::uint32_t>(i));
    Module module;
    module.start = kFirstAddress + i * kModuleSpan;
    module.end = module.start + kModuleSpan;
    module.path = path;
    module.build_id = build_id;
    if (!left_out.contains(i)) {
      module.file = find_module_file(path, build_id, options, refused).fd;
      if (!module.file.valid()) {
        refused.push_back(fmt::format("{}: no file of it was found{}", path,
                                      build_id.empty() ? "" : " with build id " + build_id));
      } else if (build_id.empty()) {
        module.build_id = build_id_of(module.file.get());
      }
    }
    modules.push_back(std::move(module));
  }
  ElfSession session(modules, options, left_out,
                     [&](std::size_t module) { output.mark(static_cast<std::uint32_t>(module)); });
  Symbolizer symbolizer(session, options);
  for (std::size_t i = 0; i < queries.size(); ++i) {
    output.mark(static_cast<std::uint32_t>(plan.module_of[i]));
    const auto& locations = symbolizer.locate(plan.module_of[i], queries[i].offset);
    if (locations.size() == 1 && locations.front() == Location()) continue;
    std::string record;
    Writer out(record);
    out.u8(kAnswerRecord);
    out.u32(static_cast<std::uint32_t>(i));
    for (const Location& location : locations) {
      out.text(location.function);
      out.text(location.file);
      out.u32(static_cast<std::uint32_t>(location.line));
      out.u8(location.inlined ? 1 : 0);
    }
    output.write(record);
  }
  std::ranges::move(session.refused(), std::back_inserter(refused));
  std::ranges::move(symbolizer.gaps(), std::back_inserter(refused));
  for (const std::string& line : refused) write_gap(output, line);
}

void decode(std::string_view record, Symbolized& symbolized) {
  Reader in(record);
  const std::uint8_t type = in.u8();
  if (type == kGapRecord) symbolized.gaps.emplace_back(in.text());
  if (type != kAnswerRecord) return;
  const std::uint32_t index = in.u32();
  std::vector<Location> locations;
  while (in.ok() && in.remaining() > 0) {
    Location location;
    location.function = in.text();
    location.file = in.text();
    location.line = static_cast<int>(in.u32());
    location.inlined = in.u8() != 0;
    locations.push_back(std::move(location));
  }
  if (in.ok() && index < symbolized.answers.size())
    symbolized.answers[index] = std::move(locations);
}

bool parse_hex(std::string_view text, std::uint64_t& value) {
  if (text.starts_with("0x")) text.remove_prefix(2);
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc() && stop == text.data() + text.size() && !text.empty();
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  while (true) {
    line.remove_prefix(std::min(line.find_first_not_of(" \t\r"), line.size()));
    if (line.empty()) return words;
    words.push_back(line.substr(0, line.find_first_of(" \t\r")));
    line.remove_prefix(words.back().size());
  }
}

bool parse_query(std::string_view line, SymbolQuery& query) {
  const auto words = words_of(line);
  if (words.size() == 3) {
    query.module = words[0];
    query.build_id = words[1] == "-" ? "" : words[1];
    return parse_hex(words[2], query.offset);
  }
  if (words.size() != 1) return false;
  const std::size_t plus = words[0].rfind('+');
  if (plus == std::string_view::npos || plus == 0) return false;
  query.module = words[0].substr(0, plus);
  return parse_hex(words[0].substr(plus + 1), query.offset);
}

// The frames of one address: a function and what is inlined into it.
struct FrameGroup {
  std::size_t first = 0;
  std::size_t count = 0;
  SymbolQuery query;
};

std::vector<FrameGroup> groups_of(const wire::Json& frames,
                                  const std::map<std::string, std::string>& build_ids) {
  std::vector<FrameGroup> groups;
  bool after_signal = true;  // the innermost frame was interrupted, too
  for (std::size_t i = 0; i < frames.size();) {
    FrameGroup group;
    group.first = i;
    while (i < frames.size() && frames.items()[i]["inlined"].as_bool()) ++i;
    i = std::min(i + 1, frames.size());
    group.count = i - group.first;
    const wire::Json& frame = frames.items()[group.first];
    const bool is_signal = frame["kind"].as_string() == to_string(FrameKind::kSignal);
    group.query.module = frame["module"].as_string();
    group.query.build_id = frame["build_id"].as_string();
    if (group.query.build_id.empty()) {
      const auto known = build_ids.find(group.query.module);
      if (known != build_ids.end()) group.query.build_id = known->second;
    }
    const bool has_offset = parse_hex(frame["offset"].as_string(), group.query.offset);
    // Of a caller the call is meant, which lies before the return address.
    if (!after_signal && !is_signal && group.query.offset > 0) --group.query.offset;
    after_signal = is_signal;
    if (has_offset && !group.query.module.empty()) groups.push_back(std::move(group));
  }
  return groups;
}

wire::Json filled(wire::Json frame, const Location& location) {
  frame.set("function", location.function);
  frame.set("file", location.file);
  frame.set("line", location.line);
  frame.set("inlined", location.inlined);
  return frame;
}

// Replaces the groups of which more is known now.
wire::Json fill_frames(const wire::Json& frames, const std::vector<FrameGroup>& groups,
                       const std::vector<std::vector<Location>>& answers,
                       std::size_t first_answer) {
  wire::Json result = wire::Json::array();
  std::size_t at = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const FrameGroup& group = groups[i];
    for (; at < group.first; ++at) result.push(frames.items()[at]);
    const std::vector<Location>& answer = answers[first_answer + i];
    const wire::Json& innermost = frames.items()[group.first];
    const bool has_more =
        !answer.empty() && (!answer.front().file.empty() || innermost["file"].as_string().empty());
    if (has_more) {
      for (const Location& location : answer) result.push(filled(innermost, location));
      at = group.first + group.count;
    }
    for (; at < group.first + group.count; ++at) result.push(frames.items()[at]);
  }
  for (; at < frames.size(); ++at) result.push(frames.items()[at]);
  return result;
}

std::string place_of(const Location& location) {
  std::string text = location.function.empty() ? "??" : location.function;
  if (!location.file.empty()) text += fmt::format(" at {}:{}", location.file, location.line);
  return text;
}

}  // namespace

Symbolized symbolize(const std::vector<SymbolQuery>& queries, const SymbolOptions& options) {
  Symbolized symbolized;
  symbolized.answers.resize(queries.size());
  const Plan plan = plan_of(queries);
  if (plan.modules.size() > kMaxModules) {
    symbolized.gaps.push_back(fmt::format("more than {} modules", kMaxModules));
    return symbolized;
  }
  const auto losses = run_guarded_parts(
      plan.modules.size(),
      [&](const std::set<std::size_t>& left_out, const GuardOutput& output) {
        symbolize_here(queries, plan, options, left_out, output);
      },
      limits_of(options),
      [&](const std::vector<std::string_view>& records) {
        symbolized.gaps.clear();
        for (const std::string_view record : records) decode(record, symbolized);
      });
  for (const GuardLoss& loss : losses) {
    symbolized.gaps.push_back(fmt::format(
        "{}: reading its symbols failed ({})",
        loss.part == kNoMark ? "the modules" : plan.modules[loss.part].first, loss.failure));
  }
  return symbolized;
}

Result<std::vector<SymbolQuery>> parse_queries(std::string_view text) {
  std::vector<SymbolQuery> queries;
  for (int number = 1; !text.empty(); ++number) {
    const std::string_view line = next_line(text);
    if (words_of(line).empty()) continue;
    SymbolQuery query;
    if (!parse_query(line, query)) {
      return Error(Code::kInvalidArgument, fmt::format("line {} names no address", number))
          .with("line", number)
          .suggest("one address a line: MODULE+0xOFFSET, or MODULE BUILD_ID 0xOFFSET");
    }
    if (queries.size() >= kMaxQueries) {
      return Error(Code::kInvalidArgument, fmt::format("more than {} addresses", kMaxQueries));
    }
    queries.push_back(std::move(query));
  }
  return queries;
}

Result<wire::Json> symbolize_report(wire::Json report, const SymbolOptions& options) {
  if (!report["threads"].is_array()) {
    return Error(Code::kInvalidArgument, "there are no stacks in the document")
        .suggest("give a report of defib-capture, or an incident of `defib incident show --json`");
  }
  std::map<std::string, std::string> build_ids;
  for (const wire::Json& module : report["modules"].items()) {
    build_ids.emplace(module["path"].as_string(), module["build_id"].as_string());
  }
  std::vector<SymbolQuery> queries;
  std::vector<std::vector<FrameGroup>> groups;
  for (const wire::Json& thread : report["threads"].items()) {
    groups.push_back(groups_of(thread["frames"], build_ids));
    for (const FrameGroup& group : groups.back()) queries.push_back(group.query);
  }
  const Symbolized symbolized = symbolize(queries, options);
  wire::Json threads = wire::Json::array();
  std::size_t answer = 0;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    wire::Json thread = report["threads"].items()[i];
    thread.set("frames", fill_frames(thread["frames"], groups[i], symbolized.answers, answer));
    answer += groups[i].size();
    threads.push(std::move(thread));
  }
  report.set("threads", std::move(threads));
  if (!symbolized.gaps.empty()) {
    wire::Json gaps = report["gaps"].is_array() ? report["gaps"] : wire::Json::array();
    for (const std::string& line : symbolized.gaps) gaps.push(line);
    report.set("gaps", std::move(gaps));
  }
  return report;
}

wire::Json symbols_json(const std::vector<SymbolQuery>& queries, const Symbolized& symbolized) {
  wire::Json addresses = wire::Json::array();
  for (std::size_t i = 0; i < queries.size(); ++i) {
    wire::Json address = wire::Json::object({{"module", queries[i].module},
                                             {"build_id", queries[i].build_id},
                                             {"offset", fmt::format("{:#x}", queries[i].offset)}});
    wire::Json frames = wire::Json::array();
    for (const Location& location : symbolized.answers[i]) {
      frames.push(filled(wire::Json::object(), location));
    }
    address.set("frames", std::move(frames));
    addresses.push(std::move(address));
  }
  wire::Json gaps = wire::Json::array();
  for (const std::string& line : symbolized.gaps) gaps.push(line);
  wire::Json json = wire::Json::object({{"schema", "defib.symbols/1"}});
  json.set("addresses", std::move(addresses));
  json.set("gaps", std::move(gaps));
  return json;
}

std::string symbols_text(const std::vector<SymbolQuery>& queries, const Symbolized& symbolized) {
  std::string text;
  for (std::size_t i = 0; i < queries.size(); ++i) {
    text += fmt::format("{}+{:#x}\n", queries[i].module, queries[i].offset);
    const auto& answer = symbolized.answers[i];
    if (answer.empty()) text += "  ??\n";
    for (const Location& location : answer) {
      text += fmt::format("  {}{}\n", place_of(location), location.inlined ? " (inlined)" : "");
    }
  }
  return text;
}

std::string stacks_text(const wire::Json& report) {
  std::string text;
  for (const wire::Json& thread : report["threads"].items()) {
    text += fmt::format("thread {} ({}){}\n", thread["tid"].as_int(), thread["name"].as_string(),
                        thread["crashed"].as_bool() ? " crashed" : "");
    int number = 0;
    for (const wire::Json& frame : thread["frames"].items()) {
      Location location;
      location.function = frame["function"].as_string();
      location.file = frame["file"].as_string();
      location.line = static_cast<int>(frame["line"].as_int());
      text += fmt::format("  #{:<3} {} [{}+{}]{}\n", number++, place_of(location),
                          frame["module"].as_string(), frame["offset"].as_string(),
                          frame["inlined"].as_bool() ? " (inlined)" : "");
    }
  }
  return text;
}

}  // namespace defib::postmortem
