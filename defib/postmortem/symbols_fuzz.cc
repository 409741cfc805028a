// libFuzzer: what symbolizing reads. The first byte chooses: a kept symbol table, with its checksum
// put right; records of the child that walks stacks; addresses and reports of `symbolize`; or an
// ELF file as the module of a snapshot, which is read in a child. There elfutils may crash, hang or
// run out of memory: that is what the child is for; what we demand is that a report comes of it, in
// time, and that a sanitizer finds nothing in our own part.

#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "defib/base/bytes.h"
#include "defib/postmortem/module_file.h"
#include "defib/postmortem/stack_records.h"
#include "defib/postmortem/symbol_table.h"
#include "defib/postmortem/symbolize.h"
#include "defib/postmortem/unpacked_file.h"
#include "defib/postmortem/unwind.h"

namespace {

using namespace defib::postmortem;

constexpr std::uint64_t kStart = 0x10000;
constexpr std::uint64_t kStack = 0x7000'0000'0000;

void fuzz_table(std::string bytes) {
  constexpr std::size_t kChecksumAt = 12;
  constexpr std::size_t kCheckedFrom = 16;
  if (bytes.size() < kCheckedFrom) return;
  defib::store_value(bytes.data() + kChecksumAt,
                     defib::crc32c(std::string_view(bytes).substr(kCheckedFrom)));
  const auto table = SymbolTable::open(bytes, "key");
  if (!table) return;
  for (std::uint64_t offset = 0; offset < 256; ++offset) {
    if (table->find(offset * 16).size() > kMaxInlineDepth + 1) std::abort();
  }
}

void fuzz_records(std::string_view bytes) {
  if (const auto stack = StackDecoder().stack(bytes)) {
    const std::string again = StackEncoder().stack(stack->thread, stack->stack);
    if (!StackDecoder().stack(again)) std::abort();
  }
  static_cast<void>(decode_gap(bytes));
}

void fuzz_texts(std::string_view text) {
  static_cast<void>(parse_queries(text));
  if (auto json = defib::wire::Json::parse(text)) static_cast<void>(stacks_text(*json));
}

// A sanitizer's finding ends the child with an exit code, anything else with a signal or in time.
bool is_finding(std::string_view gap) {
  return gap.find("exit code 1)") != std::string_view::npos ||
         gap.find("exit code 77)") != std::string_view::npos;
}

void fuzz_elf(std::string_view bytes) {
  Snapshot snapshot;
  Module module;
  module.start = kStart;
  module.end = kStart + std::max<std::uint64_t>(bytes.size(), 0x10000);
  module.path = "/program";
  module.file = defib::os::Fd(::memfd_create("program", MFD_CLOEXEC));
  if (::write(module.file.get(), bytes.data(), bytes.size()) < 0) return;
  static_cast<void>(load_bias(module));
  static_cast<void>(unpacked_file(module.file.get()));
  ThreadSnapshot thread;
  thread.tid = 1;
  thread.crashed = true;
  thread.registers.set_pc(kStart + 0x1130);
  thread.registers.values[thread.registers.sp_index()] = kStack;
  std::string stack;
  for (std::uint64_t i = 0; i < 64; ++i) {
    defib::Writer(stack).u64(i % 2 == 0 ? kStack + (i + 2) * 8 : kStart + 0x1000 + i * 16);
  }
  snapshot.memory.add(kStack, stack);
  snapshot.threads.push_back(std::move(thread));
  snapshot.modules.push_back(std::move(module));
  SymbolOptions options;
  options.time_limit = std::chrono::milliseconds(3000);
  const Unwound unwound = unwind(snapshot, options);
  if (unwound.stacks.size() != 1 || unwound.stacks[0].frames.empty()) std::abort();
  if (unwound.stacks[0].frames[0].pc != kStart + 0x1130) std::abort();
  if (std::ranges::any_of(unwound.gaps, is_finding)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      fuzz_table(std::string(rest));
      break;
    case 1:
      fuzz_records(rest);
      break;
    case 2:
      fuzz_texts(rest);
      break;
    default:
      fuzz_elf(rest);
  }
  return 0;
}
