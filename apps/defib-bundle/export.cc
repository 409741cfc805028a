#include <fmt/format.h>

#include "apps/defib-bundle/collect.h"
#include "defib/daemon/incident_view.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/postmortem/bundle_archive.h"
#include "defib/postmortem/bundle_writer.h"
#include "defib/postmortem/redact.h"
#include "defib/recovery/incident.h"

namespace defib::bundle {
namespace {

constexpr std::uint64_t kMaxFile = 2 * postmortem::kMaxPart;

// Of one failure: whole files only, and none that a collector is writing.
void add_files(const std::string& directory, const std::string& prefix,
               std::vector<postmortem::ArchiveEntry>& entries) {
  const auto names = os::real_files().list(directory);
  if (!names) return;
  for (const std::string& name : *names) {
    if (name.starts_with('.')) continue;
    auto text = os::read_file(os::real_files(), os::join_path(directory, name), kMaxFile);
    if (text) entries.push_back({prefix + name, std::move(*text)});
  }
}

}  // namespace

Result<std::string> export_bundle(const std::string& state_dir, const std::string& id_or_prefix,
                                  std::string out) {
  os::Files& files = os::real_files();
  DEFIB_TRY_ASSIGN(const recovery::IncidentLog log,
                   recovery::IncidentLog::open(files, os::real_clock(), state_dir));
  DEFIB_TRY_ASSIGN(const std::string id, log.find(id_or_prefix));
  DEFIB_TRY_ASSIGN(const std::vector<wire::Json> lines, log.read(id));
  if (lines.empty()) {
    return Error(Code::kIncidentChainBroken, fmt::format("the incident {} is empty", id));
  }
  if (out.empty()) out = id + ".tar.zst";
  std::vector<postmortem::ArchiveEntry> entries;
  const std::string incidents = os::join_path(state_dir, "incidents");
  const std::string bundle = os::join_path(incidents, id + std::string(postmortem::kBundleSuffix));
  for (int failure = 1; failure <= daemon::kMaxBundledFailures; ++failure) {
    const std::string directory = os::join_path(bundle, std::to_string(failure));
    if (!files.is_dir(directory)) continue;
    // What cannot be completed goes out as it is, and says so.
    static_cast<void>(complete_by_manifest(state_dir, directory).has_value());
    add_files(directory, fmt::format("{}/{}/", id, failure), entries);
  }
  postmortem::Redactor redactor;
  for (int failure = 1; failure <= daemon::kMaxBundledFailures; ++failure) {
    const auto marks = postmortem::read_marks(fmt::format("{}/{}", bundle, failure));
    if (marks) redactor.learn_marks(*marks);
  }
  const wire::Json document = redactor.json(daemon::incident_document(lines));
  entries.push_back({id + "/incident.json", document.dump(1) + "\n"});
  // The chain of hashes is over the very bytes: they go out whole or not at all.
  const std::string path = os::join_path(incidents, id + ".jsonl");
  DEFIB_TRY_ASSIGN(std::string text, os::read_file(files, path, recovery::kMaxIncidentFile));
  static_cast<void>(redactor.text(text));
  if (redactor.count() == 0) {
    entries.push_back({id + "/incident.jsonl", std::move(text)});
  }
  const std::int64_t opened = os::parse_time(lines.front()["at"].as_string());
  DEFIB_TRY(postmortem::write_archive(out, std::move(entries), opened / 1'000'000'000));
  return out;
}

}  // namespace defib::bundle
