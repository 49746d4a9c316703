"""Ctrl-C and SIGTERM as a wish to stop, granted between two updates."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether a signal has asked the run to stop."""

    made = False


@contextmanager
def catch_stop_signals(patient: bool = False) -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM instead of dying of it; a second one interrupts at once.

    Args:
        patient: let further ones pass too. ``torchrun`` forwards what the terminal has already
            sent to all, so a second one is not a second wish; it kills those that take too long.

    An exception in the middle of an update would leave D updated and G not, and the saved state
    would be one that no uninterrupted run goes through.
    """
    request = StopRequest()

    def note(_number: int, _frame: FrameType | None) -> None:
        if request.made and not patient:
            raise KeyboardInterrupt
        request.made = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
