// ElfSession: the modules of a process, opened by elfutils' libdwfl, with their debug files.
//
// Only for a process that may be lost (guarded.h): the modules are hostile input, and elfutils is
// large.
// Invariants: a file whose build id is not the one in the process's memory is not used; nothing is
// asked of a network (debuginfod).
// Thread rule: one thread at a time.

#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "defib/postmortem/dwfl.h"
#include "defib/postmortem/snapshot.h"
#include "defib/postmortem/symbols.h"

namespace defib::postmortem {

class ElfSession {
 public:
  // `left_out`: modules that are known only by name, by their index. `about_to_read` gets the index
  // of a module before its files are opened. `modules` and `options` must outlive the session.
  ElfSession(const std::vector<Module>& modules, const SymbolOptions& options,
             const std::set<std::size_t>& left_out,
             std::function<void(std::size_t module)> about_to_read);
  ElfSession(const ElfSession&) = delete;
  ElfSession& operator=(const ElfSession&) = delete;

  // nullptr: no session; every module is then unknown.
  Dwfl* dwfl() { return dwfl_.get(); }
  const std::vector<Module>& modules() const { return modules_; }
  // nullptr where it was left out.
  Dwfl_Module* module(std::size_t index) { return entries_[index].dwfl; }
  // What module the address lies in.
  std::optional<std::size_t> find(std::uint64_t address) const;
  // What is added to an address in the module's file to make the one in the process.
  std::uint64_t bias(std::size_t index) const { return entries_[index].bias; }
  // False where it was left out, or its file is not there or has another build id.
  bool is_usable(std::size_t index) const { return entries_[index].usable; }
  // Files that had the right name and the wrong content.
  std::vector<std::string>& refused() { return refused_; }

 private:
  struct Entry {
    ElfSession* session = nullptr;
    std::size_t index = 0;
    const Module* module = nullptr;
    Dwfl_Module* dwfl = nullptr;
    std::uint64_t bias = 0;
    bool usable = false;
  };
  struct Closer {
    void operator()(Dwfl* dwfl) const { dwfl_end(dwfl); }
  };
  bool has_right_file(std::size_t index) const;
  static int find_elf(Dwfl_Module*, void** userdata, const char*, Dwarf_Addr, char**, Elf** elf);
  static int find_debug(Dwfl_Module* module, void** userdata, const char* name, Dwarf_Addr base,
                        const char* file, const char* link, GElf_Word crc, char** path);
  static const Dwfl_Callbacks kCallbacks;

  const std::vector<Module>& modules_;
  const SymbolOptions& options_;
  std::function<void(std::size_t)> about_to_read_;
  std::vector<Entry> entries_;
  std::vector<std::string> refused_;
  std::unique_ptr<Dwfl, Closer> dwfl_;
};

}  // namespace defib::postmortem
