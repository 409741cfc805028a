#include "defib/base/visible_text.h"

#include <algorithm>
#include <cstdint>

namespace defib {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// The length of a UTF-8 character at the beginning, and its number; 0 where there is none.
std::size_t utf8_length(std::string_view text, std::uint32_t& number) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  number = first;
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xc2 && first <= 0xdf   ? 2
                             : (first & 0xf0) == 0xe0         ? 3
                             : first >= 0xf0 && first <= 0xf4 ? 4
                                                              : 0;
  if (length == 0 || length > text.size()) return 0;
  number = first & (0xffU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    number = number << 6 | (byte(i) & 0x3fU);
  }
  constexpr std::uint32_t kFirstOfLength[] = {0, 0, 0x80, 0x800, 0x10000};
  if (number < kFirstOfLength[length] || number > 0x10ffff) return 0;
  return number >= 0xd800 && number <= 0xdfff ? 0 : length;
}

bool is_visible(std::uint32_t number) {
  if (number == '\n' || number == '\t') return true;
  if (number < 0x20 || (number >= 0x7f && number < 0xa0)) return false;
  // Marks and overrides of direction; line and paragraph separators; not characters.
  if (number == 0x061c || (number >= 0x200e && number <= 0x200f)) return false;
  if (number >= 0x2028 && number <= 0x202e) return false;
  if (number >= 0x2066 && number <= 0x2069) return false;
  return number != 0xfeff && (number & 0xfffe) != 0xfffe;
}

}  // namespace

std::string visible_text(std::string_view text) {
  std::string visible;
  visible.reserve(text.size());
  while (!text.empty()) {
    std::uint32_t number = 0;
    const std::size_t length = utf8_length(text, number);
    visible += length > 0 && is_visible(number) ? text.substr(0, length) : kReplacement;
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  return visible;
}

}  // namespace defib
