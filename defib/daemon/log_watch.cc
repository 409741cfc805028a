#include "defib/daemon/log_watch.h"

#include <fmt/core.h>

#include <algorithm>

namespace defib::daemon {

Result<std::unique_ptr<LogWatch>> LogWatch::create(const std::string& pattern, OnMatch on_match) {
  std::unique_ptr<LogWatch> watch(new LogWatch(std::move(on_match)));
  const int failed = regcomp(&watch->pattern_, pattern.c_str(), REG_EXTENDED | REG_NOSUB);
  if (failed == 0) return watch;
  char reason[256] = {};
  regerror(failed, &watch->pattern_, reason, sizeof reason);
  watch->pattern_ = {};
  return Error(Code::kInvalidArgument,
               fmt::format("'{}' is no regular expression: {}", pattern, reason))
      .with("key", "log_pattern")
      .suggest("write a POSIX extended regular expression, as for `grep -E`");
}

LogWatch::~LogWatch() {
  regfree(&pattern_);
}

void LogWatch::push(int stream, std::string_view bytes) {
  std::string& partial = partial_[stream == 2 ? 1 : 0];
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    const std::string_view piece = bytes.substr(0, end);
    partial.append(piece.substr(0, kMaxLine - std::min(kMaxLine, partial.size())));
    if (end == std::string_view::npos) return;
    bytes.remove_prefix(end + 1);
    std::string line = std::move(partial);
    partial.clear();
    // A zero byte would end the text for the matcher.
    std::replace(line.begin(), line.end(), '\0', ' ');
    if (regexec(&pattern_, line.c_str(), 0, nullptr, 0) == 0) on_match_(line);
  }
}

}  // namespace defib::daemon
