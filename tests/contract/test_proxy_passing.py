"""What reaches TorchServe through the proxy, of one server and of several, and what cannot; and
clients that send slowly or nothing, who are cut off and keep nobody out."""

import json
import re
import resource
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from deploy.server import HOST, Ports
from handler.errors import CONTENT_TYPE
from tests.support import live
from tests.support.proxies import (
    ALICE,
    BOB,
    CAROL,
    NEEDS_NGINX,
    Proxy,
    check_problem,
    connect,
    environment,
    refused,
    running,
    send,
    several,
)
from tests.support.upstreams import Upstream, upstream

pytestmark = [NEEDS_NGINX]

# What a browser, a curl and somebody with bad intentions send.
SENT = {
    "Authorization": f"Bearer {ALICE}", "X-Request-Id": "bad\tid", "Cookie": "a=b",
    "X-Forwarded-For": "1.2.3.4", "describe": "True", "explain": "True", "Expect": "nothing",
    "Content-Encoding": "gzip", "Upgrade": "h2c", "TE": "trailers", "Referer": "https://x/",
    "Accept": "image/png", "Content-Type": "application/json",
}  # fmt: skip
PASSED = {"host", "x-request-id", "accept", "content-type", "content-encoding"}


@pytest.fixture(scope="module")
def behind() -> Iterator[Upstream]:
    with upstream() as started:
        yield started


@pytest.fixture(scope="module")
def shared(behind: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running(tmp_path_factory.mktemp("shared"), behind.ports, RATE="1000r/s") as proxy:
        yield proxy


@pytest.fixture
def recorder(behind: Upstream) -> Iterator[Upstream]:
    """What is behind the shared proxy, and may be behind others; as it was at first."""
    behind.seen.clear()
    behind.code, behind.headers, behind.reply = 200, {}, b""
    yield behind
    behind.gate.set()


@pytest.mark.parametrize(
    ("method", "path", "reached", "with_body"),
    [
        ("POST", "/predictions/dcgan?x=1", "/predictions/dcgan", True),
        ("POST", "/v1/models/dcgan:predict", "/v1/models/dcgan:predict", True),
        ("GET", "/models/dcgan?min_worker=0", "/models/dcgan?customized=true", False),
        ("GET", "/healthz", "/models/dcgan", False),
    ],
)
def test_no_key_and_nothing_unknown_reaches_torchserve(
    recorder: Upstream, shared: Proxy, method: str, path: str, reached: str, with_body: bool
) -> None:
    body = b"{}" if with_body else b"x"
    reply = shared.call(method, path, ALICE, headers=SENT, data=body)
    assert reply.status_code == 200, reply.text
    if not with_body:  # none is read, so none waits in a file
        assert shared.call(method, path, ALICE, data=b"xx").status_code == 413
    ((_, asked, headers),) = recorder.seen
    assert asked == reached
    names = {name.lower() for name, _ in headers}
    assert names == PASSED | ({"content-length"} if with_body else set())
    assert len(headers) == len(names)
    values = {name.lower(): value for name, value in headers}
    assert re.fullmatch("[0-9a-f]{32}", values["x-request-id"])
    assert reply.headers["x-request-id"] == values["x-request-id"]
    assert values["accept"] == SENT["Accept"]
    assert ALICE not in str(headers)


@pytest.mark.parametrize(
    ("method", "path", "size", "allow"),
    [
        ("POST", "/models/dcgan", 10, "GET, HEAD, OPTIONS"),
        ("DELETE", "/models/dcgan", 10, "GET, HEAD, OPTIONS"),
        ("POST", "/healthz", 10, "GET, HEAD"),
        ("POST", "/gallery/", 6553501, "GET, HEAD"),
        ("PUT", "/predictions/dcgan", 6553501, "POST, OPTIONS"),
        ("PUT", "/v1/models/dcgan:predict", 6553501, "POST, OPTIONS"),
        ("GET", "/predictions/dcgan", 0, "POST, OPTIONS"),
        ("GET", "/v1/models/dcgan:predict", 0, "POST, OPTIONS"),
        ("PUT", "/models/dcgan", 0, "GET, HEAD, OPTIONS"),
    ],
)
def test_the_method_is_refused_before_the_size_of_its_body(
    shared: Proxy, method: str, path: str, size: int, allow: str
) -> None:
    reply = shared.call(method, path, ALICE, data=b"x" * size)
    check_problem(reply, 405, "method-not-allowed")
    assert reply.headers["Allow"] == allow


@pytest.mark.parametrize("path", ["/metrics", "/workers", "/proxy", "/healthz"])
@pytest.mark.parametrize("body", [b"", b"x" * 10])
def test_the_port_that_is_not_published_only_reads(shared: Proxy, path: str, body: bytes) -> None:
    reply = requests.post(shared.metrics_url + path, data=body, timeout=5)
    assert (reply.status_code, reply.headers.get("Allow")) == (405, "GET, HEAD")
    assert "Allow" not in requests.get(shared.metrics_url + path, timeout=5).headers


def test_a_header_on_several_lines_is_one_list(recorder: Upstream, shared: Proxy) -> None:
    """RFC 9110, 5.3: otherwise text/html and then */* would be 406."""
    lines = b"Accept: text/html\r\nAccept: */*;q=0.5\r\nContent-Encoding: identity\r\n"
    send(shared, ASK + lines + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")
    ((_, _, headers),) = recorder.seen
    passed = {name.lower(): re.split(" *, *", value) for name, value in headers}
    assert passed["accept"] == ["text/html", "*/*;q=0.5"]
    assert passed["content-encoding"] == ["identity", "gzip"]


@pytest.mark.parametrize(("told", "wait"), [({"Retry-After": "30"}, "30"), ({}, "2")])
def test_one_wait_is_told_and_the_servers_own_first(
    recorder: Upstream, shared: Proxy, told: dict[str, str], wait: str
) -> None:
    recorder.code, recorder.headers, recorder.reply = 503, told, b"{}"
    reply = shared.call("POST", "/predictions/dcgan", ALICE, data=b"{}")
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, wait)


@pytest.mark.parametrize("path", ["/metrics", "/workers", "/servers/1/workers", "/healthz"])
def test_nor_by_the_port_that_is_not_published(
    recorder: Upstream, shared: Proxy, path: str
) -> None:
    requests.get(shared.metrics_url + path, headers=SENT, timeout=5).raise_for_status()
    ((_, _, headers),) = recorder.seen
    assert {name.lower() for name, _ in headers} == PASSED


LINES = b"Host: x\r\nConnection: close\r\n"
GET = b"GET / HTTP/1.1\r\n" + LINES
ASK = b"POST /predictions/dcgan HTTP/1.1\r\n" + LINES + b"X-API-Key: " + ALICE.encode() + b"\r\n"


@pytest.mark.parametrize(
    ("raw", "status", "slug"),
    [
        *[
            (b"GET " + target + b" HTTP/1.1\r\n" + LINES + b"\r\n", 400, "bad-request")
            for target in (b"/%", b"/../x", b"/a%00b", b"/a\x01b", b"/gallery/%zz", b"*", b"")
        ],
        (b"GET /?" + b"q" * 9000 + b" HTTP/1.1\r\n" + LINES + b"\r\n", 414, "uri-too-long"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + LINES + b"\r\n", 400, "bad-request"),
        (GET + b"a\0: b\r\n\r\n", 400, "bad-request"),
        (GET + b"A: " + b"a" * 9000 + b"\r\n\r\n", 431, "headers-too-large"),
        (GET + (b"A: " + b"a" * 7000 + b"\r\n") * 6 + b"\r\n", 431, "headers-too-large"),
        (b"get / HTTP/1.1\r\n" + LINES + b"\r\n", 400, "bad-request"),
        (b"CONNECT a:1 HTTP/1.1\r\n" + LINES + b"\r\n", 400, "bad-request"),
        (b"TRACE / HTTP/1.1\r\n" + LINES + b"\r\n", 405, "method-not-allowed"),
        (b"\0\1\r\n\r\n", 400, "bad-request"),
        (b"GET / HTTP/9.1\r\n" + LINES + b"\r\n", 505, "http-version"),
        (ASK + b"Transfer-Encoding: gzip\r\n\r\n", 501, "not-implemented"),
        (ASK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad-request"),
        (ASK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "bad-request"),
        (b"GET /none.html HTTP/1.1\r\n" + LINES + b"\r\n", 404, "not-found"),
        (b"POST /gallery/ HTTP/1.1\r\n" + LINES + b"\r\n", 405, "method-not-allowed"),
        (
            b"GET /gallery/ HTTP/1.1\r\n" + LINES + b'If-Match: "a"\r\n\r\n',
            412, "precondition-failed",
        ),
    ],
    ids=lambda value: value[:20].decode("latin1") if isinstance(value, bytes) else str(value),
)  # fmt: skip
def test_what_nginx_itself_refuses_is_a_problem_too(
    shared: Proxy, raw: bytes, status: int, slug: str
) -> None:
    head, _, body = send(shared, raw).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert f"\r\nContent-Type: {CONTENT_TYPE}\r\n".encode() in head
    assert b"\r\nX-Request-Id: " in head
    assert json.loads(body)["type"] == f"urn:dcgan:problem:{slug}"
    assert json.loads(body)["status"] == status


def test_the_address_alone_leads_to_the_page(shared: Proxy) -> None:
    reply = shared.call("GET", "/")
    assert reply.url == f"{shared.url}/gallery/"
    assert reply.headers["content-type"].startswith("text/html")


def until_refused(session: requests.Session, url: str, certificate: str) -> None:
    for _ in range(2000):
        status = session.get(url, verify=certificate, timeout=10).status_code
        if status == 429:
            return
        assert status == 200
    pytest.fail("there is no limit")


def test_requests_from_outside_do_not_use_up_what_probes_may_ask(
    recorder: Upstream, tmp_path: Path
) -> None:
    with running(tmp_path, recorder.ports) as proxy, requests.Session() as session:
        until_refused(session, f"{proxy.url}/gallery/icon.svg", proxy.certificate)
        assert proxy.call("GET", "/healthz").status_code == 200
        until_refused(session, f"{proxy.url}/healthz", proxy.certificate)
        for _ in range(80):
            assert requests.get(f"{proxy.metrics_url}/healthz", timeout=5).status_code == 200


def test_every_reply_is_counted_by_status_and_by_who_decided_it(
    recorder: Upstream, tmp_path: Path
) -> None:
    limits = {"RATE": "1r/m", "BURST": "9", "CONNECTIONS": "2", "ALL_CONNECTIONS": "3"}
    with running(tmp_path, recorder.ports, **limits) as proxy, ThreadPoolExecutor(3) as pool:
        assert proxy.counted() == {}
        proxy.predict("z" * 32)
        send(proxy, b"GET /% HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        proxy.call("GET", "/nothing")
        proxy.call("GET", "/healthz")  # not counted, nor logged
        recorder.gate.clear()
        waiting = [pool.submit(proxy.predict, key) for key in (ALICE, ALICE, BOB)]
        live.wait(lambda: len(recorder.seen) >= 4, 20)  # with the question of /healthz
        for key in (ALICE, BOB, CAROL):
            check_problem(proxy.predict(key), 429, "too-many-requests")
        recorder.gate.set()
        assert [each.result().status_code for each in waiting] == [200] * 3
        assert any(proxy.predict(ALICE).status_code == 429 for _ in range(20))
        assert proxy.predict(BOB).status_code == 200
        counted = proxy.counted()
    assert counted.pop("200 torchserve") >= 3
    assert counted == {"400 proxy": 1, "401 proxy": 1, "404 proxy": 1,
                       "429 key": 1, "429 all": 2, "429 rate": 1}  # fmt: skip


@pytest.mark.parametrize("protocol", ["--http1.1", "--http2"])
def test_a_request_that_is_given_up_keeps_its_place(
    recorder: Upstream, tmp_path: Path, protocol: str
) -> None:
    """TorchServe goes on with it, so who hangs up and asks again would fill the queue of all."""
    with running(tmp_path, recorder.ports, CONNECTIONS="1", RATE="1000r/s") as proxy:
        recorder.gate.clear()
        command = ["curl", protocol, "-sS", "-d{}", "-HContent-Type: application/json"]
        url = f"{proxy.url}/predictions/dcgan"
        with subprocess.Popen(
            [*command, f"-HX-API-Key: {ALICE}", "--cacert", proxy.certificate, url]
        ) as given_up:
            live.wait(lambda: recorder.seen, 20)
            given_up.kill()
        for _ in range(10):  # nginx hears of the end within this time
            check_problem(proxy.predict(ALICE, seed=1), 429, "too-many-requests")
            time.sleep(0.05)
        recorder.gate.set()
        live.wait(lambda: proxy.predict(ALICE, seed=1).status_code == 200, 10)
        assert [line["status"] for line in proxy.log() if line["status"] != "429"] == ["200"] * 2


def test_each_server_is_asked_for_its_own(tmp_path: Path) -> None:
    with (
        upstream("READY") as good,
        upstream("LOADING") as bad,
        running(tmp_path, Ports.free(), **several(bad.ports, good.ports)) as proxy,
    ):
        for number, each, ready in ((1, bad, 0), (2, good, 1)):
            for _ in range(3):  # not by turns
                text = requests.get(f"{proxy.metrics_url}/servers/{number}/workers", timeout=5).text
                assert f"dcgan_workers_ready {ready}\n" in text
                assert f'dcgan_worker_memory_bytes{{worker="{each.port}"}}' in text
            before = len(each.seen)
            assert requests.get(f"{proxy.metrics_url}/servers/{number}/metrics", timeout=5).ok
            assert [path for _, path, _ in each.seen[before:]] == ["/metrics"]
        for path in ("/servers/3/workers", "/servers/3/metrics", "/servers/0/metrics"):
            assert requests.get(proxy.metrics_url + path, timeout=5).status_code == 404
        for url, verify in ((proxy.url, proxy.certificate), (proxy.metrics_url, None)):
            for _ in range(4):  # one of them is ready
                reply = requests.get(f"{url}/healthz", verify=verify, timeout=5)
                assert reply.status_code == 200
        good.status = "LOADING"
        assert proxy.call("GET", "/healthz").status_code == 503


def test_a_server_that_is_gone_does_not_hide_one_that_is_ready(tmp_path: Path) -> None:
    with (
        upstream() as good,
        running(tmp_path, Ports.free(), **several(Ports.free(), good.ports)) as proxy,
    ):
        assert proxy.call("GET", "/healthz").status_code == 200
        lost = requests.get(f"{proxy.metrics_url}/servers/1/workers", timeout=5)
        assert lost.status_code == 503


@pytest.mark.parametrize(
    "given",
    [
        {"SERVERS": "a:1 b:2", "MANAGEMENT_SERVERS": "a:1 b:2"},
        {"SERVERS": "a:1 b:2", "MANAGEMENT_SERVERS": "a:1", "METRICS_SERVERS": "a:1 b:2"},
        {"MANAGEMENT_SERVERS": "a:1", "METRICS_SERVERS": "a:1"},
    ],
)
def test_lists_of_other_lengths_stop_the_start(tmp_path: Path, given: dict[str, str]) -> None:
    assert "have to name the same servers" in refused(environment(tmp_path, Ports(), **given))


def until_closed(opened: ssl.SSLSocket) -> bytes:
    """What comes before the proxy hangs up; a reset is such an end too."""
    got = b""
    try:
        while part := opened.recv(65536):
            got += part
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return got


CROWD = 4500  # more than nginx's usual 1,024 connections for each of four processes


@pytest.mark.usefixtures("recorder")
def test_a_crowd_that_sends_nothing_keeps_nobody_out(shared: Proxy) -> None:
    """Nothing at all, or a handshake's first byte."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + 500:
        pytest.skip(f"{hard} files may be open here; {CROWD + 500} are needed")
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CROWD + 500), hard))
        for i in range(CROWD):
            opened = stack.enter_context(socket.create_connection((HOST, shared.port), 30))
            opened.sendall(b"\x16" * (i % 2))
        assert shared.predict(ALICE, seed=1).status_code == 200
        assert shared.call("GET", "/healthz").status_code == 200


@pytest.mark.usefixtures("recorder")
def test_half_sent_headers_and_bodies_keep_nobody_out_and_end(shared: Proxy) -> None:
    begun = b"POST /predictions/dcgan HTTP/1.1\r\nHost: x\r\n"
    whole = begun + b"X-API-Key: " + ALICE.encode() + b"\r\nContent-Length: 9\r\n\r\n"
    with ExitStack() as stack:
        headers = [stack.enter_context(connect(shared)) for _ in range(50)]
        bodies = [stack.enter_context(connect(shared)) for _ in range(3)]
        for opened in headers:
            opened.sendall(begun)
        for opened in bodies:
            opened.sendall(whole + b"{")
        assert shared.predict(ALICE, seed=1).status_code == 200
        # No 408: nginx hangs up without a word, on both.
        assert {until_closed(opened) for opened in headers + bodies} == {b""}
        assert shared.predict(ALICE, seed=1).status_code == 200
    assert [line["status"] for line in shared.log()].count("408") == len(headers) + len(bodies)
