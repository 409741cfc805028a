// What a recovery takes of the machine, and whether there is that much: one reckoning for the
// stage that checks it and for the plan that only says it.
//
// Thread rule: functions; any thread.

#pragma once

#include <cstdint>
#include <string>

#include "defib/base/error.h"
#include "defib/os/files.h"

namespace defib::store {

// What is taken at most, and whether there is that much. 0 available: not known, or no limit.
struct Need {
  std::uint64_t required = 0;
  std::uint64_t available = 0;
};

struct ResourceNeeds {
  Need memory;         // bytes of the machine's
  Need address_space;  // bytes of the process's, where it is limited (`ulimit -v`)
  Need descriptors;
  Need disk;                                    // bytes
  std::uint64_t descriptor_limit_required = 0;  // for `ulimit -n`: with those that are open now
};

// What decides how much it is.
struct RecoverySize {
  std::uint64_t log_bytes = 0;
  std::uint64_t last_segment_bytes = 0;
  std::uint64_t segments = 0;
  std::uint64_t segment_size = 0;      // of a new one
  std::uint64_t threads_to_start = 0;  // of the store's own, where it has none yet
  bool is_needed = false;  // false: the store was closed cleanly, and nothing is written
};

ResourceNeeds resource_needs(os::Files& files, const std::string& dir, const RecoverySize& size);
// InsufficientResources for the first that falls short, with what to do about it.
Result<> check_resources(const ResourceNeeds& needs, const std::string& dir);
// The same for a disk that was found full, a file that could not be opened any more, or a mapping
// that was refused, on the way.
Error disk_is_full(os::Files& files, const std::string& dir, const ResourceNeeds& needs);
Error too_few_descriptors(const ResourceNeeds& needs, const std::string& dir);
Error memory_was_refused(const ResourceNeeds& needs, const std::string& dir);

}  // namespace defib::store
