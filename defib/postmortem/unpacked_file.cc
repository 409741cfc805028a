#include "defib/postmortem/unpacked_file.h"

#include <elf.h>
#include <isa-l/igzip_lib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string_view>
#include <vector>

#include "defib/base/bytes.h"

namespace defib::postmortem {
namespace {

// The child may write no larger files (guarded.h).
constexpr std::uint64_t kMaxBytes = std::uint64_t{64} << 20;
constexpr std::uint64_t kAlignment = 16;
constexpr std::string_view kNotNeeded[] = {".debug_loc", ".debug_loclists", ".debug_macro"};

// A file, or room for one, in memory.
class Mapped {
 public:
  Mapped(int fd, std::size_t size, bool writable)
      : memory_(::mmap(nullptr, size, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                       writable ? MAP_SHARED : MAP_PRIVATE, fd, 0)),
        size_(size) {}
  ~Mapped() {
    if (valid()) ::munmap(memory_, size_);
  }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  bool valid() const { return memory_ != MAP_FAILED; }
  char* data() const { return static_cast<char*>(memory_); }
  std::string_view bytes() const { return {data(), size_}; }

 private:
  void* memory_;
  std::size_t size_;
};

// Empty where the file does not hold all of it.
std::string_view part(std::string_view file, std::uint64_t offset, std::uint64_t size) {
  if (offset > file.size() || size > file.size() - offset) return {};
  return file.substr(offset, size);
}

// The section headers; none where it is no ELF file that we know.
std::vector<Elf64_Shdr> sections_of(std::string_view file, const Elf64_Ehdr& head) {
  std::vector<Elf64_Shdr> sections;
  if (!file.starts_with(ELFMAG) || head.e_ident[EI_CLASS] != ELFCLASS64 ||
      head.e_ident[EI_DATA] != ELFDATA2LSB || head.e_shentsize != sizeof(Elf64_Shdr)) {
    return sections;
  }
  const std::string_view table =
      part(file, head.e_shoff, std::uint64_t{head.e_shnum} * sizeof(Elf64_Shdr));
  for (std::size_t at = 0; at < table.size(); at += sizeof(Elf64_Shdr)) {
    sections.push_back(load<Elf64_Shdr>(table.data() + at));
  }
  return sections;
}

bool is_packed(const Elf64_Shdr& section) {
  return (section.sh_flags & SHF_COMPRESSED) != 0 && section.sh_type != SHT_NOBITS;
}

bool unpack(std::string_view packed, char* to, std::size_t size) {
  const auto state = std::make_unique<inflate_state>();
  ::isal_inflate_init(state.get());
  state->crc_flag = ISAL_ZLIB;  // with its header, and its checksum compared
  // The library does not write to it; its interface is older than const.
  state->next_in = reinterpret_cast<std::uint8_t*>(const_cast<char*>(packed.data()));
  state->avail_in = static_cast<std::uint32_t>(packed.size());
  state->next_out = reinterpret_cast<std::uint8_t*>(to);
  state->avail_out = static_cast<std::uint32_t>(size);
  return ::isal_inflate(state.get()) == ISAL_DECOMP_OK && state->avail_out == 0 &&
         state->block_state == ISAL_BLOCK_FINISH;
}

// What is where in the copy: everything that is not packed where it was, the rest behind it.
struct Plan {
  std::vector<Elf64_Shdr> sections;        // as the copy has them
  std::vector<std::string_view> contents;  // of each; empty: nothing is copied
  std::uint64_t size = 0;
  bool worth_it = false;
};

// False where it is left to elfutils.
bool make_plan(std::string_view file, const Elf64_Ehdr& head, Plan& plan) {
  plan.sections = sections_of(file, head);
  plan.size = file.size();
  if (head.e_shstrndx >= plan.sections.size()) return false;
  const Elf64_Shdr& name_section = plan.sections[head.e_shstrndx];
  const std::string_view names = part(file, name_section.sh_offset, name_section.sh_size);
  for (Elf64_Shdr& section : plan.sections) {
    if (section.sh_type == SHT_NOBITS || section.sh_type == SHT_NULL) {
      plan.contents.emplace_back();
      continue;
    }
    const std::string_view bytes = part(file, section.sh_offset, section.sh_size);
    if (bytes.size() != section.sh_size) return false;
    plan.contents.push_back(bytes);
    if (!is_packed(section)) continue;
    if (bytes.size() < sizeof(Elf64_Chdr)) return false;
    const auto chunk = load<Elf64_Chdr>(bytes.data());
    if (chunk.ch_type != ELFCOMPRESS_ZLIB || chunk.ch_size > kMaxBytes) return false;
    plan.worth_it = true;
    const std::string_view rest =
        names.substr(std::min<std::size_t>(section.sh_name, names.size()));
    section.sh_flags &= ~std::uint64_t{SHF_COMPRESSED};
    section.sh_addralign = chunk.ch_addralign;
    if (std::ranges::count(kNotNeeded, rest.substr(0, rest.find('\0'))) != 0) {
      section.sh_type = SHT_NOBITS;
      plan.contents.back() = {};
      continue;
    }
    section.sh_offset = (plan.size + kAlignment - 1) / kAlignment * kAlignment;
    section.sh_size = chunk.ch_size;
    plan.size = section.sh_offset + section.sh_size;
    if (plan.size > kMaxBytes) return false;
  }
  return plan.worth_it && plan.size <= kMaxBytes;
}

}  // namespace

os::Fd unpacked_file(int fd) {
  struct stat status;
  if (::fstat(fd, &status) != 0 || status.st_size < static_cast<off_t>(sizeof(Elf64_Ehdr)) ||
      static_cast<std::uint64_t>(status.st_size) > kMaxBytes) {
    return {};
  }
  const Mapped packed(fd, static_cast<std::size_t>(status.st_size), false);
  if (!packed.valid()) return {};
  const std::string_view file = packed.bytes();
  const auto head = load<Elf64_Ehdr>(file.data());
  Plan plan;
  if (!make_plan(file, head, plan)) return {};
  os::Fd copy(::memfd_create("defib-unpacked", MFD_CLOEXEC));
  if (!copy.valid() || ::ftruncate(copy.get(), static_cast<off_t>(plan.size)) != 0) return {};
  const Mapped plain(copy.get(), plan.size, true);
  if (!plain.valid()) return {};
  const auto put = [&](std::string_view bytes) {
    if (bytes.empty()) return;
    std::ranges::copy(bytes, plain.data() + (bytes.data() - file.data()));
  };
  put(file.substr(0, sizeof head));
  put(part(file, head.e_phoff, std::uint64_t{head.e_phnum} * sizeof(Elf64_Phdr)));
  for (std::size_t i = 0; i < plan.sections.size(); ++i) {
    const Elf64_Shdr& section = plan.sections[i];
    const std::string_view content = plan.contents[i];
    if (content.empty()) continue;
    if (section.sh_offset < file.size()) {
      put(content);
    } else if (!unpack(content.substr(sizeof(Elf64_Chdr)), plain.data() + section.sh_offset,
                       section.sh_size)) {
      return {};
    }
  }
  std::memcpy(plain.data() + head.e_shoff, plan.sections.data(),
              plan.sections.size() * sizeof(Elf64_Shdr));
  return copy;
}

}  // namespace defib::postmortem
