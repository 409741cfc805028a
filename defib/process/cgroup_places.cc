#include "defib/process/cgroup_places.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "defib/base/text.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"

namespace defib::process {
namespace {

constexpr std::string_view kOwnName = "defib";
constexpr std::string_view kSupervisorName = "defib-supervisor";
constexpr std::size_t kMaxText = 1 << 20;

std::string read_text(const std::string& path) {
  auto text = os::read_file(os::real_files(), path, kMaxText);
  return text ? std::move(*text) : std::string();
}

bool has_word(std::string_view text, std::string_view word) {
  while (text.ends_with('\n')) text.remove_suffix(1);
  return std::ranges::count(split(text, ' '), word) > 0;
}

// 0 or errno.
int write_text(const std::string& path, std::string_view text) {
  const os::Fd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return errno;
  return ::write(fd.get(), text.data(), text.size()) < 0 ? errno : 0;
}

Error missing_error(std::string_view what, Error cause) {
  return Error(Code::kPermissionDenied, fmt::format("there is no {}", what))
      .because(std::move(cause))
      .suggest(
          "run defib as root, or give it a group of its own: `systemd-run --user --scope -p "
          "Delegate=yes defib ...`, or Delegate=yes in its unit");
}

}  // namespace

std::string own_cgroup_dir(const os::CgroupMount& mount, std::string_view own_cgroups) {
  std::optional<std::string_view> found =
      mount.version2 ? os::cgroup_path(own_cgroups, "") : std::nullopt;
  for (const std::string& controller : mount.controllers) {
    if (!found) found = os::cgroup_path(own_cgroups, controller);
  }
  if (!found) return {};
  std::string_view path = *found;
  // A part of the hierarchy may be mounted, as in containers.
  if (mount.root != "/") {
    if (!path.starts_with(mount.root)) return {};
    path.remove_prefix(mount.root.size());
  }
  if (path.find("/..") != std::string_view::npos) return {};  // outside of the namespace
  while (path.starts_with('/')) path.remove_prefix(1);
  std::string own = path.empty() ? mount.point : os::join_path(mount.point, std::string(path));
  const std::string below = fmt::format("/{}", kSupervisorName);
  if (own.ends_with(below)) own.resize(own.size() - below.size());
  return own;
}

const Cgroups& CgroupPlaces::find(bool memory, bool pids) {
  if (!looked_) look();
  if ((memory || pids) && !enabled_) enable_controllers();
  return cgroups_;
}

// Makes the directory `defib` in a group of ours.
std::string CgroupPlaces::prepare(const std::string& own, std::optional<Error>* missing) {
  std::string path = os::join_path(own, kOwnName);
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
    *missing = os::system_error("mkdir", path);
    return {};
  }
  if (::access(path.c_str(), W_OK) != 0 ||
      ::access(os::join_path(path, "cgroup.procs").c_str(), W_OK) != 0) {
    *missing = os::system_error("access", path);
    return {};
  }
  return path;
}

void CgroupPlaces::look() {
  looked_ = true;
  const std::string own = read_text(os::join_path(proc_, "cgroup"));
  const Error nowhere(Code::kFileNotFound, "no such hierarchy of control groups is mounted here");
  std::optional<Error> tree = nowhere;
  std::optional<Error> pids = nowhere;
  for (const os::CgroupMount& mount :
       os::parse_cgroup_mounts(read_text(os::join_path(proc_, "mountinfo")))) {
    const std::string dir = own_cgroup_dir(mount, own);
    const auto has = [&](std::string_view name) {
      return std::ranges::count(mount.controllers, name) > 0;
    };
    if (dir.empty()) continue;
    if (mount.version2 && cgroups_.tree_dir.empty()) {
      tree.reset();
      cgroups_.tree_dir = prepare(dir, &tree);
      own_tree_ = cgroups_.tree_dir.empty() ? "" : dir;
    } else if (has("memory")) {
      own_memory_ = dir;
    } else if (has("pids")) {
      own_pids_ = dir;
    } else if (has("freezer") && cgroups_.freezer_dir.empty()) {
      std::optional<Error> ignored;
      cgroups_.freezer_dir = prepare(dir, &ignored);
    }
  }
  if (cgroups_.tree_dir.empty() && !own_pids_.empty()) {
    pids.reset();
    cgroups_.pids_dir = prepare(own_pids_, &pids);
  }
  const bool any =
      !cgroups_.tree_dir.empty() || !cgroups_.pids_dir.empty() || !cgroups_.freezer_dir.empty();
  if (!any) {
    cgroups_.tree_missing = missing_error("place for control groups", tree   ? *tree
                                                                      : pids ? *pids
                                                                             : nowhere);
  }
}

// For limits: in the tree where version 2 has the controllers, else in version 1's hierarchies.
void CgroupPlaces::enable_controllers() {
  enabled_ = true;
  const Error nowhere(Code::kFileNotFound, "no hierarchy with this controller is mounted here");
  std::optional<Error> tree_failed;
  const auto in_tree = [&](std::string_view controller) {
    if (own_tree_.empty()) return false;
    if (!has_word(read_text(os::join_path(own_tree_, "cgroup.controllers")), controller)) {
      return false;
    }
    for (const std::string& group : {own_tree_, cgroups_.tree_dir}) {
      const std::string path = os::join_path(group, "cgroup.subtree_control");
      if (has_word(read_text(path), controller)) continue;
      int failed = write_text(path, fmt::format("+{}", controller));
      if (failed == EBUSY && group == own_tree_) {
        // A group with processes hands nothing down. Where we are alone in it, we go below.
        const std::string below = os::join_path(group, kSupervisorName);
        const std::string members = read_text(os::join_path(group, "cgroup.procs"));
        if (members == fmt::format("{}\n", ::getpid())) {
          if (::mkdir(below.c_str(), 0755) == 0 || errno == EEXIST) {
            write_text(os::join_path(below, "cgroup.procs"), "0");
            failed = write_text(path, fmt::format("+{}", controller));
          }
        }
      }
      if (failed != 0) {
        tree_failed = os::system_error("write", path, failed);
        return false;
      }
    }
    return true;
  };
  cgroups_.memory_in_tree = in_tree("memory");
  if (!cgroups_.memory_in_tree) {
    std::optional<Error> failed = tree_failed ? tree_failed : nowhere;
    if (!own_memory_.empty()) cgroups_.memory_dir = prepare(own_memory_, &failed);
    if (cgroups_.memory_dir.empty()) {
      cgroups_.memory_missing = missing_error("control group that limits memory", *failed);
    }
  }
  tree_failed.reset();
  cgroups_.pids_in_tree = in_tree("pids");
  if (!cgroups_.pids_in_tree && cgroups_.pids_dir.empty()) {
    std::optional<Error> failed = tree_failed ? tree_failed : nowhere;
    if (!own_pids_.empty()) cgroups_.pids_dir = prepare(own_pids_, &failed);
    if (cgroups_.pids_dir.empty()) {
      cgroups_.pids_missing = missing_error("control group that counts processes", *failed);
    }
  }
}

void CgroupPlaces::remove_groups(const std::string& prefix) const {
  for (const std::string* dir :
       {&cgroups_.tree_dir, &cgroups_.memory_dir, &cgroups_.pids_dir, &cgroups_.freezer_dir}) {
    if (dir->empty()) continue;
    const auto names = os::real_files().list(*dir);
    if (!names) continue;
    for (const std::string& name : *names) {
      if (name.starts_with(prefix)) ::rmdir(os::join_path(*dir, name).c_str());
    }
  }
}

void CgroupPlaces::remove_empty() const {
  // One that hands down controllers is not made anew by a shim alone.
  if (cgroups_.memory_in_tree || cgroups_.pids_in_tree) return;
  for (const std::string* dir :
       {&cgroups_.tree_dir, &cgroups_.memory_dir, &cgroups_.pids_dir, &cgroups_.freezer_dir}) {
    if (!dir->empty()) ::rmdir(dir->c_str());
  }
}

}  // namespace defib::process
