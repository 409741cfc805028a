#include "defib/postmortem/bundle_retention.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>

#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/postmortem/bundle_writer.h"

namespace defib::postmortem {
namespace {

// "20261120T130558Z-1a2b3c": only such names are ours.
bool is_incident_id(std::string_view id) {
  constexpr std::string_view kForm = "00000000T000000Z-xxxxxx";
  if (id.size() != kForm.size()) return false;
  for (std::size_t i = 0; i < id.size(); ++i) {
    const auto c = static_cast<unsigned char>(id[i]);
    const bool fits = kForm[i] == '0'   ? std::isdigit(c) != 0
                      : kForm[i] == 'x' ? std::isxdigit(c) != 0
                                        : id[i] == kForm[i];
    if (!fits) return false;
  }
  return true;
}

std::int64_t time_of(std::string_view id) {
  const auto part = [&](std::size_t at, std::size_t size) { return id.substr(at, size); };
  return os::parse_time(fmt::format("{}-{}-{}T{}:{}:{}Z", part(0, 4), part(4, 2), part(6, 2),
                                    part(9, 2), part(11, 2), part(13, 2)));
}

// The regular files of a bundle: of its failures' directories, which hold no directories.
std::vector<std::string> files_of(const std::string& bundle,
                                  std::vector<std::string>& directories) {
  std::vector<std::string> found;
  directories = {bundle};
  for (std::size_t i = 0; i < directories.size(); ++i) {
    const std::string directory = directories[i];
    const auto names = os::real_files().list(directory);
    if (!names) continue;
    for (const std::string& name : *names) {
      std::string path = os::join_path(directory, name);
      struct stat info;
      if (::lstat(path.c_str(), &info) != 0) continue;
      if (S_ISDIR(info.st_mode) && i == 0) {
        directories.push_back(std::move(path));
      } else {
        found.push_back(std::move(path));
      }
    }
  }
  return found;
}

struct Bundle {
  std::string id;
  std::uint64_t bytes = 0;
};

// The manifests first: what is left of a removal that was cut short is then known as a remainder.
void remove_bundle(const std::string& path) {
  std::vector<std::string> directories;
  std::vector<std::string> files = files_of(path, directories);
  std::ranges::partition(files, [](const std::string& f) { return f.ends_with(kManifest); });
  for (const std::string& file : files) ::unlink(file.c_str());
  for (auto directory = directories.rbegin(); directory != directories.rend(); ++directory) {
    ::rmdir(directory->c_str());
  }
}

}  // namespace

Result<std::vector<std::string>> apply_retention(const std::string& directory,
                                                 const BundleRules& rules, std::string_view kept,
                                                 std::int64_t now_wall_ns) {
  std::vector<std::string> removed;
  const os::Fd lock(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!lock.valid()) return os::system_error("open", directory);
  // One at a time; another one does the same.
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) return removed;
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, os::real_files().list(directory));
  std::vector<Bundle> bundles;
  std::uint64_t total = 0;
  for (const std::string& name : names) {  // ascending: the oldest first
    if (!name.ends_with(kBundleSuffix)) continue;
    const std::string id = name.substr(0, name.size() - kBundleSuffix.size());
    if (!is_incident_id(id)) continue;
    Bundle bundle{id, 0};
    std::vector<std::string> directories;
    for (const std::string& file : files_of(os::join_path(directory, name), directories)) {
      struct stat info;
      if (::lstat(file.c_str(), &info) == 0)
        bundle.bytes += static_cast<std::uint64_t>(info.st_size);
    }
    total += bundle.bytes;
    bundles.push_back(std::move(bundle));
  }
  std::uint64_t count = bundles.size();
  for (const Bundle& bundle : bundles) {
    const bool old = now_wall_ns - time_of(bundle.id) > rules.max_age.count();
    if (!old && count <= rules.max_count && total <= rules.max_total_bytes) continue;
    if (bundle.id == kept) continue;
    remove_bundle(os::join_path(directory, bundle.id + std::string(kBundleSuffix)));
    --count;
    total -= bundle.bytes;
    removed.push_back(bundle.id);
  }
  return removed;
}

}  // namespace defib::postmortem
