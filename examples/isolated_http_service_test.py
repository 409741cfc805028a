#!/usr/bin/env python3
"""The HTTP service with a fresh client per request: crashes among concurrent requests, and a stream.

    isolated_http_service_test.py BIN_DIR [unittest arguments]
"""

import concurrent.futures
import json
import os
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.request

BIN = os.path.abspath(sys.argv[1])
PLUGIN = os.path.join(os.path.dirname(BIN), "lib", "plugins", "prices.so")
PRICES = {("ESM4", 0): 5300.25, ("ESM4", 30): 5315.25, ("CLN4", 4): 78.0}


class Isolated(unittest.TestCase):
    def setUp(self):
        self.service = subprocess.Popen([os.path.join(BIN, "isolated_http_service"), PLUGIN],
                                        stdout=subprocess.PIPE, text=True)
        self.url = self.service.stdout.readline().strip()
        deadline = time.monotonic() + 20
        while self.live()["worker_pid"] < 0 or self.live()["received"] == 0:
            self.assertLess(time.monotonic(), deadline)

    def tearDown(self):
        self.service.terminate()
        self.assertEqual(self.service.wait(20), 0)
        self.service.stdout.close()

    def get(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def price(self, symbol, days):
        status, body = self.get(f"/price?symbol={symbol}&days={days}")
        return status, json.loads(body)

    def live(self):
        return json.loads(self.get("/live")[1])

    def test_a_request_that_crashes_gets_the_error_and_all_others_their_data(self):
        before = self.live()
        questions = []
        for number in range(40):
            questions.append((f"BAD{number}", number))
            questions.extend(PRICES)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda question: self.price(*question), questions))
        crashes = 0
        for (symbol, days), (status, body) in zip(questions, answers):
            if (symbol, days) in PRICES:
                self.assertEqual((status, body["price"]), (200, PRICES[symbol, days]), body)
                continue
            crashes += 1
            self.assertEqual(status, 502, body)
            error = body["error"]
            self.assertEqual((error["code"], error["kind"]), (-190, "NativeCrash"))
            # Its own crash, and nobody else's.
            self.assertEqual(error["fields"]["arguments"], f'"{symbol}", {days}')
        self.assertEqual(crashes, 40)
        after = self.live()
        # The long-lived client is the same, and its stream has lost nothing.
        self.assertEqual(after["worker_pid"], before["worker_pid"])
        self.assertEqual((after["gaps"], after["ended"]), (0, False))
        self.assertGreater(after["received"], before["received"])
        metrics = self.get("/metrics")[1]
        self.assertIn('defib_call_native_crashes_total{plugin="prices.so",'
                      'failure="null_dereference"} 40\n', metrics)
        self.assertIn(f'defib_call_clients_created_total{{plugin="prices.so"}} '
                      f'{len(questions) + 1}\n', metrics)
        self.assertIn('defib_call_operation_duration_seconds_count{plugin="prices.so",'
                      f'method="price"}} {len(questions) - crashes}\n', metrics)

    def test_a_stream_goes_on_while_another_client_crashes_again_and_again(self):
        begun = self.live()
        for _ in range(30):
            status, _ = self.price("NONE", 1)
            self.assertEqual(status, 502)
        ended = self.live()
        self.assertEqual((ended["gaps"], ended["ended"]), (0, False))
        self.assertGreater(ended["received"] - begun["received"], 100)
        self.assertEqual(ended["worker_pid"], begun["worker_pid"])

    def test_a_bad_question_reaches_no_library(self):
        for path in ("/price", "/price?symbol=ESM4&days=x", "/price?symbol=&days=1"):
            status, body = self.get(path)
            self.assertEqual(status, 400, body)
        self.assertEqual(self.get("/other")[0], 404)
        self.assertNotIn("defib_call_native_crashes_total{", self.get("/metrics")[1])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:], verbosity=2)
