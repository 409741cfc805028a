#include "defib/os/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "defib/os/fd.h"

namespace defib::os {
namespace {

class CopiedView final : public FileView {
 public:
  explicit CopiedView(std::string bytes) : bytes_(std::move(bytes)) {}
  std::string_view bytes() const override { return bytes_; }

 private:
  std::string bytes_;
};

class MappedView final : public FileView {
 public:
  MappedView(void* data, std::size_t size) : data_(data), size_(size) {}
  MappedView(const MappedView&) = delete;
  MappedView& operator=(const MappedView&) = delete;
  ~MappedView() override { ::munmap(data_, size_); }
  std::string_view bytes() const override { return {static_cast<const char*>(data_), size_}; }
  void release(std::uint64_t offset, std::uint64_t size) const override {
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::uint64_t begin = (offset + page - 1) / page * page;
    const std::uint64_t end = std::min<std::uint64_t>(offset + size, size_) / page * page;
    if (begin >= end) return;
    ::madvise(static_cast<char*>(data_) + begin, end - begin, MADV_DONTNEED);
  }

 private:
  void* data_;
  std::size_t size_;
};

class MappedPage final : public VolatilePage {
 public:
  explicit MappedPage(void* data) : words_(static_cast<std::atomic<std::uint64_t>*>(data)) {}
  MappedPage(const MappedPage&) = delete;
  MappedPage& operator=(const MappedPage&) = delete;
  ~MappedPage() override { ::munmap(words_, kWords * sizeof(*words_)); }
  std::uint64_t load(std::size_t word) const override {
    return words_[word].load(std::memory_order_acquire);
  }
  void store(std::size_t word, std::uint64_t value) override {
    words_[word].store(value, std::memory_order_release);
  }

 private:
  std::atomic<std::uint64_t>* words_;
};

std::string volatile_path(const std::string& name) {
  return "/dev/shm/" + name;
}

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

  Result<> write_back(std::uint64_t offset, std::uint64_t size) override {
    constexpr unsigned kAndWait =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (::sync_file_range(fd_.get(), static_cast<off64_t>(offset), static_cast<off64_t>(size),
                          kAndWait) == 0) {
      return {};
    }
    // Where the file system cannot do it, sync() has it all to do.
    if (errno == EINVAL || errno == ESPIPE || errno == ENOSYS || errno == EOPNOTSUPP) return {};
    Error cause = system_error("sync_file_range", path_);
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

  Result<std::unique_ptr<FileView>> map() override {
    DEFIB_TRY_ASSIGN(const std::uint64_t bytes, size());
    if (bytes == 0) return std::unique_ptr<FileView>(std::make_unique<CopiedView>(""));
    void* data = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd_.get(), 0);
    if (data == MAP_FAILED) return system_error("mmap", path_);
    return std::unique_ptr<FileView>(std::make_unique<MappedView>(data, bytes));
  }

  int descriptor() const override { return fd_.get(); }

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
    const bool direct = mode == OpenMode::kCreateNewDirect;
    if (mode == OpenMode::kCreate || mode == OpenMode::kCreateNew || direct) flags |= O_CREAT;
    if (mode == OpenMode::kCreateNew || direct) flags |= O_EXCL;
    Fd fd(::open(path.c_str(), flags, 0600));
    // tmpfs and some others refuse it; the writes then go through the page cache.
    if (fd.valid() && direct) (void)::fcntl(fd.get(), F_SETFL, O_DIRECT);
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

  Result<std::unique_ptr<VolatilePage>> volatile_page(const std::string& name) override {
    return map_volatile_page(name, O_CREAT);
  }
  Result<std::unique_ptr<VolatilePage>> find_volatile_page(const std::string& name) override {
    if (!exists(volatile_path(name))) return std::unique_ptr<VolatilePage>();
    return map_volatile_page(name, 0);
  }

  Result<> remove_volatile_page(const std::string& name) override {
    return remove(volatile_path(name));
  }

  Result<FileSystemInfo> file_system(const std::string& path) override {
    struct statfs info{};
    if (::statfs(path.c_str(), &info) != 0) return system_error("statfs", path);
    // From linux/magic.h and the kernel's file systems.
    static constexpr struct {
      std::uint32_t magic;
      const char* type;
      bool is_network;
    } kKnown[] = {{0xEF53, "ext4", false},
                  {0x58465342, "xfs", false},
                  {0x9123683E, "btrfs", false},
                  {0x01021994, "tmpfs", false},
                  {0x794C7630, "overlayfs", false},
                  {0x2FC12FC1, "zfs", false},
                  {0x65735546, "fuse", false},
                  {0x6969, "nfs", true},
                  {0xFF534D42, "cifs", true},
                  {0xFE534D42, "smb2", true},
                  {0x517B, "smb", true},
                  {0x564C, "ncp", true},
                  {0x01021997, "9p", true},
                  {0x00C36400, "ceph", true},
                  {0x5346414F, "afs", true},
                  {0x73757245, "coda", true}};
    FileSystemInfo found;
    found.is_read_only = (static_cast<unsigned long>(info.f_flags) & ST_RDONLY) != 0;
    for (const auto& known : kKnown) {
      if (known.magic != static_cast<std::uint32_t>(info.f_type)) continue;
      found.type = known.type;
      found.is_network = known.is_network;
    }
    return found;
  }

 private:
  static Result<std::unique_ptr<VolatilePage>> map_volatile_page(const std::string& name,
                                                                 int flags) {
    const std::string path = volatile_path(name);
    const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600));
    if (!fd.valid()) return system_error("open", path);
    constexpr std::size_t kSize = VolatilePage::kWords * sizeof(std::uint64_t);
    // Space now, because a store without it would kill the process.
    if (const int failed = ::posix_fallocate(fd.get(), 0, kSize)) {
      return system_error("posix_fallocate", path, failed);
    }
    void* data = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    if (data == MAP_FAILED) return system_error("mmap", path);
    return std::unique_ptr<VolatilePage>(std::make_unique<MappedPage>(data));
  }
};

}  // namespace

Result<> File::write_back(std::uint64_t /*offset*/, std::uint64_t /*size*/) {
  return {};
}

Result<std::unique_ptr<FileView>> File::map() {
  DEFIB_TRY_ASSIGN(const std::uint64_t total, size());
  std::string bytes(total, '\0');
  DEFIB_TRY_ASSIGN(const std::size_t got, read_at(0, bytes.data(), bytes.size()));
  bytes.resize(got);
  return std::unique_ptr<FileView>(std::make_unique<CopiedView>(std::move(bytes)));
}

Result<std::unique_ptr<VolatilePage>> Files::volatile_page(const std::string&) {
  return std::unique_ptr<VolatilePage>();
}
Result<std::unique_ptr<VolatilePage>> Files::find_volatile_page(const std::string&) {
  return std::unique_ptr<VolatilePage>();
}
Result<> Files::remove_volatile_page(const std::string&) {
  return {};
}
Result<FileSystemInfo> Files::file_system(const std::string&) {
  return FileSystemInfo{};
}

std::unique_ptr<File> adopt_file(int descriptor, std::string path) {
  return std::make_unique<RealFile>(Fd(descriptor), std::move(path));
}

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
