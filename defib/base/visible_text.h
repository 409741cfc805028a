// Text of a foreign program as it may be shown to a person. Thread rule: pure.

#pragma once

#include <string>
#include <string_view>

namespace defib {

// Valid UTF-8 without control characters other than line feed and tab, and without those that
// change the direction of writing: each becomes U+FFFD. So no name and no line steers a terminal,
// or shows something else than it is.
std::string visible_text(std::string_view text);

}  // namespace defib
