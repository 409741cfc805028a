// What a bundle picks out of lines of output. Thread rule: pure functions; the picker like a value.

#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

namespace defib::postmortem {

enum class LineSeverity : std::uint8_t { kOther, kWarning, kError };

// By the level that the line names ("ERROR", "level=warn", "E0105 12:00:01" of glog, "panic:",
// "Traceback"), the weightiest one. Words count only as words: "terror" is none.
LineSeverity severity_of_line(std::string_view line);

// The last errors and warnings of many lines, in bounded memory.
class ImportantLines {
 public:
  static constexpr std::size_t kErrors = 20;
  static constexpr std::size_t kWarnings = 50;
  static constexpr std::size_t kMaxLine = 4096;
  void add(std::int64_t wall_ns, std::string_view stream, std::string_view line);
  bool empty() const { return errors_.empty() && warnings_.empty(); }
  std::string to_text() const;

 private:
  struct Line {
    std::int64_t wall_ns;
    std::string text;
  };
  std::deque<Line> errors_, warnings_;
};

}  // namespace defib::postmortem
