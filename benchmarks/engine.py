"""The load engine: one client, three ways to decide when a request leaves.

Poisson and constant arrivals are an open loop: requests leave at moments fixed in advance, and
each is measured from its moment on. A client that waits for an answer before it sends again stops
asking just when the server is slow, and so misses what the users who keep coming would have seen:
G. Tene's coordinated omission ("How NOT to Measure Latency", 2013). Here a request that should
have left at t and is answered at t + x took x, whether it waited in the server, in the network or
in this client.

``saturate`` is a closed loop: every connection always has one request under way. It gives the most
that a server can do, and says nothing of queues that build up while requests keep coming.

The client is a keep-alive HTTP/1.1 connection that posts at a cost of some 0.1 ms of processor: the
request head is built once, and of a plain reply only the head is looked at; any other is parsed by
llhttp (geventhttpclient's parser). So the load tester is not what is measured.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import gevent
import numpy as np
import numpy.typing as npt
from gevent import socket
from gevent.queue import Queue
from geventhttpclient.response import HTTPResponse
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from benchmarks.command import UsageError

Offsets = npt.NDArray[np.float64]
Body = Callable[[int, int], bytes]  # of a request, from its seed and number of images
Kind = Literal["image", "grid", "mix"]
PREDICT = "/predictions/dcgan"
GRID_IMAGES = 64
OUTCOMES = ("2xx", "3xx", "4xx", "503", "other_5xx", "timeout", "connection_error", "unsent")
_SEED_STEP = 2 * GRID_IMAGES  # apart, so that no image of one request is in another
_HOUR_US = 3_600_000_000
_BLOCK_BYTES = 1 << 18
LATE_S = 0.01
"""A request that leaves later than this after its moment is a late send."""
# Its timers are exact to a microsecond. Those of epoll end at the next whole millisecond, on
# average half of one late: as much as a fast server takes to answer.
gevent.config.libev_backend = "select"


class Ask(NamedTuple):
    """What one request says, and how many images it asks for; 0 where that is not known."""

    body: bytes
    images: int = 0


def json_body(seed: int, num_images: int) -> bytes:
    """A request as every server but Triton takes it."""
    return b'{"seed": %d, "num_images": %d}' % (seed, num_images)


def sizes(kind: Kind, grid_share: float, seed: int) -> Iterator[int]:
    """Images of each request, without end: 1, GRID_IMAGES, or a random mix, of which the share is
    grids. The same seed gives the same sizes."""
    random = np.random.default_rng(seed)
    while True:
        grid = kind == "grid" or (kind == "mix" and random.random() < grid_share)
        yield GRID_IMAGES if grid else 1


def asks(of: Iterable[int], first_seed: int, body: Body = json_body) -> Iterator[Ask]:
    """Requests of so many images, each with a seed of its own, so that no cache can answer."""
    for seed, images in zip(itertools.count(first_seed, _SEED_STEP), of, strict=False):
        yield Ask(body(seed, images), images)


def constant(rate_per_s: float, duration_s: float) -> Offsets:
    """Equally spaced arrivals, the first at 0.

    Returns:
        seconds from the start, float64 (n,), ascending, each in [0, duration_s).
    """
    # A product that is a hair above a whole number must not give one request more.
    return np.arange(np.ceil(rate_per_s * duration_s - 1e-9)) / rate_per_s


def poisson(rate_per_s: float, duration_s: float, seed: int | list[int]) -> Offsets:
    """A Poisson process: independent exponential gaps, as of many independent clients.

    The same seed gives the same arrivals (PCG64).

    Returns:
        seconds from the start, float64 (n,), ascending, each in [0, duration_s); n is random
        with mean and variance rate_per_s * duration_s.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    times: list[Offsets] = []
    last = 0.0
    while last < duration_s:
        block = last + np.cumsum(random.exponential(1.0 / rate_per_s, size=1024))
        times.append(block)
        last = float(block[-1])
    offsets = np.concatenate(times)
    return offsets[offsets < duration_s]


@dataclass(frozen=True)
class Target:
    """Where to post to; ``head`` is the request up to and including ``Content-Length: ``."""

    host: str
    port: int
    head: bytes

    def request(self, body: bytes) -> bytes:
        """All bytes of one."""
        return b"%b%d\r\n\r\n%b" % (self.head, len(body), body)


class Reply(NamedTuple):
    """A status, 200..599, and what X-Num-Images says; 0 without that header."""

    status: int
    images: int


def target(url: str, content_type: str, headers: tuple[str, ...] = ()) -> Target:
    """A target from a URL, without a path PREDICT of it, and ``Name: value`` headers.

    Raises:
        UsageError: not a plain http URL, or a header that is none.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 80
    except ValueError as error:
        raise UsageError(f"url: seen {url!r}: {error}") from None
    if parts.scheme != "http" or not parts.hostname or parts.username is not None:
        raise UsageError(
            f"url: seen {url!r}; allowed is http://host:port/path. For a server behind TLS give "
            "the address behind the proxy: TLS would measure the client as well"
        )
    lines = [f"Content-Type: {content_type}", *headers]
    for line in lines:
        name, colon, value = line.partition(":")
        if not (colon and name.strip() and value.strip() and line.isascii() and line.isprintable()):
            raise UsageError(f"header: seen {line!r}; allowed is 'Name: value' in ASCII")
    path = (parts.path.rstrip("/") or PREDICT) + (f"?{parts.query}" if parts.query else "")
    if not (path.isascii() and path.isprintable() and " " not in path):
        raise UsageError(f"url: seen the path {path!r}; percent-encode it")
    first = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUser-Agent: benchmarks.load\r\n"
    head = first + "".join(f"{line}\r\n" for line in lines) + "Content-Length: "
    return Target(parts.hostname, port, head.encode("ascii"))


def _plain(data: bytes) -> tuple[Reply, int, bool] | None:
    """The reply that most servers send: HTTP/1.1 with a Content-Length, its head in one piece.

    Parsing it here takes a fifth of llhttp's callbacks and no copy of the body, which on two cores
    would be measured as well.

    Returns:
        The reply, how many of its bytes are still to come, and whether the connection stays open;
        None for any other.
    """
    end = data.find(b"\r\n\r\n") + 4
    head = data[:end].lower()
    length, status = _value(head, b"content-length"), head[9:12]
    plain = head.startswith(b"http/1.1 ") and length.isdigit() and status.isdigit()
    if not plain or status < b"200" or b"\r\ntransfer-encoding:" in head:
        return None
    missing = end + int(length) - len(data)
    if missing < 0:
        return None
    images = _value(head, b"x-num-images")
    reply = Reply(int(status), int(images) if images.isdigit() else 0)
    return reply, missing, _value(head, b"connection") != b"close"


def _value(head: bytes, name: bytes) -> bytes:
    """Of a header in lower case; empty without it."""
    begin = head.find(b"\r\n" + name + b":")
    return (
        head[begin + len(name) + 3 : head.find(b"\r\n", begin + 2)].strip() if begin >= 0 else b""
    )


def _read_all(connected: socket.socket, data: bytes) -> tuple[Reply, bool]:
    """Any other reply, of which ``data`` has come; and whether the connection stays open."""
    parser = HTTPResponse("POST")
    while True:
        parser.feed(data)  # empty at the end: ends a body without a length
        if parser.message_complete and parser.status_code >= 200:  # after 1xx more follows
            break
        if not data:
            raise ConnectionError("closed before the end of the reply")
        data = connected.recv(_BLOCK_BYTES)
    images = str(parser.get("x-num-images", "0"))
    reply = Reply(parser.status_code, int(images) if images.isdecimal() else 0)
    return reply, not parser.should_close()


class Connection:
    """Opened at the first request, again after an error or when the server has closed it."""

    def __init__(self, to: Target) -> None:
        self._target = to
        self._socket: socket.socket | None = None
        self._readable = select.poll()

    def post(self, body: bytes) -> Reply:
        """Send and wait for the whole reply.

        Raises:
            OSError: refused, reset, or closed before the reply was complete.
            http.client.HTTPException: what came is no HTTP.
        """
        connected = self._open()
        connected.sendall(self._target.request(body))
        data = connected.recv(_BLOCK_BYTES)
        reply, missing, stays = _plain(data) or (None, 0, True)
        while missing:
            data = connected.recv(min(missing, _BLOCK_BYTES))
            if not data:
                raise ConnectionError("closed before the end of the reply")
            missing -= len(data)
        if reply is None:
            reply, stays = _read_all(connected, data)
        if not stays:
            self.close()
        return reply

    def close(self) -> None:
        """The next post opens again."""
        if self._socket is not None:
            with contextlib.suppress(KeyError):
                self._readable.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        # An idle connection that can be read was closed by the server: no fault of a request.
        if self._socket is not None and self._readable.poll(0):
            self.close()
        if self._socket is None:
            self._socket = socket.create_connection((self._target.host, self._target.port))
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._readable.register(self._socket.fileno(), select.POLLIN)
        return self._socket


def sleep_until(moment_s: float) -> None:
    """Return at ``moment_s`` on the clock of ``time.monotonic``, off by some 0.1 ms.

    Yields to the other greenlets once even if the moment has passed.
    """
    gevent.sleep(max(0.0, moment_s - time.monotonic()))


@dataclass(frozen=True)
class Limits:
    """What bounds a run.

    Args:
        connections: at most so many at once, opened when needed; or, of ``saturate``, all busy.
        timeout_s: nobody waits longer for a connection, nor for an answer once sent.
    """

    connections: int = 256
    timeout_s: float = 10.0


def histogram() -> HdrHistogram:
    """1 microsecond to 1 hour, three significant digits."""
    return HdrHistogram(1, _HOUR_US, 3)


def summary_ms(recorded: HdrHistogram) -> dict[str, float] | None:
    """Samples, mean, p50, p90, p99, p99_9 and max of microseconds, in ms; None without a sample."""
    samples = recorded.get_total_count()
    if not samples:
        return None
    percentiles = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
    return {
        "samples": samples,
        "mean": recorded.get_mean_value() / 1000,
        **{
            name: recorded.get_value_at_percentile(percent) / 1000
            for name, percent in percentiles.items()
        },
        "max": recorded.get_max_value() / 1000,
    }


@dataclass
class Tally:
    """What happened to the requests of one run.

    Args:
        window_s: length of the time in which requests were to be sent.
        arrivals: requests that were to be sent.
        outcomes: how many requests ended in each of OUTCOMES; they add up to ``arrivals``.
        latency_us: from the intended moment to the end of the reply, of 2xx. A request that
            timed out or found no connection in time counts with its wait so far: a lower bound.
            Refusals (4xx, 5xx, broken connections) do not count: they can be quick.
        send_lag_us: from the intended moment to the sending.
        late_no_connection: late sends because all connections were busy.
        late_client: late sends because this process was slow.
        in_window: 2xx by the end of the window.
        last_ok_s: when the last 2xx came, from the start.
        images: of the 2xx replies, by X-Num-Images, or as asked for where that is not sent.
        connections: opened at once at most.
        wall_s, cpu_s: of this process, over the window and until the last reply.
    """

    window_s: float
    arrivals: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    latency_us: HdrHistogram = field(default_factory=histogram)
    send_lag_us: HdrHistogram = field(default_factory=histogram)
    late_no_connection: int = 0
    late_client: int = 0
    in_window: int = 0
    last_ok_s: float = 0.0
    images: int = 0
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


class _Run:
    def __init__(self, to: Target, limits: Limits, tally: Tally, start_s: float) -> None:
        self._target, self._limits, self._tally, self.start_s = to, limits, tally, start_s
        self._queue: Queue = Queue()
        self._idle = 0
        self.workers: list[gevent.Greenlet] = []

    def dispatch(self, due_s: float, ask: Ask) -> None:
        """Hand over to an idle connection, or a new one, or else to the next that is free."""
        waits = False
        if self._queue.qsize() >= self._idle:
            if len(self.workers) < self._limits.connections:
                self.workers.append(gevent.spawn(self._work))
            else:
                waits = True
        self._queue.put((due_s, ask, waits))

    def finish(self) -> None:
        """Return when every request has an outcome."""
        for _ in self.workers:
            self._queue.put(None)
        gevent.joinall(self.workers, raise_error=True)

    def _work(self) -> None:
        with contextlib.closing(Connection(self._target)) as connection:
            while True:
                self._idle += 1
                job = self._queue.get()
                self._idle -= 1
                if job is None:
                    return
                self._send(connection, *job)

    def keep_busy(self, asks: Iterator[Ask]) -> None:
        """One connection that always has a request under way, until the window or ``asks`` ends."""
        with contextlib.closing(Connection(self._target)) as connection:
            for ask in asks:
                now_s = time.monotonic()
                if now_s >= self.start_s + self._tally.window_s:
                    return
                broken = self._tally.outcomes["connection_error"]
                self._tally.arrivals += 1
                self._send(connection, now_s, ask)
                if self._tally.outcomes["connection_error"] > broken:
                    gevent.sleep(0.01)  # a server that is gone must not be asked in a tight loop

    def _send(self, connection: Connection, due_s: float, ask: Ask, waits: bool = False) -> None:
        """``waits``: all connections were busy when it was due."""
        tally, limits = self._tally, self._limits
        lag_s = time.monotonic() - due_s
        tally.send_lag_us.record_value(_us(lag_s))
        if lag_s > LATE_S:
            if waits:
                tally.late_no_connection += 1
            else:
                tally.late_client += 1
        if lag_s >= limits.timeout_s:
            self._give_up("unsent", lag_s)
            return
        timeout = gevent.Timeout(limits.timeout_s)
        try:
            with timeout:
                reply = connection.post(ask.body)
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
                tally.latency_us.record_value(_us(end_s - due_s))
                tally.last_ok_s = end_s - self.start_s
                tally.in_window += tally.last_ok_s <= tally.window_s
                tally.images += reply.images or ask.images

    def _give_up(self, outcome: str, waited_s: float) -> None:
        self._tally.outcomes[outcome] += 1
        self._tally.latency_us.record_value(_us(waited_s))


def run(
    to: Target, offsets: Offsets, window_s: float, asks: Iterator[Ask], limits: Limits
) -> Tally:
    """Send one request at each offset from now; return when each has an outcome.

    That takes ``window_s`` at least, and twice the timeout more at most.

    Args:
        offsets: seconds, float64 (n,), ascending, within ``window_s``.
    """
    tally = Tally(window_s, len(offsets))
    with _running(to, tally, limits) as load:
        for offset in offsets.tolist():
            ask = next(asks)
            sleep_until(load.start_s + offset)
            load.dispatch(load.start_s + offset, ask)
        sleep_until(load.start_s + window_s)  # what is sampled meanwhile covers the window
        load.finish()
    return tally


def saturate(to: Target, window_s: float, asks: Iterator[Ask], limits: Limits) -> Tally:
    """Keep all connections busy for so long, and wait for the last answers."""
    tally = Tally(window_s)
    with _running(to, tally, limits) as load:
        load.workers += [gevent.spawn(load.keep_busy, asks) for _ in range(limits.connections)]
        gevent.joinall(load.workers, raise_error=True)
    return tally


@contextlib.contextmanager
def _running(to: Target, tally: Tally, limits: Limits) -> Iterator[_Run]:
    # Else a collection looks at every imported module, for tens of milliseconds. Nor is there one
    # here: a Ctrl-C in it would be lost.
    gc.freeze()
    cpu_s = time.process_time()
    load = _Run(to, limits, tally, time.monotonic() + 0.01)
    try:
        yield load
    finally:
        gevent.killall(load.workers)
        gc.unfreeze()
        tally.connections = len(load.workers)
        tally.wall_s = time.monotonic() - load.start_s
        tally.cpu_s = time.process_time() - cpu_s


def _us(seconds: float) -> int:
    return min(_HOUR_US, max(1, round(1e6 * seconds)))


def _kind(status: int) -> str:
    if status == 503:
        return "503"
    return "other_5xx" if status >= 500 else f"{status // 100}xx"
