"""The settings of ``python -m benchmarks.load``, and what is allowed."""

from __future__ import annotations

import math
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from benchmarks.work import Kind


@dataclass(frozen=True)
class LoadConfig:
    """Send requests at given rates, whatever the server does, and say how long users wait.

    Without --rate the rate grows until the server no longer carries it.
    """

    url: str = "http://127.0.0.1:8080/predictions/dcgan"
    """Where to post."""
    rate: tuple[float, ...] = ()
    """Requests/s: one rate or several, ascending; none for a sweep."""
    duration_s: float = 10.0
    """Length of each point."""
    arrivals: Literal["poisson", "constant"] = "poisson"
    """Poisson, as many independent users, or equally spaced."""

    work: Kind = "image"
    """One image a request, a grid of 64, or a mix of both; each request has its own seed."""
    grid_share: float = 0.25
    """Part of the mix that is grids, 0..1."""
    body: str | None = None
    """Send this instead, the same each time; @FILE reads it from a file."""
    content_type: str = "application/json"
    """Of the body."""
    header: tuple[str, ...] = ()
    """More request headers, each as 'Name: value'."""

    start_rate: float = 5.0
    """First rate of a sweep, requests/s."""
    growth: float = 1.5
    """Each rate of a sweep by the one before."""
    beyond: int = 2
    """Points of a sweep after the knee."""
    max_points: int = 16
    """Most points of a sweep."""
    min_share: float = 0.95
    """A rate with less throughput by offered load is too much."""
    p99_factor: float = 5.0
    """A rate with a p99 of more than so many times that of the lowest rate is too much."""

    warmup_s: float = 2.0
    """Requests at the first rate before the first point, not counted."""
    connections: int = 256
    """Most connections at once."""
    timeout_s: float = 10.0
    """Longest wait for a free connection, and for an answer."""
    late_ms: float = 10.0
    """A request that leaves later than this after its moment counts as a late send."""
    max_requests: int = 200_000
    """Most requests of the whole command; a point that would exceed it is not begun."""
    seed: int | None = None
    """Of arrivals and bodies, 0..2^32-1; drawn and told when left out."""

    pid: int | None = None
    """The server's process: also sample processor time and memory of it and its descendants."""
    metrics_url: str | None = None
    """A Prometheus endpoint, such as http://127.0.0.1:8082/metrics: also say what changed."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write the JSON here; stdout by default."""
    report: Path | None = None
    """Also draw the throughput-latency curve here (PNG)."""

    def check(self) -> None:
        """Raises:
        ValueError: a setting is out of its range, or the files cannot be written.
        """
        for rate in self.rate:
            _within("rate", rate, 0.001, 100_000)
        if list(self.rate) != sorted(set(self.rate)):
            raise ValueError(f"rate: seen {self.rate}; allowed are ascending rates, each once")
        _within("duration_s", self.duration_s, 0.1, 3600)
        _within("grid_share", self.grid_share, 0, 1)
        _within("start_rate", self.start_rate, 0.001, 100_000)
        _within("growth", self.growth, 1.01, 100)
        _within("beyond", self.beyond, 0, 100)
        _within("max_points", self.max_points, 1, 100)
        _within("min_share", self.min_share, 0, 1)
        _within("p99_factor", self.p99_factor, 1, 1e6)
        _within("warmup_s", self.warmup_s, 0, 600)
        _within("timeout_s", self.timeout_s, 0.01, 600)
        _within("late_ms", self.late_ms, 0.1, 10_000)
        _within("max_requests", self.max_requests, 1, 10_000_000)
        _within("seed", self.seed or 0, 0, 2**32 - 1)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = 10_000 if files == resource.RLIM_INFINITY else min(10_000, files - 64)
        _within("connections", self.connections, 1, most)  # see ulimit -n
        for name, path in (("out", self.out), ("report", self.report)):
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise ValueError(f"{name}: seen {path}; allowed is a file in a folder that exists")

    def read_body(self) -> bytes | None:
        """What --body says, or None without one.

        Raises:
            ValueError: its file cannot be read.
        """
        if self.body is None or not self.body.startswith("@"):
            return None if self.body is None else self.body.encode()
        try:
            return Path(self.body[1:]).read_bytes()
        except OSError as error:
            raise ValueError(f"body: cannot read {self.body[1:]}: {error.strerror}") from error


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name}: seen {value:g}; allowed is {low:g} to {high:g}")
