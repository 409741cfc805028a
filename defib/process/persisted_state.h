// PersistedState: a small document that a service keeps over its own restarts: what it was doing,
// what it must not forget. Replaced atomically and synced by save(), mode 0600, checksummed
// (docs/formats/service_state.md).
//
// Thread rule: one thread at a time.

#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/wire/json.h"

namespace defib::process {

// Longest file that is read; a longer one is damaged.
inline constexpr std::size_t kMaxStateFile = 4 << 20;
// So many damaged files are kept beside the state; then the oldest goes.
inline constexpr int kMaxDamagedFiles = 8;

class PersistedState {
 public:
  // The directory of the file must exist. Corrupted where the file fails its checksum; nothing is
  // changed then.
  static Result<PersistedState> open(os::Files& files, std::string path);

  // The same for a service that must start: what cannot be read is set aside as PATH.damaged-N and
  // told in `damage`, and the state begins empty.
  struct Opened;
  static Opened open_or_set_aside(os::Files& files, std::string path);

  // What a file holds. Corrupted names what is wrong with it.
  struct Content {
    wire::Json value;
    bool stopped_cleanly = false;
    std::int64_t saved_wall_ns = -1;  // -1: not told
  };
  static Result<Content> parse(std::string_view text);
  static std::string format(const Content& content, int pid);

  // What the last save() stored, of this or an earlier process; null before the first.
  const wire::Json& value() const { return content_.value; }
  // Whether the process that saved last said that it stopped on purpose.
  bool stopped_cleanly() const { return content_.stopped_cleanly; }
  // When that was, or -1.
  std::int64_t saved_wall_ns() const { return content_.saved_wall_ns; }
  const std::string& path() const { return path_; }

  // After a failure the file holds what it held before, or (where only the last sync failed) the
  // new value; never a mixture.
  Result<> save(wire::Json value, const os::Clock& clock = os::real_clock());
  // The last save() of a graceful shutdown.
  Result<> save_stopped(wire::Json value, const os::Clock& clock = os::real_clock());

 private:
  PersistedState(os::Files& files, std::string path) : files_(&files), path_(std::move(path)) {}
  Result<> write(wire::Json value, bool stopped, const os::Clock& clock);

  os::Files* files_;
  std::string path_;
  Content content_;
};

struct PersistedState::Opened {
  PersistedState state;
  // Empty: the file was whole, or there was none. Else why it was not read; the field "set_aside"
  // names where it lies now, or is missing where it could not be moved.
  Result<> damage;
};

}  // namespace defib::process
