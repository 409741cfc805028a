#!/usr/bin/env python3
"""defib-store beside a writer: who is refused, who may look, and that looking leaves no trace.

And the dry run against what recovery then really takes.
"""

import json
import os
import threading
import time
import unittest

from cli_util import StoreCase, needs_mounts, needs_plain_build, read_only_view, run, tree

# The plan names what is taken at most. What was measured lies below it, and not further below than
# this: a plan of ten times too much would keep stores from recovering that could.
MEMORY_FACTOR = 4
DISK_FACTOR = 4


class Beside(StoreCase):
    def settled(self):
        """The tree of a store whose writer makes its next segments no more."""
        before = tree(self.dir)
        for _ in range(100):
            time.sleep(0.05)
            now = tree(self.dir)
            if now == before:
                return now
            before = now
        self.fail("the writer does not come to rest")

    def test_a_living_holder_is_refused_on_every_path_that_needs_the_store(self):
        self.fill(10)
        holder = self.writer()
        before = self.settled()
        new = os.path.join(self.folder.name, "new")
        for words in (["load", self.dir], ["put", self.dir, "t", "k", "v"],
                      ["del", self.dir, "t", "k"], ["recover", self.dir], ["migrate", self.dir],
                      ["compact", self.dir],
                      ["repair", self.dir, "--to", new]):
            began = time.monotonic()
            error = self.error_of(*words, code=-73, returncode=3)
            self.assertLess(time.monotonic() - began, 2, words)  # It is not waited for.
            self.assertRegex(error["fields"]["lock_holder"],
                             rf"^pid {holder.pid} \(defib-store\), open since 20\d\d-", words)
            self.assertIn(f"pid {holder.pid} (defib-store)", error["message"])
            self.assertEqual(error["commands"], [["kill", str(holder.pid)]])
        planned = run("recover", self.dir, "--dry-run", "--json")
        self.assertEqual(planned.returncode, 3)
        plan = json.loads(planned.stdout)
        stage = next(s for s in plan["stages"] if s["name"] == "lock_acquisition")
        self.assertEqual(stage["error"]["code"], -73)
        self.assertEqual(stage["error"]["commands"], [["kill", str(holder.pid)]])
        self.assertEqual(self.settled(), before)
        self.assertFalse(os.path.exists(new))
        self.assertIsNone(holder.poll())

    def test_looking_leaves_no_trace_beside_a_writer_at_rest(self):
        self.fill(500)
        self.writer(commits=5)
        before = self.settled()
        for words in (["status"], ["verify"], ["inspect"], ["dump"], ["get", "t", "00001"],
                      ["recover", "--dry-run"], ["recover", "--dry-run", "--json"]):
            done = run(words[0], self.dir, *words[1:])
            self.assertEqual(done.returncode, 3 if words[0] == "recover" else 0, done.stderr)
        self.assertEqual(self.settled(), before)

    def write_until(self, ended, pids):
        """Processes that write, checkpoint, and close or are killed, one after another."""
        value = "v" * 2000
        for turn in range(10_000):
            if ended.is_set():
                return
            child = self.start("load", self.dir, "--sync", ("group", "none")[turn % 2],
                               "--batch", "20")
            pids.append(child.pid)
            for i in range(400):
                child.stdin.write(f"put\tt{i % 3}\t{turn % 7}-{i}\t{value}\n")
            child.stdin.flush()
            child.stdout.readline()
            if turn % 3 == 2:
                child.kill()
            child.communicate()

    @needs_mounts
    def test_no_false_finding_beside_writers_and_no_need_to_write(self):
        self.fill(100)
        view = os.path.join(self.folder.name, "view")
        ended, pids, looks = threading.Event(), [], {}
        # What is seen through this name cannot be written to, whatever a program tries.
        with read_only_view(self.dir, view):
            writer = threading.Thread(target=self.write_until, args=(ended, pids))
            writer.start()
            try:
                end = time.monotonic() + 4
                while time.monotonic() < end:
                    for words in (["status", "--json"], ["verify", "--json"], ["inspect", "--json"],
                                  ["status"], ["verify"], ["inspect", "wal"]):
                        done = run(words[0], view, *words[1:])
                        self.assertEqual(done.returncode, 0, f"{words}: {done.stdout}{done.stderr}")
                        if words == ["inspect", "--json"]:
                            self.assertNotIn('"problem"', done.stdout)
                        looks[words[0]] = looks.get(words[0], 0) + 1
                # Between a writer that was killed and the next, a dump would have to recover.
                for _ in range(100):
                    dumped = run("dump", view)
                    if dumped.returncode == 0:
                        break
                self.assertIn("t0", dumped.stdout, dumped.stderr)
            finally:
                ended.set()
                writer.join()
        print(f"beside {len(pids)} writers: {looks}", flush=True)
        self.assertGreater(len(pids), 5)
        self.assertGreater(looks["verify"], 5)
        self.assertEqual(run("recover", self.dir).returncode, 0)
        self.assert_sound()

    def measured_recovery(self):
        """What a recovery takes at most: bytes of memory and disk, and descriptors."""
        def disk():
            total = 0
            for base, _, names in os.walk(self.dir):
                for name in names:
                    try:
                        total += os.stat(os.path.join(base, name)).st_blocks * 512
                    except FileNotFoundError:
                        pass
            return total
        found = {"memory": 0, "disk": 0, "descriptors": 0}
        at_first = disk()
        child = self.start("recover", self.dir, "--json")
        while child.poll() is None:
            try:
                with open(f"/proc/{child.pid}/status", encoding="ascii") as file:
                    anonymous = [line for line in file if line.startswith("RssAnon:")]
                if anonymous:
                    found["memory"] = max(found["memory"], int(anonymous[0].split()[1]) << 10)
                found["descriptors"] = max(found["descriptors"],
                                           len(os.listdir(f"/proc/{child.pid}/fd")))
            except (FileNotFoundError, ProcessLookupError):
                break
            found["disk"] = max(found["disk"], disk() - at_first)
        output, _ = child.communicate()
        self.assertEqual(child.returncode, 0)
        return found, json.loads(output)

    @needs_plain_build
    def test_a_recovery_takes_what_the_dry_run_said(self):
        self.killed_big_load(100)
        with self.unchanged():
            planned = run("recover", self.dir, "--dry-run", "--json")
        self.assertEqual(planned.returncode, 0, planned.stdout)
        plan = json.loads(planned.stdout)
        for stage in plan["stages"]:
            for name in ("action", "read_bytes", "disk_bytes", "memory_bytes", "descriptors"):
                self.assertIn(name, stage)
        taken, report = self.measured_recovery()
        memory = plan["memory"]["required"]
        disk = plan["disk"]["required"] + plan["closing_disk"]["required"]
        print(f"planned: {memory >> 20} MiB of memory, {disk >> 20} MiB of disk, "
              f"{plan['descriptors']['required']} descriptors, {plan['seconds']:.2f} s; taken: "
              f"{taken['memory'] >> 20} MiB, {taken['disk'] >> 20} MiB, {taken['descriptors']}, "
              f"{report['duration_ns'] / 1e9:.2f} s", flush=True)
        self.assertLessEqual(taken["memory"], memory)
        self.assertGreaterEqual(taken["memory"] * MEMORY_FACTOR, memory)
        self.assertLessEqual(taken["disk"], disk)
        self.assertGreaterEqual(taken["disk"] * DISK_FACTOR, disk)
        self.assertLessEqual(taken["descriptors"], plan["descriptors"]["required"])
        self.assertEqual(report["last_commit"], plan["last_commit"])
        stages = {s["name"]: s["metrics"] for s in report["stages"]}
        self.assertEqual(int(stages["resource_check"]["memory_required"]), memory)
        self.assertEqual(int(stages["resource_check"]["disk_required"]),
                         plan["disk"]["required"])
        self.assertEqual(int(stages["resource_check"]["descriptors_required"]),
                         plan["descriptors"]["required"])


if __name__ == "__main__":
    unittest.main()
