"""Ctrl-C and other signals as a wish to stop, granted between two updates."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# What terminals, services and batch systems send before they kill.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class StopRequest:
    """Whether a signal has asked the run to stop."""

    made = False


@contextmanager
def catch_stop_signals(patient: bool = False, speaks: bool = True) -> Iterator[StopRequest]:
    """Note the first of these signals instead of dying of it; a second one interrupts at once.

    One that is ignored stays so: SIGHUP under nohup, SIGINT in the background of a script.

    Args:
        patient: let further ones pass too. ``torchrun`` forwards what the terminal has already
            sent to all, so a second one is not a second wish; it kills those that take too long.
        speaks: say on stderr that the wish was heard.

    An exception in the middle of an update would leave D updated and G not, and the saved state
    would be one that no uninterrupted run goes through.
    """
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        if request.made and not patient:
            raise KeyboardInterrupt
        if speaks and not request.made:
            again = "" if patient else "; once more stops at once and saves nothing"
            say(f"{signal.Signals(number).name}: stopping after this update, then saving{again}")
        request.made = True

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    before = {n: handler for n, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(text: str) -> None:
    """A line on stderr, where a bar may be; not by ``print``, which a signal may interrupt.

    A terminal that is gone (SIGHUP) is no reason not to save.
    """
    with suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"\n{text}\n".encode())
