"""The knee detector on synthetic points."""

from __future__ import annotations

import pytest

from benchmarks.curve import Point, find_knee


def made(
    rate_per_s: float, throughput_per_s: float, p99_ms: float | None, errors: int = 0
) -> Point:
    return Point(
        rate_per_s=rate_per_s,
        duration_s=1.0,
        arrivals=1000,
        offered_per_s=rate_per_s,
        throughput_per_s=throughput_per_s,
        images_per_s=None,
        outcomes={"2xx": 1000 - errors},
        latency_ms=None if p99_ms is None else {"p99": p99_ms},
        send_lag_ms=None,
        late_sends={},
        connections=1,
        client_cores=0.1,
        resources={},
        histogram="",
    )


TOO_LITTLE = [made(10, 10, 5), made(20, 19.2, 6), made(40, 37.9, 7), made(80, 38, 8)]
TOO_LATE = [made(10, 10, 5), made(20, 20, 25), made(40, 40, 25.1)]


@pytest.mark.parametrize(
    ("points", "index", "reasons"),
    [
        (TOO_LITTLE, 2, ["throughput 37.9/s"]),
        (TOO_LATE, 2, ["p99 25.1 ms"]),
        ([made(10, 10, 5), made(20, 19.9, 5, errors=1), made(40, 40, 5)], 1, ["1 requests"]),
        (
            [made(10, 10, 5), made(20, 10, 500, errors=7)],
            1,
            ["throughput 10.0/s", "p99 500.0 ms", "7 requests"],
        ),
        ([made(10, 4, None, errors=6)], 0, ["throughput 4.0/s", "6 requests"]),
    ],
)
def test_the_first_rate_that_is_too_much_and_why(
    points: list[Point], index: int, reasons: list[str]
) -> None:
    knee = find_knee(points, 0.95, 5)
    assert knee is not None
    assert (knee.index, knee.rate_per_s) == (index, points[index].rate_per_s)
    assert knee.sustained_per_s == (points[index - 1].throughput_per_s if index else None)
    assert len(knee.reasons) == len(reasons)
    assert all(map(str.startswith, knee.reasons, reasons))


@pytest.mark.parametrize(
    "points",
    [
        [made(rate, rate * 0.97, 10.0 + rate / 100) for rate in (10, 100, 1000)],
        [made(0.0, 0.0, None)] * 2,  # neither arrivals nor latencies
        [],
    ],
)
def test_none_while_every_rate_is_carried(points: list[Point]) -> None:
    assert find_knee(points, 0.95, 5) is None


def test_what_is_too_much_can_be_chosen() -> None:
    assert find_knee(TOO_LITTLE, 0.9, 5).index == 3  # type: ignore[union-attr]
    assert find_knee(TOO_LATE, 0.95, 6) is None
