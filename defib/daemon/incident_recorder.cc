#include "defib/daemon/incident_recorder.h"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <utility>

#include "defib/daemon/incident_track.h"
#include "defib/obs/log.h"

namespace defib::daemon {
namespace {

using process::ServiceState;
using process::StopReason;
using recovery::Durability;

constexpr std::string_view kComponent = "incident";
// So long after a kill for lack of memory its victim is torn down at latest.
constexpr os::Duration kKillTime = std::chrono::seconds(2);
// More than there are causes that are alerted of.
constexpr std::size_t kMaxFailedRow = 32;
// Incidents of starts that failed, for those that failed before them.
constexpr std::size_t kMaxLookedAt = 256;

std::string_view reason_word(StopReason reason) {
  switch (reason) {
    case StopReason::kNone:
      return "none";
    case StopReason::kRequested:
      return "requested";
    case StopReason::kHung:
      return "hung";
    case StopReason::kUnhealthy:
      return "unhealthy";
    case StopReason::kLimit:
      return "limit";
    case StopReason::kNotReady:
      return "not_ready";
    case StopReason::kReboot:
      return "reboot";
    case StopReason::kPattern:
      return "log_pattern";
  }
  return "unknown";
}

// A warning that led to an end has said what there is to say about its cause.
bool follows_warning(std::string_view ended_by) {
  return std::ranges::any_of(
      std::array{StopReason::kUnhealthy, StopReason::kLimit, StopReason::kPattern},
      [&](StopReason reason) { return ended_by == reason_word(reason); });
}

// From the event of an end, as exit_fields() wrote it.
ExitFacts end_of(const wire::Json& line) {
  ExitFacts end;
  end.pid = static_cast<pid_t>(line["pid"].as_int());
  end.status.exited = line["exit_code"].is_number();
  end.status.code = static_cast<int>(line["exit_code"].as_int());
  end.status.signal = std::max(0, os::signal_number(line["signal"].as_string()));
  end.status.known = end.status.exited || end.status.signal > 0;
  end.started_mono_ns = line["started_mono_ns"].as_int();
  end.cpu_ns = line["cpu_ns"].as_int();
  end.cpu_limit_ns = line["cpu_limit_ns"].as_int();
  end.oom_kills = static_cast<std::uint32_t>(line["oom_kills"].as_int());
  end.memory_limit_bytes = static_cast<std::uint64_t>(line["memory_limit_bytes"].as_int());
  return end;
}

wire::Json exit_fields(const process::ExitReport& report) {
  const os::ExitStatus& status = report.status;
  wire::Json fields = wire::Json::object(
      {{"what", "exit"},
       {"generation", report.generation},
       {"pid", report.pid},
       {"status", status.to_string()},
       {"exit_code", status.known && status.exited ? wire::Json(status.code) : wire::Json()},
       {"signal",
        status.known && !status.exited ? wire::Json(os::signal_name(status.signal)) : wire::Json()},
       {"ended_by", reason_word(report.reason)},
       {"noticed_at", os::format_time(report.noticed_wall_ns)},
       {"noticed_mono_ns", report.noticed_mono_ns},
       {"reaped_mono_ns", report.reaped_mono_ns},
       {"crashed_mono_ns",
        report.crashed_mono_ns != 0 ? wire::Json(report.crashed_mono_ns) : wire::Json()},
       {"cpu_ns", report.cpu_ns},
       {"max_memory_mb", static_cast<double>(report.max_rss_bytes) / (1 << 20)},
       {"restarts", report.restarts},
       {"restart_delay_ns", report.restart_delay.count()},
       {"while_away", report.while_away}});
  if (!report.capture_path.empty()) fields.set("report", report.capture_path);
  if (!report.fingerprint.empty()) {
    fields.set("fingerprint", report.fingerprint);
    fields.set("equal_crashes", report.equal_crashes);
  }
  return fields;
}

}  // namespace

Result<std::unique_ptr<IncidentRecorder>> IncidentRecorder::create(os::EventLoop& loop,
                                                                   os::Files& files,
                                                                   const std::string& state_dir,
                                                                   LogTail log_tail,
                                                                   KernelLog kernel_log) {
  DEFIB_TRY_ASSIGN(recovery::IncidentLog log,
                   recovery::IncidentLog::open(files, loop.clock(), state_dir));
  return std::unique_ptr<IncidentRecorder>(new IncidentRecorder(
      loop, files, state_dir, std::move(log), std::move(log_tail), std::move(kernel_log)));
}

IncidentRecorder::IncidentRecorder(os::EventLoop& loop, os::Files& files, std::string state_dir,
                                   recovery::IncidentLog log, LogTail log_tail,
                                   KernelLog kernel_log)
    : loop_(loop),
      files_(files),
      state_dir_(std::move(state_dir)),
      log_(std::move(log)),
      log_tail_(std::move(log_tail)),
      kernel_log_(std::move(kernel_log)) {}

IncidentRecorder::~IncidentRecorder() {
  if (forget_list_ != 0) loop_.cancel(forget_list_);
  while (!tracks_.empty()) end(std::string(tracks_.begin()->first));
}

IncidentRecorder::Track& IncidentRecorder::track(const std::string& service) {
  std::unique_ptr<Track>& track = tracks_[service];
  if (!track) {
    track = std::make_unique<Track>();
    track->service = service;
    continue_open(*track);
  }
  return *track;
}

const IncidentRecorder::Track* IncidentRecorder::find(const std::string& service) const {
  const auto found = tracks_.find(service);
  return found == tracks_.end() ? nullptr : found->second.get();
}

void IncidentRecorder::cancel(os::EventLoop::TimerId& timer) {
  if (timer != 0) loop_.cancel(timer);
  timer = 0;
}

void IncidentRecorder::begin(const std::string& service) {
  track(service);
}

void IncidentRecorder::continue_open(Track& own) {
  if (!listed_) {
    auto all = log_.list();
    if (!all) {
      obs::log(obs::Level::kError, kComponent, "earlier incidents cannot be read",
               {{"service", own.service}, {"error", all.error()}});
      return;
    }
    // A hundred services that are taken over at once read the list once.
    listed_ = std::move(*all);
    forget_list_ = loop_.run_after(os::Duration(0), [this] {
      forget_list_ = 0;
      listed_.reset();
    });
  }
  catch_up_groups(own, *listed_);
  for (const recovery::IncidentSummary& summary : *listed_) {  // newest first
    if (summary.service != own.service) continue;
    own.last_id = summary.id;
    own.failed_row = failed_row(own, *listed_);
    if (tell_again_) tell_again(own, summary);
    if (summary.closed_at.empty() && summary.outcome != "failed") resume(own, summary.id);
    return;
  }
}

void IncidentRecorder::add_to_row(std::vector<std::string>& row, const std::string& id) {
  // Of many equal failures in a row the last one has the alerts.
  if (row.size() == kMaxFailedRow) row.pop_back();
  row.push_back(id);
}

// Those that ended as "failed" since the service was last started.
std::vector<std::string> IncidentRecorder::failed_row(
    const Track& own, const std::vector<recovery::IncidentSummary>& newest_first) const {
  std::vector<std::string> row;
  std::size_t looked_at = 0;
  for (const recovery::IncidentSummary& summary : newest_first) {
    if (summary.service != own.service) continue;
    if (summary.outcome == "failed") add_to_row(row, summary.id);
    if (summary.cause != "start_failed") break;  // what failed otherwise had been started
    if (++looked_at == kMaxLookedAt) break;
    const auto lines = log_.read(summary.id);
    const bool ran = !lines || std::ranges::any_of(*lines, [](const wire::Json& line) {
      const std::string_view event = line["event"].as_string();
      return event == "restarted" ||
             (event == "detected" && line["what"].as_string() != "start_failed");
    });
    if (ran) break;
  }
  std::ranges::reverse(row);
  return row;
}

void IncidentRecorder::resume(Track& own, const std::string& id) {
  const auto lines = log_.read(id);
  auto incident = log_.resume(id);
  if (!lines || !incident) {
    obs::log(obs::Level::kError, kComponent, "an open incident cannot be continued",
             {{"service", own.service},
              {"incident", id},
              {"error", !incident ? incident.error() : lines.error()}});
    return;
  }
  own.incident = std::move(*incident);
  own.classifications = 0;
  for (const wire::Json& line : *lines) replay(own, line);
  obs::log(obs::Level::kInfo, kComponent, "continuing an open incident",
           {{"service", own.service}, {"incident", id}});
  // A report may have been written while nobody was here; else the shim tells of it again.
  std::vector<std::uint64_t> generations;
  generations.reserve(own.earlier.size() + 1);
  for (const Failure& failure : own.earlier) generations.push_back(failure.generation);
  if (own.process_failed || own.failed.generation != 0) {
    generations.push_back(own.failed.generation);
  }
  for (const std::uint64_t generation : generations) {
    Failure* const failure = own.incident ? waiting(own, generation) : nullptr;
    if (failure == nullptr) continue;
    if (!failure->report_path.empty() && files_.exists(failure->report_path)) {
      classify_by_report(own, *failure);
    } else {
      wait_for_classification(own, *failure);
    }
  }
}

// Restores from a line of the file what the recorder that wrote it knew.
void IncidentRecorder::replay(Track& own, const wire::Json& line) {
  const std::string_view event = line["event"].as_string();
  if (line["origin"].as_string() == "service") {
    own.recovering = true;
  } else if (event == "detected") {
    replay_failure(own, line);
  } else if (event == "captured") {
    Failure* const failure = waiting(own, line["generation"].as_uint());
    if (failure != nullptr && failure->report_path == line["report"].as_string()) {
      failure->report_due = false;
    }
  } else if (event == "classified") {
    ++own.classifications;
    // Of an end before the newest, or, without a generation, what was found beside any end.
    const std::uint64_t generation = line["generation"].as_uint();
    const bool earlier = std::erase_if(own.earlier, [&](const Failure& failure) {
                           return failure.generation == generation;
                         }) > 0;
    own.classified = own.classified || !earlier;
  } else if (event == "restarted") {
    own.replaced = true;
    note_replacement(own, line["generation"].as_uint(), line["started_mono_ns"].as_int());
  }
}

// What is found beside the ends of processes changes nothing that has to be known again.
void IncidentRecorder::replay_failure(Track& own, const wire::Json& line) {
  const std::string_view what = line["what"].as_string();
  const std::uint64_t generation = line["generation"].as_uint();
  if (what != "exit" && what != "hang" && what != "start_failed") return;
  if (what == "start_failed" || generation != own.failed.generation) put_aside(own);
  const wire::Json& guess = line["by_status"];
  Classification by_status;
  by_status.cause = guess["cause"].as_string();
  by_status.signal = guess["signal"].as_string();
  by_status.subtype = guess["subtype"].as_string();
  by_status.confidence = guess["confidence"].as_double();
  for (const wire::Json& sentence : guess["evidence"].items()) {
    by_status.evidence.emplace_back(sentence.as_string());
  }
  if (what == "exit") {
    note_end(own, generation, line["ended_by"].as_string(),
             std::string(line["report"].as_string()));
    own.failed.end_words = line["status"].as_string();
    // What the supervisor ended is classified by its reason.
    if (line["ended_by"].as_string() == reason_word(StopReason::kNone)) {
      own.failed.end = end_of(line);
    }
  } else if (what == "hang") {
    note_hang(own, generation, line["kills"].as_bool(), std::string(line["report"].as_string()));
  } else {
    own.process_failed = true;
    own.classified = false;
    by_status.cause = what;
    by_status.evidence = {std::string(line["error"]["message"].as_string())};
    by_status.confidence = 1;
  }
  own.failed.by_status = std::move(by_status);
  if (what == "start_failed") return;
  const std::int64_t crashed = line["crashed_mono_ns"].as_int();
  own.failed_mono_ns = crashed != 0 ? crashed : line["noticed_mono_ns"].as_int();
}

void IncidentRecorder::end(const std::string& service) {
  const auto found = tracks_.find(service);
  if (found == tracks_.end()) return;
  Track& own = *found->second;
  for (auto* timer : {&own.health_timer, &own.sync_timer, &own.quiet_timer}) cancel(*timer);
  forget_failures(own);
  if (own.incident && own.incident->sync_due_mono_ns() != 0) {
    // A gap of a moment in time stamps is no loss; an unsynced line could be one.
    append(own, "left", wire::Json::object(), Durability::kSync);
  }
  tracks_.erase(found);
}

bool IncidentRecorder::open(Track& own, const wire::Json& fields) {
  if (own.incident) return true;
  own.classified = own.process_failed = own.replaced = own.healthy = own.recovering = false;
  own.ended_generation = 0;
  own.final_outcome.clear();
  forget_failures(own);
  own.classifications = 0;
  own.matched_lines = 0;
  auto created = log_.create(own.service, fields);
  if (!created) {
    obs::log(obs::Level::kError, kComponent, "an incident cannot be recorded",
             {{"service", own.service}, {"error", created.error()}});
    tell_unrecorded(own, created.error());
    return false;
  }
  own.incident = std::move(*created);
  own.last_id = own.incident->id();
  obs::log(
      obs::Level::kWarning, kComponent, "incident opened",
      {{"service", own.service}, {"incident", own.last_id}, {"head", own.incident->head_hash()}});
  return true;
}

void IncidentRecorder::append(Track& own, std::string_view event, const wire::Json& fields,
                              Durability durability) {
  if (!own.incident) return;
  const auto appended = own.incident->append(event, fields, durability);
  if (!appended) {
    obs::log(obs::Level::kError, kComponent, "an event is missing in the incident",
             {{"service", own.service},
              {"incident", own.last_id},
              {"event", event},
              {"error", appended.error()}});
    tell_unrecorded(own, appended.error());
  }
  schedule_sync(own);
}

void IncidentRecorder::schedule_sync(Track& own) {
  if (!own.incident || own.sync_timer != 0 || own.incident->sync_due_mono_ns() == 0) return;
  own.sync_timer = loop_.run_at(own.incident->sync_due_mono_ns(), [this, &own] {
    own.sync_timer = 0;
    if (!own.incident) return;
    if (const auto synced = own.incident->sync_if_due(); !synced) {
      obs::log(obs::Level::kError, kComponent, "the incident cannot be made durable",
               {{"incident", own.last_id}, {"error", synced.error()}});
      return;
    }
    schedule_sync(own);
  });
}

// An end on request begins like any other, so it opens nothing: the exit does.
void IncidentRecorder::dying(const process::DyingReport& report) {
  Track& own = track(report.service);
  own.dying = report;
  if (own.incident) append_dying(own);
}

void IncidentRecorder::append_dying(Track& own) {
  const process::DyingReport report = *std::exchange(own.dying, std::nullopt);
  const bool flag = report.sign == process::shim::DyingSign::kCrashFlag;
  append(own, "dying",
         wire::Json::object({{"generation", report.generation},
                             {"pid", report.pid},
                             {"by", flag ? "crash_flag" : "life_lock"},
                             {"noticed_mono_ns", report.noticed_mono_ns}}),
         Durability::kSoon);
}

void IncidentRecorder::promoted(const process::PromotionReport& report) {
  Track& own = track(report.service);
  own.promotion = report;
  if (report.ready) own.ready_generation = report.generation;
  if (own.incident) append_promoted(own);
  started({report.service, report.generation, report.pid, report.mono_ns, report.wall_ns, true,
           false, report.epoch});
}

void IncidentRecorder::append_promoted(Track& own) {
  const process::PromotionReport report = *std::exchange(own.promotion, std::nullopt);
  append(own, "promoted",
         wire::Json::object({{"generation", report.generation},
                             {"old_generation", report.old_generation},
                             {"pid", report.pid},
                             {"epoch", report.epoch},
                             {"promoted_mono_ns", report.mono_ns},
                             {"before_end", report.before_end}}),
         Durability::kSoon);
}

void IncidentRecorder::exited(const process::ExitReport& report) {
  Track& own = track(report.service);
  if (own.incident && report.generation != 0 && report.generation <= own.ended_generation) {
    return;  // told a second time, because the recorder before us was killed
  }
  const bool failure = report.reason != StopReason::kRequested &&
                       !((report.clean || report.status.success()) &&
                         report.reason == StopReason::kNone && !report.restarts);
  if (!failure) {
    own.dying.reset();
    if (own.incident) own.final_outcome = "stopped";
    return close_if_due(own);
  }
  cancel(own.health_timer);
  const bool opens = !own.incident;
  if (!open(own, wire::Json::object({{"cause", "unknown"}, {"pid", report.pid}}))) return;
  if (own.failed.generation != report.generation) put_aside(own);
  if (own.dying && own.dying->generation == report.generation) append_dying(own);
  note_end(own, report.generation, reason_word(report.reason), report.capture_path);
  ExitFacts& end = own.failed.end.emplace(exit_facts(report, own.limit));
  end.started_mono_ns = start_of(own, report.generation);
  end.oom_kills = kills_at_end(own, report);
  own.failed.by_status = classify_exit(end);
  own.failed_mono_ns =
      report.crashed_mono_ns != 0 ? report.crashed_mono_ns : report.noticed_mono_ns;
  own.failed.end_words = report.status.to_string();
  own.final_outcome.clear();
  wire::Json fields = exit_fields(report);
  if (end.started_mono_ns != 0) fields.set("started_mono_ns", end.started_mono_ns);
  if (end.cpu_limit_ns != 0) fields.set("cpu_limit_ns", end.cpu_limit_ns);
  if (end.oom_kills != 0) {
    fields.set("oom_kills", end.oom_kills);
    fields.set("memory_limit_bytes", end.memory_limit_bytes);
  }
  fields.set("by_status", own.failed.by_status->to_json());
  append(own, "detected", fields, Durability::kSync);
  for (const wire::Json& core : std::exchange(own.cores, {})) {
    append(own, "core_dumped", core, Durability::kSoon);
  }
  obs::log(obs::Level::kWarning, kComponent, "the service ended",
           {{"service", own.service},
            {"pid", report.pid},
            {"status", report.status.to_string()},
            {"incident", own.last_id}});
  IncidentNews news =
      failure_news(own, own.failed.by_status->cause,
                   fmt::format("{} ended: {}; {}", own.service, report.status.to_string(),
                               report.restarts ? "it is being started again"
                                               : "it is not started again by itself"),
                   opens);
  news.pid = report.pid;
  tell_failure(own, std::move(news), !report.restarts);
  if (!own.classified) wait_for_classification(own, own.failed);
  // Its replacement may have been told of already.
  if (own.promotion && own.promotion->old_generation == report.generation) append_promoted(own);
  if (own.newest_start && own.newest_start->generation > report.generation) {
    started(process::StartInfo(*own.newest_start));
  }
}

// The newest failure is the end of that process: as it happens, and as the file tells it.
void IncidentRecorder::note_end(Track& own, std::uint64_t generation, std::string_view ended_by,
                                const std::string& report_path) {
  const bool hang_known = own.failed.generation == generation;
  const bool warned = !own.process_failed && follows_warning(ended_by);
  own.classified = own.classified && (hang_known || warned);
  own.failed.generation = own.ended_generation = generation;
  own.process_failed = true;
  own.replaced = own.healthy = own.recovering = false;
  own.failed.end.reset();
  if (report_path.empty()) return;
  own.failed.report_path = report_path;
  own.failed.report_due = true;
}

// The same of a hang. Its process may go on where it is not ended for it.
void IncidentRecorder::note_hang(Track& own, std::uint64_t generation, bool kills,
                                 const std::string& report_path) {
  own.failed.generation = generation;
  own.failed.end.reset();
  own.failed.report_path = report_path;
  own.failed.report_due = !report_path.empty();
  own.classified = false;
  if (kills) own.replaced = own.healthy = own.recovering = false;
}

// The kernel's kills in its group that may be this end: not those that it outlived by far, such as
// that of a child.
std::uint32_t IncidentRecorder::kills_at_end(Track& own, const process::ExitReport& report) {
  const auto is_old = [&](std::int64_t mono_ns) {
    return report.noticed_mono_ns - mono_ns > kKillTime.count();
  };
  std::uint32_t kills = report.oom_kills;
  if (own.survived.generation == report.generation && is_old(own.survived.noticed_mono_ns)) {
    kills -= std::min(kills, own.survived.kills);
  }
  const auto told = static_cast<std::uint32_t>(std::exchange(own.oom_kills, 0));
  return is_old(own.oom_mono_ns) ? kills : std::max(kills, told);
}

// When the run began, by its start as it was told; 0: not known.
std::int64_t IncidentRecorder::start_of(const Track& own, std::uint64_t generation) {
  for (const auto& start : {own.newest_start, own.start_before}) {
    if (start && start->generation == generation) return start->mono_ns;
  }
  return 0;
}

void IncidentRecorder::hung(const process::HangReport& report) {
  Track& own = track(report.service);
  const bool opens = !own.incident;
  if (!open(own, wire::Json::object({{"cause", "heartbeat_lost"}, {"pid", report.pid}}))) return;
  if (own.failed.generation != report.generation) put_aside(own);
  note_hang(own, report.generation, report.kills, report.capture_path);
  if (report.kills) {
    cancel(own.health_timer);
    own.final_outcome.clear();
  }
  own.failed_mono_ns = loop_.clock().mono_ns();
  Classification& by_status =
      own.failed.by_status.emplace(classify_exit({.reason = StopReason::kHung}));
  by_status.evidence.push_back(fmt::format("stage '{}' stood still for {}, its deadline is {}",
                                           report.stage, os::format_duration(report.silent_for),
                                           os::format_duration(report.deadline)));
  by_status.evidence.push_back(fmt::format("judged {}: {}",
                                           report.kind.empty() ? "no hang" : report.kind,
                                           process::explain_briefly(report.decision)));
  wire::Json fields = wire::Json::object({{"what", "hang"},
                                          {"generation", report.generation},
                                          {"pid", report.pid},
                                          {"stage", report.stage},
                                          {"silent_ns", report.silent_for.count()},
                                          {"deadline_ns", report.deadline.count()},
                                          {"noticed_mono_ns", own.failed_mono_ns},
                                          {"kills", report.kills},
                                          {"kind", report.kind},
                                          {"decision", report.decision.to_json()},
                                          {"by_status", by_status.to_json()}});
  if (!report.capture_path.empty()) fields.set("report", report.capture_path);
  append(own, "detected", fields, Durability::kSoon);
  obs::log(obs::Level::kWarning, kComponent, "the service hangs",
           {{"service", own.service},
            {"stage", report.stage},
            {"incident", own.last_id},
            {"kind", report.kind},
            {"kills", report.kills ? "yes" : "no"},
            {"verdict", process::explain_briefly(report.decision)}});
  IncidentNews news =
      failure_news(own, "heartbeat_lost",
                   fmt::format("{} hangs: {}", own.service, by_status.evidence.back()), opens);
  news.pid = report.pid;
  news.hangs = true;
  news.captured = report.kills;
  tell_failure(own, std::move(news), false);
  wait_for_classification(own, own.failed, kClassificationTime);
}

void IncidentRecorder::ready(const std::string& service) {
  Track& own = track(service);
  own.says_ready = true;
  if (own.replaced || !own.process_failed) own.healthy = true;
  close_if_due(own);
}

void IncidentRecorder::started(const process::StartInfo& info) {
  Track& own = track(info.service);
  cancel(own.health_timer);
  if (!own.newest_start || own.newest_start->generation < info.generation) {
    own.start_before = std::exchange(own.newest_start, info);
  }
  for (std::string& failed : std::exchange(own.failed_row, {})) {
    IncidentNews news;
    news.what = IncidentNews::What::kRunsAgain;
    news.id = fmt::format("{}:again:{}", failed, info.generation);
    news.incident = std::move(failed);
    tell(own, std::move(news));
  }
  if (!own.incident) return;
  note_replacement(own, info.generation, info.mono_ns);
  own.replaced = true;
  own.healthy = false;
  own.final_outcome.clear();
  wire::Json fields = wire::Json::object({{"generation", info.generation},
                                          {"pid", info.pid},
                                          {"started_at", os::format_time(info.wall_ns)},
                                          {"started_mono_ns", info.mono_ns},
                                          {"automatic", info.automatic},
                                          {"by_ticket", info.by_ticket}});
  if (own.failed_mono_ns != 0 && info.mono_ns > own.failed_mono_ns) {
    fields.set("downtime_ns", info.mono_ns - own.failed_mono_ns);
  }
  append(own, "restarted", fields, Durability::kSoon);
  obs::log(obs::Level::kInfo, kComponent, "the service was started again",
           {{"service", own.service}, {"pid", info.pid}, {"incident", own.last_id}});
  wait_for_health(own);
  if (own.ready_generation != info.generation) return;
  own.healthy = true;
  close_if_due(own);
}

void IncidentRecorder::adopted(const std::string& service, pid_t pid, std::uint64_t generation,
                               std::int64_t started_mono_ns) {
  Track& own = track(service);
  if (!own.newest_start && started_mono_ns != 0) {
    own.newest_start.emplace();
    own.newest_start->service = service;
    own.newest_start->generation = generation;
    own.newest_start->pid = pid;
    own.newest_start->mono_ns = started_mono_ns;
  }
  if (!own.incident) return;
  append(own, "adopted", wire::Json::object({{"pid", pid}, {"generation", generation}}),
         Durability::kSoon);
  if (generation > own.failed.generation) own.replaced = true;
  if (started_mono_ns != 0) note_replacement(own, generation, started_mono_ns);
  if (own.replaced || !own.process_failed) wait_for_health(own);
}

void IncidentRecorder::wait_for_health(Track& own) {
  if (own.says_ready) return;  // READY decides, or its overdue is a failure of its own
  cancel(own.health_timer);
  own.health_timer = loop_.run_after(kHealthyTime, [this, &own] {
    own.health_timer = 0;
    own.healthy = true;
    close_if_due(own);
  });
}

void IncidentRecorder::start_failed(const std::string& service, const Error& error) {
  Track& own = track(service);
  const bool opens = !own.incident;
  if (!open(own, wire::Json::object({{"cause", "start_failed"}}))) return;
  put_aside(own);
  own.process_failed = true;
  append(own, "detected",
         wire::Json::object({{"what", "start_failed"}, {"error", wire::to_json(error)}}),
         Durability::kSync);
  obs::log(obs::Level::kError, kComponent, "the service cannot be started",
           {{"service", service}, {"error", error}, {"try", error.suggested_action()}});
  tell_failure(
      own,
      failure_news(own, "start_failed",
                   fmt::format("{} cannot be started: {}", service, error.to_line()), opens),
      true);
  Classification found;
  found.cause = "start_failed";
  found.evidence = {error.to_line()};
  found.confidence = 1;
  write_classification(own, own.failed, found.to_json(), wire::Json::array(), "start");
}

// Hooks and kills beside the main process belong to an incident, and open none.
void IncidentRecorder::hook_finished(const process::HookReport& report) {
  Track& own = track(report.service);
  if (!own.incident) return;
  wire::Json fields = wire::Json::object({{"hook", report.hook},
                                          {"generation", report.generation},
                                          {"ok", report.ok},
                                          {"status", report.status.to_string()},
                                          {"duration_ns", report.duration.count()}});
  if (report.error) fields.set("error", wire::to_json(*report.error));
  append(own, "hook_finished", fields, Durability::kSoon);
}

void IncidentRecorder::oom_killed(const process::OomReport& report) {
  Track& own = track(report.service);
  own.survived = report;
  if (!own.incident) return;
  append(own, "oom_killed",
         wire::Json::object({{"generation", report.generation},
                             {"kills", report.kills},
                             {"memory_limit_bytes", report.limit_bytes},
                             {"noticed_mono_ns", report.noticed_mono_ns}}),
         Durability::kSoon);
}

void IncidentRecorder::crash_loop(const std::string& service, const Error& error) {
  Track& own = track(service);
  append(own, "crash_loop", wire::Json::object({{"error", wire::to_json(error)}}),
         Durability::kSync);
  obs::log(obs::Level::kError, kComponent, "the service crashes again and again",
           {{"service", service}, {"error", error}});
  IncidentNews news;
  news.what = IncidentNews::What::kCrashLoop;
  news.cause = "crash_loop";
  news.message = fmt::format("{} is not started again: {}", service, error.to_line());
  news.incident = own.last_id;
  news.id = own.last_id + ":crash_loop";
  news.down = true;
  tell(own, std::move(news));
  own.final_outcome = "failed";
  close_if_due(own);
}

void IncidentRecorder::slow_lane(const std::string& service, const Error& error,
                                 os::Duration delay) {
  Track& own = track(service);
  append(own, "slow_lane",
         wire::Json::object({{"error", wire::to_json(error)}, {"next_start_ns", delay.count()}}),
         Durability::kSync);
  obs::log(obs::Level::kError, kComponent, "the service crashes again and again; it goes on slowly",
           {{"service", service}, {"error", error}});
  tell_slow_lane(own,
                 fmt::format("{} is tried again only slowly, next in {}: {}; when its cause is "
                             "cured, `defib reset {}` starts it at once",
                             service, os::format_duration(delay), error.message(), service));
}

void IncidentRecorder::state_changed(const std::string& service, ServiceState from,
                                     ServiceState to) {
  Track& own = track(service);
  if (!own.incident) return;
  if (to == ServiceState::kFailed) own.final_outcome = "failed";
  if (to == ServiceState::kStopped && own.final_outcome.empty()) own.final_outcome = "stopped";
  const bool warning_over = from == ServiceState::kDegraded && to == ServiceState::kRunning;
  if (warning_over && !own.process_failed && own.matched_lines == 0) {
    own.final_outcome = "recovered";
  }
  close_if_due(own);
}

void IncidentRecorder::notified(const process::NotifyEvent& event) {
  Track& own = track(event.service);
  if (event.key == "READY") {
    own.ready_generation = event.generation;
    return ready(event.service);
  }
  if (event.key == "X_DEFIB_STATE") return service_state(own, event.value);
  if (event.key == "X_DEFIB_EVENT") return service_event(own, event.value);
  if (event.key == "X_DEFIB_DROPPED") return messages_lost(own, event.value);
}

// What the service said while its supervisor was behind, and gave up saying.
void IncidentRecorder::messages_lost(Track& own, const std::string& count) {
  obs::log(obs::Level::kWarning, kComponent, "messages of the service were lost",
           {{"service", own.service}, {"since_its_start", count}});
  append(own, "messages_lost", wire::Json::object({{"since_start", count}}), Durability::kSoon);
}

void IncidentRecorder::service_state(Track& own, const std::string& word) {
  if (!own.incident) return;
  append(own, "service_state", wire::Json::object({{"origin", "service"}, {"state", word}}),
         Durability::kSoon);
  if (word == "running") {
    if (own.recovering) own.final_outcome = "recovered";
  } else {
    own.recovering = true;
  }
  close_if_due(own);
}

void IncidentRecorder::service_event(Track& own, const std::string& text) {
  if (!own.incident) return;
  auto event = wire::Json::parse(text);
  if (!event || (*event)["event"].as_string().empty()) {
    obs::log(obs::Level::kWarning, kComponent, "an event of the service is malformed",
             {{"service", own.service}, {"text", std::string_view(text).substr(0, 200)}});
    return;
  }
  const std::string name((*event)["event"].as_string());
  wire::Json fields = wire::Json::object({{"origin", "service"}});
  for (const auto& [key, value] : event->members()) {
    if (key == "event" || key == "origin") continue;
    // What the line itself says (its number, times and hashes) is the recorder's.
    const bool taken = key == "seq" || key == "at" || key == "mono_ns" || key == "boot_id" ||
                       key == "prev" || key == "hash";
    fields.set(taken ? "service_" + key : key, value);
  }
  const bool reserved = name == "opened" || name == "closed" || name == "writer_restarted" ||
                        name == "detected" || name == "classified" || name == "restarted";
  const bool decides = name == "decision" || name.starts_with("approval") ||
                       name == "emergency_stop" || name == "recovery_closed";
  append(own, reserved ? "service_" + name : name, fields,
         decides ? Durability::kSync : Durability::kSoon);
  own.recovering = true;
  if (name == "recovery_closed") {
    const std::string outcome((*event)["outcome"].as_string());
    // An incident that waits for a human stays open, and its last line says so.
    if (outcome != "awaiting_approval") {
      own.final_outcome = outcome.empty() ? "recovered" : outcome;
    } else {
      tell_approval_needed(own);
    }
  }
  if (name == "approval_required") tell_approval_needed(own);
  close_if_due(own);
}

void IncidentRecorder::close_if_due(Track& own) {
  if (!own.incident || !own.classified) return;
  if (!own.final_outcome.empty()) return close(own, own.final_outcome);
  if (own.process_failed && own.replaced && own.healthy && !own.recovering) {
    close(own, "restarted");
  }
}

void IncidentRecorder::close(Track& own, std::string_view outcome) {
  // Nothing follows its end: whose report is still on its way has its verdict now.
  for (std::size_t left = own.earlier.size(); left > 0; --left) {
    classify_now(own, own.earlier.front());
  }
  auto head = own.incident->close(outcome);
  if (!head) {
    head = own.incident->close("failed");  // a service may name an outcome that there is not
  }
  if (!head) {
    obs::log(obs::Level::kError, kComponent, "the incident cannot be closed",
             {{"incident", own.last_id}, {"error", head.error()}});
  } else {
    obs::log(obs::Level::kWarning, kComponent, "incident closed",
             {{"service", own.service},
              {"incident", own.last_id},
              {"outcome", outcome},
              {"head", *head}});
  }
  IncidentNews news;
  news.what = IncidentNews::What::kClosed;
  news.id = own.last_id + ":closed";
  news.outcome = outcome;
  news.message = fmt::format("the incident of {} is closed: {}", own.service, outcome);
  tell(own, std::move(news));
  if (outcome == "failed") add_to_row(own.failed_row, own.last_id);
  own.incident.reset();
  own.final_outcome.clear();
  cancel(own.sync_timer);
  cancel(own.failed.timer);
  cancel(own.health_timer);
  cancel(own.quiet_timer);
}

std::string IncidentRecorder::last_incident(const std::string& service) const {
  const Track* own = find(service);
  return own != nullptr ? own->last_id : std::string();
}

bool IncidentRecorder::has_open(const std::string& service) const {
  const Track* own = find(service);
  return own != nullptr && own->incident.has_value();
}

bool IncidentRecorder::settled(const std::string& service) const {
  const Track* own = find(service);
  return own == nullptr || !own->incident ||
         (own->classified && own->earlier.empty() && own->final_outcome.empty());
}

}  // namespace defib::daemon
