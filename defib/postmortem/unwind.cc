#include "defib/postmortem/unwind.h"

#include <cxxabi.h>
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <elfutils/libdwelf.h>
#include <elfutils/libdwfl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::postmortem {
namespace {

constexpr int kMaxInlineDepth = 64;
constexpr int kMaxDieDepth = 128;

std::string demangled(const char* name) {
  if (name == nullptr) return {};
  int status = -1;
  std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), &std::free);
  return status == 0 ? text.get() : name;
}

struct ElfCloser {
  void operator()(Elf* elf) const { elf_end(elf); }
};

// The C and C++ runtimes' own lines explain no fault of the program's, and unpacking their debug
// information costs three quarters of a report's time (35 of 50 ms for glibc's). Their functions
// still have names, from the symbol tables.
bool is_runtime_library(std::string_view path) {
  constexpr std::string_view kNames[] = {"libc.so.", "libm.so.",      "libpthread.so.",
                                         "ld-linux", "libstdc++.so.", "libgcc_s.so.",
                                         "libc-",    "libpthread-"};
  const std::string_view name = path.substr(path.rfind('/') + 1);  // npos + 1 is 0
  return std::ranges::any_of(kNames, [&](auto prefix) { return name.starts_with(prefix); });
}

// A file without a build id cannot be checked and is taken as it is.
bool build_id_matches(int fd, const std::string& expected) {
  if (expected.empty()) return true;
  const std::unique_ptr<Elf, ElfCloser> elf(elf_begin(fd, ELF_C_READ_MMAP, nullptr));
  const void* id = nullptr;
  const ssize_t size = elf ? dwelf_elf_gnu_build_id(elf.get(), &id) : -1;
  if (size <= 0) return size == 0;
  return to_hex(Bytes(static_cast<const std::byte*>(id), static_cast<std::size_t>(size))) ==
         expected;
}

// Callback of libdwfl: a descriptor, or -1 and perhaps an Elf, of a module's file.
int find_elf(Dwfl_Module*, void** userdata, const char*, Dwarf_Addr, char**, Elf** elf) {
  const auto* module = static_cast<const Module*>(*userdata);
  if (module == nullptr) return -1;
  if (!module->image.empty()) {
    // libelf does not write to it; its interface is older than const.
    *elf = elf_memory(const_cast<char*>(module->image.data()), module->image.size());
    return -1;
  }
  if (!module->file.valid() || !build_id_matches(module->file.get(), module->build_id)) return -1;
  return ::dup(module->file.get());
}

std::string name_of(Dwfl_Module* module, Dwarf_Addr* start = nullptr) {
  const char* name =
      dwfl_module_info(module, nullptr, start, nullptr, nullptr, nullptr, nullptr, nullptr);
  return name != nullptr ? name : "";
}

struct AddressRange {
  Dwarf_Addr low;
  Dwarf_Addr high;
  Dwarf_Die function;
};

// The functions of one compilation unit by address: one pass over its top level. The bodies are
// descended into only for the functions that are asked for.
class UnitIndex {
 public:
  explicit UnitIndex(const Dwarf_Die& unit) : unit_(unit) { add_children(unit_, false, 0); }

  // nullptr: no function has the address.
  Dwarf_Die* find(Dwarf_Addr address) {
    if (Dwarf_Die* die = lookup(address); die != nullptr) return die;
    if (deep_) return nullptr;
    // Functions of local classes lie inside of other functions: rare, and looked for only then.
    deep_ = true;
    add_children(unit_, true, 0);
    return lookup(address);
  }
  Dwarf_Die& unit() { return unit_; }

 private:
  void add_children(Dwarf_Die parent, bool deep, int depth) {
    Dwarf_Die die;
    if (depth > kMaxDieDepth || dwarf_child(&parent, &die) != 0) return;
    do {
      const int tag = dwarf_tag(&die);
      if (tag == DW_TAG_subprogram) add_ranges(die);
      const bool container = tag == DW_TAG_namespace || tag == DW_TAG_module;
      const bool may_hold_functions = tag == DW_TAG_subprogram || tag == DW_TAG_lexical_block ||
                                      tag == DW_TAG_class_type || tag == DW_TAG_structure_type ||
                                      tag == DW_TAG_union_type || tag == DW_TAG_inlined_subroutine;
      if (container || (deep && may_hold_functions)) add_children(die, deep, depth + 1);
    } while (dwarf_siblingof(&die, &die) == 0);
  }
  void add_ranges(Dwarf_Die& die) {
    Dwarf_Addr base = 0;
    Dwarf_Addr low = 0;
    Dwarf_Addr high = 0;
    for (ptrdiff_t at = dwarf_ranges(&die, 0, &base, &low, &high); at > 0;
         at = dwarf_ranges(&die, at, &base, &low, &high)) {
      ranges_.push_back({low, high, die});
    }
  }
  // Innermost where several have it.
  Dwarf_Die* lookup(Dwarf_Addr address) {
    AddressRange* best = nullptr;
    for (AddressRange& range : ranges_) {
      if (address < range.low || address >= range.high) continue;
      if (best == nullptr || range.high - range.low < best->high - best->low) best = &range;
    }
    return best == nullptr ? nullptr : &best->function;
  }

  Dwarf_Die unit_;
  std::vector<AddressRange> ranges_;
  bool deep_ = false;
};

class Symbolizer {
 public:
  explicit Symbolizer(Dwfl* dwfl) : dwfl_(dwfl) {}

  // Appends the frames of one code address, the innermost inlined function first.
  // `lookup` is where to look: in a caller, the call, which lies before the return address.
  void append(std::uint64_t pc, std::uint64_t lookup, std::vector<Frame>& frames);

 private:
  struct Location {
    std::string function;
    std::string file;
    int line = 0;
    bool inlined = false;
  };
  UnitIndex* unit_of(Dwfl_Module* module, Dwarf_Addr address, Dwarf_Addr& bias);
  std::vector<Location> locate(Dwfl_Module* module, std::uint64_t address);
  static void set_line(UnitIndex& unit, Dwarf_Addr address, Location& location);
  static std::vector<Dwarf_Die> inlined_at(Dwarf_Die function, Dwarf_Addr address);
  static std::string function_name(Dwarf_Die& die);
  static void set_call_site(UnitIndex& unit, Dwarf_Die& inlined, Location& caller);

  Dwfl* dwfl_;
  std::map<std::pair<Dwfl_Module*, Dwarf_Off>, std::unique_ptr<UnitIndex>> units_;
  std::map<std::uint64_t, std::vector<Location>> known_;
};

std::string full_path(const char* file, UnitIndex& unit) {
  if (file == nullptr) return {};
  Dwarf_Attribute attribute;
  const char* directory = dwarf_formstring(dwarf_attr(&unit.unit(), DW_AT_comp_dir, &attribute));
  if (file[0] == '/' || directory == nullptr) return file;
  return std::string(directory) + "/" + file;
}

UnitIndex* Symbolizer::unit_of(Dwfl_Module* module, Dwarf_Addr address, Dwarf_Addr& bias) {
  Dwarf_Die* die = dwfl_module_addrdie(module, address, &bias);
  if (die == nullptr) {
    // Not every compiler writes .debug_aranges (clang does not).
    while ((die = dwfl_module_nextcu(module, die, &bias)) != nullptr) {
      if (dwarf_haspc(die, address - bias) == 1) break;
    }
  }
  if (die == nullptr) return nullptr;
  std::unique_ptr<UnitIndex>& unit = units_[{module, dwarf_dieoffset(die)}];
  if (!unit) unit = std::make_unique<UnitIndex>(*die);
  return unit.get();
}

void Symbolizer::set_line(UnitIndex& unit, Dwarf_Addr address, Location& location) {
  Dwarf_Line* line = dwarf_getsrc_die(&unit.unit(), address);
  if (line == nullptr) return;
  location.file = full_path(dwarf_linesrc(line, nullptr, nullptr), unit);
  dwarf_lineno(line, &location.line);
}

// The inlined functions at the address, innermost first.
std::vector<Dwarf_Die> Symbolizer::inlined_at(Dwarf_Die scope, Dwarf_Addr address) {
  std::vector<Dwarf_Die> chain;
  for (int depth = 0; depth < kMaxDieDepth; ++depth) {
    Dwarf_Die die;
    bool descended = false;
    if (dwarf_child(&scope, &die) != 0) break;
    do {
      const int tag = dwarf_tag(&die);
      if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_lexical_block) continue;
      if (dwarf_haspc(&die, address) != 1) continue;
      if (tag == DW_TAG_inlined_subroutine) chain.insert(chain.begin(), die);
      scope = die;
      descended = true;
      break;
    } while (dwarf_siblingof(&die, &die) == 0);
    if (!descended || chain.size() >= kMaxInlineDepth) break;
  }
  return chain;
}

std::string Symbolizer::function_name(Dwarf_Die& die) {
  Dwarf_Attribute attribute;
  for (const unsigned name : {DW_AT_linkage_name, DW_AT_MIPS_linkage_name}) {
    if (dwarf_attr_integrate(&die, name, &attribute) != nullptr) {
      if (const char* text = dwarf_formstring(&attribute); text != nullptr) return demangled(text);
    }
  }
  const char* name = dwarf_diename(&die);
  return name != nullptr ? name : "";
}

void Symbolizer::set_call_site(UnitIndex& unit, Dwarf_Die& inlined, Location& caller) {
  Dwarf_Attribute attribute;
  Dwarf_Word line = 0;
  Dwarf_Word file = 0;
  if (dwarf_formudata(dwarf_attr(&inlined, DW_AT_call_line, &attribute), &line) == 0) {
    caller.line = static_cast<int>(line);
  }
  Dwarf_Files* files = nullptr;
  std::size_t count = 0;
  if (dwarf_formudata(dwarf_attr(&inlined, DW_AT_call_file, &attribute), &file) == 0 &&
      dwarf_getsrcfiles(&unit.unit(), &files, &count) == 0 && file < count) {
    caller.file = full_path(dwarf_filesrc(files, file, nullptr, nullptr), unit);
  }
}

std::vector<Symbolizer::Location> Symbolizer::locate(Dwfl_Module* module, std::uint64_t address) {
  Location outermost;
  GElf_Off offset = 0;
  GElf_Sym symbol;
  // The symbol table has the full name even where the debug information is reduced (-g1).
  outermost.function =
      demangled(dwfl_module_addrinfo(module, address, &offset, &symbol, nullptr, nullptr, nullptr));
  Dwarf_Addr bias = 0;
  UnitIndex* unit = is_runtime_library(name_of(module)) ? nullptr : unit_of(module, address, bias);
  if (unit == nullptr) return {outermost};
  Dwarf_Die* function = unit->find(address - bias);
  if (function == nullptr) {
    set_line(*unit, address - bias, outermost);
    return {outermost};
  }
  if (outermost.function.empty()) outermost.function = function_name(*function);
  std::vector<Location> locations;
  Location innermost;
  set_line(*unit, address - bias, innermost);
  for (Dwarf_Die& inlined : inlined_at(*function, address - bias)) {
    Location location = innermost;
    location.function = function_name(inlined);
    location.inlined = true;
    locations.push_back(std::move(location));
    // The function around it stands where this one is called.
    set_call_site(*unit, inlined, innermost);
  }
  outermost.file = innermost.file;
  outermost.line = innermost.line;
  locations.push_back(std::move(outermost));
  return locations;
}

void Symbolizer::append(std::uint64_t pc, std::uint64_t lookup, std::vector<Frame>& frames) {
  Dwfl_Module* module = dwfl_addrmodule(dwfl_, lookup);
  Frame frame;
  frame.pc = pc;
  if (module == nullptr) {
    frames.push_back(std::move(frame));
    return;
  }
  Dwarf_Addr start = 0;
  frame.module = name_of(module, &start);
  GElf_Addr bias = start;
  if (dwfl_module_getelf(module, &bias) == nullptr) bias = start;
  frame.offset = pc - bias;
  const auto [at, is_new] = known_.try_emplace(lookup);
  if (is_new) at->second = locate(module, lookup);
  for (const Location& location : at->second) {
    frame.function = location.function;
    frame.file = location.file;
    frame.line = location.line;
    frame.inlined = location.inlined;
    frames.push_back(frame);
  }
}

struct DwflCloser {
  void operator()(Dwfl* dwfl) const { dwfl_end(dwfl); }
};

struct Session {
  const Snapshot& snapshot;
  std::vector<ThreadSnapshot> starts;  // where each walk begins
  std::unique_ptr<Dwfl, DwflCloser> dwfl;
};

pid_t next_thread(Dwfl*, void* arg, void** thread_arg) {
  auto& starts = static_cast<Session*>(arg)->starts;
  auto* thread = static_cast<ThreadSnapshot*>(*thread_arg);
  thread = thread == nullptr ? starts.data() : thread + 1;
  if (thread == starts.data() + starts.size()) return 0;
  *thread_arg = thread;
  return thread->tid;
}

bool get_thread(Dwfl*, pid_t tid, void* arg, void** thread_arg) {
  auto& starts = static_cast<Session*>(arg)->starts;
  const auto found = std::ranges::find(starts, tid, &ThreadSnapshot::tid);
  if (found == starts.end()) return false;
  *thread_arg = &*found;
  return true;
}

bool read_word(Dwfl*, Dwarf_Addr address, Dwarf_Word* result, void* arg) {
  return static_cast<Session*>(arg)->snapshot.memory.read(address, result, sizeof *result);
}

bool set_registers(Dwfl_Thread* thread, void* thread_arg) {
  const Registers& registers = static_cast<ThreadSnapshot*>(thread_arg)->registers;
  if (registers.machine == Machine::kX86_64) {
    // 0..15, and 16, the return address column, which is the program counter.
    Dwarf_Word words[17];
    std::copy_n(registers.values.begin(), 16, words);
    words[16] = registers.pc();
    return dwfl_thread_state_registers(thread, 0, 17, words);
  }
  if (registers.machine == Machine::kAArch64) {
    dwfl_thread_state_register_pc(thread, registers.pc());
    return dwfl_thread_state_registers(thread, 0, 32, registers.values.data());
  }
  return false;
}

constexpr Dwfl_Thread_Callbacks kThreadCallbacks = {next_thread,   get_thread, read_word,
                                                    set_registers, nullptr,    nullptr};

char* debuginfo_path = nullptr;  // the default: .debug beside the file, then /usr/lib/debug
const Dwfl_Callbacks kCallbacks = {find_elf, dwfl_standard_find_debuginfo,
                                   dwfl_offline_section_address, &debuginfo_path};

struct Walk {
  Symbolizer& symbolizer;
  ThreadStack& stack;
  std::size_t steps = 0;
};

int on_frame(Dwfl_Frame* state, void* arg) {
  auto& walk = *static_cast<Walk*>(arg);
  Dwarf_Addr pc = 0;
  bool activation = false;
  if (!dwfl_frame_pc(state, &pc, &activation)) return DWARF_CB_ABORT;
  // A thread's first function returns to nowhere.
  if (pc == 0 && !walk.stack.frames.empty()) return DWARF_CB_ABORT;
  if (++walk.steps > kMaxFrames || walk.stack.frames.size() >= kMaxFrames) {
    walk.stack.truncated = true;
    return DWARF_CB_ABORT;
  }
  walk.symbolizer.append(pc, activation ? pc : pc - 1, walk.stack.frames);
  return DWARF_CB_OK;
}

// A call through a wild pointer: the program counter is nowhere, but the caller is known, since
// the call has just left the return address on the stack, or in the link register.
bool step_out_of_wild_call(const Snapshot& snapshot, Registers& registers) {
  if (snapshot.maps.empty()) return false;
  const Mapping* mapping = find_mapping(snapshot.maps, registers.pc());
  if (mapping != nullptr && mapping->executable) return false;
  if (registers.machine == Machine::kAArch64) {
    constexpr std::size_t kLinkRegister = 30;
    registers.set_pc(registers.values[kLinkRegister]);
    return true;
  }
  const auto caller = snapshot.memory.read_u64(registers.sp());
  const Mapping* target = caller ? find_mapping(snapshot.maps, *caller) : nullptr;
  if (target == nullptr || !target->executable) return false;
  registers.set_pc(*caller);
  registers.values[registers.sp_index()] += sizeof(std::uint64_t);
  return true;
}

bool open_session(Session& session) {
  session.dwfl.reset(dwfl_begin(&kCallbacks));
  if (!session.dwfl) return false;
  dwfl_report_begin(session.dwfl.get());
  for (const Module& module : session.snapshot.modules) {
    Dwfl_Module* reported =
        dwfl_report_module(session.dwfl.get(), module.path.c_str(), module.start, module.end);
    void** userdata = nullptr;
    if (reported == nullptr) continue;
    dwfl_module_info(reported, &userdata, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
    *userdata = const_cast<Module*>(&module);
  }
  dwfl_report_end(session.dwfl.get(), nullptr, nullptr);
  return dwfl_attach_state(session.dwfl.get(), nullptr, session.snapshot.pid, &kThreadCallbacks,
                           &session);
}

}  // namespace

std::vector<ThreadStack> unwind(const Snapshot& snapshot) {
  // Set by some distributions for everybody; a postmortem must not wait for a network.
  ::unsetenv("DEBUGINFOD_URLS");
  Session session{snapshot, snapshot.threads, nullptr};
  std::vector<bool> stepped;
  for (ThreadSnapshot& thread : session.starts) {
    stepped.push_back(thread.crashed && step_out_of_wild_call(snapshot, thread.registers));
  }
  const bool ready = open_session(session);
  Symbolizer symbolizer(session.dwfl.get());
  std::vector<ThreadStack> stacks;
  for (std::size_t i = 0; i < snapshot.threads.size(); ++i) {
    const ThreadSnapshot& thread = snapshot.threads[i];
    ThreadStack stack;
    stack.tid = thread.tid;
    stack.name = thread.name;
    stack.crashed = thread.crashed;
    if (!ready || stepped[i]) {
      Frame top;
      top.pc = thread.registers.pc();
      stack.frames.push_back(std::move(top));
    }
    if (ready) {
      Walk walk{symbolizer, stack};
      const int result = dwfl_getthread_frames(session.dwfl.get(), thread.tid, on_frame, &walk);
      if (result == -1) stack.error = dwfl_errmsg(-1);
    } else {
      stack.error = "no module of the process can be read";
    }
    stacks.push_back(std::move(stack));
  }
  return stacks;
}

}  // namespace defib::postmortem
