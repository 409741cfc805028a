"""One victim under one `defib run`, in a state directory of its own."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

WAIT = 40  # seconds


class Rig:
    memory_group = None

    def __init__(self, programs, victims):
        self.programs = programs
        self.victims = victims
        self.dir = tempfile.mkdtemp(prefix="defib-cat-")
        self.run_ = None
        self.groups = []
        self.env = {key: value for key, value in os.environ.items()
                    if key not in ("LOG_LEVEL", "XDG_STATE_HOME", "RUST_BACKTRACE", "GOTRACEBACK")}
        self.env["DEFIB_STATE_DIR"] = os.path.join(self.dir, "state")

    # ---- what is done to a victim that said "ready" --------------------------------------------

    @staticmethod
    def sends(number):
        def act(rig):
            os.kill(rig.pid(), number)
        return act

    @staticmethod
    def of_child(rig):
        """Whom `defib analyze` is asked about: the victim's child."""
        pid = rig.pid()
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return int(file.read().split()[0])

    # ---- defib ---------------------------------------------------------------------------------

    def defib(self, *arguments):
        return subprocess.run([os.path.join(self.programs, "defib"), *arguments], env=self.env,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=WAIT, check=False)

    def json(self, *arguments):
        done = self.defib(*arguments, "--json")
        if not done.stdout:
            raise RuntimeError(done.stderr.strip() or f"{arguments} printed nothing")
        return json.loads(done.stdout)

    def pid(self):
        return self.json("status", "victim")["services"][0]["pid"]

    def begin(self, command, *options, restart="never", cwd=None):
        command = [part.replace("{dir}", self.victims).replace("{tmp}", self.dir)
                   for part in command]
        self.output = open(os.path.join(self.dir, "output"), "w+b")
        self.run_ = subprocess.Popen(
            [os.path.join(self.programs, "defib"), "run", "--name", "victim", "--no-guardian",
             "--restart", restart, "--capture", "live", *options, "--", *command],
            env=self.env, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output,
            cwd=cwd or self.dir)

    def text(self):
        with open(os.path.join(self.dir, "output"), "rb") as file:
            return file.read().decode(errors="replace")

    def until(self, condition, what):
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.02)
        raise TimeoutError(f"{what} in {WAIT} s; the output ends in {self.text()[-300:]!r}")

    def ready(self):
        self.until(lambda: "ready" in self.text() or self.run_.poll() is not None,
                   "the victim was not ready")

    def over(self):
        self.run_.wait(WAIT)

    def verdict(self):
        incidents = self.json("incidents")["incidents"]
        if not incidents:
            return None
        return self.json("incident", "show", incidents[0]["id"])["classification"]

    # ---- kinds of victims ----------------------------------------------------------------------

    def run(self, victim):
        return getattr(self, "run_" + victim.kind)(victim)

    def run_end(self, victim):
        self.begin(victim.command)
        if victim.act:
            self.ready()
            victim.act(self)
        self.over()
        return self.verdict()

    def run_hang(self, victim):
        self.begin(victim.command)
        self.ready()
        time.sleep(0.3)  # it says so before it goes for its last lock
        pid = victim.act(self) if victim.act else self.pid()
        verdict = self.json("analyze", str(pid))["classification"]
        if victim.name.endswith(":stopped"):
            os.kill(pid, signal.SIGCONT)
        return verdict

    def run_second(self, victim):
        """The second failure of one that is restarted."""
        self.begin([*victim.command, "{tmp}/mark"], "--max-restarts", "1", "--restart-delay",
                   "10ms", restart="on-failure")
        self.over()
        lines = [line for line in self.json("incident", "show", "latest")["timeline"]
                 if line["event"] == "classified"]
        if len(lines) != 2:
            raise RuntimeError(f"{len(lines)} classifications instead of 2")
        # The verdict on the first one may come after that on the second.
        return [line for line in lines if not line.get("earlier")][-1]

    def run_stop(self, victim):
        self.begin(victim.command)
        self.ready()
        self.run_.terminate()
        self.over()
        return self.verdict()

    def run_unhealthy(self, victim):
        """The supervisor itself kills it, because its health check fails."""
        self.begin(victim.command, "--health-url", "http://127.0.0.1:1/", "--health-check-interval",
                   "200ms", "--stop-timeout", "1s")
        self.ready()
        self.until(lambda: (self.verdict() or {}).get("cause") not in (None, "unknown"),
                   "no incident")
        return self.verdict()

    def run_memory(self, victim):
        """In a control group of its own with 48 MiB."""
        group = os.path.join(Rig.memory_group, f"defib-catalogue-{os.getpid()}-{id(self)}")
        os.mkdir(group)
        self.groups.append(group)
        name = "memory.limit_in_bytes" if "/memory" in group else "memory.max"
        with open(os.path.join(group, name), "w", encoding="ascii") as file:
            file.write(str(48 << 20))
        command = f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"'
        self.begin(["/bin/sh", "-c", command, *victim.command])
        self.ready()
        if victim.act:
            victim.act(self)
        self.over()
        return self.verdict()

    def run_server(self, victim):
        return victim.act(self)

    @staticmethod
    def has_memory_group():
        """Whether we may make a control group whose memory is limited."""
        if Rig.memory_group is None:
            Rig.memory_group = ""
            for parent in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup"):
                probe = os.path.join(parent, f"defib-catalogue-{os.getpid()}")
                try:
                    os.mkdir(probe)
                    files = os.listdir(probe)
                    os.rmdir(probe)
                except OSError:
                    continue
                if "memory.limit_in_bytes" in files or "memory.max" in files:
                    Rig.memory_group = parent
                    break
        return bool(Rig.memory_group)

    # ---- the end -------------------------------------------------------------------------------

    def close(self):
        if self.run_ and self.run_.poll() is None:
            try:
                pid = self.pid()
                if pid:
                    os.kill(pid, signal.SIGKILL)
            except Exception:  # pylint: disable=broad-except
                pass
            self.run_.terminate()
            try:
                self.run_.wait(15)
            except subprocess.TimeoutExpired:
                self.run_.kill()
                self.run_.wait()
        if self.run_:
            self.output.close()
        for group in self.groups:
            try:
                os.rmdir(group)
            except OSError:
                pass  # whom the kernel has not taken down yet
        shutil.rmtree(self.dir, ignore_errors=True)
