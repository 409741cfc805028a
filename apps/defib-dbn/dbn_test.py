#!/usr/bin/env python3
"""`defib dbn` as a script meets it: lines, filters, standard input, errors and exit codes."""

import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

BIN = sys.argv.pop(1) if len(sys.argv) > 1 and os.path.isdir(sys.argv[1]) else "build/release/bin"
SAMPLES = os.path.join(os.environ.get("DEFIB_SHARED", ""), "data", "dbn")
NOON = 1609160400000000000
UNDEF_PRICE = 2**63 - 1


def run(*arguments, data=b"", **options):
    return subprocess.run([os.path.join(BIN, "defib"), "dbn", *arguments], input=data,
                          capture_output=True, timeout=30, check=False, **options)


def records(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def symbol(text):
    return text.encode().ljust(71, b"\0")


def metadata(schema=0):
    """Version 3, written here byte by byte, so that nothing of the reader is believed."""
    body = b"GLBX.MDP3".ljust(16, b"\0") + struct.pack("<HQQQ", schema, NOON, 2**64 - 1, 0)
    body += struct.pack("<BBBH", 1, 0, 0, 71) + bytes(53) + struct.pack("<I", 0)
    body += struct.pack("<I", 1) + symbol("ESH1") + struct.pack("<II", 0, 0)
    body += struct.pack("<I", 2)
    for name, number in (("ESH1", "5482"), ("ESM1", "7")):
        body += symbol(name) + struct.pack("<III", 1, 20201228, 20201229) + symbol(number)
    body += bytes(-len(body) % 8)
    return b"DBN\x03" + struct.pack("<I", len(body)) + body


def trade(price, instrument=5482, sequence=1):
    return struct.pack("<BBHIQqIccBBQiI", 12, 0, 1, instrument, NOON + sequence, price, 5, b"T",
                       b"A", 129, 0, NOON + 1000, 19251, sequence)


def mbo(sequence):
    return struct.pack("<BBHIQQqIBBccQiI", 14, 0xA0, 1, 5482, NOON, 9, 1, 1, 0, 0, b"A", b"B", NOON,
                       0, sequence)


class Dbn(unittest.TestCase):
    def test_each_record_is_a_line_with_exact_prices_and_times(self):
        done = run("-", data=metadata(4) + trade(3720250000000) + trade(-1))
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        first, second = records(done)
        self.assertEqual(first, {
            "schema": "defib.dbn_record/1", "type": "trade", "symbol": "ESH1",
            "hd": {"ts_event": "2020-12-28T13:00:00.000000001Z", "rtype": 0, "publisher_id": 1,
                   "instrument_id": 5482},
            "price": "3720.250000000", "size": 5, "action": "T", "side": "A", "flags": 129,
            "depth": 0, "ts_recv": "2020-12-28T13:00:00.000001000Z", "ts_in_delta": 19251,
            "sequence": 1})
        self.assertEqual(second["price"], "-0.000000001")

    def test_an_undefined_price_is_null(self):
        self.assertIsNone(records(run(data=metadata() + trade(UNDEF_PRICE)))[0]["price"])

    def test_limits_and_filters_choose_records(self):
        data = metadata() + trade(1, 5482, 1) + mbo(2) + trade(2, 7, 3) + trade(3, 8, 4)
        sequences = lambda *a: [r["sequence"] for r in records(run(*a, data=data))]
        self.assertEqual(sequences(), [1, 2, 3, 4])
        self.assertEqual(sequences("--limit", "2"), [1, 2])
        self.assertEqual(sequences("--schema", "trades"), [1, 3, 4])
        self.assertEqual(sequences("--rtype", "mbo"), [2])
        self.assertEqual(sequences("--symbol", "ESM1"), [3])
        self.assertEqual(sequences("--symbol", "ESH1", "--schema", "trades"), [1])
        self.assertNotIn("symbol", records(run(data=data))[3])

    def test_a_limit_is_reached_before_damage_behind_it(self):
        data = metadata() + trade(1) + b"\0" * 48
        self.assertEqual(run("--limit", "1", data=data).returncode, 0)
        self.assertEqual(run(data=data).returncode, 1)

    def test_metadata_is_one_document(self):
        done = run("--metadata", data=metadata(4))
        document = json.loads(done.stdout)
        self.assertEqual(document["schema"], "defib.dbn_metadata/1")
        self.assertEqual(document["metadata"]["schema"], "trades")
        self.assertEqual(document["metadata"]["start"], "2020-12-28T13:00:00.000000000Z")
        self.assertIsNone(document["metadata"]["end"])
        self.assertEqual(document["metadata"]["mappings"][1]["intervals"],
                         [{"start_date": "2020-12-28", "end_date": "2020-12-29", "symbol": "7"}])

    def test_what_came_before_damage_is_printed_and_the_error_names_the_offset(self):
        head = metadata()
        done = run(data=head + trade(1) + trade(2)[:20])
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(records(done)), 1)
        lines = done.stderr.decode().splitlines()
        self.assertTrue(lines[0].startswith("error[-241 DbnTruncated]: "), lines)
        self.assertIn(str(len(head) + 68), lines[0])
        self.assertTrue(lines[-1].startswith("try: "))
        done = run("--json", data=head + b"\0" * 16)
        error = json.loads(done.stdout)["error"]
        self.assertEqual((error["code"], error["fields"]["offset"]), (-240, str(len(head))))

    def test_wrong_usage_is_told_from_failure(self):
        for arguments in (["--limit", "0"], ["--schema", "x"], ["--rtype", "x"], ["--bad"],
                          ["--fragment", "--metadata"], ["/no/such/file"]):
            done = run(*arguments, data=metadata())
            self.assertEqual((done.returncode, done.stdout), (2, b""), arguments)
            self.assertIn(b"try: ", done.stderr)
        self.assertEqual(run("--json", "--bad").returncode, 2)
        self.assertIn("error", json.loads(run("--json", "--bad").stdout))
        self.assertEqual(run("--help").returncode, 0)

    def test_what_is_no_dbn_is_an_error(self):
        for data in (b"", b"x", b"{\"a\":1}", b"DBN\x09" + bytes(200), os.urandom(1000)):
            done = run(data=data)
            self.assertEqual((done.returncode, done.stdout), (1, b""))

    def test_a_fragment_is_read_by_name_or_by_option(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "a.dbn.frag")
            with open(path, "wb") as file:
                file.write(trade(1) + trade(2))
            self.assertEqual(len(records(run(path))), 2)
            with open(path, "rb") as file:
                self.assertEqual(len(records(run("--fragment", data=file.read()))), 2)

    def test_a_reader_that_has_seen_enough_ends_it_quietly(self):
        data = metadata() + trade(1) * 100_000
        with tempfile.NamedTemporaryFile(suffix=".dbn") as file:
            file.write(data)
            file.flush()
            done = subprocess.run(["bash", "-c", f"{BIN}/defib dbn {file.name} | head -n 1; "
                                   "exit ${PIPESTATUS[0]}"], capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertEqual(len(done.stdout.splitlines()), 1)

    def test_a_full_disk_is_an_error(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([os.path.join(BIN, "defib"), "dbn"], input=metadata() + trade(1),
                                  stdout=full, stderr=subprocess.PIPE, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"NoSpace", done.stderr)


@unittest.skipUnless(os.path.isdir(SAMPLES), f"no sample files in {SAMPLES}: set DEFIB_SHARED")
class Samples(unittest.TestCase):
    def test_every_file_is_printed(self):
        printed = 0
        for name in sorted(os.listdir(SAMPLES)):
            done = run(os.path.join(SAMPLES, name))
            self.assertEqual((done.returncode, done.stderr), (0, b""), name)
            lines = records(done)
            self.assertEqual(len(lines) == 0, ".ohlcv-1d." in name, name)
            printed += len(lines)
        self.assertGreater(printed, 100)

    def test_known_values_are_shown(self):
        line = records(run(os.path.join(SAMPLES, "test_data.mbo.v1.dbn.zst")))[0]
        self.assertEqual((line["price"], line["hd"]["ts_event"], line["symbol"], line["order_id"]),
                         ("3722.750000000", "2020-12-28T13:00:00.000429831Z", "ESH1", 647784973705))
        line = records(run(os.path.join(SAMPLES, "test_data.definition.v1.dbn.zst"), "--upgrade"))[0]
        self.assertEqual((line["raw_symbol"], line["strike_price"], line["leg_count"]),
                         ("MSFT", None, 0))


if __name__ == "__main__":
    unittest.main()
