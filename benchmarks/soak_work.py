"""What a soak sends: friendly requests, hostile ones among them, and clients that hang up."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator

from benchmarks import work
from benchmarks.background import Background
from benchmarks.http_connection import Target

_DEEP = 50_000
HOSTILE = [
    body.encode()
    for body in (
        "",
        "{",
        "17",
        '{"seed": -1}',
        '{"sede": 1}',
        '{"seed": 1e999}',
        '{"num_images": 257}',
        '{"seeds": [1, null]}',
        '{"noise": [[NaN]]}',
        '{"walk": {"between": [1, 2], "steps": 1000000000}}',
        '{"num_images": 256, "columns": 256, "padding": 64}',
        '{"background": "\\r\\nX-Injected: 1"}',
        "[" * _DEEP + "]" * _DEEP,
        json.dumps({f"k{i}": i for i in range(20_000)}),
        json.dumps({"seed": "9" * 500_000}),
    )
    if body
]
"""JSON bodies, each answered with a status of 400 to 499."""


class Bodies:
    """Bodies without end; ``hostile`` counts those of HOSTILE so far.

    Args:
        hostile_share: part that is hostile, 0..1.
        grid_share: part of the rest that asks for 64 images, 0..1.
        seed: the same gives the same bodies.
    """

    def __init__(self, hostile_share: float, grid_share: float, seed: int) -> None:
        self._random = random.Random(seed)
        self._share = hostile_share
        self._friendly = work.bodies("mix", grid_share, seed)
        self.hostile = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._random.random() >= self._share:
            return next(self._friendly)
        self.hostile += 1
        return self._random.choice(HOSTILE)


class HangUps(Background):
    """While its ``with`` block runs, a client a period that goes away in mid-request.

    Args:
        to: whom to bother.
        period_s: between two of them.
    """

    def __init__(self, to: Target, period_s: float) -> None:
        super().__init__(self._hang_up, period_s)
        self._to = to
        self.count = 0
        body = b'{"seed": 1, "num_images": 64}'
        self._request = b"%b%d\r\n\r\n%b" % (to.head, len(body), body)

    def _hang_up(self) -> None:
        length = len(self._request)
        ends = (1, length // 2, length - 1, length)
        with socket.create_connection((self._to.host, self._to.port), 10) as opened:
            opened.sendall(self._request[: ends[self.count % len(ends)]])
        self.count += 1
