"""``python -m benchmarks.soak``: does a server that works for long leak, fail or slow down?

Starts a server of its own, measures its peak for a moment, then sends requests at a share of it,
at moments fixed in advance: single images, grids, hostile bodies, and clients that hang up. What
the server holds is sampled meanwhile; ``benchmarks.leaks`` says what counts as a leak, BOUNDS by
how much. A table goes to stdout, everything to a JSON file and a picture. Exit codes: 0 no leak
and no error, 1 a leak, an error, or no server, 2 bad usage.
"""

from __future__ import annotations

import contextlib
import json
import random
import shlex
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import psutil
import tyro
from matplotlib.figure import Figure

from benchmarks import leaks
from benchmarks.command import (
    Range,
    check,
    machine,
    markdown,
    run_main,
    today,
    write,
)
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
from benchmarks.leaks import Bound, Trend
from benchmarks.resources import Background
from deploy.java import NoJavaError
from deploy.server import ROOT, Ports, Server, ServerError
from training.files import atomic_path

Vitals = dict[str, float]
"""One sample by name: ``time_s`` since the sampler began; of all workers together and of Java the
resident memory (MB of 10^6 bytes), open file descriptors and threads; their TCP and UNIX sockets in
whatever state; the files below the folder for temporary files; the number of workers."""
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
_LIMITS = Limits(timeout_s=30)
_MOST_PAUSE_S = 15.0
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
    share: Annotated[float, Range(0.01, 1)] = 0.7
    """Of the peak, 0..1."""
    rate: Annotated[float | None, Range(0.1, 10_000)] = None
    """Requests/s instead of a share of the peak."""
    peak_seconds: Annotated[float, Range(1, 600)] = 10.0
    """How long the peak is measured."""
    hostile_share: Annotated[float, Range(0, 1)] = 0.1
    """Part of the requests that is hostile, 0..1."""
    grid_share: Annotated[float, Range(0, 1)] = 0.03
    """Part of the friendly requests that asks for 64 images, 0..1."""
    model_store: Path = ROOT / "model_store"
    """Folder of the dcgan.mar to serve."""
    out: Path = Path("soak.json")
    """Where everything measured goes; the picture lies beside it, as .png."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(SoakConfig, prog="python -m benchmarks.soak", args=given)
    try:
        check(config)
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
    write(result, config.out)
    draw(result, config.out.with_suffix(".png"))
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
        "machine": machine(),
        "date": today(),
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
        found[name] = leaks.trend([sample["time_s"] for sample in chosen], values, BOUNDS[name])
    return found


def pause_s(samples: Sequence[Vitals]) -> float:
    """The longest time without a sample, s."""
    return max((b["time_s"] - a["time_s"] for a, b in pairwise(samples)), default=0.0)


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
        for name in OUTCOMES
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
    lines = [
        [name, *(f"{trend[key]:{form}}" for key, form in _COLUMNS.items())]
        for name, trend in result["trends"].items()
    ]
    return markdown(["what", "median", "growth over the second half", "allowed"], lines)


def _peak(to: Target, config: SoakConfig) -> float:
    """Answered requests/s of the same mix when every connection always has one under way."""
    bodies = Bodies(config.hostile_share, config.grid_share, seed=2)
    for seconds in (min(2.0, config.peak_seconds), config.peak_seconds):  # the first to warm up
        tally = saturate(to, _CONNECTIONS, seconds, bodies, _LIMITS)
    # Refusals are answers too, and a part of the load to come.
    peak_per_s = (tally.outcomes["2xx"] + tally.outcomes["4xx"]) / tally.wall_s
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
        offsets = poisson(rate_per_s, window_s, [1, number])
        tally = run(to, offsets, window_s, bodies, _LIMITS)
        time.sleep(_REST_S)
        at_rest.append(sampler.sample())
        latency_ms = summary_ms(tally.latency_us) or {"p50": 0.0, "p99": 0.0}  # nothing was sent
        end_s, outcomes = time.monotonic() - began_s, dict(tally.outcomes)
        windows.append({"end_s": end_s, "outcomes": outcomes, "latency_ms": latency_ms})
        print(
            f"{end_s:.0f} s: {tally.outcomes['2xx']} answered, "
            f"{tally.outcomes['4xx']} refused, p50 {latency_ms['p50']:.0f} ms",
            file=sys.stderr,
        )
    return windows, at_rest


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
        self._friendly = asks(sizes("mix", grid_share, seed), 2**40 * seed)
        self.hostile = 0

    def __iter__(self) -> Iterator[Ask]:
        return self

    def __next__(self) -> Ask:
        if self._random.random() >= self._share:
            return next(self._friendly)
        self.hostile += 1
        return Ask(self._random.choice(HOSTILE))


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
        self._request = to.request(b'{"seed": 1, "num_images": 64}')

    def _hang_up(self) -> None:
        length = len(self._request)
        ends = (1, length // 2, length - 1, length)
        with socket.create_connection((self._to.host, self._to.port), 10) as opened:
            opened.sendall(self._request[: ends[self.count % len(ends)]])
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
        files = [path for path in self._temporary.rglob("*") if path.is_file()]
        found: Vitals = {"time_s": time.monotonic() - self._start_s}
        for name, processes in (("worker", workers), ("java", [self._java])):
            found[f"{name}_rss_mb"] = sum(p.memory_info().rss for p in processes) / 1e6
            found[f"{name}_fds"] = sum(p.num_fds() for p in processes)
            found[f"{name}_threads"] = sum(p.num_threads() for p in processes)
        return found | {
            "sockets": sum(len(p.net_connections("all")) for p in [self._java, *workers]),
            "temp_files": len(files),
            "temp_mb": sum(_size(path) for path in files) / 1e6,
            "workers": len(workers),
        }


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):  # gone in the meantime
        return path.stat().st_size
    return 0


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw every series over time.

    Args:
        result: of ``soak``.
        path: a PNG.
    """
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
    with atomic_path(path) as beside:
        figure.savefig(beside, format="png", dpi=100)


if __name__ == "__main__":
    run_main(main)
