// Text in lines of a terminal's width. Thread rule: pure functions.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace defib::report {

// Of UTF-8: what a terminal shows in a column each.
std::size_t characters(std::string_view utf8);

struct Wrapping {
  std::string first;  // before the first line
  std::string next;   // before the others
  std::size_t columns;
};
// Appends the words, which blanks divide. A word that is longer than a line has one of its own.
void append_wrapped(std::string& text, std::string_view words, const Wrapping& wrapping);

}  // namespace defib::report
