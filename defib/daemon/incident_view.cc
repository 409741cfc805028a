#include "defib/daemon/incident_view.h"

#include <fmt/format.h>

#include "defib/base/assert.h"
#include "defib/daemon/bundle_request.h"
#include "defib/daemon/crash_groups.h"
#include "defib/daemon/exit_cause.h"
#include "defib/os/files.h"
#include "defib/recovery/incident.h"
#include "defib/report/advice.h"

namespace defib::daemon {
namespace {

constexpr std::uint64_t kMaxManifest = 1 << 20;

// A member in the order of the contract, null where the report lacks it.
wire::Json classification_of(const wire::Json& line) {
  wire::Json classification = wire::Json::object();
  for (const char* key : {"cause", "subtype", "signal", "fault_address"}) {
    classification.set(key, line[key]);
  }
  classification.set("evidence",
                     line["evidence"].is_array() ? line["evidence"] : wire::Json::array());
  classification.set("confidence",
                     line["confidence"].is_number() ? line["confidence"] : wire::Json(0.0));
  for (const auto& [key, value] : line.members()) {
    const bool of_line = key == "seq" || key == "at" || key == "mono_ns" || key == "boot_id" ||
                         key == "event" || key == "prev" || key == "hash" || key == "threads";
    if (!of_line && !classification.has(key)) classification.set(key, value);
  }
  return classification;
}

wire::Json timeline_entry(const wire::Json& line) {
  wire::Json entry = wire::Json::object();
  for (const auto& [key, value] : line.members()) {
    if (key != "threads" && key != "prev") entry.set(key, value);
  }
  return entry;
}

}  // namespace

wire::Json incident_document(const std::vector<wire::Json>& lines) {
  DEFIB_ASSERT(!lines.empty());
  wire::Json classification = Classification().to_json();
  wire::Json threads = wire::Json::array();
  wire::Json timeline = wire::Json::array();
  std::string cause(lines.front()["cause"].as_string());
  bool waits = false;
  for (const wire::Json& line : lines) {
    waits = recovery::waits_for_human(line, waits);
    if (recovery::is_verdict(line)) {
      classification = classification_of(line);
      cause = line["cause"].as_string();
      if (line["threads"].is_array()) threads = line["threads"];
    }
    timeline.push(timeline_entry(line));
  }
  const wire::Json& last = lines.back();
  const bool closed = last["event"].as_string() == "closed";
  return wire::Json::object({{"schema", "defib.incident/1"},
                             {"id", lines.front()["incident"]},
                             {"service", lines.front()["service"]},
                             {"opened_at", lines.front()["at"]},
                             {"closed_at", closed ? last["at"] : wire::Json()},
                             {"cause", cause.empty() ? "unknown" : cause},
                             {"outcome", closed  ? last["outcome"]
                                         : waits ? wire::Json("awaiting_approval")
                                                 : wire::Json("open")},
                             {"head_hash", last["hash"]},
                             {"classification", std::move(classification)},
                             {"threads", std::move(threads)},
                             {"timeline", std::move(timeline)}});
}

void add_context(wire::Json& incident, const std::string& state_dir) {
  os::Files& files = os::real_files();
  const std::string id(incident["id"].as_string()), service(incident["service"].as_string());
  incident.set("bundle", bundle_document(state_dir, id));
  const auto groups = CrashGroups::read(files, fmt::format("{}/services/{}", state_dir, service));
  const CrashGroup* group = groups.find(incident["classification"]["signature"]["id"].as_string());
  incident.set("group", group != nullptr ? group->to_json() : wire::Json());
  incident.set("changes", wire::Json());
  for (const wire::Json& failure : incident["bundle"]["failures"].items()) {
    const auto text = os::read_file(files,
                                    fmt::format("{}/incidents/{}.bundle/{}/changes.json", state_dir,
                                                id, failure["failure"].as_int()),
                                    kMaxManifest);
    auto changes = text ? wire::Json::parse(*text) : Result<wire::Json>(text.error());
    if (!changes) continue;
    incident.set("changes", std::move(*changes));
    break;
  }
  incident.set("advice", report::to_json(report::advise(report::advice_facts(incident))));
}

wire::Json bundle_document(const std::string& state_dir, const std::string& id) {
  os::Files& files = os::real_files();
  const std::string path = fmt::format("{}/incidents/{}.bundle", state_dir, id);
  if (!files.is_dir(path)) return {};
  wire::Json failures = wire::Json::array();
  for (int failure = 1; failure <= kMaxBundledFailures; ++failure) {
    const std::string directory = fmt::format("{}/{}", path, failure);
    if (!files.is_dir(directory)) continue;
    const auto text = os::read_file(files, directory + "/manifest.json", kMaxManifest);
    const auto manifest = text ? wire::Json::parse(*text) : Result<wire::Json>(text.error());
    wire::Json one =
        wire::Json::object({{"failure", failure}, {"collected", manifest.has_value()}});
    for (const char* key : {"cause", "failed_at", "complete", "parts", "missing"}) {
      one.set(key, manifest ? (*manifest)[key] : wire::Json());
    }
    failures.push(std::move(one));
  }
  return wire::Json::object({{"path", path}, {"failures", std::move(failures)}});
}

}  // namespace defib::daemon
