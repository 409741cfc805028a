#!/usr/bin/env python3
"""defib call from a terminal's view: values, streams, errors, crashes, limits, exit codes.

    call_test.py BIN_DIR [unittest arguments]
"""

import json
import os
import signal
import subprocess
import sys
import time
import unittest

BIN = os.path.abspath(sys.argv[1])
PLUGINS = os.path.join(os.path.dirname(BIN), "lib", "plugins")


def plugin(name):
    return os.path.join(PLUGINS, name + ".so")


class Call(unittest.TestCase):
    def defib(self, *arguments, **more):
        return subprocess.run([os.path.join(BIN, "defib"), *arguments], capture_output=True,
                              text=True, timeout=60, check=False, **more)

    def call(self, name, *arguments, **more):
        return self.defib("call", plugin(name), *arguments, **more)

    # What a call that works has printed.
    def value(self, name, *arguments, **more):
        done = self.call(name, *arguments, **more)
        self.assertEqual((done.returncode, done.stderr), (0, ""), done)
        return done.stdout

    # The error of one that does not, as text.
    def refused(self, code, name, *arguments, **more):
        done = self.call(name, *arguments, **more)
        self.assertEqual((done.returncode, done.stdout), (code, ""), done)
        self.assertRegex(done.stderr, r"^error\[-\d+ \w+\]: ")
        self.assertIn("\ntry: ", done.stderr)
        return done.stderr


class Calling(Call):
    def test_a_value_is_json_on_standard_output(self):
        self.assertEqual(self.value("echo", "double", "-21.5"), "-43.0\n")
        self.assertEqual(self.value("echo", "nothing"), "null\n")
        self.assertEqual(self.value("echo", "sum", "[1,2,-5]"), "-2\n")
        spread = '["ES",[["ESM4",1.5]],null,{"1":7},{"delta":0.5}]'
        self.assertEqual(self.value("echo", "same", spread), spread + "\n")

    def test_a_text_may_stand_as_it_is(self):
        for given, text in (("ab", "ab"), ('"ab"', "ab"), ("30", "30"), ("null", "null"),
                            ("{", "{"), ("--", None), ("a b", "a b"), ('{"hex":"c3a9"}', "\u00e9")):
            if text is not None:
                self.assertEqual(json.loads(self.value("echo", "text", given, "2")), text * 2)

    def test_json_has_a_schema_and_the_time(self):
        done = json.loads(self.value("echo", "double", "2", "--json"))
        self.assertEqual((done["schema"], done["plugin"], done["method"], done["result"]),
                         ("defib.call/1", "echo", "double", 4))
        self.assertGreater(done["took_ns"], 0)
        # Before the command, too.
        done = json.loads(self.defib("--json", "call", plugin("echo"), "double", "2").stdout)
        self.assertEqual(done["result"], 4)

    def test_the_methods_are_listed_with_what_they_take(self):
        lines = self.value("echo", "--list").splitlines()
        self.assertEqual(lines[0], "echo version 3")
        self.assertIn("  text(s,i4)->s", lines)
        self.assertIn("  ticks(i8,i8,i4)=>r64{i8,i8,5*i8,i8}", lines)
        words = self.value("echo", "log", "--list")
        self.assertEqual(words, "log(k,s)->s\n  argument 1: a text (a secret)\n"
                                "  argument 2: a text\n  gives: a text\n")
        listed = json.loads(self.value("echo", "--list", "--json"))
        self.assertEqual(listed["schema"], "defib.call_methods/1")
        self.assertEqual((listed["plugin"], listed["version"]), ("echo", 3))
        self.assertIn({"name": "lines", "signature": "lines(i4,i4)=>s", "stream": True},
                      listed["methods"])

    def test_a_stream_is_a_line_a_record(self):
        lines = self.value("echo", "ticks", "5", "1000", "32").splitlines()
        self.assertEqual(len(lines), 1000)
        for number, line in enumerate(lines, 5):
            tick = json.loads(line)
            self.assertEqual((tick[0], tick[3]), (number, number * 7 + 1))
        endless = self.value("echo", "ticks", "0", str(1 << 60), "1", "--limit", "3")
        self.assertEqual(len(endless.splitlines()), 3)
        records = [json.loads(line) for line in
                   self.value("echo", "lines", "2", "1", "--json").splitlines()]
        self.assertEqual(records, [
            {"schema": "defib.call_record/1", "number": 0, "record": "0x"},
            {"schema": "defib.call_record/1", "number": 1, "record": "1x"}])

    def test_arguments_may_come_from_a_file_or_from_standard_input(self):
        given = '["s3cr3t","trader"]'
        self.assertEqual(self.value("echo", "log", "--args", "-", input=given), '"trader:6"\n')
        self.assertIn("given twice", self.refused(2, "echo", "log", "x", "--args", "-"))
        self.assertIn("are no JSON", self.refused(2, "echo", "log", "--args", "-", input="x"))
        self.assertIn("/nowhere", self.refused(2, "echo", "log", "--args", "/nowhere"))

    def test_help_has_examples(self):
        done = self.defib("call", "--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("defib call ./prices.so price ESM4 30", done.stdout)


class Failing(Call):
    def test_wrong_usage_is_named_with_what_is_expected(self):
        self.assertIn("the method is missing", self.refused(2, "echo"))
        self.assertIn("no method 'trible'", self.refused(2, "echo", "trible"))
        self.assertIn("it has: nothing, double", self.refused(2, "echo", "trible"))
        self.assertIn("argument 2 of text: a whole number from -2147483648 to 2147483647 is "
                      "expected, not 1.5", self.refused(2, "echo", "text", "a", "1.5"))
        self.assertIn("argument 2 of text is no JSON: a whole number",
                      self.refused(2, "echo", "text", "a", "b"))
        self.assertIn("takes 2 arguments, and 1 were given", self.refused(2, "echo", "text", "a"))
        self.assertIn("'x' is no duration", self.refused(2, "echo", "double", "1", "--timeout", "x"))
        self.assertIn("'x' is no size", self.refused(2, "echo", "double", "1", "--memory", "x"))
        self.assertIn("--read-only", self.refused(2, "echo", "double", "1", "--writable", "/tmp"))
        self.assertIn("--colour", self.refused(2, "echo", "double", "1", "--colour"))
        done = self.defib("call")
        self.assertEqual((done.returncode, done.stdout), (2, ""))
        error = json.loads(self.call("echo", "trible", "--json").stdout)
        self.assertEqual((error["schema"], error["error"]["kind"]), ("defib.error/1", "NotFound"))

    def test_a_plugin_that_cannot_be_loaded_says_why(self):
        done = self.defib("call", "/nowhere/plugin.so", "--list")
        self.assertEqual(done.returncode, 1)
        self.assertIn("No such file", done.stderr)
        self.assertIn("PluginUnloadable", self.refused(1, "victim_no_plugin", "--list"))

    def test_what_a_method_throws_is_an_error(self):
        error = self.refused(1, "echo", "throw", "no symbol")
        self.assertIn("throw threw std::out_of_range: no symbol", error)
        self.assertNotIn("backtrace", error)

    # A busy machine may let the worker go before it is copied.
    def crash_with_backtrace(self, *options):
        for _ in range(10):
            done = self.call("victim_null_read", "break", "ESM4", "7", *options)
            self.assertEqual(done.returncode, 1, done)
            if "break_it" in done.stdout + done.stderr:
                break
        return done

    def test_a_crash_shows_its_backtrace(self):
        done = self.crash_with_backtrace()
        self.assertEqual(done.stdout, "")
        self.assertRegex(done.stderr, r"^error\[-190 NativeCrash\]: Native library crashed during "
                         r"break\. This client instance is no longer usable\.")
        self.assertIn('arguments ("ESM4", 7)', done.stderr)
        self.assertRegex(done.stderr, r"\nbacktrace:\n  #0 .*break_it")
        report = json.loads(self.crash_with_backtrace("--json").stdout)
        self.assertEqual((report["schema"], report["error"]["code"]), ("defib.error/1", -190))
        self.assertEqual((report["fault"]["failure"], report["fault"]["signal"]),
                         ("null_dereference", "SIGSEGV"))
        self.assertIn("break_it", " ".join(report["fault"]["backtrace"]))
        quiet = self.refused(1, "victim_null_read", "break", "x", "1", "--no-backtrace")
        self.assertIn("no backtrace: ", quiet)

    def test_records_before_a_crash_are_printed(self):
        done = self.call("echo", "bad_end", "5", "crash", "--no-backtrace")
        self.assertEqual(done.returncode, 1)
        self.assertEqual([json.loads(line)[0] for line in done.stdout.splitlines()],
                         [0, 1, 2, 3, 4])
        self.assertIn("NativeCrash", done.stderr)

    def test_a_secret_is_shown_nowhere(self):
        done = self.call("echo", "log", "--args", "-", "--no-backtrace",
                         input='["crash","trader"]')
        self.assertEqual(done.returncode, 1)
        self.assertIn('arguments (***, "trader")', done.stderr)
        self.assertNotIn('"crash"', done.stdout + done.stderr)
        # In the wrong place, neither.
        done = self.call("echo", "log", "--args", "-", input='[5,["hidden-key"]]')
        self.assertEqual(done.returncode, 2)
        self.assertNotIn("hidden-key", done.stdout + done.stderr)

    def test_limits_end_the_library_and_not_the_caller(self):
        begun = time.monotonic()
        error = self.refused(1, "victim_sleep", "break", "x", "1", "--timeout", "300ms",
                             "--no-backtrace")
        self.assertRegex(error, "NativeHang|NativeTimeLimit")
        error = self.refused(1, "victim_endless_loop", "break", "x", "1", "--timeout", "300ms",
                             "--no-backtrace")
        self.assertIn("NativeTimeLimit", error)
        self.assertLess(time.monotonic() - begun, 20)
        error = self.refused(1, "victim_memory_eater", "break", "x", "1", "--memory", "64MiB",
                             "--no-backtrace")
        self.assertRegex(error, "NativeOutOfMemory|NativeLimit")
        error = self.refused(1, "victim_socket_opener", "break", "x", "1", "--no-network",
                             "--no-backtrace")
        self.assertTrue(error)

    def test_what_the_library_prints_is_no_result(self):
        done = self.call("victim_throw_in_noexcept", "break", "x", "1", "--json", "--no-backtrace")
        self.assertEqual(json.loads(done.stdout)["schema"], "defib.error/1")

    def test_an_interrupt_ends_it_and_its_worker(self):
        begun = subprocess.Popen([os.path.join(BIN, "defib"), "call", plugin("echo"), "ticks", "0",
                                  str(1 << 60), "1"], stdout=subprocess.PIPE, text=True)
        json.loads(begun.stdout.readline())
        begun.send_signal(signal.SIGINT)
        while begun.stdout.read(1 << 20):
            pass
        self.assertEqual(begun.wait(20), 4)
        begun.stdout.close()

    def test_no_worker_program_is_said_so(self):
        env = dict(os.environ, DEFIB_WORKER="/nowhere/defib-worker")
        self.assertIn("WorkerUnavailable", self.refused(2, "echo", "nothing", env=env))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:], verbosity=2)
