"""The stack, built and brought up once for all tests of this folder."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator

import pytest

from deploy.server import HOST
from tests.support import images
from tests.support.stack import ALICE, BOB, ENGINE, PROJECT, Stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if reason := images.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("stack")
    (folder / "containers.conf").write_text(ENGINE)
    secrets = folder / "secrets"
    secrets.mkdir()
    (secrets / "api_keys").write_text(f"alice {ALICE}\nbob {BOB}\n")
    folder.chmod(0o755)
    images.build_all(folder / "build.log")
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ, "CONTAINERS_CONF": str(folder / "containers.conf"),
        "DCGAN_PORT": str(port), "DCGAN_SECRETS": str(secrets),
    }  # fmt: skip
    live = Stack(folder, port, environment)
    try:
        # Grafana's image is on a registry only; its files are checked in tests/packaging.
        live.compose("up", "-d", "torchserve", "proxy", "prometheus")
        deadline = time.monotonic() + 30
        while "BEGIN CERTIFICATE" not in (
            found := live.inside("proxy", "cat", "/var/lib/dcgan-proxy/tls.crt", check=False)
        ):
            assert time.monotonic() < deadline, live.logs("proxy")
            time.sleep(0.5)
        (folder / "tls.crt").write_text(found)
        live.wait_until_ready()
        yield live
    finally:
        (folder / "torchserve.log").write_text(live.logs("torchserve"))
        live.compose("down", "-v")
        for network in re.findall(
            rf"^{PROJECT}_\w+$", live.podman("network", "ls", "--format", "{{.Name}}"), re.M
        ):
            live.podman("network", "rm", network)
