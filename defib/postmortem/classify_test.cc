// The rules as a table, one row a case; and the pure functions beside them.

#include "defib/postmortem/classify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/syscall.h>

#include <set>

#include "defib/base/bytes.h"
#include "defib/postmortem/kernel_log.h"

namespace defib::postmortem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr pid_t kPid = 4711;
constexpr std::uint64_t kStackStart = 0x7ffd00010000;
constexpr std::uint64_t kHeap = 0x555555559000;

struct Row {
  std::string name;
  CrashFacts facts;
  Cause cause;
  std::string subtype;
  double confidence = 0.5;  // at least
};
std::ostream& operator<<(std::ostream& out, const Row& row) {
  return out << row.name;
}

std::vector<Mapping> typical_maps() {
  return parse_maps(
      "555555554000-555555558000 r-xp 00000000 08:01 1  /opt/engine\n"
      "555555558000-555555559000 r--p 00004000 08:01 1  /opt/engine\n"
      "555555559000-55555557a000 rw-p 00000000 00:00 0  [heap]\n"
      "7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n"
      "7f0000001000-7f0000801000 rw-p 00000000 00:00 0 \n"
      "7f1000000000-7f1000002000 r--s 00000000 08:01 2  /var/journal\n"
      "7ffd00010000-7ffd00031000 rw-p 00000000 00:00 0  [stack]\n");
}

CrashFacts fault(int signal, int code, std::uint64_t address) {
  CrashFacts facts;
  facts.pid = kPid;
  facts.signal.signal = signal;
  facts.signal.code = code;
  facts.signal.fault_address = address;
  facts.signal.access = CrashAccess::kRead;
  facts.maps = typical_maps();
  facts.registers.emplace();
  facts.registers->machine = Machine::kX86_64;
  facts.registers->values[7] = kStackStart + 0x10000;
  facts.registers->set_pc(0x555555555000);
  return facts;
}

CrashFacts with(CrashFacts facts, auto change) {
  change(facts);
  return facts;
}

CrashFacts aborted(std::string message, std::string stderr_tail = {}) {
  CrashFacts facts = fault(SIGABRT, SI_TKILL, 0);
  facts.signal.sender_pid = kPid;
  facts.message = std::move(message);
  facts.stderr_tail = std::move(stderr_tail);
  return facts;
}

CrashFacts ended(int wait_status) {
  CrashFacts facts;
  facts.pid = kPid;
  facts.status = os::exit_status_from_wait(wait_status);
  return facts;
}

std::vector<Row> fault_rows() {
  const auto sp = [](std::uint64_t value) {
    return [value](CrashFacts& f) { f.registers->values[7] = value; };
  };
  const auto pc = [](std::uint64_t value) {
    return [value](CrashFacts& f) { f.registers->set_pc(value); };
  };
  const auto rax = [](std::uint64_t value) {
    return [value](CrashFacts& f) { f.registers->values[0] = value; };
  };
  const auto in = [](std::string function) {
    return [function](CrashFacts& f) { f.top_functions = {function}; };
  };
  return {
      {"null", fault(SIGSEGV, SEGV_MAPERR, 0), Cause::null_dereference, ""},
      {"null_member", fault(SIGSEGV, SEGV_MAPERR, 0x18), Cause::null_dereference, ""},
      {"null_array", fault(SIGSEGV, SEGV_MAPERR, 0xfff0), Cause::null_dereference, ""},
      {"null_call", with(fault(SIGSEGV, SEGV_MAPERR, 0), pc(0)), Cause::null_dereference,
       "null_call"},
      {"wild", fault(SIGSEGV, SEGV_MAPERR, 0x12340000000), Cause::segmentation_fault,
       "wild_pointer"},
      {"just_above_null_window", fault(SIGSEGV, SEGV_MAPERR, 0x10000), Cause::segmentation_fault,
       "wild_pointer"},
      {"wild_jump", with(fault(SIGSEGV, SEGV_MAPERR, 0x12340000000), pc(0x12340000000)),
       Cause::segmentation_fault, "wild_jump"},
      {"non_canonical", with(fault(SIGSEGV, SI_KERNEL, 0), rax(0x4141424243434444)),
       Cause::segmentation_fault, "non_canonical"},
      {"poisoned", with(fault(SIGSEGV, SI_KERNEL, 0), rax(0xdddddddddddddddd)),
       Cause::segmentation_fault, "use_after_free"},
      {"poisoned_with_offset", with(fault(SIGSEGV, SI_KERNEL, 0), rax(0x5a5a5a5a5a5a5a72)),
       Cause::segmentation_fault, "use_after_free"},
      {"protection_without_suspect", fault(SIGSEGV, SI_KERNEL, 0), Cause::segmentation_fault,
       "general_protection"},
      {"freed_block", fault(SIGSEGV, SEGV_MAPERR, (kHeap >> 12) + 16), Cause::segmentation_fault,
       "use_after_free"},
      {"in_malloc", with(fault(SIGSEGV, SEGV_MAPERR, 0x12340000000), in("_int_malloc")),
       Cause::heap_corruption, "in_allocator"},
      {"in_malloc_non_canonical", with(fault(SIGSEGV, SI_KERNEL, 0), in("unlink_chunk.isra.0")),
       Cause::heap_corruption, "in_allocator"},
      {"in_a_function_called_mallocate",
       with(fault(SIGSEGV, SEGV_MAPERR, 0x12340000000), in("mallocate")), Cause::segmentation_fault,
       "wild_pointer"},
      {"read_only",
       with(fault(SIGSEGV, SEGV_ACCERR, 0x555555558010),
            [](CrashFacts& f) { f.signal.access = CrashAccess::kWrite; }),
       Cause::segmentation_fault, "write_to_read_only"},
      {"execute_data",
       with(fault(SIGSEGV, SEGV_ACCERR, kHeap + 64),
            [](CrashFacts& f) { f.signal.access = CrashAccess::kExecute; }),
       Cause::segmentation_fault, "execute_data"},
      {"main_stack_overflow", with(fault(SIGSEGV, SEGV_MAPERR, kStackStart - 8), sp(kStackStart)),
       Cause::stack_overflow, ""},
      {"stack_pointer_below_the_stack",
       with(fault(SIGSEGV, SEGV_MAPERR, kStackStart - 0x800), sp(kStackStart - 0x900)),
       Cause::stack_overflow, ""},
      {"thread_stack_overflow",
       with(fault(SIGSEGV, SEGV_ACCERR, 0x7f0000000ff8), sp(0x7f0000001000)), Cause::stack_overflow,
       ""},
      {"thread_stack_pointer_in_guard",
       with(fault(SIGSEGV, SEGV_ACCERR, 0x7f0000000800), sp(0x7f0000000808)), Cause::stack_overflow,
       ""},
      {"guard_page_hit_from_elsewhere",
       with(fault(SIGSEGV, SEGV_ACCERR, 0x7f0000000800), sp(0x7f0000700000)),
       Cause::segmentation_fault, "no_access_page"},
      {"raised",
       with(fault(SIGSEGV, SI_TKILL, 0), [](CrashFacts& f) { f.signal.sender_pid = kPid; }),
       Cause::segmentation_fault, "raised_by_itself"},
      {"sent", with(fault(SIGSEGV, SI_USER, 0), [](CrashFacts& f) { f.signal.sender_pid = 7; }),
       Cause::killed_externally, "SIGSEGV"},
      {"bus_truncated", fault(SIGBUS, BUS_ADRERR, 0x7f1000001000), Cause::bus_error,
       "file_truncated"},
      {"bus_misaligned", fault(SIGBUS, BUS_ADRALN, 0x7f1000001001), Cause::bus_error, "misaligned"},
      {"bus_hardware", fault(SIGBUS, BUS_MCEERR_AR, kHeap), Cause::bus_error,
       "hardware_memory_error"},
      {"divide", fault(SIGFPE, FPE_INTDIV, 0x555555555000), Cause::arithmetic_fault,
       "integer_division"},
      {"float", fault(SIGFPE, FPE_FLTINV, 0x555555555000), Cause::arithmetic_fault,
       "float_invalid"},
      {"trap",
       with(fault(SIGILL, ILL_ILLOPN, 0x555555555000),
            [](CrashFacts& f) { f.code = "\x0f\x0b\x90"; }),
       Cause::illegal_instruction, "trap_instruction"},
      {"bad_opcode",
       with(fault(SIGILL, ILL_ILLOPN, 0x555555555000), [](CrashFacts& f) { f.code = "\x62\xf1"; }),
       Cause::illegal_instruction, "bad_opcode"},
      {"breakpoint", fault(SIGTRAP, SI_KERNEL, 0), Cause::illegal_instruction, "breakpoint"},
      {"seccomp", fault(SIGSYS, 1, 0x555555555000), Cause::bad_system_call, "seccomp"},
  };
}

std::vector<Row> abort_rows() {
  return {
      {"plain", aborted(""), Cause::abort, ""},
      {"assert", aborted("engine: book.cc:41: void settle(int): Assertion `x >= 0' failed."),
       Cause::assertion_failure, ""},
      {"own_assert", aborted("", "defib: assertion failed: ready() at x.cc:7\n"),
       Cause::assertion_failure, ""},
      {"exception", aborted("uncaught exception of type 'std::runtime_error': it's 'odd'"),
       Cause::uncaught_exception, "std::runtime_error"},
      {"exception_without_text", aborted("uncaught exception of type 'int'"),
       Cause::uncaught_exception, "int"},
      {"exception_in_stderr",
       aborted("",
               "terminate called after throwing an instance of 'std::bad_alloc'\n"
               "  what():  std::bad_alloc\n"),
       Cause::out_of_memory, "allocator"},
      {"bad_alloc_in_the_page",
       aborted("uncaught exception of type 'std::bad_alloc': std::bad_alloc"), Cause::out_of_memory,
       "allocator"},
      {"impossible_length",
       aborted("uncaught exception of type 'std::bad_array_new_length': std::bad_array_new_length"),
       Cause::uncaught_exception, "std::bad_array_new_length"},
      {"terminate", aborted("terminate without an active exception"), Cause::uncaught_exception,
       "no_active_exception"},
      {"pure_virtual",
       aborted("terminate without an active exception", "pure virtual method called\n"),
       Cause::abort, "pure_virtual_call"},
      {"double_free", aborted("double free or corruption (top)"), Cause::heap_corruption,
       "double_free"},
      {"size_overwritten", aborted("double free or corruption (out)"), Cause::heap_corruption,
       "overwritten_heap"},
      {"tcache_double_free", aborted("free(): double free detected in tcache 2"),
       Cause::heap_corruption, "double_free"},
      {"invalid_pointer", aborted("free(): invalid pointer"), Cause::heap_corruption,
       "invalid_free"},
      {"top_size", aborted("malloc(): corrupted top size"), Cause::heap_corruption,
       "overwritten_heap"},
      {"smashed", aborted("*** stack smashing detected ***: terminated"), Cause::abort,
       "stack_smashing"},
      {"fortified", aborted("*** buffer overflow detected ***: terminated"), Cause::abort,
       "buffer_overflow"},
      {"old_assertion_in_the_log_does_not_explain_a_message",
       aborted("fatal: no disk", "a.cc:1: f: Assertion `y' failed.\n"), Cause::abort, ""},
      {"sent_by_another",
       with(aborted(""),
            [](CrashFacts& f) {
              f.signal.code = SI_USER;
              f.signal.sender_pid = 7;
            }),
       Cause::killed_externally, "SIGABRT"},
  };
}

std::vector<Row> exit_rows() {
  const auto kernel = [](std::string line) {
    return [line](CrashFacts& f) { f.kernel_lines = {line}; };
  };
  const std::string oom = "Memory cgroup out of memory: Killed process 4711 (engine) total-vm:1kB";
  return {
      {"clean", ended(0), Cause::clean_exit, ""},
      {"failure", ended(3 << 8), Cause::exit_failure, "exit_code_3"},
      {"library_missing",
       with(ended(127 << 8),
            [](CrashFacts& f) {
              f.stderr_tail = "x: error while loading shared libraries: libx.so: cannot open\n";
            }),
       Cause::exit_failure, "missing_library"},
      {"cpu_hard_limit",
       with(ended(SIGKILL),
            [](CrashFacts& f) {
              f.cpu_ns = 1'010'000'000;
              f.cpu_limit_ns = 1'000'000'000;
            }),
       Cause::resource_limit, "cpu_time"},
      // Where others use the processor, too, the kernel's ticks are ahead of what it measured.
      {"cpu_hard_limit_by_ticks",
       with(ended(SIGKILL),
            [](CrashFacts& f) {
              f.cpu_ns = 878'000'000;
              f.cpu_limit_ns = 1'000'000'000;
            }),
       Cause::resource_limit, "cpu_time"},
      {"kill_below_the_cpu_limit",
       with(ended(SIGKILL),
            [](CrashFacts& f) {
              f.cpu_ns = 700'000'000;
              f.cpu_limit_ns = 1'000'000'000;
            }),
       Cause::killed_externally, "SIGKILL"},
      {"counter_beside_a_log_that_names_others",
       with(ended(SIGKILL),
            [](CrashFacts& f) {
              f.new_oom_kills = 1;
              f.kernel_log_complete = true;
            }),
       Cause::killed_externally, "SIGKILL"},
      {"not_found", ended(127 << 8), Cause::exit_failure, "command_not_found"},
      {"kill", ended(SIGKILL), Cause::killed_externally, "SIGKILL"},
      {"term", ended(SIGTERM), Cause::killed_externally, "SIGTERM"},
      {"pipe", ended(SIGPIPE), Cause::exit_failure, "broken_pipe"},
      {"cpu", ended(SIGXCPU), Cause::resource_limit, "cpu_time"},
      {"own_kill", with(ended(SIGKILL), [](CrashFacts& f) { f.own_signal = SIGKILL; }),
       Cause::killed_externally, "by_supervisor"},
      {"own_term", with(ended(SIGTERM), [](CrashFacts& f) { f.own_signal = SIGTERM; }),
       Cause::killed_externally, "by_supervisor"},
      {"oom_cgroup", with(ended(SIGKILL), kernel(oom)), Cause::out_of_memory, "cgroup"},
      {"oom_system", with(ended(SIGKILL), kernel("Out of memory: Killed process 4711 (engine)")),
       Cause::out_of_memory, "system"},
      {"oom_report_line",
       with(ended(SIGKILL),
            kernel("oom-kill:constraint=CONSTRAINT_MEMCG,task=engine,pid=4711,uid=0")),
       Cause::out_of_memory, "cgroup"},
      {"oom_of_another", with(ended(SIGKILL), kernel("Out of memory: Killed process 47110 (x)")),
       Cause::killed_externally, "SIGKILL"},
      {"oom_by_counter", with(ended(SIGKILL), [](CrashFacts& f) { f.new_oom_kills = 1; }),
       Cause::out_of_memory, "cgroup"},
      {"own_kill_beside_an_oom_of_a_child",
       with(ended(SIGKILL),
            [](CrashFacts& f) {
              f.new_oom_kills = 1;
              f.own_signal = SIGKILL;
            }),
       Cause::killed_externally, "by_supervisor"},
      {"term_beside_an_oom_of_a_child",
       with(ended(SIGTERM), [](CrashFacts& f) { f.new_oom_kills = 1; }), Cause::killed_externally,
       "SIGTERM"},
      {"segfault_without_report", ended(SIGSEGV), Cause::segmentation_fault, ""},
      {"segfault_in_kernel_log",
       with(ended(SIGSEGV),
            kernel("engine[4711]: segfault at 8 ip 000055 sp 00007f error 6 in engine[55+1]")),
       Cause::null_dereference, ""},
      {"protection_in_kernel_log",
       with(ended(SIGSEGV),
            kernel("traps: engine[4711] general protection fault ip:55 sp:7f error:0")),
       Cause::segmentation_fault, "general_protection"},
      {"abort_by_stderr",
       with(ended(SIGABRT),
            [](CrashFacts& f) { f.stderr_tail = "x: a.cc:1: f: Assertion `y' failed.\n"; }),
       Cause::assertion_failure, ""},
      {"nothing_known", CrashFacts(), Cause::unknown, "", 0},
  };
}

std::vector<Row> hang_rows() {
  const auto alive = [](auto change) {
    CrashFacts facts;
    facts.pid = kPid;
    facts.alive = true;
    facts.threads = {{10, "main", "settle() at bank.cc:4", 0.0}, {11, "feed", "", 0.0}};
    change(facts);
    return facts;
  };
  return {
      {"cycle", alive([](CrashFacts& f) {
         f.lock_cycle = {{10, 11, 0x10, WaitKind::kMutex}, {11, 10, 0x20, WaitKind::kMutex}};
       }),
       Cause::deadlock, "lock_cycle"},
      {"self", alive([](CrashFacts& f) { f.lock_cycle = {{10, 10, 0x10, WaitKind::kMutex}}; }),
       Cause::deadlock, "self_deadlock"},
      {"join", alive([](CrashFacts& f) {
         f.lock_cycle = {{10, 11, 0x10, WaitKind::kJoin}, {11, 10, 0x20, WaitKind::kMutex}};
       }),
       Cause::deadlock, "join_cycle"},
      {"busy", alive([](CrashFacts& f) { f.threads[1].busy_share = 0.97; }), Cause::busy_loop, ""},
      {"busy_in_one_function", alive([](CrashFacts& f) {
         f.threads[1].busy_share = 0.97;
         f.threads[1].samples = 9;
         f.threads[1].hot = {{"spin() at feed.cc:7", 1.0}};
       }),
       Cause::busy_loop, "", 0.9},
      {"exit_waits", alive([](CrashFacts& f) {
         f.threads[0].functions = {"__futex_abstimed_wait",
                                   "pthread_cond_destroy@@GLIBC_2.3.2",
                                   "forget()",
                                   "__run_exit_handlers",
                                   "exit",
                                   "main"};
       }),
       Cause::unknown, "exit_hang"},
      {"abandoned", alive([](CrashFacts& f) {
         f.threads[0].functions = {"__lll_lock_wait", "pthread_mutex_lock", "settle()"};
         f.lock_waits = {{10, 99, 0x10, WaitKind::kAbandoned}};
       }),
       Cause::deadlock, "abandoned_lock"},
      {"a_word_like_an_abandoned_mutex_is_none", alive([](CrashFacts& f) {
         f.threads[0].functions = {"syscall", "std::sys::futex_wait"};
         f.lock_waits = {{10, 99, 0x10, WaitKind::kAbandoned}};
       }),
       Cause::unknown, "blocked"},
      {"chain", alive([](CrashFacts& f) { f.lock_waits = {{10, 11, 0x10, WaitKind::kMutex}}; }),
       Cause::unknown, "blocked"},
      {"stopped", alive([](CrashFacts& f) {
         for (ThreadFacts& thread : f.threads) thread.state = 'T';
       }),
       Cause::unknown, "stopped"},
      {"working", alive([](CrashFacts& f) { f.threads[1].busy_share = 0.4; }), Cause::unknown,
       "blocked"},
  };
}

class Rules : public ::testing::TestWithParam<Row> {};

TEST_P(Rules, GiveTheVerdictOfTheTable) {
  const Row& row = GetParam();
  const Classification verdict = classify(row.facts);
  EXPECT_EQ(to_string(verdict.cause), to_string(row.cause));
  EXPECT_EQ(verdict.subtype, row.subtype);
  EXPECT_GE(verdict.confidence, row.confidence);
  EXPECT_LE(verdict.confidence, 1.0);
  EXPECT_FALSE(verdict.evidence.empty());
  for (const std::string& line : verdict.evidence) EXPECT_EQ(line.find('\n'), line.npos) << line;
}
constexpr auto kName = [](const auto& test) { return test.param.name; };
INSTANTIATE_TEST_SUITE_P(Faults, Rules, ::testing::ValuesIn(fault_rows()), kName);
INSTANTIATE_TEST_SUITE_P(Aborts, Rules, ::testing::ValuesIn(abort_rows()), kName);
INSTANTIATE_TEST_SUITE_P(Exits, Rules, ::testing::ValuesIn(exit_rows()), kName);
INSTANTIATE_TEST_SUITE_P(Hangs, Rules, ::testing::ValuesIn(hang_rows()), kName);

TEST(Classify, NeverClaimsOutOfMemoryWithoutTheKernelsWord) {
  for (int signal = 1; signal < 32; ++signal) {
    EXPECT_NE(classify(ended(signal)).cause, Cause::out_of_memory) << signal;
  }
}

TEST(Classify, AnswersForEverySignalAndCode) {
  for (int signal = 1; signal < 65; ++signal) {
    for (const int code : {-60, -6, -1, 0, 1, 2, 3, 8, 128}) {
      const Classification verdict = classify(fault(signal, code, 0x12340000000));
      EXPECT_EQ(verdict.signal, signal);
      EXPECT_GT(verdict.confidence, 0);
    }
  }
}

Snapshot threads_at(std::initializer_list<std::pair<pid_t, SystemCall>> threads) {
  Snapshot snapshot;
  for (const auto& [tid, call] : threads) {
    ThreadSnapshot thread;
    thread.tid = tid;
    thread.system_call = call;
    snapshot.threads.push_back(thread);
  }
  return snapshot;
}

std::string mutex_bytes(std::uint32_t lock, std::int32_t owner) {
  std::string bytes;
  Writer out(bytes);
  out.u32(lock);
  out.u32(0);
  out.u32(static_cast<std::uint32_t>(owner));
  out.u32(1);
  out.u32(0);
  return bytes;
}

SystemCall futex(std::uint64_t address, std::uint64_t operation, std::uint64_t value) {
  return {SYS_futex, {address, operation, value, 0}};
}

TEST(Locks, MutexOwnersFormACycle) {
  Snapshot snapshot = threads_at({{10, futex(0x100, FUTEX_WAIT_PRIVATE, 2)},
                                  {11, futex(0x200, FUTEX_WAIT_PRIVATE, 2)},
                                  {12, futex(0x100, FUTEX_WAIT_PRIVATE, 2)}});
  snapshot.memory.add(0x100, mutex_bytes(2, 11));
  snapshot.memory.add(0x200, mutex_bytes(2, 10));
  const auto cycle = find_lock_cycle(find_lock_waits(snapshot));
  EXPECT_THAT(cycle, ElementsAre(LockWait{10, 11, 0x100, WaitKind::kMutex},
                                 LockWait{11, 10, 0x200, WaitKind::kMutex}));
}

TEST(Locks, AChainWithoutACircleIsNoDeadlock) {
  Snapshot snapshot =
      threads_at({{10, futex(0x100, FUTEX_WAIT_PRIVATE, 2)}, {11, SystemCall{SYS_read, {}}}});
  snapshot.memory.add(0x100, mutex_bytes(2, 11));
  const auto waits = find_lock_waits(snapshot);
  EXPECT_EQ(waits.size(), 1U);
  EXPECT_THAT(find_lock_cycle(waits), IsEmpty());
}

TEST(Locks, CircleIsFoundFromAThreadThatLeadsIntoIt) {
  const std::vector<LockWait> waits = {
      {9, 10, 1, WaitKind::kMutex}, {10, 11, 2, WaitKind::kMutex}, {11, 10, 3, WaitKind::kMutex}};
  const auto cycle = find_lock_cycle(waits);
  ASSERT_EQ(cycle.size(), 2U);
  EXPECT_EQ(cycle[0].waiter, 10);
}

TEST(Locks, PriorityMutexAndJoinNameTheirOwner) {
  Snapshot snapshot = threads_at({{10, futex(0x100, FUTEX_LOCK_PI_PRIVATE, 0)},
                                  {11, futex(0x200, FUTEX_WAIT_BITSET_PRIVATE, 10)}});
  snapshot.memory.add(0x100, mutex_bytes(11 | FUTEX_WAITERS, 11));
  snapshot.memory.add(0x200, mutex_bytes(10, 0));
  EXPECT_THAT(find_lock_waits(snapshot),
              ElementsAre(LockWait{10, 11, 0x100, WaitKind::kOwnerInWord},
                          LockWait{11, 10, 0x200, WaitKind::kJoin}));
}

TEST(Locks, AWaitWithATimeoutMakesNoEdge) {
  SystemCall timed = futex(0x100, FUTEX_WAIT_BITSET_PRIVATE, 2);
  timed.arguments[3] = 0x7ffd00010000;
  Snapshot snapshot = threads_at({{10, timed}, {11, futex(0x200, FUTEX_WAIT_PRIVATE, 2)}});
  snapshot.memory.add(0x100, mutex_bytes(2, 11));
  snapshot.memory.add(0x200, mutex_bytes(2, 10));
  EXPECT_THAT(find_lock_waits(snapshot), ElementsAre(LockWait{11, 10, 0x200, WaitKind::kMutex}));
}

std::string rwlock_bytes(std::uint32_t readers, std::uint32_t phase, std::uint32_t writers_futex,
                         std::int32_t writer) {
  std::string bytes;
  Writer out(bytes);
  for (const std::uint32_t word : {readers, 1U, phase, writers_futex, 0U, 0U}) out.u32(word);
  out.u32(static_cast<std::uint32_t>(writer));
  for (int i = 0; i < 8; ++i) out.u32(0);
  return bytes;
}

TEST(Locks, AReadWriteLockNamesItsWriter) {
  // One waits to write (at writers_futex), one to read (at the phase's futex).
  Snapshot snapshot = threads_at({{10, futex(0x10c, FUTEX_WAIT_BITSET_PRIVATE, 3)},
                                  {11, futex(0x208, FUTEX_WAIT_BITSET_PRIVATE, 3)}});
  snapshot.memory.add(0x100, rwlock_bytes(3, 1, 3, 11));
  snapshot.memory.add(0x200, rwlock_bytes(3, 3, 0, 10));
  const auto waits = find_lock_waits(snapshot);
  EXPECT_THAT(waits, ElementsAre(LockWait{10, 11, 0x100, WaitKind::kWriter},
                                 LockWait{11, 10, 0x200, WaitKind::kWriter}));
  EXPECT_EQ(find_lock_cycle(waits).size(), 2U);
}

TEST(Locks, ReadersOfALockHaveNoNames) {
  Snapshot snapshot = threads_at({{10, futex(0x108, FUTEX_WAIT_BITSET_PRIVATE, 2)},
                                  {11, futex(0x208, FUTEX_WAIT_BITSET_PRIVATE, 3)}});
  snapshot.memory.add(0x100, rwlock_bytes(8 | 2, 2, 1, 0));
  snapshot.memory.add(0x200, rwlock_bytes(3, 3, 0, 4242));  // no thread of this process
  EXPECT_THAT(find_lock_waits(snapshot), IsEmpty());
}

TEST(Locks, AMutexOfAThreadThatIsGoneIsAbandonedAndNoCircle) {
  Snapshot snapshot = threads_at({{10, futex(0x100, FUTEX_WAIT_PRIVATE, 2)}});
  snapshot.memory.add(0x100, mutex_bytes(2, 4242));
  const auto waits = find_lock_waits(snapshot);
  EXPECT_THAT(waits, ElementsAre(LockWait{10, 4242, 0x100, WaitKind::kAbandoned}));
  EXPECT_THAT(find_lock_cycle(waits), IsEmpty());
  // Where other processes share it, its owner may be one of theirs; where a thread could not be
  // stopped, it may be that one.
  snapshot.threads[0].system_call = futex(0x100, FUTEX_WAIT, 2);
  EXPECT_THAT(find_lock_waits(snapshot), IsEmpty());
  snapshot.threads[0].system_call = futex(0x100, FUTEX_WAIT_PRIVATE, 2);
  snapshot.gaps.emplace_back("thread 11 did not stop in time");
  EXPECT_THAT(find_lock_waits(snapshot), IsEmpty());
}

TEST(Hangs, EachThreadOfADeadlockIsToldWithBothPlaces) {
  CrashFacts facts;
  facts.alive = true;
  facts.threads = {{10, "main", "transfer() at bank.cc:41"},
                   {11, "booking", "book() at bank.cc:17"}};
  facts.lock_cycle = {{10, 11, 0x10, WaitKind::kMutex}, {11, 10, 0x20, WaitKind::kWriter}};
  const Classification verdict = classify(facts);
  EXPECT_THAT(verdict.evidence,
              ElementsAre("thread 10 (main) waits for the mutex 0x10, in transfer() at bank.cc:41; "
                          "it is held by thread 11 (booking), which stands in book() at bank.cc:17",
                          "thread 11 (booking) waits for the read-write lock 0x20, in book() at "
                          "bank.cc:17; it is held by thread 10 (main), which stands in transfer() "
                          "at bank.cc:41"));
}

TEST(Hangs, ABusyLoopIsToldWithItsHotFrames) {
  CrashFacts facts;
  facts.alive = true;
  ThreadFacts feed;
  feed.tid = 11;
  feed.name = "feed";
  feed.busy_share = 1;
  feed.samples = 8;
  feed.hot = {{"poll() at feed.cc:7", 1.0}, {"mix() at feed.cc:2", 0.25}};
  facts.threads = {feed};
  EXPECT_THAT(classify(facts).evidence,
              ElementsAre("thread 11 (feed) was busy for 100 % of the time",
                          "100 % of 8 samples are in poll() at feed.cc:7",
                          "25 % of 8 samples are in mix() at feed.cc:2"));
}

TEST(Locks, ConditionVariableMakesNoEdge) {
  Snapshot snapshot = threads_at({{10, futex(0x100, FUTEX_WAIT_BITSET_PRIVATE, 0)},
                                  {11, futex(0x200, FUTEX_WAIT_PRIVATE, 2)}});
  snapshot.memory.add(0x100, mutex_bytes(0, 11));
  snapshot.memory.add(0x200, mutex_bytes(0, 10));  // free by now
  EXPECT_THAT(find_lock_waits(snapshot), IsEmpty());
}

TEST(Maps, AreReadWithSpacesInNamesAndWithoutBadLines) {
  const auto maps = parse_maps(
      "00400000-00401000 r-xp 00001000 08:01 99 /opt/my engine (deleted)\n"
      "nonsense\n"
      "00500000-00400000 r-xp 00000000 08:01 99 /backwards\n"
      "7ffd0000-7ffe0000 rw-p 00000000 00:00 0                          [stack]\n");
  ASSERT_EQ(maps.size(), 2U);
  EXPECT_EQ(maps[0].path, "/opt/my engine");
  EXPECT_TRUE(maps[0].deleted);
  EXPECT_TRUE(maps[0].executable);
  EXPECT_EQ(maps[0].offset, 0x1000U);
  EXPECT_EQ(maps[1].path, "[stack]");
  EXPECT_EQ(find_mapping(maps, 0x400fff), &maps[0]);
  EXPECT_EQ(find_mapping(maps, 0x401000), nullptr);
  EXPECT_EQ(find_mapping(maps, 0), nullptr);
}

TEST(CommandLine, SecretsAreRedacted) {
  EXPECT_THAT(
      redact_command_line({"engine", "--password=hunter2", "API_KEY=abc", "--api-key", "xyz",
                           "--depth=5", "postgres://joe:pw@db/x", "host=db;Password=p;port=5",
                           "https://x/?token=t&page=2", "--verbose", "--secret", "--next"}),
      ElementsAre("engine", "--password=[redacted]", "API_KEY=[redacted]", "--api-key",
                  "[redacted]", "--depth=5", "postgres://joe:[redacted]@db/x",
                  "host=db;Password=[redacted];port=5", "https://x/?token=[redacted]&page=2",
                  "--verbose", "--secret", "--next"));
}

TEST(KernelLog, NamesOnlyTheProcessThatIsMeant) {
  const std::string record = "6,12,5000000,-;engine[4711]: segfault at 8\n SUBSYSTEM=x\n";
  EXPECT_EQ(kernel_record_about(record, 4711, 0), "engine[4711]: segfault at 8");
  EXPECT_EQ(kernel_record_about(record, 471, 0), "");
  EXPECT_EQ(kernel_record_about(record, 47110, 0), "");
  EXPECT_EQ(kernel_record_about(record, 4711, 9'000'000), "") << "older than asked for";
  EXPECT_EQ(kernel_record_about("6,12,1,-;[ 4711.4711] x", 4711, 0), "") << "a time, no process";
  EXPECT_EQ(kernel_record_about("garbage", 4711, 0), "");
}

TEST(Page, OfACorruptedProcessIsReadWithinItsBounds) {
  CrashPage page{};
  std::memset(static_cast<void*>(&page), 'A', sizeof page);
  const Snapshot snapshot = snapshot_from_page(page);
  EXPECT_EQ(snapshot.message.size(), sizeof page.message);
  EXPECT_EQ(snapshot.signal.access, CrashAccess::kUnknown);
  EXPECT_EQ(snapshot.threads.at(0).registers.machine, Machine::kUnknown);
}

TEST(Registers, OfAArch64AreReadByTheirOwnLayout) {
  std::string regset;
  Writer out(regset);
  for (std::uint64_t i = 0; i < 34; ++i) out.u64(100 + i);
  Registers registers;
  ASSERT_TRUE(registers_from_regset(Machine::kAArch64, regset, registers));
  EXPECT_EQ(registers.frame_pointer(), 129U);
  EXPECT_EQ(registers.sp(), 131U);
  EXPECT_EQ(registers.pc(), 132U);
  EXPECT_EQ(registers.name(30), "x30");
  ASSERT_TRUE(registers_from_regset(Machine::kX86_64, regset, registers));
  EXPECT_EQ(registers.name(7), "rsp");
  EXPECT_EQ(registers.sp(), 119U);
  EXPECT_EQ(registers.pc(), 116U);
  EXPECT_EQ(registers.frame_pointer(), 104U);
  EXPECT_FALSE(registers_from_regset(Machine::kX86_64, regset.substr(0, 100), registers));
}

}  // namespace
}  // namespace defib::postmortem
