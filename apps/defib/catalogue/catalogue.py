#!/usr/bin/env python3
"""A catalogue of programs that die or hang, and what defib calls it.

    catalogue.py BIN_DIR VICTIM_DIR [short|all|NAME...] [--seed N] [--jobs N]

Each victim runs under a real `defib run` with a state directory of its own. Of an end the
incident's classification is compared with the table below, of a hang that of `defib analyze PID`.
The programs are in C, C++, Python, Node.js, Go and Rust, and servers that nobody here wrote: Redis, nginx and
PostgreSQL. What is not installed is named and left out.

Fails where fewer than 95 % are named right, or where one that is no deadlock is called one.
`short` (the default, or DEFIB_CATALOGUE=short) takes a sample by a seed, which it prints;
DEFIB_CATALOGUE=all takes every victim.
"""

import argparse
import collections
import concurrent.futures
import os
import random
import re
import shutil
import signal
import sys
import time

import servers
from rig import Rig

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = "/usr/bin/python3"
NEEDED_SHARE = 0.95
SHORT_SIZE = 20

# What is expected: cause, subtypes of which one has to be there (None: any), and a pattern that a
# line of evidence has to match.
Victim = collections.namedtuple("Victim", "name kind command act cause subtypes evidence needs")


def victims():
    found = []

    def add(name, kind, command, cause, subtypes=None, evidence="", act=None, needs=()):
        if isinstance(subtypes, str):
            subtypes = (subtypes,)
        found.append(Victim(name, kind, command, act, cause, subtypes, evidence, tuple(needs)))

    def c(mode, *expected, **more):
        add("c:" + mode, "end", ["{dir}/victim_c", mode], *expected, **more)

    def cpp(mode, *expected, **more):
        add("c++:" + mode, "end", ["{dir}/victim_cpp", mode], *expected, **more)

    def hang(mode, *expected, **more):
        add("c++:" + mode, "hang", ["{dir}/victim_cpp", mode], *expected, **more)

    def python(mode, *expected, kind="end", **more):
        add("python:" + mode, kind, [PYTHON, f"{HERE}/victim.py", mode], *expected, needs=[PYTHON],
            **more)

    def node(mode, *expected, kind="end", options=(), **more):
        add("node:" + mode, kind, ["node", *options, f"{HERE}/victim.js", mode], *expected,
            needs=["node"], **more)

    def go(mode, *expected, kind="end", name=None, environment=(), **more):
        command = ["env", *environment] if environment else []
        add("go:" + (name or mode), kind, [*command, "{dir}/victim_go", mode], *expected,
            needs=["{dir}/victim_go"], **more)

    def rust(mode, *expected, kind="end", **more):
        add("rust:" + mode, kind, ["{dir}/victim_rs", mode], *expected,
            needs=["{dir}/victim_rs"], **more)

    # Faults of memory.
    c("null_read", "null_dereference", "")
    c("null_member_write", "null_dereference", "", r"write of 0x18")
    c("null_call", "null_dereference", "null_call")
    c("null_index", "null_dereference", "")
    c("wild_write", "segmentation_fault", "wild_pointer", r"0x123456789008")
    c("wild_jump", "segmentation_fault", "wild_jump")
    c("non_canonical", "segmentation_fault", "non_canonical", r'0x4141414141414141.*"AAAAAAAA"')
    c("write_read_only", "segmentation_fault", "write_to_read_only")
    c("execute_data", "segmentation_fault", "execute_data")
    c("guard_page", "segmentation_fault", "no_access_page")
    c("use_after_free", "segmentation_fault", "use_after_free", r"freed block")
    c("stack_overflow", "stack_overflow")
    c("stack_overflow_thread", "stack_overflow")
    c("crash_in_handler", "null_dereference")
    c("eight_threads", "null_dereference")
    c("library_constructor", "null_dereference")
    c("crash_after_exec", "null_dereference")
    c("handler_exits", "exit_failure", "exit_code_11")  # it took the signal for itself
    c("raise_segv", "segmentation_fault", "raised_by_itself")
    c("crash_in_malloc", "heap_corruption", None)
    cpp("null_object", "null_dereference")
    cpp("logged_exception_then_null", "null_dereference")
    # Aborts.
    c("assertion", "assertion_failure", "", r"balance >= 0")
    c("plain_abort", "abort", "")
    c("abort_after_text", "abort", "", r"journal is unreadable")
    c("abort_after_old_text", "abort", "")
    c("double_free", "heap_corruption", "double_free", r"double free")
    c("invalid_free", "heap_corruption", "invalid_free", r"invalid pointer")
    c("heap_smash", "heap_corruption", "overwritten_heap")
    c("stack_smash", "abort", "stack_smashing")
    c("fortified_overflow", "abort", "buffer_overflow")
    cpp("container_assertion", "assertion_failure", "")
    cpp("runtime_error", "uncaught_exception", "std::runtime_error", r"book is crossed")
    cpp("own_exception", "uncaught_exception", "(anonymous namespace)::UnknownSymbol", r"XYZ")
    cpp("thrown_integer", "uncaught_exception", "int")
    cpp("out_of_range", "uncaught_exception", "std::out_of_range")
    cpp("bad_variant", "uncaught_exception", "std::bad_variant_access")
    cpp("in_noexcept", "uncaught_exception", "std::runtime_error")
    cpp("in_thread", "uncaught_exception", "std::runtime_error")
    cpp("in_destructor", "uncaught_exception", "std::logic_error", r"closed twice")
    cpp("joinable_destroyed", "uncaught_exception", "no_active_exception")
    cpp("terminate_called", "uncaught_exception", "no_active_exception")
    cpp("pure_virtual", "abort", "pure_virtual_call")
    cpp("bad_alloc", "out_of_memory", "allocator", r"bad_alloc")
    cpp("bad_array_length", "uncaught_exception", "std::bad_array_new_length")
    # Arithmetic, instructions, files, system calls.
    c("integer_division", "arithmetic_fault", "integer_division")
    c("integer_overflow_division", "arithmetic_fault", "integer_division")
    c("trap", "illegal_instruction", "trap_instruction")
    c("bad_opcode", "illegal_instruction", "bad_opcode")
    c("breakpoint", "illegal_instruction", "breakpoint")
    c("truncated_mapping", "bus_error", "file_truncated")
    c("seccomp_kill", "bad_system_call", "seccomp")
    c("seccomp_kill_process", "bad_system_call")
    # Limits and exits.
    c("cpu_limit", "resource_limit", "cpu_time")
    c("cpu_hard_limit", "resource_limit", "cpu_time", r"RLIMIT_CPU")
    c("file_size_limit", "resource_limit", "file_size")
    c("broken_pipe", "exit_failure", "broken_pipe")
    c("exit_with_lines", "exit_failure", "exit_code_3", r"line 3: 'depth'")
    c("exit_shell_code", "exit_failure", None, r"SIGSEGV")
    c("exit_in_library", "exit_failure", "exit_code_4", r"no licence")
    c("child_crashes", "exit_failure", "exit_code_7", r"worker died of signal 11")
    add("sh:no_such_program", "end", ["/bin/sh", "-c", "no-such-program-of-ours"], "exit_failure",
        "command_not_found")
    add("sh:not_executable", "end", ["/bin/sh", "-c", "/etc/passwd"], "exit_failure",
        "not_executable")
    # Killed from outside, or not.
    for name, number in (("kill", signal.SIGKILL), ("term", signal.SIGTERM),
                         ("segv", signal.SIGSEGV), ("abrt", signal.SIGABRT),
                         ("quit", signal.SIGQUIT), ("usr1", signal.SIGUSR1)):
        # Who sent it is known of those that the crash hook handles.
        known = number in (signal.SIGSEGV, signal.SIGABRT)
        sender = r"was sent by process (?!0\b)\d+ of user" if known else ""
        add(f"c:sent_{name}", "end", ["{dir}/victim_c", "waits"], "killed_externally",
            number.name, sender, act=Rig.sends(number))
    add("c:child_killed_then_term", "end", ["{dir}/victim_c", "child_killed_then_waits"],
        "killed_externally", "SIGTERM", act=Rig.sends(signal.SIGTERM))
    add("c:child_killed_then_kill", "end", ["{dir}/victim_c", "child_killed_then_waits"],
        "killed_externally", "SIGKILL", act=Rig.sends(signal.SIGKILL))
    c("kills_itself", "killed_externally", "SIGKILL")
    add("c:stop_on_request", "stop", ["{dir}/victim_c", "waits"], None)
    add("c:own_kill", "unhealthy", ["{dir}/victim_c", "waits"], "health_check_failed")
    add("c:memory_group", "memory", ["{dir}/victim_c", "eats_memory"], "out_of_memory", "cgroup",
        needs=["memory group"])
    add("c:child_out_of_memory_then_term", "memory",
        ["{dir}/victim_c", "child_eats_memory_then_waits"], "killed_externally", "SIGTERM",
        act=Rig.sends(signal.SIGTERM), needs=["memory group"])
    add("c:child_out_of_memory_then_kill", "memory",
        ["{dir}/victim_c", "child_eats_memory_then_waits"], "killed_externally", "SIGKILL",
        act=Rig.sends(signal.SIGKILL), needs=["memory group"])
    # Hangs.
    hang("two_mutexes", "deadlock", "lock_cycle",
         r"held by thread \d+.* which stands in .*victim.cc:\d+")
    hang("three_mutexes", "deadlock", "lock_cycle")
    hang("two_read_write_locks", "deadlock", "lock_cycle", r"read-write lock 0x")
    hang("reader_and_mutex", "deadlock", "lock_cycle")
    hang("two_recursive_mutexes", "deadlock", "lock_cycle")
    hang("priority_mutexes", "deadlock", "lock_cycle")
    hang("self_mutex", "deadlock", "self_deadlock", r"holds it itself")
    hang("join_while_holding", "deadlock", "join_cycle")
    hang("abandoned_mutex", "deadlock", "abandoned_lock")
    hang("locked_over_fork", "deadlock", "abandoned_lock", act=Rig.of_child)
    hang("condition_wait", "unknown", "blocked")
    hang("semaphore_wait", "unknown", "blocked")
    hang("pipe_read", "unknown", "blocked")
    hang("lock_holder_reads", "unknown", "blocked", r"held by thread")
    hang("contended_locks", "unknown", "blocked")
    hang("timed_locks", "unknown", "blocked")
    hang("shared_between_processes", "unknown", "blocked", act=Rig.of_child)
    hang("future_wait", "unknown", "blocked")
    hang("readers_hold", "unknown", "blocked")
    hang("busy_loop", "busy_loop", None, r"samples are in .*(reprice|mix)")
    hang("busy_loop_in_thread", "busy_loop", None, r"samples are in .*(reprice|mix)")
    hang("two_busy_loops", "busy_loop")
    hang("lock_free_spin", "busy_loop", None, r"samples are in .*lock_free_spin")
    hang("exit_hang", "unknown", "exit_hang", r"condition variable")
    hang("stopped", "unknown", "stopped")
    # Python.
    python("value_error", "uncaught_exception", "ValueError", r"no such symbol: XYZ")
    python("own_exception", "uncaught_exception", None, r"RiskLimitExceeded: exposure 12 > 10")
    python("chained_exception", "uncaught_exception", "RuntimeError")
    python("module_missing", "uncaught_exception", "ModuleNotFoundError")
    python("syntax_error", "uncaught_exception", "SyntaxError")
    python("recursion", "uncaught_exception", "RecursionError")
    python("in_coroutine", "uncaught_exception", "ConnectionError")
    python("memory_error", "out_of_memory", "allocator")
    python("null_in_ctypes", "null_dereference")
    python("fault_handler", "segmentation_fault", "", r"Fatal Python error: Segm")
    python("os_abort", "abort")
    python("fatal_error", "abort")
    python("exit_with_text", "exit_failure", "exit_code_1", r"no \[venue\]")
    python("exit_three", "exit_failure", "exit_code_3")
    python("logged_and_gone_on", "exit_failure", "exit_code_5", r"journal is full")
    python("logged_long_ago", "exit_failure", "exit_code_1", r"no licence")
    python("second_run", "exit_failure", "exit_code_1", r"port 80", kind="second")
    python("waits", "killed_externally", "SIGINT", act=Rig.sends(signal.SIGINT))
    python("busy_loop", "busy_loop", None, r"samples", kind="hang")
    python("lock_circle", "unknown", "blocked", kind="hang")
    python("queue_get", "unknown", "blocked", kind="hang")
    # Node.js.
    node("type_error", "uncaught_exception", "TypeError", r"quantity is not a number")
    node("own_error", "uncaught_exception", "RiskLimit", r"exposure")
    node("thrown_text", "uncaught_exception", None, r"just a text")
    node("rejection", "uncaught_exception", "Error", r"venue went away")
    node("rejection_without_error", "uncaught_exception", None, r"rejected")
    node("recursion", "uncaught_exception", "RangeError")
    node("module_missing", "uncaught_exception", "Error", r"Cannot find module")
    node("unhandled_event", "uncaught_exception", "Error", r"ECONNREFUSED")
    node("heap", "out_of_memory", "allocator", r"heap out of memory",
         options=["--max-old-space-size=32"])
    node("process_abort", "abort")
    node("exit_three", "exit_failure", "exit_code_3", r"no venue")
    node("caught_and_exit", "exit_failure", "exit_code_6")
    node("raise_segv", "segmentation_fault")
    node("waits", "killed_externally", "SIGTERM", act=Rig.sends(signal.SIGTERM))
    node("busy_loop", "busy_loop", None, r"samples", kind="hang")
    # Go.
    go("nil_dereference", "null_dereference", None, r"nil pointer")
    go("panic_text", "uncaught_exception", "panic", r"book is crossed")
    go("panic_error", "uncaught_exception", "panic", r"no such account")
    go("index", "uncaught_exception", "panic", r"index out of range")
    go("division", "uncaught_exception", "panic", r"divide by zero")
    go("in_goroutine", "uncaught_exception", "panic")
    go("asleep", "deadlock", "all_goroutines_asleep")
    go("mutex_circle", "deadlock", "all_goroutines_asleep")
    go("stack_overflow", "stack_overflow")
    go("map_race", "abort", "go_fatal_error", r"concurrent map writes")
    go("out_of_memory", "out_of_memory", "allocator")
    go("exit_three", "exit_failure", "exit_code_3", r"no venue")
    go("log_fatal", "exit_failure", "exit_code_1", r"cannot open the journal")
    go("recovered", "exit_failure", "exit_code_2", r"no venue")
    go("panic_text", "uncaught_exception", "panic", name="panic_with_core",
       environment=["GOTRACEBACK=crash"])
    go("waits", "killed_externally", "SIGQUIT", act=Rig.sends(signal.SIGQUIT))
    go("waits", "killed_externally", "SIGKILL", name="killed", act=Rig.sends(signal.SIGKILL))
    go("busy_loop", "busy_loop", None, r"samples are in main.busyLoop", kind="hang")
    # Rust.
    rust("index", "uncaught_exception", "panic", r"index out of bounds")
    rust("unwrap_none", "uncaught_exception", "panic")
    rust("expect_error", "uncaught_exception", "panic", r"no such symbol")
    rust("in_thread", "uncaught_exception", "panic")
    rust("double_panic", "abort", "double_panic")
    rust("stack_overflow", "stack_overflow")
    rust("stack_overflow_thread", "stack_overflow")
    rust("allocation", "out_of_memory", "allocator")
    rust("abort", "abort")
    rust("exit_three", "exit_failure", "exit_code_3")
    rust("null_pointer", "null_dereference")
    rust("wild_pointer", "segmentation_fault", "wild_pointer")
    rust("caught_panic", "exit_failure", "exit_code_4")
    rust("mutex_twice", "unknown", "blocked", kind="hang")
    rust("busy_loop", "busy_loop", None, r"samples are in", kind="hang")
    # Servers that nobody here wrote.
    for name, cause, subtypes, evidence, act in servers.CASES:
        add(name, "server", [], cause, subtypes, evidence, act=act,
            needs=servers.NEEDS[name.split(":")[0]])
    return found


def missing(victim, rig):
    for need in victim.needs:
        if need == "memory group":
            if not rig.has_memory_group():
                return "no control group to limit memory in"
        elif need.startswith("{dir}") or need.startswith("/"):
            if not os.path.exists(need.replace("{dir}", rig.victims)):
                return f"no {os.path.basename(need)}"
        elif shutil.which(need) is None and not servers.program(need):
            return f"no {need}"
    return None


def judge(victim, verdict):
    """What is wrong with the verdict; empty: nothing."""
    if victim.cause is None:
        return "" if verdict is None else f"an incident: {verdict['cause']}"
    if verdict is None:
        return "no incident"
    if verdict["cause"] != victim.cause:
        return "cause"
    if victim.subtypes is not None and (verdict["subtype"] or "") not in victim.subtypes:
        return "subtype"
    lines = verdict["evidence"]
    if victim.evidence and not any(re.search(victim.evidence, line) for line in lines):
        return f"no evidence '{victim.evidence}'"
    if victim.cause not in ("clean_exit",) and not lines:
        return "no evidence at all"
    return ""


def run_one(victim, arguments):
    rig = Rig(arguments.bin, arguments.victims)
    started = time.monotonic()
    try:
        verdict = rig.run(victim)
        return victim, verdict, judge(victim, verdict), time.monotonic() - started
    except Exception as error:  # pylint: disable=broad-except
        return victim, None, f"{type(error).__name__}: {error}", time.monotonic() - started
    finally:
        rig.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bin", type=os.path.abspath)
    parser.add_argument("victims", type=os.path.abspath)
    parser.add_argument("which", nargs="*", default=[os.environ.get("DEFIB_CATALOGUE", "short")])
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="the evidence of each verdict")
    arguments = parser.parse_args()
    everything = victims()
    rig = Rig(arguments.bin, arguments.victims)
    absent = {victim.name: why for victim in everything if (why := missing(victim, rig))}
    rig.close()
    there = [victim for victim in everything if victim.name not in absent]
    chosen = there
    if arguments.which == ["short"]:
        seed = arguments.seed if arguments.seed is not None else int(time.time()) // 86400
        # Slow ones (their own two seconds, or a server's start) are the long form's.
        quick = [victim for victim in there if victim.kind != "server" and
                 victim.name not in ("c:cpu_limit", "c:cpu_hard_limit", "go:stack_overflow")]
        chosen = random.Random(seed).sample(quick, min(SHORT_SIZE, len(quick)))
        print(f"  a sample of {len(chosen)} (one in {len(everything) / len(chosen):.1f}) of "
              f"{len(everything)} victims, seed {seed}")
    elif arguments.which != ["all"]:
        chosen = [victim for victim in there
                  if any(re.search(word, victim.name) for word in arguments.which)]
    right, false_deadlocks = 0, []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for victim, verdict, wrong, seconds in pool.map(lambda one: run_one(one, arguments),
                                                        chosen):
            got = "none" if verdict is None else "/".join(
                filter(None, (verdict["cause"], verdict["subtype"])))
            right += not wrong
            if verdict and verdict["cause"] == "deadlock" and victim.cause != "deadlock":
                false_deadlocks.append(victim.name)
            confidence = f"{verdict['confidence']:.2f}" if verdict else "    "
            print(f"{'ok   ' if not wrong else 'WRONG'} {victim.name:34} {got:46} {confidence} "
                  f"{seconds:4.1f} s  {wrong}", flush=True)
            if (wrong or arguments.verbose) and verdict:
                for line in verdict["evidence"]:
                    print(f"        {line}")
    for name, why in absent.items():
        print(f"left out: {name}: {why}")
    share = right / max(1, len(chosen))
    print(f"{right} of {len(chosen)} right ({share * 100:.1f} %), "
          f"{len(false_deadlocks)} false deadlocks, {len(absent)} left out")
    return 0 if chosen and share >= NEEDED_SHARE and not false_deadlocks else 1


if __name__ == "__main__":
    sys.exit(main())
