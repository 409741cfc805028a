// Files of which only the newest are kept.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace defib {

// Removes the oldest regular files of the directory whose names begin and end so, beyond `count`;
// others are left alone.
void keep_newest(const std::string& directory, std::string_view prefix, std::string_view suffix,
                 std::size_t count);

}  // namespace defib
