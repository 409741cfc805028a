#include "defib/postmortem/dwarf_symbols.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <tuple>
#include <unordered_map>

namespace defib::postmortem {
namespace {

constexpr std::size_t kMaxDieDepth = 128;
constexpr int kMaxReferences = 8;
constexpr int kNoNode = -1;
// Whose indexes are kept at a time: code that lies together is mostly of the same ones.
constexpr std::size_t kMaxUnits = 256;

struct Range {
  Dwarf_Addr low = 0;
  Dwarf_Addr high = 0;
  int target = 0;
  int depth = 0;  // of the entry in the tree; the deeper one is the more exact one
};

// Ranges by their start, with what it takes to search those that overlap.
class RangeIndex {
 public:
  void add(const Range& range) {
    if (range.low < range.high) ranges_.push_back(range);
  }
  void sort() {
    std::ranges::sort(ranges_, {}, [](const Range& range) {
      return std::tuple(range.low, range.high, range.depth, range.target);
    });
    reach_.clear();
    Dwarf_Addr reach = 0;
    for (const Range& range : ranges_) reach_.push_back(reach = std::max(reach, range.high));
  }
  // The deepest one that has the address, of equal ones the shortest.
  const Range* find(Dwarf_Addr address) const {
    const Range* best = nullptr;
    const auto after = std::ranges::upper_bound(ranges_, address, {}, &Range::low);
    for (auto at = static_cast<std::size_t>(after - ranges_.begin()); at > 0; --at) {
      if (reach_[at - 1] <= address) break;
      const Range& range = ranges_[at - 1];
      if (address >= range.high) continue;
      if (best == nullptr || range.depth > best->depth ||
          (range.depth == best->depth && range.high - range.low < best->high - best->low)) {
        best = &range;
      }
    }
    return best;
  }
  const std::vector<Range>& all() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
  std::vector<Dwarf_Addr> reach_;  // the farthest end of this one and those before it
};

void add_ranges(Dwarf_Die& die, int target, int depth, RangeIndex& to) {
  Dwarf_Addr base = 0;
  Dwarf_Addr low = 0;
  Dwarf_Addr high = 0;
  for (ptrdiff_t at = dwarf_ranges(&die, 0, &base, &low, &high); at > 0;
       at = dwarf_ranges(&die, at, &base, &low, &high)) {
    to.add({low, high, target, depth});
  }
}

// Every entry below `root`, parents first; `enter(die, depth)` says whether to go below it.
template <typename Enter>
void walk_tree(Dwarf_Die root, Enter enter) {
  std::vector<Dwarf_Die> path(1);
  if (dwarf_child(&root, path.data()) != 0) return;
  while (!path.empty()) {
    Dwarf_Die child;
    const bool below = enter(path.back(), path.size()) && path.size() < kMaxDieDepth;
    if (below && dwarf_child(&path.back(), &child) == 0) {
      path.push_back(child);
      continue;
    }
    while (!path.empty() && dwarf_siblingof(&path.back(), &path.back()) != 0) path.pop_back();
  }
}

bool is_type(int tag) {
  return tag == DW_TAG_class_type || tag == DW_TAG_structure_type || tag == DW_TAG_union_type;
}

std::string linkage_name(Dwarf_Die& die) {
  Dwarf_Attribute attribute;
  for (const unsigned name : {DW_AT_linkage_name, DW_AT_MIPS_linkage_name}) {
    if (dwarf_attr_integrate(&die, name, &attribute) == nullptr) continue;
    if (const char* text = dwarf_formstring(&attribute); text != nullptr) return text;
  }
  return {};
}

bool is_mangled(const char* name) {
  return name[0] == '_' && name[1] == 'Z';
}

struct InlinedCall {
  Dwarf_Die die{};
  int parent = kNoNode;  // the call that this one is inlined into; none: the function itself
  std::string function;
  std::string file;  // where it is called
  int line = 0;
};

struct Function {
  Dwarf_Die die{};
  bool expanded = false;
  std::string name;      // from the debug information alone
  bool is_full = false;  // with namespaces and parameters
  std::vector<InlinedCall> calls;
  RangeIndex ranges;
};

struct Symbol {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  const char* name = nullptr;
};

}  // namespace

// One compilation unit: its functions by address, and what is inlined into those asked for.
class DwarfSymbols::Unit {
 public:
  explicit Unit(const Dwarf_Die& die) : die_(die) {
    Dwarf_Attribute attribute;
    if (const char* text = dwarf_formstring(dwarf_attr(&die_, DW_AT_comp_dir, &attribute))) {
      directory_ = text;
    }
    index(false);
  }

  // nullptr: no function has the address.
  Function* function_at(Dwarf_Addr address) {
    const Range* range = ranges_.find(address);
    if (range == nullptr && !deep_) {
      // Functions of local classes lie inside of other functions: rare, and looked for only then.
      index(true);
      range = ranges_.find(address);
    }
    if (range == nullptr) return nullptr;
    Function& function = functions_[static_cast<std::size_t>(range->target)];
    expand(function);
    return &function;
  }
  void set_line(Dwarf_Addr address, Location& location);
  // Every address at which an answer may change.
  void boundaries(Dwarf_Addr bias, std::vector<Dwarf_Addr>& to);

 private:
  void index(bool deep);
  void expand(Function& function);
  void set_call_site(InlinedCall& call);
  std::string source_name(Dwarf_Die die);
  const std::string& scope_of(Dwarf_Die die);
  void find_scopes();
  std::string full_path(const char* file) const {
    if (file == nullptr) return {};
    if (file[0] == '/' || directory_.empty()) return file;
    return directory_ + "/" + file;
  }
  void load_lines() {
    if (lines_read_) return;
    lines_read_ = true;
    if (dwarf_getsrclines(&die_, &lines_, &line_count_) != 0) line_count_ = 0;
  }

  Dwarf_Die die_;
  std::string directory_;
  std::vector<Function> functions_;
  RangeIndex ranges_;
  bool deep_ = false;
  bool lines_read_ = false;
  Dwarf_Lines* lines_ = nullptr;
  std::size_t line_count_ = 0;
  bool scopes_read_ = false;
  std::unordered_map<Dwarf_Off, std::string> scopes_;  // of functions in namespaces and classes
};

void DwarfSymbols::Unit::index(bool deep) {
  deep_ = deep;
  functions_.clear();
  ranges_ = {};
  walk_tree(die_, [&](Dwarf_Die& die, std::size_t) {
    const int tag = dwarf_tag(&die);
    if (tag == DW_TAG_subprogram && dwarf_hasattr(&die, DW_AT_declaration) == 0) {
      add_ranges(die, static_cast<int>(functions_.size()), 0, ranges_);
      functions_.emplace_back().die = die;
    }
    const bool inside = tag == DW_TAG_subprogram || tag == DW_TAG_lexical_block ||
                        tag == DW_TAG_inlined_subroutine || is_type(tag);
    return tag == DW_TAG_namespace || tag == DW_TAG_module || (deep && inside);
  });
  ranges_.sort();
}

void DwarfSymbols::Unit::expand(Function& function) {
  if (function.expanded) return;
  function.expanded = true;
  function.name = linkage_name(function.die);
  function.is_full = !function.name.empty();
  if (!function.is_full) function.name = source_name(function.die);
  std::vector<int> above = {kNoNode};  // by depth: the call that its entries are inlined into
  walk_tree(function.die, [&](Dwarf_Die& die, std::size_t depth) {
    const int tag = dwarf_tag(&die);
    if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_lexical_block) return false;
    above.resize(depth);
    int node = above.back();
    if (tag == DW_TAG_inlined_subroutine) {
      InlinedCall call;
      call.die = die;
      call.parent = node;
      node = static_cast<int>(function.calls.size());
      add_ranges(die, node, static_cast<int>(depth), function.ranges);
      function.calls.push_back(std::move(call));
    }
    above.push_back(node);
    return true;
  });
  function.ranges.sort();
  for (InlinedCall& call : function.calls) {
    call.function = linkage_name(call.die);
    if (call.function.empty()) call.function = source_name(call.die);
    set_call_site(call);
  }
}

void DwarfSymbols::Unit::set_call_site(InlinedCall& call) {
  Dwarf_Attribute attribute;
  Dwarf_Word line = 0;
  Dwarf_Word file = 0;
  if (dwarf_formudata(dwarf_attr(&call.die, DW_AT_call_line, &attribute), &line) == 0) {
    call.line = static_cast<int>(line);
  }
  Dwarf_Files* files = nullptr;
  std::size_t count = 0;
  if (dwarf_formudata(dwarf_attr(&call.die, DW_AT_call_file, &attribute), &file) == 0 &&
      dwarf_getsrcfiles(&die_, &files, &count) == 0 && file < count) {
    call.file = full_path(dwarf_filesrc(files, file, nullptr, nullptr));
  }
}

// Of functions that no other unit can call there is no name for the linker.
std::string DwarfSymbols::Unit::source_name(Dwarf_Die die) {
  const char* name = dwarf_diename(&die);
  if (name == nullptr) return {};
  const std::string& scope = scope_of(die);
  return scope.empty() ? name : scope + "::" + name;
}

const std::string& DwarfSymbols::Unit::scope_of(Dwarf_Die die) {
  static const std::string kNone;
  const int language = dwarf_srclang(&die_);
  if (language == DW_LANG_C || language == DW_LANG_C89 || language == DW_LANG_C99 ||
      language == DW_LANG_C11 || language == DW_LANG_Mips_Assembler) {
    return kNone;
  }
  find_scopes();
  for (int i = 0; i < kMaxReferences; ++i) {
    const auto found = scopes_.find(dwarf_dieoffset(&die));
    if (found != scopes_.end()) return found->second;
    Dwarf_Attribute attribute;
    if (dwarf_attr(&die, DW_AT_abstract_origin, &attribute) == nullptr &&
        dwarf_attr(&die, DW_AT_specification, &attribute) == nullptr) {
      break;
    }
    if (dwarf_formref_die(&attribute, &die) == nullptr) break;
  }
  return kNone;
}

void DwarfSymbols::Unit::find_scopes() {
  if (scopes_read_) return;
  scopes_read_ = true;
  std::vector<std::string> names = {""};  // by depth
  walk_tree(die_, [&](Dwarf_Die& die, std::size_t depth) {
    const int tag = dwarf_tag(&die);
    names.resize(depth);
    if (tag == DW_TAG_subprogram && !names.back().empty()) {
      scopes_.emplace(dwarf_dieoffset(&die), names.back());
    }
    if (tag != DW_TAG_namespace && !is_type(tag)) return false;
    const char* name = dwarf_diename(&die);
    std::string scope = name != nullptr           ? name
                        : tag == DW_TAG_namespace ? "(anonymous namespace)"
                                                  : "(anonymous class)";
    if (!names.back().empty()) scope.insert(0, names.back() + "::");
    names.push_back(std::move(scope));
    return true;
  });
}

// The last row at or before the address. Of several at one address the last one is meant, unless it
// is the middle of a statement and one before it is the beginning.
void DwarfSymbols::Unit::set_line(Dwarf_Addr address, Location& location) {
  load_lines();
  std::size_t low = 0;
  std::size_t high = line_count_;
  const auto row_address = [&](std::size_t index) {
    Dwarf_Addr at = 0;
    dwarf_lineaddr(dwarf_onesrcline(lines_, index), &at);
    return at;
  };
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (row_address(middle) <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) return;
  std::size_t row = low - 1;
  bool ends = false;
  Dwarf_Line* line = dwarf_onesrcline(lines_, row);
  dwarf_lineendsequence(line, &ends);
  if (ends) return;
  const Dwarf_Addr start = row_address(row);
  bool begins = false;
  dwarf_linebeginstatement(line, &begins);
  for (; !begins && row > 0 && row_address(row - 1) == start; --row) {
    Dwarf_Line* before = dwarf_onesrcline(lines_, row - 1);
    dwarf_lineendsequence(before, &ends);
    if (ends) break;
    dwarf_linebeginstatement(before, &begins);
    if (begins) line = before;
  }
  int number = 0;
  if (dwarf_lineno(line, &number) != 0 || number == 0) return;  // made by the compiler
  location.line = number;
  location.file = full_path(dwarf_linesrc(line, nullptr, nullptr));
}

void DwarfSymbols::Unit::boundaries(Dwarf_Addr bias, std::vector<Dwarf_Addr>& to) {
  if (!deep_) index(true);
  const auto add_all = [&](const RangeIndex& ranges) {
    for (const Range& range : ranges.all()) {
      to.push_back(range.low + bias);
      to.push_back(range.high + bias);
    }
  };
  add_all(ranges_);
  for (Function& function : functions_) {
    expand(function);
    add_all(function.ranges);
  }
  load_lines();
  for (std::size_t i = 0; i < line_count_; ++i) {
    Dwarf_Addr address = 0;
    if (dwarf_lineaddr(dwarf_onesrcline(lines_, i), &address) == 0) to.push_back(address + bias);
  }
}

struct DwarfSymbols::State {
  State(Dwfl_Module* of, std::uint64_t load_bias) : module(of), bias(load_bias) {}

  void load_symbols();
  const Symbol* symbol_at(std::uint64_t address);
  Unit* unit_at(Dwarf_Addr address, Dwarf_Addr& dwarf_bias);
  Unit* unit_of(Dwarf_Die die);
  std::vector<Location> locate(std::uint64_t address);

  Dwfl_Module* module;
  std::uint64_t bias;
  bool symbols_read = false;
  std::vector<Symbol> symbols;  // by address
  std::unordered_map<Dwarf_Off, std::unique_ptr<Unit>> units;
  bool unit_ranges_read = false;
  RangeIndex unit_ranges;
  std::vector<Dwarf_Die> unit_dies;
};

void DwarfSymbols::State::load_symbols() {
  if (symbols_read) return;
  symbols_read = true;
  const int count = dwfl_module_getsymtab(module);
  for (int i = 0; i < count; ++i) {
    GElf_Sym symbol;
    GElf_Addr address = 0;
    GElf_Word section = 0;
    const char* name =
        dwfl_module_getsym_info(module, i, &symbol, &address, &section, nullptr, nullptr);
    if (name == nullptr || name[0] == '\0' || section == SHN_UNDEF || section == SHN_ABS) continue;
    const int type = GELF_ST_TYPE(symbol.st_info);
    if (type != STT_FUNC && type != STT_NOTYPE && type != STT_GNU_IFUNC) continue;
    // Marks of assemblers, not functions.
    if (name[0] == '$' || (name[0] == '.' && name[1] == 'L')) continue;
    symbols.push_back({address, symbol.st_size, name});
  }
  std::ranges::sort(symbols, [](const Symbol& a, const Symbol& b) {
    if (a.address != b.address) return a.address < b.address;
    // Of names for one function the last sized one is taken, as gdb does.
    if ((a.size == 0) != (b.size == 0)) return a.size == 0;
    return std::strcmp(a.name, b.name) < 0;
  });
}

const Symbol* DwarfSymbols::State::symbol_at(std::uint64_t address) {
  load_symbols();
  constexpr int kMaxSteps = 64;
  auto at = std::ranges::upper_bound(symbols, address, {}, &Symbol::address);
  const Symbol* unsized = nullptr;
  for (int i = 0; i < kMaxSteps && at != symbols.begin(); ++i) {
    const Symbol& symbol = *--at;
    if (symbol.size == 0) {
      if (unsized == nullptr) unsized = &symbol;
      continue;
    }
    if (address - symbol.address < symbol.size) return &symbol;
    break;
  }
  return unsized;
}

// Valid until the next call.
DwarfSymbols::Unit* DwarfSymbols::State::unit_of(Dwarf_Die die) {
  if (units.size() >= kMaxUnits && !units.contains(dwarf_dieoffset(&die))) units.clear();
  std::unique_ptr<Unit>& unit = units[dwarf_dieoffset(&die)];
  if (!unit) unit = std::make_unique<Unit>(die);
  return unit.get();
}

DwarfSymbols::Unit* DwarfSymbols::State::unit_at(Dwarf_Addr address, Dwarf_Addr& dwarf_bias) {
  if (Dwarf_Die* die = dwfl_module_addrdie(module, address, &dwarf_bias); die != nullptr) {
    return unit_of(*die);
  }
  // Not every compiler writes .debug_aranges (clang does not).
  if (!unit_ranges_read) {
    unit_ranges_read = true;
    for (Dwarf_Die* die = nullptr;
         (die = dwfl_module_nextcu(module, die, &dwarf_bias)) != nullptr;) {
      add_ranges(*die, static_cast<int>(unit_dies.size()), 0, unit_ranges);
      unit_dies.push_back(*die);
    }
    unit_ranges.sort();
  }
  if (dwfl_module_getdwarf(module, &dwarf_bias) == nullptr) return nullptr;
  const Range* range = unit_ranges.find(address - dwarf_bias);
  return range == nullptr ? nullptr : unit_of(unit_dies[static_cast<std::size_t>(range->target)]);
}

std::vector<Location> DwarfSymbols::State::locate(std::uint64_t address) {
  Location outermost;
  const Symbol* symbol = symbol_at(address);
  if (symbol != nullptr) outermost.function = symbol->name;
  Dwarf_Addr dwarf_bias = 0;
  Unit* unit = unit_at(address, dwarf_bias);
  Function* function = unit == nullptr ? nullptr : unit->function_at(address - dwarf_bias);
  if (unit != nullptr) unit->set_line(address - dwarf_bias, outermost);
  if (function == nullptr) {
    if (outermost == Location()) return {};
    return {outermost};
  }
  // The symbol of a function that has none for other units still tells namespace and parameters.
  const char* short_name = dwarf_diename(&function->die);
  const bool symbol_tells_more = symbol != nullptr && !function->is_full && short_name != nullptr &&
                                 is_mangled(symbol->name) &&
                                 std::strstr(symbol->name, short_name) != nullptr;
  if (!symbol_tells_more && !function->name.empty()) outermost.function = function->name;
  std::vector<Location> locations;
  const Range* range = function->ranges.find(address - dwarf_bias);
  for (int at = range == nullptr ? kNoNode : range->target;
       at != kNoNode && locations.size() < kMaxInlineDepth;) {
    const InlinedCall& call = function->calls[static_cast<std::size_t>(at)];
    locations.push_back({call.function, outermost.file, outermost.line, true});
    // The function around it stands where this one is called.
    outermost.file = call.file;
    outermost.line = call.line;
    at = call.parent;
  }
  locations.push_back(std::move(outermost));
  return locations;
}

DwarfSymbols::DwarfSymbols(Dwfl_Module* module, std::uint64_t bias)
    : state_(std::make_unique<State>(module, bias)) {}
DwarfSymbols::~DwarfSymbols() = default;
DwarfSymbols::DwarfSymbols(DwarfSymbols&&) noexcept = default;

std::vector<Location> DwarfSymbols::locate(std::uint64_t offset) {
  if (state_->module == nullptr) return {};
  return state_->locate(offset + state_->bias);
}

bool DwarfSymbols::has_lines() {
  Dwarf_Addr bias = 0;
  return state_->module != nullptr && dwfl_module_getdwarf(state_->module, &bias) != nullptr &&
         dwfl_module_nextcu(state_->module, nullptr, &bias) != nullptr;
}

std::string DwarfSymbols::make_table(std::string_view key, std::size_t max_bytes) {
  if (state_->module == nullptr) return {};
  std::vector<Dwarf_Addr> boundaries;
  state_->load_symbols();
  for (const Symbol& symbol : state_->symbols) {
    boundaries.push_back(symbol.address);
    boundaries.push_back(symbol.address + symbol.size);
  }
  Dwarf_Addr dwarf_bias = 0;
  for (Dwarf_Die* die = nullptr;
       (die = dwfl_module_nextcu(state_->module, die, &dwarf_bias)) != nullptr;) {
    state_->unit_of(*die)->boundaries(dwarf_bias, boundaries);
  }
  std::ranges::sort(boundaries);
  const auto repeated = std::ranges::unique(boundaries);
  boundaries.erase(repeated.begin(), repeated.end());
  SymbolTableBuilder builder;
  for (const Dwarf_Addr address : boundaries) {
    if (address >= state_->bias) builder.add(address - state_->bias, state_->locate(address));
  }
  return builder.finish(key, has_lines(), max_bytes);
}

}  // namespace defib::postmortem
