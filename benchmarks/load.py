"""``python -m benchmarks.load``: how much load a server carries, and how long users wait.

An open loop: requests leave at moments fixed in advance, however slow the server is, and each
counts from its moment (``benchmarks.open_loop``). docs/load-testing.md says how to read it.
The JSON goes to stdout or -o, progress to stderr. Exit codes: 0 measured, 1 the server cannot
be reached or nothing was answered 2xx, 2 bad usage, 130 after Ctrl-C, with what was measured.
"""

from __future__ import annotations

import itertools
import os
import platform
import secrets
import shlex
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from typing import Any

import gevent
import psutil
import requests
import tyro

from benchmarks import arrivals, knee, load_output, prometheus, work
from benchmarks.arrivals import Offsets
from benchmarks.http_connection import Connection, Target, target
from benchmarks.load_config import LoadConfig
from benchmarks.open_loop import Limits, run
from benchmarks.points import Point, summarize
from benchmarks.resources import Sampler


class LoadError(RuntimeError):
    """The server cannot be measured; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(LoadConfig, prog="python -m benchmarks.load", args=given)
    try:
        config.check()
        measurement = Measurement(config, target(config.url, config.content_type, config.header))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        measurement.run()
        code = 0
    except LoadError as error:
        code, measurement.stopped = 1, f"failed: {error}"
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        code, measurement.stopped = 130, "interrupted"
    if not measurement.points:
        return code or 1
    command = shlex.join(["python", "-m", "benchmarks.load", *given])
    load_output.write(measurement.result(command), config.out, config.report)
    if code == 0 and not any(point.outcomes["2xx"] for point in measurement.points):
        print("error: no request was answered 2xx", file=sys.stderr)
        return 1
    return code


@dataclass
class Measurement:
    """The points of one command, as they come.

    Raises:
        ValueError: the body cannot be read, or there is no process ``pid``.
    """

    config: LoadConfig
    to: Target
    points: list[Point] = field(default_factory=list)
    stopped: str = ""

    def __post_init__(self) -> None:
        config = self.config
        self.seed = secrets.randbits(32) if config.seed is None else config.seed
        body = config.read_body()
        self._bodies: Iterator[bytes] = (
            work.bodies(config.work, config.grid_share, self.seed)
            if body is None
            else itertools.repeat(body)
        )
        self._requests_left = config.max_requests
        self._limits = Limits(config.connections, config.timeout_s, config.late_ms / 1000)
        if config.pid is not None and not psutil.pid_exists(config.pid):
            raise ValueError(f"pid: seen {config.pid}; there is no such process")

    @property
    def knee(self) -> knee.Knee | None:
        """None as well where only this client, not the server, could not keep up."""
        thresholds = knee.Thresholds(self.config.min_share, self.config.p99_factor)
        return knee.find([p for p in self.points if not p.client_saturated], thresholds)

    def run(self) -> None:
        """Measure; ``stopped`` says why it ended.

        Raises:
            LoadError: nothing answers, or the metrics cannot be read.
        """
        config = self.config
        self._knock()
        rates = config.rate or tuple(
            config.start_rate * config.growth**i for i in range(config.max_points)
        )
        self._warm_up(rates[0])
        for number, rate_per_s in enumerate(rates):
            offsets = self._offsets(rate_per_s, number)
            if len(offsets) > self._requests_left:
                self.stopped = f"the next point would exceed max_requests {config.max_requests}"
                print(self.stopped, file=sys.stderr)
                return
            self.points.append(self._point(rate_per_s, offsets))
            bend = self.knee
            if self.points[-1].client_saturated:
                self.stopped = "this client is saturated: its last point says nothing of the server"
                print(f"{self.stopped}; run it on a machine of its own", file=sys.stderr)
                return
            if bend and not config.rate and number - bend.index >= config.beyond:
                self.stopped = "knee found"
                return
        self.stopped = "all rates measured"

    def result(self, command: str) -> dict[str, Any]:
        """Everything measured, as JSON values."""
        bend = self.knee
        return {
            "command": command,
            "date": time.strftime("%Y-%m-%d"),
            "client_machine": f"{os.cpu_count()} CPUs, {platform.platform()}",
            "url": self.config.url,
            "arrivals": self.config.arrivals,
            "work": self.config.work if self.config.body is None else "body",
            "seed": self.seed,
            "knee": asdict(bend) if bend else None,
            "stopped": self.stopped,
            "points": [
                {**asdict(point), "client_saturated": point.client_saturated}
                for point in self.points
            ],
        }

    def _knock(self) -> None:
        """One request, so that a wrong address is an error and no measurement."""
        connection, limit_s = Connection(self.to), self.config.timeout_s
        try:
            with gevent.Timeout(limit_s, TimeoutError(f"no answer within {limit_s:g} s")):
                connection.post(next(self._bodies))
        except (OSError, HTTPException) as error:
            raise LoadError(
                f"{self.config.url} does not answer: {error or type(error).__name__}. Start the "
                f"server (make serve), or give its address with --url{_unused_proxy(self.to.host)}"
            ) from error
        finally:
            connection.close()
        self._requests_left -= 1

    def _warm_up(self, rate_per_s: float) -> None:
        offsets = arrivals.constant(rate_per_s, self.config.warmup_s)[: self._requests_left]
        if len(offsets):
            print(f"warming up for {self.config.warmup_s:g} s", file=sys.stderr)
            run(self.to, offsets, self.config.warmup_s, self._bodies, self._limits)
            self._requests_left -= len(offsets)

    def _offsets(self, rate_per_s: float, number: int) -> Offsets:
        if self.config.arrivals == "constant":
            return arrivals.constant(rate_per_s, self.config.duration_s)
        return arrivals.poisson(rate_per_s, self.config.duration_s, [self.seed, number])

    def _point(self, rate_per_s: float, offsets: Offsets) -> Point:
        self._requests_left -= len(offsets)
        before = self._scrape()
        with Sampler(self.config.pid) as sampler:
            tally = run(
                self.to, offsets, self.config.duration_s, self._bodies, self._limits,
                lambda passed_s, so_far: load_output.progress(rate_per_s, passed_s, so_far),
            )  # fmt: skip
        after = self._scrape()
        resources = sampler.result()
        if before and after:
            resources["metrics"] = prometheus.difference(before, after)
        point = summarize(rate_per_s, tally, resources)
        load_output.told(point)
        return point

    def _scrape(self) -> prometheus.Metrics | None:
        if self.config.metrics_url is None:
            return None
        try:
            return prometheus.scrape(self.config.metrics_url)
        except requests.RequestException as error:
            raise LoadError(
                f"metrics_url: cannot read {self.config.metrics_url}: {error}"
            ) from error


def _unused_proxy(host: str) -> str:
    """What to know where others reach the host by a proxy only."""
    proxy = urllib.request.getproxies().get("http")
    near = host in ("localhost", "::1") or host.startswith("127.")
    if proxy is None or near or urllib.request.proxy_bypass(host):
        return ""
    return f". The proxy {proxy} of http_proxy is not used, it would be measured as well"


if __name__ == "__main__":
    sys.exit(main())
