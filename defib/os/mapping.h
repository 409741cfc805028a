// Mapping: memory that is a file, so that what is written to it outlives the process, and other
// processes can read it. Thread rule: like the memory itself.

#pragma once

#include <cstddef>
#include <string>

#include "defib/base/error.h"
#include "defib/os/fd.h"

namespace defib::os {

class Mapping {
 public:
  // Opens or creates the file (mode 0600) for reading and writing and locks it until the mapping's
  // end (DatabaseLocked where another has it). A new or empty file becomes `size` zero bytes whose
  // disk space is allocated at once, because a write to a page without space would kill the
  // process. Corrupted where the file has another size; it stays untouched.
  static Result<Mapping> open(const std::string& path, std::size_t size);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  Mapping(Fd fd, std::byte* data, std::size_t size);
  Fd fd_;  // holds the lock
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace defib::os
