#include "apps/defib-bundle/output.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "defib/daemon/service_log.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/postmortem/bundle_lines.h"
#include "defib/postmortem/bundle_system.h"
#include "defib/postmortem/kernel_log.h"
#include "defib/recovery/incident.h"

namespace defib::bundle {
namespace {

using wire::Json;

constexpr std::int64_t kMinuteNs = 60'000'000'000;
constexpr std::int64_t kBeforeNs = 5 * kMinuteNs;
// Important lines are looked for among so many.
constexpr std::size_t kMaxLinesLooked = 500'000;
constexpr std::size_t kMaxTimelineLines = 4000;
constexpr std::size_t kMaxTimelineText = 1000;

std::string_view stream_name(int stream) {
  return stream == 1 ? "stdout" : stream == 2 ? "stderr" : "output";
}

Json entry(std::int64_t wall_ns, std::int64_t failed_ns, std::string_view source, Json what) {
  return Json::object({{"at", os::format_time(wall_ns)},
                       {"after_ms", (wall_ns - failed_ns) / 1'000'000},
                       {"source", source},
                       {"what", std::move(what)}});
}

// Text that grows at its end and keeps no more than it must.
void append_bounded(std::string& text, std::string_view line, bool& cut) {
  text += line;
  if (text.size() <= 2 * postmortem::kMaxPart) return;
  text.erase(0, text.size() - postmortem::kMaxPart);
  cut = true;
}

}  // namespace

bool OutputParts::near(std::int64_t wall_ns) const {
  return wall_ns >= failed_ns_ - kMinuteNs && wall_ns <= failed_ns_ + kMinuteNs;
}

void OutputParts::add(postmortem::BundleWriter& writer) const {
  Json::Array timeline;
  add_log(writer, timeline);
  add_events(timeline);
  const os::Clock& clock = os::real_clock();
  const std::int64_t mono = clock.mono_ns() - (clock.wall_ns() - failed_ns_);
  if (const auto messages = postmortem::kernel_messages(mono - kMinuteNs)) {
    for (const postmortem::KernelMessage& one : *messages) {
      if (near(one.wall_ns)) {
        timeline.push_back(entry(one.wall_ns, failed_ns_, "kernel", one.text));
      }
    }
  }
  // Lines that came together have one time, and stay in their order.
  std::vector<std::pair<std::string_view, std::size_t>> order;
  for (const Json& one : timeline) order.emplace_back(one["at"].as_string(), order.size());
  std::ranges::sort(order);
  Json list = Json::array();
  for (const auto& [at, place] : order) list.push(timeline[place]);
  writer.add_json("timeline.json", Json::object({{"schema", "defib.timeline/1"},
                                                 {"failed_at", os::format_time(failed_ns_)},
                                                 {"entries", std::move(list)}}));
}

void OutputParts::add_log(postmortem::BundleWriter& writer, Json::Array& timeline) const {
  daemon::ServiceLog log(fmt::format("{}/services/{}", state_dir_, service_));
  daemon::LogSelection selection;
  selection.to_wall_ns = failed_ns_ + kMinuteNs;
  selection.last_lines = kMaxLinesLooked;
  std::string text;
  bool cut = false;
  postmortem::ImportantLines important;
  std::size_t lines_after = 0;
  const auto read = log.read(selection, false, [&](const daemon::LogLine& line) {
    const std::string shown = line.dropped > 0
                                  ? fmt::format("[defib: {} bytes are missing here]", line.dropped)
                                  : std::string(line.text);
    const std::string_view stream = stream_name(line.stream);
    if (line.dropped == 0) important.add(line.wall_ns, stream, line.text);
    if (line.wall_ns < failed_ns_ - kBeforeNs) return;
    append_bounded(text, fmt::format("{} {} {}\n", os::format_time(line.wall_ns), stream, shown),
                   cut);
    if (!near(line.wall_ns)) return;
    // Of a flood, the last lines before the failure and the first after it.
    if (line.wall_ns > failed_ns_ && ++lines_after > kMaxTimelineLines / 4) return;
    timeline.push_back(entry(line.wall_ns, failed_ns_, stream,
                             std::string_view(shown).substr(0, kMaxTimelineText)));
    if (timeline.size() > kMaxTimelineLines) timeline.erase(timeline.begin());
  });
  if (!read && read.error().code() == Code::kFileNotFound) {
    writer.missing("log.txt", "the service never wrote anything");
    writer.missing("log_important.txt", "the service never wrote anything");
    return;
  }
  if (!read) {
    writer.missing("log.txt", read.error().to_line());
    writer.missing("log_important.txt", read.error().to_line());
    return;
  }
  writer.add("log.txt", text, cut ? "the beginning" : "");
  writer.add("log_important.txt", important.to_text());
}

void OutputParts::add_events(Json::Array& timeline) const {
  const auto log = recovery::IncidentLog::open(os::real_files(), os::real_clock(), state_dir_);
  const auto lines = log ? log->read(incident_) : Result<std::vector<Json>>(log.error());
  if (!lines) return;
  for (const Json& line : *lines) {
    const std::int64_t at = os::parse_time(line["at"].as_string());
    if (!near(at)) continue;
    Json what = Json::object();
    for (const auto& [key, value] : line.members()) {
      const bool of_line = key == "at" || key == "prev" || key == "hash" || key == "threads" ||
                           key == "boot_id" || key == "tail";
      if (!of_line) what.set(key, value);
    }
    timeline.push_back(entry(at, failed_ns_, "incident", std::move(what)));
  }
}

}  // namespace defib::bundle
