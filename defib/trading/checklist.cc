#include "defib/trading/checklist.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace defib::trading {
namespace {

constexpr std::size_t kMaxFile = 4 << 20;
constexpr std::size_t kMaxText = 4'000;
constexpr std::string_view kSchema = "defib.checklist/1";

constexpr std::array<ChecklistItem, 28> kItems = {{
    {"analyze", "analyze.report_read", "Was the crash report read?", false, false, true},
    {"analyze", "analyze.core_examined", "Was the core or the backtrace examined, if there is one?",
     false, true, true},
    {"analyze", "analyze.logs_read", "Were the logs around the crash read?", false, false, true},
    {"analyze", "analyze.root_cause", "Is the root cause known? Write it down.", true, false, true},
    {"fix", "fix.applied", "Was it fixed: code, configuration or infrastructure? Say which.", true,
     false, true},
    {"fix", "fix.tested", "Was the fix tested outside production?", false, false, true},
    {"validate_checkpoint", "checkpoint.exists", "Is there a checkpoint?", false, true, true},
    {"validate_checkpoint", "checkpoint.checksum", "Does its checksum hold?", false, true, true},
    {"validate_checkpoint", "checkpoint.reasonable",
     "Are its quantities, prices and balances reasonable?", false, true, true},
    {"validate_checkpoint", "checkpoint.age", "Is it not too old?", false, true, true},
    {"reconcile", "reconcile.queried", "Were the positions of all venues queried?", false, false,
     true},
    {"reconcile", "reconcile.compared", "Were they compared with the ledger?", false, false, true},
    {"reconcile", "reconcile.resolved",
     "Were discrepancies resolved with the exchange as the truth?", false, true, true},
    {"reconcile", "reconcile.documented", "Were the differences documented? Say where.", true, true,
     true},
    {"pre_recovery_tests", "tests.started_without_trading", "Was it started without trading?",
     false, false, true},
    {"pre_recovery_tests", "tests.services", "Did all services start?", false, false, true},
    {"pre_recovery_tests", "tests.venues", "Are the venues connected?", false, false, true},
    {"pre_recovery_tests", "tests.market_data", "Does market data flow?", false, false, true},
    {"pre_recovery_tests", "tests.risk_checks", "Do the risk checks work?", false, false, true},
    {"resume", "resume.risk_manager", "Did the risk manager approve? Give the name.", true, false,
     true},
    {"resume", "resume.reduced_limits", "Is it resumed with reduced limits?", false, false, false},
    {"resume", "resume.low_risk_first", "Do low-risk strategies come first?", false, false, false},
    {"resume", "resume.watched", "Was it watched closely for 15 minutes?", false, false, false},
    {"resume", "resume.ramped", "Was it ramped up step by step?", false, false, false},
    {"post_recovery", "post.documented", "Is the recovery documented?", false, false, false},
    {"post_recovery", "post.report", "Is the incident report written?", false, false, false},
    {"post_recovery", "post.meeting", "Is the post-mortem meeting held or planned? Say when.", true,
     false, false},
    {"post_recovery", "post.runbooks", "Are the runbooks updated?", false, true, false},
}};

const ChecklistItem* find_item(std::string_view key) {
  const auto found = std::find_if(kItems.begin(), kItems.end(),
                                  [&](const ChecklistItem& item) { return item.key == key; });
  return found == kItems.end() ? nullptr : &*found;
}

bool is_text(std::string_view text) {
  return text.size() <= kMaxText && text.find_first_not_of(" \t") != std::string_view::npos;
}

std::string path_of(const std::string& state_dir, std::string_view incident) {
  return os::join_path(os::join_path(state_dir, "checklists"), fmt::format("{}.json", incident));
}

bool is_affirmed(const std::map<std::string, Answer, std::less<>>& answers,
                 const ChecklistItem& item) {
  const auto found = answers.find(item.key);
  if (found == answers.end()) return false;
  return found->second.kind == AnswerKind::kYes ||
         (item.may_not_apply && found->second.kind == AnswerKind::kNotApplicable);
}

struct Saved {
  std::string incident;
  std::string head;
  std::string record;
  bool closed = false;
  std::map<std::string, Answer, std::less<>> answers;
};

Result<Saved> read_saved(os::Files& files, const std::string& path) {
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(files, path, kMaxFile));
  const Result<wire::Json> json = wire::Json::parse(text);
  if (!json || (*json)["schema"].as_string() != kSchema) {
    return Error(Code::kCorrupted, fmt::format("{} is no checklist", path)).with("path", path);
  }
  Saved saved;
  saved.incident = (*json)["incident"].as_string();
  saved.head = (*json)["incident_head"].as_string();
  saved.record = (*json)["record"].as_string();
  saved.closed = (*json)["closed"].as_bool();
  for (const wire::Json& item : (*json)["answers"].items()) {
    Answer answer;
    answer.key = item["key"].as_string();
    const std::optional<AnswerKind> kind = parse_answer(item["answer"].as_string());
    if (!kind || find_item(answer.key) == nullptr) {
      return Error(Code::kCorrupted, fmt::format("{} has an answer to no question", path))
          .with("path", path);
    }
    answer.kind = *kind;
    answer.note = item["note"].as_string();
    answer.by = item["by"].as_string();
    answer.at_wall_ns = os::parse_time(item["at"].as_string());
    saved.answers[answer.key] = std::move(answer);
  }
  return saved;
}

}  // namespace

std::span<const ChecklistItem> checklist_items() {
  return kItems;
}

std::string_view to_string(AnswerKind kind) {
  constexpr std::array<std::string_view, 3> kNames = {"yes", "no", "not_applicable"};
  return kNames[static_cast<std::size_t>(kind)];
}

std::optional<AnswerKind> parse_answer(std::string_view text) {
  if (text == "yes" || text == "y") return AnswerKind::kYes;
  if (text == "no" || text == "n") return AnswerKind::kNo;
  if (text == "not_applicable" || text == "n/a") return AnswerKind::kNotApplicable;
  return std::nullopt;
}

wire::Json Answer::to_json() const {
  return wire::Json::object({{"key", key},
                             {"answer", to_string(kind)},
                             {"note", note},
                             {"by", by},
                             {"at", os::format_time(at_wall_ns)}});
}

Result<Checklist> Checklist::open(os::Files& files, const os::Clock& clock,
                                  const std::string& state_dir, std::string_view incident) {
  DEFIB_TRY_ASSIGN(const recovery::IncidentLog log,
                   recovery::IncidentLog::open(files, clock, state_dir));
  Checklist checklist(files, clock, state_dir);
  DEFIB_TRY_ASSIGN(checklist.incident_, log.find(incident));
  DEFIB_TRY_ASSIGN(const recovery::VerifyResult verified, log.verify(checklist.incident_, {}));
  checklist.incident_head_ = verified.head_hash;
  DEFIB_TRY(checklist.load());
  return checklist;
}

Result<> Checklist::load() {
  const std::string path = path_of(state_dir_, incident_);
  if (!files_->exists(path)) return {};
  DEFIB_TRY_ASSIGN(Saved saved, read_saved(*files_, path));
  record_id_ = std::move(saved.record);
  incident_head_ = std::move(saved.head);
  closed_ = saved.closed;
  answers_ = std::move(saved.answers);
  return {};
}

Result<> Checklist::save() const {
  const std::string path = path_of(state_dir_, incident_);
  DEFIB_TRY(files_->create_dirs(os::parent_dir(path)));
  return os::write_file_atomically(*files_, path, to_json().dump(2) + "\n");
}

Result<recovery::Incident> Checklist::open_record() {
  DEFIB_TRY_ASSIGN(recovery::IncidentLog log,
                   recovery::IncidentLog::open(*files_, *clock_, state_dir_));
  if (!record_id_.empty()) return log.resume(record_id_);
  DEFIB_TRY_ASSIGN(recovery::Incident record,
                   log.create("checklist", wire::Json::object({{"kind", "manual_procedure"},
                                                               {"of_incident", incident_},
                                                               {"of_head", incident_head_}})));
  record_id_ = record.id();
  return record;
}

Result<> Checklist::answer(std::string_view key, AnswerKind kind, std::string_view note,
                           std::string_view by) {
  const ChecklistItem* item = find_item(key);
  if (item == nullptr) {
    return Error(Code::kInvalidArgument, fmt::format("the checklist has no item {}", key));
  }
  if (!is_text(by)) return Error(Code::kInvalidArgument, "an answer needs the name of a person");
  if (kind == AnswerKind::kNotApplicable && !item->may_not_apply) {
    return Error(Code::kInvalidArgument, fmt::format("{} always applies: yes or no", key));
  }
  if (kind == AnswerKind::kYes && item->needs_note && !is_text(note)) {
    return Error(Code::kInvalidArgument, fmt::format("{} needs a note: {}", key, item->question));
  }
  if (note.size() > kMaxText) {
    return Error(Code::kInvalidArgument, fmt::format("a note has at most {} bytes", kMaxText));
  }
  if (closed_) return Error(Code::kAlreadyExists, "this checklist is closed");
  Answer given{std::string(key), kind, std::string(note), std::string(by), clock_->wall_ns()};
  DEFIB_TRY_ASSIGN(recovery::Incident record, open_record());
  // The chained line first: the file beside it is only its latest state.
  wire::Json fields = wire::Json::object({{"item", given.key},
                                          {"question", item->question},
                                          {"answer", to_string(kind)},
                                          {"note", given.note},
                                          {"by", given.by}});
  DEFIB_TRY(record.append("checklist_answer", fields, recovery::Durability::kSync));
  answers_[given.key] = std::move(given);
  return save();
}

Result<> Checklist::close(std::string_view by) {
  if (!is_text(by)) return Error(Code::kInvalidArgument, "closing needs the name of a person");
  if (closed_) return {};
  const std::vector<std::string> missing = open_items();
  if (!missing.empty()) {
    return Error(Code::kChecklistIncomplete,
                 fmt::format("{} items are open: {}", missing.size(), fmt::join(missing, ", ")))
        .with("open", static_cast<std::int64_t>(missing.size()));
  }
  DEFIB_TRY_ASSIGN(recovery::Incident record, open_record());
  DEFIB_TRY(record.close("recovered", wire::Json::object({{"by", by}})));
  closed_ = true;
  return save();
}

std::vector<std::string> Checklist::open_items() const {
  std::vector<std::string> open;
  for (const ChecklistItem& item : kItems) {
    if (!is_affirmed(answers_, item)) open.emplace_back(item.key);
  }
  return open;
}

std::vector<std::string> Checklist::open_before_trading() const {
  std::vector<std::string> open;
  for (const ChecklistItem& item : kItems) {
    if (item.before_trading && !is_affirmed(answers_, item)) open.emplace_back(item.key);
  }
  return open;
}

wire::Json Checklist::to_json() const {
  wire::Json given = wire::Json::array();
  for (const ChecklistItem& item : kItems) {
    const auto found = answers_.find(item.key);
    if (found != answers_.end()) given.push(found->second.to_json());
  }
  wire::Json open = wire::Json::array();
  for (const std::string& key : open_items()) open.push(key);
  wire::Json before = wire::Json::array();
  for (const std::string& key : open_before_trading()) before.push(key);
  return wire::Json::object({{"schema", kSchema},
                             {"incident", incident_},
                             {"incident_head", incident_head_},
                             {"record", record_id_},
                             {"closed", closed_},
                             {"answers", std::move(given)},
                             {"open", std::move(open)},
                             {"open_before_trading", std::move(before)}});
}

bool manual_procedure_done(os::Files& files, const std::string& state_dir,
                           const std::string& incident) {
  if (incident.find('/') != std::string::npos) return false;
  const std::string path = path_of(state_dir, incident);
  if (!files.exists(path)) return false;
  const Result<Saved> saved = read_saved(files, path);
  if (!saved || saved->incident != incident) return false;
  return std::all_of(kItems.begin(), kItems.end(), [&](const ChecklistItem& item) {
    return !item.before_trading || is_affirmed(saved->answers, item);
  });
}

}  // namespace defib::trading
