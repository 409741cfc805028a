// What the commands print: errors in the form of docs/cli.md, JSON documents, and aligned tables.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/wire/json.h"

namespace defib::cli {

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;
inline constexpr int kRefused = 3;
inline constexpr int kInterrupted = 4;

// 2 for what the user wrote wrongly, 3 for what was refused, 4 for what was interrupted, else 1.
int exit_code_of(const Error& error);
// On stderr as text, or on stdout as {"schema":"defib.error/1","error":{...}}; returns the exit
// code.
int print_error(const Error& error, bool json);
void print_json(const wire::Json& document, int indent = 2);
// Writes all of it to stdout; a reader that went away is no failure of ours.
void print(std::string_view text);

// "\x1b[..m", or nothing where stdout is no terminal or NO_COLOR is set.
enum class Style { kPlain, kBold, kDim, kGood, kWarning, kBad };
std::string styled(Style style, std::string_view text);
// How a state or an outcome is shown.
Style style_of(std::string_view word);

// Left-aligned columns, two spaces apart. Widths count characters, not escape sequences.
class Table {
 public:
  struct Cell {
    std::string text;
    Style style = Style::kPlain;
  };
  explicit Table(std::vector<std::string> titles) : titles_(std::move(titles)) {}
  void add(std::vector<Cell> cells) { rows_.push_back(std::move(cells)); }
  std::string to_text() const;

 private:
  std::vector<std::string> titles_;
  std::vector<std::vector<Cell>> rows_;
};

// "3d 4h", "2m 5s", "12 s": two parts at most.
std::string short_duration(double seconds);

}  // namespace defib::cli
