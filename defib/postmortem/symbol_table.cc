#include "defib/postmortem/symbol_table.h"

#include <algorithm>
#include <cstring>

#include "defib/base/bytes.h"

namespace defib::postmortem {
namespace {

constexpr std::string_view kMagic = "DFBSYMS\n";
constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kHasLines = 1;
constexpr std::uint32_t kNone = UINT32_MAX;
constexpr std::size_t kHeaderBytes = 40;
constexpr std::size_t kChecksumAt = 12;
constexpr std::size_t kCheckedFrom = 16;
constexpr std::size_t kEntryBytes = 16;
constexpr std::size_t kMaxTextBytes = 64 * 1024;

std::uint32_t word(std::string_view words, std::size_t index) {
  return load<std::uint32_t>(words.data() + index * sizeof(std::uint32_t));
}

}  // namespace

std::uint32_t SymbolTableBuilder::text(const std::string& text) {
  if (text.empty()) return 0;
  const auto [at, is_new] =
      text_index_.try_emplace(text, static_cast<std::uint32_t>(texts_.size()));
  if (!is_new) return at->second;
  if (texts_.size() + text.size() >= kNone) too_large_ = true;
  if (too_large_) return 0;
  texts_.append(text.c_str(), text.size() + 1);
  return at->second;
}

// Each function points to the one that it is inlined into, which so stands before it.
std::uint32_t SymbolTableBuilder::chain(const std::vector<Location>& locations) {
  std::uint32_t caller = kNone;
  for (auto location = locations.rbegin(); location != locations.rend(); ++location) {
    const Entry entry = {text(location->function), text(location->file),
                         static_cast<std::uint32_t>(location->line), caller};
    const auto [at, is_new] =
        entry_index_.try_emplace(entry, static_cast<std::uint32_t>(entries_.size()));
    if (is_new) entries_.push_back(entry);
    caller = at->second;
  }
  return caller;
}

void SymbolTableBuilder::add(std::uint64_t offset, const std::vector<Location>& locations) {
  if (offset >= kNone) too_large_ = true;
  if (too_large_) return;
  const std::uint32_t target = chain(locations);
  if (!targets_.empty() && targets_.back() == target) return;
  if (targets_.empty() && target == kNone) return;
  starts_.push_back(static_cast<std::uint32_t>(offset));
  targets_.push_back(target);
}

std::string SymbolTableBuilder::finish(std::string_view key, bool has_lines,
                                       std::size_t max_bytes) const {
  const std::size_t size = kHeaderBytes + key.size() + starts_.size() * 2 * sizeof(std::uint32_t) +
                           entries_.size() * kEntryBytes + texts_.size();
  if (too_large_ || size > max_bytes) return {};
  std::string out;
  out.reserve(size);
  Writer writer(out);
  writer.bytes(kMagic);
  writer.u32(kVersion);
  writer.u32(0);  // the checksum
  writer.u32(has_lines ? kHasLines : 0);
  writer.u32(static_cast<std::uint32_t>(key.size()));
  writer.u32(static_cast<std::uint32_t>(starts_.size()));
  writer.u32(static_cast<std::uint32_t>(entries_.size()));
  writer.u64(texts_.size());
  for (const std::uint32_t start : starts_) writer.u32(start);
  for (const std::uint32_t target : targets_) writer.u32(target);
  for (const auto& [function, file, line, caller] : entries_) {
    writer.u32(function);
    writer.u32(file);
    writer.u32(line);
    writer.u32(caller);
  }
  writer.bytes(texts_);
  writer.bytes(key);
  store_value(out.data() + kChecksumAt, crc32c(std::string_view(out).substr(kCheckedFrom)));
  return out;
}

std::optional<SymbolTable> SymbolTable::open(std::string_view bytes, std::string_view key) {
  Reader in(bytes);
  if (in.bytes(kMagic.size()) != kMagic || in.u32() != kVersion) return std::nullopt;
  const std::uint32_t checksum = in.u32();
  const std::uint32_t flags = in.u32();
  const std::uint32_t key_bytes = in.u32();
  const std::uint32_t ranges = in.u32();
  const std::uint32_t entries = in.u32();
  const std::uint64_t text_bytes = in.u64();
  SymbolTable table;
  table.has_lines_ = (flags & kHasLines) != 0;
  table.starts_ = in.bytes(std::size_t{ranges} * sizeof(std::uint32_t));
  table.targets_ = in.bytes(std::size_t{ranges} * sizeof(std::uint32_t));
  table.entries_ = in.bytes(std::size_t{entries} * kEntryBytes);
  table.texts_ = in.bytes(text_bytes);
  if (in.bytes(key_bytes) != key || !in.finished()) return std::nullopt;
  if (crc32c(bytes.substr(kCheckedFrom)) != checksum) return std::nullopt;
  return table;
}

std::string SymbolTable::text(std::uint32_t at) const {
  if (at >= texts_.size()) return {};
  const std::string_view rest = texts_.substr(at, kMaxTextBytes);
  return std::string(rest.substr(0, rest.find('\0')));
}

std::vector<Location> SymbolTable::find(std::uint64_t offset) const {
  std::vector<Location> locations;
  // The last range that starts at the offset or before.
  std::size_t low = 0;
  std::size_t high = starts_.size() / sizeof(std::uint32_t);
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (word(starts_, middle) <= offset) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) return locations;
  std::uint32_t at = word(targets_, low - 1);
  // A caller stands before what is inlined into it; so this ends.
  for (std::uint32_t before = kNone; at < before && locations.size() <= kMaxInlineDepth;) {
    if (std::size_t{at} * kEntryBytes >= entries_.size()) break;
    const std::string_view entry = entries_.substr(std::size_t{at} * kEntryBytes, kEntryBytes);
    const std::uint32_t caller = word(entry, 3);
    locations.push_back({text(word(entry, 0)), text(word(entry, 1)),
                         static_cast<int>(word(entry, 2)), caller != kNone});
    before = at;
    at = caller;
  }
  if (!locations.empty()) locations.back().inlined = false;
  return locations;
}

}  // namespace defib::postmortem
