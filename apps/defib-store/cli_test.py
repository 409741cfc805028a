#!/usr/bin/env python3
"""defib-store as a script meets it: output, exit codes, and a kill in the middle of a load."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1)


def run(*arguments, text=None):
    return subprocess.run([PROGRAM, *arguments], input=text, capture_output=True, text=True)


class Cli(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.dir = os.path.join(self.folder.name, "store")

    def tearDown(self):
        self.folder.cleanup()

    def load(self, text, *options):
        return run("load", self.dir, *options, text=text)

    def test_load_acknowledges_each_commit_and_dump_shows_all_in_order(self):
        loaded = self.load("put\tt\tb\\x00\tx\\ty\nput\tt\ta\t1\ncommit\nput\ts\tk\t\ndel\tt\ta\n")
        self.assertEqual((loaded.returncode, loaded.stdout), (0, "ok 1\nok 2\n"))
        dumped = run("dump", self.dir)
        self.assertEqual((dumped.returncode, dumped.stdout), (0, "s\tk\t\nt\tb\\x00\tx\\ty\n"))
        self.assertEqual(run("dump", self.dir, "s").stdout, "s\tk\t\n")

    def test_batches_and_shared_syncs_count_the_same_commits(self):
        lines = "".join(f"put\tt\t{i}\tv\n" for i in range(10))
        for sync in ("each", "group", "none"):
            loaded = self.load(lines, "--sync", sync, "--batch", "3")
            self.assertEqual(loaded.stdout, "ok 1\nok 2\nok 3\nok 4\n", sync)

    def test_a_bad_line_is_named_and_earlier_commits_stay(self):
        loaded = self.load("put\tt\ta\t1\ncommit\nput\tt\tb\t2\nput\tt\n")
        self.assertEqual(loaded.returncode, 2)
        self.assertIn("error[-9 Malformed]: line 4", loaded.stderr)
        self.assertIn("try: ", loaded.stderr)
        self.assertEqual(run("dump", self.dir).stdout, "t\ta\t1\n")

    def test_a_killed_load_is_recovered_with_all_that_it_acknowledged(self):
        child = subprocess.Popen([PROGRAM, "load", self.dir, "--sync", "none"], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for i in range(1, 4):
            child.stdin.write(f"put\tt\t{i}\tv\ncommit\n")
            child.stdin.flush()
            self.assertEqual(child.stdout.readline(), f"ok {i}\n")
        locked = run("put", self.dir, "t", "x", "y")
        self.assertEqual(locked.returncode, 3)
        self.assertIn(f"pid {child.pid} ", locked.stderr)
        self.assertEqual(run("dump", self.dir).stdout.count("\n"), 3)  # Beside the writer.
        child.send_signal(signal.SIGKILL)
        child.communicate()

        status = json.loads(run("status", self.dir, "--json").stdout)
        self.assertEqual(status["schema"], "defib.store_status/1")
        self.assertTrue(status["recovery_needed"])
        self.assertEqual([n for n, i in status["indicators"].items() if i["present"]],
                         ["no_clean_shutdown", "log_tail"])
        self.assertEqual(run("dump", self.dir, "--no-recover").returncode, 3)
        recovered = json.loads(run("recover", self.dir, "--json").stdout)
        self.assertTrue(recovered["recovered"])
        self.assertEqual(len(recovered["stages"]), 12)
        self.assertEqual(recovered["last_commit"], 3)
        status = json.loads(run("status", self.dir, "--json").stdout)
        self.assertFalse(any(i["present"] for i in status["indicators"].values()))
        self.assertEqual(run("get", self.dir, "t", "3").stdout, "v\n")

    def test_damage_is_found_and_repaired_into_a_new_store(self):
        self.load("".join(f"put\tt\t{i}\tv\n" for i in range(5)))
        self.assertEqual(run("verify", self.dir).returncode, 0)
        self.assertEqual(run("backup", self.dir, "--to", self.dir + ".backup").returncode, 0)
        self.assertEqual(run("dump", self.dir + ".backup").stdout, run("dump", self.dir).stdout)
        data = os.path.join(self.dir, "data")
        name = next(n for n in os.listdir(data) if n.endswith(".base"))
        with open(os.path.join(data, name), "r+b") as file:
            file.seek(4150)
            file.write(b"\xff")
        verified = run("verify", self.dir, "--json")
        self.assertEqual(verified.returncode, 1)
        self.assertGreaterEqual(len(json.loads(verified.stdout)["findings"]), 1)
        self.assertEqual(run("dump", self.dir).returncode, 1)
        repaired = json.loads(run("repair", self.dir, "--to", self.dir + ".new", "--json").stdout)
        self.assertGreaterEqual(len(repaired["losses"]), 1)
        self.assertEqual(run("verify", self.dir + ".new").returncode, 0)

    def test_wrong_usage_is_exit_code_2(self):
        self.assertEqual(run("nonsense").returncode, 2)
        self.assertEqual(run("load", self.dir, "--sync", "often").returncode, 2)
        self.assertEqual(run("status", self.folder.name).returncode, 2)
        self.assertEqual(run("load", "--help").returncode, 0)


if __name__ == "__main__":
    unittest.main()
