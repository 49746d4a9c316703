"""What the proxy prints: lines of JSON in ASCII, whatever clients send, and none of theirs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.proxies import ALICE, BOB, NEEDS_NGINX, Proxy, running, send
from tests.support.upstreams import upstream

pytestmark = [NEEDS_NGINX]

FORGED = b'{"time":"forged","level":"info"}'
MEMBERS = {
    "time", "level", "request_id", "upstream_request_id", "key", "client", "method", "path",
    "status", "request_bytes", "reply_bytes", "request_s", "upstream_s", "upstream",
    "upstream_status", "cache", "tls", "agent",
}  # fmt: skip
ODD = b'\x1b[31m\x9b2J\xff\x7f\xc3\xa9"\\'
TARGETS = [
    b"/gallery/%0a" + FORGED, b"/gallery/%0d%0a" + FORGED,
    b"/gallery/" + b"n" * 300 + b"%0a" + FORGED,
    b"/%9b", b"/%ff%fe", b"/\xff", b"/\xc3\xa9", b"/%1b[31m", b"/%7f", b"/%22%5c", b"/%c3%a9",
    b"/gallery/%00" + FORGED, b"/healthz%0a" + FORGED, b"/%?hushhush", b"/../up?hushhush",
    b"/\x1b[31m?%00hushhush", b"/?" + b"hushhush" * 1200,
]  # fmt: skip


def get(target: bytes, *headers: bytes) -> bytes:
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: x", b"Connection: close", *headers]
    return b"\r\n".join([*lines, b"", b""])


@contextmanager
def printed(folder: Path, **more: str) -> Iterator[tuple[Proxy, list[str], list[str]]]:
    """A proxy; after the block the lists hold what it printed meanwhile: log, errors."""
    log: list[str] = []
    errors: list[str] = []
    with upstream(reply=b"x" * 3_000_000) as live, running(folder, live.ports, **more) as proxy:
        begun = (folder / "stderr").stat().st_size
        yield proxy, log, errors
    # Bytes that are not ASCII fail here.
    log += (folder / "access.log").read_bytes().decode("ascii").splitlines()
    errors += (folder / "stderr").read_bytes()[begun:].decode("ascii").splitlines()


def be_odd(proxy: Proxy) -> int:
    """Requests of every odd kind; gives how many."""
    for target in TARGETS:
        send(proxy, get(target, b"User-Agent: " + ODD, b"Referer: " + ODD, b"X-Request-Id: " + ODD))
    for _ in range(5):
        send(proxy, get(b"/models/dcgan", b"X-API-Key: " + BOB.encode(), b"Referer: " + ODD))
    send(proxy, get(b"/"))  # no agent
    octets = {"Content-Type": "application/octet-stream", "Referer": "x"}
    large = proxy.call("POST", "/predictions/dcgan", ALICE, data=b"\0" * 1_000_000, headers=octets)
    assert (large.status_code, len(large.content)) == (200, 3_000_000)
    too_large = proxy.call("GET", "/models/dcgan", ALICE, data=b"\0" * 100, headers=octets)
    assert too_large.status_code == 413
    return len(TARGETS) + 8


def test_every_line_is_json_and_none_is_forged(tmp_path: Path) -> None:
    with printed(tmp_path, RATE="1r/m", BURST="3") as (proxy, log, errors):
        count = be_odd(proxy)
    lines = [json.loads(line) for line in log]
    assert len(lines) == count
    assert all(set(line) == MEMBERS for line in lines)
    assert "429" in {line["status"] for line in lines}
    assert not any("forged" in line["time"] for line in lines)
    paths = [line["path"] for line in lines]
    assert "/gallery/\\x0a" + FORGED.decode() in paths
    assert {"/\\x9b", "/\\xff\\xfe", '/"\\', "/%", "/../up"} <= set(paths)
    assert "hushhush" not in str(log)
    assert lines[0]["agent"] == r"\x1b[31m\x9b2J\xff\x7f\xc3\xa9" + '"\\'
    assert errors == []  # all of it is in the log already


def test_errors_are_json_too_where_they_are_asked_for(tmp_path: Path) -> None:
    with printed(tmp_path, RATE="1r/m", BURST="3", ERROR_LEVEL="info") as (proxy, _, errors):
        be_odd(proxy)
    lines = [json.loads(line) for line in errors]
    assert {frozenset(line) for line in lines} == {frozenset({"level", "message"})}
    said = " ".join(line["message"] for line in lines)
    for part in ("limiting requests", "is buffered to a temporary file", 'referrer: "?[31m?2J'):
        assert part in said
    assert not any(line["message"].startswith("{") for line in lines)
