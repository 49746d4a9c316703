"""What a benchmark does beside its main work, and how it ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


def end_on_sigterm() -> None:
    """Make SIGTERM what Ctrl-C is: ``with`` blocks end, and no server is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


class Background:
    """Does something again and again in a thread while its ``with`` block runs.

    Args:
        act: what.
        period_s: from the end of one to the start of the next.
    """

    def __init__(self, act: Callable[[], None], period_s: float) -> None:
        self._act, self._period_s = act, period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(self._period_s):
            self._act()
