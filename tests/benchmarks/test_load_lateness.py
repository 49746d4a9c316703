"""Requests that leave late: why, and that they count from their moment all the same."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

from benchmarks.curve import summarize
from benchmarks.engine import Ask, Limits, constant, run, target
from tests.benchmarks.test_load_open_loop import load, planted, say


def test_too_few_connections_make_late_sends_that_count_from_their_moment() -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(0.1)
        say(handler, 200)

    with planted(answer) as url:
        tally = load(url, 40, 0.5, connections=1)  # asks for four times what it can
    assert tally.outcomes == {"2xx": 20}
    assert tally.connections == 1
    assert tally.late_no_connection >= 15
    # The last one was due at 0.475 s and answered after 20 x 0.1 s.
    assert tally.latency_us.get_max_value() / 1e6 > 1.3
    assert 5 < tally.throughput_per_s < 11


def slow_asks() -> Iterator[Ask]:
    """Stands for a client that has no processor to itself."""
    while True:
        time.sleep(0.03)
        yield Ask(b"{}")


def test_sends_that_are_late_by_the_clients_own_fault_are_told_apart() -> None:
    with planted(lambda handler, _: say(handler, 200)) as url:
        tally = run(
            target(url, "application/json"), constant(100, 0.5), 0.5, slow_asks(),
            Limits(),
        )  # fmt: skip
    assert tally.outcomes == {"2xx": 50}
    assert tally.late_client > 40
    assert tally.late_no_connection == 0
    assert summarize(100, tally, {}).client_saturated
    # The last one left a second late, and that counts.
    assert tally.latency_us.get_max_value() / 1e6 > 0.8


def test_requests_that_could_not_leave_in_time_are_unsent() -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        time.sleep(0.3)
        say(handler, 200)

    with planted(answer) as url:
        tally = load(url, 40, 0.5, connections=1, timeout_s=0.5)
    assert sum(tally.outcomes.values()) == 20
    assert 1 <= tally.outcomes["2xx"] <= 4
    assert tally.outcomes["unsent"] > 10
    assert tally.latency_us.get_total_count() == 20
    assert 0.5 < tally.latency_us.get_max_value() / 1e6 < 1.2


def test_most_sends_leave_within_milliseconds_of_their_moment() -> None:
    with planted(lambda handler, _: say(handler, 200)) as url:
        tally = load(url, 50, 1.0)
    assert tally.send_lag_us.get_value_at_percentile(50) < 5_000
