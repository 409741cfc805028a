#include "defib/os/path_facts.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>

#include "defib/os/files.h"

namespace defib::os {
namespace {

constexpr int kMaxSteps = 4096;  // the longest path has fewer parts

// Absolute and without links; empty where there is no such path.
std::string resolved(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> text(::realpath(path.c_str(), nullptr), ::free);
  return text == nullptr ? std::string() : std::string(text.get());
}

bool is_mount_root(const std::string& path) {
  struct statx info{};
  if (::statx(AT_FDCWD, path.c_str(), AT_NO_AUTOMOUNT, STATX_TYPE, &info) != 0) return false;
  return (info.stx_attributes_mask & info.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
}

}  // namespace

std::optional<std::uint32_t> path_owner(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) return std::nullopt;
  return info.st_uid;
}

std::uint32_t effective_user() {
  return ::geteuid();
}

std::string mount_point(const std::string& path) {
  std::string at = path;
  std::string found = resolved(at);
  for (int i = 0; i < kMaxSteps && found.empty() && at != parent_dir(at); ++i) {
    at = parent_dir(at);
    found = resolved(at);
  }
  for (int i = 0; i < kMaxSteps && !found.empty() && found != "/"; ++i) {
    if (is_mount_root(found)) return found;
    found = parent_dir(found);
  }
  return found;
}

}  // namespace defib::os
