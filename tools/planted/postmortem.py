"""Bugs of the postmortem: copying a process, reading the copy, and reading core files."""

COPY = "defib/postmortem/raw_copy_sigsafe.cc"
FACTS = "defib/postmortem/raw_copy_facts_sigsafe.cc"
DECODE = "defib/postmortem/raw_decode.cc"
MINICORE = "defib/postmortem/minicore.cc"
CORE = "defib/postmortem/core.cc"

BUGS = [
    ("a stack is copied from the stack pointer although it lies in the guard page",
     "*stack_overflow*", [
        (COPY, "  const uint64_t start = below > range.start ? below : range.start;\n",
         "  const uint64_t start = below;\n")]),
    ("the crashed thread's registers are those of the stopped thread", "Victims/RealCrash.*", [
        (DECODE, "  thread.registers = crashed_->registers;\n", "")]),
    ("of a lock only what lies behind its futex is copied", "LiveLocks.*", [
        (COPY, "  const uint64_t start = futex - kBeforeFutex;\n", "  const uint64_t start = futex;\n")]),
    ("modules whose first page was not copied are forgotten", "RawSnapshot.ThatEndsBehind*", [
        (DECODE, "  modules_without_pages();\n  for",
         "  for")]),
    ("a copy that was cut short looks whole", "RawSnapshot.ThatEndsBehind*", [
        (DECODE, "  if (header.released_mono_ns == 0) {\n", "  if (header.released_mono_ns == -1) {\n")]),
    ("the modules are copied last, and left out of a late copy", "RawSnapshot.ThatHadNoTime*", [
        (COPY, "  copier.modules();\n  copier.other_stacks();\n", "  copier.other_stacks();\n"),
        (DECODE, "  modules_without_pages();\n  for",
         "  for")]),
    ("a capture takes no notice of its deadline", "RawSnapshot.ThatHadNoTime*", [
        (COPY, "    if (mono_ns() < options_.deadline_ns) return false;\n",
         "    if (mono_ns() < INT64_MAX) return false;\n")]),
    ("the facts for a bundle take no notice of their deadline", "ProcessFacts.EndsAtItsDeadline*", [
        (FACTS, "    if (mono_ns() >= until) {\n      Text what;\n",
         "    if (mono_ns() < 0) {\n      Text what;\n")]),
    ("a small core has the registers in another order", "RawSnapshot.BecomesACore*", [
        (MINICORE, "{10, 12, 11, 5, 13, 14, 4,", "{10, 12, 11, 5, 14, 13, 4,")]),
    ("links lead out of another machine's root", "AnyCore.TakesFiles*", [
        (CORE, "  how.resolve = RESOLVE_IN_ROOT;\n", "")]),
    ("a file of another build gives the names", "AnyCore.TakesFiles*", [
        (CORE, "module.build_id.empty() || module.build_id == found", "true || found.empty()")]),
    ("a core that is cut off looks whole", "AnyCore.CutOff*", [
        (CORE, "  if (size && *size < end) {\n", "  if (size && *size < end && end == 0) {\n")]),
    ("of a debugger's core the first thread is the one that crashed", "AnyCore.OfADebuggerNames*", [
        (CORE, "found == notes_.end() ? 0 : found - notes_.begin()", "0")]),
    ("a process that a debugger stopped has crashed", "AnyCore.OfADebuggersStop*", [
        (CORE, "  if (by_debugger && (signal == SIGSTOP ||", "  if (signal == 0 && (signal == SIGSTOP ||")]),
    ("a pipe is opened, and waited at", "AnyCore.ThatIsAPipe*", [
        (CORE, "&& !S_ISREG(status.st_mode)", "&& S_ISDIR(status.st_mode)")]),
    ("the source shown is that of a library's header", "ReportText.TheSourceShown*", [
        ("defib/postmortem/report.cc", "    auto view = source_view(stack, is_own, sysroot);\n",
         "    std::optional<SourceView> view;\n")]),
]
