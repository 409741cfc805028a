#!/usr/bin/env python3
"""Calls a native library that may crash from Python, with ctypes alone.

    call_from_python.py LIBDEFIB_CALL PLUGIN

A crash of the library is an exception here, and a fresh client goes on. `Client` is small enough to
be copied into a program of yours; defib/call/call_c.h tells what each function does.
"""

import ctypes
import json
import sys


class Error(ctypes.Structure):
    """defib_call_error"""
    _fields_ = [("code", ctypes.c_int32), ("kind", ctypes.c_char * 32),
                ("message", ctypes.c_char * 512), ("action", ctypes.c_char * 256)]


class CallError(Exception):
    """code, kind ("NativeCrash"), what to do next, and all the rest as `details`."""

    def __init__(self, error, details):
        super().__init__(error.message.decode(errors="replace"))
        self.code = error.code
        self.kind = error.kind.decode()
        self.action = error.action.decode(errors="replace")
        self.details = details


class Library:
    """libdefib-call.so"""

    def __init__(self, path):
        # Texts that are given are pointers, not texts, so that they can be freed.
        pointer, text, error = ctypes.c_void_p, ctypes.c_char_p, ctypes.POINTER(Error)
        made, number = ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint32
        self.c = ctypes.CDLL(path)
        for name, result, arguments in (
                ("last_error", ctypes.c_size_t, (text, ctypes.c_size_t)),
                ("create", pointer, (text, text, error)),
                ("close", None, (pointer,)),
                ("methods", ctypes.c_int, (pointer, made, error)),
                ("invoke", ctypes.c_int, (pointer, text, text, number, made, error)),
                ("stream_open", pointer, (pointer, text, text, error)),
                ("stream_next", ctypes.c_int, (pointer, number, made, error)),
                ("stream_close", None, (pointer,)),
                ("faulted", ctypes.c_int, (pointer,)),
                ("report", ctypes.c_int, (pointer, number, made, error)),
                ("free", None, (pointer,))):
            function = getattr(self.c, "defib_call_" + name)
            function.restype, function.argtypes = result, arguments

    def error(self, error):
        size = self.c.defib_call_last_error(None, 0)
        buffer = ctypes.create_string_buffer(size + 1)
        self.c.defib_call_last_error(buffer, size + 1)
        return CallError(error, json.loads(buffer.value))

    def made(self, name, *arguments):
        """A client or a stream."""
        error = Error()
        pointer = getattr(self.c, "defib_call_" + name)(*arguments, error)
        if not pointer:
            raise self.error(error)
        return pointer

    def json(self, name, *arguments):
        """The JSON that a function gives; None where it gives none."""
        error, text = Error(), ctypes.c_void_p()
        if getattr(self.c, "defib_call_" + name)(*arguments, text, error) != 0:
            raise self.error(error)
        if not text.value:
            return False, None
        try:
            return True, json.loads(ctypes.string_at(text.value))
        finally:
            self.c.defib_call_free(text)


class Client:
    """A plugin in a process of its own. Use it from any thread; close it when nobody uses it."""

    def __init__(self, library, plugin, **options):
        self.library = library
        self.pointer = library.made("create", plugin.encode(), json.dumps(options).encode())

    def close(self):
        self.library.c.defib_call_close(self.pointer)
        self.pointer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def methods(self):
        return self.library.json("methods", self.pointer)[1]["methods"]

    def call(self, method, *arguments, timeout_ms=0):
        return self.library.json("invoke", self.pointer, method.encode(),
                                 json.dumps(arguments).encode(), timeout_ms)[1]

    def stream(self, method, *arguments, timeout_ms=0):
        """The records, one after the other. Ends the stream when nobody iterates any more."""
        stream = self.library.made("stream_open", self.pointer, method.encode(),
                                   json.dumps(arguments).encode())
        try:
            while True:
                more, record = self.library.json("stream_next", stream, timeout_ms)
                if not more:
                    return
                yield record
        finally:
            self.library.c.defib_call_stream_close(stream)

    @property
    def faulted(self):
        return self.library.c.defib_call_faulted(self.pointer) != 0

    def report(self, timeout_ms=5000):
        """What is known of the crash, with its backtrace; None where there was none."""
        return self.library.json("report", self.pointer, timeout_ms)[1]


def main():
    library, plugin = Library(sys.argv[1]), sys.argv[2]
    prices = Client(library, plugin, call_timeout_ms=5000, memory_bytes=512 << 20)
    for method in prices.methods():
        print("offers", method["signature"])
    for symbol in ("ESM4", "XXXX", "CLN4"):
        try:
            print(symbol, prices.call("price", symbol, 30))
        except CallError as error:
            print(symbol, "failed:", error)
            if not prices.faulted:
                continue
            report = prices.report()
            for frame in (report or {}).get("backtrace", [])[:4]:
                print("  ", frame)
            prices.close()
            prices = Client(library, plugin)
            print("a fresh client goes on")
    print("ticks:", [price / 1e9 for _, price in prices.stream("ticks", "ESM4", 3)])
    prices.close()


if __name__ == "__main__":
    main()
