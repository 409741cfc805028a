"""Bugs of what finds functions, files and lines: debug files, tables, the child that reads them."""

FILES = "defib/postmortem/debug_files.cc"
TABLE = "defib/postmortem/symbol_table.cc"
CACHE = "defib/postmortem/symbol_cache.cc"
DWARF = "defib/postmortem/dwarf_symbols.cc"
GUARDED = "defib/postmortem/guarded.cc"
SYMBOLIZE = "defib/postmortem/symbolize.cc"
SYMBOLIZER = "defib/postmortem/symbolizer.cc"
UNWIND = "defib/postmortem/unwind.cc"
WALK = "defib/postmortem/stack_walk.cc"

BUGS = [
    ("a debug file of another build is used", "DebugFiles.OfAnother*:Symbolize.Checks*:Symbolize.AnAddress*", [
        (FILES, "      if (id == build_id_) return true;\n", "      if (!id.empty()) return true;\n")]),
    ("a debug link's checksum is not compared", "DebugFiles.OfAProgramWithout*", [
        (FILES, "    return crc_of(fd) == link->crc ||\n", "    return crc_of(fd) != 0 ||\n")]),
    ("a copy of the stripped program hides the debug file beside it", "DebugFiles.AreFoundBeside*", [
        (FILES, " && tells_names(search.found().fd.get())", "")]),
    ("a packed section is taken as it comes out", "Unpacked.OfADamaged*", [
        ("defib/postmortem/unpacked_file.cc",
         "  return ::isal_inflate(state.get()) == ISAL_DECOMP_OK && state->avail_out == 0 &&\n"
         "         state->block_state == ISAL_BLOCK_FINISH;\n",
         "  ::isal_inflate(state.get());\n  return true;\n")]),
    ("what was to be done meanwhile is done at each attempt", "Guarded.WhatIsDoneMeanwhile*", [
        ("defib/postmortem/guarded.cc", "attempt == 0 ? meanwhile : nullptr", "meanwhile")]),
    ("a refused debug file is not told", "DebugFiles.OfAnother*", [
        (UNWIND, "  for (const std::string& line : session.refused()) output.write(encode_gap(line));\n",
         "")]),
    ("the return from a signal handler is not marked", "Frames.OfASignal*", [
        (WALK, "  mark_signal_returns(state.walk.steps);\n", "")]),
    ("code of no file is taken for a jump into nowhere", "Frames.OfCode*:Frames.HaveKind*", [
        (UNWIND, "  return mapping->executable ? FrameKind::kJit : FrameKind::kData;\n",
         "  return FrameKind::kData;\n")]),
    ("a return address is looked up instead of the call", "Symbolize.OfAStripped*", [
        (SYMBOLIZE, "    if (!after_signal && !is_signal && group.query.offset > 0) --group.query.offset;\n",
         "")]),
    ("the caller of a wild jump is looked up after its call", "Frames.OfAJump*", [
        (WALK, "    if (!state.walk.steps.empty()) state.walk.steps.front().exact = false;\n", "")]),
    ("a table of another file is believed by its build id", "Cache.ATableOfAnother*", [
        (CACHE, "  return fmt::format(\"{} {}:{} {} {}.{:09}\", id, status.st_dev, status.st_ino, status.st_size,\n"
                "                     status.st_ctim.tv_sec, status.st_ctim.tv_nsec);\n",
         "  return fmt::format(\"{} {}\", id, status.st_size);\n")]),
    ("a damaged table is believed", "SymbolTable.IsRefused*", [
        (TABLE, "  if (crc32c(bytes.substr(kCheckedFrom)) != checksum) return std::nullopt;\n", "")]),
    ("a circle of functions in a table is followed", "SymbolTable.WithHostile*", [
        (TABLE, "at < before && locations.size() <= kMaxInlineDepth;) {\n", "at != before;) {\n")]),
    ("a directory that others may write to is used", "Cache.ADirectory*", [
        (CACHE, "  if (status.st_uid != ::geteuid() || (status.st_mode & kOthersMayWrite) != 0) {\n",
         "  if (status.st_uid != ::geteuid()) {\n")]),
    ("the most recently used tables go first", "Cache.IsBounded*", [
        (CACHE, "  std::ranges::sort(files, {}, &File::used_ns);\n",
         "  std::ranges::sort(files, std::ranges::greater(), &File::used_ns);\n")]),
    ("a table without lines hides a debug file", "Cache.ATableMadeWithout*", [
        (SYMBOLIZER, "has_debug_file(module, options_)", "module.path.empty()")]),
    ("a table leaves out where inlined calls begin", "Cache.TableSays*", [
        (DWARF, "    add_all(function.ranges);\n", "")]),
    ("a module that lets the child fail is read again", "Guarded.ThePart*", [
        (GUARDED, "    const bool is_known = result->mark < parts && left_out.insert(result->mark).second;\n",
         "    const bool is_known = result->mark < parts;\n")]),
    ("a child that hangs is waited for", "Guarded.EndsAHang*", [
        (GUARDED, "  ::kill(child, SIGKILL);\n", "")]),
    ("a child's memory is not bounded", "Guarded.Bounds*", [
        (GUARDED, "  limit(RLIMIT_DATA, limits.memory_bytes);\n", "")]),
    ("without a child there are no stacks", "Hostile.WithoutTime*", [
        (UNWIND, "    if (!known[i]) stack = walked_by_frame_pointers(snapshot, thread);\n",
         "    if (!known[i]) stack.frames.emplace_back();\n")]),
]
