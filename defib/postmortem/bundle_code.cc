#include "defib/postmortem/bundle_code.h"

#include <capstone/capstone.h>
#include <fmt/format.h>

#include <algorithm>

#include "defib/base/bytes.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxInstructions = 256;
// Instructions of x86-64 have no fixed size: some beginnings meet the fault, some do not.
constexpr std::size_t kMaxBeginnings = 16;

std::string hex_bytes(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) text += fmt::format("{:02x} ", static_cast<unsigned char>(c));
  return text;
}

std::string bytes_line(std::uint64_t address, std::string_view bytes, bool marked) {
  return fmt::format("{} {:#018x}  {}\n", marked ? "=>" : "  ", address, hex_bytes(bytes));
}

class Disassembler {
 public:
  explicit Disassembler(Machine machine) {
    const bool arm = machine == Machine::kAArch64;
    open_ = cs_open(arm ? CS_ARCH_ARM64 : CS_ARCH_X86, arm ? CS_MODE_LITTLE_ENDIAN : CS_MODE_64,
                    &handle_) == CS_ERR_OK;
  }
  ~Disassembler() {
    if (open_) cs_close(&handle_);
  }
  Disassembler(const Disassembler&) = delete;
  Disassembler& operator=(const Disassembler&) = delete;

  // True where the instructions end exactly at the end of `code`.
  bool run(std::uint64_t address, std::string_view code, std::uint64_t pc,
           std::string& text) const {
    if (!open_) return false;
    cs_insn* list = nullptr;
    const std::size_t count = cs_disasm(handle_, reinterpret_cast<const std::uint8_t*>(code.data()),
                                        code.size(), address, kMaxInstructions, &list);
    std::uint64_t end = address;
    for (std::size_t i = 0; i < count; ++i) {
      const cs_insn& one = list[i];
      const std::string_view bytes = code.substr(one.address - address, one.size);
      text += fmt::format("{} {:#018x}  {:<36} {} {}\n", one.address == pc ? "=>" : "  ",
                          one.address, hex_bytes(bytes), one.mnemonic, one.op_str);
      end = one.address + one.size;
    }
    if (list != nullptr) cs_free(list, count);
    return end == address + code.size();
  }

 private:
  csh handle_ = 0;
  bool open_ = false;
};

}  // namespace

std::string disassemble(Machine machine, std::uint64_t address, std::string_view code,
                        std::uint64_t pc) {
  if (pc < address || pc - address >= code.size()) return bytes_line(address, code, false);
  const Disassembler disassembler(machine);
  const std::size_t before = pc - address;
  std::string text;
  // The longest run of instructions that leads to the fault.
  std::size_t skipped = 0;
  for (; skipped < std::min(before, kMaxBeginnings); ++skipped) {
    text.clear();
    if (disassembler.run(address + skipped, code.substr(skipped, before - skipped), pc, text))
      break;
    text.clear();
  }
  if (text.empty() && before > 0) text = bytes_line(address, code.substr(0, before), false);
  std::string after;
  disassembler.run(pc, code.substr(before), pc, after);
  if (after.empty()) after = bytes_line(pc, code.substr(before), true);
  return text + after;
}

}  // namespace defib::postmortem
