#include "apps/defib-store/cures.h"

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "defib/os/files.h"
#include "defib/os/path_facts.h"

namespace defib::store_program {
namespace {

constexpr std::uint32_t kMaxNames = 1000;
constexpr os::Duration kUsualStageTimeout = std::chrono::minutes(10);
constexpr int kMoreTime = 10;  // times the limit that was too short

Command recover(const std::string& dir) {
  return {"defib", "store", "recover", dir};
}

// What was begun is begun again once there is room for it.
Command repeat(const Arguments& arguments) {
  if (arguments.verb == "migrate") return {"defib", "store", "migrate", arguments.dir};
  return recover(arguments.dir);
}

bool is_within(std::string_view path, const std::string& dir) {
  if (!path.starts_with(dir)) return false;
  return path.size() == dir.size() || dir.ends_with('/') || path[dir.size()] == '/';
}

// Rights that are missing are granted by who owns the files; by root where that is another user.
Cure cure_of_access(const Error& error, const Arguments& arguments) {
  const std::string path(error.field("path"));
  const bool is_read_only = error.root().field("errno") == std::to_string(EROFS) ||
                            error.field("required_permissions").ends_with("mounted for writing");
  if (is_read_only) {
    const std::string root = os::mount_point(path.empty() ? arguments.dir : path);
    if (root.empty()) return {};
    const Command command = {"mount", "-o", "remount,rw", root};
    return {{command},
            fmt::format("see in the kernel's log (`dmesg`) why it is read-only, run `{}` as root, "
                        "and repeat",
                        line_of(command))};
  }
  if (!is_within(path, arguments.dir)) return {};
  const std::uint32_t user = os::effective_user();
  auto owner = os::path_owner(path);
  if (!owner) owner = os::path_owner(arguments.dir);
  if (owner && *owner == user) {
    const Command command = {"chmod", "-R", "u+rwX", arguments.dir};
    return {{command},
            fmt::format("run `{}`, which lets the files' owner in, and repeat", line_of(command))};
  }
  const Command command = {"chown", "-R", std::to_string(user), arguments.dir};
  const std::string other = owner ? fmt::format("user {}", *owner) : "their owner";
  return {{command},
          fmt::format("the files belong to {}: run this command as that user, or run `{}` as root, "
                      "and repeat",
                      other, line_of(command))};
}

Cure cure_of_shortage(const Error& error, const Arguments& arguments) {
  Command command = repeat(arguments);
  const auto under_limit = [&](const std::string& option) {
    command.insert(command.begin(), {"prlimit", option});
  };
  const std::string_view resource = error.field("resource");
  if (!arguments.to.empty() && resource.starts_with("disk space in")) {
    const Command look = {"df", "-h", os::parent_dir(arguments.to)};
    return {{look},
            fmt::format("free that space (`{}` shows it), or name a directory on another disk, and "
                        "repeat",
                        line_of(look))};
  }
  if (resource == "file descriptors")
    under_limit(fmt::format("--nofile={}:", error.field("limit")));
  if (resource == "address space") under_limit("--as=unlimited:");
  return {{command}, {}};
}

Cure cure_of_full_disk(const Error& error, const Arguments& arguments) {
  const std::string path(error.root().field("path"));
  const std::string& target = arguments.to;
  const bool is_target = !target.empty() && is_within(path, target);
  const Command command = {"df", "-h", is_target ? os::parent_dir(target) : arguments.dir};
  return {{command},
          fmt::format("free space on that file system (`{}` shows it), and repeat; what was "
                      "committed is kept",
                      line_of(command))};
}

Cure cure_of_lock(const Error& error) {
  const std::string pid(error.field("pid"));
  if (pid.empty()) return {};
  const bool recovers =
      error.cause() != nullptr && error.cause()->code() == Code::kRecoveryProgress;
  if (recovers) return {{{"tail", "--pid=" + pid, "-f", "/dev/null"}}, {}};
  return {{{"kill", pid}}, {}};
}

// As the option is written: "10m", "90s".
std::string option_of(os::Duration duration) {
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(duration).count();
  return seconds % 60 == 0 ? fmt::format("{}m", seconds / 60) : fmt::format("{}s", seconds);
}

Cure cure_of_timeout(const Arguments& arguments) {
  const os::Duration more = std::max(arguments.stage_timeout * kMoreTime, kUsualStageTimeout);
  Command command = recover(arguments.dir);
  command.insert(command.end(), {"--timeout-per-stage", option_of(more)});
  return {{command},
          fmt::format("nothing was changed; run `{}`, which gives each stage more time",
                      line_of(command))};
}

Cure cure_of_no_store(const Error& error, const std::string& dir) {
  const std::string own_words = error.suggested_action();
  if (own_words.find("`ls -la ") != std::string::npos) return {{{"ls", "-la", dir}}, {}};
  if (own_words.find("`ls -ld ") != std::string::npos) return {{{"ls", "-ld", dir}}, {}};
  const Command command = {"defib", "store", "load", dir};
  return {{command},
          fmt::format("check the path, or run `{}` to make a store there", line_of(command))};
}

}  // namespace

std::string quoted(const std::string& word) {
  const bool is_plain = !word.empty() && std::ranges::all_of(word, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_./=+:,").contains(c);
  });
  if (is_plain) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string line_of(const Command& command) {
  std::string line;
  for (const std::string& word : command) line += (line.empty() ? "" : " ") + quoted(word);
  return line;
}

std::string new_directory(const std::string& dir) {
  std::string base = dir;
  while (base.size() > 1 && base.ends_with('/')) base.pop_back();
  std::string name = base + ".repaired";
  for (std::uint32_t i = 2; i < kMaxNames && os::real_files().exists(name); ++i) {
    name = fmt::format("{}.repaired-{}", base, i);
  }
  return name;
}

Cure cure_of(const Error& error, const Arguments& arguments) {
  const std::string& dir = arguments.dir;
  // A restore reads two stores; its errors say themselves which one is meant and what to do.
  if (dir.empty() || arguments.is_restore) return {};
  switch (error.code()) {
    case Code::kRecoveryImpossible:
    case Code::kWalCorrupted:
    case Code::kInconsistentState:
    case Code::kRecoveryDependencyError:
    case Code::kRecoveryVerificationFailed:
    case Code::kCorrupted:
      return {{{"defib", "store", "repair", dir, "--to", new_directory(dir)}}, {}};
    case Code::kRecoveryConfigurationError:
      if (error.field("setting") != "page_size") return {};
      return {{{"defib", "store", "repair", dir, "--to", new_directory(dir)}}, {}};
    case Code::kRecoveryNeeded:
    case Code::kPartialRecoveryFailure:
    case Code::kRecoveryRollbackFailed:
    case Code::kRecoveryStageDependencyFailed:
      return {{recover(dir)}, {}};
    case Code::kInsufficientResources:
      return cure_of_shortage(error, arguments);
    case Code::kNoSpace:
    case Code::kStoreFull:
      return cure_of_full_disk(error, arguments);
    case Code::kDatabaseLocked:
      return cure_of_lock(error);
    case Code::kRecoveryPermissionError:
    case Code::kPermissionDenied:
      return cure_of_access(error, arguments);
    case Code::kRecoveryTimeout:
      return cure_of_timeout(arguments);
    case Code::kNotAStore:
      return cure_of_no_store(error, dir);
    case Code::kStoreFormatUnsupported:
      if (error.suggested_action().find("migrate") == std::string::npos) return {};
      return {{{"defib", "store", "migrate", dir}}, {}};
    default:
      return {};
  }
}

}  // namespace defib::store_program
