#include "defib/store/mapped_memory.h"

#include <algorithm>

#include "defib/base/assert.h"

namespace defib::store {

void MappedMemory::add(const User& user) {
  const std::lock_guard lock(mutex_);
  users_.push_back(&user);
}

void MappedMemory::remove(const User& user) {
  const std::lock_guard lock(mutex_);
  const auto at = std::ranges::find(users_, &user);
  DEFIB_ASSERT(at != users_.end());
  users_.erase(at);
}

void MappedMemory::grow(std::uint64_t bytes) {
  if (bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= limit_) return;
  const std::unique_lock lock(mutex_, std::try_to_lock);
  // Somebody else is at it; or has just done it.
  if (!lock.owns_lock() || this->bytes() <= limit_) return;
  bytes_.store(0, std::memory_order_relaxed);
  for (const User* user : users_) user->release_memory();
}

}  // namespace defib::store
