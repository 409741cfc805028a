#!/usr/bin/env python3
"""The supervisor's own survival: guardian, upgrade in place, and the logs over both.

    survival_test.py BIN_DIR [unittest arguments]
"""

import json
import os
import pty
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import unittest

import e2e_test
from e2e_test import PYTHON, Service, is_alive


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


def command_of(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Survival(Service):
    def setUp(self):
        super().setUp()
        self.bin = e2e_test.BIN

    def begin(self, *arguments, **more):
        run = subprocess.Popen([os.path.join(self.bin, "defib"), *arguments], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**self.env, **more.pop("extra_env", {})}, **more)
        self.runs.append(run)
        return run

    def inner(self, guardian, not_pid=None):
        """The supervisor under a guardian."""
        def look():
            return [pid for pid in children(guardian) if command_of(pid) == "defib" and
                    pid != not_pid and is_alive(pid)]
        return self.until(look, what="a supervisor under the guardian")[0]

    def about(self, name=None):
        """What a supervisor says of itself, or None where none answers."""
        path = os.path.join(self.state, "services", name, "control.sock") if name else \
            os.path.join(self.state, "control.sock")
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(path)
                connection.sendall(frame(b'{"op":"about"}'))
                return json.loads(read_frame(connection))
        except (OSError, ValueError):
            return None

    def config(self, text):
        return self.script(text, "defib.toml")


def crc32c(payload):
    crc = 0xffffffff
    for byte in payload:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def frame(payload):
    """A request on the control socket: size, checksum, JSON."""
    return struct.pack("<II", len(payload), crc32c(payload)) + payload


def read_frame(connection):
    received = b""
    while len(received) < 8 or len(received) < 8 + struct.unpack("<I", received[:4])[0]:
        part = connection.recv(4096)
        if not part:
            raise ValueError("the connection ended")
        received += part
    return received[8:]


class Guardian(Survival):
    def test_the_service_neither_stops_nor_doubles_nor_stays_unobserved(self):
        run = self.begin("run", "--name", "s", "--", "sh", "-c",
                         "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done")
        self.until(lambda: run.stdout.readline() == "line 5\n", what="5 lines")
        before = self.running("s")
        gaps = []
        rounds = int(os.environ.get("DEFIB_GUARDIAN_ROUNDS", "10"))
        for _ in range(rounds):
            pid = self.inner(run.pid)
            killed = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            again = self.until(lambda: (lambda a: a and a["pid"] != pid and a)(self.about("s")),
                               what="the next supervisor")
            gaps.append((again["supervising_mono_ns"] - killed) / 1e6)
            self.assertEqual(again["public_pid"], run.pid)
        print(f"unobserved for {statistics.median(gaps):.1f} ms p50, {max(gaps):.1f} ms at most "
              f"({rounds} kills)", file=sys.stderr)
        after = self.running("s")
        self.assertEqual((after["pid"], after["restart_count"]), (before["pid"], 0))
        self.assertLess(statistics.median(gaps), 500)
        # The output still comes through, and no line of it is lost or doubled.
        lines = []
        self.until(lambda: lines.append(run.stdout.readline()) or len(lines) > 30, what="lines")
        run.terminate()
        self.assertEqual(run.wait(15), 0)
        self.assertFalse(is_alive(before["pid"]))
        logged = self.defib("logs", "s").stdout.splitlines()
        self.assertEqual(logged, [f"line {i + 1}" for i in range(len(logged))])

    def test_a_killed_guardian_takes_its_supervisor_with_it_and_not_the_service(self):
        run = self.begin("run", "--name", "s", "--", "sleep", "1000")
        before = self.running("s")
        inner = self.inner(run.pid)
        run.kill()
        run.wait()
        self.until(lambda: not is_alive(inner), what="the end of the supervisor")
        self.assertTrue(is_alive(before["pid"]))
        second = self.begin("run", "--name", "s", "--", "sleep", "1000")
        self.until(lambda: self.service("s")["supervised"], what="the take-over")
        self.assertEqual(self.service("s")["pid"], before["pid"])
        second.terminate()
        self.assertEqual(second.wait(15), 0)

    def test_shim_and_supervisor_die_in_both_orders(self):
        run = self.begin("run", "--name", "s", "--", "sleep", "1000")
        before = self.running("s")
        for order in (("supervisor", "shim"), ("shim", "supervisor")):
            for victim in order:
                pid = self.inner(run.pid) if victim == "supervisor" else \
                    self.service("s")["shim_pid"]
                os.kill(pid, signal.SIGKILL)
            self.until(lambda: (lambda s: s["supervised"] and s["shim_pid"] and
                                is_alive(s["shim_pid"]))(self.service("s")), what=str(order))
            self.assertEqual(self.service("s")["pid"], before["pid"], order)
        # Also the end of the service itself, with nobody there, is told truly.
        os.kill(self.inner(run.pid), signal.SIGKILL)
        os.kill(self.service("s")["shim_pid"], signal.SIGKILL)
        os.kill(before["pid"], signal.SIGUSR1)
        self.running("s", not_pid=before["pid"])
        incident = self.closed_incident()
        self.assertEqual(incident["classification"]["signal"], "SIGUSR1")

    def test_a_crash_in_the_moment_of_the_supervisors_death_is_recorded_once(self):
        run = self.begin("run", "--name", "s", "--max-restarts", "100", "--restart-delay", "0",
                         "--", "sleep", "1000")
        for _ in range(5):
            service = self.running("s")
            inner = self.inner(run.pid)
            os.kill(inner, signal.SIGKILL)
            os.kill(service["pid"], signal.SIGKILL)
            self.running("s", not_pid=service["pid"])
        self.until(lambda: all(i["closed_at"] for i in self.json("incidents")["incidents"]),
                   what="closed incidents")
        detected = [e["generation"] for i in self.json("incidents")["incidents"]
                    for e in self.json("incident", "show", i["id"])["timeline"]
                    if e["event"] == "detected"]
        self.assertEqual(sorted(detected), [1, 2, 3, 4, 5])

    def test_a_hang_in_the_moment_of_the_supervisors_death_is_found(self):
        path = self.script("""
            import os, socket, sys, time
            def say(text):
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
                    s.sendto(text, os.environ["NOTIFY_SOCKET"].replace("@", "\\0"))
            again = os.path.exists(sys.argv[1])
            while again or not os.path.exists(sys.argv[1]):
                say(b"WATCHDOG=1")
                time.sleep(0.02)
            time.sleep(1000)
            """)
        mark = os.path.join(self.dir, "mark")
        run = self.begin("run", "--name", "s", "--heartbeat-timeout", "500ms", "--capture",
                         "none", "--", PYTHON, path, mark)
        before = self.running("s")
        self.until(lambda: self.service("s")["heartbeat_age_ms"] is not None, what="beats")
        inner = self.inner(run.pid)
        hung = time.monotonic()
        with open(mark, "w", encoding="ascii"):
            pass
        os.kill(inner, signal.SIGKILL)
        self.running("s", not_pid=before["pid"])
        took = time.monotonic() - hung
        print(f"hang found and replaced {took * 1000:.0f} ms after it began, deadline 500 ms",
              file=sys.stderr)
        self.assertGreater(took, 0.4)
        self.assertLess(took, 5)

    def test_the_back_off_goes_on(self):
        stamps = os.path.join(self.dir, "stamps")
        run = self.begin("run", "--name", "s", "--restart-delay", "300ms", "--max-restarts", "50",
                         "--", "sh", "-c", f"date +%s%N >> {stamps}; exit 3")

        def starts():
            try:
                with open(stamps, encoding="ascii") as file:
                    return [int(line) for line in file]
            except FileNotFoundError:
                return []
        for count in (3, 4):  # in the delays of 600 and 1200 ms
            self.until(lambda: len(starts()) >= count, what=f"{count} starts")
            self.assertEqual(len(starts()), count)
            time.sleep(0.1)
            os.kill(self.inner(run.pid), signal.SIGKILL)
        self.until(lambda: len(starts()) == 5, what="5 starts")
        delays = [(b - a) / 1e6 for a, b in zip(starts(), starts()[1:])]
        self.assertLess(delays[0], 250)
        self.assertGreater(delays[2], 550)
        self.assertGreater(delays[3], 1000)
        self.assertEqual(self.service("s")["state"], "backing_off")

    def test_what_rested_goes_on_resting(self):
        path = self.config("""
            [service.a]
            command = ["sleep", "1000"]
            [service.b]
            command = ["sleep", "1000"]
            [service.f]
            command = ["sh", "-c", "exit 3"]
            max_restarts = 1
            restart_delay = 0
            """)
        daemon = self.begin("daemon", "-c", path)
        running = self.running("b")
        self.running("a")
        self.until(lambda: self.service("f")["state"] == "failed", what="the failure")
        self.assertEqual(self.defib("stop", "a").returncode, 0)
        inner = self.inner(daemon.pid)
        os.kill(inner, signal.SIGKILL)
        self.until(lambda: (self.about() or {}).get("pid") not in (None, inner), what="the next")
        time.sleep(0.3)  # for what must not happen
        self.assertEqual(self.service("a")["state"], "stopped")
        self.assertEqual(self.service("b")["pid"], running["pid"])
        self.assertEqual(self.service("f")["state"], "failed")
        self.assertEqual(self.defib("start", "a").returncode, 0)
        daemon.terminate()
        self.assertEqual(daemon.wait(15), 0)
        # Begun anew by somebody, the configuration counts again.
        self.begin("daemon", "-c", path)
        self.running("a")

    def test_a_command_that_ends_while_nobody_looks_ends_the_run(self):
        go = os.path.join(self.dir, "go")
        run = self.begin("run", "--name", "s", "--", "sh", "-c",
                         f"while [ ! -e {go} ]; do sleep 0.01; done; exit 0")
        service = self.running("s")["pid"]
        inner = self.inner(run.pid)
        os.kill(inner, signal.SIGSTOP)
        with open(go, "w", encoding="ascii"):
            pass
        self.until(lambda: not is_alive(service), what="the end of the command")
        os.kill(inner, signal.SIGKILL)
        self.assertEqual(run.wait(15), 0)
        self.assertEqual(self.json("incidents")["incidents"], [])

    def test_exit_codes_pass_and_foreign_deaths_do_not_matter(self):
        self.assertEqual(self.defib("run", "--name", "x", "--", "true").returncode, 0)
        self.assertEqual(self.defib("run", "--max-restarts", "0", "--name", "y", "--",
                                    "false").returncode, 1)
        self.assertEqual(self.defib("run", "--restart", "x", "--", "true").returncode, 2)
        plain = self.begin("run", "--no-guardian", "--name", "z", "--", "sleep", "1000")
        self.running("z")
        self.assertEqual(command_of(plain.pid), "defib")
        refused = self.defib("run", "--name", "z", "--", "true")
        self.assertEqual(refused.returncode, 3)
        self.assertIn(str(plain.pid), refused.stderr)

    def test_a_terminals_interrupt_is_heard_once(self):
        pid, terminal = pty.fork()
        if pid == 0:
            os.execve(os.path.join(self.bin, "defib"),
                      ["defib", "run", "--name", "s", "--stop-timeout", "700ms", "--", "sh", "-c",
                       "trap '' TERM; echo up; while :; do sleep 0.1; done"], self.env)
        seen = b""
        while b"up" not in seen:
            seen += os.read(terminal, 100)
        service = self.running("s")
        asked = time.monotonic()
        os.write(terminal, b"\x03")
        threading.Thread(target=lambda: drain(terminal), daemon=True).start()
        _, status = os.waitpid(pid, 0)
        self.assertEqual(os.waitstatus_to_exitcode(status), 0)
        # A second request would have killed at once.
        self.assertGreater(time.monotonic() - asked, 0.65)
        self.assertFalse(is_alive(service["pid"]))

    def test_a_supervisor_that_dies_at_its_start_is_not_started_in_a_hurry(self):
        self.bin = os.path.join(self.dir, "bin")
        shutil.copytree(e2e_test.BIN, self.bin, ignore=only_programs)
        run = self.begin("run", "--name", "s", "--", "sleep", "1000")
        before = self.running("s")
        good, tries = os.path.join(self.bin, "defib"), os.path.join(self.dir, "tries")
        os.rename(good, good + ".good")
        with open(good, "w", encoding="ascii") as file:
            file.write(f"#!/bin/sh\necho x >> {tries}\nkill -KILL $$\n")
        os.chmod(good, 0o755)
        os.kill(self.inner(run.pid), signal.SIGKILL)
        time.sleep(1)
        with open(tries, encoding="ascii") as file:
            count = len(file.readlines())
        self.assertTrue(3 <= count <= 12, count)
        self.assertTrue(is_alive(before["pid"]))
        os.rename(good + ".good", good)
        self.until(lambda: self.about("s"), what="the next supervisor")
        self.assertEqual(self.running("s")["pid"], before["pid"])
        run.terminate()
        self.assertEqual(run.wait(15), 0)

    @unittest.skipUnless(os.geteuid() == 0 and shutil.which("unshare"), "needs root and unshare")
    def test_it_is_process_1_of_a_container(self):
        run = subprocess.Popen(["unshare", "--pid", "--fork", "--mount-proc",
                                os.path.join(self.bin, "defib"), "run", "--name", "s", "--", "sh",
                                "-c", "(setsid sleep 0.1 &); echo up; exec sleep 1000"],
                               env=self.env, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        self.runs.append(run)
        self.assertEqual(run.stdout.readline(), "up\n")
        guardian = self.until(lambda: children(run.pid), what="process 1")[0]
        with open(f"/proc/{guardian}/status", encoding="ascii") as file:
            self.assertRegex(file.read(), r"NSpid:\s+\d+\s+1\n")
        inner = self.inner(guardian)
        shim = self.until(lambda: children(inner), what="the shim")[0]
        os.kill(inner, signal.SIGKILL)
        inner = self.inner(guardian, not_pid=inner)
        os.kill(shim, signal.SIGKILL)  # a stranger's death, to be reaped by process 1
        self.until(lambda: not os.path.exists(f"/proc/{shim}"), what="the reaped stranger")
        os.kill(guardian, signal.SIGTERM)
        run.communicate(timeout=15)
        self.assertEqual(run.returncode, 0)

    def test_its_own_manager_is_told(self):
        path = os.path.join(self.dir, "manager")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            manager.settimeout(10)
            said = []

            def until(word):
                while word not in said:
                    said.extend(manager.recv(4096).decode().split("\n"))
            run = self.begin("run", "--name", "s", "--", "sh", "-c",
                             "echo ${WATCHDOG_USEC-none} ${NOTIFY_SOCKET}; exec sleep 1000",
                             extra_env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"})
            until("READY=1")
            until("WATCHDOG=1")
            del said[:]
            until("WATCHDOG=1")
            words = run.stdout.readline().split()
            self.assertEqual(words[0], "10000000")  # its own heartbeat's, not ours
            self.assertNotEqual(words[1], path)
            del said[:]
            os.kill(self.inner(run.pid), signal.SIGKILL)
            until("READY=1")
            run.terminate()
            until("STOPPING=1")
            self.assertEqual(run.wait(15), 0)

    def test_the_guardian_is_small(self):
        run = self.begin("run", "--name", "s", "--", "sleep", "1000")
        self.running("s")
        with open(f"/proc/{run.pid}/smaps_rollup", encoding="ascii") as file:
            pss = [int(line.split()[1]) for line in file if line.startswith("Pss:")][0]
        print(f"guardian: {pss} KiB PSS", file=sys.stderr)
        self.assertLess(pss, 200)


def drain(fd):
    try:
        while os.read(fd, 4096):
            pass
    except OSError:
        pass


def only_programs(directory, names):
    """Leaves the tests out."""
    wanted = {"defib", "defib-shim", "defib-guardian", "defib-capture"}
    return [name for name in names if name not in wanted]


class Upgrade(Survival):
    def setUp(self):
        super().setUp()
        self.bin = os.path.join(self.dir, "bin")
        shutil.copytree(e2e_test.BIN, self.bin, ignore=only_programs)
        self.program = os.path.join(self.bin, "defib")

    def break_program(self):
        os.rename(self.program, self.program + ".good")
        with open(self.program, "w", encoding="ascii") as file:
            file.write("#!/bin/sh\necho cannot load libsomething >&2\nexit 127\n")
        os.chmod(self.program, 0o755)

    def mend_program(self):
        # Another file of the same content, as an installer leaves it.
        shutil.copy2(self.program + ".good", self.program + ".new")
        os.rename(self.program + ".new", self.program)

    def upgrades(self, *options):
        run = self.begin("run", "--name", "s", *options, "--", "sh", "-c",
                         "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done")
        before = self.running("s")
        old = self.about("s")
        # One that cannot start is not started.
        self.break_program()
        refused = self.defib("upgrade", "s")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("cannot load libsomething", refused.stderr)
        self.assertEqual(self.about("s"), old)
        self.mend_program()
        # Nobody else gets the name while it is being upgraded.
        stop, thieves = threading.Event(), []

        def steal():
            while not stop.is_set():
                thieves.append(self.defib("run", "--no-guardian", "--name", "s", "--",
                                          "true").returncode)
        thief = threading.Thread(target=steal)
        thief.start()
        for _ in range(5):
            upgraded = self.defib("upgrade", "s")
            self.assertEqual(upgraded.returncode, 0, upgraded.stderr)
        stop.set()
        thief.join()
        self.assertEqual(set(thieves), {3})
        new = self.about("s")
        self.assertNotEqual(new["started_mono_ns"], old["started_mono_ns"])
        self.assertTrue(new["resumed"])
        # By a signal too.
        os.kill(run.pid, signal.SIGUSR2)
        self.until(lambda: (self.about("s") or new)["started_mono_ns"] != new["started_mono_ns"],
                   what="the upgrade by a signal")
        after = self.running("s")
        self.assertEqual((after["pid"], after["shim_pid"]), (before["pid"], before["shim_pid"]))
        os.kill(after["pid"], signal.SIGKILL)
        self.running("s", not_pid=after["pid"])
        self.assertEqual(self.closed_incident()["cause"], "killed_externally")
        run.terminate()
        run.communicate(timeout=15)
        self.assertEqual(run.returncode, 0)

    # `defib` of the tests' own helper is the copy too.
    def defib(self, *arguments, timeout=30, **more):
        broken = os.path.exists(self.program + ".good")
        program = os.path.join(e2e_test.BIN, "defib") if broken else self.program
        return subprocess.run([program, *arguments], env=self.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                              check=False, **more)

    def test_under_its_guardian(self):
        self.upgrades()

    def test_without_a_guardian(self):
        self.upgrades("--no-guardian")

    def test_a_configuration_that_the_new_one_would_refuse_stops_the_upgrade(self):
        path = self.config("[service.a]\ncommand = [\"sleep\", \"1000\"]\n")
        daemon = self.begin("daemon", "-c", path)
        before = self.running("a")
        self.config("[service.a]\ncomand = 1\n")
        refused = self.defib("upgrade")
        self.assertEqual(refused.returncode, 1)
        self.assertTrue(self.service("a")["supervised"])
        self.config("[service.a]\ncommand = [\"sleep\", \"1000\"]\n"
                    "[service.b]\ncommand = [\"sleep\", \"1000\"]\n")
        self.assertEqual(self.defib("upgrade").returncode, 0)
        self.running("b")
        self.assertEqual(self.service("a")["pid"], before["pid"])
        daemon.terminate()
        self.assertEqual(daemon.wait(15), 0)


class Logs(Survival):
    def test_following_goes_on_over_rotations_kills_and_restarts(self):
        run = self.begin("run", "--name", "s", "--quiet", "--log-max-size", "4096", "--log-files",
                         "50", "--restart-delay", "0", "--", "sh", "-c",
                         "i=0; while :; do i=$((i+1)); echo $DEFIB_GENERATION $i; "
                         "echo err $i >&2; sleep 0.005; done")
        self.running("s")
        follow = self.begin("logs", "s", "-f", "--json", "--stream", "stdout")
        pids = [self.inner(run.pid), self.service("s")["shim_pid"], self.service("s")["pid"]]
        lines = []
        for step in range(3):
            while len(lines) < 100 * (step + 1):
                lines.append(json.loads(follow.stdout.readline()))
            os.kill(pids[step], signal.SIGKILL)
        while not lines[-1]["text"].startswith("2 "):
            lines.append(json.loads(follow.stdout.readline()))
        follow.kill()
        run.terminate()
        self.assertEqual(run.wait(15), 0)
        self.assertTrue(os.path.exists(os.path.join(self.state, "services/s/logs/current.3")))
        self.assertEqual({line["stream"] for line in lines}, {"stdout"})
        first = [line["text"] for line in lines if line["text"].startswith("1 ")]
        start = int(first[0].split()[1])
        self.assertEqual(first, [f"1 {start + i}" for i in range(len(first))])
        times = [line["at"] for line in lines]
        self.assertEqual(times, sorted(times))
        middle = times[len(times) // 2]
        around = self.json_lines("logs", "s", "--around", middle, "--window", "100ms")
        self.assertTrue(any(line["at"] == middle for line in around))
        self.assertLess(len(around), 200)
        until = self.json_lines("logs", "s", "--until", middle)
        since = self.json_lines("logs", "s", "--since", middle)
        everything = self.json_lines("logs", "s")
        self.assertGreaterEqual(len(until) + len(since), len(everything))
        self.assertLess(max(len(until), len(since)), len(everything))
        self.assertEqual(len(self.json_lines("logs", "s", "-n", "7")), 7)
        stamped = self.defib("logs", "s", "-n", "1", "--timestamps", "--stream", "stderr").stdout
        self.assertRegex(stamped, r"^\d{4}-\d\d-\d\dT[\d:.]+Z stderr err \d+\n$")

    def json_lines(self, *arguments):
        return [json.loads(line) for line in self.defib(*arguments, "--json").stdout.splitlines()]

    def test_a_flood_is_told_in_view_and_status(self):
        run = self.begin("run", "--name", "s", "--quiet", "--log-rate", "64KiB/s", "--", "sh",
                         "-c", "echo first; yes flood | head -n 3000000; echo last; sleep 1000")
        self.until(lambda: self.service("s") and self.service("s")["log_dropped_by_rate"] > 10**7,
                   what="drops")

        # The flood may still go on between the two looks.
        def told():
            notices = [line for line in self.json_lines("logs", "s") if "dropped_bytes" in line]
            self.assertEqual({line["reason"] for line in notices}, {"log_rate"})
            return (sum(line["dropped_bytes"] for line in notices) ==
                    self.service("s")["log_bytes_dropped"])
        self.until(told, what="the same number of lost bytes in view and status")
        self.assertIn("bytes of stdout are missing here", self.defib("logs", "s").stdout)
        run.terminate()
        self.assertEqual(run.wait(15), 0)

    def test_wrong_questions(self):
        self.defib("run", "--name", "s", "--", "true")
        for arguments in (["--stream", "x"], ["--since", "x"], ["--until", "x"],
                          ["--around", "10m", "--window", "x"]):
            done = self.defib("logs", "s", *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("try: ", done.stderr)


if __name__ == "__main__":
    e2e_test.BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main()
