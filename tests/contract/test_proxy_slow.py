"""Clients of the proxy that send slowly or nothing: they are cut off, and keep nobody out."""

from __future__ import annotations

import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from deploy.server import HOST
from tests.support.proxies import ALICE, NEEDS_NGINX, Proxy, running
from tests.support.upstreams import upstream

pytestmark = [NEEDS_NGINX]

CROWD = 4500  # more than nginx's usual 1,024 connections for each of four processes


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with (
        upstream() as live,
        running(tmp_path_factory.mktemp("slow"), live.ports, RATE="1000r/s") as started,
    ):
        yield started


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < CROWD + 500:
        pytest.skip(f"{hard} files may be open here; {CROWD + 500} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, CROWD + 500), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def secure(proxy: Proxy, stack: ExitStack) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=proxy.certificate)
    plain = stack.enter_context(socket.create_connection((HOST, proxy.port), 30))
    return stack.enter_context(context.wrap_socket(plain, server_hostname=HOST))


def until_closed(opened: ssl.SSLSocket) -> bytes:
    """What comes before the proxy hangs up; a reset is such an end too."""
    got = b""
    try:
        while part := opened.recv(65536):
            got += part
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return got


@pytest.mark.usefixtures("many_files")
def test_a_crowd_that_sends_nothing_keeps_nobody_out(proxy: Proxy) -> None:
    """Nothing at all, or a handshake's first byte."""
    with ExitStack() as stack:
        for i in range(CROWD):
            opened = stack.enter_context(socket.create_connection((HOST, proxy.port), 30))
            opened.sendall(b"\x16" * (i % 2))
        assert proxy.predict(ALICE, seed=1).status_code == 200
        assert proxy.call("GET", "/healthz").status_code == 200


def test_half_sent_headers_and_bodies_keep_nobody_out_and_end(proxy: Proxy) -> None:
    begun = b"POST /predictions/dcgan HTTP/1.1\r\nHost: x\r\n"
    whole = begun + b"X-API-Key: " + ALICE.encode() + b"\r\nContent-Length: 9\r\n\r\n"
    with ExitStack() as stack:
        headers = [secure(proxy, stack) for _ in range(50)]
        bodies = [secure(proxy, stack) for _ in range(3)]
        for opened in headers:
            opened.sendall(begun)
        for opened in bodies:
            opened.sendall(whole + b"{")
        assert proxy.predict(ALICE, seed=1).status_code == 200
        # No 408: nginx hangs up without a word, on both.
        assert {until_closed(opened) for opened in headers + bodies} == {b""}
        assert proxy.predict(ALICE, seed=1).status_code == 200
    assert [line["status"] for line in proxy.log()].count("408") == len(headers) + len(bodies)
