"""The stack, built and brought up once for all tests of this folder."""

import os
import re
from collections.abc import Iterator

import pytest

from deploy.server import HOST, Ports
from tests.support import live
from tests.support.proxies import KEYS
from tests.support.stack import ENGINE, PROJECT, Stack, build_all, missing


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if reason := missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("stack")
    (folder / "containers.conf").write_text(ENGINE)
    secrets, state = folder / "secrets", folder / "state"
    secrets.mkdir()
    state.mkdir()
    (secrets / "api_keys").write_text(KEYS)
    folder.chmod(0o755)
    build_all(folder / "build.log")
    port = Ports.free().inference
    environment = {
        **os.environ, "CONTAINERS_CONF": str(folder / "containers.conf"),
        "DCGAN_PORT": str(port), "DCGAN_SECRETS": str(secrets),
    }  # fmt: skip
    # Its metrics port is not published.
    made = Stack(f"https://{HOST}:{port}", "", folder, environment)

    def certificate() -> str:
        found = made.inside("proxy", "cat", "/var/lib/dcgan-proxy/tls.crt", check=False)
        return found if "BEGIN CERTIFICATE" in found else ""

    try:
        # Grafana's image is on a registry only; its files are checked in tests/packaging.
        made.compose("up", "-d", "torchserve", "proxy", "prometheus")
        (state / "tls.crt").write_text(live.wait(certificate, 30))
        made.wait_until_ready()
        yield made
    finally:
        for service in ("torchserve", "proxy"):
            (folder / f"{service}.log").write_text(made.logs(service))
        made.compose("down", "-v")
        networks = made.podman("network", "ls", "--format", "{{.Name}}")
        for network in re.findall(rf"^{PROJECT}_\w+$", networks, re.M):
            made.podman("network", "rm", network)
