"""Stages of the check of a GPU that go wrong, each in its way."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.gpu.runner import Bench, Row
from deploy.java import NoJavaError


def good(bench: Bench) -> Iterator[Row]:
    print("a word of good")
    yield {"device": bench.device, "ok": True}


def wrong(_: Bench) -> Iterator[Row]:
    yield {"seen": 1, "ok": True}
    yield {"seen": 2, "ok": False}


def fault(_: Bench) -> Iterator[Row]:
    yield {"seen": "before the fault"}
    raise ValueError("a planted fault\nand its second line")


def crash(_: Bench) -> Iterator[Row]:
    yield {"seen": "before the crash"}
    os.kill(os.getpid(), signal.SIGSEGV)


def crash_at_the_end(_: Bench) -> Iterator[Row]:
    yield {"seen": "all"}
    import atexit

    atexit.register(os.kill, os.getpid(), signal.SIGKILL)


def hang(_: Bench) -> Iterator[Row]:
    """Deaf to SIGTERM, as a process that waits for a GPU is; with a child in a session of its own,
    as TorchServe is."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
    )
    yield {"child": child.pid}
    time.sleep(60)


def unfit(_: Bench) -> Iterator[Row]:
    raise NoJavaError("there is no Java")
    yield {}


def lacking(_: Bench) -> Iterator[Row]:
    importlib.import_module("a_package_that_is_not_installed.part")
    yield {}


def broken(_: Bench) -> Iterator[Row]:
    importlib.import_module("handler.no_such_module")
    yield {}
