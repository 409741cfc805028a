#include "defib/recovery/explain.h"

#include <fmt/core.h>

#include <array>

#include "defib/base/error.h"

namespace defib::recovery {
namespace {

std::string_view meaning(ErrorClass error_class) {
  switch (error_class) {
    case ErrorClass::kCritical:
      return "a human must act";
    case ErrorClass::kRetryable:
      return "the same operation may succeed, now or with other parameters";
    case ErrorClass::kRecoverable:
      return "another strategy is open";
    case ErrorClass::kNone:
      return "not a failure";
  }
  return {};
}

struct Group {
  int first;  // numbers from here downwards, to the next group
  std::string_view title;
};
constexpr std::array<Group, 11> kGroups = {{{-1, "General"},
                                            {-20, "Operating system"},
                                            {-40, "Configuration"},
                                            {-50, "Wire"},
                                            {-70, "Store: recovery"},
                                            {-84, "Store: use"},
                                            {-100, "Recovery model"},
                                            {-120, "Process"},
                                            {-140, "Postmortem"},
                                            {-150, "Venue"},
                                            {-170, "Trading"}}};

std::string_view title_of(int number) {
  std::string_view title;
  for (const Group& group : kGroups) {
    if (number <= group.first) title = group.title;
  }
  return title;
}

}  // namespace

std::optional<std::string> explain_code(std::string_view code_or_name) {
  const std::optional<CodeInfo> info = find_code(code_or_name);
  if (!info) return std::nullopt;
  return fmt::format("{} ({}), {}: {}\n{}\ntry: {}\n", info->name, static_cast<int>(info->code),
                     to_string(info->error_class), meaning(info->error_class), info->text,
                     info->guidance);
}

std::string errors_page() {
  std::string page =
      "# Errors\n\n"
      "Every failure that defib reports carries one of these codes. A number never changes its\n"
      "meaning. `defib explain CODE` prints an entry; `-73`, `73` and `DatabaseLocked` are the "
      "same\n"
      "thing. The message of an error says what happened in the case at hand, its `cause:` lines\n"
      "why, and its `try:` line what to do next.\n\n"
      "The class tells automation how to treat it; a code has exactly one:\n\n";
  for (const ErrorClass error_class : {ErrorClass::kCritical, ErrorClass::kRetryable,
                                       ErrorClass::kRecoverable, ErrorClass::kNone}) {
    page += fmt::format("- **{}**: {}\n", to_string(error_class), meaning(error_class));
  }
  page += "\nThis page is made from `defib/base/codes.def`; the test `Explain` compares the two.\n";
  std::string_view title;
  for (const CodeInfo& info : all_codes()) {
    const int number = static_cast<int>(info.code);
    if (title_of(number) != title) {
      title = title_of(number);
      page += fmt::format(
          "\n## {}\n\n| code | name | class | what happened | try |\n"
          "|---|---|---|---|---|\n",
          title);
    }
    page += fmt::format("| {} | {} | {} | {} | {} |\n", number, info.name,
                        to_string(info.error_class), info.text, info.guidance);
  }
  return page;
}

}  // namespace defib::recovery
