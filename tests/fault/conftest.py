"""Live servers that the fault tests attack: one for the session, which must not be harmed."""

from __future__ import annotations

from collections.abc import Iterator

import live
import psutil
import pytest

from deploy.server import Ports, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), live.STORE, Ports.free())
    with made.running():
        yield made


@pytest.fixture(scope="session")
def alone(server: Server) -> bytes:
    """The reply to GOOD when nothing else happens."""
    return live.post(server, live.GOOD).content


@pytest.fixture
def unharmed(server: Server, alone: bytes) -> Iterator[psutil.Process]:
    """The worker; afterwards it must be the same process and give the same bytes."""
    before = live.worker(server)
    yield before
    assert live.post(server, live.GOOD).content == alone
    assert live.worker(server) == before
