"""Clients that hang up, send slowly, do not read, or come in great number: others do not wait."""

import json
import resource
import socket
from contextlib import ExitStack

import psutil

from deploy.server import HOST, Server
from tests.support import live

BODY = json.dumps({"seed": 1, "num_images": 256}).encode()
FEW = 5  # descriptors of requests just answered, which come and go
LINES = (f"Content-Type: {live.JSON}", f"Content-Length: {len(BODY)}")


def connect(server: Server) -> socket.socket:
    opened = socket.socket()
    # Before it connects, or it is large.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    opened.settimeout(30)
    opened.connect((HOST, server.ports.inference))
    return opened


def descriptors(unharmed: psutil.Process) -> int:
    """Open by the front end."""
    return live.java(unharmed).num_fds()


def test_slow_headers_and_slow_bodies(
    server: Server, alone: bytes, unharmed: psutil.Process
) -> None:
    """Slowloris: requests that never end. TorchServe itself waits for them without a limit, the
    proxy in front does not; but nobody else is kept waiting."""
    before = descriptors(unharmed)
    request = live.head(server, *LINES) + BODY
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(200)]
        for i in range(0, 100, 5):
            for number, opened in enumerate(slow):
                part = request[i : i + 5] if number % 2 else live.head(server)[i : i + 5]
                opened.sendall(part)
            if i % 25 == 0:
                assert live.post(server, live.GOOD).content == alone
        assert live.post(server, live.GOOD).content == alone
    live.wait(lambda: descriptors(unharmed) <= before + FEW)


def test_hanging_up_at_every_stage(server: Server, alone: bytes, unharmed: psutil.Process) -> None:
    before = descriptors(unharmed)
    request = live.head(server, *LINES) + BODY
    for end in (1, 20, len(request) // 2, len(request) - 1, len(request)):
        for linger in (False, True):
            with connect(server) as opened:
                opened.sendall(request[:end])
                if linger:  # a reset instead of an orderly end
                    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert live.post(server, live.GOOD).content == alone
    live.wait(lambda: descriptors(unharmed) <= before + FEW)


def test_a_reply_that_nobody_reads(server: Server, alone: bytes, unharmed: psutil.Process) -> None:
    """2 MB wait in the front end, not in the worker, until the client reads or goes."""
    before = descriptors(unharmed)
    drawn = server.log.read_text().count('"images":256')
    with ExitStack() as stack:
        deaf = [stack.enter_context(connect(server)) for _ in range(3)]
        for opened in deaf:
            opened.sendall(live.head(server, *LINES) + BODY)
        live.wait(lambda: server.log.read_text().count('"images":256') >= drawn + 3)
        for _ in range(5):
            assert live.post(server, live.GOOD).content == alone
        received = b""
        while len(found := live.answers(received)) < 1:  # one of them reads after all
            received += deaf[0].recv(1 << 16)
        assert found[0].status == 200
    live.wait(lambda: descriptors(unharmed) <= before + FEW)


def test_two_thousand_idle_connections(
    server: Server, alone: bytes, unharmed: psutil.Process
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    before = descriptors(unharmed)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for waiting in range(250, 2001, 250):  # fewer than what waits to be accepted at once
            for _ in range(250):
                stack.enter_context(connect(server))
            live.wait(lambda waiting=waiting: descriptors(unharmed) >= before + waiting - FEW)
        assert live.post(server, live.GOOD).content == alone
    live.wait(lambda: descriptors(unharmed) <= before + FEW)
