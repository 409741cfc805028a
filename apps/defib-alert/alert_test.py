#!/usr/bin/env python3
"""Alerts end to end: real services, a real daemon, real receivers on loopback.

    alert_test.py BIN_DIR [unittest arguments]

The receivers are started by the tests: HTTP ones that take, refuse, stall or are not there, and an
SMTP server with STARTTLS. DEFIB_ALERT_ROUNDS (default 12) random kills of sender and daemon.
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "defib"))
import e2e_test
from e2e_test import free_port, is_alive

SECRET = "correct-horse-battery"
ROUNDS = int(os.environ.get("DEFIB_ALERT_ROUNDS", "12"))


class HttpReceiver:
    """Keeps what it is sent. `answer(request)` gives the status, or None to never answer."""

    def __init__(self, answer=lambda request: 200, port=0):
        self.received = []
        self.lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                arrived = time.time()
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = {"path": self.path, "headers": dict(self.headers), "raw": body,
                           "body": json.loads(body), "at": arrived}
                status = answer(request)
                with receiver.lock:
                    receiver.received.append({**request, "status": status})
                if status is None:
                    receiver.stop_event.wait(30)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request, client_address):
                pass

        self.stop_event = threading.Event()
        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def bodies(self, status=200):
        with self.lock:
            return [r["body"] for r in self.received if r["status"] == status]

    def stop(self):
        self.stop_event.set()
        self.server.shutdown()
        self.server.server_close()


class SmtpReceiver:
    """An SMTP server with STARTTLS and AUTH PLAIN or LOGIN; `offers_tls=False` has none of it."""

    def __init__(self, directory, offers_tls=True):
        self.mails = []
        self.plaintext_auth = False
        self.offers_tls = offers_tls
        self.certificate = os.path.join(directory, "cert.pem")
        key = os.path.join(directory, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key,
                        "-out", self.certificate, "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
                       check=True, stderr=subprocess.DEVNULL)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        try:
            self.converse(connection)
        except (OSError, ssl.SSLError):
            pass

    def converse(self, connection):
        connection.settimeout(20)
        stream = connection.makefile("rwb")
        secure = False
        user = sender = None
        recipients = []

        def say(text):
            stream.write(text.encode() + b"\r\n")
            stream.flush()

        say("220 localhost ESMTP")
        while True:
            line = stream.readline().decode().strip()
            if not line:
                return
            word = line.split()[0].upper()
            if word in ("EHLO", "HELO"):
                if secure:
                    say("250-localhost\r\n250-8BITMIME\r\n250 AUTH PLAIN LOGIN")
                elif self.offers_tls:
                    say("250-localhost\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS")
                else:
                    say("250-localhost\r\n250 AUTH PLAIN LOGIN")
            elif word == "STARTTLS":
                say("220 go ahead")
                connection = self.context.wrap_socket(connection, server_side=True)
                stream = connection.makefile("rwb")
                secure = True
            elif word == "AUTH":
                self.plaintext_auth = self.plaintext_auth or not secure
                parts = line.split()
                if parts[1].upper() == "PLAIN":
                    if len(parts) < 3:
                        say("334 ")
                        parts.append(stream.readline().decode().strip())
                    _, user, password = base64.b64decode(parts[2]).decode().split("\0")
                else:
                    say("334 " + base64.b64encode(b"Username:").decode())
                    user = base64.b64decode(stream.readline()).decode()
                    say("334 " + base64.b64encode(b"Password:").decode())
                    password = base64.b64decode(stream.readline()).decode()
                say("235 ok" if password == SECRET else "535 no")
            elif word == "MAIL":
                sender = line
                say("250 ok")
            elif word == "RCPT":
                recipients.append(line)
                say("250 ok")
            elif word == "DATA":
                say("354 go")
                lines = []
                while True:
                    piece = stream.readline().decode()
                    if piece == ".\r\n":
                        break
                    lines.append(piece)
                self.mails.append({"secure": secure, "user": user, "from": sender,
                                   "to": recipients, "text": "".join(lines)})
                say("250 ok")
            elif word == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")

    def stop(self):
        self.listener.close()


class Alerting(e2e_test.Service):
    def setUp(self):
        super().setUp()
        self.env["ALERT_SECRET"] = SECRET
        self.receivers = []

    def tearDown(self):
        super().tearDown()
        for receiver in self.receivers:
            receiver.stop()

    def receiver(self, *arguments, **more):
        made = HttpReceiver(*arguments, **more)
        self.receivers.append(made)
        return made

    def configure(self, alerts, services):
        path = os.path.join(self.dir, "defib.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(alerts + services)
        return path

    def daemon(self, alerts, services=None):
        if services is None:
            services = '[service.a]\ncommand = ["sleep", "1000"]\ncapture = "none"\n'
        self.config = self.configure(alerts, services)
        with open(os.path.join(self.dir, "daemon.log"), "ab") as log:
            run = subprocess.Popen([os.path.join(e2e_test.BIN, "defib"), "daemon", "-c",
                                    self.config],
                                   env=self.env, stdout=subprocess.DEVNULL, stderr=log)
        self.runs.append(run)
        self.until(lambda: os.path.exists(os.path.join(self.state, "control.sock")) and
                   self.defib("status").returncode == 0, what="the daemon")
        return run

    def kill_service(self, name="a"):
        service = self.running(name)
        at = time.time()
        os.kill(service["pid"], signal.SIGKILL)
        return at, service["pid"]

    def sender_pid(self):
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read().split(b"\0")
            except OSError:
                continue
            if (len(words) > 3 and words[0].endswith(b"defib-alert") and words[1] == b"send" and
                    self.state.encode() in words):
                return int(entry)
        return None

    def everything_written(self):
        """All files of the state directory, the daemon's log, and every command line of ours."""
        text = b""
        for directory, _, names in os.walk(self.state):
            for name in names:
                path = os.path.join(directory, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as file:
                        text += file.read()
        with open(os.path.join(self.dir, "daemon.log"), "rb") as file:
            return text + file.read()


def webhook(port, more="", name="hook"):
    return (f'[alert.{name}]\nkind = "webhook"\nurl = "http://127.0.0.1:{port}/hook"\n{more}\n')


class Delivery(Alerting):
    def test_the_first_alert_arrives_within_100_ms_signed_and_its_end_follows(self):
        receiver = self.receiver()
        services = "".join(f'[service.{name}]\ncommand = ["sleep", "1000"]\ncapture = "none"\n'
                           for name in "abc")
        self.daemon(webhook(receiver.port, 'secret = "env:ALERT_SECRET"\ntoken = "env:ALERT_SECRET"'),
                    services)
        took = []
        for count, name in enumerate("abc", 1):
            killed, _ = self.kill_service(name)
            firing = self.until(lambda count=count: (lambda found: found if len(found) >= count
                                                     else None)(
                [r for r in receiver.received if r["body"]["status"] == "firing"]), what="an alert")
            took.append((firing[count - 1]["at"] - killed) * 1000)
        print("  kill to the receiver: " + ", ".join(f"{t:.1f}" for t in took) + " ms",
              file=sys.stderr)
        # The best of three: other work on the machine only adds to it.
        self.assertLess(min(took), 100)
        first = receiver.received[0]
        body = first["body"]
        self.assertEqual(body["schema"], "defib.alert/1")
        self.assertEqual((body["status"], body["service"], body["cause"]),
                         ("firing", "a", "killed_externally"))
        self.assertEqual(first["headers"]["X-Defib-Message-Id"], body["id"])
        self.assertEqual(first["headers"]["Authorization"], "Bearer " + SECRET)
        signed = first["headers"]["X-Defib-Timestamp"].encode() + b"." + first["raw"]
        expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        self.assertEqual(first["headers"]["X-Defib-Signature"], "sha256=" + expected)
        incident = self.json("incident", "show", body["incident"])
        self.assertEqual(incident["service"], "a")
        verified = self.defib("verify", body["incident"], "--head", body["head_hash"])
        self.assertEqual(verified.returncode, 0, verified.stdout + verified.stderr)
        end = self.until(lambda: [b for b in receiver.bodies() if b["status"] == "resolved"])[0]
        self.assertEqual(end["alert"], body["alert"])
        self.assertNotEqual(end["id"], body["id"])
        self.until(lambda: self.sender_pid() is None, what="the end of the idle sender")

    def test_secrets_stand_nowhere(self):
        receiver = self.receiver(lambda request: 500)
        secret_url = os.path.join(self.dir, "url")
        with open(secret_url, "w", encoding="utf-8") as file:
            file.write(f"http://127.0.0.1:{free_port()}/{SECRET}\n")
        os.chmod(secret_url, 0o600)
        self.daemon(webhook(receiver.port, 'secret = "env:ALERT_SECRET"') +
                    '[alert.hidden]\nkind = "webhook"\nurl = "file:url"\n')
        self.kill_service()
        seen = set()

        def tried():
            pid = self.sender_pid()
            if pid:
                try:
                    with open(f"/proc/{pid}/cmdline", "rb") as file:
                        seen.add(file.read())
                except OSError:
                    pass
            log = os.path.join(self.state, "alerts", "sender.log")
            if not os.path.exists(log):
                return False
            with open(log, encoding="utf-8") as file:
                text = file.read()
            return "receiver=hook" in text and "receiver=hidden" in text
        self.until(tried, what="failed attempts in the log")
        self.assertNotIn(SECRET.encode(), self.everything_written())
        self.assertTrue(all(SECRET.encode() not in line for line in seen))
        listed = self.defib("alert", "list", "--json")
        self.assertNotIn(SECRET, listed.stdout + listed.stderr)
        self.assertIn("status 500", listed.stdout)

    def test_alertmanager_gets_its_list_and_the_end(self):
        receiver = self.receiver()
        self.daemon(webhook(receiver.port, 'format = "alertmanager"').replace("/hook\"", "/\""))
        self.kill_service()
        self.until(lambda: len(receiver.bodies()) >= 2, what="beginning and end")
        fired, ended = receiver.bodies()[:2]
        self.assertEqual(receiver.received[0]["path"], "/api/v2/alerts")
        self.assertEqual(fired[0]["labels"], ended[0]["labels"])
        self.assertEqual(fired[0]["labels"]["service"], "a")
        self.assertEqual(fired[0]["startsAt"], ended[0]["startsAt"])
        self.assertGreater(fired[0]["endsAt"], fired[0]["startsAt"])
        self.assertLess(ended[0]["endsAt"], fired[0]["endsAt"])
        self.assertTrue(fired[0]["annotations"]["incident"])

    def test_mail_goes_out_over_starttls_with_a_login(self):
        mail = SmtpReceiver(self.dir)
        self.receivers.append(mail)
        self.daemon(f'[alert.mail]\nkind = "email"\nserver = "smtp://localhost:{mail.port}"\n'
                    f'ca_file = "{mail.certificate}"\nuser = "env:ALERT_SECRET"\n'
                    'password = "env:ALERT_SECRET"\nfrom = "defib@example.org"\n'
                    'to = ["ops@example.org", "dev@example.org"]\n')
        self.kill_service()
        self.until(lambda: len(mail.mails) >= 2, what="two mails")
        first = mail.mails[0]
        self.assertTrue(first["secure"])
        self.assertEqual(first["user"], SECRET)
        self.assertFalse(mail.plaintext_auth)
        self.assertIn("<defib@example.org>", first["from"])
        self.assertEqual(len(first["to"]), 2)
        self.assertIn("Subject: [warning] a: killed_externally\r\n", first["text"])
        self.assertIn("defib alert ack", first["text"])
        self.assertIn("[resolved] a", mail.mails[1]["text"])
        self.assertNotIn(SECRET.encode(), self.everything_written())

    def test_mail_is_never_sent_without_tls_nor_to_an_unknown_certificate(self):
        bare = SmtpReceiver(self.dir, offers_tls=False)
        self.receivers.append(bare)
        mail = '[alert.{0}]\nkind = "email"\nserver = "smtp://localhost:{1}"\n{2}' \
               'user = "env:ALERT_SECRET"\npassword = "env:ALERT_SECRET"\n' \
               'from = "defib@example.org"\nto = ["ops@example.org"]\n'
        stranger = SmtpReceiver(self.dir)
        self.receivers.append(stranger)
        self.daemon(mail.format("bare", bare.port, "") + mail.format("stranger", stranger.port, ""))
        for name in ("bare", "stranger"):
            tested = self.defib("alert", "test", name)
            self.assertEqual(tested.returncode, 1, tested.stdout)
            self.assertIn("cause:", tested.stderr)
        self.assertEqual(bare.mails + stranger.mails, [])
        self.assertFalse(bare.plaintext_auth or stranger.plaintext_auth)

    def test_a_command_gets_json_on_stdin_and_nothing_in_its_arguments(self):
        out = os.path.join(self.dir, "out")
        script = self.script(f'''
            import json, sys
            message = json.load(sys.stdin)
            with open({out!r}, "a") as file:
                file.write(json.dumps({{"argv": sys.argv[1:], "message": message}}) + "\\n")
        ''', "page.py")
        self.daemon(f'[alert.page]\nkind = "command"\ncommand = ["{e2e_test.PYTHON}", "{script}", '
                    '"$HOME; echo"]\nmin_severity = "warning"\n')
        self.kill_service()
        def pages():
            if not os.path.exists(out):
                return None
            with open(out, encoding="utf-8") as file:
                lines = file.readlines()
            return lines if len(lines) >= 2 else None
        first = json.loads(self.until(pages, what="two pages")[0])
        self.assertEqual(first["argv"], ["$HOME; echo"])  # no shell
        self.assertEqual(first["message"]["service"], "a")

    def test_a_command_that_hangs_is_killed_with_its_children(self):
        pids = os.path.join(self.dir, "pids")
        self.daemon('[alert.page]\nkind = "command"\ntimeout = "300ms"\n'
                    f'command = ["sh", "-c", "echo $$ >{pids}; sleep 1000 & echo $! >>{pids}; wait"]\n')
        tested = self.defib("alert", "test", "page")
        self.assertEqual(tested.returncode, 1, tested.stdout)
        self.assertIn("did not end within", tested.stderr)
        with open(pids, encoding="ascii") as file:
            left = file.read().split()
        self.assertEqual(len(left), 2)
        for pid in left:
            self.until(lambda pid=pid: not is_alive(int(pid)), 5, "its end")

    def test_severity_and_services_choose_the_receiver(self):
        all_of_it, grave, other = self.receiver(), self.receiver(), self.receiver()
        self.daemon(webhook(all_of_it.port) +
                    webhook(grave.port, 'min_severity = "critical"', "grave") +
                    webhook(other.port, 'services = ["b"]', "other"),
                    '[service.a]\ncommand = ["sleep", "1000"]\nrestart = "never"\ncapture="none"\n'
                    '[service.b]\ncommand = ["sleep", "1000"]\ncapture = "none"\n')
        self.kill_service("b")
        self.until(other.bodies, what="an alert about b")
        self.assertEqual(grave.bodies(), [])
        self.kill_service("a")
        self.until(grave.bodies, what="an alert about a")
        self.assertEqual({b["service"] for b in grave.bodies()}, {"a"})
        self.assertEqual({b["service"] for b in other.bodies()}, {"b"})
        self.assertEqual(grave.bodies()[0]["severity"], "critical")
        self.until(lambda: {b["service"] for b in all_of_it.bodies()} == {"a", "b"})
        # Nobody starts it: the alert stays open, until somebody does.
        self.assertEqual([b["status"] for b in grave.bodies()], ["firing"])
        self.assertEqual(self.defib("start", "a").returncode, 0)
        self.until(lambda: [b["status"] for b in grave.bodies()] == ["firing", "resolved"])


    def test_a_lost_standby_is_told(self):
        receiver = self.receiver()
        # The program says READY=1, as active and as standby, and waits to be promoted.
        script = self.script("""
            import ctypes, signal
            agent = ctypes.CDLL(None)
            agent.defib_ready()
            agent.defib_wait_active(-1)
            while True:
                signal.pause()
        """)
        self.daemon(webhook(receiver.port), '[service.a]\nstandby = true\nexpects_ready = true\n'
                    'restart_delay = "0s"\n'
                    f'command = ["{e2e_test.PYTHON}", "{script}"]\n')
        standby = self.until(lambda: (lambda s: s and s["standby"] and s["standby"]["ready"] and
                                      s["standby"]["pid"])(self.service("a")), what="a standby")
        active = self.service("a")["pid"]
        self.assertEqual(receiver.bodies(), [])
        os.kill(standby, signal.SIGKILL)
        body = self.until(receiver.bodies, what="an alert")[0]
        self.assertEqual((body["cause"], body["severity"], body["service"]),
                         ("standby_lost", "warning", "a"))
        for part in ("signal 9", "the next one is started in", "cold start", "defib logs a"):
            self.assertIn(part, body["message"])
        self.until(lambda: (lambda s: s["standby"] and s["standby"]["ready"] and
                            not s["standby_error"])(self.service("a")), what="the next standby")
        self.assertEqual(self.service("a")["pid"], active)

    def test_the_slow_lane_is_told_once_with_its_reason_and_what_to_do(self):
        receiver = self.receiver()
        self.daemon(webhook(receiver.port), '[service.a]\ncommand = ["/bin/sh", "-c", "exit 7"]\n'
                    'capture = "none"\nrestart_delay = "0s"\non_crash_loop = "slow"\n'
                    'slow_lane_interval = "1s"\nrestart_window = "1s"\n')

        def slow():
            return [b for b in receiver.bodies() if b["cause"] == "slow_lane"]
        body = self.until(slow, what="an alert about the slow lane")[0]
        self.assertEqual(body["severity"], "critical")
        for part in ("3 times in a row", "exit code 7", "next in 1.0", "defib reset a"):
            self.assertIn(part, body["message"])
        service = self.until(lambda: (lambda s: s if s["state"] == "backing_off" else None)(
            self.service("a")))
        self.assertIn("tried again only slowly", service["reason"])
        self.assertEqual(service["next_action"]["what"], "start")
        # Some further starts in the slow lane are no further messages.
        restarts = self.service("a")["restart_count"]
        self.until(lambda: self.service("a")["restart_count"] >= restarts + 2)
        self.assertEqual(len(slow()), 1)


class Trouble(Alerting):
    def test_dead_slow_and_failing_receivers_delay_neither_recovery_nor_each_other(self):
        hole = self.receiver(lambda request: None)
        failing = self.receiver(lambda request: 503)
        good = self.receiver()
        self.daemon(webhook(hole.port, 'timeout = "2s"', "hole") +
                    webhook(failing.port, "", "failing") +
                    webhook(free_port(), "", "nobody") + webhook(good.port),
                    '[service.a]\ncommand = ["sleep", "1000"]\ncapture = "none"\n'
                    'restart_delay = "0s"\n')
        killed, pid = self.kill_service()
        self.until(good.bodies, what="the alert")
        self.assertLess(good.received[0]["at"] - killed, 1.0)
        after = self.running("a", not_pid=pid)
        incident = self.closed_incident()
        restarted = [e for e in incident["timeline"] if e["event"] == "restarted"][0]
        self.assertLess(restarted["downtime_ns"], 200e6)
        # Again, while they hang.
        killed, _ = self.kill_service()
        self.running("a", not_pid=after["pid"])
        self.until(lambda: len(failing.received) >= 2, what="a second attempt")
        waiting = {r["name"]: r["waiting"] for r in self.json("alert", "list")["receivers"]}
        self.assertGreaterEqual(waiting["failing"], 1)
        self.assertGreaterEqual(waiting["nobody"], 1)
        # Attempts repeat the message's id.
        self.assertEqual(len({r["body"]["id"] for r in failing.received[:2]}), 1)

    def test_a_receiver_that_comes_back_gets_what_it_missed(self):
        port = free_port()
        self.daemon(webhook(port))
        _, pid = self.kill_service()
        self.running("a", not_pid=pid)
        self.until(lambda: any(d["attempts"] > 0 for a in self.json("alert", "list")["alerts"]
                               for d in a["deliveries"]), what="a failed attempt")
        receiver = self.receiver(port=port)
        bodies = self.until(receiver.bodies, 40, "the alert")
        self.assertEqual(bodies[0]["status"], "firing")

    def test_a_storm_of_1655_restarts_is_at_most_20_messages(self):
        receiver = self.receiver()
        count = os.path.join(self.dir, "count")
        script = self.script(f"""
            echo >>{count}
            [ $(wc -l <{count}) -gt 1655 ] && exec sleep 1000
            exit 3
        """, "storm.sh")
        self.daemon(webhook(receiver.port, 'fold_window = "2s"'),
                    f'[service.s]\ncommand = ["sh", "{script}"]\ncapture = "none"\n'
                    'max_restarts = 100000\nrestart_window = "1s"\nrestart_delay = "0s"\n')

        def stormed():
            with open(count, encoding="ascii") as file:
                return len(file.readlines()) > 1655
        self.until(lambda: os.path.exists(count) and stormed(), 200, "the end of the storm")
        self.until(lambda: [b for b in receiver.bodies() if b["status"] == "resolved"], 60,
                   "the alert's end")
        self.until(lambda: self.sender_pid() is None, what="the sender's end")
        bodies = receiver.bodies()
        print(f"  1655 failures: {len(bodies)} messages, the last of {bodies[-1]['total']}",
              file=sys.stderr)
        self.assertLessEqual(len(bodies), 20)
        self.assertEqual(sum(b["count"] for b in bodies), 1655)
        self.assertLess(os.path.getsize(os.path.join(self.state, "alerts", "queue")), 4 << 20)

    def test_kill_9_of_sender_and_daemon_loses_nothing_and_repeats_only_ids(self):
        seed = int(os.environ.get("DEFIB_SEED", random.SystemRandom().randrange(1 << 32)))
        print(f"  {ROUNDS} rounds, seed {seed}", file=sys.stderr)
        rng = random.Random(seed)
        # Slow enough to be killed in the middle; it took the message all the same.
        receiver = self.receiver(lambda request: time.sleep(rng.random() * 0.1) or 200)
        services = "".join(f'[service.s{i}]\ncommand = ["sleep", "1000"]\ncapture = "none"\n'
                           'restart_delay = "0s"\nmax_restarts = 1000\n' for i in range(4))
        alerts = webhook(receiver.port, 'fold_window = "1s"\nmax_per_minute = 10000\n'
                                        'max_per_service = 10000')
        run = self.daemon(alerts, services)
        killed_sender = 0
        for i in range(ROUNDS):
            name = f"s{i % 4}"
            self.kill_service(name)
            time.sleep(rng.random() * 0.15)
            pid = self.sender_pid()
            if pid and rng.random() < 0.7:
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed_sender += 1
                except ProcessLookupError:
                    pass
            if rng.random() < 0.4:
                run.kill()
                run.wait()
                run = self.daemon(alerts, services)
        self.until(lambda: all(self.service(f"s{i}")["state"] == "running" for i in range(4)))
        incidents = self.until(lambda: (lambda found: found if all(
            i["closed_at"] for i in found) else None)(self.json("incidents")["incidents"]), 30)
        expected = {i["service"] for i in incidents}

        def all_told():
            over = {}
            for body in receiver.bodies():
                over[body["service"]] = body["status"]
            return expected and all(over.get(s) == "resolved" for s in expected)
        self.until(all_told, 60, "every alert and its end")
        texts = {}
        occurrences = {}
        for entry in receiver.received:
            body = entry["body"]
            text = json.dumps(body, sort_keys=True)
            self.assertEqual(texts.setdefault(body["id"], text), text, "one id, two texts")
        for text in texts.values():
            body = json.loads(text)
            occurrences[body["service"]] = occurrences.get(body["service"], 0) + body["count"]
        print(f"  {killed_sender} senders killed; {len(receiver.received)} deliveries of "
              f"{len(texts)} messages about {len(incidents)} incidents", file=sys.stderr)
        for service in expected:
            opened = sum(1 for i in incidents if i["service"] == service)
            self.assertGreaterEqual(occurrences[service], opened, service)

    def test_a_full_queue_or_disk_still_lets_the_alert_out(self):
        receiver = self.receiver()
        self.daemon(webhook(receiver.port))
        # A directory in the queue's place: nothing can be appended, as on a full disk.
        queue = os.path.join(self.state, "alerts", "queue")
        if os.path.exists(queue):
            os.remove(queue)
        os.mkdir(queue)
        self.kill_service()
        self.assertEqual(self.until(receiver.bodies)[0]["service"], "a")


    @unittest.skipUnless(os.geteuid() == 0, "needs root to mount a small disk")
    def test_on_a_full_disk_the_service_comes_back_and_the_disk_is_told(self):
        os.makedirs(self.state)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs",
                                  self.state], capture_output=True, check=False)
        if mounted.returncode != 0:
            self.skipTest("this machine does not let root mount a small disk")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        self.addCleanup(subprocess.run, ["umount", "-l", self.state], check=False)
        receiver = self.receiver()
        self.daemon(webhook(receiver.port), '[service.a]\ncommand = ["sleep", "1000"]\n'
                    'capture = "none"\nrestart_delay = "0s"\n')
        self.running("a")
        # Beside the directory's own files, which a filler in it would make foreign.
        filler = os.path.join(self.state, "services", "a", "logs", "filler")
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError as error:
                self.assertEqual(error.errno, 28)
        for _ in range(3):
            _, pid = self.kill_service()
            self.running("a", not_pid=pid)
        told = self.until(lambda: [b for b in receiver.bodies() if b["cause"] == "disk_full"],
                          what="an alert about the disk")[0]
        self.assertEqual((told["severity"], told["service"]), ("critical", "a"))
        self.assertIn("cannot be recorded", told["message"])

        def said():
            with open(os.path.join(self.dir, "daemon.log"), encoding="utf-8") as file:
                return file.read()
        self.assertIn("NoSpace", said())
        # Senders come and go that can write nothing down, and none tells what another has told.
        self.until(lambda: said().count("the disk does not keep what was sent") >= 4,
                   what="four senders")
        ids = [b["id"] for b in receiver.bodies()]
        self.assertEqual(sorted(ids), sorted(set(ids)))
        os.remove(filler)
        known = len(self.json("incidents")["incidents"])
        _, pid = self.kill_service()
        self.running("a", not_pid=pid)
        self.until(lambda: len(self.json("incidents")["incidents"]) > known, what="an incident")


class Acknowledging(Alerting):
    ALERT = 'repeat_interval = "1s"'

    def test_ack_stops_repeats_and_escalation(self):
        repeats, boss = self.receiver(), self.receiver()
        self.daemon(webhook(repeats.port, self.ALERT) +
                    webhook(boss.port, 'escalate_after = "4s"', "boss"),
                    '[service.a]\ncommand = ["sleep", "1000"]\nrestart = "never"\n'
                    'capture = "none"\n')
        self.kill_service()
        self.until(lambda: len(repeats.bodies()) >= 2, what="a repeat")
        self.assertTrue(repeats.bodies()[1]["repeat"])
        alert = self.json("alert", "list")["alerts"][0]
        self.assertEqual(alert["status"], "firing")
        done = self.defib("alert", "ack", alert["id"][:6], "--by", "alice")
        self.assertEqual(done.returncode, 0, done.stderr)
        acknowledged = self.json("alert", "list")["alerts"][0]
        self.assertEqual((acknowledged["status"], acknowledged["acknowledged_by"]),
                         ("acknowledged", "alice"))
        heard = len(repeats.bodies())
        time.sleep(3.5)  # what does not happen needs a time to not happen in
        self.assertLessEqual(len(repeats.bodies()), heard + 1)
        self.assertEqual(boss.bodies(), [])
        again = self.defib("alert", "ack", alert["id"])
        self.assertEqual(again.returncode, 0)
        self.assertIn("alice", again.stdout)

    def test_without_ack_it_is_escalated(self):
        boss = self.receiver()
        self.daemon(webhook(boss.port, 'escalate_after = "2s"', "boss"),
                    '[service.a]\ncommand = ["sleep", "1000"]\nrestart = "never"\n'
                    'capture = "none"\n')
        killed, _ = self.kill_service()
        self.until(boss.bodies, what="the escalation")
        self.assertGreater(boss.received[0]["at"] - killed, 1.9)

    def test_exit_codes_and_errors(self):
        receiver = self.receiver()
        self.daemon(webhook(receiver.port))
        self.assertEqual(self.defib("alert", "list").returncode, 0)
        missing = self.defib("alert", "ack", "nothing")
        self.assertEqual(missing.returncode, 2)
        self.assertIn("try: ", missing.stderr)
        as_json = json.loads(self.defib("alert", "ack", "nothing", "--json").stdout)
        self.assertEqual(as_json["error"]["kind"], "NotFound")
        self.assertEqual(self.defib("alert", "test", "nobody").returncode, 2)
        self.assertEqual(self.defib("alert", "frobnicate").returncode, 2)
        self.assertEqual(self.defib("alert", "ack").returncode, 2)
        tested = self.defib("alert", "test", "hook", "--json")
        self.assertEqual(tested.returncode, 0, tested.stdout + tested.stderr)
        self.assertEqual(json.loads(tested.stdout)["schema"], "defib.alert_test/1")
        self.assertEqual(receiver.bodies()[0]["status"], "test")
        for verb in ("list", "ack", "test"):
            help_text = self.defib("alert", verb, "--help")
            self.assertEqual(help_text.returncode, 0)
            self.assertIn("Example:", help_text.stdout)

    def test_a_test_without_a_daemon_works_too(self):
        receiver = self.receiver()
        run = self.daemon(webhook(receiver.port))
        run.terminate()
        run.wait(15)
        self.assertEqual(self.defib("alert", "test", "hook").returncode, 0)
        self.assertEqual(len(receiver.bodies()), 1)

    def test_a_reload_changes_the_receivers(self):
        before, after = self.receiver(), self.receiver()
        self.daemon(webhook(before.port))
        service = '[service.a]\ncommand = ["sleep", "1000"]\ncapture = "none"\n'
        self.configure('[alert.x]\nkind = "webhook"\nurl = "http://h"\nsecret = "plain"\n', service)
        refused = self.defib("reload")
        self.assertNotEqual(refused.returncode, 0)
        self.assertEqual(self.defib("alert", "test", "hook").returncode, 0)
        self.configure(webhook(after.port, "", "other"), service)
        self.assertEqual(self.defib("reload").returncode, 0)
        self.kill_service()
        self.until(after.bodies, what="an alert at the new receiver")
        self.assertEqual([b for b in before.bodies() if b["status"] != "test"], [])


if __name__ == "__main__":
    e2e_test.BIN = os.path.abspath(sys.argv[1])
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:], verbosity=2, warnings="ignore")
