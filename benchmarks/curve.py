"""A throughput-latency curve: its points, as numbers for people and JSON, and its knee."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.engine import OUTCOMES, Tally, summary_ms

_LATE_SHARE = 0.01  # from so many late sends on, a p99 says more of the client than the server
_LATE_FEW = 10  # so many are a hiccup of the machine, whatever their share


@dataclass(frozen=True)
class Point:
    """What one rate gave.

    Args:
        rate_per_s: requests asked for, None where connections were kept busy; ``offered_per_s``
            is what the arrivals came to, which for Poisson arrivals differs a little.
        arrivals: requests that were to be sent within ``duration_s``.
        throughput_per_s: requests answered 2xx (``Tally.throughput_per_s``).
        images_per_s: by X-Num-Images; None where the server does not send that header.
        outcomes: number of requests by outcome; they add up to ``arrivals``.
        latency_ms: of 2xx, timeouts and unsent ones, from the intended moment: samples, mean,
            p50, p90, p99, p99_9, max; None without a sample.
        send_lag_ms: from the intended moment to the sending, the same keys.
        late_sends: by reason, ``no_connection`` and ``client``; they are part of ``arrivals``.
        connections: opened at once at most.
        client_cores: processor time of this process by wall time; near 1 it is saturated.
        resources: of the server, by ``benchmarks.resources``.
        histogram: latency in microseconds, HdrHistogram V2 compressed, base64.
    """

    rate_per_s: float | None
    duration_s: float
    arrivals: int
    offered_per_s: float
    throughput_per_s: float
    images_per_s: float | None
    outcomes: dict[str, int]
    latency_ms: dict[str, float] | None
    send_lag_ms: dict[str, float] | None
    late_sends: dict[str, int]
    connections: int
    client_cores: float
    resources: dict[str, Any]
    histogram: str

    @property
    def errors(self) -> int:
        """Requests that were not answered 2xx."""
        return self.arrivals - self.outcomes["2xx"]

    @property
    def client_saturated(self) -> bool:
        """More than 1 % of the sends, and more than 10, were late by this process's own fault."""
        return self.late_sends["client"] > max(_LATE_FEW, _LATE_SHARE * self.arrivals)


def summarize(rate_per_s: float | None, tally: Tally, resources: dict[str, Any]) -> Point:
    """The point that a finished run gives."""
    answered = tally.outcomes["2xx"]
    throughput_per_s = tally.throughput_per_s
    return Point(
        rate_per_s=rate_per_s,
        duration_s=tally.window_s,
        arrivals=tally.arrivals,
        offered_per_s=tally.arrivals / tally.window_s,
        throughput_per_s=throughput_per_s,
        images_per_s=tally.images / answered * throughput_per_s if tally.images else None,
        outcomes={name: tally.outcomes[name] for name in OUTCOMES},
        latency_ms=summary_ms(tally.latency_us),
        send_lag_ms=summary_ms(tally.send_lag_us),
        late_sends={"no_connection": tally.late_no_connection, "client": tally.late_client},
        connections=tally.connections,
        client_cores=tally.cpu_s / tally.wall_s,
        resources=resources,
        histogram=tally.latency_us.encode().decode("ascii"),
    )


@dataclass(frozen=True)
class Knee:
    """Where the curve bends: the first rate that the server does not carry.

    Args:
        index: of the first point that is too much.
        rate_per_s: its rate.
        reasons: why, in words.
        sustained_per_s: throughput of the point before it; None where there is none.
    """

    index: int
    rate_per_s: float | None
    reasons: tuple[str, ...]
    sustained_per_s: float | None


def find_knee(points: Sequence[Point], min_share: float, p99_factor: float) -> Knee | None:
    """The knee, or None while every rate is carried.

    Args:
        points: by ascending rate; the first is the one that p99 is compared with.
        min_share: least throughput by offered load.
        p99_factor: greatest p99 by that of the lowest rate.
    """
    for index, point in enumerate(points):
        if reasons := _reasons(point, points[0], min_share, p99_factor):
            before = points[index - 1].throughput_per_s if index else None
            return Knee(index, point.rate_per_s, tuple(reasons), before)
    return None


def _reasons(point: Point, lowest: Point, min_share: float, p99_factor: float) -> list[str]:
    reasons = []
    # Poisson arrivals at a low rate may come to none at all.
    share = point.throughput_per_s / point.offered_per_s if point.offered_per_s else 1.0
    if share < min_share:
        reasons.append(
            f"throughput {point.throughput_per_s:.1f}/s is {share:.0%} of the offered "
            f"{point.offered_per_s:.1f}/s; at least {min_share:.0%} is asked for"
        )
    p99_ms, lowest_ms = ((of.latency_ms or {}).get("p99") for of in (point, lowest))
    if p99_ms and lowest_ms and p99_ms > p99_factor * lowest_ms:
        reasons.append(
            f"p99 {p99_ms:.1f} ms is {p99_ms / lowest_ms:.1f} times that of the lowest rate; at "
            f"most {p99_factor:g} times is asked for"
        )
    if point.errors:
        reasons.append(f"{point.errors} requests were not answered 2xx")
    return reasons
