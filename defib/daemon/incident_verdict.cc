// The verdict on each failure of a process: by its report, or by what else is known of its end.

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "defib/daemon/incident_track.h"
#include "defib/obs/log.h"

namespace defib::daemon {
namespace {

using recovery::Durability;

constexpr std::string_view kComponent = "incident";
constexpr std::uint64_t kMaxReport = 32 << 20;
// More than this of an incident's line is the report's business, whose path the incident names.
constexpr std::size_t kMaxThreadsJson = 1 << 20;
// Of the output that an incident carries itself.
constexpr std::size_t kMaxTail = 4096;
// Failures before the newest that wait for their reports; the shim makes no more at a time.
constexpr std::size_t kMaxEarlier = 4;

// The end of a text, from the beginning of a line on.
std::string last_part(std::string text) {
  if (text.size() <= kMaxTail) return text;
  text.erase(0, text.size() - kMaxTail);
  return text.substr(text.find('\n') + 1);  // npos + 1 is 0
}

// The report's, in the words of the cause that is known.
wire::Json signature_of_report(const wire::Json& report, std::string_view cause) {
  constexpr std::string_view kUnknown = "unknown";
  wire::Json signature = report["signature"];
  const std::string_view text = signature["text"].as_string();
  if (text.starts_with(kUnknown)) {
    signature.set("text", fmt::format("{}{}", cause, text.substr(kUnknown.size())));
  }
  return signature;
}

}  // namespace

// The one of that generation that has no verdict yet, or null.
IncidentRecorder::Failure* IncidentRecorder::waiting(Track& own, std::uint64_t generation) {
  const auto found = std::ranges::find(own.earlier, generation, &Failure::generation);
  if (found != own.earlier.end()) return &*found;
  return !own.classified && own.failed.generation == generation ? &own.failed : nullptr;
}

// The newest failure has another one after it; where it waits for its verdict, it goes on waiting.
void IncidentRecorder::put_aside(Track& own) {
  if (own.earlier.size() == kMaxEarlier && own.earlier.front().timer != 0) {
    classify_now(own, own.earlier.front());
  }
  Failure before = std::exchange(own.failed, Failure());
  if (before.generation == 0 || std::exchange(own.classified, false)) return cancel(before.timer);
  // Of a file: too many verdicts are missing there.
  if (own.earlier.size() == kMaxEarlier) own.earlier.erase(own.earlier.begin());
  own.earlier.push_back(std::move(before));
}

void IncidentRecorder::forget_failures(Track& own) {
  cancel(own.failed.timer);
  for (Failure& failure : own.earlier) cancel(failure.timer);
  own.failed = Failure();
  own.earlier.clear();
}

// What is written from now on is not theirs.
void IncidentRecorder::note_replacement(Track& own, std::uint64_t generation,
                                        std::int64_t mono_ns) {
  const auto note = [&](Failure& failure) {
    const bool first = failure.replaced_mono_ns == INT64_MAX;
    if (first && generation > failure.generation) failure.replaced_mono_ns = mono_ns;
  };
  note(own.failed);
  std::ranges::for_each(own.earlier, note);
}

void IncidentRecorder::wait_for_classification(Track& own, Failure& failure, os::Duration time) {
  cancel(failure.timer);
  failure.timer = loop_.run_after(time, [this, &own, generation = failure.generation] {
    Failure* const overdue = waiting(own, generation);
    if (overdue == nullptr) return;
    overdue->timer = 0;
    classify(own, *overdue);
  });
}

void IncidentRecorder::wait_for_classification(Track& own, Failure& failure) {
  wait_for_classification(own, failure, failure.report_due ? kClassificationTime : kOutputTime);
}

// Its report may be there although nobody has told of it.
void IncidentRecorder::classify_now(Track& own, Failure& failure) {
  if (!failure.report_path.empty() && files_.exists(failure.report_path)) {
    classify_by_report(own, failure);
  } else {
    classify(own, failure);
  }
}

// Not what a run before it wrote, nor its replacement.
process::RunOutput IncidentRecorder::output_of_end(const Track& own, const Failure& failure) const {
  if (!log_tail_) return {};
  return log_tail_(own.service, failure.end ? failure.end->started_mono_ns : 0,
                   failure.replaced_mono_ns);
}

// Without a report: by the exit status, the kernel's log, and the last lines of output.
void IncidentRecorder::classify(Track& own, Failure& failure) {
  if (!own.incident) return;
  Classification found = failure.by_status.value_or(Classification());
  process::RunOutput output = output_of_end(own, failure);
  if (!output.out.empty() || !output.err.empty()) {
    postmortem::Redactor redactor = redactor_of(own);
    output.out = redactor.text(output.out);
    output.err = redactor.text(output.err);
  }
  std::string tail = last_part(output.out + output.err);
  if (failure.end) {
    failure.end->err = std::move(output.err);
    failure.end->out = std::move(output.out);
    if (kernel_log_) failure.end->kernel = kernel_log_(*failure.end);
    found = classify_exit(*failure.end);
    failure.end.reset();  // its texts are large
  }
  if (!tail.empty()) {
    append(own, "output", wire::Json::object({{"tail", tail}}), Durability::kSoon);
  }
  write_classification(own, failure, found.to_json(), wire::Json::array(), "exit_status");
}

void IncidentRecorder::captured(const process::CaptureReport& report) {
  Track& own = track(report.service);
  if (!own.incident) return;
  wire::Json fields = wire::Json::object(
      {{"generation", report.generation}, {"ok", report.ok}, {"report", report.path}});
  if (report.error) fields.set("error", wire::to_json(*report.error));
  if (report.released_mono_ns != 0) {
    fields.set("released_mono_ns", report.released_mono_ns);
    fields.set("captured_in_ns", report.released_mono_ns - report.crashed_mono_ns);
  }
  if (!report.fingerprint.empty()) {
    fields.set("fingerprint", report.fingerprint);
    fields.set("equal_crashes", report.equal_crashes);
  }
  append(own, "captured", fields, Durability::kSoon);
  // Before any process failed it is of the one that is about to be ended for a warning.
  const bool of_warned = own.failed.generation == 0 && !own.process_failed;
  Failure* const failure = waiting(own, of_warned ? 0 : report.generation);
  if (failure == nullptr) return;
  // One that hung may have crashed while it was looked at: the report of its crash follows.
  if (!failure->report_path.empty() && failure->report_path != report.path) return;
  failure->report_due = false;
  if (report.ok || report.partial) {
    failure->report_path = report.path;
    classify_by_report(own, *failure);
  } else {
    wait_for_classification(own, *failure);
  }
}

void IncidentRecorder::classify_by_report(Track& own, Failure& failure) {
  const auto text = os::read_file(files_, failure.report_path, kMaxReport);
  const auto report = text ? wire::Json::parse(*text) : Result<wire::Json>(text.error());
  if (!report || !(*report)["classification"].is_object()) {
    obs::log(obs::Level::kWarning, kComponent, "the crash report cannot be used",
             {{"service", own.service}, {"path", failure.report_path}});
    return classify(own, failure);
  }
  // A report of a live process may name no cause; that it hung is known all the same.
  const wire::Json& by_report = (*report)["classification"];
  const bool knows_more = by_report["cause"].as_string() == "unknown" && failure.by_status &&
                          failure.by_status->cause != "unknown";
  wire::Json found = knows_more ? failure.by_status->to_json() : by_report;
  found.set("signature", signature_of_report(*report, found["cause"].as_string()));
  write_classification(own, failure, found, (*report)["threads"], "report");
}

// Ends the waiting of `failure`, which is gone afterwards where it is not the newest.
void IncidentRecorder::write_classification(Track& own, Failure& failure,
                                            const wire::Json& classification,
                                            const wire::Json& threads, std::string_view source) {
  const bool newest = &failure == &own.failed;
  cancel(failure.timer);
  // A process that was killed because it hung shows the hang's cause, not the kill's.
  wire::Json fields = redactor_of(own).json(classification);
  fields.set("source", source);
  if (failure.generation != 0) fields.set("generation", failure.generation);
  // The incident's cause is that of its newest failure.
  if (!newest) fields.set("earlier", true);
  if (!failure.report_path.empty()) fields.set("report", failure.report_path);
  fields.set("threads", threads.is_array() ? threads : wire::Json::array());
  if (fields["threads"].dump().size() > kMaxThreadsJson) {
    wire::Json crashed = wire::Json::array();
    for (const wire::Json& thread : threads.items()) {
      if (thread["crashed"].as_bool()) crashed.push(thread);
    }
    fields.set("threads", std::move(crashed));
    fields.set("threads_left_out", static_cast<std::int64_t>(threads.size()) - 1);
  }
  obs::log(obs::Level::kWarning, kComponent, "cause found",
           {{"service", own.service},
            {"incident", own.last_id},
            {"generation", failure.generation},
            {"cause", fields["cause"].as_string()},
            {"subtype", fields["subtype"].as_string()}});
  ++own.classifications;
  add_group(own, failure, fields);
  append(own, "classified", fields, Durability::kSoon);
  save_groups(own);
  if (!newest) {
    std::erase_if(own.earlier, [generation = failure.generation](const Failure& one) {
      return one.generation == generation;
    });
    return;
  }
  own.classified = true;
  close_if_due(own);
}

}  // namespace defib::daemon
