"""``python -m benchmarks.soak``: does a server that works for long leak, fail or slow down?

Starts a server of its own, measures its peak for a moment, then sends requests at a share of it,
at moments fixed in advance: single images, grids, hostile bodies, and clients that hang up. What
the server holds is sampled meanwhile; ``benchmarks.leaks`` says what counts as a leak, BOUNDS by
how much. A table goes to stdout, everything to a JSON file and a picture. Exit codes: 0 no leak
and no error, 1 a leak, an error, or no server, 2 bad usage.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import psutil
import tyro

from benchmarks import arrivals, leaks, open_loop, soak_plot
from benchmarks.background import end_on_sigterm
from benchmarks.http_connection import Connection, Target, target
from benchmarks.leaks import Bound, Trend
from benchmarks.points import summarize
from benchmarks.soak_work import Bodies, HangUps
from benchmarks.vitals import SERIES, Vitals, VitalsSampler
from deploy.java import NoJavaError
from deploy.server import ROOT, Ports, Server, ServerError
from training.files import atomic_path

BOUNDS = {
    "worker_rss_mb": Bound(20, 0.02),
    "java_rss_mb": Bound(60, 0.05),  # its heap may grow up to a quarter of the machine's memory
    "worker_fds": Bound(3),
    "java_fds": Bound(5),
    "worker_threads": Bound(2),
    "java_threads": Bound(5),
    "sockets": Bound(5),
    "temp_files": Bound(2),
    "temp_mb": Bound(1),
    "workers": Bound(0.5),
}
_AT_REST = ("worker_fds", "java_fds", "sockets")  # between windows, when no client is connected
LATENCY = Bound(20, 0.5)  # of the p50 of a window, ms
_WINDOW_S = 20.0
_REST_S = 0.5  # for connections to close
_CONNECTIONS = 32
_MOST_PAUSE_S = 15.0


@dataclass(frozen=True)
class SoakConfig:
    """Load a server for long, and look for leaks, errors and a growing latency."""

    seconds: float = 600.0
    """Length of the load."""
    share: float = 0.7
    """Of the peak, 0..1."""
    rate: float | None = None
    """Requests/s instead of a share of the peak."""
    peak_seconds: float = 10.0
    """How long the peak is measured."""
    hostile_share: float = 0.1
    """Part of the requests that is hostile, 0..1."""
    grid_share: float = 0.03
    """Part of the friendly requests that asks for 64 images, 0..1."""
    model_store: Path = ROOT / "model_store"
    """Folder of the dcgan.mar to serve."""
    out: Path = Path("soak.json")
    """Where everything measured goes; the picture lies beside it, as .png."""

    def check(self) -> None:
        """Raises:
        ValueError: a setting is out of its range.
        """
        for name, low, high in (
            ("seconds", 8.0, 86_400.0), ("share", 0.01, 1.0), ("peak_seconds", 1.0, 600.0),
            ("hostile_share", 0.0, 1.0), ("grid_share", 0.0, 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: seen {value:g}; allowed is {low:g} to {high:g}")
        if self.rate is not None and not 0.1 <= self.rate <= 10_000:
            raise ValueError(f"rate: seen {self.rate:g}; allowed is 0.1 to 10000")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(SoakConfig, prog="python -m benchmarks.soak", args=given)
    end_on_sigterm()
    try:
        config.check()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        result = soak(config)
    except (ServerError, NoJavaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    result = {"command": shlex.join(["python", "-m", "benchmarks.soak", *given]), **result}
    with atomic_path(config.out) as beside:
        beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    soak_plot.draw(result, config.out.with_suffix(".png"))
    print(table(result))
    for failure in result["failures"]:
        print(f"error: {failure}", file=sys.stderr)
    return 1 if result["failures"] else 0


def soak(config: SoakConfig) -> dict[str, Any]:
    """The whole run, as JSON values.

    Raises:
        ServerError, NoJavaError: the server cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="dcgan-soak-") as temporary:
        server = Server(Path(temporary), config.model_store, Ports.free())
        with server.running() as process:
            to = target(server.predict_url, "application/json")
            peak_per_s = None if config.rate else _peak(to, config)
            rate_per_s = config.rate or config.share * (peak_per_s or 0.0)
            print(f"{rate_per_s:.1f} requests/s for {config.seconds:.0f} s", file=sys.stderr)
            bodies = Bodies(config.hostile_share, config.grid_share, seed=1)
            period_s = min(1.0, config.seconds / 60)
            launcher = psutil.Process(process.pid)
            with (
                VitalsSampler(launcher, server.folder / "tmp", period_s) as sampler,
                HangUps(to, max(0.5, period_s)) as hang_ups,
            ):
                windows, at_rest = _load(to, config, rate_per_s, bodies, sampler)
    outcomes: Counter[str] = sum((Counter(w["outcomes"]) for w in windows), Counter())
    trends = judge(sampler.samples, at_rest)
    trends["p50_ms"] = leaks.trend(
        [w["end_s"] for w in windows], [w["latency_ms"]["p50"] for w in windows], LATENCY
    )
    return {
        "machine": f"{psutil.cpu_count()} CPUs, {platform.platform()}",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": config.seconds,
        "peak_per_s": peak_per_s,
        "rate_per_s": rate_per_s,
        "outcomes": dict(outcomes),
        "hostile": bodies.hostile,
        "hang_ups": hang_ups.count,
        "worker_pids": sorted(sampler.worker_pids),
        "trends": {name: {**asdict(t), "leaks": t.leaks} for name, t in trends.items()},
        "failures": failures(
            outcomes, bodies.hostile, len(sampler.worker_pids), trends, pause_s(sampler.samples)
        ),
        "windows": windows,
        "samples": {
            name: [getattr(sample, name) for sample in sampler.samples]
            for name in ("time_s", *SERIES)
        },
    }


def judge(samples: Sequence[Vitals], at_rest: Sequence[Vitals]) -> dict[str, Trend]:
    """The trend of everything that is sampled, against BOUNDS.

    Args:
        samples: under load.
        at_rest: when no client was connected, for what grows with the number of connections.
    """
    found = {}
    for name, bound in BOUNDS.items():
        chosen = at_rest if name in _AT_REST else samples
        values = [getattr(sample, name) for sample in chosen]
        found[name] = leaks.trend([sample.time_s for sample in chosen], values, bound)
    return found


def pause_s(samples: Sequence[Vitals]) -> float:
    """The longest time without a sample, s."""
    return max((b.time_s - a.time_s for a, b in pairwise(samples)), default=0.0)


def failures(
    outcomes: Counter[str],
    hostile: int,
    workers: int,
    trends: dict[str, Trend],
    longest_pause_s: float,
) -> list[str]:
    """What is wrong, in words; empty when nothing is.

    Args:
        outcomes: number of requests by outcome.
        hostile: requests that had to be refused.
        workers: worker processes that were seen; the one that there should be stays the same.
        trends: by name.
        longest_pause_s: without a sample: long when somebody stopped this process or its machine.
    """
    found = [
        f"{outcomes[name]} requests ended as {name}"
        for name in open_loop.OUTCOMES
        if name not in ("2xx", "4xx") and outcomes[name]
    ]
    if outcomes["4xx"] != hostile:
        found.append(f"{outcomes['4xx']} requests were refused, {hostile} had to be")
    if workers != 1:
        found.append(f"{workers} worker processes were seen instead of one")
    if longest_pause_s > _MOST_PAUSE_S:
        found.append(
            f"nothing was sampled for {longest_pause_s:.0f} s: this process was stopped, or the "
            "machine was far too busy; the run says little"
        )
    return found + [
        f"{name} grows: by {trend.growth:.1f} over the second half, {trend.allowed:.1f} is allowed"
        for name, trend in trends.items()
        if trend.leaks
    ]


def table(result: dict[str, Any]) -> str:
    """The trends as Markdown."""
    lines = ["| what | median | growth over the second half | allowed |", "|---|---|---|---|"]
    for name, trend in result["trends"].items():
        lines.append(
            f"| {name} | {trend['median']:.1f} | {trend['growth']:+.1f} | {trend['allowed']:.1f} |"
        )
    return "\n".join(lines)


def _peak(to: Target, config: SoakConfig) -> float:
    """Answered requests/s of the same mix when every connection always has one under way."""
    bodies, answered = Bodies(config.hostile_share, config.grid_share, seed=2), 0

    def keep_busy(until_s: float) -> None:
        nonlocal answered
        connection = Connection(to)
        while time.monotonic() < until_s:
            connection.post(next(bodies))
            answered += 1
        connection.close()

    for seconds in (min(2.0, config.peak_seconds), config.peak_seconds):  # the first to warm up
        answered, until_s = 0, time.monotonic() + seconds
        busy = [gevent.spawn(keep_busy, until_s) for _ in range(_CONNECTIONS)]
        gevent.joinall(busy, raise_error=True)
    peak_per_s = answered / config.peak_seconds
    print(f"peak: {peak_per_s:.1f} requests/s", file=sys.stderr)
    return peak_per_s


def _load(
    to: Target, config: SoakConfig, rate_per_s: float, bodies: Bodies, sampler: VitalsSampler
) -> tuple[list[dict[str, Any]], list[Vitals]]:
    """Windows one after another, each with its outcomes and latencies; what the server held at
    rest after each."""
    windows: list[dict[str, Any]] = []
    at_rest = []
    began_s = time.monotonic()
    count = max(8, round(config.seconds / _WINDOW_S))
    window_s = config.seconds / count
    for number in range(count):
        offsets = arrivals.poisson(rate_per_s, window_s, [1, number])
        tally = open_loop.run(to, offsets, window_s, bodies, open_loop.Limits(timeout_s=30))
        time.sleep(_REST_S)
        at_rest.append(sampler.sample())
        point = summarize(rate_per_s, tally, {})
        windows.append(
            {
                "end_s": time.monotonic() - began_s,
                "outcomes": point.outcomes,
                "latency_ms": point.latency_ms or {"p50": 0.0, "p99": 0.0},  # nothing was sent
            }
        )
        print(
            f"{windows[-1]['end_s']:.0f} s: {tally.outcomes['2xx']} answered, "
            f"{tally.outcomes['4xx']} refused, p50 {windows[-1]['latency_ms']['p50']:.0f} ms",
            file=sys.stderr,
        )
    return windows, at_rest


if __name__ == "__main__":
    sys.exit(main())
