#include "defib/postmortem/module_file.h"

#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "defib/base/bytes.h"

namespace defib::postmortem {
namespace {

constexpr std::uint64_t kPageMask = ~std::uint64_t{4095};
constexpr std::uint64_t kMaxNoteBytes = 64 * 1024;

std::string read_part(const Module& module, std::uint64_t offset, std::size_t size) {
  if (!module.image.empty()) {
    return offset <= module.image.size() ? module.image.substr(offset, size) : std::string();
  }
  std::string bytes(size, '\0');
  const ssize_t got = module.file.valid() ? ::pread(module.file.get(), bytes.data(), size,
                                                    static_cast<off_t>(offset))
                                          : -1;
  bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return bytes;
}

// Its program headers; none where it is no ELF file that we know.
std::vector<Elf64_Phdr> segments_of(const Module& module) {
  std::vector<Elf64_Phdr> segments;
  const std::string head = read_part(module, 0, sizeof(Elf64_Ehdr));
  if (head.size() < sizeof(Elf64_Ehdr) || !head.starts_with(ELFMAG)) return segments;
  const auto elf = load<Elf64_Ehdr>(head.data());
  if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_phentsize != sizeof(Elf64_Phdr)) {
    return segments;
  }
  const std::string table =
      read_part(module, elf.e_phoff, std::size_t{elf.e_phnum} * sizeof(Elf64_Phdr));
  for (std::size_t at = 0; at + sizeof(Elf64_Phdr) <= table.size(); at += sizeof(Elf64_Phdr)) {
    segments.push_back(load<Elf64_Phdr>(table.data() + at));
  }
  return segments;
}

}  // namespace

std::uint64_t load_bias(const Module& module) {
  std::uint64_t first = UINT64_MAX;
  for (const Elf64_Phdr& segment : segments_of(module)) {
    if (segment.p_type == PT_LOAD) first = std::min(first, segment.p_vaddr & kPageMask);
  }
  return first == UINT64_MAX ? module.start : module.start - first;
}

std::string build_id_in_file(const Module& module) {
  for (const Elf64_Phdr& segment : segments_of(module)) {
    if (segment.p_type != PT_NOTE || segment.p_filesz > kMaxNoteBytes) continue;
    std::string id = build_id_in_notes(read_part(module, segment.p_offset, segment.p_filesz));
    if (!id.empty()) return id;
  }
  return {};
}

}  // namespace defib::postmortem
