#include "defib/postmortem/symbol_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "defib/base/bytes.h"

namespace defib::postmortem {
namespace {

constexpr std::string_view kSuffix = ".symbols";
constexpr std::string_view kLockName = "lock";
constexpr std::size_t kMaxBuildIdDigits = 128;
constexpr std::size_t kHashDigits = 16;
constexpr mode_t kOthersMayWrite = S_IWGRP | S_IWOTH;

bool is_hex(std::string_view text) {
  return std::ranges::all_of(
      text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

std::string name_of(const Module& module, std::string_view key) {
  return module.build_id + "-" + sha256_hex(key).substr(0, kHashDigits) + std::string(kSuffix);
}

}  // namespace

CachedTable::~CachedTable() {
  ::munmap(memory_, size_);
}

Result<SymbolCache> SymbolCache::open(const std::string& directory, bool create) {
  if (create) DEFIB_TRY(os::real_files().create_dirs(directory));
  os::Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return os::system_error("open", directory);
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) return os::system_error("fstat", directory);
  if (status.st_uid != ::geteuid() || (status.st_mode & kOthersMayWrite) != 0) {
    return Error(
               Code::kPermissionDenied,
               fmt::format("the directory of symbol tables {} can be written by others", directory))
        .with("path", directory)
        .suggest("make it a directory of this user, with mode 0700");
  }
  return SymbolCache(directory, std::move(fd));
}

std::string SymbolCache::key_of(const Module& module) {
  const std::string& id = module.build_id;
  struct stat status;
  if (id.empty() || id.size() > kMaxBuildIdDigits || !is_hex(id)) return {};
  if (!module.file.valid() || ::fstat(module.file.get(), &status) != 0) return {};
  return fmt::format("{} {}:{} {} {}.{:09}", id, status.st_dev, status.st_ino, status.st_size,
                     status.st_ctim.tv_sec, status.st_ctim.tv_nsec);
}

std::unique_ptr<CachedTable> SymbolCache::find(const Module& module) const {
  const std::string key = key_of(module);
  if (key.empty()) return nullptr;
  const std::string name = name_of(module, key);
  const os::Fd file(
      ::openat(fd_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  struct stat status;
  if (!file.valid() || ::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode) ||
      status.st_size <= 0 || static_cast<std::size_t>(status.st_size) > kMaxSymbolTableBytes) {
    return nullptr;
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file.get(), 0);
  if (memory == MAP_FAILED) return nullptr;
  const auto table = SymbolTable::open({static_cast<const char*>(memory), size}, key);
  if (!table) {
    ::munmap(memory, size);
    return nullptr;
  }
  // Its last use, by which evict() goes.
  ::futimens(file.get(), nullptr);
  return std::make_unique<CachedTable>(memory, size, *table);
}

bool SymbolCache::has(const Module& module) const {
  return find(module) != nullptr;
}

Result<> SymbolCache::store(const Module& module, std::string_view table) const {
  const std::string key = key_of(module);
  if (key.empty() || table.empty()) {
    return Error(Code::kInvalidArgument, "a module without build id or file has no symbol table");
  }
  return os::write_file_atomically(os::real_files(),
                                   os::join_path(directory_, name_of(module, key)), table);
}

void SymbolCache::evict(std::uint64_t max_bytes) const {
  struct File {
    std::int64_t used_ns;
    std::uint64_t size;
    std::string name;
  };
  const auto names = os::real_files().list(directory_);
  if (!names) return;
  std::vector<File> files;
  std::uint64_t total = 0;
  for (const std::string& name : *names) {
    struct stat status;
    if (name == kLockName ||
        ::fstatat(fd_.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
      continue;
    }
    if (!name.ends_with(kSuffix)) {
      if (name.find(kSuffix) != std::string::npos) ::unlinkat(fd_.get(), name.c_str(), 0);
      continue;
    }
    const auto size = static_cast<std::uint64_t>(status.st_size);
    files.push_back(
        {std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec, size, name});
    total += size;
  }
  std::ranges::sort(files, {}, &File::used_ns);
  for (const File& file : files) {
    if (total <= max_bytes) break;
    ::unlinkat(fd_.get(), file.name.c_str(), 0);
    total -= file.size;
  }
}

Result<std::unique_ptr<os::File>> SymbolCache::lock() const {
  DEFIB_TRY_ASSIGN(auto file, os::real_files().open(os::join_path(directory_, kLockName),
                                                    os::OpenMode::kCreate));
  DEFIB_TRY(file->try_lock());
  return file;
}

}  // namespace defib::postmortem
