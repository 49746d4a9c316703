"""The knee detector on synthetic points."""

from __future__ import annotations

from benchmarks.curve import Point, Thresholds, find_knee


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
        received_mb_per_s=0.0,
        outcomes={"2xx": 1000 - errors},
        latency_ms=None if p99_ms is None else {"p99": p99_ms},
        send_lag_ms=None,
        late_sends={},
        connections=1,
        client_cores=0.1,
        resources={},
        histogram="",
    )


def test_none_while_every_rate_is_carried() -> None:
    points = [made(rate, rate * 0.97, 10.0 + rate / 100) for rate in (10, 100, 1000)]
    assert find_knee(points, Thresholds()) is None
    assert find_knee([], Thresholds()) is None


def test_the_first_rate_with_too_little_throughput() -> None:
    points = [made(10, 10, 5), made(20, 19.2, 6), made(40, 37.9, 7), made(80, 38, 8)]
    knee = find_knee(points, Thresholds())
    assert knee is not None
    assert (knee.index, knee.rate_per_s, knee.sustained_per_s) == (2, 40, 19.2)
    assert [reason.split()[:2] for reason in knee.reasons] == [["throughput", "37.9/s"]]
    assert find_knee(points, Thresholds(min_share=0.9)).index == 3  # type: ignore[union-attr]


def test_the_first_rate_with_too_long_a_tail() -> None:
    points = [made(10, 10, 5), made(20, 20, 25), made(40, 40, 25.1)]
    knee = find_knee(points, Thresholds(p99_factor=5))
    assert knee is not None
    assert knee.index == 2
    assert "p99 25.1 ms" in knee.reasons[0]
    assert find_knee(points, Thresholds(p99_factor=6)) is None


def test_the_first_rate_with_errors() -> None:
    knee = find_knee([made(10, 10, 5), made(20, 19.9, 5, errors=1), made(40, 40, 5)], Thresholds())
    assert knee is not None
    assert knee.index == 1
    assert "1 requests" in knee.reasons[0]


def test_every_reason_is_told() -> None:
    knee = find_knee([made(10, 10, 5), made(20, 10, 500, errors=7)], Thresholds())
    assert knee is not None
    assert len(knee.reasons) == 3


def test_even_the_lowest_rate_can_be_too_much() -> None:
    knee = find_knee([made(10, 4, None, errors=6)], Thresholds())
    assert knee is not None
    assert knee.index == 0
    assert knee.sustained_per_s is None


def test_a_point_without_arrivals_or_latencies_is_no_knee() -> None:
    assert find_knee([made(0.0, 0.0, None), made(0.0, 0.0, None)], Thresholds()) is None
