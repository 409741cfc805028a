// Debug files with compressed sections.

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "defib/os/files.h"
#include "defib/postmortem/symbols_test_util.h"
#include "defib/postmortem/unpacked_file.h"

namespace defib::postmortem {
namespace {

using ::testing::IsEmpty;

class Unpacked : public InDirectory {
 protected:
  void SetUp() override {
    InDirectory::SetUp();
    tool({"objcopy", "--only-keep-debug", victim_path("inlined_o3"), at("plain")});
    tool({"objcopy", "--compress-debug-sections=zlib", at("plain"), at("packed")});
  }
  std::string section(const std::string& file, const std::string& name) const {
    std::filesystem::remove(at("section"));
    tool({"objcopy", "--dump-section", name + "=" + at("section"), file, at("ignored")});
    return os::read_file(os::real_files(), at("section")).value();
  }
  os::Fd opened(const std::string& name) const {
    return os::Fd(::open(at(name).c_str(), O_RDONLY | O_CLOEXEC));
  }
};

TEST_F(Unpacked, HasTheSectionsThatNamesAndLinesNeed) {
  EXPECT_FALSE(unpacked_file(opened("plain").get()).valid()) << "nothing in it is packed";
  const os::Fd unpacked = unpacked_file(opened("packed").get());
  ASSERT_TRUE(unpacked.valid());
  std::string bytes(static_cast<std::size_t>(::lseek(unpacked.get(), 0, SEEK_END)), '\0');
  ASSERT_EQ(::pread(unpacked.get(), bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  std::ofstream(at("unpacked")) << bytes;
  for (const char* name : {".debug_info", ".debug_abbrev", ".debug_line", ".debug_str",
                           ".debug_aranges", ".debug_rnglists", ".note.gnu.build-id"}) {
    EXPECT_EQ(section(at("unpacked"), name), section(at("plain"), name)) << name;
  }
  EXPECT_EQ(id_of(at("unpacked")), id_of(at("plain")));
}

TEST_F(Unpacked, GivesTheReportOfTheFileThatWasNotPacked) {
  const std::string program = split("inlined_o3", at("program.sym"));
  tool({"objcopy", "--add-gnu-debuglink=" + at("program.sym"), program});
  const Unwound plain = unwound(program);
  tool({"objcopy", "--compress-debug-sections=zlib", at("program.sym")});
  tool({"objcopy", "--remove-section=.gnu_debuglink", program});
  tool({"objcopy", "--add-gnu-debuglink=" + at("program.sym"), program});
  const Unwound packed = unwound(program);
  EXPECT_EQ(text_of(packed.stacks), text_of(plain.stacks));
  EXPECT_THAT(packed.gaps, IsEmpty());
}

TEST_F(Unpacked, OfADamagedFileIsWholeOrNotThere) {
  const std::string packed = os::read_file(os::real_files(), at("packed")).value();
  const auto try_bytes = [&](const std::string& bytes) {
    const os::Fd fd(::memfd_create("packed", MFD_CLOEXEC));
    ASSERT_EQ(::write(fd.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    unpacked_file(fd.get());
  };
  for (std::size_t size = 0; size < packed.size(); size += 1 + packed.size() / 200) {
    try_bytes(packed.substr(0, size));
  }
  Elf64_Ehdr head;
  std::memcpy(&head, packed.data(), sizeof head);
  for (std::size_t i = 0; i < head.e_shnum * sizeof(Elf64_Shdr); i += 5) {
    std::string damaged = packed;
    damaged[head.e_shoff + i] = static_cast<char>(damaged[head.e_shoff + i] ^ (1 << i % 8));
    try_bytes(damaged);
  }
  // A changed byte of a packed section shows in its checksum.
  std::string damaged = packed;
  Elf64_Shdr section{};
  for (std::size_t i = 0; i < head.e_shnum; ++i) {
    Elf64_Shdr one;
    std::memcpy(&one, packed.data() + head.e_shoff + i * sizeof one, sizeof one);
    if ((one.sh_flags & SHF_COMPRESSED) != 0 && one.sh_size > section.sh_size) section = one;
  }
  ASSERT_GT(section.sh_size, 100U);
  damaged[section.sh_offset + section.sh_size / 2] ^= 1;
  const os::Fd fd(::memfd_create("packed", MFD_CLOEXEC));
  ASSERT_EQ(::write(fd.get(), damaged.data(), damaged.size()),
            static_cast<ssize_t>(damaged.size()));
  EXPECT_FALSE(unpacked_file(fd.get()).valid());
}

}  // namespace
}  // namespace defib::postmortem
