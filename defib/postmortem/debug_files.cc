#include "defib/postmortem/debug_files.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "defib/base/bytes.h"
#include "defib/base/text.h"
#include "defib/os/files.h"
#include "defib/postmortem/dwfl.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMinBuildIdDigits = 4;
constexpr std::size_t kMaxBuildIdDigits = 128;
constexpr std::size_t kChunkBytes = 1 << 16;

struct ElfCloser {
  void operator()(Elf* elf) const { elf_end(elf); }
};

// Must not block on a pipe, nor take a terminal: names come from a stranger's memory.
os::Fd open_plain(const std::string& path) {
  os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct stat status;
  if (fd.valid() && (::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode))) fd.reset();
  return fd;
}

// "/.build-id/ab/cdef" of a build id "abcdef"; empty where it is none.
std::string build_id_path(const std::string& build_id) {
  const bool is_hex = std::ranges::all_of(
      build_id, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  if (build_id.size() < kMinBuildIdDigits || build_id.size() > kMaxBuildIdDigits || !is_hex) {
    return {};
  }
  return fmt::format("/.build-id/{}/{}", build_id.substr(0, 2), build_id.substr(2));
}

std::vector<std::string> places(const SymbolOptions& options) {
  std::vector<std::string> dirs = options.debug_dirs;
  dirs.push_back(options.sysroot + "/usr/lib/debug");
  return dirs;
}

std::uint32_t crc_of(int fd) {
  uLong crc = ::crc32(0, nullptr, 0);
  std::string chunk(kChunkBytes, '\0');
  for (off_t at = 0;;) {
    const ssize_t size = ::pread(fd, chunk.data(), chunk.size(), at);
    if (size <= 0) return static_cast<std::uint32_t>(crc);
    crc = ::crc32(crc, reinterpret_cast<const Bytef*>(chunk.data()), static_cast<uInt>(size));
    at += size;
  }
}

// Whether there is more in it than in a program that was stripped: beside a debug file mostly lies
// the program that it was split off.
bool tells_names(int fd) {
  const std::unique_ptr<Elf, ElfCloser> elf(elf_begin(fd, ELF_C_READ_MMAP, nullptr));
  std::size_t names = 0;
  if (!elf || elf_getshdrstrndx(elf.get(), &names) != 0) return false;
  for (Elf_Scn* part = nullptr; (part = elf_nextscn(elf.get(), part)) != nullptr;) {
    GElf_Shdr section;
    if (gelf_getshdr(part, &section) == nullptr) continue;
    if (section.sh_type == SHT_SYMTAB) return true;
    const char* name = elf_strptr(elf.get(), names, section.sh_name);
    if (name != nullptr && std::string_view(name).ends_with("debug_info")) return true;
  }
  return false;
}

// Takes the first candidate that fits.
class Search {
 public:
  Search(std::string build_id, std::string module, std::vector<std::string>& refused)
      : build_id_(std::move(build_id)), module_(std::move(module)), refused_(refused) {}

  bool try_path(const std::string& path, const DebugLink* link = nullptr) {
    if (path == module_) return false;
    return take(open_plain(path), path, link);
  }
  bool take(os::Fd fd, const std::string& path, const DebugLink* link) {
    if (!fd.valid()) return false;
    if (!fits(fd.get(), path, link)) return false;
    found_.fd = std::move(fd);
    found_.path = path;
    return true;
  }
  DebugFile& found() { return found_; }

 private:
  bool fits(int fd, const std::string& path, const DebugLink* link) {
    if (!is_elf(fd)) return refuse(path, "it is no ELF file");
    if (!build_id_.empty()) {
      const std::string id = build_id_of(fd);
      if (id == build_id_) return true;
      return refuse(path, fmt::format("its build id is {}, and that of {} is {}",
                                      id.empty() ? "missing" : id, module_, build_id_));
    }
    if (link == nullptr) return true;
    return crc_of(fd) == link->crc ||
           refuse(path, fmt::format("its checksum is not the one that {} names", module_));
  }
  bool refuse(const std::string& path, const std::string& why) {
    refused_.push_back(fmt::format("{}: not used for names: {}", path, why));
    return false;
  }

  std::string build_id_;
  std::string module_;
  std::vector<std::string>& refused_;
  DebugFile found_;
};

}  // namespace

std::string build_id_of(int fd) {
  elf_version(EV_CURRENT);
  const std::unique_ptr<Elf, ElfCloser> elf(elf_begin(fd, ELF_C_READ_MMAP, nullptr));
  const void* id = nullptr;
  const ssize_t size = elf ? dwelf_elf_gnu_build_id(elf.get(), &id) : -1;
  if (size <= 0) return {};
  return to_hex(Bytes(static_cast<const std::byte*>(id), static_cast<std::size_t>(size)));
}

bool is_elf(int fd) {
  char magic[SELFMAG];
  return ::pread(fd, magic, sizeof magic, 0) == sizeof magic &&
         std::memcmp(magic, ELFMAG, sizeof magic) == 0;
}

DebugFile find_debug_file(const Module& module, const DebugLink& link, const SymbolOptions& options,
                          std::vector<std::string>& refused) {
  Search search(module.build_id, module.path, refused);
  if (const std::string id = build_id_path(module.build_id); !id.empty()) {
    for (const std::string& place : places(options)) {
      if (search.try_path(place + id + ".debug")) return std::move(search.found());
    }
  }
  // A whole program that was kept elsewhere before this one was stripped.
  const std::string name(base_name(module.path));
  for (const std::string& place : options.debug_dirs) {
    if (module.build_id.empty() || name.empty()) break;
    if (search.try_path(os::join_path(place, name)) && tells_names(search.found().fd.get())) {
      return std::move(search.found());
    }
    if (search.try_path(os::join_path(place, name + ".debug"))) return std::move(search.found());
  }
  if (link.name.empty() || link.name.find('/') != std::string::npos) return {};
  const std::string directory = os::parent_dir(module.path);
  std::vector<std::string> paths = {options.sysroot + directory + "/" + link.name,
                                    options.sysroot + directory + "/.debug/" + link.name};
  for (const std::string& place : places(options))
    paths.push_back(place + directory + "/" + link.name);
  for (const std::string& place : options.debug_dirs) {
    paths.push_back(os::join_path(place, link.name));
  }
  for (const std::string& path : paths) {
    if (search.try_path(path, &link)) return std::move(search.found());
  }
  return {};
}

bool has_debug_file(const Module& module, const SymbolOptions& options) {
  const std::string id = build_id_path(module.build_id);
  return !id.empty() && std::ranges::any_of(places(options), [&](const std::string& place) {
    return ::access((place + id + ".debug").c_str(), R_OK) == 0;
  });
}

DebugFile find_module_file(const std::string& path, const std::string& build_id,
                           const SymbolOptions& options, std::vector<std::string>& refused) {
  Search search(build_id, "the module " + path, refused);
  const std::string name(base_name(path));
  std::vector<std::string> paths = {options.sysroot + path};
  for (const std::string& place : options.debug_dirs) {
    if (!name.empty()) paths.push_back(os::join_path(place, name));
    if (path.starts_with('/')) paths.push_back(place + path);
  }
  if (const std::string id = build_id_path(build_id); !id.empty()) {
    for (const std::string& place : places(options)) {
      paths.push_back(place + id);
      paths.push_back(place + id + ".debug");
    }
  }
  for (const std::string& place : options.debug_dirs) {
    paths.push_back(os::join_path(place, name + ".debug"));
  }
  for (const std::string& candidate : paths) {
    if (!candidate.empty() && search.try_path(candidate)) return std::move(search.found());
  }
  return {};
}

}  // namespace defib::postmortem
