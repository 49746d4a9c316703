"""``python -m benchmarks.load``: how much load a server carries, and how long users wait.

Requests leave at moments fixed in advance, however slow the server is, and each counts from its
moment; or connections are kept busy (``benchmarks.engine``). docs/load-testing.md says how to read
it. The JSON goes to stdout or -o, progress to stderr. Exit codes: 0 measured, 1 the server cannot
be reached or nothing was answered 2xx, 2 bad usage, 130 after Ctrl-C, with what was measured.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import resource
import secrets
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, Literal

import gevent
import requests
import tyro
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.command import Range, UsageError, check, ending, run_main, today, within, write
from benchmarks.engine import (
    OUTCOMES,
    Ask,
    Connection,
    Kind,
    Limits,
    Tally,
    Target,
    asks,
    constant,
    poisson,
    run,
    saturate,
    sizes,
    summary_ms,
    target,
)
from benchmarks.resources import Gpus, GpuSampler
from client.files import whole
from deploy.server import ask

Point = dict[str, Any]
"""What one rate gave, as JSON values; docs/load-testing.md has a line for each key."""
PERCENTILES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p99_9"}
_MOST_POINTS = 16  # of a sweep
_BEYOND = 2  # of them after the knee
_MIN_SHARE = 0.95  # a rate with less throughput by offered load is too much
_P99_FACTOR = 5.0  # so is one with a p99 of more than so many times that of the lowest rate
_LATE_SHARE = 0.01  # from so many late sends on, a p99 says more of the client than the server
_LATE_FEW = 10  # so many are a hiccup of the machine, whatever their share


@dataclass(frozen=True)
class LoadConfig:
    """Send requests at given rates, whatever the server does, and say how long users wait.

    Without --rate the rate grows until the server no longer carries it.
    """

    url: str = "http://127.0.0.1:8080"
    """Where to post; without a path to /predictions/dcgan."""
    rate: Annotated[tuple[float, ...], Range(0.001, 100_000)] = ()
    """Requests/s: one rate or several, ascending; none for a sweep."""
    duration_s: Annotated[float, Range(0.1, 3600)] = 10.0
    """Length of each point."""
    arrivals: Literal["poisson", "constant", "saturate"] = "poisson"
    """Poisson, as many independent users; equally spaced; or no rate but all connections busy."""

    work: Kind = "image"
    """One image a request, a grid of 64, or a mix of both; each request has its own seed."""
    grid_share: Annotated[float, Range(0, 1)] = 0.25
    """Part of the mix that is grids, 0..1."""
    body: str | None = None
    """Send this instead, the same each time; @FILE reads it from a file."""
    content_type: str = "application/json"
    """Of the body."""
    header: tuple[str, ...] = ()
    """More request headers, each as 'Name: value'."""

    start_rate: Annotated[float, Range(0.001, 100_000)] = 5.0
    """First rate of a sweep, requests/s."""
    growth: Annotated[float, Range(1.01, 100)] = 1.5
    """Each rate of a sweep by the one before."""

    warmup_s: Annotated[float, Range(0, 600)] = 2.0
    """Requests at the first rate before the first point, not counted."""
    connections: int = 256
    """Most connections at once; all of them where they are kept busy."""
    timeout_s: Annotated[float, Range(0.01, 600)] = 10.0
    """Longest wait for a free connection, and for an answer."""
    seed: Annotated[int | None, Range(0, 2**32 - 1)] = None
    """Of arrivals and bodies, 0..2^32-1; drawn, and part of the result, when left out."""

    metrics_url: str | None = None
    """Metrics of the server in Prometheus' format, such as http://127.0.0.1:8082/metrics: also say
    by how much they grew."""

    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write the JSON here; stdout by default."""
    report: Path | None = None
    """Also draw the throughput-latency curve here (PNG)."""

    def check(self) -> None:
        """Raises:
        UsageError: a setting is out of its range, or the files cannot be written.
        """
        check(self)
        if list(self.rate) != sorted(set(self.rate)):
            raise UsageError(f"rate: seen {self.rate}; allowed are ascending rates, each once")
        if self.rate and self.arrivals == "saturate":
            raise UsageError("rate: busy connections have none; leave it out, or --arrivals")
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        most = 10_000 if files == resource.RLIM_INFINITY else min(10_000, files - 64)
        within("connections", self.connections, 1, most)  # see ulimit -n
        for name, path in (("out", self.out), ("report", self.report)):
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise UsageError(f"{name}: seen {path}; allowed is a file in a folder that exists")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(LoadConfig, prog="python -m benchmarks.load", args=given)
    begun: list[Measurement] = []

    def work() -> int:
        config.check()
        begun.append(Measurement(config, target(config.url, config.content_type, config.header)))
        begun[0].run()
        return 0

    code = ending(work)
    if not begun or not begun[0].points:
        return code or 1
    result = begun[0].result(shlex.join(["python", "-m", "benchmarks.load", *given]))
    write(result, config.out)
    if config.report is not None:
        draw(result, config.report)
    if code == 0 and not any(point["outcomes"]["2xx"] for point in result["points"]):
        print("error: no request was answered 2xx", file=sys.stderr)
        return 1
    return code


@dataclass
class Measurement:
    """The points of one command, as they come.

    Raises:
        UsageError: the body cannot be read.
    """

    config: LoadConfig
    to: Target
    points: list[Point] = field(default_factory=list)
    stopped: str = "interrupted"

    def __post_init__(self) -> None:
        config = self.config
        self.seed = secrets.randbits(32) if config.seed is None else config.seed
        if config.body is None:
            images = sizes(config.work, config.grid_share, self.seed)
            self._asks = asks(images, 2**20 * self.seed)
        else:
            self._asks = itertools.repeat(Ask(_body(config.body)))
        self._limits = Limits(config.connections, config.timeout_s)

    @property
    def knee(self) -> Knee | None:
        """None as well where only this client, not the server, could not keep up."""
        # Connections that are kept busy offer what is answered: there is no rate to be too much.
        open_loop = [p for p in self.points if p["rate_per_s"] is not None]
        valid = [p for p in open_loop if not p["client_saturated"]]
        return find_knee(valid)

    def run(self) -> None:
        """Measure; ``stopped`` says why it ended.

        Raises:
            OSError: nothing answers, or the metrics cannot be read.
        """
        config = self.config
        rates: tuple[float | None, ...] = config.rate or tuple(
            config.start_rate * config.growth**i for i in range(_MOST_POINTS)
        )
        if config.arrivals == "saturate":
            rates = (None,)
        self._knock()
        if config.warmup_s:
            print(f"warming up for {config.warmup_s:g} s", file=sys.stderr)
            self._send(rates[0], config.warmup_s, len(rates))
        for number, rate_per_s in enumerate(rates):
            print(f"{_rate(rate_per_s)} for {config.duration_s:g} s", file=sys.stderr)
            before = self._metrics()
            with GpuSampler() as sampler:
                tally = self._send(rate_per_s, config.duration_s, number)
            point = summarize(rate_per_s, tally, sampler.result())
            grew = {name: now - before.get(name, 0.0) for name, now in self._metrics().items()}
            point["metrics"] = {name: change for name, change in grew.items() if change}
            self.points.append(point)
            _show(self.points[-1])
            bend = self.knee
            if self.points[-1]["client_saturated"]:
                self.stopped = "this client is saturated: its last point says nothing of the server"
                print(f"{self.stopped}; run it on a machine of its own", file=sys.stderr)
                return
            if bend and not config.rate and number - bend.index >= _BEYOND:
                self.stopped = "knee found"
                return
        self.stopped = "all rates measured"

    def result(self, command: str) -> dict[str, Any]:
        """Everything measured, as JSON values."""
        bend = self.knee
        return {
            "command": command,
            "date": today(),
            "client_machine": f"{os.cpu_count()} CPUs, {platform.platform()}",
            "url": self.config.url,
            "arrivals": self.config.arrivals,
            "work": self.config.work if self.config.body is None else "body",
            "seed": self.seed,
            "knee": asdict(bend) if bend else None,
            "stopped": self.stopped,
            "points": self.points,
        }

    def _knock(self) -> None:
        """One request, so that a wrong address is an error and no measurement."""
        connection, limit_s = Connection(self.to), self.config.timeout_s
        try:
            with gevent.Timeout(limit_s, TimeoutError(f"no answer within {limit_s:g} s")):
                connection.post(next(self._asks).body)
        except (OSError, HTTPException) as error:
            raise ConnectionError(
                f"{self.config.url} does not answer: {error or type(error).__name__}. Start the "
                "server (make serve), or give its address with --url; it is asked without the "
                "proxy of http_proxy"
            ) from error
        finally:
            connection.close()

    def _metrics(self) -> dict[str, float]:
        """The value of each series that has one, by ``name{"label": "value"}``; none without an
        address of metrics."""
        url = self.config.metrics_url
        if url is None:
            return {}
        try:
            reply = ask("GET", url, timeout=5)
            reply.raise_for_status()
            families = list(text_string_to_metric_families(reply.text))
        except (requests.RequestException, ValueError, IndexError) as error:
            self.stopped = f"failed: metrics_url: cannot read {url}: {error}"
            raise OSError(self.stopped.removeprefix("failed: ")) from error
        return {
            sample.name + (json.dumps(sample.labels) if sample.labels else ""): sample.value
            for family in families
            for sample in family.samples
            if math.isfinite(sample.value)  # JSON has no other numbers
        }

    def _send(self, rate_per_s: float | None, duration_s: float, number: int) -> Tally:
        """Requests at a rate; without one as many as the server answers.

        Args:
            number: of the point, so that each has arrivals of its own.
        """
        if rate_per_s is None:
            return saturate(self.to, duration_s, self._asks, self._limits)
        if self.config.arrivals == "constant":
            offsets = constant(rate_per_s, duration_s)
        else:
            offsets = poisson(rate_per_s, duration_s, [self.seed, number])
        return run(self.to, offsets, duration_s, self._asks, self._limits)


def _body(given: str) -> bytes:
    if not given.startswith("@"):
        return given.encode()
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise UsageError(f"body: cannot read {given[1:]}: {error.strerror}") from error


def _rate(rate_per_s: float | None) -> str:
    return "saturated" if rate_per_s is None else f"{rate_per_s:.4g}/s"


def _show(point: Point) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in point["outcomes"].items() if count)
    latency = point["latency_ms"]
    waits = " ".join(f"{name} {latency[key]:.1f}" for name, key in PERCENTILES.items() if latency)
    late = sum(point["late_sends"].values())
    print(
        f"{_rate(point['rate_per_s'])}: {point['throughput_per_s']:.1f}/s answered, "
        f"latency ms {waits or 'none'}; {counts}; "
        f"{late} sent late; client {point['client_cores']:.0%} of a core",
        file=sys.stderr,
    )


def summarize(rate_per_s: float | None, tally: Tally, gpus: Gpus) -> Point:
    """The point that a finished run gives.

    Args:
        rate_per_s: as asked for; None where connections were kept busy.
    """
    answered, throughput_per_s = tally.outcomes["2xx"], tally.throughput_per_s
    return {
        "rate_per_s": rate_per_s,
        "duration_s": tally.window_s,
        "arrivals": tally.arrivals,
        "offered_per_s": tally.arrivals / tally.window_s,
        "throughput_per_s": throughput_per_s,
        "images_per_s": tally.images / answered * throughput_per_s if tally.images else None,
        "outcomes": {name: tally.outcomes[name] for name in OUTCOMES},
        "latency_ms": summary_ms(tally.latency_us),
        "send_lag_ms": summary_ms(tally.send_lag_us),
        "late_sends": {"no_connection": tally.late_no_connection, "client": tally.late_client},
        "connections": tally.connections,
        "client_cores": tally.cpu_s / tally.wall_s,
        "client_saturated": tally.late_client > max(_LATE_FEW, _LATE_SHARE * tally.arrivals),
        "gpus": gpus,
        "histogram": tally.latency_us.encode().decode("ascii"),
    }


@dataclass(frozen=True)
class Knee:
    """Where the curve bends: the first rate that the server does not carry."""

    index: int  # of its point
    rate_per_s: float
    reasons: tuple[str, ...]
    sustained_per_s: float | None  # by the point before it


def find_knee(points: Sequence[Point]) -> Knee | None:
    """The knee, or None while every rate is carried.

    Args:
        points: by ascending rate.
    """
    for index, point in enumerate(points):
        reasons = []
        answered_per_s, offered_per_s = point["throughput_per_s"], point["offered_per_s"]
        # Poisson arrivals at a low rate may come to none at all.
        share = answered_per_s / offered_per_s if offered_per_s else 1.0
        if share < _MIN_SHARE:
            reasons.append(
                f"throughput {answered_per_s:.1f}/s is {share:.0%} of the offered "
                f"{offered_per_s:.1f}/s; at least {_MIN_SHARE:.0%} is asked for"
            )
        p99_ms, lowest_ms = ((of["latency_ms"] or {}).get("p99") for of in (point, points[0]))
        if p99_ms and lowest_ms and p99_ms > _P99_FACTOR * lowest_ms:
            reasons.append(
                f"p99 {p99_ms:.1f} ms is {p99_ms / lowest_ms:.1f} times that of the lowest rate; "
                f"at most {_P99_FACTOR:g} times is asked for"
            )
        if errors := point["arrivals"] - point["outcomes"]["2xx"]:
            reasons.append(f"{errors} requests were not answered 2xx")
        if reasons:
            before = points[index - 1]["throughput_per_s"] if index else None
            return Knee(index, point["rate_per_s"], tuple(reasons), before)
    return None


def draw(result: dict[str, Any], path: Path) -> None:
    """Latency by offered load, and what became of the requests, as a PNG."""
    points = result["points"]
    figure = Figure(figsize=(8, 9), layout="constrained")
    latency, throughput = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    dots = {"marker": "o", "markersize": 4}
    measured = [point for point in points if point["latency_ms"]]
    rates = [point["offered_per_s"] for point in measured]
    for name, key in PERCENTILES.items():
        latency.plot(rates, [point["latency_ms"][key] for point in measured], label=name, **dots)
    latency.set(yscale="log", ylabel="latency from the intended moment, ms")
    offered = [point["offered_per_s"] for point in points]
    answered = [point["throughput_per_s"] for point in points]
    lost = [(p["arrivals"] - p["outcomes"]["2xx"]) / p["duration_s"] for p in points]
    throughput.plot(offered, offered, color="0.7", linewidth=1, label="offered")
    throughput.plot(offered, answered, label="answered 2xx", **dots)
    if any(lost):
        throughput.plot(offered, lost, marker="x", color="tab:red", label="not answered 2xx")
    throughput.set(xlabel="offered load, requests/s", ylabel="requests/s")
    if result["knee"]:
        at = points[result["knee"]["index"]]["offered_per_s"]
        for axes in (latency, throughput):
            axes.axvline(at, color="0.4", linestyle="--", linewidth=1, label="knee")
    for point in points:
        if point["client_saturated"]:
            latency.axvline(
                point["offered_per_s"], color="tab:red", linestyle=":", label="client saturated"
            )
    for axes in (latency, throughput):
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend(loc="upper left")
    figure.suptitle(
        f"{result['work']}, {result['arrivals']} arrivals, {result['date']}\n{result['url']}",
        fontsize=10,
    )
    with whole(path) as file:
        figure.savefig(file, format="png", dpi=110)


if __name__ == "__main__":
    run_main(main)
