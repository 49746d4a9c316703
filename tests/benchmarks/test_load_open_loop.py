"""The open loop against planted servers: what it must see, and each outcome counted apart."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.engine import Ask, Limits, Tally, constant, run, saturate, target

Answer = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def planted(answer: Answer, get: Callable[[], str] = str) -> Iterator[str]:
    """A server whose ``answer`` gets each POST with its number, from 0; gives the URL.

    ``get`` gives the text that a GET is answered with.
    """
    numbers = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            answer(self, next(numbers))

        def do_GET(self) -> None:
            text = get().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 256

        def handle_error(self, *_: object) -> None:
            pass  # clients that gave up

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/predictions/dcgan"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def say(handler: BaseHTTPRequestHandler, status: int, images: int = 1) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", "2")
    handler.send_header("X-Num-Images", str(images))
    handler.end_headers()
    handler.wfile.write(b"ok")


def load(
    url: str, rate_per_s: float, duration_s: float, connections: int = 64, timeout_s: float = 10.0
) -> Tally:
    return run(
        target(url, "application/json"), constant(rate_per_s, duration_s), duration_s,
        itertools.repeat(Ask(b"{}")), Limits(connections=connections, timeout_s=timeout_s),
    )  # fmt: skip


def stalling(stall_at: int, stall_s: float) -> Answer:
    """Answers at once, but stands still once: who comes meanwhile waits till the end of it."""
    one_at_a_time = threading.Lock()

    def answer(handler: BaseHTTPRequestHandler, number: int) -> None:
        with one_at_a_time:
            if number == stall_at:
                time.sleep(stall_s)
        say(handler, 200)

    return answer


def test_open_loop_sees_a_stall_that_a_closed_loop_hides() -> None:
    rate_per_s, stall_s = 100, 2.0
    with planted(stalling(50, stall_s)) as url:
        opened = load(url, rate_per_s, 4.0, connections=400)
    with planted(stalling(50, stall_s)) as url:
        to, some = target(url, "application/json"), itertools.repeat(Ask(b"{}"), 400)
        closed = saturate(to, 1, 60.0, some, Limits())

    assert opened.outcomes == {"2xx": 400}
    p50_s, p99_s = (opened.latency_us.get_value_at_percentile(p) / 1e6 for p in (50, 99))
    affected = sum(
        item.count_added_in_this_iter_step
        for item in opened.latency_us.get_recorded_iterator()
        if item.value_iterated_to > 0.2e6
    )
    # Users who come 100 times a second find the server standing still for 2 s: about 180 of
    # them wait longer than 0.2 s, which is nearly half of all.
    assert 1.5 < p99_s < 4.0
    assert 120 < affected < 320
    assert opened.latency_us.get_max_value() / 1e6 >= 0.95 * stall_s
    assert p50_s < 1.5

    # The closed loop sends 400 as well; while the server stands still it does not ask.
    assert closed.outcomes == {"2xx": 400}
    slow = sum(
        item.count_added_in_this_iter_step
        for item in closed.latency_us.get_recorded_iterator()
        if item.value_iterated_to > 0.2e6
    )
    assert slow < 20
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
        tally = saturate(
            target(url, "application/json"), 8, 0.5, itertools.repeat(Ask(b"{}", 3)), Limits()
        )
    assert most == [8]
    assert tally.connections == 8
    assert tally.arrivals == sum(tally.outcomes.values()) > 24
    assert tally.images == 3 * tally.outcomes["2xx"]
    assert tally.outcomes["4xx"] == tally.arrivals // 4
    assert 0.5 <= tally.wall_s < 5


def test_a_server_that_is_gone_is_not_asked_in_a_tight_loop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    to = target(f"http://127.0.0.1:{port}", "application/json")
    tally = saturate(to, 2, 0.3, itertools.repeat(Ask(b"{}")), Limits())
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


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tally = load(f"http://127.0.0.1:{port}/", 40, 0.25)
    assert tally.outcomes == {"connection_error": 10}
    assert tally.throughput_per_s == 0


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


def test_images_bytes_and_the_cost_of_the_client() -> None:
    with planted(lambda handler, _: say(handler, 200, images=64)) as url:
        tally = load(url, 100, 0.5)
    assert tally.images == 64 * 50
    assert tally.size_bytes > 50 * 60
    assert 45 < tally.throughput_per_s / 2 < 55
    assert 0 < tally.cpu_s < tally.wall_s


def test_progress_is_told_while_running() -> None:
    told: list[int] = []
    with planted(lambda handler, _: say(handler, 200)) as url:
        run(
            target(url, "application/json"), constant(20, 1.5), 1.5,
            itertools.repeat(Ask(b"{}")), Limits(),
            lambda _, tally: told.append(tally.outcomes["2xx"]),
        )  # fmt: skip
    assert len(told) == 1
    assert 10 < told[0] <= 30
