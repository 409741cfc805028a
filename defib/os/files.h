// Files: the one seam to the file system. Everything durable goes through it, so that a simulated
// disk can drop, tear, reorder and misdirect what was not synced, and fail any call.
//
// Durability contract, which the simulator enforces: the bytes of a file are durable after
// File::sync() returned success; a name (creation, rename, removal) is durable after sync_dir() of
// its directory returned success. Nothing else is durable.
//
// Thread rule: Files and File may be used from several threads at once; writes to overlapping
// ranges of one file are the caller's to order.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"

namespace defib::os {

// Bytes of a file in memory, for reading only: no stray write of this process can change them.
class FileView {
 public:
  virtual ~FileView() = default;
  virtual std::string_view bytes() const = 0;
  // Gives the memory of a range back; its next use reads the file again.
  virtual void release(std::uint64_t /*offset*/, std::uint64_t /*size*/) const {}
};

// A few words under a name that outlive the process and end with the machine's run (tmpfs): what
// was stored before kill -9 is there after it, and gone after a power failure.
//
// Thread rule: any thread; one store at a time to one word.
class VolatilePage {
 public:
  static constexpr std::size_t kWords = 8;
  virtual ~VolatilePage() = default;
  virtual std::uint64_t load(std::size_t word) const = 0;
  virtual void store(std::size_t word, std::uint64_t value) = 0;
};

struct FileSystemInfo {
  std::string type;         // "ext4"; empty: not known
  bool is_network = false;  // NFS, CIFS and the like, whose locks and syncs are not to be relied on
  bool is_read_only = false;
};

class File {
 public:
  virtual ~File() = default;
  // Reads up to `size` bytes at `offset`; fewer only at the end of the file.
  virtual Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) = 0;
  // Writes all of `bytes` or fails; after a failure any part of them may have been written.
  virtual Result<> write_at(std::uint64_t offset, std::string_view bytes) = 0;
  // fdatasync(2): data and size. A failure is SyncFailed and must never be retried.
  virtual Result<> sync() = 0;
  // Writes a range's changed pages out and waits for them, so that a sync() that follows has little
  // left to do and can be prepared in steps that may be stopped. Promises nothing; a failure is a
  // failed sync. The default does nothing.
  virtual Result<> write_back(std::uint64_t offset, std::uint64_t size);
  virtual Result<> truncate(std::uint64_t size) = 0;
  virtual Result<std::uint64_t> size() = 0;
  // Drops clean pages from the page cache, so that the next read comes from the device.
  virtual Result<> drop_cache() = 0;
  // The file as it is now, mapped read-only for the view's life, also after this File is closed and
  // the name removed. A page that the device cannot deliver kills whoever touches it (SIGBUS):
  // read_at() a range before its first use. The default reads a copy through read_at().
  virtual Result<std::unique_ptr<FileView>> map();
  // An exclusive advisory lock of the open file description (F_OFD_SETLK), held until close.
  // Fails with DatabaseLocked when another description holds it.
  virtual Result<> try_lock() = 0;
  // The kernel's descriptor of this file, for handing the lock to another process; -1 where it is
  // not the kernel's.
  virtual int descriptor() const { return -1; }
};

inline constexpr std::size_t kDirectAlignment = 4096;

enum class OpenMode {
  kRead,       // must exist
  kWrite,      // read and write; must exist
  kCreate,     // read and write; created if absent, mode 0600
  kCreateNew,  // as kCreate, but FileExists if it is there
  // As kCreateNew, past the page cache where the file system can (O_DIRECT): offsets, sizes and
  // memory of its writes are multiples of kDirectAlignment.
  kCreateNewDirect,
};

class Files {
 public:
  virtual ~Files() = default;
  virtual Result<std::unique_ptr<File>> open(const std::string& path, OpenMode mode) = 0;
  virtual Result<> rename(const std::string& from, const std::string& to) = 0;
  virtual Result<> remove(const std::string& path) = 0;
  // Makes the directory and its missing parents, mode 0700.
  virtual Result<> create_dirs(const std::string& path) = 0;
  virtual Result<> sync_dir(const std::string& path) = 0;
  // Names without "." and "..", sorted.
  virtual Result<std::vector<std::string>> list(const std::string& path) = 0;
  virtual bool exists(const std::string& path) = 0;
  virtual bool is_dir(const std::string& path) = 0;
  // Bytes free to this user on the file system that holds `path`.
  virtual Result<std::uint64_t> free_space(const std::string& path) = 0;
  // The page of that name (letters, digits, '-', '.'), zeros at first; null where there is no such
  // memory, as by default.
  virtual Result<std::unique_ptr<VolatilePage>> volatile_page(const std::string& name);
  // The same without making it: null where nobody has.
  virtual Result<std::unique_ptr<VolatilePage>> find_volatile_page(const std::string& name);
  virtual Result<> remove_volatile_page(const std::string& name);
  // Of the file system that holds `path`. The default knows nothing.
  virtual Result<FileSystemInfo> file_system(const std::string& path);
};

// The kernel's file system. Lives for ever.
Files& real_files();
// A file of it that was opened by another process, with the lock that lies on it.
std::unique_ptr<File> adopt_file(int descriptor, std::string path);

// Conveniences over the seam.
Result<std::string> read_file(Files& files, const std::string& path,
                              std::uint64_t max_size = 64 << 20);
// Writes a new file `path`.tmp, syncs, renames over `path`, syncs the directory.
Result<> write_file_atomically(Files& files, const std::string& path, std::string_view content);
std::string parent_dir(std::string_view path);
std::string join_path(std::string_view a, std::string_view b);

}  // namespace defib::os
