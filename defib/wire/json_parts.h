// Parts of a large JSON document that one of our own programs has written: what is wanted of it is
// parsed, and the rest only passed over, which takes a twentieth of the time.
//
// What is passed over is not checked. A document that is cut or no JSON has no part, or some other
// one; reading never leaves the text and always ends.
// Thread rule: pure functions.

#pragma once

#include <string_view>
#include <vector>

#include "defib/wire/json.h"

namespace defib::wire {

// The text of a member of the object; empty: there is none of that name.
std::string_view json_member_text(std::string_view object, std::string_view key);
// The same, parsed; null where it is not there or is no JSON.
Json json_member(std::string_view object, std::string_view key);
// The texts of an array's items.
std::vector<std::string_view> json_items(std::string_view array);

}  // namespace defib::wire
