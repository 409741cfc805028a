#include "defib/process/state_dir.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "defib/process/guardian.h"

namespace defib::process {
namespace {

constexpr std::string_view kMarkName = "defib.state";

Error foreign(const std::string& path, std::string_view why) {
  return Error(Code::kStateDirectoryForeign, fmt::format("the state directory '{}' {}", path, why))
      .with("path", path);
}

Result<> check_mark(os::Files& files, const std::string& path) {
  const std::string mark = os::join_path(path, kMarkName);
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(files, mark, 4096));
  if (text == kStateMark) return {};
  if (text.starts_with("defib-state ")) {
    return foreign(path, "was written by another version of defib");
  }
  return foreign(path, "has a damaged mark (defib.state)");
}

}  // namespace

std::string default_state_dir(bool system_wide) {
  const auto variable = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
  };
  if (std::string own = variable("DEFIB_STATE_DIR"); !own.empty()) return own;
  if (system_wide && ::geteuid() == 0) return "/var/lib/defib";
  if (const std::string state = variable("XDG_STATE_HOME"); !state.empty()) {
    return os::join_path(state, "defib");
  }
  const std::string home = variable("HOME");
  return os::join_path(home.empty() ? "/" : home, ".local/state/defib");
}

Result<StateDir> StateDir::open(os::Files& files, const std::string& path) {
  // The path goes into the environment of services, which may have another working directory.
  std::error_code ignored;
  const std::filesystem::path full = std::filesystem::absolute(path, ignored);
  StateDir dir(files, full.lexically_normal().string());
  while (dir.path_.size() > 1 && dir.path_.ends_with('/')) dir.path_.pop_back();
  if (files.exists(dir.path_)) {
    if (!files.is_dir(dir.path_)) return foreign(dir.path_, "is not a directory");
    DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files.list(dir.path_));
    // The mark is written by rename, so one under its temporary name is a start that was cut.
    const bool empty = names.empty() || (names.size() == 1 && names[0] == "defib.state.tmp");
    if (!empty) {
      if (!files.exists(os::join_path(dir.path_, kMarkName))) {
        return foreign(dir.path_, fmt::format("holds '{}' and is not defib's", names[0]));
      }
      DEFIB_TRY(check_mark(files, dir.path_));
      DEFIB_TRY(files.create_dirs(os::join_path(dir.path_, "services")));
      return dir;
    }
  }
  if (const auto made = files.create_dirs(dir.path_); !made) {
    return Error(made.error().code(),
                 fmt::format("the state directory '{}' cannot be made", dir.path_))
        .with("path", dir.path_)
        .because(made.error())
        .suggest("choose another --state-dir, or make it as a user who may");
  }
  const std::string mark = os::join_path(dir.path_, kMarkName);
  if (const auto written = os::write_file_atomically(files, mark, kStateMark); !written) {
    // Another defib that began here in the same moment took the temporary name from under us.
    if (!files.exists(mark)) return written.error();
    DEFIB_TRY(check_mark(files, dir.path_));
  }
  DEFIB_TRY(files.create_dirs(os::join_path(dir.path_, "services")));
  return dir;
}

std::string StateDir::service_dir(std::string_view name) const {
  return fmt::format("{}/services/{}", path_, name);
}

Result<> StateDir::prepare_service(std::string_view name, std::string_view spec_json) const {
  const std::string dir = service_dir(name);
  for (const char* part : {shim::kLogDir, shim::kCaptureDir}) {
    const std::string path = os::join_path(dir, part);
    if (!files_->is_dir(path)) DEFIB_TRY(files_->create_dirs(path));
  }
  // A supervisor that takes a hundred services over finds a hundred specifications as they were.
  const std::string path = os::join_path(dir, "spec.json");
  if (files_->exists(path)) {
    if (const auto before = os::read_file(*files_, path); before && *before == spec_json) return {};
  }
  return os::write_file_atomically(*files_, path, spec_json);
}

Result<std::vector<std::string>> StateDir::services() const {
  DEFIB_TRY_ASSIGN(std::vector<std::string> names, files_->list(os::join_path(path_, "services")));
  std::erase_if(names, [&](const std::string& name) { return !files_->is_dir(service_dir(name)); });
  return names;
}

Result<std::unique_ptr<os::File>> StateDir::lock_service(std::string_view name) const {
  const std::string dir = service_dir(name);
  if (!files_->is_dir(dir)) DEFIB_TRY(files_->create_dirs(dir));
  auto file = take_lock(*files_, os::join_path(dir, "lock"));
  if (file || file.error().code() != Code::kDatabaseLocked) return file;
  const pid_t holder = service_holder(name);
  return Error(Code::kAlreadySupervised,
               fmt::format("the service '{}' is supervised already{}", name,
                           holder > 0 ? fmt::format(" by process {}", holder) : ""))
      .with("service", name)
      .with("holder", holder);
}

pid_t StateDir::service_holder(std::string_view name) const {
  return lock_holder(os::join_path(service_dir(name), "lock"));
}

std::optional<shim::StatusRecord> parse_status(std::string_view bytes, std::uint32_t* version) {
  std::optional<shim::StatusRecord> newest;
  std::uint64_t newest_whole = 0;
  for (std::size_t slot = 0; slot < 2; ++slot) {
    if (bytes.size() < (slot + 1) * shim::kStatusSlot) break;
    shim::StatusRecord record;
    std::memcpy(&record, bytes.data() + slot * shim::kStatusSlot, sizeof record);
    if (!shim::status_whole(record)) continue;
    if (version != nullptr && record.sequence >= newest_whole) *version = record.version;
    newest_whole = std::max(newest_whole, record.sequence);
    if (!shim::status_valid(record)) continue;
    if (!newest || record.sequence > newest->sequence) newest = record;
  }
  return newest;
}

Result<std::optional<shim::StatusRecord>> read_status(os::Files& files,
                                                      const std::string& service_dir) {
  const std::string path = os::join_path(service_dir, shim::kStatusName);
  if (!files.exists(path)) return std::optional<shim::StatusRecord>{};
  DEFIB_TRY_ASSIGN(const std::string bytes, os::read_file(files, path, 4096));
  std::uint32_t version = shim::kStatusVersion;
  auto record = parse_status(bytes, &version);
  if (version == shim::kStatusVersion) return record;
  return Error(Code::kStateDirectoryForeign,
               fmt::format("the service in '{}' belongs to another version of defib: its status "
                           "file has version {}, this one knows {}; neither was touched",
                           service_dir, version, shim::kStatusVersion))
      .with("path", path)
      .suggest("supervise it with the defib that started it, or stop it with that one first");
}

}  // namespace defib::process
