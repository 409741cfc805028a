#include "defib/postmortem/frame_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "defib/base/text.h"

namespace defib::postmortem {

bool is_system_library(std::string_view path) {
  constexpr std::string_view kPlaces[] = {"/lib/", "/lib64/", "/usr/lib/", "/usr/lib64/", "[vdso]"};
  return std::ranges::any_of(kPlaces, [&](auto place) { return path.starts_with(place); });
}

std::string place_of(const Frame& frame) {
  std::string text = !frame.function.empty() ? frame.function
                     : frame.module.empty()
                         ? fmt::format("{:#x}", frame.pc)
                         : fmt::format("{}+{:#x}", base_name(frame.module), frame.offset);
  if (!frame.file.empty()) text += fmt::format(" at {}:{}", base_name(frame.file), frame.line);
  return text;
}

bool is_own(const Frame& frame) {
  // The standard library's templates are compiled into the program, and are not its code.
  const bool header = frame.file.starts_with("/usr/include/") ||
                      frame.file.starts_with("/usr/lib/") ||
                      frame.file.find("/include/c++/") != std::string::npos ||
                      frame.file.starts_with("/usr/share/go") || frame.file.starts_with("/rustc/");
  return !frame.module.empty() && !is_system_library(frame.module) && !header;
}

std::string where_of(const ThreadStack& stack) {
  const auto own = std::ranges::find_if(stack.frames, is_own);
  if (own != stack.frames.end()) return place_of(*own);
  const auto frame = std::ranges::find_if(stack.frames, [](const Frame& one) {
    return !one.module.empty() && !is_system_library(one.module);
  });
  return frame == stack.frames.end() ? std::string() : place_of(*frame);
}

}  // namespace defib::postmortem
