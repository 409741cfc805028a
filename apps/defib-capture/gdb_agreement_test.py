#!/usr/bin/env python3
"""Real crashes, read by defib-capture and by gdb: the same functions, files and lines, frame by frame.

    gdb_agreement_test.py BIN_DIR VICTIM_DIR

Each victim dies, its core file is read by both. Every frame of the crashed thread has to be the
same, inlined ones too. Left out are functions that ended in a jump into another one: they have no
frame any more, and gdb infers that they were there. Without DEFIB_AGREEMENT=all a sample is taken (DEFIB_SEED=N repeats one).
Without gdb, nothing is compared, and that is said.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77
SAMPLE = 14
PLAIN = ["null_dereference", "null_call", "wild_pointer", "non_canonical", "use_after_free", "abort",
         "assertion_failure", "uncaught_exception", "double_free", "heap_smash", "stack_smash",
         "arithmetic_fault", "illegal_instruction", "bus_error", "write_to_read_only",
         "in_signal_handler", "all_threads"]
OPTIMIZED = ["null_dereference", "null_call", "wild_pointer", "abort", "assertion_failure",
             "uncaught_exception", "double_free", "arithmetic_fault", "illegal_instruction",
             "in_signal_handler"]
OTHERWISE = ["null_dereference", "uncaught_exception", "inlined"]
CASES = (PLAIN + [name + "_optimized" for name in OPTIMIZED] + ["inlined", "inlined_o3"] +
         [name + kind for name in OTHERWISE for kind in ("_static", "_shared")] +
         [name + "+split" for name in ("null_dereference", "uncaught_exception_optimized", "inlined",
                                       "in_signal_handler_optimized")])

# Prints each thread's frames as gdb sees them, as one line of JSON.
GDB_SCRIPT = r"""
import gdb, json
def frames(frame):
    found = []
    while frame is not None and len(found) < 300:
        sal = frame.find_sal()
        found.append({
            "pc": frame.pc(), "function": frame.name() or "",
            "file": sal.symtab.fullname() if sal.symtab else "", "line": sal.line if sal.symtab else 0,
            "inlined": frame.type() == gdb.INLINE_FRAME,
            "signal": frame.type() == gdb.SIGTRAMP_FRAME,
            "jumped": frame.type() == gdb.TAILCALL_FRAME})
        try:
            frame = frame.older()
        except gdb.error:
            break
    return found
gdb.execute("set backtrace past-main on")
crashed = gdb.selected_thread()
threads = {}
for thread in gdb.selected_inferior().threads():
    thread.switch()
    threads[thread.ptid[1]] = frames(gdb.newest_frame())
print("FRAMES " + json.dumps({"crashed": crashed.ptid[1], "threads": threads}))
"""


def without_brackets(text, opening, closing):
    result, depth = "", 0
    for char in text:
        depth += char == opening
        if depth == 0:
            result += char
        depth -= char == closing and depth > 0
    return result


# "void ns::f<int>(int) const" and "ns::f<int>" are one: without parameters, template arguments and
# the type that it returns, which each prints in its own way.
def plain_name(name):
    name = name.replace("(anonymous namespace)", "@").replace("operator()", "operator@")
    name = re.sub(r"operator(<<=|>>=|<=>|<<|>>|->\*|->|<=|>=|<|>)",
                  lambda found: "operator" + "@" * len(found.group(1)), name)
    name = re.sub(r"\[[^]]*\]|@[@A-Z0-9_.]*GLIBC[0-9_.]*", "", name)
    name = without_brackets(without_brackets(name, "{", "}"), "<", ">")
    name = name.split("(")[0].strip()
    return name if "operator" in name else name.split(" ")[-1]


def same_name(ours, theirs):
    ours, theirs = plain_name(ours), plain_name(theirs)
    # gdb leaves namespaces and enclosing functions of local classes out.
    return ours == theirs or ours.endswith("::" + theirs) or theirs.endswith("::" + ours)


def same_file(ours, theirs):
    return os.path.normpath(ours) == os.path.normpath(theirs) if ours and theirs else ours == theirs


def difference(ours, theirs):
    if theirs["signal"]:
        return None if ours["kind"] == "signal" else "gdb sees the return from a signal handler"
    if int(ours["pc"], 16) != theirs["pc"]:
        return "another address"
    if ours["inlined"] != theirs["inlined"]:
        return "inlined or not"
    if not same_name(ours["function"], theirs["function"]):
        return "another function"
    if not same_file(ours["file"], theirs["file"]):
        return "another file"
    return None if ours["line"] == theirs["line"] else "another line"


class Corpus:
    def __init__(self, programs, victims, directory):
        self.capture = os.path.join(programs, "defib-capture")
        self.victims = victims
        self.directory = directory
        with open(os.path.join(directory, "frames.py"), "w", encoding="utf-8") as script:
            script.write(GDB_SCRIPT)

    def program(self, name, place):
        base, _, kind = name.partition("+")
        source = os.path.join(self.victims, "victim_" + base)
        if kind != "split":
            return source
        program = os.path.join(place, "program")
        shutil.copy(source, program)
        subprocess.run(["objcopy", "--only-keep-debug", program, program + ".sym"], check=True)
        subprocess.run(["strip", program], check=True)
        subprocess.run(["objcopy", "--add-gnu-debuglink=" + program + ".sym", program], check=True)
        return program

    # The core that the kernel writes; or gdb, where the machine sends cores elsewhere.
    def core(self, program, place):
        subprocess.run(["/bin/sh", "-c", 'ulimit -c unlimited; exec "$0"', program], cwd=place,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        cores = [name for name in os.listdir(place) if name.startswith("core")]
        if cores:
            return os.path.join(place, cores[0])
        core = os.path.join(place, "core")
        self.gdb("-ex", "run", "-ex", "generate-core-file " + core, program)
        return core

    def gdb(self, *arguments):
        environment = {key: value for key, value in os.environ.items() if key != "DEBUGINFOD_URLS"}
        return subprocess.run(["gdb", "-batch", "-nx", "-iex", "set auto-load off", *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              env=environment, check=False).stdout

    def seen_by_gdb(self, program, core):
        output = self.gdb("-x", os.path.join(self.directory, "frames.py"), program, core)
        for line in output.splitlines():
            if line.startswith("FRAMES "):
                return json.loads(line[len("FRAMES "):])
        raise AssertionError(f"gdb says nothing of {core}: {output}")

    def seen_by_us(self, core):
        report = subprocess.run([self.capture, "analyze", core, "--json"], stdout=subprocess.PIPE,
                                check=True).stdout
        return json.loads(report)

    # (same, all) of the crashed thread and of the others, and what differs.
    def compare(self, name):
        place = tempfile.mkdtemp(dir=self.directory)
        program = self.program(name, place)
        core = self.core(program, place)
        theirs, ours = self.seen_by_gdb(program, core), self.seen_by_us(core)
        shutil.rmtree(place)
        counts, differences = {True: [0, 0], False: [0, 0]}, []
        for thread in ours["threads"]:
            expected = theirs["threads"][str(thread["tid"])]
            expected = [frame for frame in expected if not frame["jumped"]]
            crashed = thread["tid"] == theirs["crashed"]
            if crashed != thread["crashed"]:
                differences.append(f"{name}: another thread crashed")
            frames = thread["frames"]
            # Of a stack that was overwritten gdb goes on to show what lies there.
            while len(expected) > len(frames) and not expected[-1]["function"]:
                expected.pop()
            for i in range(max(len(frames), len(expected))):
                if i >= len(frames) or i >= len(expected):
                    why = "a frame more" if i < len(frames) else "a frame less"
                else:
                    why = difference(frames[i], expected[i])
                counts[crashed][0] += why is None
                counts[crashed][1] += 1
                if why is not None:
                    differences.append(
                        f"{name}, thread {thread['tid']}{' (crashed)' if crashed else ''} #{i}: {why}\n"
                        f"    ours {frames[i] if i < len(frames) else None}\n"
                        f"    gdb  {expected[i] if i < len(expected) else None}")
        return counts, differences


def main():
    programs, victims = sys.argv[1:3]
    if shutil.which("gdb") is None:
        print("SKIPPED: gdb is not installed; nothing was compared (try: apt-get install gdb)")
        return SKIPPED
    cases = list(CASES)
    if os.environ.get("DEFIB_AGREEMENT") != "all":
        seed = int(os.environ.get("DEFIB_SEED", random.randrange(1 << 30)))
        print(f"{SAMPLE} of {len(CASES)} crashes, DEFIB_SEED={seed}; DEFIB_AGREEMENT=all takes them all")
        cases = sorted(random.Random(seed).sample(cases, SAMPLE))
    if os.environ.get("DEFIB_AGREEMENT_ONLY"):
        cases = os.environ["DEFIB_AGREEMENT_ONLY"].split()
    crashed, others, differences = [0, 0], [0, 0], []
    with tempfile.TemporaryDirectory(prefix="defib-agreement-") as directory:
        corpus = Corpus(programs, victims, directory)
        for name in cases:
            counts, found = corpus.compare(name)
            crashed = [a + b for a, b in zip(crashed, counts[True])]
            others = [a + b for a, b in zip(others, counts[False])]
            differences += found
    for line in differences:
        print(line)
    print(f"{len(cases)} crashes: {crashed[0]} of {crashed[1]} frames of crashed threads agree with gdb, "
          f"{others[0]} of {others[1]} of other threads")
    return 0 if crashed[0] == crashed[1] and crashed[1] > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
