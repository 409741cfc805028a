#include "defib/postmortem/symbolizer.h"

#include <cxxabi.h>

#include <cstdlib>

#include "defib/postmortem/debug_files.h"

namespace defib::postmortem {
namespace {

// A longer name helps nobody, and its demangled form may be longer by far.
constexpr std::size_t kMaxMangledBytes = 8192;

std::string demangle(const std::string& name) {
  // Of anything else the runtime would make a type: "i" would be "int".
  if (!name.starts_with("_Z") || name.size() > kMaxMangledBytes) return name;
  int status = -1;
  const std::unique_ptr<char, decltype(&std::free)> text(
      abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status), &std::free);
  return status == 0 ? text.get() : name;
}

}  // namespace

Symbolizer::Symbolizer(ElfSession& session, const SymbolOptions& options)
    : session_(session), options_(options), sources_(session.modules().size()) {
  if (options.cache_dir.empty()) return;
  auto cache = SymbolCache::open(options.cache_dir, false);
  if (cache) {
    cache_.emplace(std::move(*cache));
  } else if (cache.error().code() != Code::kFileNotFound) {
    gaps_.push_back("symbol tables are not used: " + cache.error().to_line());
  }
}

Symbolizer::Source& Symbolizer::source_of(std::size_t index) {
  std::optional<Source>& source = sources_[index];
  if (source) return *source;
  source.emplace();
  const Module& module = session_.modules()[index];
  if (cache_ && session_.module(index) != nullptr && session_.is_usable(index)) {
    source->table = cache_->find(module);
    // Debug information may have been installed since.
    if (source->table && !source->table->table().has_lines() && has_debug_file(module, options_)) {
      source->table.reset();
    }
  }
  if (!source->table) source->dwarf.emplace(session_.module(index), session_.bias(index));
  return *source;
}

const std::vector<Location>& Symbolizer::locate(std::size_t module, std::uint64_t offset) {
  const auto [at, is_new] = known_.try_emplace({module, offset});
  std::vector<Location>& locations = at->second;
  if (!is_new) return locations;
  Source& source = source_of(module);
  locations = source.table ? source.table->table().find(offset) : source.dwarf->locate(offset);
  if (locations.empty()) locations.emplace_back();
  for (Location& location : locations) {
    const auto [name, first] = demangled_.try_emplace(location.function);
    if (first) name->second = demangle(location.function);
    location.function = name->second;
  }
  return locations;
}

}  // namespace defib::postmortem
