// `defib checklist --manual INCIDENT`: walks a person through the manual procedure.

#include <fmt/core.h>
#include <unistd.h>

#include <iostream>
#include <string>

#include "apps/defib-trade/commands.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/trading/checklist.h"

namespace defib::trade_program {
namespace {

using trading::Checklist;
using trading::ChecklistItem;

// "KEY=yes", "KEY=no:the desk is closed".
Result<> give(Checklist& checklist, const std::string& text, const std::string& by) {
  const std::size_t equals = text.find('=');
  const std::size_t colon = text.find(':', equals == std::string::npos ? 0 : equals);
  const std::string word =
      equals == std::string::npos
          ? std::string()
          : text.substr(equals + 1,
                        colon == std::string::npos ? std::string::npos : colon - equals - 1);
  const auto kind = trading::parse_answer(word);
  if (!kind) {
    return Error(Code::kWrongUsage,
                 fmt::format("an answer is KEY=yes|no|n/a[:NOTE], not '{}'", text));
  }
  return checklist.answer(text.substr(0, equals), *kind,
                          colon == std::string::npos ? "" : text.substr(colon + 1), by);
}

// Asks what is open, one question a line; an empty line leaves it open, the end of input stops.
void walk(Checklist& checklist, const std::string& by) {
  for (const ChecklistItem& item : trading::checklist_items()) {
    const auto known = checklist.answers().find(item.key);
    if (known != checklist.answers().end() && known->second.kind != trading::AnswerKind::kNo) {
      continue;
    }
    fmt::print("[{}] {}\n  yes | no{}, then a note: ", item.section, item.question,
               item.may_not_apply ? " | n/a" : "");
    std::fflush(stdout);
    std::string line;
    if (!std::getline(std::cin, line)) return;
    const std::size_t space = line.find(' ');
    const auto kind = trading::parse_answer(line.substr(0, space));
    if (!kind) continue;
    const Result<> given = checklist.answer(
        item.key, *kind, space == std::string::npos ? "" : line.substr(space + 1), by);
    if (!given) fmt::print("  {}\n", given.error().message());
  }
}

}  // namespace

Result<int> manual_checklist(const Arguments& arguments) {
  if (arguments.by.empty()) {
    return Error(Code::kWrongUsage, "--manual needs --by NAME: every answer is somebody's");
  }
  DEFIB_TRY_ASSIGN(Checklist checklist, Checklist::open(os::real_files(), os::real_clock(),
                                                        arguments.state_dir, arguments.manual));
  for (const std::string& answer : arguments.answers) {
    DEFIB_TRY(give(checklist, answer, arguments.by));
  }
  const bool asks = arguments.answers.empty() && !arguments.json && !arguments.close &&
                    ::isatty(STDIN_FILENO) == 1;
  if (asks) walk(checklist, arguments.by);
  if (arguments.close) DEFIB_TRY(checklist.close(arguments.by));
  const bool complete = checklist.open_items().empty();
  if (arguments.json) {
    fmt::print("{}\n", checklist.to_json().dump(2));
    return complete ? kDone : kRefused;
  }
  for (const ChecklistItem& item : trading::checklist_items()) {
    const auto found = checklist.answers().find(item.key);
    const bool known = found != checklist.answers().end();
    fmt::print("{:<15} {:<28} {}{}\n", known ? trading::to_string(found->second.kind) : "open",
               item.key, item.question,
               known ? fmt::format("  [{} {}{}{}]", found->second.by,
                                   os::format_time(found->second.at_wall_ns),
                                   found->second.note.empty() ? "" : ": ", found->second.note)
                     : "");
  }
  if (complete) return kDone;
  std::fflush(stdout);
  return report(
      Error(Code::kChecklistIncomplete,
            fmt::format("{} items are open, {} of them before anything may trade",
                        checklist.open_items().size(), checklist.open_before_trading().size())),
      false);
}

}  // namespace defib::trade_program
