"""Sleep until a moment, to within about 0.1 ms, while other greenlets run.

gevent's own timers end at the next whole millisecond of epoll's timeout, on average half a
millisecond late: as much as a fast server takes to answer. Linux's timerfd does not round.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time

import gevent
from gevent.hub import get_hub

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_READ = 1  # the event of gevent's loop.io


class _Timespec(ctypes.Structure):
    _fields_ = (("s", ctypes.c_long), ("ns", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Pacer:
    """A timer for one greenlet; close it when done."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            descriptor = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            if descriptor >= 0:
                self._descriptor = descriptor
                self._watcher = get_hub().loop.io(descriptor, _READ)

    def sleep_until(self, moment_s: float) -> None:
        """Return at ``moment_s`` on the clock of ``time.monotonic``.

        Yields to the other greenlets once even if the moment has passed.
        """
        left_s = moment_s - time.monotonic()
        if self._descriptor is None or left_s <= 0:
            gevent.sleep(max(0.0, left_s))
            return
        whole_s = int(moment_s)
        # A value of zero would disarm the timer; the fraction is rounded up, never to zero.
        value = _Timespec(whole_s, min(999_999_999, int((moment_s - whole_s) * 1e9) + 1))
        setting = _Itimerspec(_Timespec(0, 0), value)
        self._libc.timerfd_settime(
            self._descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(setting), None
        )
        get_hub().wait(self._watcher)
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, 8)  # else the next wait returns at once

    def close(self) -> None:
        """Give the timer back."""
        if self._descriptor is not None:
            self._watcher.close()
            os.close(self._descriptor)
            self._descriptor = None
