#!/usr/bin/env python3
"""What bad input, bad programs and missing rights get, with the installed programs.

    bad_input_test.py BIN_DIR [unittest arguments]
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import unittest

import e2e_test
from e2e_test import PYTHON, Service, is_alive


class BadInput(Service):
    def test_a_configuration_that_cannot_start_touches_nothing(self):
        log = os.path.join(self.dir, "defib.log")
        path = self.script(f'[defib]\nlog_file = "{log}"\n[service.a]\n'
                           'command = ["/nonexistent/program"]\n[service.b]\n'
                           f'command = ["{__file__}"]\nworking_directory = "/nonexistent"\n',
                           "defib.toml")
        os.chmod(self.script("text", "data"), 0o644)
        plain = self.script("[service.a]\ncommand = [\"" + os.path.join(self.dir, "data") +
                            "\"]\n", "plain.toml")
        for command in ("daemon", "check"):
            done = self.defib(command, "-c", path)
            self.assertEqual(done.returncode, 2, done.stderr)
            for part in (r":4:\d+: service.a.command: .*'/nonexistent/program'",
                         r":7:\d+: service.b.working_directory: .*does not exist; mkdir -p",
                         "\ntry: correct each of these places"):
                self.assertRegex(done.stderr, part)
            done = self.defib(command, "-c", plain)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertRegex(done.stderr, r":2:\d+: service.a.command: .*is not executable "
                                          r"\(its mode is 0644\); chmod \+x")
        self.assertFalse(os.path.exists(log))
        self.assertFalse(os.path.exists(self.state))

    def test_a_misspelt_command_or_option_is_told_with_the_nearest_one(self):
        for arguments, said in ((["statsu"],
                                 "there is no command 'statsu'; did you mean 'status'?"),
                                (["run", "--max-restart", "3", "--", "true"],
                                 "there is no option '--max-restart'; did you mean "
                                 "'--max-restarts'?"),
                                (["logs", "a", "--folow"], "did you mean '--follow'?"),
                                (["run", "--qqqqqqqq", "--", "true"],
                                 "there is no option '--qqqqqqqq'\n")):
            done = self.defib(*arguments)
            self.assertEqual(done.returncode, 2)
            self.assertIn(said, done.stderr)
            self.assertIn("--help`", done.stderr)

    def test_the_level_of_the_log_is_the_options_else_the_environments_else_the_files(self):
        path = self.script('[defib]\nlog_level = "error"\n[service.a]\ncommand = ["sleep", "9"]\n',
                           "defib.toml")
        for level, environment, loud in ((None, None, False), (None, "debug", True),
                                         ("error", "debug", False), ("debug", "error", True)):
            if environment:
                self.env["LOG_LEVEL"] = environment
            run = self.begin("daemon", "-c", path, *(["--log-level", level] if level else []))
            self.running("a")
            run.terminate()
            _, said = run.communicate(timeout=15)
            self.assertEqual("level=debug" in said, loud, (level, environment, said))
            self.env.pop("LOG_LEVEL", None)
        self.env["LOG_LEVEL"] = "loud"
        done = self.defib("daemon", "-c", path)
        self.assertEqual(done.returncode, 2)
        self.assertIn("debug, info, warning, error or off", done.stderr)

    def test_a_second_daemon_is_refused_with_the_holders_pid_and_changes_nothing(self):
        path = self.script('[service.a]\ncommand = ["sleep", "1000"]\n', "defib.toml")
        first = self.begin("daemon", "-c", path)
        self.running("a")
        before = {name: os.stat(os.path.join(self.state, name)).st_mtime_ns
                  for name in os.listdir(self.state)}
        other = self.script('[alert.x]\nkind = "command"\ncommand = ["/bin/true"]\n'
                            '[service.b]\ncommand = ["sleep", "1000"]\n', "other.toml")
        done = self.defib("daemon", "-c", other)
        self.assertEqual(done.returncode, 3)
        self.assertIn("AlreadySupervised", done.stderr)
        self.assertIn(f"process {first.pid}", done.stderr)
        self.assertIn("try: ", done.stderr)
        self.assertEqual({name: os.stat(os.path.join(self.state, name)).st_mtime_ns
                          for name in os.listdir(self.state)}, before)

    def test_a_service_whose_address_is_taken_is_failed_with_the_reason(self):
        with socket.socket() as holder:
            holder.bind(("127.0.0.1", 0))
            holder.listen()
            address = "tcp:127.0.0.1:%d" % holder.getsockname()[1]
            path = self.script(f"""
                [service.a]
                command = ["sleep", "1000"]
                sockets = ["{address}"]

                [service.b]
                command = ["sleep", "1000"]
            """, "defib.toml")
            self.begin("daemon", "-c", path)
            failed = self.until(lambda: (lambda s: s if s and s["state"] == "failed" else None)(
                self.service("a")), what="the failure")
            self.assertIn(f"'{address}' is in use by another program", failed["reason"])
            self.assertEqual(failed["next_action"]["what"], "reset")
            self.running("b")
            self.assertEqual(self.json("incident", "show", failed["last_incident"])["cause"],
                             "start_failed")
        self.assertEqual(self.defib("reset", "a").returncode, 0)
        self.running("a")


class BadPrograms(Service):
    def test_a_program_that_goes_into_the_background_is_told_what_became_of_it(self):
        config = self.script("""
            [service.a]
            command = ["/bin/sh", "-c", "sleep 1000 & exit 0"]
        """, "defib.toml")
        self.begin("daemon", "-c", config)
        stopped = self.until(lambda: (lambda s: s if s and s["state"] == "stopped" and s["reason"]
                                      else None)(self.service("a")), what="the end")
        self.assertIn("it ended by itself: exit code 0", stopped["reason"])
        self.assertIn("in the background was ended with it", self.defib("status", "a").stdout)

    def test_a_service_that_closes_all_its_descriptors_is_supervised_all_the_same(self):
        path = self.script("""
            import os, signal, sys, time
            os.closerange(0, 4096)
            signal.signal(signal.SIGUSR1, lambda *_: os._exit(7))
            open(sys.argv[1], "w").close()
            while True:
                time.sleep(1000)
        """)
        closed = os.path.join(self.dir, "closed")
        command = ("run", "--name", "a", "--restart-delay", "0", "--", PYTHON, path, closed)
        run = self.begin(*command)
        self.until(lambda: os.path.exists(closed), what="the closing")
        first = self.running("a")
        os.kill(first["shim_pid"], signal.SIGKILL)
        self.until(lambda: self.service("a")["shim_pid"] not in (None, first["shim_pid"]),
                   what="the next shim")
        shim = self.running("a")["shim_pid"]
        os.kill(run.pid, signal.SIGKILL)
        os.kill(shim, signal.SIGKILL)
        run.wait(5)
        run = self.begin(*command)
        again = self.until(lambda: (lambda s: s if s and s["supervised"] and s["pid"] else None)(
            self.service("a")), what="the next supervisor")
        self.assertEqual(again["pid"], first["pid"])
        os.unlink(closed)
        os.kill(first["pid"], signal.SIGUSR1)
        second = self.running("a", not_pid=first["pid"])
        self.assertEqual(second["last_exit"], "exit code 7")
        self.until(lambda: os.path.exists(closed), what="the closing")
        os.kill(second["pid"], signal.SIGKILL)
        third = self.running("a", not_pid=second["pid"])
        self.assertIn("signal 9", third["last_exit"])
        run.terminate()
        self.assertEqual(run.wait(15), 0)
        self.assertFalse(is_alive(third["pid"]))

    def test_the_status_says_what_is_waited_for_while_it_starts_and_while_it_stops(self):
        config = self.script("""
            [service.late]
            command = ["sleep", "1000"]
            expects_ready = true
            ready_timeout = "1h"

            [service.deaf]
            command = ["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
            stop_timeout = "1h"
        """, "defib.toml")
        daemon = self.begin("daemon", "-c", config)
        late = self.until(lambda: (lambda s: s if s and s["state"] == "starting" and
                                   s["next_action"] else None)(
            self.service("late")), what="late starting")
        self.assertEqual(late["reason"], "waits for READY=1")
        self.assertEqual(late["next_action"]["what"], "give_up_waiting")
        self.assertGreater(late["next_action"]["in_seconds"], 3000)
        self.until(lambda: self.defib("logs", "deaf").stdout == "up\n", what="the trap")
        stop = self.begin("stop", "deaf")
        deaf = self.until(lambda: (lambda s: s if s["state"] == "stopping" else None)(
            self.service("deaf")), what="deaf stopping")
        self.assertEqual(deaf["next_action"]["what"], "kill")
        self.assertIn("kill in", self.defib("status").stdout)
        daemon.terminate()
        # Asked again it kills.
        self.until(lambda: self.service("late")["state"] != "starting", what="the daemon's end")
        daemon.terminate()
        self.assertEqual(daemon.wait(15), 0)
        stop.wait(15)


@unittest.skipUnless(os.geteuid() == 0, "needs root to become another user")
class WithoutRoot(Service):
    """The same programs as an ordinary user, who has no rights at all."""

    USER = {"user": 65534, "group": 65534, "extra_groups": []}

    def setUp(self):
        super().setUp()
        # Where that user can reach them.
        for place in ("bin", "lib"):
            os.makedirs(os.path.join(self.dir, place))
            source = os.path.join(e2e_test.BIN, "..", place)
            for name in os.listdir(source) if os.path.isdir(source) else ():
                if re.fullmatch(r"defib(-shim|-guardian|-capture)?|libdefib-agent\.so", name):
                    shutil.copy2(os.path.join(source, name), os.path.join(self.dir, place))
        os.chmod(self.dir, 0o755)
        self.home = os.path.join(self.dir, "home")
        os.makedirs(self.home)
        os.chown(self.home, 65534, 65534)
        self.state = os.path.join(self.home, "state")
        self.env.update({"DEFIB_STATE_DIR": self.state, "HOME": self.home})

    def defib(self, *arguments, timeout=30, **more):
        return subprocess.run([os.path.join(self.dir, "bin", "defib"), *arguments], env=self.env,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              cwd=self.home, timeout=timeout, check=False, **self.USER, **more)

    def begin(self, *arguments):
        run = subprocess.Popen([os.path.join(self.dir, "bin", "defib"), *arguments], env=self.env,
                               text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               cwd=self.home, **self.USER)
        self.runs.append(run)
        return run

    def test_a_service_is_supervised_captured_stopped_and_ended_whole(self):
        path = self.script("""
            import ctypes, subprocess, time
            subprocess.Popen(["setsid", "sleep", "%d"])
            print("up", flush=True)
            time.sleep(1000)
        """ % (100000 + os.getpid()))
        run = self.begin("run", "--name", "a", "--restart-delay", "0", "--", PYTHON, path)
        first = self.running("a")
        self.assertEqual(run.stdout.readline(), "up\n")
        self.assertEqual(os.stat(f"/proc/{first['pid']}").st_uid, 65534)
        os.kill(first["pid"], signal.SIGSEGV)
        second = self.running("a", not_pid=first["pid"])
        incident = self.closed_incident()
        self.assertEqual(incident["outcome"], "restarted")
        self.assertEqual(incident["classification"]["signal"], "SIGSEGV")
        self.assertEqual(run.stdout.readline(), "up\n")
        run.terminate()
        self.assertEqual(run.wait(15), 0)
        self.assertFalse(is_alive(second["pid"]))
        left = subprocess.run(["pgrep", "-u", "65534", "-f", f"sleep {100000 + os.getpid()}"],
                              text=True, stdout=subprocess.PIPE, check=False).stdout
        self.assertEqual(left, "")
        for name in (self.state, os.path.join(self.state, "services", "a")):
            self.assertEqual(os.stat(name).st_mode & 0o077, 0, name)

    def test_kill_9_of_supervisor_and_shim_leaves_one_service_that_the_next_takes_over(self):
        run = self.begin("run", "--name", "a", "--", "sleep", "1000")
        before = self.running("a")
        os.kill(run.pid, signal.SIGKILL)
        run.wait(5)
        os.kill(before["shim_pid"], signal.SIGKILL)
        self.begin("run", "--name", "a", "--", "sleep", "1000")
        after = self.until(lambda: (lambda s: s if s and s["supervised"] and s["pid"] else None)(
            self.service("a")), what="the next supervisor")
        self.assertEqual(after["pid"], before["pid"])

    def test_what_an_ordinary_user_may_not_do_is_told_before_anything_is_touched(self):
        config = self.script("""
            [service.a]
            command = ["sleep", "1000"]
            user = "root"
        """, "defib.toml")
        done = self.defib("check", "-c", config)
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r":4:\d+: service.a.user: ")
        self.assertIn("only root can arrange", done.stderr)
        for arguments in (("run", "--", "true"), ("daemon", "-c", self.script(
                '[service.a]\ncommand = ["true"]\n', "ok.toml"))):
            done = self.defib("--state-dir", "/proc/defib", *arguments)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn("/proc/defib", done.stderr)
            os.chmod(self.home, 0o555)
            done = self.defib(*arguments)
            os.chmod(self.home, 0o755)
            self.assertEqual(done.returncode, 3, done.stderr)
            for part in ("PermissionDenied", self.state, "try: "):
                self.assertIn(part, done.stderr)

    def test_what_the_machine_does_not_give_is_a_warning_and_no_obstacle(self):
        config = self.script("""
            [service.a]
            command = ["sleep", "1000"]
            nice = -5
            memory_limit = 100
            limits = { nofile = 5000000 }
        """, "defib.toml")
        run = self.begin("daemon", "-c", config)
        self.running("a")
        run.terminate()
        _, said = run.communicate(timeout=15)
        self.assertIn("the system refuses a part of the service's setting", said)
        for part in ("nice could not be set", "memory_limit", "limits.nofile"):
            self.assertIn(part, said)


if __name__ == "__main__":
    e2e_test.BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main()
