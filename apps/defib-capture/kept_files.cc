#include "apps/defib-capture/kept_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "defib/os/files.h"

namespace defib {

void keep_newest(const std::string& directory, std::string_view prefix, std::string_view suffix,
                 std::size_t count) {
  const auto names = os::real_files().list(directory);
  if (!names) return;
  std::vector<std::pair<std::int64_t, std::string>> files;
  for (const std::string& name : *names) {
    const std::string path = os::join_path(directory, name);
    struct stat status;
    if (!name.starts_with(prefix) || !name.ends_with(suffix) ||
        ::lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) {
      continue;
    }
    files.emplace_back(std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec,
                       path);
  }
  std::ranges::sort(files);
  for (std::size_t i = 0; i + count < files.size(); ++i) ::unlink(files[i].second.c_str());
}

}  // namespace defib
