// SymbolCache: symbol tables (symbol_table.h) of modules in a directory, one file each.
//
// A table belongs to one file: build id, device, inode, size and time of change are part of its
// key, since a build id is only what a file says of itself. Readers trust nothing in it.
// Invariants: written whole under another name, then renamed; bounded by max_bytes, the longest
// unused go first; a directory that others may write to is not used.
// Thread rule: one thread; any number of processes.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/postmortem/snapshot.h"
#include "defib/postmortem/symbol_table.h"

namespace defib::postmortem {

inline constexpr std::uint64_t kSymbolCacheBytes = std::uint64_t{256} << 20;
inline constexpr std::size_t kMaxSymbolTableBytes = std::size_t{64} << 20;

// A table and the mapped file that it lies in.
class CachedTable {
 public:
  CachedTable(void* memory, std::size_t size, const SymbolTable& table)
      : memory_(memory), size_(size), table_(table) {}
  ~CachedTable();
  CachedTable(const CachedTable&) = delete;
  CachedTable& operator=(const CachedTable&) = delete;
  const SymbolTable& table() const { return table_; }

 private:
  void* memory_;
  std::size_t size_;
  SymbolTable table_;
};

class SymbolCache {
 public:
  // `create` makes the directory (mode 0700) where it is missing. PermissionDenied where it is not
  // ours alone.
  static Result<SymbolCache> open(const std::string& directory, bool create);

  // nullptr: there is none, or none that can be trusted.
  std::unique_ptr<CachedTable> find(const Module& module) const;
  bool has(const Module& module) const;
  // The key that a table of the module has to be made with; empty: it has no build id or no file,
  // and is not kept.
  static std::string key_of(const Module& module);
  Result<> store(const Module& module, std::string_view table) const;
  // Removes the longest unused beyond `max_bytes`, and what is left of broken writes.
  void evict(std::uint64_t max_bytes = kSymbolCacheBytes) const;
  // One writer at a time; DatabaseLocked while there is another one.
  Result<std::unique_ptr<os::File>> lock() const;

 private:
  SymbolCache(std::string directory, os::Fd fd)
      : directory_(std::move(directory)), fd_(std::move(fd)) {}

  std::string directory_;
  os::Fd fd_;
};

}  // namespace defib::postmortem
