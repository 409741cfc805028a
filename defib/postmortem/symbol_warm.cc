#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "defib/os/files.h"
#include "defib/postmortem/collect.h"
#include "defib/postmortem/debug_files.h"
#include "defib/postmortem/guarded.h"
#include "defib/postmortem/module_file.h"
#include "defib/postmortem/symbolize.h"
#include "defib/postmortem/symbolizer.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxModules = 1024;

os::Fd open_plain(const std::string& path) {
  return os::Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
}

// The table of one module, made in a child.
Result<std::string> make_table(const Module& module, const std::string& key,
                               const SymbolOptions& options) {
  std::vector<Module> modules(1);
  modules[0].start = module.start;
  modules[0].end = module.end;
  modules[0].path = module.path;
  modules[0].build_id = module.build_id;
  modules[0].file = os::Fd(::fcntl(module.file.get(), F_DUPFD_CLOEXEC, 0));
  GuardLimits limits = limits_of(options);
  limits.low_priority = true;
  DEFIB_TRY_ASSIGN(const GuardResult result,
                   run_guarded(
                       [&](const GuardOutput& output) {
                         ElfSession session(modules, options, {}, [](std::size_t) {});
                         DwarfSymbols symbols(session.module(0), session.bias(0));
                         output.write(symbols.make_table(key, kMaxSymbolTableBytes));
                       },
                       limits));
  if (!result.finished || result.records.size() != 1) {
    return Error(Code::kCaptureFailed, "reading its symbols failed: " + result.failure);
  }
  if (result.records[0].empty()) {
    return Error(Code::kCaptureFailed, fmt::format("its symbol table would be larger than {} bytes",
                                                   kMaxSymbolTableBytes));
  }
  if (!SymbolTable::open(result.records[0], key)) {
    return Error(Code::kCaptureFailed, "the symbol table that was made of it is none");
  }
  return std::string(result.records[0]);
}

}  // namespace

Result<Warmed> warm_symbols(const std::vector<Module>& modules, const SymbolOptions& options) {
  DEFIB_TRY_ASSIGN(const SymbolCache cache, SymbolCache::open(options.cache_dir, true));
  DEFIB_TRY_ASSIGN(const auto lock, cache.lock());
  Warmed warmed;
  for (const Module& module : modules) {
    const std::string key = SymbolCache::key_of(module);
    if (key.empty()) {
      warmed.gaps.push_back(fmt::format("{}: no build id, or no file: no table", module.path));
      continue;
    }
    const auto present = cache.find(module);
    if (present && (present->table().has_lines() || !has_debug_file(module, options))) {
      ++warmed.kept;
      continue;
    }
    const auto table = make_table(module, key, options);
    auto stored = table ? cache.store(module, *table) : Result<>(table.error());
    if (stored) {
      ++warmed.made;
    } else {
      warmed.gaps.push_back(fmt::format("{}: {}", module.path, stored.error().to_line()));
    }
  }
  cache.evict();
  return warmed;
}

Result<std::vector<Module>> modules_of_process(pid_t pid) {
  const std::string proc = fmt::format("/proc/{}/", pid);
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(os::real_files(), proc + "maps"));
  std::vector<Module> modules;
  std::set<std::string> seen;
  const MemoryReader read = [pid](std::uint64_t address, std::size_t size) {
    return read_process_memory(pid, address, size);
  };
  for (const Mapping& mapping : parse_maps(text)) {
    if (!mapping.path.starts_with('/') || modules.size() >= kMaxModules) continue;
    if (!seen.insert(mapping.path).second) {
      for (Module& module : modules) {
        if (module.path == mapping.path) module.end = mapping.end;
      }
      continue;
    }
    Module module{mapping.start, mapping.end, mapping.path, {}, {}, {}};
    // Through the process's own root, which may be a container's.
    module.file = open_plain(proc + "root" + mapping.path);
    if (!module.file.valid() || !is_elf(module.file.get())) continue;
    module.build_id = build_id_in_memory(mapping.start, read);
    if (!module.build_id.empty()) modules.push_back(std::move(module));
  }
  return modules;
}

Result<Module> module_of_file(const std::string& path) {
  Module module;
  module.path = path;
  module.start = std::uint64_t{1} << 40;
  module.end = module.start + (std::uint64_t{1} << 38);
  module.file = open_plain(path);
  if (!module.file.valid()) return os::system_error("open", path);
  if (!is_elf(module.file.get())) {
    return Error(Code::kInvalidArgument, fmt::format("{} is no ELF file", path)).with("path", path);
  }
  module.build_id = build_id_in_file(module);
  return module;
}

}  // namespace defib::postmortem
