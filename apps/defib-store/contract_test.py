#!/usr/bin/env python3
"""The operator's contract: each of the 14 recovery codes, provoked by a real fault of real files.

Each error is read as JSON, checked for its code, its own fields, its one class and its suggestion;
the suggested command is run exactly as it is printed, and afterwards the store, or the new one
that the command made, opens and verifies. -83, and -72 for want of the machine's memory, need more
than a program can be made to meet from outside: contract_test.cc and recovery_test.cc have them.
"""

import glob
import json
import os
import resource
import shutil
import signal
import subprocess
import time
import unittest

from cli_util import (CRITICAL, NOBODY, NONE, PROGRAM, RECOVERABLE, RETRYABLE, StoreCase, damage,
                      mounted, needs_mounts, needs_plain_build, needs_root, paste,
                      rewrite_identity, run)

DEFIB = os.path.join(os.path.dirname(PROGRAM), "defib")


def limit(what, soft):
    """A function that lowers a limit in the child, before it runs the program."""
    def lower():
        resource.setrlimit(what, (soft, resource.getrlimit(what)[1]))
    return lower


def as_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


class Contract(StoreCase):
    def expect(self, code, error_class, error, *fields):
        self.assertEqual((error["code"], error["class"]), (code, error_class), error)
        self.assert_fields(error, *fields)

    def expect_planned(self, code, returncode=1, **options):
        """The dry run foresees the error, with its exit code, and touches nothing."""
        with self.unchanged():
            planned = run("recover", self.dir, "--dry-run", "--json", **options)
        self.assertEqual(planned.returncode, returncode, planned.stdout + planned.stderr)
        stages = json.loads(planned.stdout)["stages"]
        errors = [stage["error"] for stage in stages if "error" in stage]
        self.assertTrue(errors, planned.stdout)
        self.assertEqual(errors[0]["code"], code, errors[0])
        self.check_error(errors[0])

    def test_minus_70_a_base_that_is_cut(self):
        self.fill()
        with open(self.one("data/*.base"), "r+b") as file:
            file.truncate(8192)
        self.expect_planned(-70)
        with self.unchanged():
            error = self.error_of("recover", self.dir)
        self.expect(-70, CRITICAL, error, "reason", "path")
        self.assert_sound(self.cure(error)[-1])

    def test_minus_71_a_flipped_byte_inside_the_log(self):
        self.killed_load(20)
        damage(self.one("wal/*.wal"), 4096 + 70)
        self.expect_planned(-71)
        error = self.error_of("recover", self.dir)
        self.expect(-71, CRITICAL, error, "details", "path", "offset")
        command = self.cure(error)
        self.assert_sound(command[-1])
        self.assertEqual(run("dump", command[-1], "log").stdout.count("\n"), 19)

    @needs_mounts
    def test_minus_72_a_full_disk(self):
        place = os.path.join(self.folder.name, "disk")
        with mounted(place, "500m"):
            self.dir = os.path.join(place, "store")
            self.killed_load(20)
            with open(os.path.join(place, "filler"), "wb") as file:
                free = os.statvfs(place)
                file.write(b"x" * (free.f_bavail * free.f_frsize - (64 << 10)))
            self.expect_planned(-72)
            error = self.error_of("recover", self.dir)
            self.expect(-72, RETRYABLE, error, "resource", "required", "available")
            self.assertIn("disk", error["fields"]["resource"])
            self.assertIn(f"`df -h {self.dir}`", error["suggested_action"])
            missing = int(error["fields"]["required"]) - int(error["fields"]["available"])
            self.assertIn(f"free at least {missing} bytes", error["suggested_action"])
            os.truncate(os.path.join(place, "filler"),
                        os.path.getsize(os.path.join(place, "filler")) - missing - (64 << 10))
            self.cure(error)
            self.assert_sound()

    def test_minus_72_too_few_descriptors(self):
        self.killed_load(20)
        self.expect_planned(-72, preexec_fn=limit(resource.RLIMIT_NOFILE, 20))
        error = self.error_of("recover", self.dir, preexec_fn=limit(resource.RLIMIT_NOFILE, 20))
        self.expect(-72, RETRYABLE, error, "resource", "required", "available")
        self.assertEqual(error["fields"]["resource"], "file descriptors")
        # The command as it stands works for whoever has the low limit.
        done = paste(error["commands"][0], preexec_fn=limit(resource.RLIMIT_NOFILE, 20))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_sound()

    @needs_plain_build
    def test_minus_72_too_little_address_space(self):
        self.killed_big_load(60)
        low = limit(resource.RLIMIT_AS, 120 << 20)
        planned = run("recover", self.dir, "--dry-run", "--json", preexec_fn=low)
        self.assertEqual(planned.returncode, 1, planned.stderr)
        self.assertIn('"code":-72', planned.stdout)
        error = self.error_of("recover", self.dir, preexec_fn=low)
        self.expect(-72, RETRYABLE, error, "resource", "required", "available")
        self.assertEqual(error["fields"]["resource"], "address space")
        done = paste(error["commands"][0], preexec_fn=low)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_sound()

    def test_minus_73_a_store_that_is_open_elsewhere(self):
        holder = self.writer()
        error = self.error_of("recover", self.dir, returncode=3)
        self.expect(-73, RETRYABLE, error, "lock_holder")
        self.assertRegex(error["fields"]["lock_holder"],
                         rf"^pid {holder.pid} \(defib-store\), open since \d{{4}}-\d\d-\d\dT")
        self.assertEqual(self.cure(error), ["kill", str(holder.pid)])
        holder.communicate()
        self.assertEqual(holder.returncode, 4)  # It was asked, and closed the store.
        self.assert_sound()

    def test_minus_74_a_write_that_is_refused(self):
        self.killed_load(20)
        error = self.error_of("recover", self.dir, preexec_fn=limit(resource.RLIMIT_FSIZE, 0))
        self.expect(-74, RECOVERABLE, error, "completed_stages", "failed_stage", "cause",
                    "rollback_available")
        self.assertEqual(error["fields"]["failed_stage"], "lock_acquisition")
        self.assertIn("File too large", error["fields"]["cause"])
        self.cure(error)
        self.assert_sound()

    def test_minus_75_a_damaged_identity(self):
        self.fill()
        damage(os.path.join(self.dir, "store.id"), 20)
        self.expect_planned(-75)
        with self.unchanged():
            error = self.error_of("put", self.dir, "t", "k", "v")
        self.expect(-75, CRITICAL, error, "description", "diagnostics", "recovery_suggestions")
        self.assert_sound(self.cure(error)[-1])

    def test_minus_76_a_page_size_that_cannot_be(self):
        self.fill()
        for size in (5000, 2048, 131072, 0):
            rewrite_identity(self.dir, page_size=size)
            self.expect_planned(-76, returncode=2)
            with self.unchanged():
                error = self.error_of("recover", self.dir, returncode=2)
            self.expect(-76, RETRYABLE, error, "setting", "issue", "fix")
            self.assertIn(f"{size} is not a power of two from 4096 to 65536",
                          error["fields"]["issue"])
        command = self.cure(error)
        self.assert_sound(command[-1])
        self.assertEqual(run("dump", command[-1], "t").stdout.count("\n"), 2000)

    @needs_root
    def test_minus_77_rights_that_are_missing(self):
        self.folder_for_nobody()
        for path, rights in (("LOCK", 0o400), ("index.pg", 0o400), ("wal", 0o000), (".", 0o000),
                             (".", 0o400), ("store.id", 0o000)):
            subprocess.run(["rm", "-rf", self.dir], check=True)
            self.killed_load(5)
            subprocess.run(["chown", "-R", str(NOBODY), self.dir], check=True)
            os.chmod(os.path.join(self.dir, path), rights)
            self.expect_planned(-77, preexec_fn=as_nobody)
            error = self.error_of("recover", self.dir, preexec_fn=as_nobody)
            self.expect(-77, RETRYABLE, error, "path", "required_permissions")
            self.assertEqual(error["commands"], [["chmod", "-R", "u+rwX", self.dir]])
            done = paste(error["commands"][0], preexec_fn=as_nobody)
            self.assertEqual(done.returncode, 0, done.stderr)
            recovered = run("recover", self.dir, preexec_fn=as_nobody)
            self.assertEqual(recovered.returncode, 0, recovered.stderr)
            self.assertEqual(run("verify", self.dir, preexec_fn=as_nobody).returncode, 0)

    def folder_for_nobody(self):
        os.chmod(self.folder.name, 0o755)
        if run("--help", preexec_fn=as_nobody).returncode != 0:
            self.fail(f"{PROGRAM} cannot be executed by another user")

    @needs_root
    def test_minus_77_files_of_another_user(self):
        self.folder_for_nobody()
        self.killed_load(5)
        error = self.error_of("recover", self.dir, preexec_fn=as_nobody)
        self.expect(-77, RETRYABLE, error, "path", "required_permissions")
        self.assertIn("user 0", error["suggested_action"])
        self.assertEqual(self.cure(error), ["chown", "-R", str(NOBODY), self.dir])
        self.assertEqual(run("recover", self.dir, preexec_fn=as_nobody).returncode, 0)
        self.assert_sound()

    @needs_mounts
    def test_minus_77_a_file_system_that_is_mounted_read_only(self):
        place = os.path.join(self.folder.name, "a disk")
        with mounted(place, "500m"):
            self.dir = os.path.join(place, "store")
            self.killed_load(5)
            subprocess.run(["mount", "-o", "remount,ro", place], check=True)
            self.expect_planned(-77)
            error = self.error_of("recover", self.dir)
            self.expect(-77, RETRYABLE, error, "path", "required_permissions")
            self.assertEqual(self.cure(error), ["mount", "-o", "remount,rw", place])
            self.assertEqual(run("recover", self.dir).returncode, 0)
            self.assert_sound()

    def test_minus_78_a_log_directory_that_is_gone(self):
        self.fill()
        shutil.move(os.path.join(self.dir, "wal"), os.path.join(self.folder.name, "kept"))
        self.expect_planned(-78)
        with self.unchanged(but=("LOCK",)):  # It says who tried to recover.
            error = self.error_of("put", self.dir, "t", "k", "v")
        self.expect(-78, RETRYABLE, error, "dependency", "issue")
        command = self.cure(error)
        self.assert_sound(command[-1])
        self.assertEqual(run("dump", command[-1], "t").stdout.count("\n"), 2000)
        shutil.move(os.path.join(self.folder.name, "kept"), os.path.join(self.dir, "wal"))
        self.assert_sound()

    def test_minus_79_and_80_and_81_with_a_long_log(self):
        commits = self.killed_big_load(150)
        self.too_short_a_limit()
        self.recovery_that_is_watched()
        self.undo_that_fails()
        self.assertEqual(json.loads(run("recover", self.dir, "--json").stdout)["last_commit"],
                         commits)
        self.assert_sound()

    def too_short_a_limit(self):
        began = time.monotonic()
        error = self.error_of("recover", self.dir, "--timeout-per-stage", "20ms", code=-79)
        self.assertLess(time.monotonic() - began, 2)
        self.expect(-79, RETRYABLE, error, "stage", "timeout_seconds", "progress")
        self.assertIn(error["fields"]["stage"],
                      ("wal_discovery", "wal_validation", "transaction_recovery"))
        self.assertEqual(error["commands"],
                         [["defib", "store", "recover", self.dir, "--timeout-per-stage", "10m"]])
        # It is run below, on a copy: the log is needed once more.
        copy = os.path.join(self.folder.name, "copy")
        shutil.copytree(self.dir, copy)
        done = paste([word.replace(self.dir, copy) for word in error["commands"][0]])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_sound(copy)

    def stopped_recovery(self, *options):
        """A recovery that stands still in the middle of reading the log."""
        child = self.start("recover", self.dir, "--progress", "--json", *options)
        for line in child.stderr:
            shown = json.loads(line)
            if shown["stage"] == "wal_validation":
                break
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        return child

    def recovery_that_is_watched(self):
        child = self.stopped_recovery()
        error = self.error_of("put", self.dir, "t", "k", "v", returncode=3)
        self.expect(-73, RETRYABLE, error, "lock_holder")
        self.assertIn(f"pid {child.pid} (defib-store), recovering since",
                      error["fields"]["lock_holder"])
        going_on = error["cause"]
        self.assertEqual((going_on["code"], going_on["class"]), (-80, NONE))
        self.assertTrue(going_on["message"])
        # As -80 says: status shows who recovers; as -73 says: wait until that process has ended.
        command = going_on["suggested_action"].split("`")[1]
        self.assertEqual(command, f"defib store status {self.dir} --json")
        status = json.loads(paste(command).stdout)
        self.assertIn(f"pid {child.pid} is recovering now",
                      status["indicators"]["stale_recovery_lock"]["evidence"])
        self.assertIn("recovering since", status["lock_holder"])
        self.assertEqual(error["commands"], [["tail", f"--pid={child.pid}", "-f", "/dev/null"]])
        waiting = subprocess.Popen(error["commands"][0])
        self.children.append(waiting)
        # Whoever ends a recovery does no harm; the next one goes on.
        child.kill()
        child.communicate()
        self.assertEqual(waiting.wait(timeout=10), 0)

    def undo_that_fails(self):
        child = self.stopped_recovery("--timeout-per-stage", "200ms")
        # From here on no file takes a byte, so that the lock's record cannot be taken back.
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        time.sleep(0.3)
        child.send_signal(signal.SIGCONT)
        output, _ = child.communicate()
        self.assertEqual(child.returncode, 1)
        error = json.loads(output.splitlines()[-1])["error"]
        self.check_error(error)
        self.expect(-81, CRITICAL, error, "stage", "reason", "manual_intervention_needed")
        status = json.loads(run("status", self.dir, "--json").stdout)
        self.assertTrue(status["indicators"]["stale_recovery_lock"]["present"])
        copy = os.path.join(self.folder.name, "copy 2")
        shutil.copytree(self.dir, copy)
        done = paste([word.replace(self.dir, copy) for word in error["commands"][0]])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assert_sound(copy)

    def test_minus_82_a_cleanup_that_cannot_write(self):
        self.killed_load(20)
        ends = {}
        for segment in glob.glob(os.path.join(self.dir, "wal", "*.wal")):
            with open(segment, "rb") as file:
                ends[segment] = (len(file.read().rstrip(b"\0")) + 63) // 64 * 64
        segment, end = max(ends.items(), key=lambda item: item[1])
        with open(segment, "r+b") as file:
            file.seek(end)
            file.write(b"torn")
        kept = os.path.join(self.dir, "quarantine")
        shutil.rmtree(kept, ignore_errors=True)
        with open(kept, "wb") as file:  # What was cut has no place to go.
            file.write(b"in the way")
        recovered = run("recover", self.dir, "--json")
        report = json.loads(recovered.stdout)
        self.assertTrue(report["recovered"])
        self.assertEqual(report["last_commit"], 20)
        stages = {stage["name"]: stage for stage in report["stages"]}
        self.assertEqual(stages["resource_cleanup"]["outcome"], "failed")
        error = stages["finalization"]["error"]
        self.check_error(error)
        self.expect(-82, RECOVERABLE, error, "stage", "dependency", "dependency_error")
        self.assertEqual(error["fields"]["dependency"], "resource_cleanup")
        self.assertIn("quarantine", error["fields"]["dependency_error"])
        os.remove(kept)
        self.cure(error)
        status = json.loads(run("status", self.dir, "--json").stdout)
        self.assertFalse(status["recovery_needed"], status)
        self.assertEqual(run("dump", self.dir, "log").stdout.count("\n"), 20)
        self.assert_sound()

    def test_each_code_has_one_class_and_a_try_line_that_explain_shows(self):
        classes = {-70: CRITICAL, -71: CRITICAL, -72: RETRYABLE, -73: RETRYABLE, -74: RECOVERABLE,
                   -75: CRITICAL, -76: RETRYABLE, -77: RETRYABLE, -78: RETRYABLE, -79: RETRYABLE,
                   -80: NONE, -81: CRITICAL, -82: RECOVERABLE, -83: CRITICAL}
        names = set()
        for code, error_class in classes.items():
            shown = subprocess.run([DEFIB, "explain", str(code)], capture_output=True, text=True,
                                   check=True).stdout
            name = shown.split(" ")[0]
            names.add(name)
            self.assertTrue(shown.startswith(f"{name} ({code}), {error_class}: "), shown)
            self.assertRegex(shown, r"\ntry: \S")
            for other in (str(-code), name):
                again = subprocess.run([DEFIB, "explain", other], capture_output=True, text=True,
                                       check=True).stdout
                self.assertEqual(again, shown)
        self.assertEqual(len(names), 14)


if __name__ == "__main__":
    unittest.main()
