#include "defib/daemon/core_file.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "defib/os/fd.h"
#include "defib/wire/json.h"

namespace defib::daemon {
namespace {

constexpr std::size_t kMaxHeaders = 1 << 16;
constexpr std::size_t kMaxNotes = 1 << 20;
constexpr std::uint64_t kMaxList = 1 << 20;
constexpr std::size_t kMaxEntries = 2000;
constexpr std::uint64_t kBlock = 512;  // of st_blocks

Error no_core(const std::string& path, std::string_view why) {
  return Error(Code::kFrameMalformed, fmt::format("'{}' is no core file: {}", path, why))
      .with("path", path);
}

bool read_exactly(int fd, std::uint64_t offset, void* to, std::size_t size) {
  return ::pread(fd, to, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

std::size_t aligned(std::size_t size) {
  return (size + 3) & ~std::size_t{3};
}

void take_note(std::uint32_t type, std::string_view body, CoreIdentity& found) {
  if (type == NT_PRPSINFO && body.size() >= sizeof(prpsinfo_t)) {
    prpsinfo_t info;
    std::memcpy(&info, body.data(), sizeof info);
    found.pid = info.pr_pid;
    found.session = info.pr_sid;
    found.program.assign(info.pr_fname, ::strnlen(info.pr_fname, sizeof info.pr_fname));
  } else if (type == NT_PRSTATUS && body.size() >= sizeof(prstatus_t) && found.signal == 0) {
    prstatus_t status;  // The thread that crashed comes first.
    std::memcpy(&status, body.data(), sizeof status);
    found.signal = status.pr_cursig;
  }
}

void take_notes(std::string_view notes, CoreIdentity& found) {
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;
    std::memcpy(&header, notes.data(), sizeof header);
    const std::size_t name = aligned(header.n_namesz);
    const std::size_t body = aligned(header.n_descsz);
    if (notes.size() - sizeof header < name || notes.size() - sizeof header - name < body) return;
    take_note(header.n_type, notes.substr(sizeof header + name, header.n_descsz), found);
    notes.remove_prefix(sizeof header + name + body);
  }
}

struct stat64_of {
  std::uint64_t device, inode, bytes;
};
std::optional<stat64_of> look(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return std::nullopt;
  return stat64_of{status.st_dev, status.st_ino,
                   static_cast<std::uint64_t>(status.st_blocks) * kBlock};
}

// "--dir DIR" of a command line.
std::string_view option_of(std::string_view command, std::string_view option) {
  const std::size_t at = command.find(option);
  if (at == std::string_view::npos) return {};
  std::string_view rest = command.substr(at + option.size());
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  return rest.substr(0, rest.find(' '));
}

}  // namespace

Result<CoreIdentity> identify_core(const std::string& path) {
  const os::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (!fd.valid()) return os::system_error("open", path);
  Elf64_Ehdr header;
  if (!read_exactly(fd.get(), 0, &header, sizeof header) ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_type != ET_CORE ||
      header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_phentsize != sizeof(Elf64_Phdr)) {
    return no_core(path, "its header says otherwise");
  }
  CoreIdentity found;
  const std::size_t count = std::min<std::size_t>(header.e_phnum, kMaxHeaders);
  for (std::size_t i = 0; i < count; ++i) {
    Elf64_Phdr segment;
    if (!read_exactly(fd.get(), header.e_phoff + i * sizeof segment, &segment, sizeof segment)) {
      return no_core(path, "it is cut in its headers");
    }
    if (segment.p_type != PT_NOTE) continue;
    std::string notes(std::min<std::size_t>(segment.p_filesz, kMaxNotes), '\0');
    if (!read_exactly(fd.get(), segment.p_offset, notes.data(), notes.size())) {
      return no_core(path, "it is cut in its notes");
    }
    take_notes(notes, found);
    break;
  }
  if (found.pid == 0) return no_core(path, "it does not name its process");
  return found;
}

CorePlace core_place(std::string_view core_pattern, std::string_view working_directory) {
  while (core_pattern.ends_with('\n')) core_pattern.remove_suffix(1);
  CorePlace place;
  if (core_pattern.starts_with('|')) {
    place.pipe_of_ours = core_pattern.find(" core-pipe ") != std::string_view::npos;
    if (place.pipe_of_ours) place.dir = option_of(core_pattern, " --dir ");
    place.prefix = "core.";
    return place;
  }
  if (core_pattern.empty() || core_pattern.starts_with('@')) return place;
  const std::size_t slash = core_pattern.rfind('/');
  const std::string_view name =
      slash == std::string_view::npos ? core_pattern : core_pattern.substr(slash + 1);
  std::string dir(slash == std::string_view::npos ? std::string_view()
                                                  : core_pattern.substr(0, slash));
  // A directory that differs from process to process cannot be watched.
  if (dir.find('%') != std::string::npos) return place;
  if (!core_pattern.starts_with('/')) {
    dir = dir.empty() ? std::string(working_directory)
                      : os::join_path(std::string(working_directory), dir);
  }
  place.dir = dir.empty() ? "/" : dir;
  place.prefix = name.substr(0, name.find('%'));
  return place;
}

std::vector<CoreList::Entry> CoreList::entries() const {
  std::vector<Entry> entries;
  const auto text = os::read_file(files_, path_, kMaxList);
  if (!text) return entries;
  const auto json = wire::Json::parse(*text);
  if (!json) return entries;
  for (const wire::Json& one : (*json)["cores"].items()) {
    if (entries.size() == kMaxEntries) break;
    entries.push_back({std::string(one["path"].as_string()),
                       static_cast<std::uint64_t>(one["device"].as_int()),
                       static_cast<std::uint64_t>(one["inode"].as_int()),
                       static_cast<std::uint64_t>(one["bytes"].as_int())});
  }
  return entries;
}

Result<std::vector<CoreList::Removed>> CoreList::add(const std::string& core,
                                                     const CoreLimits& limits) {
  std::vector<Entry> kept;
  // What is there no more, or is another file by now, is not ours to remove.
  for (Entry& entry : entries()) {
    const auto now = look(entry.path);
    const bool same = now && now->device == entry.device && now->inode == entry.inode;
    if (same && entry.path != core) kept.push_back(std::move(entry));
  }
  if (const auto now = look(core)) kept.push_back({core, now->device, now->inode, now->bytes});
  std::uint64_t bytes = 0;
  for (const Entry& entry : kept) bytes += entry.bytes;
  std::vector<Removed> removed;
  while (!kept.empty() &&
         (kept.size() > static_cast<std::size_t>(limits.max_files) || bytes > limits.max_bytes)) {
    const Entry oldest = std::move(kept.front());
    kept.erase(kept.begin());
    bytes -= oldest.bytes;
    if (::unlink(oldest.path.c_str()) == 0) removed.push_back({oldest.path, oldest.bytes});
  }
  wire::Json list = wire::Json::array();
  for (const Entry& entry : kept) {
    list.push(wire::Json::object({{"path", entry.path},
                                  {"device", entry.device},
                                  {"inode", entry.inode},
                                  {"bytes", entry.bytes}}));
  }
  const wire::Json document =
      wire::Json::object({{"schema", "defib.cores/1"}, {"cores", std::move(list)}});
  DEFIB_TRY(os::write_file_atomically(files_, path_, document.dump(2) + "\n"));
  return removed;
}

}  // namespace defib::daemon
