"""Victims in Python: `python3 victim.py MODE` ends in one way, each in a function of its own. The
table in catalogue.py says what each is to be called. One that is ended from outside, or hangs, says
"ready" first."""

import asyncio
import ctypes
import faulthandler
import logging
import os
import resource
import signal
import sys
import threading
import time
import traceback


def ready():
    print("ready", flush=True)


class RiskLimitExceeded(Exception):
    pass


def value_error():
    print("half of a line of stdout, written at the very end", end="")
    raise ValueError("no such symbol: XYZ")


def own_exception():
    raise RiskLimitExceeded("exposure 12 > 10\nof account 7")


def chained_exception():
    try:
        {}["price"]
    except KeyError as error:
        raise RuntimeError("the quote has no price") from error


def module_missing():
    import no_such_module_of_ours  # noqa: F401  pylint: disable=all


def syntax_error():
    exec(compile("def f(:\n  pass\n", "strategy.py", "exec"))


def recursion():
    recursion()


def in_coroutine():
    async def settle():
        await asyncio.sleep(0.01)
        raise ConnectionError("the venue went away")
    asyncio.run(settle())


def memory_error():
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    blocks = []
    while True:
        blocks.append(bytearray(64 << 20))


def null_in_ctypes():
    ctypes.string_at(0)


def fault_handler():
    faulthandler.enable()
    ctypes.string_at(16)


def os_abort():
    os.abort()


def fatal_error():
    ctypes.pythonapi.Py_FatalError(b"the interpreter's state is broken")


def exit_with_text():
    print("starting")
    sys.exit("error: the configuration has no [venue]")


def exit_three():
    sys.exit(3)


def logged_and_gone_on():
    try:
        value_error()
    except ValueError:
        logging.exception("ignored")
    print("error: the journal is full", file=sys.stderr)
    sys.exit(5)


def logged_long_ago():
    try:
        raise ValueError("of an earlier hour")
    except ValueError:
        traceback.print_exc()
    for number in range(200):
        print("working", number, file=sys.stderr)
    print("error: no licence", file=sys.stderr)
    sys.exit(1)


def second_run():
    """The first run raises; the second one just ends with the same code."""
    mark = sys.argv[2]
    if not os.path.exists(mark):
        with open(mark, "w", encoding="ascii"):
            pass
        value_error()
    print("error: port 80 is taken", file=sys.stderr)
    os._exit(1)


def waits():
    ready()
    signal.pause()


def busy_loop():
    ready()
    while True:
        sum(range(1000))


def lock_circle():
    """Python's locks have no owner that one could see from outside."""
    one, two = threading.Lock(), threading.Lock()

    def take(first, second):
        with first:
            time.sleep(0.2)
            with second:
                pass
    threading.Thread(target=take, args=(two, one), daemon=True).start()
    threading.Timer(0.5, ready).start()
    take(one, two)


def queue_get():
    import queue
    ready()
    queue.Queue().get()


if __name__ == "__main__":
    globals()[sys.argv[1]]()
