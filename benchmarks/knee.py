"""The knee of a throughput-latency curve: the first rate that the server does not carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Reading(Protocol):
    """What of a point decides."""

    @property
    def rate_per_s(self) -> float: ...
    @property
    def offered_per_s(self) -> float: ...
    @property
    def throughput_per_s(self) -> float: ...
    @property
    def p99_ms(self) -> float | None: ...
    @property
    def errors(self) -> int: ...


@dataclass(frozen=True)
class Thresholds:
    """When a rate is too much.

    Args:
        min_share: least throughput by offered load.
        p99_factor: greatest p99 by that of the lowest rate.
    """

    min_share: float = 0.95
    p99_factor: float = 5.0


@dataclass(frozen=True)
class Knee:
    """Where the curve bends.

    Args:
        index: of the first point that is too much.
        rate_per_s: its rate.
        reasons: why, in words.
        sustained_per_s: throughput of the point before it; None where there is none.
    """

    index: int
    rate_per_s: float
    reasons: tuple[str, ...]
    sustained_per_s: float | None


def find(points: Sequence[Reading], thresholds: Thresholds) -> Knee | None:
    """The knee, or None while every rate is carried.

    Args:
        points: by ascending rate; the first is the one that p99 is compared with.
    """
    for index, point in enumerate(points):
        if reasons := _reasons(point, points[0], thresholds):
            before = points[index - 1].throughput_per_s if index else None
            return Knee(index, point.rate_per_s, tuple(reasons), before)
    return None


def _reasons(point: Reading, lowest: Reading, thresholds: Thresholds) -> list[str]:
    reasons = []
    # Poisson arrivals at a low rate may come to none at all.
    share = point.throughput_per_s / point.offered_per_s if point.offered_per_s else 1.0
    if share < thresholds.min_share:
        reasons.append(
            f"throughput {point.throughput_per_s:.1f}/s is {share:.0%} of the offered "
            f"{point.offered_per_s:.1f}/s; at least {thresholds.min_share:.0%} is asked for"
        )
    if point.p99_ms and lowest.p99_ms and point.p99_ms > thresholds.p99_factor * lowest.p99_ms:
        reasons.append(
            f"p99 {point.p99_ms:.1f} ms is {point.p99_ms / lowest.p99_ms:.1f} times that of the "
            f"lowest rate; at most {thresholds.p99_factor:g} times is asked for"
        )
    if point.errors:
        reasons.append(f"{point.errors} requests were not answered 2xx")
    return reasons
