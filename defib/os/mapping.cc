#include "defib/os/mapping.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

namespace defib::os {

Result<Mapping> Mapping::open(const std::string& path, std::size_t size) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return system_error("open", path);
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (::fcntl(fd.get(), F_OFD_SETLK, &lock) != 0) {
    if (errno != EAGAIN && errno != EACCES) return system_error("fcntl(F_OFD_SETLK)", path);
    return Error(Code::kDatabaseLocked, fmt::format("'{}' is in use by another process", path))
        .with("path", path);
  }
  struct stat status = {};
  if (::fstat(fd.get(), &status) != 0) return system_error("fstat", path);
  if (status.st_size == 0) {
    const int failed = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(size));
    if (failed != 0) {
      // What was allocated would pass for a file of another size next time.
      if (::ftruncate(fd.get(), 0) != 0) return system_error("ftruncate", path);
      return system_error("posix_fallocate", path, failed);
    }
  } else if (static_cast<std::size_t>(status.st_size) != size) {
    return Error(Code::kCorrupted,
                 fmt::format("'{}' has {} bytes, and {} are expected", path, status.st_size, size))
        .with("path", path);
  }
  void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return system_error("mmap", path);
  return Mapping(std::move(fd), static_cast<std::byte*>(memory), size);
}

Mapping::Mapping(Fd fd, std::byte* data, std::size_t size)
    : fd_(std::move(fd)), data_(data), size_(size) {}

Mapping::Mapping(Mapping&& other) noexcept
    : fd_(std::move(other.fd_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace defib::os
