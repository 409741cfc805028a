#!/usr/bin/env python3
"""What the bundle of an incident holds after real ends of real services, and that no secret is in it.

    bundle_test.py BIN_DIR [unittest arguments]
"""

import glob
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "defib"))
import e2e_test
from e2e_test import PYTHON, is_alive

PARTS = {"changes.json", "crash.json", "disassembly.txt", "kernel.txt", "log.txt", "log_important.txt", "maps.txt",
         "process.json", "processes.json", "samples.json", "system.json", "timeline.json"}


class Bundles(e2e_test.Service):
    # The manifest of a failure of the newest incident, once it is written.
    def manifest(self, failure=1, seconds=30, where=lambda manifest: True):
        def look():
            found = sorted(glob.glob(f"{self.state}/incidents/*.bundle/{failure}/manifest.json"))
            if not found:
                return None
            with open(found[-1], encoding="utf-8") as file:
                manifest = json.load(file)
            manifest["dir"] = os.path.dirname(found[-1])
            return manifest if where(manifest) else None
        return self.until(look, seconds=seconds, what="a bundle")

    def part(self, manifest, name):
        with open(os.path.join(manifest["dir"], name), encoding="utf-8") as file:
            return json.load(file) if name.endswith(".json") else file.read()

    def why_missing(self, manifest, name):
        return [one["why"] for one in manifest["missing"] if one["name"] == name]

    def unpack(self, archive):
        raw = subprocess.run(["zstd", "-dc", archive], stdout=subprocess.PIPE, check=True).stdout \
            if shutil.which("zstd") else None
        if raw is None:
            library = __import__("ctypes").CDLL("libzstd.so.1")
            with open(archive, "rb") as file:
                packed = file.read()
            ctypes = __import__("ctypes")
            library.ZSTD_decompress.restype = ctypes.c_size_t
            buffer = ctypes.create_string_buffer(64 << 20)
            # A frame without its size: decompressed at once into more room than it can need.
            size = library.ZSTD_decompress(buffer, ctypes.c_size_t(len(buffer)), packed,
                                           ctypes.c_size_t(len(packed)))
            self.assertFalse(library.ZSTD_isError(ctypes.c_size_t(size)))
            raw = buffer.raw[:size]
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}, \
                tar.getmembers()

    # One service, with keys of the configuration.
    def run_service(self, command, **keys):
        text = f"[service.engine]\ncommand = {json.dumps(command)}\n"
        keys.setdefault("capture_timeout", "5s")  # also on a machine that has much else to do
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        return self.begin("run", "-c", self.script(text, "defib.toml"))


class Crashing(Bundles):
    CRASH = """
        import ctypes, os, socket, sys, time
        print("WARN low on margin", flush=True)
        listener = socket.socket(); listener.bind(("127.0.0.1", 0)); listener.listen()
        print("ERROR going down", file=sys.stderr, flush=True)
        if os.path.exists(sys.argv[1]): time.sleep(60)
        open(sys.argv[1], "w").close()
        time.sleep(float(sys.argv[2]))
        ctypes.string_at(8)
    """

    def crash(self, wait="0.3", **keys):
        script = self.script(self.CRASH)
        return self.run_service([PYTHON, script, os.path.join(self.dir, "once"), wait], **keys)


class Ends(Crashing):
    # A capture reads what a bundle needs for 5 ms at most, and names what a busy machine has
    # cut off. Of five crashes one is whole.
    def whole_crash(self):
        for attempt in range(5):
            if attempt > 0:
                self.tearDown()
                self.setUp()
            self.crash(sample_interval="100ms")
            manifest = self.manifest()
            if "process.json" in {part["name"] for part in manifest["parts"]} and \
                    not self.part(manifest, "process.json")["gaps"]:
                break
        return manifest

    def test_a_crash_leaves_everything(self):
        manifest = self.whole_crash()
        names = {part["name"] for part in manifest["parts"]}
        missing = {one["name"] for one in manifest["missing"]}
        self.assertEqual(names | missing, PARTS, manifest)
        self.assertLessEqual(missing, {"kernel.txt"}, manifest)  # where it may not be read
        self.assertEqual(manifest["schema"], "defib.bundle/1")
        self.assertFalse(manifest["complete"])
        self.assertTrue(manifest["versions"]["build_id"])
        for name in os.listdir(manifest["dir"]):
            self.assertEqual(os.stat(os.path.join(manifest["dir"], name)).st_mode & 0o7777, 0o600)
        self.assertEqual(os.stat(manifest["dir"]).st_mode & 0o7777, 0o700)
        process = self.part(manifest, "process.json")
        self.assertEqual(process["source"], "crash")
        sockets = [one["socket"] for one in process["descriptors"] if "socket" in one]
        self.assertIn("LISTEN", [one["state"] for one in sockets if one["protocol"] == "tcp"])
        self.assertIn("Max open files", [one["name"] for one in process["limits"]])
        self.assertIn(PYTHON, process["command_line"][0])
        self.assertEqual(process["gaps"], [])
        self.assertIn("=>", self.part(manifest, "disassembly.txt"))
        self.assertIn("[stack]", self.part(manifest, "maps.txt"))
        report = self.part(manifest, "crash.json")
        self.assertIn("rip", report["registers"])
        important = self.part(manifest, "log_important.txt")
        self.assertIn("stderr ERROR going down", important)
        self.assertIn("stdout WARN low on margin", important)
        self.assertIn("WARN low on margin", self.part(manifest, "log.txt"))
        timeline = self.part(manifest, "timeline.json")["entries"]
        self.assertEqual([one["at"] for one in timeline], sorted(one["at"] for one in timeline))
        self.assertLessEqual({"incident", "stdout", "stderr"}, {one["source"] for one in timeline})
        samples = self.part(manifest, "samples.json")
        rss = samples["service"]["names"].index("rss_bytes")
        self.assertTrue(samples["service"]["samples"], samples)
        # The last one may be of the process that is torn down.
        self.assertGreater(max(one["numbers"][rss] for one in samples["service"]["samples"]), 1 << 20)
        self.assertTrue(samples["machine"]["samples"])
        processes = self.part(manifest, "processes.json")["processes"]
        self.assertTrue(processes[0]["of_service"])
        self.assertIn("MemTotal", self.part(manifest, "system.json")["memory"])
        # What was read for it alone is gone.
        self.assertEqual(glob.glob(f"{self.state}/services/engine/capture/*.process.json"), [])

        shown = self.json("incident", "show", "latest")
        self.assertEqual(shown["bundle"]["path"], os.path.dirname(manifest["dir"]))
        self.assertEqual(shown["bundle"]["failures"][0]["parts"], manifest["parts"])
        self.assertIn("disassembly.txt", self.defib("incident", "show", "latest").stdout)
        out = os.path.join(self.dir, "incident.tar.zst")
        done = self.defib("incident", "export", "latest", "--out", out)
        self.assertEqual((done.returncode, done.stdout), (0, out + "\n"), done.stderr)
        files, members = self.unpack(out)
        self.assertEqual(os.stat(out).st_mode & 0o7777, 0o600)
        prefix = shown["id"]
        self.assertLessEqual({f"{prefix}/incident.json", f"{prefix}/1/manifest.json",
                              f"{prefix}/1/crash.json"}, set(files))
        self.assertEqual({(one.uid, one.gid, one.mode) for one in members}, {(0, 0, 0o600)})
        self.assertEqual(self.defib("export", "latest", "--out", out).returncode, 1)

    # The configuration tells what the process can no longer.
    def test_a_kill_names_what_is_missing(self):
        script = self.script("import time\nprint('x', flush=True)\ntime.sleep(60)\n")
        self.begin("run", "--name", "engine", "--env", "MODE=paper", "--", PYTHON, script)
        pid = self.running("engine")["pid"]
        self.until(lambda: self.defib("logs", "engine").stdout, what="output")
        os.kill(pid, signal.SIGKILL)
        manifest = self.manifest()
        self.running("engine", not_pid=pid)
        self.assertTrue(self.why_missing(manifest, "crash.json"))
        self.assertTrue(self.why_missing(manifest, "maps.txt"))
        process = self.part(manifest, "process.json")
        self.assertEqual(process["source"], "configuration")
        self.assertEqual(process["environment"]["MODE"], "paper")
        self.assertEqual(process["command_line"], [PYTHON, script])
        self.assertTrue(self.part(manifest, "log.txt"))

    def test_an_exit_code_has_the_last_lines(self):
        self.defib("run", "--name", "job", "--restart", "never", "--", "sh", "-c",
                   "echo ERROR no disk >&2; sleep 1; exit 3")
        manifest = self.manifest()
        self.assertEqual(manifest["cause"], "exit_failure")
        self.assertIn("ERROR no disk", self.part(manifest, "log_important.txt"))

    def test_evidence_is_taken_before_the_replacement_starts(self):
        self.crash(evidence_command=["sh", "-c",
                                     "echo position 7 of $DEFIB_GENERATION; date +%s.%N"])
        manifest = self.manifest()
        lines = self.part(manifest, "evidence.txt").split()
        self.assertEqual(lines[:4], ["position", "7", "of", "1"])
        started = self.event(self.events("restarted"), "restarted")["started_at"]
        seconds = time.strptime(started[:19], "%Y-%m-%dT%H:%M:%S")
        restarted = __import__("calendar").timegm(seconds) + float("0" + started[19:-1])
        self.assertLess(float(lines[4]), restarted)

    def test_evidence_that_floods_or_hangs_is_bounded(self):
        self.crash(evidence_command=["sh", "-c", "yes evidence; sleep 60"], evidence_timeout="1s")
        manifest = self.manifest()
        evidence = self.part(manifest, "evidence.txt")
        self.assertGreater(len(evidence), 1000)
        self.assertLessEqual(len(evidence), 1 << 20)
        self.running("engine")

    # Nothing is made, and nothing else is different.
    def test_without_the_collector_services_go_on(self):
        place = os.path.join(self.dir, "bin")
        os.mkdir(place)
        for name in os.listdir(e2e_test.BIN):
            if name != "defib-bundle":
                os.symlink(os.path.join(e2e_test.BIN, name), os.path.join(place, name))
        os.symlink(os.path.join(e2e_test.BIN, "..", "lib"), os.path.join(self.dir, "lib"))
        script = self.script("import time\ntime.sleep(60)\n")
        shutil.copy(os.path.join(e2e_test.BIN, "defib"), os.path.join(self.dir, "copy"))
        os.unlink(os.path.join(place, "defib"))
        shutil.copy(os.path.join(self.dir, "copy"), os.path.join(place, "defib"))
        run = subprocess.Popen([os.path.join(place, "defib"), "run", "--name", "engine", "--",
                                PYTHON, script], env=self.env, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
        self.runs.append(run)
        pid = self.running("engine")["pid"]
        os.kill(pid, signal.SIGKILL)
        self.running("engine", not_pid=pid)
        self.assertEqual(glob.glob(f"{self.state}/incidents/*.bundle"), [])

    def test_bad_rules_are_found_by_check(self):
        path = self.script("[bundle]\nmax_age = \"1s\"\nmax_count = -1\nmax_total = \"1KiB\"\n"
                           "max_cuont = 5\n[service.a]\ncommand = [\"/bin/true\"]\n"
                           "evidence_timeout = \"0s\"\n", "defib.toml")
        done = self.defib("check", "-c", path)
        self.assertEqual(done.returncode, 2)
        for key in ("max_age", "max_count", "max_total", "max_cuont", "evidence_timeout"):
            self.assertIn(key, done.stderr)


# A minute is a minute.
class Minute(Crashing):
    def test_a_crash_whose_minute_is_over_is_complete(self):
        self.crash()
        manifest = self.manifest()
        done = self.manifest(seconds=80, where=lambda one: one["complete"])
        self.assertIn("restarted", json.dumps(self.part(done, "timeline.json")))
        self.assertEqual({one["name"] for one in manifest["parts"]},
                         {one["name"] for one in done["parts"]})


class Secrets(Bundles):
    SECRETS = {
        "environment": "PLANTEDenv0001", "url": "PLANTEDurl0002", "argument": "PLANTEDarg0003",
        "next argument": "PLANTEDarg0004", "line": "PLANTEDlog0005", "header": "PLANTEDhdr0006",
        "json": "PLANTEDjson0007", "query": "PLANTEDqry0008", "basic": "UExBTlRFRGJhc2ljMDAwOQ",
        "cookie": "PLANTEDcok0010", "aws": "AKIAPLANTEDKEY000011",
    }

    def test_none_is_in_the_bundle_or_the_archive(self):
        s = self.SECRETS
        script = self.script(f"""
            import ctypes, mmap, os, sys, time
            # A mapping whose file has the name of a secret, and an open file as well.
            path = {self.dir!r} + "/map-" + os.environ["API_TOKEN"]
            with open(path, "w+b") as file:
                file.write(b"x" * 4096); file.flush()
                held = mmap.mmap(file.fileno(), 4096)
            kept = open(path)
            print("ERROR password={s['line']} refused", file=sys.stderr)
            print("> Authorization: Bearer {s['header']}")
            print('WARN {{"apiKey":"{s['json']}","n":1}}')
            print("GET https://v/x?symbol=A&signature={s['query']}")
            print("Authorization: Basic {s['basic']}")
            print("Set-Cookie: session={s['cookie']}; Path=/")
            print("using {s['aws']} now")
            print("again", os.environ["API_TOKEN"], flush=True)
            if os.path.exists(sys.argv[1]): time.sleep(60)
            open(sys.argv[1], "w").close()
            time.sleep(0.2)
            ctypes.string_at(8)
        """)
        self.env["DATABASE_URL"] = f"postgres://joe:{s['url']}@db/x"
        self.env["API_TOKEN"] = s["environment"]
        self.run_service([PYTHON, script, os.path.join(self.dir, "once"),
                          f"--secret={s['argument']}", "--password", s["next argument"]],
                         evidence_command=["sh", "-c", "env; exit 1"])
        manifest = self.manifest()
        self.assertGreater(manifest["redacted"], 10)
        out = os.path.join(self.dir, "x.tar.zst")
        self.assertEqual(self.defib("export", "latest", "--out", out).returncode, 0)
        files, _ = self.unpack(out)
        for name in os.listdir(manifest["dir"]):
            with open(os.path.join(manifest["dir"], name), "rb") as file:
                files[f"in place: {name}"] = file.read()
        # The names say that there was something.
        process = files["in place: process.json"].decode()
        self.assertIn('"API_TOKEN": "[redacted]"', process)
        self.assertIn("postgres://joe:[redacted]@db/x", process)
        self.assertIn("map-[redacted]", files["in place: maps.txt"].decode())
        self.assertIn("evidence.txt", "".join(files))
        for what, secret in s.items():
            for name, content in files.items():
                self.assertNotIn(secret.encode(), content, f"{what} in {name}")


    # Output is redacted when an incident quotes it; what the service itself reports stays as it is
    # in the incident, and is redacted when that goes out.
    def test_an_incident_that_quotes_a_secret_is_exported_without_it(self):
        self.env["API_TOKEN"] = "PLANTEDenv0012"
        script = self.script("""
            import os, socket, sys, time
            print("using", os.environ["API_TOKEN"], file=sys.stderr, flush=True)
            if not os.path.exists(sys.argv[1]):
                open(sys.argv[1], "w").close()
                time.sleep(0.5)
                sys.exit(3)
            notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            event = '{"event":"connected","how":"by ' + os.environ["API_TOKEN"] + '"}'
            name = os.environ["NOTIFY_SOCKET"]
            notify.connect("\\0" + name[1:] if name[0] == "@" else name)
            notify.send(("X_DEFIB_EVENT=" + event).encode())
            time.sleep(60)
        """)
        self.begin("run", "--name", "job", "--", PYTHON, script, os.path.join(self.dir, "once"))
        self.manifest()
        by_event = {one["event"]: one for one in self.events("connected", "output")}
        self.assertIn("PLANTEDenv0012", json.dumps(by_event.pop("connected")))
        self.assertIn("using [redacted]", by_event["output"]["tail"])
        self.assertNotIn("PLANTEDenv0012", json.dumps(by_event))
        del self.env["API_TOKEN"]
        out = os.path.join(self.dir, "x.tar.zst")
        self.assertEqual(self.defib("export", "latest", "--out", out).returncode, 0)
        files, _ = self.unpack(out)
        self.assertTrue(files)
        for name, content in files.items():
            self.assertFalse(name.endswith(".jsonl"), "its chain cannot be checked, so it stays")
            self.assertFalse(os.path.basename(name).startswith("."), name)
            self.assertNotIn(b"PLANTEDenv0012", content, name)
        for form in ("html", "text", "json"):
            shown = self.defib("report", "latest", "--format", form, "--out", "-").stdout
            self.assertIn("[redacted]", shown)
            self.assertNotIn("PLANTEDenv0012", shown)


class Many(Bundles):
    # All at once, and each is replaced, whatever the bundles do.
    def test_thirty_crash_in_the_same_second(self):
        count = int(os.environ.get("DEFIB_CRASHES", "30"))
        script = self.script("""
            import ctypes, os, sys, time
            go = sys.argv[1]
            once = sys.argv[2]
            if os.path.exists(once): time.sleep(300)
            while not os.path.exists(go): time.sleep(0.05)
            open(once, "w").close()
            ctypes.string_at(8)
        """)
        go = os.path.join(self.dir, "go")
        text = f'[defib]\nstate_dir = "{self.state}"\n'
        for i in range(count):
            text += (f'[service.s{i}]\ncommand = ["{PYTHON}", "{script}", "{go}", '
                     f'"{self.dir}/once{i}"]\n')
        path = self.script(text, "defib.toml")
        self.begin("daemon", "-c", path, "--log-level", "error")

        def states():
            services = self.json("status")["services"]
            good = len(services) == count and all(one["state"] == "running" and one["pid"]
                                                  for one in services)
            return services if good else None
        before = {one["name"]: one["pid"] for one in self.until(states, 60, "all running")}
        open(go, "w", encoding="ascii").close()

        def replaced():
            services = states()
            return services and all(one["pid"] != before[one["name"]] for one in services)
        self.until(replaced, 60, "all replaced")
        self.until(lambda: len(glob.glob(f"{self.state}/incidents/*.bundle/1/manifest.json"))
                   == count, 120, "a bundle of each")
        whole = 0
        for name in glob.glob(f"{self.state}/incidents/*.bundle/1/manifest.json"):
            with open(name, encoding="utf-8") as file:
                manifest = json.load(file)
            reasons = {one["name"]: one["why"] for one in manifest["missing"]}
            self.assertEqual({part["name"] for part in manifest["parts"]} | set(reasons), PARTS)
            whole += "crash.json" not in reasons
        # A capture that could not be had in time is told; most are there.
        self.assertGreaterEqual(whole, count // 2)
        self.assertTrue(all(is_alive(one["pid"]) for one in states()))


if __name__ == "__main__":
    e2e_test.BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main()
