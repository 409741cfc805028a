#include "defib/daemon/log_watch.h"

#include <fmt/core.h>
#include <re2/re2.h>

#include <algorithm>

namespace defib::daemon {
namespace {

constexpr std::int64_t kPatternMemory = 1 << 20;  // of a program and its cache of states
constexpr std::size_t kMaxPattern = 1000;         // characters
constexpr std::size_t kKeptPartial = 4096;        // capacity that a stream keeps between lines

// Bytes, not characters: output may hold anything, and a literal of UTF-8 is still found.
RE2::Options options() {
  RE2::Options options;
  options.set_encoding(RE2::Options::EncodingLatin1);
  options.set_posix_syntax(true);
  options.set_perl_classes(true);
  options.set_word_boundary(true);
  options.set_one_line(true);
  options.set_never_capture(true);
  options.set_log_errors(false);
  options.set_max_mem(kPatternMemory);
  return options;
}

Error bad_pattern(const std::string& pattern, std::string_view why) {
  return Error(Code::kInvalidArgument,
               fmt::format("'{}' is no regular expression: {}", pattern.substr(0, 200), why))
      .with("key", "log_pattern")
      .suggest("write a POSIX extended regular expression, as for `grep -E`");
}

}  // namespace

struct LogWatch::Compiled {
  explicit Compiled(LogPattern from)
      : pattern(std::move(from)), program(pattern.match, options()) {}
  LogPattern pattern;
  RE2 program;
  std::deque<std::int64_t> matched_at;  // the last ones, fewer than pattern.count
};

Result<std::unique_ptr<LogWatch>> LogWatch::create(const os::Clock& clock,
                                                   std::vector<LogPattern> patterns,
                                                   OnMatch on_match) {
  std::unique_ptr<LogWatch> watch(new LogWatch(clock, std::move(on_match)));
  watch->saved_at_mono_ns_ = clock.mono_ns();
  for (LogPattern& pattern : patterns) {
    if (pattern.match.size() > kMaxPattern) {
      return bad_pattern(pattern.match, fmt::format("it is longer than {}", kMaxPattern));
    }
    auto compiled = std::make_unique<Compiled>(std::move(pattern));
    const std::string& text = compiled->pattern.match;
    if (!compiled->program.ok()) return bad_pattern(text, compiled->program.error());
    const int size = compiled->program.ProgramSize();
    if (size > kMaxProgram) {
      return bad_pattern(
          text, fmt::format("it is too large: {} steps where {} are allowed", size, kMaxProgram));
    }
    watch->patterns_.push_back(std::move(compiled));
  }
  return watch;
}

LogWatch::LogWatch(const os::Clock& clock, OnMatch on_match)
    : clock_(clock), on_match_(std::move(on_match)) {}

LogWatch::~LogWatch() = default;

// Whether the share of time is not used up.
bool LogWatch::may_match() {
  const std::int64_t now = clock_.mono_ns();
  const auto earned = static_cast<std::int64_t>(
      static_cast<double>(std::max<std::int64_t>(now - saved_at_mono_ns_, 0)) * kShareOfTime);
  saved_at_mono_ns_ = now;
  saved_ = std::min(saved_ + os::Duration(earned), kMostSaved);
  return saved_.count() > 0;
}

// A hole begins or goes on; it ends where the next line begins.
void LogWatch::skip(Stream& stream, std::string_view bytes) {
  skipped_ += bytes.size() + stream.partial.size();
  stream.partial.clear();
  stream.in_hole = !bytes.empty() && !bytes.ends_with('\n');
}

void LogWatch::push(int stream, std::string_view bytes, std::uint64_t feed_lost) {
  Stream& from = streams_[stream == 2 ? 1 : 0];
  if (feed_lost > feed_lost_) {
    feed_lost_ = feed_lost;
    // Nobody knows of which stream the bytes were.
    for (Stream& one : streams_) {
      skipped_ += one.partial.size();
      one.partial.clear();
      one.in_hole = true;
    }
  }
  if (!may_match()) return skip(from, bytes);
  const std::int64_t begun = clock_.mono_ns();
  while (!bytes.empty()) {
    const std::size_t end = bytes.find('\n');
    const std::string_view piece = bytes.substr(0, end);
    bytes.remove_prefix(end == std::string_view::npos ? bytes.size() : end + 1);
    const bool whole = end != std::string_view::npos;
    if (from.in_hole) {
      skipped_ += piece.size();
      from.in_hole = !whole;
      continue;
    }
    if (whole && from.partial.empty() && piece.size() <= kMaxLine) {
      take_line(stream, piece);
      continue;
    }
    const std::size_t room = kMaxLine - std::min(kMaxLine, from.partial.size());
    from.partial.append(piece.substr(0, room));
    skipped_ += piece.size() - std::min(piece.size(), room);
    if (!whole) continue;
    take_line(stream, from.partial);
    from.partial.clear();
    if (from.partial.capacity() > kKeptPartial) from.partial.shrink_to_fit();
  }
  saved_ -= os::Duration(clock_.mono_ns() - begun);
}

void LogWatch::flush() {
  for (int stream = 1; stream <= 2; ++stream) {
    Stream& from = streams_[stream - 1];
    from.in_hole = false;
    if (from.partial.empty()) continue;
    take_line(stream, std::exchange(from.partial, {}));
  }
}

void LogWatch::take_line(int stream, std::string_view line) {
  for (const auto& compiled : patterns_) {
    const LogPattern& pattern = compiled->pattern;
    if (!(stream == 2 ? pattern.on_stderr : pattern.on_stdout)) continue;
    if (!RE2::PartialMatch(re2::StringPiece(line.data(), line.size()), compiled->program)) continue;
    const std::int64_t now = clock_.mono_ns();
    std::deque<std::int64_t>& times = compiled->matched_at;
    while (!times.empty() && now - times.front() > pattern.window.count()) times.pop_front();
    times.push_back(now);
    if (static_cast<int>(times.size()) < pattern.count) continue;
    LogMatch match{pattern, stream, std::string(line.substr(0, kShownLine)),
                   static_cast<int>(times.size()), os::Duration(now - times.front())};
    times.clear();
    on_match_(match);
  }
}

}  // namespace defib::daemon
