"""Send requests at moments fixed in advance, and measure each from its moment on.

A client that waits for an answer before it sends again stops asking just when the server is
slow, and so misses what the users who keep coming would have seen: G. Tene's coordinated
omission ("How NOT to Measure Latency", 2013). Here a request that should have left at t and is
answered at t + x took x, whether it waited in the server, in the network or in this client.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException

import gevent
from gevent.queue import Queue
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from benchmarks.arrivals import Offsets
from benchmarks.http_connection import Connection, Target
from benchmarks.pacer import Pacer

OUTCOMES = ("2xx", "3xx", "4xx", "503", "other_5xx", "timeout", "connection_error", "unsent")
_HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Limits:
    """What bounds a run.

    Args:
        connections: at most so many at once; opened when needed.
        timeout_s: nobody waits longer for a connection, nor for an answer once sent.
        late_s: a request that leaves later than this after its moment is a late send.
    """

    connections: int = 256
    timeout_s: float = 10.0
    late_s: float = 0.01


def histogram() -> HdrHistogram:
    """1 microsecond to 1 hour, three significant digits."""
    return HdrHistogram(1, _HOUR_US, 3)


@dataclass
class Tally:
    """What happened to the requests of one run.

    Args:
        arrivals: requests that were to be sent.
        window_s: length of the time in which they were to be sent.
        outcomes: how many requests ended in each of OUTCOMES; they add up to ``arrivals``.
        latency_us: from the intended moment to the end of the reply, of 2xx. A request that
            timed out or found no connection in time counts with its wait so far: a lower bound.
            Refusals (4xx, 5xx, broken connections) do not count: they can be quick.
        send_lag_us: from the intended moment to the sending.
        late_no_connection: late sends because all connections were busy.
        late_client: late sends because this process was slow.
        in_window: 2xx by the end of the window.
        last_ok_s: when the last 2xx came, from the start.
        images, size_bytes: of the 2xx replies.
        connections: opened at once at most.
        wall_s, cpu_s: of this process, over the window and until the last reply.
    """

    arrivals: int
    window_s: float
    outcomes: Counter[str] = field(default_factory=Counter)
    latency_us: HdrHistogram = field(default_factory=histogram)
    send_lag_us: HdrHistogram = field(default_factory=histogram)
    late_no_connection: int = 0
    late_client: int = 0
    in_window: int = 0
    last_ok_s: float = 0.0
    images: int = 0
    size_bytes: int = 0
    connections: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    @property
    def throughput_per_s(self) -> float:
        """Answered requests (2xx) by time.

        Both the number answered within the window and the rate up to the last answer are at
        most what the server does; the one suffers from requests still under way, the other from
        a single straggler. So the larger of the two.
        """
        whole = self.outcomes["2xx"] / max(self.window_s, self.last_ok_s)
        return max(whole, self.in_window / self.window_s)


@dataclass(frozen=True)
class _Job:
    due_s: float
    body: bytes
    waits: bool  # all connections were busy when it was due


class _Run:
    def __init__(self, to: Target, limits: Limits, tally: Tally, start_s: float) -> None:
        self._target, self._limits, self._tally, self._start_s = to, limits, tally, start_s
        self._queue: Queue = Queue()
        self._idle = 0
        self.workers: list[gevent.Greenlet] = []

    def dispatch(self, due_s: float, body: bytes) -> None:
        """Hand over to an idle connection, or a new one, or else to the next that is free."""
        waits = False
        if self._queue.qsize() >= self._idle:
            if len(self.workers) < self._limits.connections:
                self.workers.append(gevent.spawn(self._work))
            else:
                waits = True
        self._queue.put(_Job(due_s, body, waits))

    def finish(self) -> None:
        """Return when every request has an outcome."""
        for _ in self.workers:
            self._queue.put(None)
        gevent.joinall(self.workers, raise_error=True)

    def kill(self) -> None:
        gevent.killall(self.workers)

    def _work(self) -> None:
        connection = Connection(self._target)
        try:
            while True:
                self._idle += 1
                job = self._queue.get()
                self._idle -= 1
                if job is None:
                    return
                self._send(connection, job)
        finally:
            connection.close()

    def _send(self, connection: Connection, job: _Job) -> None:
        tally, limits = self._tally, self._limits
        lag_s = time.monotonic() - job.due_s
        tally.send_lag_us.record_value(_us(lag_s))
        if lag_s > limits.late_s:
            if job.waits:
                tally.late_no_connection += 1
            else:
                tally.late_client += 1
        if lag_s >= limits.timeout_s:
            self._give_up("unsent", lag_s)
            return
        timeout = gevent.Timeout(limits.timeout_s)
        try:
            with timeout:
                reply = connection.post(job.body)
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            connection.close()
            self._give_up("timeout", lag_s + limits.timeout_s)
        except (OSError, HTTPException):
            connection.close()
            tally.outcomes["connection_error"] += 1
        else:
            end_s = time.monotonic()
            kind = _kind(reply.status)
            tally.outcomes[kind] += 1
            if kind == "2xx":
                tally.latency_us.record_value(_us(end_s - job.due_s))
                tally.last_ok_s = end_s - self._start_s
                tally.in_window += tally.last_ok_s <= tally.window_s
                tally.images += reply.images
                tally.size_bytes += reply.size_bytes

    def _give_up(self, outcome: str, waited_s: float) -> None:
        self._tally.outcomes[outcome] += 1
        self._tally.latency_us.record_value(_us(waited_s))


def run(
    to: Target,
    offsets: Offsets,
    window_s: float,
    bodies: Iterator[bytes],
    limits: Limits,
    progress: Callable[[float, Tally], None] | None = None,
) -> Tally:
    """Send one request at each offset from now; return when each has an outcome.

    That takes ``window_s`` at least, and twice the timeout more at most.

    Args:
        offsets: seconds, float64 (n,), ascending, within ``window_s``.
        progress: called every second with the seconds passed and the tally so far.
    """
    tally = Tally(len(offsets), window_s)
    gc.collect()
    gc.freeze()  # else a collection looks at every imported module, for tens of milliseconds
    pacer, cpu_s = Pacer(), time.process_time()
    start_s = time.monotonic() + 0.01
    load = _Run(to, limits, tally, start_s)
    reporter = gevent.spawn(_report, progress, start_s, tally) if progress else None
    try:
        for offset in offsets.tolist():
            body = next(bodies)
            pacer.sleep_until(start_s + offset)
            load.dispatch(start_s + offset, body)
        pacer.sleep_until(start_s + window_s)  # what is sampled meanwhile covers the window
        load.finish()
    finally:
        load.kill()
        if reporter is not None:
            reporter.kill()
        pacer.close()
        gc.unfreeze()
        tally.connections = len(load.workers)
        tally.wall_s = time.monotonic() - start_s
        tally.cpu_s = time.process_time() - cpu_s
    return tally


def _report(progress: Callable[[float, Tally], None], start_s: float, tally: Tally) -> None:
    while True:
        gevent.sleep(1.0)
        progress(time.monotonic() - start_s, tally)


def _us(seconds: float) -> int:
    return min(_HOUR_US, max(1, round(1e6 * seconds)))


def _kind(status: int) -> str:
    if status == 503:
        return "503"
    return "other_5xx" if status >= 500 else f"{status // 100}xx"
