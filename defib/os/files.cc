#include "defib/os/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "defib/os/fd.h"

namespace defib::os {
namespace {

class RealFile final : public File {
 public:
  RealFile(Fd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    std::size_t done = 0;
    while (done < size) {
      const ssize_t got =
          ::pread(fd_.get(), to + done, size - done, static_cast<off_t>(offset + done));
      if (got == 0) break;
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return system_error("read", path_);
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t put = ::pwrite(fd_.get(), bytes.data() + done, bytes.size() - done,
                                   static_cast<off_t>(offset + done));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return system_error("write", path_);
      done += static_cast<std::size_t>(put);
    }
    return {};
  }

  Result<> sync() override {
    if (::fdatasync(fd_.get()) == 0) return {};
    Error cause = system_error("fdatasync", path_);
    return Error(Code::kSyncFailed, "'" + path_ + "' could not be made durable")
        .with("path", path_)
        .because(std::move(cause));
  }

  Result<> truncate(std::uint64_t size) override {
    if (::ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) {
      return system_error("ftruncate", path_);
    }
    return {};
  }

  Result<std::uint64_t> size() override {
    struct stat info{};
    if (::fstat(fd_.get(), &info) != 0) return system_error("fstat", path_);
    return static_cast<std::uint64_t>(info.st_size);
  }

  Result<> drop_cache() override {
    const int failed = ::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
    if (failed != 0) return system_error("posix_fadvise", path_, failed);
    return {};
  }

  Result<> try_lock() override {
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    if (::fcntl(fd_.get(), F_OFD_SETLK, &lock) == 0) return {};
    if (errno == EAGAIN || errno == EACCES) {
      return Error(Code::kDatabaseLocked, "'" + path_ + "' is locked by another process")
          .with("path", path_);
    }
    return system_error("fcntl(F_OFD_SETLK)", path_);
  }

 private:
  Fd fd_;
  std::string path_;
};

class RealFiles final : public Files {
 public:
  Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) override {
    int flags = O_CLOEXEC | (mode == OpenMode::kRead ? O_RDONLY : O_RDWR);
    if (mode == OpenMode::kCreate || mode == OpenMode::kCreateNew) flags |= O_CREAT;
    if (mode == OpenMode::kCreateNew) flags |= O_EXCL;
    Fd fd(::open(path.c_str(), flags, 0600));
    if (!fd.valid()) return system_error("open", path);
    return std::unique_ptr<File>(std::make_unique<RealFile>(std::move(fd), path));
  }

  Result<> rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) return system_error("rename", from);
    return {};
  }

  Result<> remove(const std::string& path) override {
    if (::remove(path.c_str()) != 0) return system_error("remove", path);
    return {};
  }

  Result<> create_dirs(const std::string& path) override {
    for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      const std::string part = path.substr(0, end);
      if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST) return system_error("mkdir", part);
      if (end == std::string::npos) break;
    }
    if (!is_dir(path)) return system_error("mkdir", path, ENOTDIR);
    return {};
  }

  Result<> sync_dir(const std::string& path) override {
    const Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!fd.valid()) return system_error("open", path);
    if (::fsync(fd.get()) == 0) return {};
    Error cause = system_error("fsync", path);
    return Error(Code::kSyncFailed, "the directory '" + path + "' could not be made durable")
        .with("path", path)
        .because(std::move(cause));
  }

  Result<std::vector<std::string>> list(const std::string& path) override {
    DIR* dir = ::opendir(path.c_str());
    if (dir == nullptr) return system_error("opendir", path);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(dir)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
    }
    const int failed = errno;
    ::closedir(dir);
    if (failed != 0) return system_error("readdir", path, failed);
    std::ranges::sort(names);
    return names;
  }

  bool exists(const std::string& path) override { return ::access(path.c_str(), F_OK) == 0; }

  bool is_dir(const std::string& path) override {
    struct stat info{};
    return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
  }

  Result<std::uint64_t> free_space(const std::string& path) override {
    struct statvfs info{};
    if (::statvfs(path.c_str(), &info) != 0) return system_error("statvfs", path);
    return static_cast<std::uint64_t>(info.f_bavail) * info.f_frsize;
  }
};

}  // namespace

Files& real_files() {
  static RealFiles& files = *new RealFiles;  // Never destroyed: usable during exit.
  return files;
}

Result<std::string> read_file(Files& files, const std::string& path, std::uint64_t max_size) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<File> file, files.open(path, OpenMode::kRead));
  std::string content;
  // Files of /proc say size 0: read until the end, in growing steps.
  std::size_t step = 16 << 10;
  for (;;) {
    const std::size_t before = content.size();
    content.resize(before + step);
    DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(before, content.data() + before, step));
    content.resize(before + got);
    if (content.size() > max_size) {
      return Error(Code::kLimitExceeded, "'" + path + "' is larger than it may be")
          .with("path", path)
          .with("limit_bytes", static_cast<std::int64_t>(max_size));
    }
    if (got < step) return content;
    step = std::min<std::size_t>(step * 2, 8 << 20);
  }
}

Result<> write_file_atomically(Files& files, const std::string& path, std::string_view content) {
  const std::string temporary = path + ".tmp";
  {
    DEFIB_TRY_ASSIGN(const std::unique_ptr<File> file, files.open(temporary, OpenMode::kCreate));
    DEFIB_TRY(file->truncate(0));
    DEFIB_TRY(file->write_at(0, content));
    DEFIB_TRY(file->sync());
  }
  DEFIB_TRY(files.rename(temporary, path));
  return files.sync_dir(parent_dir(path));
}

std::string parent_dir(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return ".";
  return slash == 0 ? "/" : std::string(path.substr(0, slash));
}

std::string join_path(std::string_view a, std::string_view b) {
  std::string path(a);
  if (!path.empty() && !path.ends_with('/')) path += '/';
  return path += b;
}

}  // namespace defib::os
