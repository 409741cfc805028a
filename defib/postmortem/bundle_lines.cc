#include "defib/postmortem/bundle_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "defib/os/clock.h"

namespace defib::postmortem {
namespace {

// A level stands at the beginning of a line; what follows is its text.
constexpr std::size_t kLookedAt = 512;
constexpr std::string_view kErrorWords[] = {"error", "fatal", "critical",  "crit",
                                            "panic", "emerg", "traceback", "severe",
                                            "alert", "err",   "exception"};
constexpr std::string_view kWarningWords[] = {"warning", "warn"};

bool is_word(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0;
}

bool equals(std::string_view word, std::string_view lower) {
  return word.size() == lower.size() && std::ranges::equal(word, lower, [](char a, char b) {
           return std::tolower(static_cast<unsigned char>(a)) == b;
         });
}

// "E0105 12:00:01.000000", "F0105 ...", "W0105 ...".
LineSeverity by_glog(std::string_view line) {
  if (line.size() < 6 || line[5] != ' ') return LineSeverity::kOther;
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (!std::ranges::all_of(line.substr(1, 4), digit)) return LineSeverity::kOther;
  if (line[0] == 'E' || line[0] == 'F') return LineSeverity::kError;
  return line[0] == 'W' ? LineSeverity::kWarning : LineSeverity::kOther;
}

}  // namespace

LineSeverity severity_of_line(std::string_view line) {
  LineSeverity found = by_glog(line);
  line = line.substr(0, kLookedAt);
  std::size_t at = 0;
  while (at < line.size() && found != LineSeverity::kError) {
    if (!is_word(line[at])) {
      ++at;
      continue;
    }
    std::size_t end = at;
    while (end < line.size() && is_word(line[end])) ++end;
    const std::string_view word = line.substr(at, end - at);
    at = end;
    const auto is = [&](std::string_view lower) { return equals(word, lower); };
    if (std::ranges::any_of(kErrorWords, is)) return LineSeverity::kError;
    if (std::ranges::any_of(kWarningWords, is)) found = LineSeverity::kWarning;
  }
  return found;
}

void ImportantLines::add(std::int64_t wall_ns, std::string_view stream, std::string_view line) {
  const LineSeverity severity = severity_of_line(line);
  if (severity == LineSeverity::kOther) return;
  auto& list = severity == LineSeverity::kError ? errors_ : warnings_;
  const std::size_t kept = severity == LineSeverity::kError ? kErrors : kWarnings;
  list.push_back({wall_ns, fmt::format("{} {}", stream, line.substr(0, kMaxLine))});
  if (list.size() > kept) list.pop_front();
}

std::string ImportantLines::to_text() const {
  std::string text;
  for (const auto& [title, list] : {std::pair("errors", &errors_), {"warnings", &warnings_}}) {
    text += fmt::format("the last {} {}\n", list->size(), title);
    for (const Line& line : *list) {
      text += fmt::format("{} {}\n", os::format_time(line.wall_ns), line.text);
    }
  }
  return text;
}

}  // namespace defib::postmortem
