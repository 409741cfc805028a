// FailureNote: that a write or sync of this store failed, where the next opening finds it although
// nothing can be written to the device any more.
//
// What a failed sync should have made durable stays in the page cache, marked as clean, and no
// later sync brings it to the device or says so. `.recovery_needed` tells the next opening not to
// believe it, unless writing that file fails as well. So the failure is noted first of all in
// memory that outlives the process and ends with the machine's run (VolatilePage), which is as long
// as the page cache does. It stays until a recovery that read everything from the device has ended.
//
// The word is a check over the store's uuid and the machine's run; anything else means nothing.
// What it cannot tell: a process that is killed between the device's answer and the store into
// memory, and memory that ends before the page cache does (a container's own /dev/shm).
//
// Thread rule: any thread.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "defib/os/files.h"

namespace defib::store {

inline constexpr std::size_t kFailureWord = 1;  // of the page that ack_page_name() names

std::uint64_t encode_failure(std::string_view uuid, std::string_view boot_id);

// For who may have to note one: has the page ready, so that noting needs no call that could fail.
class FailureNote {
 public:
  FailureNote(os::Files& files, std::string_view uuid, std::string_view boot_id);
  void note() const;
  void clear() const;

 private:
  std::unique_ptr<os::VolatilePage> page_;  // null: there is no such memory
  std::uint64_t word_;
};

// Makes no page, for whoever only looks.
bool failure_is_noted(os::Files& files, std::string_view uuid, std::string_view boot_id);

}  // namespace defib::store
