#!/usr/bin/env python3
"""defib-store as a script meets it: output, exit codes, and a kill in the middle of a load."""

import json
import os
import signal
import subprocess
import unittest

from cli_util import PROGRAM, StoreCase, damage, run, tree

STAGES = ("initialization lock_acquisition config_validation resource_check wal_discovery "
          "wal_validation transaction_recovery index_reconstruction consistency_validation "
          "resource_cleanup database_unlock finalization").split()

VERSION_1_STORES = os.path.join(os.path.dirname(__file__), "..", "..", "defib", "store", "testing",
                                "version_1_stores.h")


def make_version_1_store(name, folder):
    """Writes one of the stores in version_1_stores.h."""
    file = None
    with open(VERSION_1_STORES, encoding="utf-8") as source:
        text = source.read().split('R"(')[1].split(')"')[0]
    for line in text.split("\n"):
        words = line.split(" ")
        if words[0] == "file":
            file = None
            store, path = words[1].split("/", 1)
            if store == name:
                path = os.path.join(folder, path)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                file = path
                with open(file, "wb") as made:
                    made.truncate(int(words[2]))
        elif file is not None and len(words) == 2:
            with open(file, "r+b") as made:
                made.seek(int(words[0]))
                made.write(bytes.fromhex(words[1]))
    os.makedirs(os.path.join(folder, "wal"), exist_ok=True)


class Cli(StoreCase):
    def cured(self, *arguments):
        """What the failing command's error suggests is run as it stands; answers both."""
        error = self.error_of(*arguments, returncode=3 if "--no-recover" in arguments else None)
        return error, self.cure(error)

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
        self.fill()
        self.assertEqual(run("verify", self.dir).returncode, 0)
        whole = run("dump", self.dir).stdout
        damage(self.one("data/*.base"), 4096 + 20000)
        verified = run("verify", self.dir, "--json")
        self.assertEqual(verified.returncode, 1)
        self.assertEqual(len(json.loads(verified.stdout)["findings"]), 1)
        dumped = run("dump", self.dir)
        self.assertEqual(dumped.returncode, 1)  # It is not merely short.
        self.assertIn("error[", dumped.stderr)
        self.assertEqual(run("get", self.dir, "t", "00000").returncode, 0)
        before = tree(self.dir)
        repaired = json.loads(run("repair", self.dir, "--to", self.dir + ".new", "--json").stdout)
        self.assertEqual(tree(self.dir), before)
        self.assertEqual(len(repaired["losses"]), 1)
        lost = repaired["loss_details"][0]
        self.assertEqual((lost["kind"], lost["table"]), ("records", "t"))
        self.assertEqual(run("verify", self.dir + ".new").returncode, 0)
        # Exactly the keys of the named range are missing.
        after, before = lost["after_key"] or "", lost["before_key"] or "~"
        kept = [line for line in whole.splitlines() if not after < line.split("\t")[1] < before]
        self.assertEqual(run("dump", self.dir + ".new").stdout.splitlines(), kept)
        self.assertEqual(repaired["records"], len(kept))

    def test_a_store_is_backed_up_beside_its_writer(self):
        self.fill(100)
        child = subprocess.Popen([PROGRAM, "load", self.dir], text=True, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE)
        child.stdin.write("put\tt\tlate\tx\ncommit\n")
        child.stdin.flush()
        self.assertEqual(child.stdout.readline(), "ok 1\n")
        backup = json.loads(run("backup", self.dir, "--to", self.dir + ".b", "--json").stdout)
        self.assertEqual((backup["records"], backup["commit"]), (101, 2))
        child.stdin.close()
        child.wait()
        child.stdout.close()
        self.assertEqual(run("dump", self.dir + ".b").stdout, run("dump", self.dir).stdout)
        again = run("backup", self.dir, "--to", self.dir + ".b")
        self.assertEqual(again.returncode, 2)
        self.assertIn("try: ", again.stderr)

    def test_a_backup_and_the_log_lead_to_any_commit_between(self):
        self.fill(100)
        self.assertEqual(run("backup", self.dir, "--to", self.dir + ".b").returncode, 0)
        self.killed_load(10, "--keep-log", "100mb")
        restored = run("restore", self.dir + ".b", "--to", self.dir + ".4", "--log", self.dir,
                       "--to-commit", "5", "--json")
        self.assertEqual(restored.returncode, 0, restored.stdout)
        report = json.loads(restored.stdout)
        self.assertEqual((report["commit"], report["replayed"], report["records"]), (5, 4, 104))
        self.assertEqual(run("dump", self.dir + ".4", "log").stdout,
                         "".join(f"log\t{i:05}\tv{i}\n" for i in range(4)))
        # A damaged log is followed up to the damage, and no further.
        damage(self.one("wal/*.wal"), 4096 + 3 * 128 + 70)
        report = json.loads(run("restore", self.dir + ".b", "--to", self.dir + ".all", "--log",
                                self.dir, "--json").stdout)
        self.assertLess(report["commit"], 11)
        self.assertEqual(len(report["losses"]), 1)
        self.assertEqual(report["loss_details"][0]["first_commit"], report["commit"] + 1)
        beyond = run("restore", self.dir + ".b", "--to", self.dir + ".x", "--log", self.dir,
                     "--to-commit", "99")
        self.assertEqual(beyond.returncode, 1)
        self.assertIn("--to-commit", beyond.stderr)

    def test_a_dry_run_says_what_recovery_will_do_and_changes_nothing(self):
        self.fill(500)
        self.killed_load(50)
        before = tree(self.dir)
        planned = run("recover", self.dir, "--dry-run", "--json")
        self.assertEqual(planned.returncode, 0, planned.stdout)
        plan = json.loads(planned.stdout)
        self.assertEqual(plan["schema"], "defib.store_plan/1")
        self.assertTrue(plan["recovery_needed"] and plan["would_succeed"])
        self.assertEqual(plan["last_commit"], 55)
        self.assertGreater(plan["replay_bytes"], 0)
        for need in ("memory", "disk", "descriptors"):
            self.assertLess(0, plan[need]["required"])
            self.assertLess(plan[need]["required"], plan[need]["available"])
        self.assertIn("replay commits 6 to 55", run("recover", self.dir, "--dry-run").stdout)
        for arguments in (["status"], ["verify"], ["inspect"], ["status", "--json"]):
            run(arguments[0], self.dir, *arguments[1:])
        self.assertEqual(tree(self.dir), before)
        recovered = run("recover", self.dir, "--json", "--progress")
        report = json.loads(recovered.stdout)
        self.assertEqual([s["name"] for s in report["stages"]], [s["name"] for s in plan["stages"]])
        self.assertEqual(report["last_commit"], plan["last_commit"])
        # Progress never goes back.
        shown = [json.loads(line) for line in recovered.stderr.splitlines()]
        self.assertTrue(shown)
        for stage in {line["stage"] for line in shown}:
            percents = [line["percent"] for line in shown if line["stage"] == stage]
            self.assertEqual(percents, sorted(percents))

    def test_an_interrupted_recovery_says_where_it_was_and_changes_nothing(self):
        # Long enough to be met in the middle: half a million small records.
        child = subprocess.Popen([PROGRAM, "load", self.dir, "--sync", "none", "--batch", "5000"],
                                 text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        lines = "".join(f"put\tt\tkey {i * 7919 % 500000:06}\tvalue of {i}\n"
                        for i in range(500000))
        child.stdin.write(lines)
        child.stdin.flush()
        for _ in range(100):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.communicate()
        lock = os.path.join(self.dir, "LOCK")
        before = {path: found for path, found in tree(self.dir).items() if path != lock}
        recovery = subprocess.Popen([PROGRAM, "recover", self.dir, "--json", "--progress"],
                                    text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        first = json.loads(recovery.stderr.readline())
        recovery.send_signal(signal.SIGINT)
        output, _ = recovery.communicate()
        self.assertEqual(recovery.returncode, 4, output)
        error = json.loads(output)["error"]
        self.assertEqual(error["kind"], "ProcedureAborted")
        self.assertGreaterEqual(STAGES.index(error["fields"]["stage"]),
                                STAGES.index(first["stage"]))
        self.assertEqual(error["fields"]["files_changed"], "no")
        self.assertIn(f"defib store recover {self.dir}", error["suggested_action"])
        after = {path: found for path, found in tree(self.dir).items() if path != lock}
        self.assertEqual(after, before)
        recovered = json.loads(run("recover", self.dir, "--json").stdout)
        self.assertEqual(recovered["last_commit"], 100)

    def test_a_stage_has_its_own_time_limit(self):
        self.fill(500)
        self.killed_load(50)
        late = run("recover", self.dir, "--json", "--stage-timeout", "wal_validation=1us")
        self.assertEqual(late.returncode, 1, late.stdout)
        error = json.loads(late.stdout)["error"]
        self.assertEqual((error["kind"], error["fields"]["stage"]),
                         ("RecoveryTimeout", "wal_validation"))
        self.assertEqual(run("recover", self.dir, "--stage-timeout", "nonsense").returncode, 2)
        self.assertEqual(run("recover", self.dir, "--stage-timeout", "no_stage=5s").returncode, 2)
        done = run("recover", self.dir, "--stage-timeout", "wal_validation=30s",
                   "--timeout-per-stage", "5m")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_compact_makes_one_file_and_says_what_it_saves(self):
        for i in range(4):
            self.load("".join(f"put\tt\t{k}\t{'v' * 500}{i}\n" for k in range(400)))
        self.load("".join(f"del\tt\t{k}\n" for k in range(300)))
        expected = run("dump", self.dir).stdout
        compacted = run("compact", self.dir, "--json")
        self.assertEqual(compacted.returncode, 0, compacted.stdout)
        report = json.loads(compacted.stdout)
        self.assertEqual(report["schema"], "defib.store_compact/1")
        self.assertLess(report["bytes_after"], report["bytes_before"] / 2)
        self.assertGreater(report["before"]["runs"], 0)
        self.assertEqual(report["after"]["runs"], 0)
        status = json.loads(run("status", self.dir, "--json").stdout)
        self.assertFalse(status["recovery_needed"])
        self.assertEqual(status["checkpoint"]["bytes"] + status["log"]["bytes"],
                         report["bytes_after"])
        self.assertEqual(len(os.listdir(os.path.join(self.dir, "data"))), 1)
        self.assertEqual(run("dump", self.dir).stdout, expected)
        self.assertEqual(run("verify", self.dir).returncode, 0)
        again = run("compact", self.dir)
        self.assertIn("bytes before", again.stdout)
        self.assertEqual(run("compact", self.dir + "-none").returncode, 2)
        child = subprocess.Popen([PROGRAM, "load", self.dir], text=True, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE)
        child.stdin.write("put\tt\ta\t1\ncommit\n")
        child.stdin.flush()
        child.stdout.readline()
        self.assertEqual(run("compact", self.dir).returncode, 3)
        child.communicate()

    def test_a_dry_run_beside_a_writer_names_it(self):
        child = subprocess.Popen([PROGRAM, "load", self.dir], text=True, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE)
        child.stdin.write("put\tt\ta\t1\ncommit\n")
        child.stdin.flush()
        child.stdout.readline()

        def steady():  # The writer makes its next segments in the background.
            return {path: file for path, file in tree(self.dir).items() if "/wal/" not in path}
        before = steady()
        planned = run("recover", self.dir, "--dry-run", "--json")
        self.assertEqual(planned.returncode, 3)
        self.assertIn(f"pid {child.pid} ", json.loads(planned.stdout)["lock_holder"])
        self.assertEqual(steady(), before)
        refused = run("repair", self.dir, "--to", self.dir + ".new")
        self.assertEqual(refused.returncode, 3)
        self.assertFalse(os.path.exists(self.dir + ".new"))
        child.stdin.close()
        child.wait()
        child.stdout.close()

    def test_inspect_shows_each_part(self):
        self.fill(300)
        self.killed_load(3)
        found = json.loads(run("inspect", self.dir, "--json").stdout)
        self.assertEqual(found["schema"], "defib.store_inspect/1")
        self.assertEqual(found["files"][0]["records_by_table"], {"t": 300})
        self.assertEqual(found["checkpoint"]["commit"], 3)
        self.assertEqual([t["name"] for t in found["tables"]], ["t"])
        self.assertEqual(found["dwb"]["state"], "empty")
        blocks = [b for s in found["wal"] for b in s["blocks"]]
        self.assertEqual(sum(b["commits"] for b in blocks), 3)
        for part in ("wal", "pages", "dwb", "files", "tables", "checkpoint"):
            self.assertIn(part, run("inspect", self.dir, part).stdout)
        self.assertEqual(run("inspect", self.dir, "nonsense").returncode, 2)

    # For each error that a command cures: the command that it suggests does.

    def test_a_damaged_base_is_cured_as_the_error_says(self):  # -70
        self.fill()
        with open(self.one("data/*.base"), "r+b") as file:
            file.truncate(8192)
        error, command = self.cured("put", self.dir, "t", "k", "v")
        self.assertEqual(error["code"], -70)
        self.assertEqual(run("verify", command[-1]).returncode, 0)
        self.assertEqual(run("put", command[-1], "t", "k", "v").returncode, 0)

    def test_a_damaged_log_is_cured_as_the_error_says(self):  # -71
        self.killed_load(20)
        damage(self.one("wal/*.wal"), 4096 + 70)
        error, command = self.cured("dump", self.dir)
        self.assertEqual(error["code"], -71)
        self.assertEqual(run("dump", command[-1]).stdout.count("\n"), 19)

    def test_parts_that_contradict_one_another_are_cured_as_the_error_says(self):  # -75
        self.fill()
        damage(os.path.join(self.dir, "store.id"), 20)
        whole = 2000
        error, command = self.cured("put", self.dir, "t", "k", "v")
        self.assertEqual(error["code"], -75)
        self.assertEqual(run("dump", command[-1]).stdout.count("\n"), whole)

    def test_a_directory_that_is_no_store_is_made_one_as_the_error_says(self):  # -84
        os.makedirs(self.dir)
        error, _ = self.cured("dump", self.dir)
        self.assertEqual(error["code"], -84)
        self.assertEqual(run("dump", self.dir).returncode, 0)

    def test_an_old_store_is_migrated_as_the_error_says(self):  # -85
        make_version_1_store("closed", self.dir)
        error, _ = self.cured("dump", self.dir)
        self.assertEqual(error["code"], -85)
        self.assertEqual(run("dump", self.dir).stdout.count("\n"), 42)
        again = json.loads(run("migrate", self.dir, "--json").stdout)
        self.assertFalse(again["migrated"])

    def test_a_crashed_store_is_recovered_as_the_error_says(self):  # -90
        self.killed_load(5)
        error, _ = self.cured("dump", self.dir, "--no-recover")
        self.assertEqual(error["code"], -90)
        self.assertEqual(run("dump", self.dir, "--no-recover").stdout.count("\n"), 5)

    def test_suggestions_hold_for_names_that_a_shell_would_take_apart(self):
        self.dir = os.path.join(self.folder.name, "a store; with 'quotes'")
        self.killed_load(2)
        failed = run("dump", self.dir, "--no-recover")
        line = failed.stderr.split("`")[1]
        done = subprocess.run(["sh", "-c", line.replace("defib store", f"'{PROGRAM}'", 1)],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(run("dump", self.dir, "--no-recover").returncode, 0)

    def test_wrong_usage_is_exit_code_2(self):
        self.assertEqual(run("nonsense").returncode, 2)
        self.assertEqual(run("load", self.dir, "--sync", "often").returncode, 2)
        self.assertEqual(run("status", self.folder.name).returncode, 2)
        self.assertEqual(run("load", "--help").returncode, 0)


if __name__ == "__main__":
    unittest.main()
