"""The client against a scripted server: retries, errors, time-outs."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from urllib3 import HTTPResponse

import client
from client import Client
from client.retries import LONGEST_WAIT_S, retries
from client.session import read

PROBLEM = {
    "type": "urn:dcgan:problem:invalid-field", "title": "t", "status": 400, "detail": "seed is bad",
    "field": "seed", "seen": "-1", "allowed": "more",
}  # fmt: skip
Step = tuple[int, dict[str, str], bytes]


class Scripted(ThreadingHTTPServer):
    """Answers request i with step i, and the last step for ever; remembers what came."""

    steps: list[Step]
    seen: list[tuple[dict[str, str], Any]]
    hang_s = 0.0


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((dict(self.headers), json.loads(body)))
        time.sleep(self.server.hang_s)
        status, headers, data = self.server.steps[
            min(len(self.server.seen), len(self.server.steps)) - 1
        ]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted(("127.0.0.1", 0), Handler)
    made.seen = []
    Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def connect(server: Scripted, **settings: Any) -> Client:
    return Client(f"http://127.0.0.1:{server.server_port}/", backoff_s=0.01, **settings)


def png(text: str | None) -> bytes:
    info, buffer = PngInfo(), io.BytesIO()
    if text is not None:
        info.add_text("dcgan", text)
    Image.new("RGB", (4, 3), "red").save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


OK: Step = (200, {"X-Seed": "7"}, png('{"request": {"seed": 7}}'))


def test_a_grid(server: Scripted) -> None:
    server.steps = [OK]
    picture = connect(server, api_key="secret").grid(noise=np.zeros((1, 2), np.float32))
    assert picture.image.size == (4, 3)
    assert picture.seed == 7
    assert picture.made_by == {"request": {"seed": 7}}
    ((headers, body),) = server.seen
    assert body == {"noise": [[0.0, 0.0]], "format": "png"}
    assert headers["X-API-Key"] == "secret"
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(server: Scripted, status: int) -> None:
    busy: Step = (status, {}, b'{"code": 503, "type": "x", "message": "full"}')
    server.steps = [busy, busy, OK]
    assert connect(server).grid(seed=7).seed == 7
    assert len(server.seen) == 3


def test_a_server_that_stays_busy(server: Scripted) -> None:
    server.steps = [(503, {}, b'{"code": 503, "type": "Unavailable", "message": "no worker"}')]
    with pytest.raises(client.Unavailable, match="503: no worker"):
        connect(server, retries=2).grid()
    assert len(server.seen) == 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(server: Scripted, form: str) -> None:
    wait = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    server.steps = [(429, {"Retry-After": wait}, b""), OK]
    began = time.monotonic()
    connect(server).grid()
    assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("value", ["soon", "9" * 5000, "-1", "Mon, 99 Foo 99999 99:99:99 GMT"])
def test_an_ill_written_retry_after_is_no_hint(server: Scripted, value: str) -> None:
    server.steps = [(503, {"Retry-After": value}, b""), OK]
    assert connect(server).grid().seed == 7


def test_waits_are_bounded_and_spread() -> None:
    policy = retries(20, backoff_s=0.5)
    assert policy.parse_retry_after("3600") == LONGEST_WAIT_S
    for tried in range(1, 12):
        busy = HTTPResponse(status=503)
        policy = policy.increment("POST", "/", busy)
        bound = min(LONGEST_WAIT_S, 0.5 * 2 ** (tried - 1))
        waits = [policy.get_backoff_time() for _ in range(200)]
        assert 0 <= min(waits) < 0.2 * bound
        assert 0.8 * bound < max(waits) <= bound


@pytest.mark.parametrize(
    ("status", "body", "expected", "words"),
    [
        (400, json.dumps(PROBLEM).encode(), client.BadRequest, r"400 \(seed\): seed is bad"),
        (406, b"{}", client.NotAcceptable, "406"),
        (413, b"", client.TooLarge, "413: Content Too Large|413: Request Entity Too Large"),
        (500, b"\xff" * 1000, client.ServerFailed, "500"),
        (507, b'["x"]', client.ServerFailed, "507"),
        (404, b'{"code": 404, "type": "N", "message": "Model not found"}', client.Problem,
         "404: Model not found"),
    ],
)  # fmt: skip
def test_errors_are_told_and_not_tried_again(
    server: Scripted, status: int, body: bytes, expected: type[client.Problem], words: str
) -> None:
    server.steps = [(status, {"Retry-After": "0"}, body)]
    with pytest.raises(expected, match=words) as caught:
        connect(server).grid(seed=-1)
    assert type(caught.value) is expected
    assert caught.value.status == status
    assert len(str(caught.value)) < 400
    assert len(server.seen) == 1


def test_the_parts_of_a_problem(server: Scripted) -> None:
    server.steps = [(400, {}, json.dumps(PROBLEM).encode())]
    with pytest.raises(client.BadRequest) as caught:
        connect(server).images(seed=-1)
    problem = caught.value
    assert (problem.field, problem.seen, problem.allowed) == ("seed", "-1", "more")
    assert (problem.type, problem.title) == (PROBLEM["type"], "t")


def test_a_redirect_is_not_followed(server: Scripted) -> None:
    server.steps = [(302, {"Location": f"http://127.0.0.1:{server.server_port}/else"}, b""), OK]
    with pytest.raises(client.Problem, match="302"):
        connect(server, api_key="secret").grid()
    assert len(server.seen) == 1


def test_a_time_out_is_not_tried_again(server: Scripted) -> None:
    server.steps, server.hang_s = [OK], 1.0
    with pytest.raises(client.NotReachable, match="timed out"):
        connect(server, read_timeout_s=0.2).grid()
    assert len(server.seen) == 1


def test_nobody_listens() -> None:
    with pytest.raises(client.NotReachable, match="is the server up"):
        Client("http://127.0.0.1:1").grid()


@pytest.mark.parametrize("text", [None, "no JSON", "[1]"])
def test_a_foreign_png_says_nothing(text: str | None) -> None:
    with pytest.raises(client.ClientError, match="does not say what made it"):
        read(png(text))


@pytest.mark.parametrize("data", [b"", b"GIF89a", png("{}")[:60]])
def test_what_is_no_png(data: bytes) -> None:
    with pytest.raises(client.ClientError, match="no PNG"):
        read(data)


def test_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match="set cannot be sent"):
        Client().grid(seeds={1})
