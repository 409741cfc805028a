#include "defib/report/wrap.h"

#include <algorithm>

namespace defib::report {

std::size_t characters(std::string_view utf8) {
  return static_cast<std::size_t>(std::ranges::count_if(
      utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

void append_wrapped(std::string& text, std::string_view words, const Wrapping& wrapping) {
  std::string line = wrapping.first;
  bool empty = true;
  while (!words.empty()) {
    const std::size_t end = std::min(words.find(' '), words.size());
    const std::string_view word = words.substr(0, end);
    words.remove_prefix(std::min(end + 1, words.size()));
    if (!empty && characters(line) + 1 + characters(word) > wrapping.columns) {
      text += line + "\n";
      line = wrapping.next;
      empty = true;
    }
    if (!empty) line += ' ';
    line += word;
    empty = false;
  }
  text += line + "\n";
}

}  // namespace defib::report
