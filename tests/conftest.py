"""Markers by folder, and a live TorchServe that serves the built archive, shared by all tests."""

import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import psutil
import pytest

from deploy.server import Ports, Server
from tests.support import live

HERE = Path(__file__).parent
NOT_UNIT = ("contract", "fault", "packaging", "container")
# The tests' own requests go to this machine; what is tested must know that by itself.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"


def pytest_configure(config: pytest.Config) -> None:
    """Before torch is imported: the suite is the same with and without GPUs."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # Threads of OpenMP wait for each other by spinning, which costs twice the processor time where
    # several test processes share it.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    # A shell gives its background jobs a Ctrl-C that is ignored, nohup the end of the terminal,
    # and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if folder in NOT_UNIT:
            item.add_marker(folder)
        elif item.get_closest_marker("gpu") is None:  # which -m unit would run without a GPU
            item.add_marker("unit")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"), live.STORE, Ports.free())
    with made.running():
        yield made


@pytest.fixture(scope="session")
def alone(server: Server) -> bytes:
    """The reply to GOOD when nothing else happens."""
    reply = live.post(server, live.GOOD)
    assert reply.status_code == 200, reply.text
    return reply.content


@pytest.fixture
def unharmed(server: Server, alone: bytes) -> Iterator[psutil.Process]:
    """The worker; afterwards it must be the same process and give the same bytes."""
    before = live.worker(server)
    yield before
    assert live.post(server, live.GOOD).content == alone
    assert live.worker(server) == before


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare(
    config: pytest.Config, left: object, right: object
) -> Generator[None, list[list[str] | None], list[list[str] | None]]:
    """Replies that differ are told by the first place: a full diff of pictures takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        if len(repr((left, right))) > 10_000:
            patch.setattr(config.option, "verbose", 0)
            for name in ("CI", "BUILD_NUMBER"):  # either asks pytest for the full diff
                patch.delenv(name, raising=False)
        return (yield)
