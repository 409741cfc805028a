"""What the tests of defib-store share: the program, stores with faults, and errors as JSON."""

import contextlib
import glob
import json
import os
import shlex
import struct
import subprocess
import sys
import tempfile
import unittest


def has_own_mounts():
    """Whether this process may mount; with mounts that nobody else sees and that go with it."""
    if os.environ.get("DEFIB_OWN_MOUNTS") == "yes":
        return True
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL,
                                           check=False).returncode != 0:
        return False
    os.environ["DEFIB_OWN_MOUNTS"] = "yes"
    os.execvp("unshare", ["unshare", "-m", sys.executable, *sys.argv])


CAN_MOUNT = has_own_mounts()
PROGRAM = os.path.abspath(sys.argv.pop(1))
SANITIZER = os.environ.get("DEFIB_SANITIZER", "")
NOBODY = 65534

CRITICAL, RETRYABLE, RECOVERABLE, NONE = "critical", "retryable", "recoverable", "none"


def run(*arguments, text=None, **options):
    return subprocess.run([PROGRAM, *arguments], input=text, capture_output=True, text=True,
                          check=False, **options)


def tree(folder):
    """Every file's bytes, rights and time of change, and every directory's."""
    found = {}
    for base, folders, names in os.walk(folder):
        info = os.stat(base)
        found[base] = (sorted(folders + names), info.st_mtime_ns, info.st_mode)
        for name in names:
            path = os.path.join(base, name)
            info = os.stat(path)
            with open(path, "rb") as file:
                found[path] = (file.read(), info.st_mtime_ns, info.st_mode)
    return found


def damage(path, offset, size=1):
    with open(path, "r+b") as file:
        file.seek(offset)
        was = file.read(size)
        file.seek(offset)
        file.write(bytes(b ^ 0x55 for b in was))


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 & -(crc & 1))
    return crc ^ 0xFFFFFFFF


def rewrite_identity(folder, version=None, page_size=None, swapped=False):
    """Another store.id, under a checksum that holds (docs/formats/store.md)."""
    path = os.path.join(folder, "store.id")
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if version is not None:
        data[8:12] = struct.pack("<I", version)
    if page_size is not None:
        data[12:16] = struct.pack("<I", page_size)
    if swapped:  # As a machine of the other byte order writes it.
        data[8:12] = bytes(reversed(data[8:12]))
        data[12:16] = bytes(reversed(data[12:16]))
    data[-4:] = struct.pack(">I" if swapped else "<I", crc32c(data[:-4]))
    with open(path, "wb") as file:
        file.write(data)


def needs(condition, what):
    """A test that cannot be made here says so aloud."""
    def decorate(test):
        if not condition:
            print(f"NOT TESTED HERE: {test.__name__} needs {what}", file=sys.stderr, flush=True)
        return unittest.skipUnless(condition, f"it needs {what}")(test)
    return decorate


needs_root = needs(os.geteuid() == 0, "root, to become another user")
needs_mounts = needs(CAN_MOUNT, "root, to mount file systems")
# A sanitizer takes memory and address space of its own.
needs_plain_build = needs(not SANITIZER, "a build without a sanitizer")


@contextlib.contextmanager
def mounted(folder, size):
    """A small file system of its own in memory."""
    os.makedirs(folder, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextlib.contextmanager
def read_only_view(folder, at):
    """The same directory under another name, through which nothing can be written."""
    os.makedirs(at, exist_ok=True)
    subprocess.run(["mount", "--bind", folder, at], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", at], check=True)
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


def paste(command, **options):
    """Runs a command as an error suggests it, in a shell, with `defib store` as this program."""
    line = shlex.join(command) if isinstance(command, list) else command
    line = line.replace("defib store ", shlex.quote(PROGRAM) + " ", 1)
    return subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, **options)


class StoreCase(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.dir = os.path.join(self.folder.name, "store")
        self.children = []

    def tearDown(self):
        for child in self.children:
            if child.poll() is None:
                child.kill()
            child.communicate()
        self.folder.cleanup()

    def load(self, text, *options):
        return run("load", self.dir, *options, text=text)

    def fill(self, records=2000):
        loaded = self.load("".join(f"put\tt\t{i:05}\tvalue {i} of this table\n"
                                   for i in range(records)), "--batch", "100")
        self.assertEqual(loaded.returncode, 0, loaded.stderr)

    def one(self, pattern):
        paths = sorted(glob.glob(os.path.join(self.dir, pattern)))
        self.assertTrue(paths, pattern)
        return paths[0]

    def start(self, *arguments, **options):
        child = subprocess.Popen([PROGRAM, *arguments], text=True, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
        self.children.append(child)
        return child

    def writer(self, *options, commits=1):
        """A process that holds the store, after so many acknowledged commits."""
        child = self.start("load", self.dir, *options)
        for i in range(commits):
            child.stdin.write(f"put\tlog\t{i:05}\tv{i}\ncommit\n")
            child.stdin.flush()
            self.assertTrue(child.stdout.readline().startswith("ok "))
        return child

    def killed_load(self, commits, *options):
        """Leaves the store as kill -9 does after so many acknowledged commits."""
        child = self.writer(*options, commits=commits)
        child.kill()
        child.communicate()

    def killed_big_load(self, megabytes):
        """The same with a long log of short records."""
        child = self.start("load", self.dir, "--sync", "none", "--batch", "1000")
        value = "v" * 100
        lines = ["".join(f"put\tbig\t{i * 1000 + j:010}\t{value}\n" for j in range(1000))
                 for i in range(10)]
        commits = megabytes * 1_000_000 // 128_000
        for i in range(commits):
            child.stdin.write(lines[i % 10].replace("put\tbig\t0", f"put\tbig\t{i // 10}"))
            child.stdin.flush()
            self.assertEqual(child.stdout.readline(), f"ok {i + 1}\n")
        child.kill()
        child.communicate()
        return commits

    def error_of(self, *arguments, code=None, returncode=1, **options):
        """The error as JSON, after it was checked for what every error has to have."""
        shown = run(*arguments, **options)
        failed = run(*arguments, "--json", **options)
        self.assertNotEqual(failed.returncode, 0, failed.stdout)
        if returncode is not None:
            self.assertEqual(failed.returncode, returncode, failed.stdout + failed.stderr)
        self.assertEqual(shown.returncode, failed.returncode)
        error = json.loads(failed.stdout.splitlines()[-1])["error"]
        if code is not None:
            self.assertEqual(error["code"], code, error)
        self.check_error(error)
        if code != -79:  # How far it came differs each time.
            self.assertIn(f"error[{error['code']} {error['kind']}]: ", shown.stderr)
        self.assertIn("\ntry: ", shown.stderr)
        return error

    def check_error(self, error):
        self.assertTrue(error["message"])
        self.assertTrue(error["suggested_action"])
        for placeholder in ("DIR", "NEWDIR"):
            self.assertNotRegex(error["suggested_action"], rf"\b{placeholder}\b")
        for command in error["commands"]:
            self.assertIn("`" + shlex.join(command) + "`", error["suggested_action"])

    def assert_fields(self, error, *names):
        for name in names:
            self.assertTrue(str(error["fields"].get(name, "")), f"{name} of {error}")

    def cure(self, error):
        """Runs what the error suggests, as it stands."""
        self.assertEqual(len(error["commands"]), 1, error)
        command = error["commands"][0]
        done = paste(command)
        self.assertEqual(done.returncode, 0, f"{command}: {done.stdout}{done.stderr}")
        return command

    def assert_sound(self, folder=None):
        """It opens, and no byte of it is wrong."""
        folder = folder or self.dir
        put = run("put", folder, "after", "k", "v")
        self.assertEqual(put.returncode, 0, put.stderr)
        verified = run("verify", folder)
        self.assertEqual(verified.returncode, 0, verified.stdout)

    @contextlib.contextmanager
    def unchanged(self, folder=None, but=()):
        folder = folder or self.dir
        before = tree(folder)
        yield
        after = tree(folder)
        self.assertEqual(sorted(before), sorted(after))
        for path, was in before.items():
            if os.path.basename(path) not in but:
                self.assertEqual(was, after[path], path)
