"""Markers by folder, and a live TorchServe that serves the built archive, shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from deploy.server import ROOT, Ports, Server

HERE = Path(__file__).parent
NOT_UNIT = ("contract", "fault", "packaging", "container")
LONG = 1_000  # bytes
# The tests' own requests go to this machine; what is tested must know that by itself.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"


def pytest_configure(config: pytest.Config) -> None:
    """Before torch is imported: the suite is the same with and without GPUs."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        item.add_marker(folder if folder in NOT_UNIT else "unit")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    live = Server(tmp_path_factory.mktemp("server"), ROOT / "model_store", Ports.free())
    with live.running():
        yield live


@pytest.hookimpl(wrapper=True)
def pytest_assertrepr_compare(
    config: pytest.Config, left: object, right: object
) -> Generator[None, list[list[str] | None], list[list[str] | None]]:
    """Replies that differ are told by the first place: a full diff of pictures takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        if _is_long(left) or _is_long(right):
            patch.setattr(config.option, "verbose", 0)
            for name in ("CI", "BUILD_NUMBER"):  # either asks pytest for the full diff
                patch.delenv(name, raising=False)
        return (yield)


def _is_long(value: object) -> bool:
    if isinstance(value, list):
        return any(_is_long(item) for item in value)
    return isinstance(value, bytes) and len(value) > LONG
