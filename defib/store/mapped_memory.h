// MappedMemory: how much of mapped files may count as memory of this process.
//
// A file tells what of its mapping is used for the first time; where all of them together exceed
// the limit, each gives its mapping back. The kernel keeps the pages as long as it has room for
// them; they are only no part of this process any more, and are checked again when they are used
// again.
//
// Thread rule: any thread. A file that goes deregisters itself first.

#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

namespace defib::store {

class MappedMemory {
 public:
  class User {
   public:
    virtual ~User() = default;
    virtual void release_memory() const = 0;
  };
  explicit MappedMemory(std::uint64_t limit) : limit_(limit) {}
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;

  void add(const User& user);
  void remove(const User& user);
  // So many bytes more are in use; may call release_memory() of all users, also of the caller.
  void grow(std::uint64_t bytes);
  std::uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  const std::uint64_t limit_;
  std::atomic<std::uint64_t> bytes_ = 0;
  std::mutex mutex_;  // guards users_; held while they release
  std::vector<const User*> users_;
};

}  // namespace defib::store
