#include "apps/defib/output.h"

#include <fmt/core.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace defib::cli {
namespace {

bool colours() {
  static const bool yes = isatty(STDOUT_FILENO) == 1 && getenv("NO_COLOR") == nullptr;
  return yes;
}

std::size_t characters(std::string_view utf8) {
  return static_cast<std::size_t>(std::ranges::count_if(
      utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

int exit_code_of(const Error& error) {
  switch (error.code()) {
    case Code::kWrongUsage:
    case Code::kInvalidArgument:
    case Code::kNotFound:
    case Code::kServiceUnknown:
    case Code::kProgramNotFound:
    case Code::kConfigSyntax:
    case Code::kConfigUnknownKey:
    case Code::kConfigWrongType:
    case Code::kConfigBadValue:
    case Code::kConfigMissing:
    case Code::kConfigSecretExposed:
    case Code::kFileNotFound:
      return kUsage;
    case Code::kAlreadySupervised:
    case Code::kStateDirectoryForeign:
    case Code::kDatabaseLocked:
    case Code::kGateClosed:
    case Code::kApprovalRequired:
    case Code::kApprovalInvalid:
    case Code::kPermissionDenied:
      return kRefused;
    case Code::kCancelled:
    case Code::kProcedureAborted:
      return kInterrupted;
    default:
      return kFailed;
  }
}

int print_error(const Error& error, bool json) {
  if (json) {
    print_json(wire::Json::object({{"schema", "defib.error/1"}, {"error", wire::to_json(error)}}));
  } else {
    const std::string text = error.to_text() + "\n";
    fwrite(text.data(), 1, text.size(), stderr);
  }
  return exit_code_of(error);
}

void print_json(const wire::Json& document, int indent) {
  print(document.dump(indent) + "\n");
}

void print(std::string_view text) {
  fwrite(text.data(), 1, text.size(), stdout);
  fflush(stdout);
}

std::string styled(Style style, std::string_view text) {
  constexpr std::array<std::string_view, 6> kCodes = {"", "1", "2", "32", "33", "31"};
  if (style == Style::kPlain || !colours() || text.empty()) return std::string(text);
  return fmt::format("\x1b[{}m{}\x1b[0m", kCodes[static_cast<std::size_t>(style)], text);
}

Style style_of(std::string_view word) {
  constexpr std::array<std::string_view, 4> kGood = {"running", "recovered", "restarted",
                                                     "standby"};
  constexpr std::array<std::string_view, 2> kBad = {"failed", "broken"};
  constexpr std::array<std::string_view, 1> kQuiet = {"stopped"};
  if (std::ranges::find(kGood, word) != kGood.end()) return Style::kGood;
  if (std::ranges::find(kBad, word) != kBad.end()) return Style::kBad;
  if (std::ranges::find(kQuiet, word) != kQuiet.end()) return Style::kDim;
  return Style::kWarning;
}

std::string Table::to_text() const {
  std::vector<std::size_t> widths;
  widths.reserve(titles_.size());
  for (const std::string& title : titles_) widths.push_back(characters(title));
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      widths[i] = std::max(widths[i], characters(row[i].text));
    }
  }
  std::string text;
  const auto add_row = [&](const std::vector<Cell>& row) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      text += styled(row[i].style, row[i].text);
      if (i + 1 < row.size()) text.append(widths[i] - characters(row[i].text) + 2, ' ');
    }
    text += '\n';
  };
  std::vector<Cell> head;
  head.reserve(titles_.size());
  for (const std::string& title : titles_) head.push_back({title, Style::kBold});
  add_row(head);
  for (const auto& row : rows_) add_row(row);
  return text;
}

std::string short_duration(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::max(0.0, seconds));
  const std::int64_t days = whole / 86400, hours = whole / 3600 % 24, minutes = whole / 60 % 60;
  if (days > 0) return fmt::format("{}d {}h", days, hours);
  if (hours > 0) return fmt::format("{}h {}m", hours, minutes);
  if (minutes > 0) return fmt::format("{}m {}s", minutes, whole % 60);
  return fmt::format("{}s", whole);
}

}  // namespace defib::cli
