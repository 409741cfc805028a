#include "defib/os/cgroup.h"

#include <algorithm>
#include <charconv>

#include "defib/base/text.h"

namespace defib::os {
namespace {

// mountinfo writes blanks, tabs, newlines and backslashes as three octal digits.
std::string unescape(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    int value = 0;
    if (text[i] == '\\' && i + 3 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 4, value, 8).ec == std::errc{}) {
      result += static_cast<char>(value);
      i += 3;
    } else {
      result += text[i];
    }
  }
  return result;
}

}  // namespace

std::vector<CgroupMount> parse_cgroup_mounts(std::string_view mountinfo) {
  std::vector<CgroupMount> mounts;
  for (const std::string_view line : split(mountinfo, '\n')) {
    // "31 30 0:27 ROOT POINT rw - cgroup SOURCE rw,memory", with optional fields before the dash.
    const std::vector<std::string_view> fields = split(line, ' ');
    const auto dash = std::ranges::find(fields, "-");
    if (fields.size() < 6 || fields.end() - dash < 4) continue;
    const std::string_view type = dash[1];
    if (type != "cgroup" && type != "cgroup2") continue;
    CgroupMount mount;
    mount.root = unescape(fields[3]);
    mount.point = unescape(fields[4]);
    mount.version2 = type == "cgroup2";
    for (const std::string_view option : split(dash[3], ',')) {
      if (!mount.version2) mount.controllers.emplace_back(option);
    }
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

const CgroupMount* find_cgroup_mount(const std::vector<CgroupMount>& mounts,
                                     std::string_view controller) {
  const auto found = std::ranges::find_if(mounts, [&](const CgroupMount& mount) {
    return controller.empty() ? mount.version2
                              : std::ranges::count(mount.controllers, controller) > 0;
  });
  return found != mounts.end() ? &*found : nullptr;
}

std::optional<std::string_view> cgroup_path(std::string_view cgroups, std::string_view controller) {
  for (const std::string_view line : split(cgroups, '\n')) {
    // "4:cpu,memory:/path"; version 2 has "0::/path".
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view names = line.substr(first + 1, second - first - 1);
    const bool wanted =
        controller.empty() ? names.empty() : std::ranges::count(split(names, ','), controller) > 0;
    if (wanted) return line.substr(second + 1);
  }
  return std::nullopt;
}

}  // namespace defib::os
