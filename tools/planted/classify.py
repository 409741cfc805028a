"""Bugs of the rules that name a cause, and of the evidence that they read."""

CLASSIFY = "defib/postmortem/classify.cc"
HANG = "defib/postmortem/classify_hang.cc"
LOCKS = "defib/postmortem/locks.cc"
OUTPUT = "defib/postmortem/classify_log.cc"
KERNEL = "defib/postmortem/kernel_log.cc"

BUGS = [
    # No false deadlock.
    ("a wait with a timeout counts as one for ever", "Locks.AWaitWithATimeout*", [
        (LOCKS, "  if (timeout != 0) return std::nullopt;\n", "")]),
    ("a condition variable's word counts as a mutex", "Locks.*", [
        (LOCKS, "head.lock == kLockedWithWaiters && head.users >= 1", "head.users >= 1"),
        (LOCKS, "  if (awaited == kLockedWithWaiters) {\n    return mutex_owner",
         "  if (awaited == kLockedWithWaiters || awaited == 0) {\n    return mutex_owner")]),
    ("the owner need not be a thread of the process", "Locks.*", [
        (LOCKS, "  if (is_thread(snapshot, head.owner)) {\n", "  if (head.owner > 0) {\n")]),
    ("a chain of waits is a circle", "Locks.AChain*", [
        (LOCKS, "      if (at->owner == first.waiter) return path;\n",
         "      if (at->owner != 0) return path;\n")]),
    ("an abandoned lock is one of a circle", "Locks.AMutexOfAThreadThatIsGone*", [
        (LOCKS, "  if (!is_private || (head.kind & kSharedKind) != 0 || !snapshot.gaps.empty()) "
         "return std::nullopt;\n", "  if (!is_private && head.lock == 0) return std::nullopt;\n")]),
    ("any word like a mutex's is an abandoned one", "*Rules.*abandoned*", [
        (HANG, "    if (thread != nullptr && calls(*thread, {\"pthread_mutex_lock\", "
         "\"lll_lock_wait\"})) return &wait;\n", "    if (thread != nullptr) return &wait;\n")]),
    # Deadlocks are found.
    ("a circle of owners is not closed", "Locks.MutexOwners*", [
        (LOCKS, "      if (at->owner == first.waiter) return path;\n", "")]),
    ("a read-write lock has no writer", "Locks.AReadWriteLock*", [
        (LOCKS, "constexpr std::uint64_t kWritersFutexOffset = 12;",
         "constexpr std::uint64_t kWritersFutexOffset = 16;")]),
    ("the owner's place is the waiter's", "Hangs.EachThread*", [
        (HANG, "  return line + where(facts, wait.owner, \", which stands in \");\n",
         "  return line + where(facts, wait.waiter, \", which stands in \");\n")]),
    ("the hot frames are left out", "Hangs.ABusyLoop*", [
        (HANG, "    std::ranges::move(hot_lines(thread)",
         "    if (facts.pid < 0) std::ranges::move(hot_lines(thread)")]),
    # Out of memory only on the kernel's word.
    ("a count of kills decides against the kernel's log", "*counter_beside*", [
        (CLASSIFY, "facts.new_oom_kills.value_or(0) > 0 && !facts.kernel_log_complete",
         "facts.new_oom_kills.value_or(0) > 0")]),
    ("the supervisor's own kill is the kernel's", "*Rules.*own_kill*", [
        (CLASSIFY, "  if (facts.own_signal == SIGKILL) {\n", "  if (facts.own_signal == -1) {\n")]),
    ("a process id is matched as a prefix in the kernel's log", "KernelLog.*", [
        (KERNEL, "    if (starts && ends) return true;\n", "    if (starts) return true;\n")]),
    ("the limit of processor time is not asked", "*cpu_hard_limit*", [
        (CLASSIFY, "facts.cpu_limit_ns > 0 && facts.cpu_ns >= facts.cpu_limit_ns - cpu_slack(facts)",
         "facts.cpu_limit_ns < 0 && facts.cpu_ns >= cpu_slack(facts)")]),
    # Text is evidence, and weaker than facts.
    ("a traceback decides whatever the exit code", "*Outputs.*python_logged*", [
        (OUTPUT, "  if (ending.exit_code != 1) return std::nullopt;\n  constexpr std::string_view "
         "kHead = \"Traceback",
         "  if (ending.exit_code < 1) return std::nullopt;\n  constexpr std::string_view "
         "kHead = \"Traceback")]),
    ("a traceback of long ago decides", "*Outputs.*long_ago*", [
        (OUTPUT, "  if (more > kLinesOfText) return std::nullopt;\n", "")]),
    ("a report of Node.js' decides though the program went on", "*Outputs.*node_gone_on*", [
        (OUTPUT, "  if (sign == whole.npos || whole.find('\\n', sign) != whole.npos) return "
         "std::nullopt;\n", "  if (sign == whole.npos) return std::nullopt;\n")]),
    ("text decides before the kernel's log", "Output.IsWeakerThanTheKernelsWord", [
        (CLASSIFY, "    if (signal == SIGSEGV && facts_from_kernel_line(more)) {\n",
         "    if (auto told = told_by_output(facts, {.signal = signal})) return *told;\n"
         "    if (signal == SIGSEGV && facts_from_kernel_line(more)) {\n")]),
    ("text decides before the crash page's message", "Output.IsWeakerThanTheCrashPage", [
        (CLASSIFY, "  if (auto told = abort_by_text(facts.message, 1.0)) return *told;\n",
         "  if (auto told = told_by_output(facts, {.signal = SIGABRT})) return *told;\n"
         "  if (auto told = abort_by_text(facts.message, 1.0)) return *told;\n")]),
    ("a panic that was recovered from decides", "*Outputs.*rust_caught*", [
        (OUTPUT, "  if (ending.exit_code != kPanicked && ending.signal != SIGABRT) return "
         "std::nullopt;\n", "")]),
    # Rules the wrong way round.
    ("SI_KERNEL's address 0 is taken at its word", "*Faults*", [
        (CLASSIFY, "  if (facts.signal.code == kFromKernel || (facts.signal.code > 0 && "
         "!is_canonical(address))) {\n", "  if (facts.signal.code > 0 && !is_canonical(address)) "
         "{\n")]),
    ("an overflow of the stack is a wild pointer", "*Faults*", [
        (CLASSIFY, "  if (auto overflow = stack_overflow(facts)) return *overflow;\n", "")]),
    ("a refused allocation is just an exception", "*Aborts*", [
        (CLASSIFY, "  if (type != \"std::bad_alloc\") {\n", "  if (type != \"bad_alloc\") {\n")]),
    ("a signal that somebody sent is a fault of its own", "*sent*", [
        (CLASSIFY, "  if (sent && !by_itself) return sent_by_other(facts);\n", "")]),
]
