"""Attacks on the HTTP layer: malformed, ambiguous and oversized requests, and tricks in the path.

Every one is followed by a good request that must get the bytes it always gets, from the same
worker process. The proxy in front refuses most of these; here TorchServe gets them raw.
"""

import json

import pytest

from deploy.server import Server
from tests.support import live

pytestmark = [pytest.mark.usefixtures("unharmed")]

BODY = json.dumps(live.GOOD).encode()
TYPE = f"Content-Type: {live.JSON}"
LENGTH = f"Content-Length: {len(BODY)}"
CHUNKED = "Transfer-Encoding: chunked"
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


def chunks(body: bytes, size: int = 7) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        ([CHUNKED], chunks(BODY)),
        ([LENGTH, "X-Latin: \xff\xfe"], BODY),
        ([LENGTH, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"], BODY),
    ],
    ids=["chunked", "Latin-1", "h2c"],
)
def test_odd_but_allowed(server: Server, alone: bytes, lines: list[str], sent: bytes) -> None:
    (reply,) = live.talk(server, live.head(server, TYPE, *lines) + sent)
    assert (reply.status, reply.body) == (200, alone)


def test_expect_100_continue(server: Server, alone: bytes) -> None:
    head = live.head(server, TYPE, LENGTH, "Expect: 100-continue")
    interim, reply = live.talk(server, head + BODY, replies=2)
    assert interim.status == 100
    assert (reply.status, reply.body) == (200, alone)


MALFORMED = {
    "two lengths": ([LENGTH, "Content-Length: 3"], BODY + PING, 400),
    "the same length twice": ([LENGTH, LENGTH], BODY, 400),
    "a list of lengths": ([f"Content-Length: {len(BODY)}, {len(BODY)}"], BODY, 400),
    "a length beyond 64 bits": (["Content-Length: 99999999999999999999"], BODY, 400),
    "a hexadecimal length": (["Content-Length: 0x10"], BODY, 400),
    "a length beyond the limit": (["Content-Length: 7000000"], BODY, 413),
    "a chunk size that is none": ([CHUNKED], b"zz\r\nabc\r\n0\r\n\r\n", 400),
    "a chunk of 2^64 bytes": ([CHUNKED], b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n", 400),
    "a header of 9 kB": ([LENGTH, "X: " + "a" * 9000], BODY, 400),
    "2,000 headers": ([LENGTH, *(f"X-{i}: {i}" for i in range(2000))], BODY, 400),
    "a blank before the colon": ([f"Content-Length : {len(BODY)}"], BODY + PING, 400),
    "a bare carriage return": ([LENGTH, "X: a\rY: b"], BODY, 400),
    "a NUL in a header": ([LENGTH, "X: a\0b"], BODY, 400),
    "a header without a name": ([LENGTH, ": a"], BODY, 400),
    "a header without a colon": ([LENGTH, "hello"], BODY, 400),
    "an expectation that is none": ([LENGTH, "Expect: x"], BODY, 417),
    "a negative chunk": ([CHUNKED], b"-1\r\nabc\r\n0\r\n\r\n" + PING, None),  # hangs up
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(server: Server, case: str) -> None:
    lines, sent, status = MALFORMED[case]
    replies = live.talk(server, live.head(server, TYPE, *lines) + sent)
    # And no reply to what follows.
    assert [reply.status for reply in replies] == ([status] if status else [])


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        ([CHUNKED, f"Content-Length: {len(chunks(BODY)) + len(PING)}"], chunks(BODY)),
        (["Content-Length: 4", CHUNKED], chunks(BODY)),
        ([LENGTH, "Transfer-Encoding: xchunked"], BODY),
        (["Transfer-Encoding: chunked, identity"], chunks(BODY)),
    ],
    ids=["both, the length longer", "both, the length shorter", "xchunked", "chunked, identity"],
)
def test_two_ways_to_read_the_length(
    server: Server, alone: bytes, lines: list[str], sent: bytes
) -> None:
    """RFC 9112, 6.3: the transfer coding decides. What follows is the next request, never part
    of this one, and never a third."""
    replies = live.talk(server, live.head(server, TYPE, *lines) + sent + PING, replies=2)
    # TorchServe answers pipelined requests as they get ready, not in their order: a proxy must
    # not pipeline to it (nginx never does).
    bodies = [reply.body for reply in replies]
    assert len(bodies) == 2
    assert alone in bodies
    assert any(b'"Healthy"' in body for body in bodies)


PATHS = {  # with those of the management port in contract/test_security.py
    "/predictions/..%2f": 404,
    "/predictions/..": 404,
    "/predictions/%2e%2e/models": 404,
    "/predictions/%00": 404,
    "/predictions/dcgan%00": 404,
    "/predictions/dcgan;x": 404,
    "/predictions/dcgan/../../models": 404,
    "/predictions/dcgan/9.9": 404,
    "//predictions//dcgan": 404,
    "/../../../../etc/passwd": 404,
    "http://elsewhere/predictions/dcgan": 404,
    "/predictions/dcgan/%": 403,
    "/predictions/%zz": 403,
    "/predictions/dcgan/1.0/%0d%0aX-Injected:%201": 403,
    "/predictions/" + "%41" * 1000: 404,
    "/wfpredict/x": 404,
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:40])
def test_tricks_in_the_path(server: Server, path: str) -> None:
    (reply,) = live.talk(server, live.head(server, TYPE, LENGTH, target=path) + BODY)
    assert reply.status == PATHS[path]
    assert "x-injected" not in reply.headers
    assert b"root:" not in reply.body
    assert b"modelUrl" not in reply.body


def multipart(disposition: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b"--x\r\nContent-Disposition: form-data; %b\r\n%b\r\n%b\r\n--x--\r\n" % (
        disposition,
        more,
        value,
    )


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/form-data; boundary=x",
         multipart(b'name="../../x"; filename="../../../../tmp/dcgan-evil"', b"1"), 400),
        ("multipart/form-data; boundary=x", multipart(b'name="s\xc3"', b"\xff\xfe"), 400),
        ("multipart/form-data; boundary=x",
         multipart(b'name="seed"; filename="a"', b"\xff", b"Content-Type: te\xffxt\r\n"), 400),
        ("multipart/form-data; boundary=x", multipart(b'name="seed', b"1"), 200),
        ("te\xffxt", BODY, 200),
    ],
    ids=["path as a file name", "broken UTF-8", "broken type", "no closing quote",
         "broken content type"],
)  # fmt: skip
def test_broken_forms(server: Server, content_type: str, body: bytes, status: int) -> None:
    lines = (f"Content-Type: {content_type}", f"Content-Length: {len(body)}")
    (reply,) = live.talk(server, live.head(server, *lines) + body)
    assert reply.status == status
    assert not list(server.folder.rglob("*evil*"))
