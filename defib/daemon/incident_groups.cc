// How often a failure was seen before, as the recorder counts it; and what it may not write.

#include <fmt/core.h>

#include "defib/daemon/incident_track.h"
#include "defib/obs/log.h"
#include "defib/postmortem/signature.h"

namespace defib::daemon {
namespace {

constexpr std::string_view kComponent = "incident";
// So many are looked at where a service's numbers are missing.
constexpr std::size_t kMaxCaughtUp = 256;

// Of a failure that nobody made a report of: by its cause and its end.
wire::Json signature_without_report(const wire::Json& classification, const std::string& end) {
  postmortem::SignatureFacts facts;
  facts.cause = classification["cause"].as_string();
  facts.subtype = classification["subtype"].as_string();
  facts.detail = end;
  const postmortem::Signature signature = postmortem::sign(facts);
  if (signature.id.empty()) return {};
  return wire::Json::object({{"id", signature.id}, {"text", signature.text}});
}

}  // namespace

postmortem::Redactor IncidentRecorder::redactor_of(const Track& own) const {
  return redactor_of_ ? redactor_of_(own.service) : postmortem::Redactor();
}

void IncidentRecorder::add_group(Track& own, const Failure& failure, wire::Json& fields) {
  if (!own.incident) return;
  if (!fields["signature"].is_object()) {
    fields.set("signature", signature_without_report(fields, failure.end_words));
  }
  own.groups.count(own.last_id, own.classifications, os::format_time(loop_.clock().wall_ns()),
                   fields["signature"], fields["cause"].as_string());
  const CrashGroup* group = own.groups.find(fields["signature"]["id"].as_string());
  if (group == nullptr) return;
  fields.set("seen",
             wire::Json::object({{"count", group->count}, {"first_seen", group->first_at}}));
}

void IncidentRecorder::save_groups(const Track& own) {
  if (const auto saved = own.groups.save(files_); !saved) {
    obs::log(obs::Level::kWarning, kComponent, "how often it was seen is not written down",
             {{"service", own.service}, {"error", saved.error()}});
  }
}

// What a recorder that was killed did not count any more, or all where the numbers are lost.
void IncidentRecorder::catch_up_groups(Track& own,
                                       const std::vector<recovery::IncidentSummary>& newest_first) {
  own.groups = CrashGroups::read(files_, os::join_path(state_dir_, "services/" + own.service));
  std::vector<const recovery::IncidentSummary*> missing;
  for (const recovery::IncidentSummary& summary : newest_first) {
    if (summary.service != own.service) continue;
    // Of one that was closed the last line is counted too, or its recorder died before it closed
    // it.
    const bool whole = !summary.closed_at.empty() && own.groups.counted(summary.id, 1);
    if (!whole) missing.push_back(&summary);
    if (missing.size() == kMaxCaughtUp) break;
  }
  bool any = false;
  for (auto summary = missing.rbegin(); summary != missing.rend(); ++summary) {
    const auto lines = log_.read((*summary)->id);
    if (lines) any = own.groups.catch_up((*summary)->id, *lines) || any;
  }
  if (any) save_groups(own);
}

}  // namespace defib::daemon
