"""A fixed number of connections, each sending its next request when the last one is answered.

Gives the most a server can do and its latency at that load; it says nothing of queues that
build up while requests keep coming, for which benchmarks.load is the tool.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

import gevent
import numpy as np
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

Body = Callable[[int, int], bytes]  # of a request, from its seed and number of images


def json_body(seed: int, num_images: int) -> bytes:
    """A request as every server but Triton takes it."""
    return json.dumps({"seed": seed, "num_images": num_images}).encode()


@dataclass(frozen=True)
class Work:
    """What the connections ask for.

    Args:
        name: for tables.
        num_images: images of each request, taken in turn; (1, 1, 64) is a mix.
        connections: how many at once.
    """

    name: str
    num_images: tuple[int, ...]
    connections: int


@dataclass(frozen=True)
class Load:
    """What one run gave.

    Args:
        images_per_s: images in answered requests by wall time.
        images: in answered requests.
        p50_ms, p99_ms: latency of answered requests; None if there were none.
        requests: answered with 200.
        failed: any other status, time-outs and broken connections.
        latencies_ms: of every answered request.
    """

    images_per_s: float
    images: int
    p50_ms: float | None
    p99_ms: float | None
    requests: int
    failed: int
    latencies_ms: tuple[float, ...] = field(default=(), repr=False)


@dataclass
class _Tally:
    latencies_ms: list[float] = field(default_factory=list)
    images: int = 0
    failed: int = 0


def run(url: str, work: Work, seconds: float, first_seed: int = 0, body: Body = json_body) -> Load:
    """Keep the connections busy for so many seconds, and wait for the last answers.

    Every request has a seed of its own, so that no cache can answer.
    """
    parts = urlsplit(url)
    host = parts.hostname or "127.0.0.1"
    seeds = count(first_seed, 1000)
    tally = _Tally()
    deadline = time.perf_counter() + seconds

    def connection(index: int) -> None:
        client = HTTPClient(
            host, parts.port, concurrency=1, connection_timeout=10, network_timeout=60
        )
        sizes = count(index)
        while (start := time.perf_counter()) < deadline:
            images = work.num_images[next(sizes) % len(work.num_images)]
            said = body(next(seeds), images)
            try:
                reply = client.post(parts.path, said, {"Content-Type": "application/json"})
                reply.read()
                good = reply.status_code == 200
            except (OSError, HTTPParseError):  # the second: closed before the reply was whole
                good = False
            if good:
                tally.latencies_ms.append(1000 * (time.perf_counter() - start))
                tally.images += images
            else:
                tally.failed += 1
                gevent.sleep(0.01)  # a server that is gone must not be asked in a tight loop
        client.close()

    began = time.perf_counter()
    gevent.joinall([gevent.spawn(connection, i) for i in range(work.connections)], raise_error=True)
    wall_s = time.perf_counter() - began
    p50_ms, p99_ms = (
        float(np.quantile(tally.latencies_ms, share)) if tally.latencies_ms else None
        for share in (0.5, 0.99)
    )
    return Load(
        images_per_s=tally.images / wall_s,
        images=tally.images,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        requests=len(tally.latencies_ms),
        failed=tally.failed,
        latencies_ms=tuple(tally.latencies_ms),
    )
