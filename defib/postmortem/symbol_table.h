// SymbolTable: of one module, for every code address the functions, inlined ones too, file and
// line. Made once from its debug information; then an address costs a binary search in a mapped
// file, where debug information would have to be unpacked and read again (docs/formats/symbols.md).
//
// Invariants: reading never leaves the bytes and always ends, whatever they hold; bytes whose
// checksum or sizes are wrong are no table.
// Thread rule: builder: one thread; table: immutable.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

namespace defib::postmortem {

// One function at an address. Names as the linker knows them ("_ZN1a1bEv"), or as in the source.
struct Location {
  std::string function;  // empty: not known
  std::string file;      // empty: not known
  int line = 0;
  bool inlined = false;  // into the next one
  friend bool operator==(const Location&, const Location&) = default;
};

// More functions than these are not inlined into one another.
inline constexpr std::size_t kMaxInlineDepth = 64;

class SymbolTableBuilder {
 public:
  // From `offset` on, an address in the module's file, up to the next one that is added; ascending.
  // `locations` innermost first; empty: there is no code, or nothing is known of it.
  void add(std::uint64_t offset, const std::vector<Location>& locations);
  // The table; empty where it would be larger than `max_bytes`. `key` tells which file it is of.
  std::string finish(std::string_view key, bool has_lines, std::size_t max_bytes) const;

 private:
  std::uint32_t text(const std::string& text);
  std::uint32_t chain(const std::vector<Location>& locations);

  using Entry = std::tuple<std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t>;
  std::vector<std::uint32_t> starts_;
  std::vector<std::uint32_t> targets_;
  std::vector<Entry> entries_;
  std::map<Entry, std::uint32_t> entry_index_;
  std::string texts_ = std::string(1, '\0');
  std::map<std::string, std::uint32_t, std::less<>> text_index_;
  bool too_large_ = false;
};

class SymbolTable {
 public:
  // nullopt: no table, or one of another file. The bytes must live as long as the table.
  static std::optional<SymbolTable> open(std::string_view bytes, std::string_view key);
  // What the file had no line numbers for, it has none for either.
  bool has_lines() const { return has_lines_; }
  // Innermost first; empty: nothing is known.
  std::vector<Location> find(std::uint64_t offset) const;

 private:
  std::string text(std::uint32_t at) const;

  std::string_view starts_;
  std::string_view targets_;
  std::string_view entries_;
  std::string_view texts_;
  bool has_lines_ = false;
};

}  // namespace defib::postmortem
