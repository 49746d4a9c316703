"""What tests of the shared server hold it to: it must not be harmed."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from deploy.server import Server
from tests.support import live


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
