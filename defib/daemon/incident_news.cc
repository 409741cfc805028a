// What the recorder tells whoever alerts and counts.

#include <fmt/core.h>

#include <algorithm>

#include "defib/daemon/incident_track.h"

namespace defib::daemon {
namespace {

// Older incidents were told, or are of no interest any more.
constexpr os::Duration kTellAgainTime = std::chrono::hours(24);

}  // namespace

void IncidentRecorder::tell(const Track& own, IncidentNews news) {
  if (!on_news_) return;
  news.service = own.service;
  if (news.incident.empty()) news.incident = own.last_id;
  if (own.incident && news.incident == own.last_id) news.head = own.incident->head_hash();
  on_news_(news);
}

IncidentNews IncidentRecorder::failure_news(const Track& own, std::string_view cause,
                                            std::string message, bool opens) {
  IncidentNews news;
  news.cause = cause;
  news.message = std::move(message);
  news.opens = opens;
  // Only what opens an incident is told again by the next recorder.
  if (opens) news.id = own.last_id + ":opened";
  return news;
}

// Of a process, or of one that could not be started.
void IncidentRecorder::tell_failure(const Track& own, IncidentNews news, bool down) {
  news.down = down;
  news.generation = own.failed.generation;
  news.failed_mono_ns = own.failed_mono_ns;
  if (!news.hangs) {
    news.report = own.failed.report_path;
    news.captured = !own.failed.report_path.empty();
  }
  tell(own, std::move(news));
}

// The ids are those of the first telling, so that who has heard it hears nothing new.
void IncidentRecorder::tell_again(const Track& own, const recovery::IncidentSummary& summary) {
  const std::int64_t opened = os::parse_time(summary.opened_at);
  if (loop_.clock().wall_ns() - opened > kTellAgainTime.count()) return;
  IncidentNews news;
  news.incident = summary.id;
  news.head = summary.head_hash;
  news.cause = summary.cause;
  news.again = true;
  news.id = summary.id + ":opened";
  news.message = fmt::format("{} failed: {}", own.service, summary.cause);
  news.down = summary.outcome == "failed";
  tell(own, news);
  if (summary.outcome == "failed") {
    const auto lines = log_.read(summary.id);
    const bool looped = lines && std::ranges::any_of(*lines, [](const wire::Json& line) {
                          return line["event"].as_string() == "crash_loop";
                        });
    if (looped) {
      news.what = IncidentNews::What::kCrashLoop;
      news.cause = "crash_loop";
      news.id = summary.id + ":crash_loop";
      news.message =
          fmt::format("{} is not started again: it crashes again and again", own.service);
      tell(own, news);
    }
  }
  if (summary.closed_at.empty()) return;
  news.what = IncidentNews::What::kClosed;
  news.id = summary.id + ":closed";
  news.outcome = summary.outcome;
  news.message = fmt::format("the incident of {} is closed: {}", own.service, summary.outcome);
  tell(own, news);
}

void IncidentRecorder::tell_approval_needed(const Track& own) {
  IncidentNews news;
  news.what = IncidentNews::What::kApprovalNeeded;
  news.cause = "approval_needed";
  news.message = fmt::format("{} waits for a human's approval", own.service);
  tell(own, std::move(news));
}

// Once an incident: the starts that follow in the slow lane are no news.
void IncidentRecorder::tell_slow_lane(const Track& own, std::string message) {
  IncidentNews news;
  news.what = IncidentNews::What::kSlowLane;
  news.cause = "slow_lane";
  news.message = std::move(message);
  news.id = own.last_id + ":slow_lane";
  news.down = true;
  tell(own, std::move(news));
}

void IncidentRecorder::tell_unrecorded(const Track& own, const Error& error) {
  if (error.root().code() != Code::kNoSpace && error.code() != Code::kNoSpace) return;
  IncidentNews news;
  news.what = IncidentNews::What::kUnrecorded;
  news.cause = "disk_full";
  news.message =
      fmt::format("an incident of {} cannot be recorded: {}", own.service, error.to_line());
  tell(own, std::move(news));
}

}  // namespace defib::daemon
