// Checklist: the manual procedure after a crash, walked by a person, answer by answer.
//
// The items are a table. Answers lie in DIR/checklists/INCIDENT.json (written atomically) and, each
// of them, as a line of a follow-up incident, which is hash-chained and names the incident and the
// head hash that it is about; so who said what, and when, cannot be changed unseen. An answer is
// never overwritten silently: the record keeps every one, and the newest counts.
//
// Two gates depend on it: heap corruption as the cause, and damage of ledger or intent log, hold
// trading until every item before "resume" was answered with yes (or "not applicable" where the
// item allows it) and the risk manager's approval is among the answers.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/recovery/incident.h"
#include "defib/wire/json.h"

namespace defib::trading {

struct ChecklistItem {
  std::string_view section;  // analyze fix validate_checkpoint reconcile pre_recovery_tests
                             // resume post_recovery
  std::string_view key;      // "analyze.root_cause"
  std::string_view question;
  bool needs_note = false;      // yes alone says nothing: what was found must be written down
  bool may_not_apply = false;   // "not_applicable" is an answer
  bool before_trading = false;  // must be answered before anything may trade again
};
// In the order in which they are walked.
std::span<const ChecklistItem> checklist_items();

enum class AnswerKind { kYes, kNo, kNotApplicable };
std::string_view to_string(AnswerKind kind);
// "yes", "no", "not_applicable" (also "n/a").
std::optional<AnswerKind> parse_answer(std::string_view text);

struct Answer {
  std::string key;
  AnswerKind kind = AnswerKind::kNo;
  std::string note;
  std::string by;
  std::int64_t at_wall_ns = 0;
  wire::Json to_json() const;
};

class Checklist {
 public:
  // The procedure of one incident of DIR/incidents: "latest" or a prefix of its id. Continues what
  // was answered before. NotFound, or Corrupted where the answers cannot be read.
  static Result<Checklist> open(os::Files& files, const os::Clock& clock,
                                const std::string& state_dir, std::string_view incident);

  // Recorded durably before it returns. InvalidArgument: no such item, no name, a note that is
  // missing, or "not applicable" where an answer is due.
  Result<> answer(std::string_view key, AnswerKind kind, std::string_view note,
                  std::string_view by);
  // Writes the end into the follow-up incident. ChecklistIncomplete names what is missing.
  Result<> close(std::string_view by);

  const std::string& incident() const { return incident_; }
  const std::string& record() const { return record_id_; }  // the follow-up incident's id
  const std::map<std::string, Answer, std::less<>>& answers() const { return answers_; }
  // Items without an affirmative answer, in their order.
  std::vector<std::string> open_items() const;
  // ... of those that must be done before anything trades.
  std::vector<std::string> open_before_trading() const;
  wire::Json to_json() const;

 private:
  Checklist(os::Files& files, const os::Clock& clock, std::string state_dir)
      : files_(&files), clock_(&clock), state_dir_(std::move(state_dir)) {}
  Result<> load();
  Result<> save() const;
  Result<recovery::Incident> open_record();

  os::Files* files_;
  const os::Clock* clock_;
  std::string state_dir_;
  std::string incident_;
  std::string incident_head_;
  std::string record_id_;
  bool closed_ = false;
  std::map<std::string, Answer, std::less<>> answers_;
};

// Whether the manual procedure of this incident allows trading again. False where it was not begun
// or cannot be read.
bool manual_procedure_done(os::Files& files, const std::string& state_dir,
                           const std::string& incident);

}  // namespace defib::trading
