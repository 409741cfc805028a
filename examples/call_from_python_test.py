#!/usr/bin/env python3
"""The example in Python: it runs as it stands, and its client sees data, errors and crashes.

    call_from_python_test.py BIN_DIR [unittest arguments]
"""

import os
import subprocess
import sys
import threading
import unittest

import call_from_python
from call_from_python import CallError, Client

HERE = os.path.dirname(os.path.abspath(__file__))
BIN = os.path.abspath(sys.argv[1])
LIB = os.path.join(os.path.dirname(BIN), "lib")
LIBRARY = os.path.join(LIB, "libdefib-call.so")


def plugin(name):
    return os.path.join(LIB, "plugins", name + ".so")


class FromPython(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.library = call_from_python.Library(LIBRARY)

    def test_the_example_runs_as_it_stands(self):
        done = subprocess.run([sys.executable, os.path.join(HERE, "call_from_python.py"), LIBRARY,
                               plugin("prices")], capture_output=True, text=True, timeout=60,
                              check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lines = done.stdout.splitlines()
        self.assertIn("offers price(s,i4)->f8", lines)
        self.assertIn("ESM4 5315.25", lines)
        self.assertIn("CLN4 74.75", lines)
        self.assertIn("a fresh client goes on", lines)
        self.assertIn("ticks: [5300.25, 5300.5, 5300.75]", lines)
        crash = [line for line in lines if line.startswith("XXXX failed:")]
        self.assertEqual(len(crash), 1, done.stdout)
        self.assertIn("Native library crashed during price", crash[0])

    def test_values_of_every_kind_come_and_go(self):
        with Client(self.library, plugin("echo")) as echo:
            self.assertEqual(echo.call("double", 21), 42)
            self.assertIsNone(echo.call("nothing"))
            self.assertEqual(echo.call("text", "\u00e9", 3), "\u00e9\u00e9\u00e9")
            self.assertEqual(echo.call("sum", list(range(10000))), 49995000)
            spread = ["ES", [["ESM4", 1.5]], 20240621, {"1": 7}, {"delta": 0.5}]
            self.assertEqual(echo.call("same", spread), spread)
            self.assertEqual([tick[0] for tick in echo.stream("ticks", 5, 1000, 32)],
                             list(range(5, 1005)))
            # One that nobody reads to its end is ended, and its place is free again.
            for _ in range(10):
                for tick in echo.stream("ticks", 0, 1 << 40, 1):
                    self.assertEqual(tick[0], 0)
                    break
                echo.call("wait", 20, False)

    def test_an_ordinary_error_has_all_its_parts_and_the_client_lives_on(self):
        with Client(self.library, plugin("echo")) as echo:
            with self.assertRaises(CallError) as caught:
                echo.call("throw", "no symbol")
            self.assertEqual((caught.exception.code, caught.exception.kind), (-194, "MethodThrew"))
            self.assertEqual(caught.exception.details["fields"]["exception"], "std::out_of_range")
            with self.assertRaises(CallError) as caught:
                echo.call("text", "a", "b")
            self.assertEqual(caught.exception.kind, "InvalidArgument")
            self.assertIn("argument 2 of text", str(caught.exception))
            with self.assertRaises(CallError) as caught:
                list(echo.stream("bad_end", 2, "throw"))
            self.assertIn("the feed was closed", str(caught.exception))
            self.assertFalse(echo.faulted)
            self.assertIsNone(echo.report(0))
            self.assertEqual(echo.call("double", 1), 2)

    def crash(self):
        with Client(self.library, plugin("victim_null_read")) as victim:
            self.assertEqual(victim.call("add", 2, 3), 5)
            with self.assertRaises(CallError) as caught:
                victim.call("break", "ESM4", 7)
            crash = caught.exception
            self.assertEqual((crash.code, crash.kind), (-190, "NativeCrash"))
            self.assertEqual(crash.details["fields"]["method"], "break")
            self.assertEqual(crash.details["fields"]["arguments"], '"ESM4", 7')
            self.assertIn("create a new client", crash.action)
            self.assertTrue(victim.faulted)
            report = victim.report(30000)
            self.assertEqual((report["failure"], report["signal"]), ("null_dereference", "SIGSEGV"))
            with self.assertRaises(CallError) as caught:
                victim.call("add", 2, 3)
            self.assertEqual(caught.exception.kind, "ClientFaulted")
            return report

    def test_a_crash_is_an_error_object_and_a_fresh_client_goes_on(self):
        # A busy machine may let the worker go before it is copied.
        reports = [self.crash()]
        while "break_it" not in " ".join(reports[-1]["backtrace"]) and len(reports) < 40:
            reports.append(self.crash())
        self.assertIn("break_it", " ".join(reports[-1]["backtrace"]), reports[-1])
        with Client(self.library, plugin("victim_null_read")) as fresh:
            self.assertEqual(fresh.call("add", 2, 3), 5)

    def test_what_cannot_be_opened_says_why(self):
        for options, path, kind, text in (
                ({}, "/nowhere.so", "PluginUnloadable", "No such file"),
                ({"colour": 1}, plugin("echo"), "InvalidArgument", "colour"),
                ({"call_timeout_ms": "1"}, plugin("echo"), "InvalidArgument", "whole number")):
            with self.assertRaises(CallError) as caught:
                Client(self.library, path, **options)
            self.assertEqual(caught.exception.kind, kind)
            self.assertIn(text, str(caught.exception))

    def test_threads_use_clients_of_their_own_and_the_same_one(self):
        shared = Client(self.library, plugin("echo"))
        wrong = []

        def work(number):
            try:
                for i in range(50):
                    if shared.call("double", number * i) != 2 * number * i:
                        wrong.append((number, i))
                with Client(self.library, plugin("victim_abort")) as victim:
                    try:
                        victim.call("break", "x", number)
                        wrong.append(number)
                    except CallError as error:
                        if error.details["fields"]["arguments"] != f'"x", {number}':
                            wrong.append(error.details)
            except Exception as error:  # told by the test, on its own thread
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])
        self.assertFalse(shared.faulted)
        shared.close()

    def test_null_is_an_error_and_no_crash(self):
        error = call_from_python.Error()
        c = self.library.c
        self.assertIsNone(c.defib_call_create(None, None, error))
        self.assertEqual(error.kind, b"InvalidArgument")
        self.assertEqual(c.defib_call_invoke(None, b"x", None, 0, None, None), -2)
        self.assertEqual(c.defib_call_stream_next(None, 0, None, None), -2)
        c.defib_call_close(None)
        c.defib_call_stream_close(None)
        c.defib_call_free(None)
        self.assertEqual(c.defib_call_faulted(None), 0)

    def test_the_library_shows_its_face_alone(self):
        names = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True,
                               text=True, check=True).stdout.split("\n")
        names = {line.split()[-1] for line in names if line}
        with open(os.path.join(HERE, "..", "defib", "call", "call_c.h"), encoding="utf-8") as file:
            header = file.read()
        self.assertEqual(len(names), 11, names)
        for name in names:
            self.assertIn(name + "(", header)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:], verbosity=2)
