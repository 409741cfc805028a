#include "defib/postmortem/source_lines.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>

#include "defib/base/text.h"
#include "defib/os/fd.h"

namespace defib::postmortem {
namespace {

constexpr off_t kMaxSource = 8 << 20;
constexpr std::size_t kMaxColumns = 200;

}  // namespace

std::optional<SourceView> read_source(const std::string& file, int line, const std::string& module,
                                      const std::string& sysroot) {
  if (line <= 0) return std::nullopt;
  // Not one that blocks (a pipe), nor one that becomes our terminal.
  const os::Fd fd(::open((sysroot + file).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status, of_module;
  if (!fd.valid() || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_size > kMaxSource) {
    return std::nullopt;
  }
  std::string text(static_cast<std::size_t>(status.st_size), '\0');
  const ssize_t got = ::pread(fd.get(), text.data(), text.size(), 0);
  text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  SourceView view;
  view.file = file;
  view.line = line;
  view.newer = ::stat((sysroot + module).c_str(), &of_module) == 0 &&
               status.st_mtim.tv_sec > of_module.st_mtim.tv_sec;
  std::string_view rest = text;
  for (int number = 1; !rest.empty() && number <= line + kSourceContext; ++number) {
    const std::string_view one = next_line(rest);
    if (number < line - kSourceContext) continue;
    view.lines.push_back({number, std::string(one.substr(0, kMaxColumns))});
  }
  // The file is shorter than the place: it is another one.
  if (view.lines.empty() || view.lines.back().number < line) return std::nullopt;
  return view;
}

}  // namespace defib::postmortem
