"""``python -m benchmarks.soak``: does a server that works for long leak, fail or slow down?

Starts a server of its own, measures its peak for a moment, then sends requests at a share of it,
at moments fixed in advance: single images, grids, hostile bodies, and clients that hang up. What
the server holds is sampled meanwhile. A leak is a trend that adds more than its bound over the
second half of a run: caches, thread pools and heaps fill in the first. A table goes to stdout,
everything to a JSON file and a picture. Exit codes: 0 no leak and no error, 1 a leak, an error, or
no server, 2 bad usage.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import tyro
from matplotlib.figure import Figure

from benchmarks.command import Range, check, ending, markdown, provenance, run_main, write
from benchmarks.engine import (
    OUTCOMES,
    Ask,
    Limits,
    Target,
    asks,
    poisson,
    run,
    saturate,
    sizes,
    summary_ms,
    target,
)
from benchmarks.resources import Background
from client.files import whole
from deploy.lifecycle import ServerError
from deploy.server import ROOT, Ports, Server

Vitals = dict[str, float]
"""One sample by name: ``time_s`` since the sampler began; of all workers together and of Java the
resident memory (MB of 10^6 bytes), open file descriptors and threads; their TCP and UNIX sockets in
whatever state; the files below the folder for temporary files."""


@dataclass(frozen=True)
class Bound:
    """How much a trend may add over the second half of a run; the larger of the two counts."""

    absolute: float
    share: float = 0.0  # of the median of that half


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
}
_AT_REST = ("worker_fds", "java_fds", "sockets")  # between windows, when no client is connected
LATENCY = Bound(20, 0.5)  # of the p50 of a window, ms
_WINDOW_S = 20.0
_REST_S = 0.5  # for connections to close
_PEAK_S = 10.0  # how long
_SHARE = 0.7  # of the peak
_HOSTILE_SHARE = 0.1  # of all requests
_GRID_SHARE = 0.03  # of the others
_MOST_SAMPLES = 500  # of a trend: 125,000 pairs
_TIMEOUT_S = 30.0
_COLUMNS = {"median": ".1f", "growth": "+.1f", "allowed": ".1f"}
_PANELS = (
    ("memory, MB", ("worker_rss_mb", "java_rss_mb")),
    ("descriptors, sockets", ("worker_fds", "java_fds", "sockets")),
    ("threads", ("worker_threads", "java_threads")),
    ("temporary files", ("temp_files",)),
)
_DEEP = 50_000
HOSTILE = [
    body.encode()
    for body in (
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
]
"""JSON bodies, each answered with a status of 400 to 499."""


@dataclass(frozen=True)
class SoakConfig:
    """Load a server for long, and look for leaks, errors and a growing latency."""

    seconds: Annotated[float, Range(8, 86_400)] = 600.0
    """Length of the load."""
    rate: Annotated[float | None, Range(0.1, 10_000)] = None
    """Requests/s instead of 0.7 of the peak."""
    model_store: Path = ROOT / "model_store"
    """Folder of the dcgan.mar to serve."""
    out: Path = Path("soak.json")
    """Where everything measured goes; the picture lies beside it, as .png."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(SoakConfig, prog="python -m benchmarks.soak", args=given)

    def work() -> int:
        check(config)
        result = {**provenance("soak", given), **soak(config)}
        write(result, config.out)
        draw(result, config.out.with_suffix(".png"))
        lines = [
            [name, *(f"{trend[key]:{form}}" for key, form in _COLUMNS.items())]
            for name, trend in result["trends"].items()
        ]
        print(markdown(["what", "median", "growth over the second half", "allowed"], lines))
        for failure in result["failures"]:
            print(f"error: {failure}", file=sys.stderr)
        return 1 if result["failures"] else 0

    return ending(work)


def soak(config: SoakConfig) -> dict[str, Any]:
    """The whole run, as JSON values.

    Raises:
        ServerError, NoJavaError: the server cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="dcgan-soak-") as temporary:
        server = Server(Path(temporary), config.model_store, Ports.free())
        with server.running() as process:
            to = target(server.predict_url, "application/json")
            peak_per_s = None if config.rate else _peak(to)
            rate_per_s = config.rate or _SHARE * (peak_per_s or 0.0)
            print(f"{rate_per_s:.1f} requests/s for {config.seconds:.0f} s", file=sys.stderr)
            period_s = min(1.0, config.seconds / 60)
            launcher = psutil.Process(process.pid)
            with (
                VitalsSampler(launcher, server.folder / "tmp", period_s) as sampler,
                HangUps(to, max(0.5, period_s)) as hang_ups,
            ):
                windows, at_rest = _load(to, config.seconds, rate_per_s, sampler)
    outcomes: Counter[str] = sum((Counter(w["outcomes"]) for w in windows), Counter())
    hostile, workers = sum(w["hostile"] for w in windows), sorted(sampler.worker_pids)
    trends = judge(sampler.samples, at_rest)
    trends["p50_ms"] = trend(
        [w["end_s"] for w in windows], [w["latency_ms"]["p50"] for w in windows], LATENCY
    )
    return {
        "seconds": config.seconds,
        "peak_per_s": peak_per_s,
        "rate_per_s": rate_per_s,
        "outcomes": dict(outcomes),
        "hostile": hostile,
        "hang_ups": hang_ups.count,
        "worker_pids": workers,
        "trends": {name: {**asdict(t), "leaks": t.leaks} for name, t in trends.items()},
        "failures": failures(outcomes, hostile, len(workers), trends),
        "windows": windows,
        "samples": {
            name: [sample[name] for sample in sampler.samples] for name in ("time_s", *BOUNDS)
        },
    }


def judge(samples: Sequence[Vitals], at_rest: Sequence[Vitals]) -> dict[str, Trend]:
    """The trend of everything that is sampled, against BOUNDS.

    Args:
        samples: under load.
        at_rest: when no client was connected, for what grows with the number of connections.
    """
    found = {}
    for name in [name for name in samples[0] if name != "time_s"]:
        chosen = at_rest if name in _AT_REST else samples
        values = [sample[name] for sample in chosen]
        found[name] = trend([sample["time_s"] for sample in chosen], values, BOUNDS[name])
    return found


@dataclass(frozen=True)
class Trend:
    """What the second half of a run did."""

    median: float
    growth: float  # from its beginning to its end
    allowed: float

    @property
    def leaks(self) -> bool:
        """Whether it grows by more than it may."""
        return self.growth > self.allowed


def trend(times_s: Sequence[float], values: Sequence[float], bound: Bound) -> Trend:
    """The trend of the second half of a run, of samples at ascending moments.

    Raises:
        ServerError: fewer than 8 samples, which say nothing.
    """
    if len(times_s) < 8:
        raise ServerError(f"{len(times_s)} samples; at least 8 are needed to tell a trend")
    start = next(i for i, t in enumerate(times_s) if t >= (times_s[0] + times_s[-1]) / 2)
    half, samples = times_s[start:], values[start:]
    median = float(np.median(samples))
    growth = slope(half, samples) * (half[-1] - half[0])
    return Trend(median, growth, max(bound.absolute, bound.share * median))


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """The median of the slopes between all pairs of samples, per second; 0 for fewer than two.

    Up to 29 % of them may be outliers (P. K. Sen, "Estimates of the regression coefficient based
    on Kendall's tau", 1968).
    """
    chosen = np.linspace(0, len(times_s) - 1, min(len(times_s), _MOST_SAMPLES)).round().astype(int)
    times, samples = np.asarray(times_s)[chosen], np.asarray(values)[chosen]
    first, second = np.triu_indices(len(times), 1)
    slopes = (samples[second] - samples[first]) / (times[second] - times[first])
    return float(np.median(slopes)) if len(slopes) else 0.0


def failures(
    outcomes: Counter[str], hostile: int, workers: int, trends: dict[str, Trend]
) -> list[str]:
    """What is wrong, in words; empty when nothing is.

    Args:
        outcomes: number of requests by outcome.
        hostile: requests that had to be refused.
        workers: worker processes that were seen; the one that there should be stays the same.
        trends: by name.
    """
    found = [
        f"{outcomes[name]} requests ended as {name}"
        for name in OUTCOMES
        if name not in ("2xx", "4xx") and outcomes[name]
    ]
    if outcomes["4xx"] != hostile:
        found.append(f"{outcomes['4xx']} requests were refused, {hostile} had to be")
    if workers != 1:
        found.append(f"{workers} worker processes were seen instead of one")
    return found + [
        f"{name} grows: by {trend.growth:.1f} over the second half, {trend.allowed:.1f} is allowed"
        for name, trend in trends.items()
        if trend.leaks
    ]


def _peak(to: Target) -> float:
    """Answered requests/s of the same mix when every connection always has one under way."""
    endless = bodies(seed=2)
    for seconds in (2.0, _PEAK_S):  # the first to warm up
        tally = saturate(to, seconds, endless, Limits(32, _TIMEOUT_S))
    # Refusals are answers too, and a part of the load to come.
    peak_per_s = (tally.outcomes["2xx"] + tally.outcomes["4xx"]) / tally.wall_s
    print(f"peak: {peak_per_s:.1f} requests/s", file=sys.stderr)
    return peak_per_s


def _load(
    to: Target, seconds: float, rate_per_s: float, sampler: VitalsSampler
) -> tuple[list[dict[str, Any]], list[Vitals]]:
    """Windows one after another, each with its outcomes and latencies; what the server held at
    rest after each."""
    windows: list[dict[str, Any]] = []
    at_rest = []
    endless, began_s = bodies(seed=1), time.monotonic()
    count = max(8, round(seconds / _WINDOW_S))
    for number in range(count):
        offsets = poisson(rate_per_s, seconds / count, [1, number])
        asked = list(itertools.islice(endless, len(offsets)))
        tally = run(to, offsets, seconds / count, iter(asked), Limits(timeout_s=_TIMEOUT_S))
        time.sleep(_REST_S)
        at_rest.append(sampler.sample())
        latency_ms = summary_ms(tally.latency_us) or {"p50": 0.0, "p99": 0.0}  # nothing was sent
        window = {
            "end_s": time.monotonic() - began_s,
            "outcomes": dict(tally.outcomes),
            "hostile": sum(ask.body in HOSTILE for ask in asked),
            "latency_ms": latency_ms,
        }
        windows.append(window)
        print(
            f"{window['end_s']:.0f} s: {tally.outcomes['2xx']} answered, "
            f"{tally.outcomes['4xx']} refused, p50 {latency_ms['p50']:.0f} ms",
            file=sys.stderr,
        )
    return windows, at_rest


def bodies(seed: int) -> Iterator[Ask]:
    """Single images, grids of 64 and some of HOSTILE, without end; the same for the same seed."""
    chance, friendly = random.Random(seed), asks(sizes("mix", _GRID_SHARE, seed), 2**40 * seed)
    while True:
        hostile = chance.random() < _HOSTILE_SHARE
        yield Ask(chance.choice(HOSTILE)) if hostile else next(friendly)


class HangUps(Background):
    """While its ``with`` block runs, a client a period that goes away in mid-request."""

    def __init__(self, to: Target, period_s: float) -> None:
        super().__init__(self._hang_up, period_s)
        self._to = to
        self.count = 0

    def _hang_up(self) -> None:
        request = self._to.request(b'{"seed": 1, "num_images": 64}')
        ends = (1, len(request) // 2, len(request) - 1, len(request))
        with socket.create_connection((self._to.host, self._to.port), 10) as opened:
            opened.sendall(request[: ends[self.count % len(ends)]])
        self.count += 1


class VitalsSampler(Background):
    """Samples in a thread while its ``with`` block runs.

    Args:
        launcher: what started TorchServe; Java is its only child.
        temporary: folder of the server's temporary files.
        period_s: between two samples.
    """

    def __init__(self, launcher: psutil.Process, temporary: Path, period_s: float) -> None:
        super().__init__(self._watch, period_s)
        (self._java,) = launcher.children()
        self._temporary = temporary
        self.samples: list[Vitals] = []
        self.worker_pids: set[int] = set()
        self._start_s = time.monotonic()

    def _watch(self) -> None:
        # A process that ends in between gives no sample; that it ended shows in the next.
        with contextlib.suppress(psutil.NoSuchProcess):
            self.samples.append(self.sample())

    def sample(self) -> Vitals:
        """What it holds now.

        Raises:
            psutil.NoSuchProcess: a process ended in between.
        """
        workers = [p for p in self._java.children() if "model_service_worker" in str(p.cmdline())]
        self.worker_pids |= {worker.pid for worker in workers}
        found: Vitals = {"time_s": time.monotonic() - self._start_s}
        for name, processes in (("worker", workers), ("java", [self._java])):
            found[f"{name}_rss_mb"] = sum(p.memory_info().rss for p in processes) / 1e6
            found[f"{name}_fds"] = sum(p.num_fds() for p in processes)
            found[f"{name}_threads"] = sum(p.num_threads() for p in processes)
        sizes_bytes = []
        for path in self._temporary.rglob("*"):
            with contextlib.suppress(OSError):  # gone in the meantime
                if path.is_file():
                    sizes_bytes.append(path.stat().st_size)
        return found | {
            "sockets": sum(len(p.net_connections("all")) for p in [self._java, *workers]),
            "temp_files": len(sizes_bytes),
            "temp_mb": sum(sizes_bytes) / 1e6,
        }


def draw(result: dict[str, Any], path: Path) -> None:
    """Every series of a result over time, as a PNG."""
    figure = Figure(figsize=(9, 12), layout="constrained")
    panels = figure.subplots(len(_PANELS) + 1, 1, sharex=True)
    times_s = result["samples"]["time_s"]
    for axes, (label, names) in zip(panels[:-1], _PANELS, strict=True):
        for name in names:
            leaks = result["trends"][name]["leaks"]
            axes.plot(times_s, result["samples"][name], label=name + (" LEAKS" if leaks else ""))
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right")
    latency = panels[-1]
    ends_s = [window["end_s"] for window in result["windows"]]
    for name in ("p50", "p99"):
        latency.plot(ends_s, [w["latency_ms"][name] for w in result["windows"]], ".-", label=name)
    latency.set(yscale="log", ylabel="latency, ms", xlabel="time, s")
    latency.legend(loc="lower right")
    for axes in panels:
        axes.grid(visible=True, alpha=0.25)
        axes.axvspan(times_s[-1] / 2, times_s[-1], color="0.5", alpha=0.08)  # what is judged
    figure.suptitle(
        f"{result['rate_per_s']:.0f} requests/s for {result['seconds']:.0f} s, {result['date']}: "
        + ("; ".join(result["failures"]) or "no leak, no error"),
        fontsize=10,
    )
    with whole(path) as file:
        figure.savefig(file, format="png", dpi=100)


if __name__ == "__main__":
    run_main(main)
