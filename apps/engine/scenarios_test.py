#!/usr/bin/env python3
"""The five common scenarios, from the fault to the gate and back to full trading; and a ledger that
was damaged.

    scenarios_test.py BIN_DIR [unittest arguments]

Each: a reference engine under `defib daemon` trades against the paper venue; a real fault happens in
its process; all the rest is asked of the public command line and of the venue's own ledger.
"""

import glob
import json
import os
import secrets
import signal
import subprocess
import sys
import unittest
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "defib"))
import e2e_test
from e2e_test import free_port, is_alive

KEY = "paperkey"
STEPS = ["analyze", "safety_checks", "load_state", "reconcile_positions", "recover_open_orders",
         "health_without_trading", "risk_checks", "market_check", "gradual_resume",
         "report_and_notify"]
CONFIG = """
[defib]
state_dir = "{state}"

[venue]
url = "http://127.0.0.1:{port}"
api_key = "env:PAPER_API_KEY"
api_secret = "file:{dir}/secret"
visibility_lag_ms = 200
timeout = "1s"
rate_capacity = 0
symbols = ["BTCUSDT", "ETHUSDT", "SOLUSDT"]

[trading]
owner = "eng"
strategies = ["maker", "trend", "reversion"]
checkpoint_every = "200ms"

[trading.limits]
max_order_notional = "1000"
max_exposure = "1000000"
max_open_orders = 200
max_orders_per_second = 400

[trading.ramp]
check_after = "100ms"
settle = "100ms"
watch = "200ms"
check_every = "100ms"

[runbook.builtin.safety_checks]
timeout = "10s"

[bundle]
max_count = 50

[engine]
tick = "50ms"
retry_recovery = "200ms"
max_order_age = "700ms"
order_notional = "50"

[service.engine]
command = ["{bin}/engine", "--config", "{dir}/defib.toml", "--state-dir", "{state}", "--fault-file", "{dir}/fault"]
env = {{ PAPER_API_KEY = "{key}" }}
capture_timeout = "5s"          # also on a machine that has much else to do
restart_delay = "100ms"
"""

# Whatever replaces a crashed engine watches until a person approves.
WATCHES = {"monitoring_after": 1}


class World(e2e_test.Service):
    def setUp(self):
        super().setUp()
        self.ledger = os.path.join(self.dir, "venue.jsonl")
        self.port, self.admin = free_port(), free_port()
        self.venue = None
        self.script(secrets.token_hex(32), "secret")
        os.chmod(os.path.join(self.dir, "secret"), 0o600)

    def tearDown(self):
        super().tearDown()
        self.end_venue()

    # ---- The world.

    def start_venue(self):
        self.venue = subprocess.Popen(
            [os.path.join(e2e_test.BIN, "paper-venue"), "--port", str(self.port), "--admin-port",
             str(self.admin), "--ledger", self.ledger, "--seed", "7", "--api-key", KEY,
             "--api-secret-file", os.path.join(self.dir, "secret"), "--weight-limit", "0",
             "--order-limit", "0"], stdout=subprocess.PIPE, text=True)
        self.assertIn("paper_venue", self.venue.stdout.readline())

    def end_venue(self):
        if self.venue:
            self.venue.kill()
            self.venue.wait()
            self.venue.stdout.close()
            self.venue = None

    def tell_venue(self, path, document):
        request = urllib.request.Request(f"http://127.0.0.1:{self.admin}{path}", method="POST",
                                         data=json.dumps(document).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def venue_events(self, kind):
        with open(self.ledger, encoding="utf-8") as file:
            events = [json.loads(line) for line in file if line.endswith("\n")]
        return [event for event in events if event.get("event") == kind]

    def begin_trading(self, **keys):
        self.start_venue()
        text = CONFIG.format(state=self.state, dir=self.dir, port=self.port, bin=e2e_test.BIN,
                             key=KEY)
        text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        self.config = self.script(text, "defib.toml")
        self.daemon = self.begin("daemon", "-c", self.config)
        self.first = self.running("engine")
        self.until(lambda: len(self.venue_events("order")) > 3, what="orders at the venue")

    def inject(self, fault):
        path = os.path.join(self.dir, "fault")
        with open(path + ".new", "w", encoding="ascii") as file:
            file.write(fault)
        os.rename(path + ".new", path)

    def until_service(self, fits, what):
        def look():
            now = self.service("engine")
            return now if now and fits(now) else None
        return self.until(look, 30, what)


class Scenarios(World):
    # ---- What the incident says.

    def incident(self):
        listed = self.json("incidents")["incidents"]
        return self.json("incident", "show", listed[0]["id"]) if listed else None

    def events(self, name):
        incident = self.incident()
        return [] if incident is None else [entry for entry in incident["timeline"]
                                            if entry["event"] == name]

    def event(self, name):
        return self.until(lambda: self.events(name), 30, f"the event {name}")[-1]

    # The process fails, the supervisor sees it, copies what it was, and says why.
    def failed(self, cause, subtypes, function):
        self.event("captured")
        self.event("classified")
        replacement = self.until_service(
            lambda now: now["pid"] not in (None, self.first["pid"]), "a replacement")
        incident = self.incident()
        events = self.check_incident(incident)
        for event in ("detected", "captured", "classified", "restarted"):
            self.assertIn(event, events)
        found = incident["classification"]
        self.assertEqual(found["cause"], cause, found)
        self.assertIn(found["subtype"], subtypes)
        frames = [frame["function"] or "" for thread in incident["threads"]
                  for frame in thread["frames"]]
        self.assertTrue([name for name in frames if function in name], frames)
        self.assertFalse(is_alive(self.first["pid"]))
        self.assertEqual(self.events("restarted")[-1]["pid"], replacement["pid"])
        return replacement

    # The ten steps, reconciliation, and the gate, which asks for a person.
    def held_at_the_gate(self):
        def only_the_start_mode():
            asked = self.events("approval_required")
            return asked and asked[-1]["content"]["asked_because"] == ["start_mode"] and asked[-1]
        plan = self.until(only_the_start_mode, 30, "a gate that only asks for a person")
        timeline = self.incident()["timeline"]
        begun = max(index for index, entry in enumerate(timeline)
                    if entry["event"] == "trading_recovery_started")
        self.recovery = timeline[begun]
        self.assertEqual(self.recovery["start_mode"], "monitoring")
        self.assertEqual(self.recovery["previous_end"], "crash")
        self.until(lambda: self.events("trading_report"), what="the report")
        done = [entry for entry in self.incident()["timeline"][begun - 1:]
                if entry["event"] == "stage_finished"]
        self.assertEqual([(entry["stage"], entry["outcome"]) for entry in done],
                         [(step, "completed") for step in STEPS])
        reconciled = self.events("reconciled")[-1]
        self.assertEqual((reconciled["unexplained"], reconciled["duplicates"]), (0, 0))
        self.assertTrue(reconciled["stable"])
        text = f"no order leaves until a person approves: start_mode ({plan['plan']})"
        status = self.until_service(lambda now: now["status_text"] == text, text)
        self.check_status(status)
        self.assertEqual(status["state"], "monitoring")
        self.explained(self.events("decision")[-1])
        return plan

    # The verdict has its reasons, and follows from its own evidence, here and offline.
    def explained(self, decision):
        self.assertEqual((decision["verdict"], decision["rule"]), ("need_approval", "start_mode"))
        finding = [one for one in decision["findings"] if one["rule"] == "start_mode"][0]
        self.assertEqual(finding["input"], "started in monitoring")
        path = os.path.join(self.state, "incidents", self.incident()["id"] + ".jsonl")
        for more in ([], ["--from", path]):
            done = self.defib("explain", decision["id"], "--json", *more)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            answer = json.loads(done.stdout)
            self.assertTrue(answer["reproduced"])
            self.assertEqual(answer["rule"], "start_mode")

    # A person approves; the ramp leads to full trading; the incident ends.
    def approved_and_ramped_up(self, plan):
        nobody = self.defib("approve", plan["plan"], "--by", "")
        self.assertNotEqual(nobody.returncode, 0)
        done = self.defib("approve", plan["plan"], "--by", "Ada Lovelace")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.running("engine")
        incident = self.closed_incident()
        events = self.check_incident(incident)
        self.assertEqual(incident["outcome"], "recovered")
        used = [entry for entry in incident["timeline"] if entry["event"] == "approval_used"]
        self.assertEqual([(one["plan"], one["by"]) for one in used],
                         [(plan["plan"], "Ada Lovelace")])
        ramp = [(entry["percent"], entry["max_risk"]) for entry in incident["timeline"]
                if entry["event"] == "ramp_step"]
        self.assertEqual(ramp, [(50, "low"), (75, "medium"), (100, "high")])
        order = [events.index(name) for name in ("detected", "trading_recovery_started", "decision",
                                                 "approval_used", "ramp_proof", "ramp_step",
                                                 "first_order", "ramp_completed", "closed")]
        self.assertEqual(order, sorted(order))
        self.nothing_left_before(used[0]["at"])
        return incident

    # By the venue's ledger: of the replacement's boot there is no order before the approval.
    def nothing_left_before(self, approved_at):
        digits, value = "", self.recovery["epoch"]
        while value:
            digits, value = "0123456789abcdefghijklmnopqrstuvwxyz"[value % 36] + digits, value // 36
        prefix = "eng" + digits.rjust(5, "0")
        mine = [event["at_us"] for event in self.venue_events("order")
                if event["client_id"].startswith(prefix)]
        self.assertTrue(mine, "the replacement trades")
        seconds = __import__("datetime").datetime.fromisoformat(approved_at[:26] + "+00:00")
        self.assertGreater(min(mine), seconds.timestamp() * 1e6)

    # The incident as a report in every form, and unchanged.
    def reported(self, incident):
        out = os.path.join(self.dir, "report")
        for form, start in (("html", b"<!"), ("pdf", b"%PDF-"), ("json", b"{")):
            done = self.defib("report", incident["id"], "--format", form, "--out", f"{out}.{form}")
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(f"{out}.{form}", "rb") as file:
                self.assertTrue(file.read().startswith(start), form)
        with open(out + ".html", encoding="utf-8") as file:
            page = file.read()
        for word in (incident["cause"], "Ada Lovelace", "ramp_completed", "RTS 6", "reconciled"):
            self.assertIn(word, page)
        with open(out + ".json", encoding="utf-8") as file:
            self.assertEqual(json.load(file)["incident"]["head_hash"], incident["head_hash"])
        listed = self.json("incidents")["incidents"][0]
        self.assertEqual((listed["cause"], listed["outcome"]), (incident["cause"], "recovered"))

    # Every intent of the engine against the venue's ledger: nothing lost, nothing doubled.
    def proved(self):
        trade = os.path.join(e2e_test.BIN, "defib-trade")

        def intents():
            done = subprocess.run([trade, "intents"], env=self.env, text=True, timeout=30,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
            return done.stdout
        self.defib("stop", "engine")
        self.daemon.terminate()
        self.assertEqual(self.daemon.wait(20), 0)
        path = self.script(intents(), "intents.txt")
        done = subprocess.run([os.path.join(e2e_test.BIN, "paper-venue"), "audit", self.ledger,
                               "--intents", path, "--json"], text=True, timeout=30,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        audit = json.loads(done.stdout)
        self.assertEqual(done.returncode, 0, audit)
        self.assertGreater(audit["intents"], 3)

    def settles(self, plan):
        incident = self.approved_and_ramped_up(plan)
        self.reported(incident)
        self.proved()

    # ---- The scenarios.

    def test_segmentation_fault(self):
        self.begin_trading(**WATCHES)
        self.inject("segv@request_sent:2")
        self.failed("null_dereference", ["", "read", "write"], "dereference_null")
        self.settles(self.held_at_the_gate())

    def test_out_of_memory(self):
        self.begin_trading(**WATCHES)
        self.inject("leak@tick")
        self.failed("out_of_memory", ["allocator"], "leak")
        self.settles(self.held_at_the_gate())

    def test_deadlock(self):
        self.begin_trading(heartbeat_timeout="1s", **WATCHES)
        self.inject("deadlock@intent_durable:2")
        self.failed("deadlock", ["lock_cycle"], "deadlock")
        self.settles(self.held_at_the_gate())

    def test_assertion(self):
        self.begin_trading(**WATCHES)
        self.inject("assert@outcome_recorded:2")
        self.failed("assertion_failure", ["", "assert"], "fail")
        self.settles(self.held_at_the_gate())

    # The venue takes an order and says nothing more; then the engine dies, and while it is brought
    # back there is no venue to ask.
    def test_exchange_disconnect_during_a_crash(self):
        self.begin_trading(**WATCHES)
        self.tell_venue("/paper/faults", {"kind": "drop_reply", "method": "POST",
                                          "path": "/api/v3/order", "name": "gone"})
        self.until(lambda: self.venue_events("fault"), what="an order without a reply")
        self.end_venue()
        self.inject("disconnect@tick")
        self.failed("null_dereference", ["", "read", "write"], "dereference_null")
        failed = self.until(lambda: [entry for entry in self.events("stage_finished")
                                     if entry["outcome"] == "failed"], what="a failed recovery")
        self.assertEqual(failed[0]["stage"], "safety_checks")
        self.assertEqual(failed[0]["error"]["kind"], "VenueUnreachable")
        status = self.until_service(lambda now: now["state"] == "monitoring",
                                    "monitoring without a venue")
        self.assertIn("recovery failed, next attempt in", status["status_text"])
        self.start_venue()
        plan = self.held_at_the_gate()
        incident = self.incident()
        unknown = {entry["id"] for entry in incident["timeline"]
                   if entry["event"] == "intent_unknown"}
        self.assertTrue(unknown, "the order without a reply is UNKNOWN")
        self.settles(plan)
        settled = {entry["id"]: entry["state"] for entry in self.incident()["timeline"]
                   if entry["event"] == "intent_settled"}
        corrected = {entry["subject"] for entry in self.incident()["timeline"]
                     if entry["event"] == "discrepancy" and entry["explained"]}
        self.assertFalse(unknown - set(settled) - corrected, "every one is found or settled")


class Damage(World):
    """A ledger that was damaged: the engine comes up, says so, and trades nothing."""

    def kill_all(self):
        before = self.service("engine")
        self.daemon.kill()
        self.daemon.wait()
        for pid in (before["shim_pid"], before["pid"]):
            os.kill(pid, signal.SIGKILL)
        self.until(lambda: not is_alive(before["pid"]), what="the engine's end")

    # One byte in the middle of each log segment that holds anything.
    def flip(self, store):
        flipped = 0
        for path in glob.glob(os.path.join(store, "wal", "*")):
            with open(path, "rb") as file:
                used = len(file.read().rstrip(b"\0"))
            if used < 10000:
                continue
            with open(path, "r+b") as file:
                file.seek(used // 2)
                byte = file.read(1)
                file.seek(used // 2)
                file.write(bytes([byte[0] ^ 0x10]))
                flipped += 1
        self.assertGreater(flipped, 0)

    def test_holds_until_a_person_has_walked_the_manual_procedure(self):
        self.begin_trading()
        store = os.path.join(self.state, "trading")
        self.until(lambda: len(self.venue_events("order")) > 60, what="a log worth damaging")
        self.kill_all()
        self.flip(store)
        orders = len(self.venue_events("order"))
        self.daemon = self.begin("daemon", "-c", self.config)
        status = self.until_service(lambda now: "damaged" in (now["status_text"] or ""),
                                    "the engine says what is damaged")
        self.assertEqual(status["state"], "monitoring")
        for part in ("WalCorrupted", "defib store verify", "defib store repair"):
            self.assertIn(part, status["status_text"])
        with open(store + ".damage.json", encoding="utf-8") as file:
            damage = json.load(file)
        self.assertIn(damage["incident"], status["status_text"])
        # The gate's decision and its reason, reproduced without the store.
        path = os.path.join(self.state, "incidents", damage["incident"] + ".jsonl")
        explained = self.json("explain", "state_damage", "--from", path)
        self.assertEqual((explained["verdict"], explained["rule"], explained["reproduced"]),
                         ("refuse", "state_damage", True))
        self.assertIn("WalCorrupted", [one for one in explained["findings"]
                                       if one["rule"] == "state_damage"][0]["input"])
        self.assertEqual(self.json("incident", "show", damage["incident"])["outcome"], "open")
        dry = subprocess.run([os.path.join(e2e_test.BIN, "engine"), "--config", self.config,
                              "--state-dir", self.state, "--no-trading"], text=True,
                             env={**self.env, "PAPER_API_KEY": KEY}, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, timeout=30, check=False)
        self.assertEqual(dry.returncode, 1)
        self.assertIn("WalCorrupted", dry.stderr)

        # The operator does what the text says. The repaired ledger may lack what it knew: the gate
        # stays shut.
        self.defib("store", "repair", store, "--to", store + ".new")
        os.rename(store, store + ".old")
        os.rename(store + ".new", store)
        restarted = self.defib("restart", "engine")
        self.assertEqual(restarted.returncode, 0, restarted.stderr)
        self.until_service(lambda now: "state_damage" in (now["status_text"] or ""),
                           "the gate after the repair")
        self.assertEqual(self.service("engine")["state"], "monitoring")
        self.assertEqual(len(self.venue_events("order")), orders, "nothing has traded")

        manual = ("checklist", "--manual", damage["incident"], "--by", "Ada Lovelace")
        opened = self.defib(*manual, "--json")
        self.assertEqual(opened.returncode, 3, opened.stderr)
        answers = [word for key in json.loads(opened.stdout)["open_before_trading"]
                   for word in ("--answer", key + "=yes:seen to")]
        answered = self.defib(*manual, *answers, "--json")
        self.assertEqual(json.loads(answered.stdout)["open_before_trading"], [], answered.stderr)

        # What the repair has lost is shown to a person, who approves the plan.
        def trades_again():
            now = self.service("engine")
            if now["state"] == "awaiting_approval":
                self.defib("approve", "latest", "--by", "Ada Lovelace")
            return now["state"] == "running"
        self.until(trades_again, 40, "full trading")
        self.assertFalse(os.path.exists(store + ".damage.json"))
        self.assertEqual(self.json("incident", "show", damage["incident"])["outcome"], "recovered")
        # No id of a forgotten boot is used again.
        self.until(lambda: len(self.venue_events("order")) > orders, what="orders again")
        ids = [event["client_id"] for event in self.venue_events("order")]
        self.assertEqual(len(ids), len(set(ids)))
        self.assertGreater(int(ids[-1][3:8], 36), 1_000_000)


class Accounts(World):
    """A second account of the configuration, beside the one that the engine trades on."""

    def test_every_account_is_reconciled_and_a_dead_venue_holds_up_no_other(self):
        self.begin_trading()
        first, admin = self.venue, self.admin
        self.ledger = os.path.join(self.dir, "second.jsonl")
        self.port, self.admin = free_port(), free_port()
        self.start_venue()
        self.addCleanup(first.stdout.close)
        self.addCleanup(first.wait)
        self.addCleanup(first.kill)
        with open(self.config, "a", encoding="utf-8") as file:
            file.write(f"""
[[venues]]
name = "second"
url = "http://127.0.0.1:{self.port}"
api_key = "env:PAPER_API_KEY"
api_secret = "file:{self.dir}/secret"
visibility_lag_ms = 200
timeout = "1s"
rate_capacity = 0
symbols = ["BTCUSDT"]
""")
        self.env["PAPER_API_KEY"] = KEY
        common = ("-c", self.config, "--json")

        def reconciled():
            done = self.defib("reconcile", *common)
            return done.returncode, json.loads(done.stdout)
        code, found = reconciled()
        self.assertEqual(code, 1)
        self.assertEqual([one["account"] for one in found["unread"]], ["second"])
        self.assertIn("defib recover --venue second", found["unread"][0]["error"]["suggested_action"])
        recovered = self.defib("recover", "--venue", "second", *common)
        self.assertIn(recovered.returncode, (0, 3), recovered.stdout)
        # The first one trades on meanwhile; what is told of it is explained, at each moment.
        for _ in range(20):
            code, found = reconciled()
            self.assertEqual((code, found["unread"]), (0, []), found)
        self.tell_venue("/paper/external-order", {"symbol": "BTCUSDT", "side": "BUY",
                                                  "quantity": "0.01", "price": "30000"})
        code, found = reconciled()
        self.assertEqual(code, 1)
        self.assertEqual({one["account"] for one in found["discrepancies"] if not one["explained"]},
                         {"second"})
        # The second venue dies: the first is compared all the same, and killed all the same.
        self.end_venue()
        code, found = reconciled()
        self.assertEqual(code, 1)
        self.assertEqual([one["account"] for one in found["unread"]], ["second"])
        self.assertEqual(found["unread"][0]["error"]["kind"], "VenueUnreachable")
        killed = self.defib("kill", "--all", "--by", "Ada Lovelace", "--reason", "drill", *common)
        self.assertEqual(killed.returncode, 1)
        outcomes = {one["venue"]: one for one in json.loads(killed.stdout)["venues"]}
        self.assertTrue(outcomes["binance"]["verified"])
        self.assertFalse(outcomes["second"]["verified"])
        with urllib.request.urlopen(f"http://127.0.0.1:{admin}/paper/state", timeout=10) as answer:
            self.assertEqual(json.load(answer)["open_orders"], 0)


if __name__ == "__main__":
    e2e_test.BIN = os.path.abspath(sys.argv.pop(1))
    unittest.main()
