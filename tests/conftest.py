"""A live TorchServe that serves the built archive, with ports and folders of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.server import ROOT, Ports, Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    live = Server(tmp_path_factory.mktemp("server"), ROOT / "model_store", Ports.free())
    with live.running():
        yield live
