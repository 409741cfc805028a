#!/usr/bin/env python3
"""Drives the paper venue with clients that nobody here wrote: ccxt, and Binance's own.

usage: clients_test.py PAPER_VENUE DIRECTORY [DIALECT...]    DIRECTORY: where npm installs them

Exit code 77, which ctest shows as skipped, where there is no npm or its registry cannot be
reached: then nothing was tested, and the output says so.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

SKIPPED = 77
HERE = pathlib.Path(__file__).resolve().parent / "clients"
DIALECTS = ("binance", "binance_futures", "kraken", "coinbase")
KRAKEN_SECRET = ("kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj"
                 "6F1huXg==")


def skip(why):
    print(f"SKIPPED: {why}; the paper venue was not driven by independent clients")
    sys.exit(SKIPPED)


def install(directory):
    """The pinned versions, unless they are there already."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            skip(f"there is no {program}")
    directory.mkdir(parents=True, exist_ok=True)
    lock = (HERE / "package-lock.json").read_text()
    installed = directory / "installed-lock.json"
    if not installed.exists() or installed.read_text() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, directory)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1",
                   "--fetch-timeout=10000"]
        try:
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True,
                                  timeout=90, check=False)
        except subprocess.TimeoutExpired:
            skip("the package registry does not answer")
        if done.returncode != 0:
            skip("npm cannot install them: " + " ".join(done.stderr.split())[-300:])
        installed.write_text(lock)
    shutil.copy(HERE / "clients.mjs", directory)


def secrets(dialect, directory):
    """{what the client signs with, the file that the venue is given}."""
    file = directory / f"{dialect}.secret"
    if dialect != "coinbase":
        secret = KRAKEN_SECRET if dialect == "kraken" else "topsecret"
        file.write_text(secret)
        return secret, file
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", file],
                   check=True, capture_output=True)
    public = directory / "coinbase.public"
    subprocess.run(["openssl", "pkey", "-in", file, "-pubout", "-out", public], check=True,
                   capture_output=True)
    return file.read_text(), public


def main():
    program, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    only = sys.argv[3:] or DIALECTS
    install(directory)
    venues, processes = {}, []
    with tempfile.TemporaryDirectory(prefix="defib-clients-") as name:
        scratch = pathlib.Path(name)
        try:
            for dialect in only:
                key = "organizations/o/apiKeys/k" if dialect == "coinbase" else "demo"
                secret, file = secrets(dialect, scratch)
                process = subprocess.Popen(
                    [program, "--dialect", dialect, "--ledger", scratch / f"{dialect}.jsonl",
                     "--seed", "7", "--api-key", key, "--api-secret-file", file,
                     "--weight-limit", "0", "--order-limit", "0"], stdout=subprocess.PIPE,
                    text=True)
                processes.append(process)
                told = json.loads(process.stdout.readline())
                venues[dialect] = {"port": told["port"], "admin_port": told["admin_port"],
                                   "key": key, "secret": secret}
            done = subprocess.run(["node", "clients.mjs", json.dumps(venues)], cwd=directory,
                                  timeout=120, check=False)
            return done.returncode
        finally:
            for process in processes:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    sys.exit(main())
