// What an operator does with a store's directory from outside: looking into its files, copying it
// while it works, and saving what is left of a damaged one. None of it writes to the store itself.
//
// Thread rule: functions; beside a live writer only inspect_store() and back_up().

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/store/store.h"
#include "defib/wire/json.h"

namespace defib::store {

// `part`: wal, checkpoint, pages or dwb; empty: all of them. An object with a member for each part.
Result<wire::Json> inspect_store(const std::string& dir, std::string_view part, Options options);

struct CopyReport {
  std::uint64_t records = 0;
  std::uint64_t commit = 0;         // number of the last commit that the copy holds
  std::vector<std::string> losses;  // of a repair: what could not be saved, in words
};

// A new store in `to` with the state of one commit of `dir`, which may be in use. `to` must not
// exist yet or be empty (AlreadyExists).
Result<CopyReport> back_up(const std::string& dir, const std::string& to, Options options);

// A new store in `to` with everything of `dir` that is readable: every record under a sound
// checksum of the checkpoint, and after it every whole transaction of the log. `dir` is not
// changed. DatabaseLocked while a process has it open.
Result<CopyReport> repair(const std::string& dir, const std::string& to, Options options);

}  // namespace defib::store
