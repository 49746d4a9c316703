"""The log of a live server: one JSON object a line, one line a request, nothing else at load."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import requests

from deploy.server import HOST, LOG_CONFIG, Server
from tests.support import live

HOSTILE_IDS = [
    '"}{"level":"error","message":"forged"}',
    "[METRICS]dcgan_images_total.Count:1e6|#ModelName:dcgan,Level:Model|#type:COUNTER|#hostname:x",
    "[PID]1",
    "\\n[PID]1",
    b"\x1b[31mred\x1b[0m",
    "caf\u00e9 \u2028 \u202e".encode(),
    b"\x80\xfe\xff",
    "x" * 4000,
]


class Tail:
    """What a log gains from now on."""

    def __init__(self, path: Path) -> None:
        self._path, self._start = path, path.stat().st_size if path.exists() else 0

    def lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        whole, _, _ = self._path.read_bytes()[self._start :].rpartition(b"\n")
        return [json.loads(line.decode("ascii")) for line in whole.splitlines()]

    def wait(self, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        """The lines, as soon as there are enough; TorchServe writes them after the reply."""
        return live.wait(lambda: lines if enough(lines := self.lines()) else [], timeout_s=20)


def of_requests(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if line["message"] == "request"]


def test_n_requests_are_n_lines_and_nothing_else(server: Server) -> None:
    tail = Tail(server.log)
    bodies = [{"seed": n, "num_images": 1 + n % 3} if n % 4 else {"seed": -1} for n in range(200)]

    def ask(numbered: tuple[int, dict[str, int]]) -> requests.Response:
        number, body = numbered
        headers = {"X-Request-Id": f"load-{number}"}
        return requests.post(server.predict_url, json=body, headers=headers, timeout=60)

    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(ask, enumerate(bodies)))
    requests.get(f"http://{HOST}:{server.ports.inference}/ping", timeout=10)
    requests.get(f"http://{HOST}:{server.ports.metrics}/metrics", timeout=10)
    lines = tail.wait(lambda lines: len(of_requests(lines)) == 200)
    assert of_requests(lines) == lines  # no line a batch, none for probes and scrapes
    by_id = {line["id"]: line for line in lines}
    assert len(by_id) == 200
    for number, reply in enumerate(replies):
        line = by_id[reply.headers["x-request-id"]]
        assert line["client_id"] == f"load-{number}"
        assert line["status"] == reply.status_code
        assert line["size_bytes"] == len(reply.content)
        assert line["images"] == int(reply.headers.get("x-num-images", 0))
        assert line["kind"] == ("none" if reply.ok else "invalid-field")
        assert line["field"] == ("" if reply.ok else reply.json()["field"])
        assert 1 <= line["batch_requests"] <= 32
        assert min(line[name] for name in ("latents_ms", "forward_ms", "encode_ms")) >= 0


def test_what_a_worker_died_over_is_not_hidden() -> None:
    """TorchServe answers 500 or 507 then, and the worker logs nothing any more."""
    found = ElementTree.parse(LOG_CONFIG).find(".//Logger[@name='ACCESS_LOG']/RegexFilter")
    assert found is not None
    line = '/127.0.0.1:1 "POST /predictions/dcgan HTTP/1.1" {} 5'
    statuses = (200, 304, 400, 403, 404, 405, 406, 413, 415, 500, 501, 503, 507)
    shown = [s for s in statuses if not re.fullmatch(found.attrib["regex"], line.format(s))]
    assert shown == [403, 404, 405, 500, 503, 507]


@pytest.mark.parametrize("sent", HOSTILE_IDS, ids=lambda sent: ascii(sent)[:30])
def test_a_hostile_header_is_one_escaped_line(server: Server, sent: str | bytes) -> None:
    tail = Tail(server.log)
    headers = {"X-Request-Id": sent}
    reply = requests.post(server.predict_url, json={"seed": 1}, headers=headers, timeout=60)
    assert reply.status_code == 200
    (line,) = tail.wait(lambda lines: bool(of_requests(lines)))
    assert line["id"] == reply.headers["x-request-id"]
    text = sent if isinstance(sent, str) else sent.decode("latin-1")  # as TorchServe reads it
    assert line["client_id"] == text[:64]


def test_a_hostile_path_is_one_escaped_line(server: Server) -> None:
    tail = Tail(server.log)
    path = '/predictions/"}%0d%0a[METRICS]x\x1b[31m'
    reply = requests.get(f"http://{HOST}:{server.ports.inference}{path}", timeout=10)
    assert reply.status_code == 404
    lines = tail.wait(lambda lines: any(line["logger"] == "ACCESS_LOG" for line in lines))
    (line,) = [line for line in lines if line["logger"] == "ACCESS_LOG"]
    assert ' HTTP/1.1" 404 ' in line["message"]
    assert line["message"].isprintable()
