// The state directory: where everything of one defib instance lies (docs/formats/state_dir.md).
//
//   STATE/defib.state              "defib-state 1\n": the mark of a directory that is ours
//   STATE/services/NAME/lock       held by the supervisor of that name; its text is the pid
//   STATE/services/NAME/...        see shim_protocol.h for what the shim keeps there
//
// A directory that is neither ours nor empty is refused unchanged.
// Thread rule: one thread at a time.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/process/shim_protocol.h"

namespace defib::process {

inline constexpr std::string_view kStateMark = "defib-state 1\n";

// --state-dir's default: $DEFIB_STATE_DIR, else $XDG_STATE_HOME/defib, else ~/.local/state/defib;
// /var/lib/defib for root's daemon (`system_wide`).
std::string default_state_dir(bool system_wide);

class StateDir {
 public:
  // Makes the directory (0700) and its mark if there is nothing; StateDirectoryForeign if something
  // else is there.
  static Result<StateDir> open(os::Files& files, const std::string& path);

  const std::string& path() const { return path_; }
  std::string service_dir(std::string_view name) const;
  // Makes the service's directories and writes spec.json.
  Result<> prepare_service(std::string_view name, std::string_view spec_json) const;
  // The names of all services that ever ran here, sorted.
  Result<std::vector<std::string>> services() const;
  // Held until destroyed. AlreadySupervised names the holder's pid.
  Result<std::unique_ptr<os::File>> lock_service(std::string_view name) const;
  // Who holds that lock now, without taking it; 0: nobody.
  pid_t service_holder(std::string_view name) const;

 private:
  StateDir(os::Files& files, std::string path) : files_(&files), path_(std::move(path)) {}
  os::Files* files_;
  std::string path_;
};

// The newest valid record of a `status` file's bytes, or nothing. `version`, where wanted and where
// there is a whole record, becomes that of the newest one.
std::optional<shim::StatusRecord> parse_status(std::string_view bytes,
                                               std::uint32_t* version = nullptr);
// StateDirectoryForeign where another version wrote it.
Result<std::optional<shim::StatusRecord>> read_status(os::Files& files,
                                                      const std::string& service_dir);

}  // namespace defib::process
