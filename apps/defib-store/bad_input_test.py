#!/usr/bin/env python3
"""What defib-store is given that it cannot use: each its own error, and nothing is changed."""

import json
import os
import subprocess
import unittest

from cli_util import (NOBODY, StoreCase, mounted, needs_mounts, needs_root, read_only_view,
                      rewrite_identity, run)

# Every command that reads DIR, and what else it takes.
READERS = {"status": [], "verify": [], "inspect": [], "dump": [], "get": ["t", "00001"],
           "recover --dry-run": [], "backup": ["--to", "NEW"]}
WRITERS = {"load": [], "put": ["t", "k", "v"], "del": ["t", "k"], "recover": [], "compact": []}
CARERS = {"repair": ["--to", "NEW"], "migrate": []}
ALL = {**READERS, **WRITERS, **CARERS}


def as_nobody():
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


class BadInput(StoreCase):
    def words(self, command, folder=None):
        new = os.path.join(self.folder.name, "new")
        name, *options = command.split(" ")
        return [name, folder or self.dir, *options,
                *[new if word == "NEW" else word for word in ALL[command]]]

    def each(self, commands, code, returncode, says, watched=None, **options):
        """Every one of them fails in this way, says so, and leaves all as it was."""
        errors = []
        for command in commands:
            with self.subTest(command=command), self.unchanged(watched or self.folder.name):
                error = self.error_of(*self.words(command), code=code, returncode=returncode,
                                      **options)
                for text in says:
                    self.assertIn(text, error["message"] + " " + error["suggested_action"])
                errors.append(error)
        return errors

    def test_there_is_nothing(self):
        commands = [c for c in ALL if c not in ("load", "put", "del")]
        self.each(commands, -84, 2, [f"'{self.dir}'", f"`defib store load {self.dir}`"])

    def test_a_directory_that_is_empty(self):
        os.makedirs(self.dir)
        commands = [c for c in ALL if c not in ("load", "put", "del")]
        errors = self.each(commands, -84, 2, ["is not a store", f"`defib store load {self.dir}`"])
        self.assertEqual(self.cure(errors[0]), ["defib", "store", "load", self.dir])
        self.assert_sound()

    def test_a_directory_with_somebody_elses_files(self):
        os.makedirs(self.dir)
        with open(os.path.join(self.dir, "thesis.tex"), "w", encoding="utf-8") as file:
            file.write("important")
        for error in self.each(ALL, -84, 2, ["is not a store", "'thesis.tex'"]):
            self.assertEqual(error["commands"], [["ls", "-la", self.dir]])

    def test_a_file(self):
        with open(self.dir, "w", encoding="utf-8") as file:
            file.write("not a directory")
        for error in self.each(ALL, -84, 2, [f"'{self.dir}' is a file; a store is a directory"]):
            self.assertEqual(error["commands"], [["ls", "-ld", self.dir]])

    def test_a_store_of_the_other_byte_order(self):
        self.fill(10)
        rewrite_identity(self.dir, swapped=True)
        self.each(ALL, -85, 2, ["byte order", "`defib store dump`"])

    def test_a_newer_format(self):
        self.fill(10)
        rewrite_identity(self.dir, version=99)
        self.each(ALL, -85, 2, ["format version 99", "use a defib that knows this version"])

    def test_a_page_size_that_cannot_be(self):
        self.fill(10)
        rewrite_identity(self.dir, page_size=5000)
        commands = [c for c in ALL if c not in ("repair", "recover --dry-run")]
        self.each(commands, -76, 2, ["pages of 5000 bytes", "`defib store repair "])
        # The plan is made, and says which stage would fail.
        with self.unchanged():
            planned = run("recover", self.dir, "--dry-run", "--json")
        self.assertEqual(planned.returncode, 2)
        stages = {s["name"]: s for s in json.loads(planned.stdout)["stages"]}
        self.assertEqual(stages["config_validation"]["error"]["code"], -76)

    @needs_root
    def test_rights_that_are_missing(self):
        os.chmod(self.folder.name, 0o755)
        self.fill(10)
        subprocess.run(["chown", "-R", str(NOBODY), self.dir], check=True)
        says = ["is not accessible", f"`chmod -R u+rwX {self.dir}`"]
        commands = [c for c in ALL if c not in ("repair", "recover --dry-run", "backup", "migrate")]
        for path in (".", "store.id"):
            rights = os.stat(os.path.join(self.dir, path)).st_mode
            os.chmod(os.path.join(self.dir, path), 0)
            self.each(commands, -77, 1, says, preexec_fn=as_nobody)
            os.chmod(os.path.join(self.dir, path), rights)
        os.chmod(os.path.join(self.dir, "LOCK"), 0o400)
        self.each(WRITERS, -77, 1, says, preexec_fn=as_nobody)
        # Who only reads needs no right to write.
        self.assertEqual(run("dump", self.dir, preexec_fn=as_nobody).stdout.count("\n"), 10)

    @needs_root
    def test_a_target_where_nothing_may_be_made(self):
        os.chmod(self.folder.name, 0o755)
        self.fill(10)
        subprocess.run(["chown", "-R", str(NOBODY), self.dir], check=True)
        errors = self.each(["backup", "repair"], -21, 1, [os.path.join(self.folder.name, "new")],
                           preexec_fn=as_nobody)
        self.assertEqual(len(errors), 2)

    @needs_mounts
    def test_a_file_system_that_is_mounted_read_only(self):
        self.fill(10)
        self.killed_load(3)
        view = os.path.join(self.folder.name, "view")
        with read_only_view(self.dir, view):
            for command in WRITERS:
                with self.subTest(command=command), self.unchanged(view):
                    error = self.error_of(*self.words(command, view), code=-77, returncode=1)
                    self.assertIn("read-only file system", error["message"])
                    self.assertEqual(error["commands"], [["mount", "-o", "remount,rw", view]])
            # What only reads works, and what copies as well.
            for command in ("status", "verify", "inspect", "backup"):
                done = run(*self.words(command, view))
                self.assertEqual(done.returncode, 0, done.stderr + done.stdout)
            planned = run("recover", view, "--dry-run", "--json")
            self.assertEqual(planned.returncode, 1)
            stage = json.loads(planned.stdout)["stages"][0]
            self.assertEqual((stage["name"], stage["error"]["code"]), ("initialization", -77))
            error = self.error_of("backup", self.dir, "--to", os.path.join(view, "new"), code=-21)
            self.assertEqual(error["commands"], [["mount", "-o", "remount,rw", view]])

    @needs_mounts
    def test_a_full_file_system(self):
        place = os.path.join(self.folder.name, "disk")
        with mounted(place, "4m"):
            self.dir = os.path.join(place, "store")
            loaded = self.load("".join(f"put\tt\t{i}\t{'v' * 100000}\ncommit\n"
                                       for i in range(100)), "--json")
            self.assertEqual(loaded.returncode, 1)
            error = json.loads(loaded.stdout.splitlines()[-1])["error"]
            self.assertIn(error["code"], (-89, -72))
            self.check_error(error)
            self.assertIn("`df -h ", error["suggested_action"])
            acknowledged = loaded.stdout.count("ok ")
            new = os.path.join(self.folder.name, "new")
            if acknowledged > 0:
                copied = run("backup", self.dir, "--to", new)
                self.assertEqual(copied.returncode, 0, copied.stderr)
                self.assertGreaterEqual(run("dump", new).stdout.count("\n"), acknowledged)
            # A copy that finds no room says so and leaves nothing half done.
            self.dir = os.path.join(self.folder.name, "other")
            self.load("".join(f"put\tt\t{i}\t{'v' * 100000}\n" for i in range(100)))
            for verb in ("backup", "repair"):
                there = os.path.join(place, verb)
                error = self.error_of(verb, self.dir, "--to", there)
                self.assertIn(error["code"], (-22, -72, -89))
                self.assertEqual(error["commands"], [["df", "-h", place]])
                self.assertFalse(os.path.exists(there))

    def test_keys_values_and_names_that_are_too_large(self):
        self.fill(10)
        before = run("dump", self.dir).stdout
        for words, limit in ((["put", self.dir, "t", "k" * 4097, "v"], "4096"),
                             (["put", self.dir, "t" * 129, "k", "v"], "128"),
                             (["del", self.dir, "t", "k" * 4097], "4096"),
                             (["put", self.dir, "", "k", "v"], "name is empty")):
            error = self.error_of(*words, returncode=2)
            self.assertIn(error["code"], (-88, -2))
            self.assertIn(limit, error["message"])
        value = "v" * ((16 << 20) + 1)
        for line, limit in ((f"put\tt\tk\t{value}", f"{16 << 20}"),
                            (f"put\tt\t{'k' * 4097}\tv", "4096")):
            loaded = self.load(f"put\tt\ta\t1\ncommit\nput\tt\tb\t2\n{line}\n")
            self.assertEqual(loaded.returncode, 2)
            self.assertIn("error[-88 KeyOrValueTooLarge]: line 4: ", loaded.stderr)
            self.assertIn(limit, loaded.stderr)
        self.assertEqual(run("dump", self.dir).stdout, before + "t\ta\t1\n")

    def test_lines_that_cannot_be_read(self):
        for line, says in (("put\tt\tk", "put has 3 fields"),
                           ("commit\tnow", "commit has 2 fields"),
                           ("nonsense\ta\tb", "unknown command 'nonsense'"),
                           ("", "unknown command ''"),
                           ("put\tt\tk\t\\q", "a malformed escape"),
                           ("put\tt\tk\t\\x4", "a malformed escape")):
            loaded = self.load(f"put\tt\ta\t1\ncommit\n{line}\n", "--json")
            self.assertEqual(loaded.returncode, 2, line)
            error = json.loads(loaded.stdout.splitlines()[-1])["error"]
            self.assertEqual((error["code"], error["fields"]["line"]), (-9, "3"), line)
            self.assertIn(f"line 3: {says}", error["message"])
            self.assertIn("commits before this line are kept", error["suggested_action"])
        self.assertEqual(run("dump", self.dir).stdout, "t\ta\t1\n")

    def test_names_that_are_not_known(self):
        self.fill(10)
        error = self.error_of("get", self.dir, "trades", "1", code=-3)
        self.assertIn("there is no table 'trades'; the store has t", error["message"])
        error = self.error_of("get", self.dir, "t", "no", code=-3)
        self.assertIn(f"`defib store dump {self.dir} t`", error["suggested_action"])
        error = self.error_of("get", self.dir, "t", "\\q", code=-2, returncode=2)
        self.assertIn("malformed escape", error["message"])
        nothing = run("dump", self.dir, "trades")
        self.assertEqual((nothing.returncode, nothing.stdout), (0, ""))
        self.assertIn("table 'trades' has no records; the store has t", nothing.stderr)

    def test_words_that_are_not_understood(self):
        self.fill(10)
        for words, names in ((["nonsense"], "nonsense"), (["load", self.dir, "--often"], "--often"),
                             (["load", self.dir, "--sync", "often"], "often"),
                             (["load", self.dir, "--batch", "0"], "--batch"),
                             (["recover", self.dir, "--timeout-per-stage", "soon"], "soon"),
                             (["inspect", self.dir, "everything"], "everything"),
                             (["backup", self.dir], "--to"), (["status"], "DIR"),
                             (["put", self.dir, "t", "k"], "VALUE"), ([], "subcommand")):
            with self.subTest(words=words), self.unchanged():
                shown = run(*words)
                self.assertEqual(shown.returncode, 2, words)
                self.assertIn("error[-12 WrongUsage]: ", shown.stderr)
                self.assertIn(names, shown.stderr)
                self.assertRegex(shown.stderr, r"\ntry: see `defib store[a-z ]* --help`")
                failed = run(*words, "--json")
                self.assertEqual(failed.returncode, 2)
                self.assertEqual(json.loads(failed.stdout)["error"]["code"], -12)

    def test_a_target_that_exists(self):
        self.fill(10)
        new = os.path.join(self.folder.name, "new")
        os.makedirs(new)
        with open(os.path.join(new, "thesis.tex"), "w", encoding="utf-8") as file:
            file.write("important")
        self.each(["backup", "repair"], -4, 2, [f"'{new}'"])


if __name__ == "__main__":
    unittest.main()
