// Redactor: replaces secrets in what leaves a process's surroundings.
//
// A value is a secret where its name says so ("API_KEY=x", "password: x", {"token":"x"},
// "Authorization: Bearer x"), where it is the password of a URL, where it has the form of a known
// key, and wherever one stands that was learned from the environment or the command line.
// Rather one value too many than one too few; names stay, so that a reader sees what there was.
// Thread rule: like std::string.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/wire/json.h"

namespace defib::postmortem {

inline constexpr std::string_view kRedacted = "[redacted]";

// "DB_PASSWORD", "X-Api-Key", "--token".
bool names_a_secret(std::string_view name);

class Redactor {
 public:
  using Environment = std::vector<std::pair<std::string, std::string>>;
  // From now on its secrets are replaced wherever they stand. Values shorter than this are too
  // likely to be something else.
  static constexpr std::size_t kMinLearned = 6;
  static constexpr std::size_t kMaxLearned = 128;
  static constexpr std::size_t kMaxMarks = 512;
  static constexpr std::size_t kMaxMarked = 4096;  // the length of one
  void learn(const Environment& environment);
  void learn_arguments(const std::vector<std::string>& command_line);

  // Of what was learned, so that a later redactor finds it too: lengths and keyed 61-bit hashes,
  // from which nobody reads it back. They are no secret proof against guessing, so they stay with
  // the state directory's modes.
  wire::Json marks() const;
  // Beside those that are known.
  void learn_marks(const wire::Json& marks);

  std::string text(std::string_view text);
  // All texts in it; a member whose name says that it is a secret loses its value.
  wire::Json json(const wire::Json& value);
  std::vector<std::string> command_line(const std::vector<std::string>& arguments);
  // As text(), for a value whose name is known.
  std::string value(std::string_view name, std::string_view value);

  // Values replaced so far.
  std::uint64_t count() const { return count_; }

 private:
  wire::Json json(const wire::Json& value, int depth);
  void add(std::string_view secret);
  std::string replace_learned(std::string_view text);
  std::string replace_marked(std::string text);
  void scan(std::string_view text, std::string* to, bool learning);

  struct Mark {
    std::uint64_t key;
    std::size_t size;
    std::uint64_t hash;
  };
  std::vector<std::string> learned_;  // the longest first
  std::vector<Mark> marks_;
  std::uint64_t count_ = 0;
};

// "A=1\0B=2\0", as /proc/PID/environ has it.
Redactor::Environment parse_environment(std::string_view bytes);
std::vector<std::string> parse_arguments(std::string_view bytes);

}  // namespace defib::postmortem
