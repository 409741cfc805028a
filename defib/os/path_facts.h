// What the kernel says of a path, for messages that tell a person what to do about it.
//
// Nothing here decides anything: between the answer and its use the path may change.
//
// Thread rule: functions; any thread.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace defib::os {

// The user id that owns what stands at `path`; none where nobody can tell.
std::optional<std::uint32_t> path_owner(const std::string& path);
// The user id that this process's rights are judged by.
std::uint32_t effective_user();
// Where the file system that holds `path` is mounted; of a path that does not exist, its nearest
// parent that does. Empty where nobody can tell.
std::string mount_point(const std::string& path);

}  // namespace defib::os
