"""What the soak calls a leak, on planted series, and what it calls a failure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.soak import BOUNDS, Bound, Trend, Vitals, slope, trend
from deploy.lifecycle import ServerError

TIMES = [float(t) for t in range(600)]
NOISE = np.random.default_rng(0).normal(0, 1, len(TIMES))


def test_the_slope_of_a_line_is_exact() -> None:
    assert slope(TIMES, [3.0 + 0.25 * t for t in TIMES]) == pytest.approx(0.25)
    assert slope([1.0], [5.0]) == 0


def test_a_quarter_of_outliers_does_not_move_the_slope() -> None:
    values = [100.0 + 0.1 * t + (1e6 if i % 4 == 0 else 0) for i, t in enumerate(TIMES)]
    assert slope(TIMES, values) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("series", "leaks"),
    [
        (lambda _: 600.0, False),
        (lambda t: min(t, 250.0), False),  # fills in the first half only
        (lambda t: 600 + 50 * np.sin(t / 20), False),  # garbage comes and goes
        (lambda t: 600 + (300 if 400 < t < 430 else 0), False),  # one large request
        (lambda t: 600 - 0.2 * t, False),
        (lambda t: 600 + 0.05 * t, False),  # 15 over the second half, 20 is allowed
        (lambda t: 600 + 0.1 * t, True),  # 30
        (lambda t: 600 + 20 * (t // 100), True),  # in steps
    ],
    ids=["flat", "fills", "sawtooth", "peak", "falls", "crawls", "leaks", "steps"],
)
def test_what_is_a_leak(series: Callable[[float], float], leaks: bool) -> None:
    values = [series(t) + noise for t, noise in zip(TIMES, NOISE, strict=True)]
    assert trend(TIMES, values, Bound(20)).leaks is leaks


def test_the_larger_bound_counts() -> None:
    values = [1000.0 + 0.1 * t for t in TIMES]
    assert trend(TIMES, values, Bound(20)).leaks
    assert not trend(TIMES, values, Bound(20, 0.05)).leaks


def test_too_few_samples_are_no_verdict() -> None:
    with pytest.raises(ServerError, match="7 samples; at least 8"):
        trend(TIMES[:7], TIMES[:7], Bound(1))


FLAT: Vitals = {
    "time_s": 0, "worker_rss_mb": 650, "java_rss_mb": 230, "worker_fds": 8, "java_fds": 60,
    "worker_threads": 7, "java_threads": 35, "sockets": 10, "temp_files": 38, "temp_mb": 28.8,
}  # fmt: skip


def sampled(every: int = 1, **grow: float) -> list[Vitals]:
    """What is named grows by so much a second."""
    return [
        FLAT | {name: FLAT[name] + each * t for name, each in {"time_s": 1, **grow}.items()}
        for t in TIMES[::every]
    ]


@pytest.mark.parametrize("name", BOUNDS)
def test_a_leak_of_anything_is_found_and_named(name: str) -> None:
    (failure,) = found_in(sampled(**{name: 1}))
    assert failure.startswith(f"{name} grows: by 299.0")


def found_in(samples: list[Vitals]) -> list[str]:
    return soak.failures(Counter({"2xx": 9}), 0, 1, soak.judge(samples, samples))


def test_nothing_grows_unless_it_does() -> None:
    assert found_in(sampled()) == []
    with pytest.raises(KeyError, match="of_no_bound"):  # everything that is sampled has a bound
        found_in([sample | {"of_no_bound": 1} for sample in sampled()])


def test_connections_under_load_are_no_leak() -> None:
    samples, at_rest = sampled(sockets=1), sampled(20)
    assert not soak.judge(samples, at_rest)["sockets"].leaks
    assert soak.judge(at_rest, samples)["sockets"].leaks


@pytest.mark.parametrize(
    ("outcomes", "hostile", "workers", "words"),
    [
        ({"2xx": 9, "4xx": 3}, 3, 1, []),
        ({"2xx": 9, "4xx": 2}, 3, 1, ["2 requests were refused, 3 had to be"]),
        ({"2xx": 9, "503": 1}, 0, 1, ["1 requests ended as 503"]),
        ({"2xx": 9, "timeout": 1, "other_5xx": 2}, 0, 1,
         ["2 requests ended as other_5xx", "1 requests ended as timeout"]),
        ({"2xx": 9}, 0, 2, ["2 worker processes were seen instead of one"]),
    ],
)  # fmt: skip
def test_what_is_a_failure(
    outcomes: dict[str, int], hostile: int, workers: int, words: list[str]
) -> None:
    trends = {"x": Trend(1.0, 0.5, 1.0)}
    assert soak.failures(Counter(outcomes), hostile, workers, trends) == words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seconds", "1"], "seconds: seen 1; allowed is 8 to 86400"),
        (["--rate", "nan"], "rate: seen nan"),
    ],
)
def test_a_wrong_setting_is_bad_usage(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert soak.main(arguments) == 2
    assert words in capsys.readouterr().err
