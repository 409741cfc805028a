"""Supervisors side by side: the same static service under each, all at the same time, killed in turn.

  restart_aged    kill -9 of a child that is more than 1.5 s old -> main() of its replacement
  restart_young   kill -9 of a child that is 50 ms old (the built-in throttles show)
  copies          living copies of the service after kill -9 of its supervising process and a new
                  start of that: 1 is right
  footprint_N     proportional memory of all processes of the supervisor with N services
  wakeups_N       context switches of all of them in a second, services idle

usage: process_peers.py BINDIR [--quick] [--only restarts|footprints]

Peers are what tools/bench-peers has unpacked below build/peers/supervisors (runit, s6, supervisord,
monit) and the machine's own systemd, run as a user manager; what is not there is left out and named
on stderr. Each is configured for the fastest restart that it has. Prints JSON rows, one a line.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
    sys.exit(__doc__)
BIN = os.path.abspath(sys.argv[1])
QUICK = "--quick" in sys.argv
ONLY = sys.argv[sys.argv.index("--only") + 1] if "--only" in sys.argv[:-1] else ""
if ONLY not in ("", "restarts", "footprints"):
    sys.exit(__doc__)
ROUNDS = 2 if QUICK else 20
YOUNG_ROUNDS = 2 if QUICK else 8
WAKEUP_SECONDS = 1 if QUICK else 10
MANY = 5 if QUICK else 100
GIVE_UP = 15.0
HERE = os.path.dirname(os.path.abspath(__file__))
PEERS = os.path.join(os.path.dirname(HERE), "build", "peers", "supervisors", "root")
VICTIM = os.path.join(BIN, "process_peer_victim")


def note(text):
    print("process_peers: " + text, file=sys.stderr, flush=True)


def row(case, metric, unit, ours, name, peer, runs):
    ratio = ours / peer if ours is not None and peer else None
    print(json.dumps({"bench": "process", "case": case, "metric": metric, "unit": unit,
                      "ours": ours, "peer_name": name, "peer": peer, "ratio": ratio,
                      "limit": None, "runs": runs}), flush=True)


def median(values):
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def tree():
    """parent -> children of all processes."""
    children = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as stat:
                parent = int(stat.read().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(name))
    return children


def is_victim(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe") == VICTIM
    except OSError:
        return False


class Supervisor:
    """One supervisor with `count` services in a directory of its own."""

    name = "?"
    needs = ()
    root_only = False  # needs a mount namespace of its own
    # The young child's restart is not measured where a throttle makes it a matter of half a minute.
    young = True

    def __init__(self, directory, count):
        self.dir = os.path.join(directory, f"{type(self).__name__}-{count}")
        os.makedirs(self.dir)
        self.count = count
        self.process = None
        self.prepare()
        self.launch()

    @classmethod
    def available(cls):
        if cls.root_only and os.geteuid() != 0:
            return False
        return all(os.path.exists(path) for path in cls.needs)

    def prepare(self):
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def environment(self):
        return dict(os.environ, PATH=PEERS + "/usr/bin:" + os.environ["PATH"])

    def launch(self):
        with open(os.path.join(self.dir, "output"), "ab") as output:
            self.process = subprocess.Popen(self.command(), env=self.environment(), cwd=self.dir,
                                            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                            start_new_session=True)

    def stamps_path(self, index=0):
        return os.path.join(self.dir, f"stamps{index}")

    def service(self, index):
        return [VICTIM, self.stamps_path(index)]

    def stamps(self, index=0):
        try:
            with open(self.stamps_path(index)) as file:
                return [tuple(map(int, line.split())) for line in file.read().splitlines()]
        except OSError:
            return []

    def wait_for(self, count, index=0, limit=GIVE_UP):
        until = time.monotonic() + limit
        while time.monotonic() < until:
            stamps = self.stamps(index)
            if len(stamps) >= count:
                return stamps
            time.sleep(0.002)
        return None

    def restart_ms(self, limit=GIVE_UP):
        before = self.stamps()
        if not before or not alive(before[-1][1]):
            return None
        killed = time.monotonic_ns()
        os.kill(before[-1][1], signal.SIGKILL)
        after = self.wait_for(len(before) + 1, limit=limit)
        return (after[len(before)][0] - killed) / 1e6 if after else None

    def own_pids(self):
        """All processes of the supervisor, without the services."""
        children = tree()
        found, todo = [], [self.process.pid] + self.detached()
        while todo:
            pid = todo.pop()
            if pid in found:
                continue
            todo += children.get(pid, [])
            if alive(pid) and not is_victim(pid):
                found.append(pid)
        return found

    def detached(self):
        return []

    def pss_kib(self):
        total = 0
        for pid in self.own_pids():
            try:
                with open(f"/proc/{pid}/smaps_rollup") as rollup:
                    for line in rollup:
                        if line.startswith("Pss:"):
                            total += int(line.split()[1])
            except OSError:
                pass
        return total

    def switches(self):
        total = 0
        for pid in self.own_pids():
            try:
                with open(f"/proc/{pid}/status") as status:
                    total += sum(int(line.split()[1]) for line in status if "ctxt_switches" in line)
            except OSError:
                pass
        return total

    def supervising_pid(self):
        """The process whose kill -9 takes the supervision of service 0 away."""
        return self.process.pid

    def relaunch(self):
        """What an operator (or init) does after that; nothing where the supervisor heals itself."""
        self.process.wait()
        self.launch()

    def victims(self):
        return {pid for index in range(self.count) for _, pid in self.stamps(index)
                if alive(pid) and is_victim(pid)}

    def end(self):
        for pid in self.own_pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        for pid in self.victims():
            os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


class Defib(Supervisor):
    name = "defib"
    needs = (os.path.join(BIN, "defib"),)

    def prepare(self):
        with open(os.path.join(self.dir, "defib.toml"), "w") as config:
            for index in range(self.count):
                config.write(f'[service.s{index}]\ncommand = ["{VICTIM}", '
                             f'"{self.stamps_path(index)}"]\nmax_restarts = 10000\n'
                             'restart_delay = "0s"\n')

    def command(self):
        return [os.path.join(BIN, "defib"), "daemon", "-c", os.path.join(self.dir, "defib.toml"),
                "--state-dir", os.path.join(self.dir, "state")]

    def detached(self):
        shims = []
        for pid in os.listdir("/proc"):
            if not pid.isdigit():
                continue
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    command = file.read().split(b"\0")
            except OSError:
                continue
            if command[0].endswith(b"/defib-shim") and self.dir.encode() in command[1]:
                shims.append(int(pid))
        return shims

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        super().end()


class Runit(Supervisor):
    name = "runit"
    needs = (PEERS + "/usr/bin/runsvdir", PEERS + "/usr/bin/runsv")

    def prepare(self):
        for index in range(self.count):
            service = os.path.join(self.dir, "sv", f"s{index}")
            os.makedirs(service)
            run = os.path.join(service, "run")
            with open(run, "w") as script:
                script.write("#!/bin/sh\nexec " + " ".join(self.service(index)) + "\n")
            os.chmod(run, 0o755)

    def command(self):
        return [PEERS + "/usr/bin/runsvdir", os.path.join(self.dir, "sv")]

    def supervising_pid(self):
        return tree()[self.process.pid][0]  # runsv; runsvdir starts it again

    def relaunch(self):
        time.sleep(6)  # runsvdir looks every five seconds


def in_own_mounts(script):
    """A command that runs `script` where its mounts concern nobody else."""
    return ["unshare", "-m", "sh", "-c", script]


class S6(Supervisor):
    name = "s6"
    needs = (PEERS + "/usr/bin/s6-svscan", PEERS + "/usr/bin/s6-supervise")
    root_only = True

    def prepare(self):
        Runit.prepare(self)

    def command(self):
        # It executes /usr/bin/s6-supervise, wherever it lies itself.
        return in_own_mounts(f"mount -t overlay overlay -o lowerdir={PEERS}/usr/bin:/usr/bin "
                             f"/usr/bin && exec s6-svscan {self.dir}/sv")

    def environment(self):
        return dict(super().environment(), LD_LIBRARY_PATH=PEERS + "/lib/x86_64-linux-gnu:" +
                    PEERS + "/usr/lib/x86_64-linux-gnu")

    def supervising_pid(self):
        return tree()[self.process.pid][0]

    def relaunch(self):
        time.sleep(3)


class Supervisord(Supervisor):
    name = "supervisord"
    needs = (PEERS + "/usr/bin/supervisord",)

    def prepare(self):
        with open(os.path.join(self.dir, "conf"), "w") as config:
            config.write(f"[supervisord]\nnodaemon=true\nlogfile={self.dir}/log\n"
                         f"pidfile={self.dir}/pid\n")
            for index in range(self.count):
                config.write(f"[program:s{index}]\ncommand={' '.join(self.service(index))}\n"
                             "autorestart=true\nstartretries=1000000\n")

    def environment(self):
        return dict(super().environment(), PYTHONPATH=PEERS + "/usr/lib/python3/dist-packages")

    def command(self):
        return [sys.executable, PEERS + "/usr/bin/supervisord", "-c",
                os.path.join(self.dir, "conf")]


class Monit(Supervisor):
    name = "monit"
    needs = (PEERS + "/usr/bin/monit",)
    young = False

    def prepare(self):
        with open(os.path.join(self.dir, "rc"), "w") as config:
            config.write(f"set daemon 1\nset pidfile {self.dir}/pid\nset idfile {self.dir}/id\n"
                         f"set statefile {self.dir}/state\nset log {self.dir}/log\n")
            for index in range(self.count):
                script = os.path.join(self.dir, f"start{index}")
                with open(script, "w") as file:
                    file.write("#!/bin/sh\n" + " ".join(self.service(index)) +
                               f" >/dev/null 2>&1 </dev/null &\necho $! >{self.dir}/pid{index}\n")
                os.chmod(script, 0o755)
                config.write(f'check process s{index} with pidfile {self.dir}/pid{index}\n'
                             f'  start program = "{script}"\n')
        os.chmod(os.path.join(self.dir, "rc"), 0o600)

    def command(self):
        return [PEERS + "/usr/bin/monit", "-I", "-c", os.path.join(self.dir, "rc")]


class Systemd(Supervisor):
    name = "systemd --user"
    needs = ("/lib/systemd/systemd",)
    root_only = True

    def prepare(self):
        self.runtime = os.path.join(self.dir, "run")
        units = os.path.join(self.dir, "config", "systemd", "user")
        os.makedirs(self.runtime, mode=0o700)
        os.makedirs(os.path.join(units, "default.target.wants"))
        for index in range(self.count):
            unit = os.path.join(units, f"s{index}.service")
            with open(unit, "w") as file:
                file.write(f"[Unit]\nStartLimitIntervalSec=0\n[Service]\n"
                           f"ExecStart={' '.join(self.service(index))}\n"
                           "Restart=always\nRestartSec=0\nStandardOutput=null\n"
                           "StandardError=null\n")
            os.symlink(unit, os.path.join(units, "default.target.wants", f"s{index}.service"))

    def environment(self):
        return dict(os.environ, XDG_RUNTIME_DIR=self.runtime,
                    XDG_CONFIG_HOME=os.path.join(self.dir, "config"),
                    XDG_DATA_HOME=os.path.join(self.dir, "data"))

    def command(self):
        # A user manager starts only where it believes that systemd is the machine's init.
        return in_own_mounts("mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && "
                             "exec /lib/systemd/systemd --user --unit=default.target")


class Bare(Supervisor):
    """The floor: a process that waits and spawns, nothing else."""

    name = "waitid+posix_spawn loop"

    def prepare(self):
        pass

    def command(self):
        return [os.path.join(BIN, "process_peer_floor")] + self.service(0)


def measure_restarts(peers, directory):
    running = [(peer, peer(directory, 1)) for peer in peers]
    ready = []
    for peer, instance in running:
        if instance.wait_for(1, limit=40) is None:
            note(f"{peer.name} does not start its service here: left out "
                 f"({open(os.path.join(instance.dir, 'output')).read()[-300:].strip()})")
            instance.end()
        else:
            ready.append((peer, instance))
    aged = {peer: [] for peer, _ in ready}
    for _ in range(ROUNDS):
        time.sleep(1.6)
        for peer, instance in ready:
            value = instance.restart_ms()
            if value is not None:
                aged[peer].append(value)
    young = {peer: [] for peer, _ in ready}
    for peer, instance in ready:
        if not peer.young:
            continue
        for _ in range(YOUNG_ROUNDS):
            time.sleep(0.05)
            value = instance.restart_ms()
            if value is None:
                break
            young[peer].append(value)
    for case, results in (("restart_aged", aged), ("restart_young", young)):
        ours = median(results.get(Defib, []))
        for peer, _ in ready:
            if peer is not Defib and results[peer]:
                row(case, "p50", "ms", ours, peer.name, median(results[peer]), len(results[peer]))
    measure_copies(ready)
    for _, instance in ready:
        instance.end()
    return [peer for peer, _ in ready]


def measure_copies(ready):
    counts = {}
    for peer, instance in ready:
        if peer is Bare:
            continue
        time.sleep(1.6)
        os.kill(instance.supervising_pid(), signal.SIGKILL)
        instance.relaunch()
        time.sleep(3)
        counts[peer] = len(instance.victims())
    for peer, count in counts.items():
        if peer is not Defib:
            row("copies", "after kill -9 of the supervisor", "processes", counts.get(Defib),
                peer.name, count, 1)


def measure_footprint(peers, directory, count):
    results = {}
    for peer in peers:
        if peer is Bare:
            continue
        instance = peer(directory, count)
        if instance.wait_for(1, index=count - 1, limit=60) is None:
            note(f"{peer.name} did not start {count} services in time")
            instance.end()
            continue
        time.sleep(2)
        before = instance.switches()
        time.sleep(WAKEUP_SECONDS)
        results[peer] = (instance.pss_kib(), (instance.switches() - before) / WAKEUP_SECONDS)
        instance.end()
    ours = results.get(Defib, (None, None))
    for peer, (pss, wakeups) in results.items():
        if peer is not Defib:
            row(f"footprint_{count}_services", "all its processes, PSS", "KiB", ours[0], peer.name,
                pss, 1)
            row(f"wakeups_{count}_services", "context switches a second", "1/s", ours[1],
                peer.name, wakeups, 1)


def main():
    peers = [peer for peer in (Defib, Bare, Runit, S6, Supervisord, Monit, Systemd)
             if peer.available()]
    absent = [peer.name for peer in (Runit, S6, Supervisord, Monit, Systemd) if peer not in peers]
    if absent:
        note("without these peers, which are not here: " + ", ".join(absent))
    directory = tempfile.mkdtemp(prefix="defib-peers-")
    try:
        working = peers
        if ONLY != "footprints":
            working = measure_restarts(peers, os.path.join(directory, "restart"))
        for count in (1, MANY) if ONLY != "restarts" else ():
            measure_footprint(working, os.path.join(directory, "footprint"), count)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


main()
