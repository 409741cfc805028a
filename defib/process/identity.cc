#include "defib/process/identity.h"

#include <fmt/core.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "defib/process/launch_format.h"

namespace defib::process {
namespace {

constexpr std::size_t kMaxEntry = 1 << 20;

std::optional<unsigned> as_number(const std::string& text) {
  unsigned number = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed != std::errc{} || end != text.data() + text.size() || number == ~0u) {
    return std::nullopt;
  }
  return number;
}

Error unknown(std::string_view key, std::string_view kind, const std::string& name) {
  return Error(Code::kConfigBadValue,
               fmt::format("there is no {} '{}' on this machine", kind, name))
      .with("field", key)
      .suggest(fmt::format("make it, or correct {}; `getent {} {}` asks the same question", key,
                           kind == "user" ? "passwd" : "group", name));
}

// The database's functions want a buffer of a size that they do not tell.
template <typename Entry, typename Ask>
const Entry* ask(std::string* buffer, Entry* entry, Ask question) {
  Entry* found = nullptr;
  for (buffer->resize(1024); buffer->size() <= kMaxEntry; buffer->resize(buffer->size() * 4)) {
    if (question(entry, buffer->data(), buffer->size(), &found) != ERANGE) break;
  }
  return found;
}

struct User {
  uid_t uid = 0;
  gid_t gid = 0;
  bool has_entry = false;
  std::string name, home, shell;
};

Result<User> find_user(const std::string& name) {
  std::string buffer;
  passwd entry{};
  const std::optional<unsigned> number = as_number(name);
  const passwd* found =
      ask(&buffer, &entry, [&](passwd* to, char* room, std::size_t size, passwd** result) {
        return number ? ::getpwuid_r(*number, to, room, size, result)
                      : ::getpwnam_r(name.c_str(), to, room, size, result);
      });
  if (found == nullptr) {
    if (!number) return unknown("user", "user", name);
    return User{*number, *number, false, {}, {}, {}};  // A number needs no entry.
  }
  return User{found->pw_uid, found->pw_gid, true, found->pw_name, found->pw_dir, found->pw_shell};
}

Result<gid_t> find_group(std::string_view key, const std::string& name) {
  if (const auto number = as_number(name)) return gid_t{*number};
  std::string buffer;
  group entry{};
  const group* found =
      ask(&buffer, &entry, [&](group* to, char* room, std::size_t size, group** result) {
        return ::getgrnam_r(name.c_str(), to, room, size, result);
      });
  if (found == nullptr) return unknown(key, "group", name);
  return found->gr_gid;
}

std::vector<gid_t> groups_of(const User& user, gid_t gid) {
  if (!user.has_entry) return {};
  std::vector<gid_t> groups(shim::kMaxGroups);
  int count = static_cast<int>(groups.size());
  // Where there are more than fit, those that fit.
  ::getgrouplist(user.name.c_str(), gid, groups.data(), &count);
  groups.resize(static_cast<std::size_t>(std::clamp(count, 0, static_cast<int>(shim::kMaxGroups))));
  return groups;
}

}  // namespace

Result<std::optional<Identity>> resolve_identity(const ServiceSpec& spec) {
  if (spec.user.empty() && spec.group.empty() && !spec.supplementary_groups) {
    return std::optional<Identity>{};
  }
  User user{::geteuid(), ::getegid(), false, {}, {}, {}};
  if (!spec.user.empty()) {
    DEFIB_TRY_ASSIGN(user, find_user(spec.user));
  }
  Identity identity;
  identity.uid = user.uid;
  identity.gid = user.gid;
  if (!spec.group.empty()) {
    DEFIB_TRY_ASSIGN(identity.gid, find_group("group", spec.group));
  }
  if (spec.supplementary_groups) {
    for (const std::string& name : *spec.supplementary_groups) {
      DEFIB_TRY_ASSIGN(const gid_t one, find_group("supplementary_groups", name));
      identity.groups.push_back(one);
    }
  } else {
    identity.groups = groups_of(user, identity.gid);
  }
  if (user.has_entry) {
    identity.environment = {
        {"HOME", user.home}, {"LOGNAME", user.name}, {"SHELL", user.shell}, {"USER", user.name}};
  }
  if (::geteuid() != 0) {
    // Whoever is that user already needs no rights to be it.
    if (identity.uid == ::geteuid() && identity.gid == ::getegid() && !spec.supplementary_groups) {
      return std::optional<Identity>{};
    }
    return Error(Code::kPermissionDenied,
                 fmt::format("the service '{}' shall run as user {} and group {}, which only root "
                             "can arrange; this process is user {}",
                             spec.name, identity.uid, identity.gid, ::geteuid()))
        .with("field", spec.user.empty() ? "group" : "user")
        .suggest("run the daemon as root, or leave user and group out");
  }
  return std::optional<Identity>(std::move(identity));
}

}  // namespace defib::process
