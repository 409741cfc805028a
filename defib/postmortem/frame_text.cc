#include "defib/postmortem/frame_text.h"

#include <fmt/format.h>

#include <algorithm>

namespace defib::postmortem {
namespace {

std::string_view base_name(std::string_view path) {
  return path.substr(path.rfind('/') + 1);  // npos + 1 is 0
}

}  // namespace

bool is_system_library(std::string_view path) {
  constexpr std::string_view kPlaces[] = {"/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/", "[vdso]"};
  return std::ranges::any_of(kPlaces, [&](auto place) { return path.starts_with(place); });
}

std::string place_of(const Frame& frame) {
  std::string text = frame.function.empty()
                         ? fmt::format("{}+{:#x}", base_name(frame.module), frame.offset)
                         : frame.function;
  if (!frame.file.empty()) text += fmt::format(" at {}:{}", base_name(frame.file), frame.line);
  return text;
}

std::string where_of(const ThreadStack& stack) {
  for (const Frame& frame : stack.frames) {
    if (!frame.module.empty() && !is_system_library(frame.module)) return place_of(frame);
  }
  return {};
}

}  // namespace defib::postmortem
