#!/usr/bin/env python3
"""What an incident tells a person: how often, what changed, what to do; as a report; and analyze.

    report_test.py BIN_DIR [unittest arguments]
"""

import csv
import glob
import html.parser
import io
import json
import os
import pty
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "defib"))
import e2e_test
from e2e_test import PYTHON, is_alive

SECRET = "s3cr3t-of-the-venue-4711"


class Reports(e2e_test.Service):
    # Crashes once in the way that its first argument says, then lives.
    CRASH = """
        import ctypes, os, sys, time
        print("WARN low on margin", flush=True)
        print("ERROR going down with " + os.environ.get("API_KEY", "nothing"), file=sys.stderr, flush=True)
        if os.path.exists(sys.argv[1]): time.sleep(600)
        open(sys.argv[1], "w").close()
        time.sleep(0.3)
        ctypes.string_at(8)
    """

    # Once the incident has its verdict as well, which another process writes.
    def bundle(self, failure=1, seconds=30):
        self.events("classified")
        def look():
            found = sorted(glob.glob(f"{self.state}/incidents/*.bundle/{failure}/manifest.json"))
            return os.path.dirname(found[-1]) if found else None
        return self.until(look, seconds=seconds, what="a bundle")

    def part(self, directory, name):
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            return json.load(file)

    def configured(self, command, **keys):
        text = f"[service.engine]\ncommand = {json.dumps(command)}\n"
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        return self.script(text, "defib.toml")

    def crash(self, name="engine", *options):
        once = os.path.join(self.dir, "once")
        self.begin("run", "--name", name, *options, "--", PYTHON, self.script(self.CRASH), once)
        return self.bundle()


class Groups(Reports):
    def groups(self):
        return self.json("incidents", "--group")["groups"]

    def test_equal_ends_are_one_group_and_others_are_not(self):
        script = self.script("import sys\nsys.exit(int(sys.argv[1]))\n")
        for code in ("3", "3", "4", "3"):
            self.defib("run", "--name", "job", "--restart", "never", "--", PYTHON, script, code)
        groups = {one["text"].split(": ")[1]: one for one in self.groups()}
        self.assertEqual({end: one["count"] for end, one in groups.items()},
                         {"exit code 3": 3, "exit code 4": 1})
        three = groups["exit code 3"]
        self.assertEqual(three["service"], "job")
        self.assertEqual(len(three["incidents"]), 3)
        self.assertLess(three["first_seen"], three["last_seen"])
        shown = self.json("incident", "show", three["incidents"][-1])
        self.assertEqual(shown["group"]["count"], 3)
        self.assertEqual(shown["classification"]["seen"]["count"], 3)
        self.assertIn("3 times since", self.defib("incident", "show", "latest").stdout)
        self.assertIn("exit code 3", self.defib("incidents", "--group").stdout)

    def test_the_numbers_outlive_the_incidents(self):
        script = self.script("import sys\nsys.exit(3)\n")
        self.defib("run", "--name", "job", "--restart", "never", "--", PYTHON, script)
        for path in glob.glob(f"{self.state}/incidents/*"):
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        self.defib("run", "--name", "job", "--restart", "never", "--", PYTHON, script)
        self.assertEqual([one["count"] for one in self.groups()], [2])

    def test_a_crash_is_known_by_its_functions(self):
        script = self.script("import ctypes\nctypes.string_at(8)\n")
        for _ in range(2):
            self.defib("run", "--name", "job", "--restart", "never", "--", PYTHON, script)
        groups = self.groups()
        self.assertEqual([one["count"] for one in groups], [2], groups)
        self.assertRegex(groups[0]["text"], r"^null_dereference in \S+")


class Shown(Reports):
    def test_a_frame_without_a_name_has_its_module_and_offset_and_the_way_to_its_name(self):
        victims = os.path.join(e2e_test.BIN, "../defib/postmortem/testcases")
        whole = os.path.join(victims, "victim_null_dereference")
        if not os.path.exists(whole):
            self.skipTest("the victims are not built")
        program, debug = os.path.join(self.dir, "victim"), os.path.join(self.dir, "debug")
        os.mkdir(debug)
        shutil.copy(whole, program)
        subprocess.run(["objcopy", "--only-keep-debug", program, f"{debug}/victim.debug"], check=True)
        subprocess.run(["strip", program], check=True)
        self.defib("run", "--name", "job", "--restart", "never", "--", program)
        shown = self.defib("incident", "show", "latest").stdout
        self.assertRegex(shown, r"#0  victim\+0x[0-9a-f]+  /")
        command = re.search(r"defib incident show (\S+) --json \| (defib symbolize --debug-dir) DIR",
                            shown)
        self.assertTrue(command, shown)
        incident = self.defib("incident", "show", command[1], "--json").stdout
        filled = self.defib(*command[2].split()[1:], debug, input=incident).stdout
        self.assertRegex(filled, r"#0 +.*fill_order.*null_dereference.cc")


class Changes(Reports):
    # healthy_after is short, so that a run is good soon.
    def good_run(self, **keys):
        run = self.begin("run", "-c", self.configured(**keys))
        runs = f"{self.state}/services/engine/runs.json"
        before = os.stat(runs).st_mtime_ns if os.path.exists(runs) else 0
        self.until(lambda: os.path.exists(runs) and os.stat(runs).st_mtime_ns > before,
                   what="a good run")
        self.defib("stop", "engine")
        run.wait(20)
        return runs

    def test_a_crash_is_told_with_what_changed(self):
        program = os.path.join(self.dir, "engine")
        shutil.copy("/bin/sleep", program)
        settings = self.script("speed = 1\n", "engine.conf")
        script = self.script(self.CRASH)
        once = os.path.join(self.dir, "once")
        open(once, "w").close()
        self.env["API_KEY"] = SECRET
        self.env["OLD_NAME"] = "1"
        command = [PYTHON, script, once, settings]
        runs = self.good_run(command=command, healthy_after="1s")
        with open(runs, encoding="utf-8") as file:
            text = file.read()
        self.assertNotIn(SECRET, text)
        self.assertEqual(stat.S_IMODE(os.stat(runs).st_mode), 0o600)
        os.remove(once)
        with open(settings, "w", encoding="utf-8") as file:
            file.write("speed = 10\n")
        self.env["API_KEY"] = SECRET + "-changed"
        self.env["LD_BIND_NOW"] = "1"
        del self.env["OLD_NAME"]
        self.begin("run", "-c", self.configured(command, healthy_after="1s", max_restarts=7))
        lines = self.part(self.bundle(), "changes.json")["differences"]
        for line in ("environment API_KEY changed", "environment LD_BIND_NOW added",
                     "environment OLD_NAME removed", "setting max_restarts: 10 -> 7"):
            self.assertIn(line, lines)
        self.assertTrue([line for line in lines if "engine.conf changed at" in line], lines)
        self.assertEqual(len(lines), 5, lines)
        shown = self.json("incident", "show", "latest")
        self.assertEqual(shown["changes"]["differences"], lines)
        text = self.defib("incident", "show", "latest").stdout
        self.assertIn("Changed since the last good run", text)
        self.assertNotIn(SECRET, text + json.dumps(shown))
        self.assertIn("look there first", text)

    def test_a_new_binary_is_named_by_its_build_ids(self):
        program = os.path.join(self.dir, "engine")
        shutil.copy("/bin/sleep", program)
        self.good_run(command=[program, "600"], healthy_after="1s")
        os.remove(program)
        shutil.copy("/bin/cat", program)
        self.begin("run", "-c", self.configured([program, "600"], restart="never"))
        lines = self.part(self.bundle(), "changes.json")["differences"]
        self.assertTrue([line for line in lines
                         if re.search(r"binary .*/engine replaced at .*build id \w{12} -> \w{12}",
                                      line)], lines)

    def test_a_good_run_has_its_symbol_tables_made(self):
        run = self.begin("run", "-c", self.configured(["/bin/sleep", "600"], healthy_after="1s"))
        tables = f"{self.state}/services/engine/capture/symbols"
        self.until(lambda: os.path.isdir(tables) and
                   [name for name in os.listdir(tables) if name.endswith(".symbols")],
                   what="symbol tables")
        self.assertEqual(stat.S_IMODE(os.stat(tables).st_mode), 0o700)
        self.defib("stop", "engine")
        run.wait(20)

    def test_the_first_run_has_nothing_to_be_compared_with(self):
        self.defib("run", "--name", "engine", "--restart", "never", "--", "false")
        changes = self.part(self.bundle(), "changes.json")
        self.assertIsNone(changes["since"])
        self.assertIn("no earlier run was good", changes["note"])


class Advice(Reports):
    def test_every_cause_is_explained_with_commands_that_there_are(self):
        commands = set()
        for cause in e2e_test.CAUSES:
            done = self.defib("explain", cause, "--json")
            self.assertEqual(done.returncode, 0, cause + done.stderr)
            answer = json.loads(done.stdout)
            self.assertTrue(answer["advice"]["steps"], cause)
            self.assertTrue(answer["advice"]["resume"], cause)
            commands |= {step["command"] for step in answer["advice"]["steps"] if step["command"]}
            self.assertIn("try: ", self.defib("explain", cause).stdout)
        ours = {command for command in commands if command.startswith("defib ")}
        self.assertGreater(len(ours), 8)
        for command in ours:
            words = command.split()[1:]
            verb = [words[0]] + ([words[1]] if words[0] in ("incident", "store") else [])
            done = self.defib(*verb, "--help")
            self.assertEqual(done.returncode, 0, f"{command}: {done.stdout}{done.stderr}")
            for option in (word for word in words if word.startswith("--") and word != "--help"):
                self.assertIn(option, done.stdout, command)
        for command in commands - ours:
            self.assertIn(command.split()[0], {"dmesg", "ps", "last"})

    def test_an_incident_has_it(self):
        self.defib("run", "--name", "job", "--restart", "never", "--", "sh", "-c", "exit 3")
        shown = self.json("incident", "show", "latest")
        self.assertIn("Exit code", shown["advice"]["title"])
        self.assertIn(f"defib logs job --around {shown['opened_at']} --window 60s",
                      [step["command"] for step in shown["advice"]["steps"]])
        # And that command works.
        done = self.defib("logs", "job", "--around", shown["opened_at"], "--window", "60s")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.defib("explain", "no_such_word").returncode, 2)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text.append(data)


class Report(Reports):
    def test_every_form_tells_of_a_crash_and_no_secret(self):
        self.env["API_KEY"] = SECRET
        self.crash()
        identifier = self.json("incident", "show", "latest")["id"]
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.dir)
        for form in ("html", "pdf"):
            began = time.monotonic()
            done = self.defib("report", "latest", "--format", form)
            took = time.monotonic() - began
            self.assertEqual((done.returncode, done.stdout), (0, f"{identifier}.{form}\n"),
                             done.stderr)
            print(f"\n{form}: {took * 1e3:.0f} ms, {os.path.getsize(done.stdout.strip())} bytes")
            self.assertEqual(stat.S_IMODE(os.stat(f"{identifier}.{form}").st_mode), 0o600)
        with open(f"{identifier}.html", encoding="utf-8") as file:
            page = file.read()
        parser = Page()
        parser.feed(page)
        parser.close()
        text = "".join(parser.text)
        for word in ("null_dereference", "What to do", "ERROR going down", "Registers", "rip",
                     "Timeline", "Environment"):
            self.assertIn(word, text)
        self.assertFalse(parser.tags & {"script", "img", "iframe", "link", "object", "form", "a"})
        self.assertFalse([name for name, _ in parser.attributes if name.startswith("on")])
        with open(f"{identifier}.pdf", "rb") as file:
            pdf = file.read()
        self.assertTrue(pdf.startswith(b"%PDF-") and pdf.endswith(b"%%EOF\n"))
        plain = self.defib("report", "latest", "--format", "text").stdout
        self.assertIn("What to do", plain)
        document = json.loads(self.defib("report", "latest", "--format", "json").stdout)
        self.assertEqual(document["schema"], "defib.report/1")
        self.assertEqual(document["incident"]["id"], identifier)
        self.assertTrue(document["advice"]["steps"])
        self.assertIn("rip", document["crash"]["registers"])
        events = self.defib("report", "latest", "--format", "csv").stdout
        head, *rows = csv.reader(io.StringIO(events, newline=""))
        self.assertEqual(head[:3], ["seq", "at", "event"])
        self.assertEqual(len(rows), len(document["incident"]["timeline"]), events)
        self.assertNotIn(SECRET, events)
        for form in (page, plain, json.dumps(document)):
            self.assertNotIn(SECRET, form)
            self.assertIn("[redacted]", form)
        # Nor is it in the incident itself, which quotes the output.
        for path in glob.glob(f"{self.state}/incidents/*.jsonl"):
            with open(path, encoding="utf-8") as file:
                self.assertNotIn(SECRET, file.read())
        with open("out.pdf", "wb") as file:
            file.write(b"x")
        done = self.defib("report", "latest", "--out", "out.pdf")
        self.assertEqual(done.returncode, 0, done.stderr)
        with open("out.pdf", "rb") as file:
            self.assertTrue(file.read().startswith(b"%PDF-"))

    def test_hostile_output_stays_text(self):
        attack = "</pre><script>alert(1)</script>\\x1b[2J"
        self.defib("run", "--name", "job", "--restart", "never", "--", "sh", "-c",
                   f"printf 'ERROR {attack}\\n' >&2; sleep 0.3; exit 3")
        self.bundle()
        page = self.defib("report", "latest", "--out", "-", "--format", "html").stdout
        self.assertNotIn("<script", page)
        self.assertIn("&lt;script&gt;alert(1)&lt;/script&gt;", page)
        for form in (page, self.defib("report", "latest", "--format", "text").stdout,
                     self.defib("incident", "show", "latest").stdout):
            self.assertNotIn("\x1b[2J", form)

    def test_without_a_bundle_it_says_so(self):
        self.defib("run", "--name", "job", "--restart", "never", "--", "false")
        shutil.rmtree(os.path.dirname(self.bundle()))
        done = self.defib("report", "latest", "--format", "text")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("has no bundle", done.stdout)
        for arguments in (("report", "nothing"), ("report", "latest", "--format", "doc"),
                          ("report", "latest", "--failure", "3"), ("report",)):
            done = self.defib(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("error[", done.stderr)
            self.assertIn("try:", done.stderr)

    # Reports of generations that are long gone are removed with the bundles that used them.
    def test_reports_of_old_generations_do_not_pile_up(self):
        script = self.script("""
            import ctypes, os, sys, time
            count = len(os.listdir(sys.argv[1]))
            open(f"{sys.argv[1]}/{count}", "w").close()
            if count >= 20: time.sleep(600)
            time.sleep(0.05)
            ctypes.string_at(8)
        """)
        marks = os.path.join(self.dir, "marks")
        os.mkdir(marks)
        self.begin("run", "--name", "engine", "--restart-delay", "0", "--max-restarts", "40",
                   "--same-crash-limit", "0", "--", PYTHON, script, marks)
        self.until(lambda: len(os.listdir(marks)) >= 21, seconds=60, what="the last start")
        capture = f"{self.state}/services/engine/capture"
        self.until(lambda: os.path.exists(f"{capture}/crash-20.json") and
                   len(glob.glob(f"{capture}/crash-*.json")) <= 16, seconds=30, what="retention")


class Analyze(Reports):
    WORK = """
        import os, sys, time
        count = 0
        while True:
            count += 1
            os.lseek(1, 0, 0)
            os.write(1, b"%20d" % count)
            {pause}
    """

    def worker(self, pause="time.sleep(0.0005)"):
        self.counter = os.path.join(self.dir, "counter")
        output = open(self.counter, "w", encoding="ascii")
        self.addCleanup(output.close)
        process = subprocess.Popen([PYTHON, "-c",
                                    __import__("textwrap").dedent(self.WORK.format(pause=pause))],
                                   stdout=output)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.until(self.count, what="work")
        return process

    def count(self):
        with open(self.counter, encoding="ascii") as file:
            return int(file.read() or 0)

    def goes_on(self, process):
        self.assertIsNone(process.poll())
        before = self.count()
        self.until(lambda: self.count() > before, what="further work")
        for task in glob.glob(f"/proc/{process.pid}/task/*/status"):
            with open(task, encoding="ascii") as file:
                fields = dict(line.split(":\t", 1) for line in file if ":\t" in line)
            self.assertEqual(fields["TracerPid"].strip(), "0")
            self.assertNotIn(fields["State"][0], "tT")

    def analyze(self, *arguments, timeout=60):
        return self.defib("analyze", *arguments, timeout=timeout)

    def test_a_busy_process_goes_on(self):
        process = self.worker(pause="pass")
        done = self.analyze(str(process.pid), "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        document = json.loads(done.stdout)
        self.assertEqual(document["classification"]["cause"], "busy_loop")
        self.assertTrue(document["threads"][0]["frames"])
        self.assertTrue(document["signature"]["id"])
        self.goes_on(process)

    def test_a_process_that_waits_goes_on(self):
        process = self.worker(pause="time.sleep(0.2)")
        done = self.analyze(str(process.pid))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn("\x1b", done.stdout)
        self.goes_on(process)

    # At many moments, from the start of the program to its end.
    def test_a_killed_analysis_leaves_the_process_running(self):
        process = self.worker()
        rounds = int(os.environ.get("DEFIB_ANALYZE_KILLS", "40"))
        ended = 0
        for number in range(rounds):
            run = subprocess.Popen([os.path.join(e2e_test.BIN, "defib"), "analyze",
                                    str(process.pid)], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=self.env)
            time.sleep(0.25 * number / rounds)
            run.kill()
            ended += run.wait() == 0
            self.goes_on(process)
        self.assertLess(ended, rounds)

    def test_a_stopped_process_stays_stopped(self):
        process = self.worker()
        process.send_signal(signal.SIGSTOP)

        def state():
            with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
                return file.read().rsplit(")", 1)[1].split()[0]
        self.until(lambda: state() == "T", what="the stop")
        self.assertEqual(self.analyze(str(process.pid)).returncode, 0)
        self.assertEqual(state(), "T")
        process.send_signal(signal.SIGCONT)
        self.goes_on(process)

    @unittest.skipUnless(shutil.which("gdb"), "gdb is not installed")
    def test_full_adds_arguments_and_locals(self):
        process = self.worker(pause="time.sleep(0.2)")
        done = self.analyze(str(process.pid), "--full", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("Thread 1", json.loads(done.stdout)["full"]["text"])
        self.goes_on(process)

    def test_full_says_where_gdb_is_not_installed(self):
        process = self.worker(pause="time.sleep(0.2)")
        self.env["PATH"] = self.dir
        done = self.analyze(str(process.pid), "--full")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("gdb is not installed", done.stdout)
        document = json.loads(self.analyze(str(process.pid), "--full", "--json").stdout)
        self.assertEqual(document["full"]["error"]["kind"], "Unavailable")
        self.assertTrue(document["threads"])
        self.goes_on(process)

    def gdb_that(self, line):
        path = os.path.join(self.dir, "tools")
        os.mkdir(path)
        with open(os.path.join(path, "gdb"), "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\n{line}\n")
        os.chmod(os.path.join(path, "gdb"), 0o755)
        self.env["PATH"] = path + ":" + self.env["PATH"]

    @unittest.skipUnless(shutil.which("gdb"), "gdb is not installed")
    def test_a_debugger_that_hangs_is_ended_and_the_process_goes_on(self):
        process = self.worker()
        self.gdb_that(f"exec {shutil.which('gdb')} -batch -nx -p {process.pid} -ex 'shell sleep 20'")
        began = time.monotonic()
        done = self.analyze(str(process.pid), "--full", "--full-timeout", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertLess(time.monotonic() - began, 15)
        self.assertIn("gdb did not end in time", done.stdout)
        self.goes_on(process)

    def test_a_debugger_that_fails_is_told(self):
        process = self.worker()
        self.gdb_that("echo ptrace: no; exit 1")
        done = self.analyze(str(process.pid), "--full")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("gdb found no threads (ptrace: no", done.stdout)

    def test_a_terminal_has_colours_unless_it_wants_none(self):
        process = self.worker(pause="time.sleep(0.2)")

        def on_terminal(**more):
            ours, theirs = pty.openpty()
            run = subprocess.Popen([os.path.join(e2e_test.BIN, "defib"), "analyze",
                                    str(process.pid)], stdout=theirs, env={**self.env, **more})
            os.close(theirs)
            text = b""
            while True:
                try:
                    got = os.read(ours, 65536)
                except OSError:
                    break
                if not got:
                    break
                text += got
            os.close(ours)
            self.assertEqual(run.wait(), 0)
            return text
        self.assertIn(b"\x1b[", on_terminal(TERM="xterm"))
        self.assertNotIn(b"\x1b[", on_terminal(TERM="xterm", NO_COLOR="1"))

    def test_what_cannot_be_analyzed_is_named_with_what_can(self):
        gone = subprocess.Popen(["/bin/true"])
        gone.wait()
        for target, names, helps in (
                (str(gone.pid), f"there is no process {gone.pid}", "defib status"),
                ("/bin/true", "/bin/true: the core file is an ELF file, but not", "a PID"),
                (__file__, f"{__file__}: the core file is not an ELF file", "a PID"),
                (self.dir, f"{self.dir}: the core file is not a regular file", "a PID"),
                ("/nonexistent", "cannot open the core file /nonexistent", "a PID")):
            done = self.analyze(target)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn(names, done.stderr.splitlines()[0])
            self.assertIn(helps, done.stderr.split("try: ")[1])

    # What runs is not what lies on the disk any more.
    def test_a_deleted_program_is_analyzed(self):
        program = os.path.join(self.dir, "engine")
        shutil.copy("/bin/sleep", program)
        process = subprocess.Popen([program, "600"])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.until(lambda: os.readlink(f"/proc/{process.pid}/exe") == program, what="the start")
        os.remove(program)
        done = self.analyze(str(process.pid), "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        document = json.loads(done.stdout)
        self.assertTrue(document["threads"][0]["frames"])
        self.assertIsNone(process.poll())

    def test_what_is_no_process_and_no_core_is_an_error(self):
        pipe = os.path.join(self.dir, "pipe")
        os.mkfifo(pipe)
        for target in ("999999999", "/does/not/exist", pipe, self.dir, "/etc/passwd", "-1"):
            done = self.analyze(target, timeout=10)
            self.assertNotEqual(done.returncode, 0, target)
            self.assertTrue(done.stderr, target)


class Core(Reports):
    # A core of a real program, as the kernel writes it; else gcore's.
    def core(self):
        if not shutil.which("gdb"):
            self.skipTest("gdb, which writes the core, is not installed")
        program = os.path.join(self.dir, "engine")
        shutil.copy("/bin/sleep", program)
        process = subprocess.Popen([program, "600"])
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.until(lambda: os.readlink(f"/proc/{process.pid}/exe") == program, what="the start")
        time.sleep(0.1)
        path = os.path.join(self.dir, "core")
        subprocess.run(["gdb", "-batch", "-nx", "-p", str(process.pid), "-ex",
                        f"generate-core-file {path}"], stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True, timeout=60)
        process.kill()
        return program, path

    def analyze(self, *arguments):
        done = self.defib("analyze", *arguments, "--json", timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def test_it_is_analyzed_on_another_machine(self):
        program, core = self.core()
        here = self.analyze(core)
        self.assertTrue(here["threads"][0]["frames"])
        root = os.path.join(self.dir, "root")
        os.mkdir(root)
        nothing = self.analyze(core, "--sysroot", root)
        self.assertTrue([gap for gap in nothing["gaps"] if f"not readable under {root}" in gap],
                        nothing["gaps"])
        self.assertTrue(nothing["threads"][0]["frames"])
        for module in here["modules"]:
            if module["path"].startswith("/") and os.path.exists(module["path"]):
                os.makedirs(os.path.dirname(root + module["path"]), exist_ok=True)
                shutil.copy(module["path"], root + module["path"])
        os.remove(program)
        there = self.analyze(core, "--sysroot", root)
        functions = [[frame["function"] for frame in one["threads"][0]["frames"]]
                     for one in (here, there)]
        self.assertEqual(functions[0], functions[1])
        self.assertFalse([gap for gap in there["gaps"] if "not readable" in gap], there["gaps"])
        # Without the root, the deleted program has no names, and that is said.
        gone = self.analyze(core)
        self.assertTrue([gap for gap in gone["gaps"] if program in gap], gone["gaps"])
        self.assertEqual(self.defib("analyze", core, "--sysroot", "/does/not/exist").returncode, 2)

    def test_cut_off_it_is_analyzed_as_far_as_it_goes(self):
        _, core = self.core()
        size = os.path.getsize(core)
        os.truncate(core, size // 2)
        # gdb writes the notes last, the kernel first (core_test.cc): without them nothing is known.
        done = self.defib("analyze", core, "--json", timeout=60)
        document = json.loads(done.stdout)
        words = [document["error"]["message"]] if "error" in document else document["gaps"]
        self.assertTrue([word for word in words if "cut off" in word], words)

    def test_full_reads_it_too(self):
        program, core = self.core()
        full = self.analyze(core, "--exe", program, "--full")["full"]
        self.assertIn("Thread 1", full["text"])


if __name__ == "__main__":
    e2e_test.BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main()
