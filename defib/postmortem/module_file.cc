#include "defib/postmortem/module_file.h"

#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "defib/base/bytes.h"

namespace defib::postmortem {
namespace {

constexpr std::uint64_t kPageMask = ~std::uint64_t{4095};

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

}  // namespace

std::uint64_t load_bias(const Module& module) {
  const std::string head = read_part(module, 0, sizeof(Elf64_Ehdr));
  if (head.size() < sizeof(Elf64_Ehdr) || !head.starts_with(ELFMAG)) return module.start;
  const auto elf = load<Elf64_Ehdr>(head.data());
  if (elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_phentsize != sizeof(Elf64_Phdr)) {
    return module.start;
  }
  const std::string table =
      read_part(module, elf.e_phoff, std::size_t{elf.e_phnum} * sizeof(Elf64_Phdr));
  std::uint64_t first = UINT64_MAX;
  for (std::size_t at = 0; at + sizeof(Elf64_Phdr) <= table.size(); at += sizeof(Elf64_Phdr)) {
    const auto segment = load<Elf64_Phdr>(table.data() + at);
    if (segment.p_type == PT_LOAD) first = std::min(first, segment.p_vaddr & kPageMask);
  }
  return first == UINT64_MAX ? module.start : module.start - first;
}

}  // namespace defib::postmortem
