#!/usr/bin/env python3
"""End-to-end tests of the defib program with real services, as docs/cli.md promises it.

    e2e_test.py BIN_DIR [unittest arguments]

Every test has a state directory of its own, and ends the processes that it started, by their ids.
"""

import glob
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import unittest

BIN = ""
PYTHON = "/usr/bin/python3"
STATES = {"starting", "running", "degraded", "recovering", "monitoring", "ramping", "backing_off",
          "stopping", "stopped", "standby", "failed", "awaiting_approval"}
OUTCOMES = {"open", "recovered", "restarted", "stopped", "awaiting_approval", "failed"}
CAUSES = {"segmentation_fault", "null_dereference", "stack_overflow", "bus_error",
          "illegal_instruction", "arithmetic_fault", "assertion_failure", "uncaught_exception",
          "heap_corruption", "abort", "out_of_memory", "deadlock", "busy_loop", "heartbeat_lost",
          "health_check_failed", "memory_limit", "cpu_limit", "resource_limit", "bad_system_call",
          "log_pattern", "killed_externally", "venue_disconnected", "start_failed", "exit_failure",
          "clean_exit", "unknown"}
TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Service(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="defib-e2e-")
        self.state = os.path.join(self.dir, "state")
        self.env = {key: value for key, value in os.environ.items()
                    if key not in ("DEFIB_STATE_DIR", "LOG_LEVEL", "XDG_STATE_HOME")}
        self.env["DEFIB_STATE_DIR"] = self.state
        self.runs = []

    def tearDown(self):
        for run in self.runs:
            if run.poll() is None:
                run.terminate()
        for run in self.runs:
            try:
                run.wait(15)
            except subprocess.TimeoutExpired:
                run.kill()
                run.wait(5)
            for stream in (run.stdout, run.stderr):
                if stream:
                    stream.close()
        # What a killed supervisor left, by the ids that it left.
        if os.path.exists(os.path.join(self.state, "services")):
            for service in self.json("status")["services"]:
                for pid in (service.get("shim_pid"), service["pid"]):
                    if pid and is_alive(pid):
                        os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.dir, ignore_errors=True)

    # One command, to its end.
    def defib(self, *arguments, timeout=30, **more):
        return subprocess.run([os.path.join(BIN, "defib"), *arguments], env=self.env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout,
                              check=False, **more)

    def json(self, *arguments):
        done = self.defib(*arguments, "--json")
        self.assertTrue(done.stdout, done.stderr)
        return json.loads(done.stdout)

    # A supervising command, in the background.
    def begin(self, *arguments):
        run = subprocess.Popen([os.path.join(BIN, "defib"), *arguments], env=self.env, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.runs.append(run)
        return run

    def script(self, text, name="service.py"):
        path = os.path.join(self.dir, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(textwrap.dedent(text))
        return path

    def until(self, condition, seconds=20, what="the condition"):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            result = condition()
            if result:
                return result
            time.sleep(0.02)
        self.fail(f"{what} did not come true in {seconds} s\n{self.scene()}")

    # What is there when a test fails: the services, and each incident with its events.
    def scene(self):
        lines = [self.defib("status").stdout]
        for path in sorted(glob.glob(f"{self.state}/incidents/*.jsonl")):
            with open(path, encoding="utf-8") as file:
                events = [json.loads(line) for line in file if line.endswith("\n")]
            lines.append(path)
            lines += [json.dumps(one)[:300] for one in events[:20] + events[20:][-40:]]
        return "\n".join(lines)

    def service(self, name):
        done = self.defib("status", name, "--json")
        document = json.loads(done.stdout)
        return document["services"][0] if "services" in document else None

    def running(self, name, not_pid=None):
        def look():
            found = self.service(name)
            good = found and found["state"] == "running" and found["pid"] != not_pid
            return found if good else None
        return self.until(look, what=f"{name} running")

    def closed_incident(self):
        def look():
            incidents = self.json("incidents")["incidents"]
            return incidents and incidents[0]["closed_at"] and self.json("incident", "show",
                                                                         "latest")
        return self.until(look, what="a closed incident")

    # The events of the newest incident that has these by now: what supervisor, service and helpers
    # tell comes in no order.
    def events(self, *names, seconds=40):
        def look():
            for path in sorted(glob.glob(f"{self.state}/incidents/*.jsonl"), reverse=True):
                with open(path, encoding="utf-8") as file:
                    events = [json.loads(line) for line in file if line.endswith("\n")]
                if set(names) <= {one["event"] for one in events}:
                    return events
            return None
        return self.until(look, seconds=seconds, what=f"an incident with {names}")

    @staticmethod
    def event(events, name):
        return next((one for one in events if one["event"] == name), None)

    def check_status(self, service):
        self.assertIn(service["state"], STATES)
        self.assertTrue(service["pid"] is None or service["pid"] > 0)
        self.assertTrue(service["started_at"] is None or TIME.match(service["started_at"]))
        for key in ("restart_count", "max_restarts", "recovery_attempts"):
            self.assertIsInstance(service[key], int, key)
        for key in ("uptime_seconds", "memory_mb", "cpu_percent"):
            self.assertTrue(service[key] is None or service[key] >= 0, key)
        for key in ("last_error", "last_incident"):
            self.assertTrue(service[key] is None or isinstance(service[key], str), key)
        self.assertIn("heartbeat_age_ms", service)

    def check_incident(self, incident):
        self.assertEqual(incident["schema"], "defib.incident/1")
        self.assertRegex(incident["id"], r"^\d{8}T\d{6}Z-[0-9a-f]{6}$")
        self.assertRegex(incident["opened_at"], TIME)
        self.assertTrue(incident["closed_at"] is None or TIME.match(incident["closed_at"]))
        self.assertIn(incident["cause"], CAUSES)
        self.assertIn(incident["outcome"], OUTCOMES)
        self.assertRegex(incident["head_hash"], r"^[0-9a-f]{64}$")
        found = incident["classification"]
        self.assertEqual(found["cause"], incident["cause"])
        for key in ("subtype", "signal", "fault_address"):
            self.assertTrue(found[key] is None or isinstance(found[key], str), key)
        self.assertTrue(found["evidence"] and all(isinstance(e, str) for e in found["evidence"]))
        self.assertTrue(0 < found["confidence"] <= 1)
        for thread in incident["threads"]:
            self.assertIsInstance(thread["tid"], int)
            self.assertIsInstance(thread["name"], str)
            self.assertIsInstance(thread["crashed"], bool)
            for frame in thread["frames"]:
                for key in ("pc", "module", "function", "file", "line"):
                    self.assertIn(key, frame)
        for entry in incident["timeline"]:
            self.assertRegex(entry["at"], TIME)
            self.assertIsInstance(entry["mono_ns"], int)
            self.assertIsInstance(entry["event"], str)
        events = [entry["event"] for entry in incident["timeline"]]
        self.assertEqual(events[0], "opened")
        verified = self.defib("verify", incident["id"], "--head", incident["head_hash"])
        self.assertEqual(verified.returncode, 0, verified.stderr)
        return events


class Supervising(Service):
    @unittest.skipUnless(shutil.which("redis-server"), "needs redis-server")
    def test_redis_comes_back_after_kill_9(self):
        port = free_port()
        run = self.begin("run", "--name", "cache", "--", "redis-server", "--port", str(port),
                         "--bind", "127.0.0.1", "--save", "", "--dir", self.dir)

        def ping():
            try:
                with socket.create_connection(("127.0.0.1", port), 1) as connection:
                    connection.sendall(b"PING\r\n")
                    return connection.recv(64) == b"+PONG\r\n"
            except OSError:
                return False

        self.until(ping, what="redis answering")
        before = self.running("cache")
        self.check_status(before)
        os.kill(before["pid"], signal.SIGKILL)
        after = self.running("cache", not_pid=before["pid"])
        self.until(ping, what="redis answering again")
        self.assertEqual(after["restart_count"], 1)
        incident = self.closed_incident()
        events = self.check_incident(incident)
        self.assertEqual(incident["service"], "cache")
        self.assertEqual(incident["cause"], "killed_externally")
        self.assertEqual(incident["outcome"], "restarted")
        self.assertEqual(incident["classification"]["signal"], "SIGKILL")
        for event in ("detected", "restarted", "classified", "closed"):
            self.assertIn(event, events)
        listed = self.json("incidents")
        self.assertEqual(listed["schema"], "defib.incidents/1")
        self.assertEqual(set(listed["incidents"][0]), {"id", "service", "opened_at", "closed_at",
                                                       "cause", "outcome", "head_hash"})
        self.assertEqual(self.service("cache")["last_incident"], incident["id"])
        run.send_signal(signal.SIGTERM)
        self.assertEqual(run.wait(15), 0)
        self.assertFalse(is_alive(after["pid"]))
        self.assertFalse(ping())

    @unittest.skipUnless(shutil.which("redis-server"), "needs redis-server")
    def test_redis_that_segfaults_keeps_its_own_handler_and_comes_back(self):
        port = free_port()
        self.begin("run", "--name", "cache", "--", "redis-server", "--port", str(port), "--bind",
                   "127.0.0.1", "--save", "", "--dir", self.dir)
        before = self.running("cache")
        self.until(lambda: "Ready to accept" in self.defib("logs", "cache").stdout, what="ready")
        os.kill(before["pid"], signal.SIGSEGV)
        self.running("cache", not_pid=before["pid"])
        incident = self.closed_incident()
        self.check_incident(incident)
        self.assertEqual(incident["classification"]["signal"], "SIGSEGV")
        self.assertIn("REDIS BUG REPORT", self.defib("logs", "cache").stdout)

    def test_a_python_script_that_raises_is_an_uncaught_exception(self):
        path = self.script("""
            import os, sys, time
            if os.path.exists(sys.argv[1]):
                time.sleep(1000)
            open(sys.argv[1], "w").close()
            raise ValueError("no such symbol: XYZ")
            """)
        run = self.begin("run", "--name", "py", "--", PYTHON, path, os.path.join(self.dir, "mark"))
        incident = self.closed_incident()
        self.check_incident(incident)
        self.assertEqual(incident["cause"], "uncaught_exception")
        self.assertEqual(incident["classification"]["subtype"], "ValueError")
        self.assertIn("ValueError: no such symbol: XYZ", incident["classification"]["evidence"])
        self.assertEqual(incident["outcome"], "restarted")
        run.terminate()
        self.assertEqual(run.wait(15), 0)
        self.assertIn("ValueError: no such symbol: XYZ", run.stderr.read())

    def test_a_python_script_that_segfaults_is_captured_with_its_stack(self):
        path = self.script("""
            import ctypes, os, sys, time
            if os.path.exists(sys.argv[1]):
                time.sleep(1000)
            open(sys.argv[1], "w").close()
            ctypes.string_at(0)
            """)
        self.begin("run", "--name", "py", "--", PYTHON, path, os.path.join(self.dir, "mark"))
        incident = self.closed_incident()
        events = self.check_incident(incident)
        self.assertEqual(incident["cause"], "null_dereference")
        self.assertEqual(incident["classification"]["fault_address"], "0x0")
        crashed = [thread for thread in incident["threads"] if thread["crashed"]]
        self.assertEqual(len(crashed), 1)
        self.assertTrue(crashed[0]["frames"][0]["module"])
        self.assertIn("captured", events)

    def test_a_script_that_always_fails_ends_at_the_limit(self):
        started = time.monotonic()
        done = self.defib("run", "--max-restarts", "3", "--restart-delay", "0", "--name", "sh",
                          "--", "sh", "-c", "echo out; echo err >&2; exit 3")
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertLess(time.monotonic() - started, 20)
        self.assertEqual(done.stdout, "out\n" * 4)
        self.assertEqual(len(re.findall("^err$", done.stderr, re.M)), 4)
        incident = self.json("incident", "show", "latest")
        self.check_incident(incident)
        self.assertEqual(incident["cause"], "exit_failure")
        self.assertEqual(incident["outcome"], "failed")
        self.assertEqual(self.service("sh")["state"], "failed")
        self.assertEqual(self.defib("status", "sh").returncode, 1)

    def test_a_command_that_ends_well_is_not_restarted(self):
        done = self.defib("run", "--", "sh", "-c", "echo done")
        self.assertEqual((done.returncode, done.stdout), (0, "done\n"))
        self.assertEqual(self.json("incidents")["incidents"], [])
        never = self.defib("run", "--restart", "never", "--name", "n", "--", "sh", "-c", "exit 5")
        self.assertEqual(never.returncode, 1)
        quiet = self.defib("run", "--quiet", "--name", "q", "--", "sh", "-c", "echo hidden")
        self.assertEqual((quiet.returncode, quiet.stdout), (0, ""))
        self.assertEqual(self.defib("logs", "q").stdout, "hidden\n")

    def test_a_program_that_does_not_exist_is_told(self):
        done = self.defib("run", "--", "/nonexistent/program")
        self.assertEqual(done.returncode, 2)
        self.assertFalse(os.path.exists(self.state), "it was told before anything was touched")
        done = self.defib("run", "--max-restarts", "1", "--restart-delay", "0", "--",
                          "/nonexistent/program")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("/nonexistent/program", done.stderr)

    def test_a_service_that_ignores_the_stop_signal_is_killed(self):
        run = self.begin("run", "--name", "deaf", "--stop-timeout", "300ms", "--", "sh", "-c",
                         "trap '' TERM; echo up; while :; do sleep 0.1; done")
        self.assertEqual(run.stdout.readline(), "up\n")
        pid = self.running("deaf")["pid"]
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=10)
        self.assertEqual(run.returncode, 0)
        self.assertFalse(is_alive(pid))
        for part in ("did not end when asked, and was killed", "SIGTERM for 300 ms",
                     "stop_timeout"):
            self.assertIn(part, said)

    def test_two_runs_that_begin_in_one_moment_share_a_fresh_state_directory(self):
        for _ in range(20):
            shutil.rmtree(self.state, ignore_errors=True)
            both = [self.begin("run", "--name", name, "--", "true") for name in ("one", "two")]
            for run in both:
                _, complaint = run.communicate(timeout=15)
                self.assertEqual(run.returncode, 0, complaint)

    def test_two_names_share_a_state_directory_and_one_name_does_not(self):
        first = self.begin("run", "--name", "one", "--", "sleep", "1000")
        second = self.begin("run", "--name", "two", "--", "sleep", "1000")
        pids = {self.running("one")["pid"], self.running("two")["pid"]}
        self.assertEqual(len(pids), 2)
        third = self.defib("run", "--name", "one", "--", "sleep", "1000")
        self.assertEqual(third.returncode, 3)
        self.assertIn(str(first.pid), third.stderr)
        self.assertIn("AlreadySupervised", third.stderr)
        self.assertEqual(len(self.json("status")["services"]), 2)
        first.terminate()
        self.assertEqual(first.wait(15), 0)
        self.assertEqual(self.service("two")["state"], "running")
        second.terminate()
        self.assertEqual(second.wait(15), 0)

    def test_a_hang_is_detected_and_the_service_replaced(self):
        path = self.script("""
            import ctypes, os, sys, threading, time
            agent = ctypes.CDLL(None)
            assert agent.defib_attach() == 1
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
            agent.defib_stage_claim.restype = ctypes.c_void_p
            stage = ctypes.c_void_p(agent.defib_stage_claim(b"loop", 200))
            agent.defib_stage_beat(stage)
            again = os.path.exists(sys.argv[1])
            open(sys.argv[1], "w").close()
            while again:
                agent.defib_stage_beat(stage)
                time.sleep(0.01)
            time.sleep(1000)
            """)
        self.begin("run", "--name", "py", "--", PYTHON, path, os.path.join(self.dir, "mark"))
        incident = self.closed_incident()
        self.check_incident(incident)
        self.assertIn(incident["cause"], ("heartbeat_lost", "deadlock", "busy_loop"))
        hang = [e for e in incident["timeline"] if e.get("what") == "hang"][0]
        self.assertEqual(hang["stage"], "loop")
        self.assertGreaterEqual(hang["silent_ns"], 200_000_000)
        # No thread of it crashed; where they stand is shown all the same.
        shown = self.defib("incident", "show", incident["id"]).stdout
        self.assertRegex(shown, r"\nThread  \d+ .*\n  #0 ", shown)
        age = self.until(lambda: self.service("py")["heartbeat_age_ms"] is not None,
                         what="a heartbeat")
        self.assertTrue(age)

    def test_a_service_reports_its_recovery(self):
        path = self.script("""
            import ctypes, os, sys, time
            agent = ctypes.CDLL(None)
            agent.defib_attach()
            if os.path.exists(sys.argv[1]):
                agent.defib_state(b"recovering")
                agent.defib_event(b'{"event":"stage_started","stage":"load"}')
                agent.defib_event(b'{"event":"stage_finished","stage":"load","records":3}')
                agent.defib_event(b'{"event":"recovery_closed","outcome":"recovered"}')
                agent.defib_state(b"running")
            agent.defib_ready()
            if not os.path.exists(sys.argv[1]):
                open(sys.argv[1], "w").close()
                os.abort()
            time.sleep(1000)
            """)
        self.begin("run", "--name", "py", "--", PYTHON, path, os.path.join(self.dir, "mark"))
        incident = self.closed_incident()
        events = self.check_incident(incident)
        self.assertEqual(incident["outcome"], "recovered")
        self.assertEqual(incident["cause"], "abort")
        for event in ("stage_started", "stage_finished", "recovery_closed"):
            self.assertIn(event, events)

    def test_health_checks_replace_an_unhealthy_service(self):
        path = self.script("""
            import http.server, os, sys
            healthy = os.path.exists(sys.argv[2])
            open(sys.argv[2], "w").close()
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    self.send_response(200 if healthy else 500)
                    self.end_headers()
                def log_message(self, *arguments):
                    pass
            http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
            """)
        port = free_port()
        self.begin("run", "--name", "web", "--health-url", f"http://localhost:{port}/health",
                   "--health-check-interval", "500ms", "--", PYTHON, path, str(port),
                   os.path.join(self.dir, "mark"))
        incident = self.closed_incident()
        self.check_incident(incident)
        self.assertEqual(incident["cause"], "health_check_failed")
        self.assertIn("HTTP 500", " ".join(incident["classification"]["evidence"]))
        self.assertEqual(incident["outcome"], "restarted")
        self.running("web")

    def test_a_pattern_in_the_output_opens_an_incident(self):
        self.begin("run", "--name", "sh", "--log-pattern", "FATAL|panic", "--", "sh", "-c",
                   "echo all well; sleep 0.3; echo FATAL: no money; sleep 1000")
        incidents = self.until(lambda: self.json("incidents")["incidents"], what="an incident")
        self.assertEqual(incidents[0]["cause"], "log_pattern")
        incident = self.json("incident", "show", "latest")
        self.assertIn("FATAL: no money", incident["classification"]["evidence"])
        self.assertEqual(self.service("sh")["state"], "running")

    def test_a_memory_limit_only_alerts(self):
        path = self.script("memory = bytearray(80 << 20)\nimport time\ntime.sleep(1000)\n")
        self.begin("run", "--name", "fat", "--max-memory", "40", "--", PYTHON, path)
        pid = self.running("fat")["pid"]
        incidents = self.until(lambda: self.json("incidents")["incidents"], what="an incident")
        self.assertEqual(incidents[0]["cause"], "memory_limit")
        self.assertEqual(self.service("fat")["pid"], pid)


class Survival(Service):
    def test_a_killed_run_is_taken_over_by_the_next_one(self):
        first = self.begin("run", "--name", "s", "--", "sh", "-c",
                           "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.01; done")
        before = self.running("s")
        self.until(lambda: first.stdout.readline() == "line 20\n", what="20 lines")
        first.kill()
        first.wait()
        self.assertTrue(is_alive(before["pid"]))
        left = self.service("s")
        self.assertEqual((left["supervised"], left["state"]), (False, "running"))
        second = self.begin("run", "--name", "s", "--", "sh", "-c", "exit 9")
        self.until(lambda: self.service("s")["supervised"], what="the take-over")
        after = self.service("s")
        self.assertEqual(after["pid"], before["pid"])
        self.assertEqual(after["restart_count"], 0)
        self.assertTrue(second.stdout.readline().startswith("line "))
        second.terminate()
        self.assertEqual(second.wait(15), 0)
        self.assertFalse(is_alive(before["pid"]))
        lines = self.defib("logs", "s").stdout.splitlines()
        self.assertEqual(lines, [f"line {i + 1}" for i in range(len(lines))])

    def test_a_crash_without_any_supervisor_is_told_to_the_next_one(self):
        first = self.begin("run", "--name", "s", "--", "sleep", "1000")
        before = self.running("s")
        first.kill()
        first.wait()
        os.kill(before["pid"], signal.SIGSEGV)
        # The shim holds the permission for the next start.
        self.until(lambda: self.service("s")["pid"] not in (None, before["pid"]),
                   what="the replacement")
        self.begin("run", "--name", "s", "--", "sleep", "1000")
        incident = self.closed_incident()
        self.check_incident(incident)
        self.assertEqual(incident["classification"]["signal"], "SIGSEGV")
        detected = [e for e in incident["timeline"] if e["event"] == "detected"]
        self.assertEqual(len(detected), 1)
        self.assertTrue(detected[0]["while_away"])

    def config(self, text):
        return self.script(text, "defib.toml")

    def test_a_daemon_is_controlled_over_its_socket(self):
        path = self.config("""
            [service.a]
            command = ["sleep", "1000"]
            [service.b]
            command = ["sleep", "1001"]
            start = false
            """)
        daemon = self.begin("daemon", "-c", path)
        first = self.running("a")
        self.assertEqual(self.service("b")["state"], "stopped")
        self.assertEqual(self.defib("start", "b").returncode, 0)
        self.assertEqual(self.service("b")["state"], "running")
        restarted = self.json("restart", "a")
        self.assertTrue(restarted["ok"])
        self.assertNotEqual(self.service("a")["pid"], first["pid"])
        self.assertEqual(self.defib("stop", "b").returncode, 0)
        self.assertEqual(self.service("b")["state"], "stopped")
        self.assertEqual(self.defib("reset", "b").returncode, 0)
        self.assertEqual(self.service("b")["state"], "running")
        unknown = self.defib("restart", "c")
        self.assertEqual(unknown.returncode, 2)
        self.assertIn("ServiceUnknown", unknown.stderr)
        pid = self.service("a")["pid"]
        self.config("[service.a]\ncommand = [\"sleep\", \"1000\"]\nmax_restarts = 7\n"
                    "[service.c]\ncommand = [\"sleep\", \"1002\"]\n")
        reloaded = self.json("reload")
        self.assertEqual((reloaded["added"], reloaded["changed"], reloaded["removed"]),
                         (["c"], ["a"], ["b"]))
        self.assertEqual(self.service("a")["max_restarts"], 7)
        self.assertEqual(self.service("a")["pid"], pid)
        self.running("c")
        self.config("[service.a]\ncomand = 1\n")
        broken = self.defib("reload")
        self.assertEqual(broken.returncode, 2)
        self.assertEqual(self.service("a")["pid"], pid)
        second = self.defib("daemon", "-c", path)
        self.assertEqual(second.returncode, 2)
        self.config("[service.a]\ncommand = [\"sleep\", \"1000\"]\n")
        second = self.defib("daemon", "-c", path)
        self.assertEqual(second.returncode, 3, second.stderr)
        self.assertEqual(self.defib("stop").returncode, 0)
        self.assertEqual(self.service("a")["state"], "stopped")
        daemon.terminate()
        self.assertEqual(daemon.wait(15), 0)
        self.assertEqual(self.defib("stop", "a").returncode, 1)

    def test_a_killed_run_is_taken_over_by_a_daemon(self):
        run = self.begin("run", "--name", "a", "--", "sleep", "1000")
        before = self.running("a")
        run.kill()
        run.wait()
        self.begin("daemon", "-c", self.config("[service.a]\ncommand = [\"sleep\", \"1000\"]\n"))
        self.until(lambda: self.service("a")["supervised"], what="the take-over")
        self.assertEqual(self.service("a")["pid"], before["pid"])

    def test_random_kills_of_daemon_shim_and_service_leave_one_service(self):
        rounds = int(os.environ.get("DEFIB_KILL_ROUNDS", "30"))
        seed = int(os.environ.get("DEFIB_SEED", str(random.randrange(1 << 30))))
        print(f"seed {seed}, {rounds} rounds", file=sys.stderr)
        dice = random.Random(seed)
        marker = f"1{random.randrange(10**8):08d}"
        path = self.config(f"[service.a]\ncommand = [\"sleep\", \"{marker}\"]\n"
                           "max_restarts = 100000\nrestart_delay = 0\n")
        daemon = self.begin("daemon", "-c", path)
        self.running("a")
        kills = {"daemon": 0, "shim": 0, "service": 0}

        def copies():
            found = []
            for entry in os.listdir("/proc"):
                if entry.isdigit() and is_alive(entry):
                    try:
                        with open(f"/proc/{entry}/cmdline", "rb") as cmdline:
                            if cmdline.read() == f"sleep\0{marker}\0".encode():
                                found.append(int(entry))
                    except OSError:
                        pass
            return found

        for _ in range(rounds):
            before = self.service("a")
            victims = dice.sample(["daemon", "shim", "service"], dice.choice((1, 1, 2, 3)))
            for victim in victims:
                pid = {"daemon": daemon.pid, "shim": before["shim_pid"],
                       "service": before["pid"]}[victim]
                if victim == "daemon" and daemon.poll() is None:
                    daemon.kill()
                    daemon.wait()
                elif victim != "daemon" and pid and is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
                kills[victim] += 1
                time.sleep(dice.random() * 0.02)
            if daemon.poll() is not None:
                daemon = self.begin("daemon", "-c", path)

            def settled():
                now = self.service("a")
                return (now["supervised"] and now["state"] == "running" and now["shim_pid"] and
                        copies() == [now["pid"]])
            try:
                self.until(settled, what=f"one running service after {victims} (seed {seed})")
                if "service" not in victims:
                    self.assertEqual(self.service("a")["pid"], before["pid"], victims)
            except AssertionError:
                daemon.kill()
                print(copies(), before, self.service("a"), daemon.stderr.read(), sep="\n",
                      file=sys.stderr)
                for entry in self.json("incident", "show", "latest")["timeline"][-12:]:
                    print(entry, file=sys.stderr)
                raise
        print(f"kills: {kills}", file=sys.stderr)
        for incident in self.json("incidents")["incidents"]:
            self.assertEqual(self.defib("verify", incident["id"]).returncode, 0)
        detected = []
        for incident in self.json("incidents")["incidents"]:
            for entry in self.json("incident", "show", incident["id"])["timeline"]:
                if entry["event"] == "detected":
                    detected.append(entry["generation"])
        self.assertEqual(len(detected), len(set(detected)), "an exit was recorded twice")
        self.assertEqual(len(detected), kills["service"], "an exit was not recorded")


class Usage(Service):
    def test_wrong_command_lines_are_exit_2_with_guidance(self):
        for arguments in ([], ["nonsense"], ["run"], ["run", "--"], ["run", "sleep", "1"],
                          ["run", "--max-restarts", "many", "--", "true"],
                          ["run", "--restart", "sometimes", "--", "true"],
                          ["run", "--stop-timeout", "soon", "--", "true"],
                          ["run", "--capture", "gdb", "--", "true"],
                          ["run", "--log-pattern", "(", "--", "true"],
                          ["run", "--health-url", "https://x/", "--", "true"],
                          ["run", "--max-memory", "-1", "--", "true"],
                          ["run", "--name", "../x", "--", "true"],
                          ["run", "--log-level", "loud", "--", "true"],
                          ["run", "--env", "x", "--", "true"],
                          ["run", "--unknown", "--", "true"],
                          ["start"], ["status", "a", "b"], ["status", "--bogus"],
                          ["status", "--", "x"], ["incident"], ["incident", "show"],
                          ["verify"], ["explain"], ["logs"], ["logs", "nosuch"],
                          ["status", "nosuch"], ["incident", "show", "nosuch"],
                          ["daemon", "-c", "/nonexistent/defib.toml"],
                          ["run", "-c", "/nonexistent/defib.toml"],
                          ["report", "x"], ["kill", "--all"]):
            done = self.defib(*arguments)
            self.assertEqual(done.returncode, 2, (arguments, done.stdout, done.stderr))
            self.assertRegex(done.stderr, r"error\[-\d+ \w+\]: ", arguments)
            self.assertIn("\ntry: ", done.stderr, arguments)
            self.assertFalse(os.path.exists(self.state), arguments)

    def test_errors_are_json_where_json_is_asked_for(self):
        for arguments in (["status", "nosuch"], ["nonsense"], ["explain", "nosuch"],
                          ["incident", "show", "nosuch"]):
            done = self.defib(*arguments, "--json")
            error = json.loads(done.stdout)["error"]
            self.assertEqual(set(error) >= {"code", "kind", "message", "suggested_action"}, True)
            self.assertEqual(done.stderr, "")
            self.assertEqual(done.returncode, 2)

    def test_broken_configurations_start_nothing(self):
        marker = os.path.join(self.dir, "started")
        good = f"[service.ok]\ncommand = [\"touch\", \"{marker}\"]\n"
        for text, place, part in (
                ("[service.a\n", ":3:", ""),
                ("[service.a]\ncomand = [\"x\"]\n", ":4:", "command"),
                ("[service.a]\ncommand = \"x\"\n", ":4:", "command"),
                ("[service.a]\ncommand = [\"x\"]\nmax_restarts = -1\n", ":5:", "max_restarts"),
                ("[service.a]\ncommand = [\"x\"]\nrestart = \"maybe\"\n", ":5:", "on-failure"),
                ("[services.a]\ncommand = [\"x\"]\n", ":3:", "service"),
                ("[service.a]\ncommand = [\"x\"]\nlog_pattern = \"(\"\n", ":5:", "log_pattern")):
            path = self.script(good + text, "defib.toml")
            done = self.defib("daemon", "-c", path)
            self.assertEqual(done.returncode, 2, (text, done.stderr))
            self.assertIn(path + place, done.stderr, text)
            self.assertIn(part, done.stderr, text)
            self.assertFalse(os.path.exists(marker))
            self.assertFalse(os.path.exists(self.state))

    def test_a_foreign_state_directory_is_left_unchanged(self):
        os.makedirs(self.state)
        with open(os.path.join(self.state, "thesis.txt"), "w", encoding="ascii") as file:
            file.write("precious")
        done = self.defib("run", "--", "true")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("StateDirectoryForeign", done.stderr)
        self.assertEqual(os.listdir(self.state), ["thesis.txt"])

    def test_nothing_there_is_told_plainly(self):
        self.assertEqual(self.json("status"), {"schema": "defib.status/1", "services": []})
        self.assertEqual(self.json("incidents"), {"schema": "defib.incidents/1", "incidents": []})
        self.assertEqual(self.defib("stop").returncode, 0)
        absent = self.defib("start", "x")
        self.assertEqual(absent.returncode, 1)
        self.assertIn("DaemonNotRunning", absent.stderr)
        self.assertFalse(os.path.exists(self.state))

    def test_explain_knows_numbers_and_names(self):
        texts = {self.defib("explain", word).stdout for word in ("-73", "73", "DatabaseLocked",
                                                                 "databaselocked")}
        self.assertEqual(len(texts), 1)
        self.assertIn("try:", texts.pop())
        self.assertEqual(self.json("explain", "73")["kind"], "DatabaseLocked")

    def test_every_command_has_help_with_an_example(self):
        for command in ("run", "daemon", "start", "stop", "restart", "reset", "reload", "status",
                        "logs", "incidents", "verify", "explain", "version"):
            done = self.defib(command, "--help")
            self.assertEqual(done.returncode, 0)
            self.assertIn("Example:\n  defib " + command, done.stdout)
        self.assertEqual(self.defib("--help").returncode, 0)
        self.assertEqual(self.defib("incident", "show", "--help").returncode, 0)

    def test_a_tampered_incident_is_found(self):
        self.defib("run", "--max-restarts", "0", "--name", "sh", "--", "sh", "-c", "exit 3")
        incident = self.json("incidents")["incidents"][0]
        path = os.path.join(self.state, "incidents", incident["id"] + ".jsonl")
        with open(path, encoding="utf-8") as file:
            lines = file.readlines()
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(lines[:-1])
        done = self.defib("verify", "latest", "--head", incident["head_hash"])
        self.assertEqual(done.returncode, 1)
        self.assertIn("IncidentChainBroken", done.stderr)
        whole = "".join(lines)
        self.assertIn("exit code 3", whole)
        with open(path, "w", encoding="utf-8") as file:
            file.write(whole.replace("exit code 3", "exit code 4", 1))
        self.assertEqual(self.defib("verify", "latest").returncode, 1)
        self.assertFalse(self.json("verify", "latest")["intact"])

    def test_a_run_takes_its_settings_from_a_file(self):
        path = self.script("[service.job]\ncommand = [\"sh\", \"-c\", \"echo $WORD\"]\n"
                           "env = { WORD = \"from the file\" }\n", "defib.toml")
        done = self.defib("run", "-c", path)
        self.assertEqual((done.returncode, done.stdout), (0, "from the file\n"), done.stderr)
        override = self.defib("run", "-c", path, "--env", "WORD=given")
        self.assertEqual(override.stdout, "given\n")


if __name__ == "__main__":
    BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main()
