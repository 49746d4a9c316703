"""The knee detector on synthetic points."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.knee import Thresholds, find


@dataclass(frozen=True)
class Made:
    rate_per_s: float
    throughput_per_s: float
    p99_ms: float | None
    errors: int = 0

    @property
    def offered_per_s(self) -> float:
        return self.rate_per_s


def test_none_while_every_rate_is_carried() -> None:
    points = [Made(rate, rate * 0.97, 10.0 + rate / 100) for rate in (10, 100, 1000)]
    assert find(points, Thresholds()) is None
    assert find([], Thresholds()) is None


def test_the_first_rate_with_too_little_throughput() -> None:
    points = [Made(10, 10, 5), Made(20, 19.2, 6), Made(40, 37.9, 7), Made(80, 38, 8)]
    knee = find(points, Thresholds())
    assert knee is not None
    assert (knee.index, knee.rate_per_s, knee.sustained_per_s) == (2, 40, 19.2)
    assert [reason.split()[:2] for reason in knee.reasons] == [["throughput", "37.9/s"]]
    assert find(points, Thresholds(min_share=0.9)).index == 3  # type: ignore[union-attr]


def test_the_first_rate_with_too_long_a_tail() -> None:
    points = [Made(10, 10, 5), Made(20, 20, 25), Made(40, 40, 25.1)]
    knee = find(points, Thresholds(p99_factor=5))
    assert knee is not None
    assert knee.index == 2
    assert "p99 25.1 ms" in knee.reasons[0]
    assert find(points, Thresholds(p99_factor=6)) is None


def test_the_first_rate_with_errors() -> None:
    knee = find([Made(10, 10, 5), Made(20, 19.9, 5, errors=1), Made(40, 40, 5)], Thresholds())
    assert knee is not None
    assert knee.index == 1
    assert "1 requests" in knee.reasons[0]


def test_every_reason_is_told() -> None:
    knee = find([Made(10, 10, 5), Made(20, 10, 500, errors=7)], Thresholds())
    assert knee is not None
    assert len(knee.reasons) == 3


def test_even_the_lowest_rate_can_be_too_much() -> None:
    knee = find([Made(10, 4, None, errors=6)], Thresholds())
    assert knee is not None
    assert knee.index == 0
    assert knee.sustained_per_s is None


def test_a_point_without_arrivals_or_latencies_is_no_knee() -> None:
    assert find([Made(0.0, 0.0, None), Made(0.0, 0.0, None)], Thresholds()) is None
