"""When requests leave and what they ask for; and against planted servers what the open loop must
see, each outcome counted apart, sends that are late."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest

from benchmarks.engine import (
    Ask,
    Kind,
    Limits,
    Tally,
    asks,
    constant,
    poisson,
    run,
    saturate,
    sizes,
    target,
)
from benchmarks.load import summarize
from tests.support.planted import Answer, after, planted, say, slow_asks


@pytest.mark.parametrize(
    ("rate_per_s", "duration_s", "count"),
    [(20, 3, 60), (0.5, 4, 2), (1 / 3, 3, 1), (10, 0.25, 3), (0.1, 0.3, 1), (1000, 0.1, 100)],
)
def test_constant_arrivals_are_equally_spaced(
    rate_per_s: float, duration_s: float, count: int
) -> None:
    offsets = constant(rate_per_s, duration_s)
    assert len(offsets) == count
    assert offsets[0] == 0.0
    assert offsets[-1] < duration_s
    np.testing.assert_allclose(np.diff(offsets), 1 / rate_per_s)


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    offsets = poisson(200.0, 100.0, seed=0)
    assert abs(len(offsets) - 20_000) < 5 * np.sqrt(20_000)
    gaps_s = np.diff(offsets)
    assert (gaps_s >= 0).all()
    # An exponential distribution's mean equals its standard deviation.
    assert gaps_s.mean() == pytest.approx(1 / 200, rel=0.04)
    assert gaps_s.std() == pytest.approx(1 / 200, rel=0.06)
    assert offsets[0] >= 0
    assert offsets[-1] < 100.0


def test_a_seed_gives_the_same_poisson_arrivals_again() -> None:
    first, again, other = (poisson(50.0, 2.0, seed) for seed in ([7, 1], [7, 1], [7, 2]))
    np.testing.assert_array_equal(first, again)
    assert first[:5].tolist() != other[:5].tolist()


def decoded(kind: Kind, count: int, seed: int = 1, grid_share: float = 0.25) -> list[Any]:
    endless = asks(sizes(kind, grid_share, seed), 2**20 * seed)
    return [json.loads(ask.body) for ask in itertools.islice(endless, count)]


@pytest.mark.parametrize("kind", ["image", "grid", "mix"])
def test_no_image_is_asked_for_twice(kind: Kind) -> None:
    asked = [body["seed"] + i for body in decoded(kind, 300) for i in range(body["num_images"])]
    assert len(set(asked)) == len(asked)
    assert min(asked) >= 0
    assert max(asked) < 2**53


def test_kinds_of_work() -> None:
    assert all(body["num_images"] == 1 for body in decoded("image", 20))
    assert all(body["num_images"] == 64 for body in decoded("grid", 20))
    grids = sum(body["num_images"] == 64 for body in decoded("mix", 2000))
    assert 420 < grids < 580


def test_a_seed_gives_the_same_bodies_again() -> None:
    assert decoded("mix", 50) == decoded("mix", 50)
    assert decoded("mix", 50)[0] != decoded("mix", 50, seed=2)[0]


def load(
    url: str, rate_per_s: float, duration_s: float, connections: int = 64, timeout_s: float = 10.0
) -> Tally:
    to, some = target(url, "application/json"), itertools.repeat(Ask(b"{}"))
    limits = Limits(connections=connections, timeout_s=timeout_s)
    return run(to, constant(rate_per_s, duration_s), duration_s, some, limits)


def stalling(stall_at: int, stall_s: float) -> Answer:
    """Answers at once, but stands still once: who comes meanwhile waits till the end of it."""
    one_at_a_time = threading.Lock()

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        with one_at_a_time:
            if number == stall_at:
                time.sleep(stall_s)
        say(handler, 200)

    return answer


def slower_than_200_ms(tally: Tally) -> int:
    return sum(
        item.count_added_in_this_iter_step
        for item in tally.latency_us.get_recorded_iterator()
        if item.value_iterated_to > 0.2e6
    )


def test_open_loop_sees_a_stall_that_a_closed_loop_hides() -> None:
    rate_per_s, stall_s = 100, 2.0
    with planted(stalling(50, stall_s)) as url:
        opened = load(url, rate_per_s, 4.0, connections=400)
    with planted(stalling(50, stall_s)) as url:
        to, some = target(url, "application/json"), itertools.repeat(Ask(b"{}"), 400)
        closed = saturate(to, 60.0, some, Limits(connections=1))

    assert opened.outcomes == {"2xx": 400}
    p50_s, p99_s = (opened.latency_us.get_value_at_percentile(p) / 1e6 for p in (50, 99))
    affected = slower_than_200_ms(opened)
    # Users who come 100 times a second find the server standing still for 2 s: about 180 of
    # them wait longer than 0.2 s, which is nearly half of all.
    assert 1.5 < p99_s < 4.0
    assert 120 < affected < 320
    assert opened.latency_us.get_max_value() / 1e6 >= 0.95 * stall_s
    assert p50_s < 1.5

    # The closed loop sends 400 as well; while the server stands still it does not ask.
    assert closed.outcomes == {"2xx": 400}
    assert slower_than_200_ms(closed) < 20
    assert closed.latency_us.get_value_at_percentile(99) / 1e6 < 0.5 * stall_s


def test_saturation_keeps_every_connection_busy_and_counts_the_images_asked_for() -> None:
    at_once, most = [0], [0]
    lock = threading.Lock()

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        with lock:
            at_once[0] -= 1
        handler.send_response(400 if number % 4 == 3 else 200)
        handler.send_header("Content-Length", "0")  # no X-Num-Images, as of other servers
        handler.end_headers()

    with planted(answer) as url:
        to, some = target(url, "application/json"), itertools.repeat(Ask(b"{}", 3))
        tally = saturate(to, 0.5, some, Limits(connections=8))
    assert most == [8]
    assert tally.connections == 8
    assert tally.arrivals == sum(tally.outcomes.values()) > 24
    assert tally.images == 3 * tally.outcomes["2xx"]
    assert tally.outcomes["4xx"] == tally.arrivals // 4
    assert 0.5 <= tally.wall_s < 5


def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_that_is_gone_is_not_asked_in_a_tight_loop() -> None:
    to = target(nobody(), "application/json")
    tally = saturate(to, 0.3, itertools.repeat(Ask(b"{}")), Limits(connections=2))
    assert set(tally.outcomes) == {"connection_error"}
    assert 2 <= tally.arrivals <= 2 * 31


@pytest.mark.parametrize(
    ("url", "path"),
    [("", "/predictions/dcgan"), ("/", "/predictions/dcgan"), ("/predictions/x/", "/predictions/x"),
     ("/a?b=1", "/a?b=1"), ("/?b=1", "/predictions/dcgan?b=1")],
)  # fmt: skip
def test_an_address_without_a_path_is_the_models(url: str, path: str) -> None:
    head = target(f"http://127.0.0.1:8080{url}", "application/json").head
    assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, "2xx"), (204, "2xx"), (302, "3xx"), (400, "4xx"), (413, "4xx"), (503, "503"),
     (500, "other_5xx"), (507, "other_5xx")],
)  # fmt: skip
def test_statuses_are_counted_apart(status: int, outcome: str) -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number % 4:
            say(handler, 200)
        elif status == 204:
            handler.send_response(204)
            handler.end_headers()
        else:
            say(handler, status)

    with planted(answer) as url:
        tally = load(url, 80, 0.25)
    assert sum(tally.outcomes.values()) == tally.arrivals == 20
    assert tally.outcomes[outcome] == (20 if outcome == "2xx" else 5)
    assert tally.outcomes["2xx"] == (20 if outcome == "2xx" else 15)
    # A quick refusal must not make the latency look good.
    assert tally.latency_us.get_total_count() == tally.outcomes["2xx"]


def test_timeouts_are_counted_and_enter_the_latency() -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number % 4 == 3:
            time.sleep(1.5)
        say(handler, 200)

    with planted(answer) as url:
        tally = load(url, 40, 0.5, timeout_s=0.6)
    assert tally.outcomes == {"2xx": 15, "timeout": 5}
    assert tally.latency_us.get_total_count() == 20
    assert 0.55 < tally.latency_us.get_max_value() / 1e6 < 1.4


def test_broken_replies_are_connection_errors() -> None:
    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        if number % 2:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        else:
            handler.wfile.write(b"this is no HTTP\r\n\r\n")
        handler.close_connection = True

    with planted(answer) as url:
        tally = load(url, 40, 0.25)
    assert tally.outcomes == {"connection_error": 10}


def test_connections_that_the_server_closes_between_requests_are_no_errors() -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        say(handler, 200)
        handler.close_connection = True  # without a word in the headers

    with planted(answer) as url:
        tally = load(url, 20, 0.5, connections=1)
    assert tally.outcomes == {"2xx": 10}
    assert tally.connections == 1


@pytest.mark.parametrize("close", [False, True])
def test_long_replies_are_read_to_their_end(close: bool) -> None:
    seen = set()

    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        seen.add(handler.client_address)
        handler.send_response(200)
        handler.send_header("Content-Length", "3000000")
        if close:
            handler.send_header("connection", "Close")
        handler.end_headers()
        handler.wfile.write(bytes(2_000_000))
        time.sleep(0.1)
        handler.wfile.write(bytes(1_000_000))
        if close:
            time.sleep(0.01)  # what comes now is not read

    with planted(answer) as url:
        to, some = target(url, "application/json"), itertools.repeat(Ask(b"{}"), 4)
        tally = saturate(to, 60.0, some, Limits(connections=1))
    assert tally.outcomes == {"2xx": 4}
    assert len(seen) == (4 if close else 1)
    assert tally.latency_us.get_min_value() > 0.1e6


def test_a_body_that_ends_with_the_connection() -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Num-Images: 3\r\n\r\nall of it")
        handler.close_connection = True

    with planted(answer) as url:
        tally = load(url, 20, 0.25)
    assert tally.outcomes == {"2xx": 5}
    assert tally.images == 15


def test_interim_replies_are_not_the_answer() -> None:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        handler.send_response_only(100)
        handler.end_headers()
        say(handler, 503)

    with planted(answer) as url:
        assert load(url, 20, 0.25).outcomes == {"503": 5}


def test_too_few_connections_make_late_sends_that_count_from_their_moment() -> None:
    with planted(after(0.1)) as url:
        tally = load(url, 40, 0.5, connections=1)  # asks for four times what it can
    assert tally.outcomes == {"2xx": 20}
    assert tally.connections == 1
    assert tally.late_no_connection >= 15
    # The last one was due at 0.475 s and answered after 20 x 0.1 s.
    assert tally.latency_us.get_max_value() / 1e6 > 1.3
    assert 5 < tally.throughput_per_s < 11


def test_sends_that_are_late_by_the_clients_own_fault_are_told_apart() -> None:
    with planted(after(0)) as url:
        to = target(url, "application/json")
        tally = run(to, constant(100, 0.5), 0.5, slow_asks(), Limits())
    assert tally.outcomes == {"2xx": 50}
    assert tally.late_client > 40
    assert tally.late_no_connection == 0
    assert summarize(100, tally, [])["client_saturated"]
    # The last one left a second late, and that counts.
    assert tally.latency_us.get_max_value() / 1e6 > 0.8


def test_requests_that_could_not_leave_in_time_are_unsent() -> None:
    with planted(after(0.3)) as url:
        tally = load(url, 40, 0.5, connections=1, timeout_s=0.5)
    assert sum(tally.outcomes.values()) == 20
    assert 1 <= tally.outcomes["2xx"] <= 4
    assert tally.outcomes["unsent"] > 10
    assert tally.latency_us.get_total_count() == 20
    assert 0.5 < tally.latency_us.get_max_value() / 1e6 < 1.2


def test_most_sends_leave_within_milliseconds_of_their_moment() -> None:
    with planted(after(0)) as url:
        tally = load(url, 50, 1.0)
    assert tally.send_lag_us.get_value_at_percentile(50) < 5_000
