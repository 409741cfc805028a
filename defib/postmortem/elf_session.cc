#include "defib/postmortem/elf_session.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "defib/postmortem/debug_files.h"
#include "defib/postmortem/module_file.h"
#include "defib/postmortem/unpacked_file.h"

namespace defib::postmortem {

const Dwfl_Callbacks ElfSession::kCallbacks = {find_elf, find_debug, dwfl_offline_section_address,
                                               nullptr};

ElfSession::ElfSession(const std::vector<Module>& modules, const SymbolOptions& options,
                       const std::set<std::size_t>& left_out,
                       std::function<void(std::size_t)> about_to_read)
    : modules_(modules),
      options_(options),
      about_to_read_(std::move(about_to_read)),
      entries_(modules.size()) {
  // Set by some distributions for everybody; a postmortem must not wait for a network.
  ::unsetenv("DEBUGINFOD_URLS");
  dwfl_.reset(dwfl_begin(&kCallbacks));
  if (dwfl_) dwfl_report_begin(dwfl_.get());
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const Module& module = modules[i];
    Entry& entry = entries_[i];
    entry.session = this;
    entry.index = i;
    entry.module = &module;
    entry.usable = !left_out.contains(i) && has_right_file(i);
    entry.bias = entry.usable || left_out.contains(i) ? load_bias(module) : module.start;
    if (!dwfl_ || left_out.contains(i)) continue;
    entry.dwfl = dwfl_report_module(dwfl_.get(), module.path.c_str(), module.start, module.end);
    void** userdata = nullptr;
    if (entry.dwfl == nullptr) continue;
    dwfl_module_info(entry.dwfl, &userdata, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
    *userdata = &entry;
  }
  if (dwfl_) dwfl_report_end(dwfl_.get(), nullptr, nullptr);
}

bool ElfSession::has_right_file(std::size_t index) const {
  const Module& module = modules_[index];
  if (!module.image.empty()) return true;
  if (!module.file.valid()) return false;
  if (module.build_id.empty()) return true;  // It cannot be checked.
  if (build_id_in_file(module) == module.build_id) return true;
  // A debug file has it in a section only.
  about_to_read_(index);
  return build_id_of(module.file.get()) == module.build_id;
}

std::optional<std::size_t> ElfSession::find(std::uint64_t address) const {
  for (std::size_t i = 0; i < modules_.size(); ++i) {
    if (address >= modules_[i].start && address < modules_[i].end) return i;
  }
  return std::nullopt;
}

// A descriptor, or -1 and perhaps an Elf, of a module's file.
int ElfSession::find_elf(Dwfl_Module*, void** userdata, const char*, Dwarf_Addr, char**,
                         Elf** elf) {
  const auto* entry = static_cast<const Entry*>(*userdata);
  if (entry == nullptr || !entry->usable) return -1;
  entry->session->about_to_read_(entry->index);
  const Module& module = *entry->module;
  if (!module.image.empty()) {
    // libelf does not write to it; its interface is older than const.
    *elf = elf_memory(const_cast<char*>(module.image.data()), module.image.size());
    return -1;
  }
  return module.file.valid() ? ::dup(module.file.get()) : -1;
}

int ElfSession::find_debug(Dwfl_Module* dwfl, void** userdata, const char* name, Dwarf_Addr base,
                           const char* file, const char* link, GElf_Word crc, char** path) {
  const auto* entry = static_cast<const Entry*>(*userdata);
  if (entry == nullptr || entry->module->path.starts_with('[')) return -1;
  // What a debug file shares with others (.gnu_debugaltlink) comes without a checksum.
  if (link != nullptr && crc == 0) {
    return dwfl_standard_find_debuginfo(dwfl, userdata, name, base, file, link, crc, path);
  }
  DebugFile found = find_debug_file(*entry->module, {link != nullptr ? link : "", crc},
                                    entry->session->options_, entry->session->refused_);
  if (!found.fd.valid()) return -1;
  *path = ::strdup(found.path.c_str());
  os::Fd unpacked = unpacked_file(found.fd.get());
  return unpacked.valid() ? unpacked.release() : found.fd.release();
}

}  // namespace defib::postmortem
