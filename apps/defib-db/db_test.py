#!/usr/bin/env python3
"""`defib db check` end to end, on SQLite, which needs no server.

    db_test.py BIN_DIR [unittest arguments]
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

BIN = os.path.abspath(sys.argv.pop(1)) if len(sys.argv) > 1 else "."


def defib(*arguments):
    return subprocess.run([os.path.join(BIN, "defib"), "db", *arguments], text=True,
                          capture_output=True, timeout=60, check=False)


class Db(unittest.TestCase):
    def test_check_shows_what_the_driver_can_do(self):
        with tempfile.TemporaryDirectory() as directory:
            name = f"sqlite:{directory}/x.db"
            done = defib("check", name, "--self-test", "--json")
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            report = json.loads(done.stdout)
            self.assertEqual(report["schema"], "defib.db_check/1")
            self.assertEqual(report["engine"], "sqlite")
            self.assertTrue(report["passed"])
            self.assertFalse(report["supports"]["socket_liveness"])
            self.assertGreater(report["query_p50_ns"], 0)
            self.assertEqual(len(report["self_test"]), 6)
            text = defib("check", name)
            self.assertEqual(text.returncode, 0)
            self.assertIn("sqlite 3", text.stdout)

    def test_wrong_names_are_wrong_usage(self):
        for name, code in (("nonsense", -220), ("postgresql://h/d?sslmod=x", -222),
                           ("Driver={No Such};Server=h", -221)):
            done = defib("check", name, "--json")
            self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
            self.assertEqual(json.loads(done.stdout)["error"]["code"], code)

    def test_a_dead_server_is_a_failure_and_no_password_is_shown(self):
        done = defib("check", "postgresql://app:hunter2secret@127.0.0.1:1/d", "--timeout", "2s")
        self.assertEqual(done.returncode, 1)
        self.assertIn("refused", done.stderr)
        self.assertIn("try:", done.stderr)
        self.assertNotIn("hunter2secret", done.stdout + done.stderr)

    def test_help_has_an_example(self):
        done = defib("check", "--help")
        self.assertEqual(done.returncode, 0)
        self.assertIn("Example:", done.stdout)


if __name__ == "__main__":
    unittest.main()
