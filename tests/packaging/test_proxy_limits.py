"""The proxy's limits: what may be open at once fits the place where it waits."""

from __future__ import annotations

import re

from deploy.server import ROOT
from handler.settings import Limits
from tests.packaging.test_compose import load
from tests.support.manifests import Manifest, container, environment, pod

PROXY = ROOT / "deploy" / "proxy"
UNITS = {"m": 2**20, "g": 2**30, "Mi": 2**20, "Gi": 2**30}


def size(text: str) -> int:
    """Bytes of 512m or 1Gi."""
    found = re.fullmatch(r"(\d+)([a-zA-Z]+)", text)
    assert found
    return int(found[1]) * UNITS[found[2]]


def nginx(directive: str) -> int:
    """A number that nginx.conf sets, once, for all that is proxied."""
    text = (PROXY / "nginx.conf").read_text(encoding="utf-8")
    (found,) = re.findall(rf"^    {directive} (\d+);", text, re.MULTILINE)
    return int(found)


def default(name: str) -> str:
    """Of a variable of proxy.sh."""
    script = (PROXY / "proxy.sh").read_text(encoding="utf-8")
    (found,) = re.findall(rf'"\$\{{{name}:=([^}}]*)\}}"', script)
    return str(found)


# The largest body and the largest reply: both may lie on the disk.
OPEN_BYTES = nginx("client_max_body_size") + nginx("proxy_max_temp_file_size")
# Settings, the pid file, what a reload writes; and a counter of each kind of reply, of 2 MB.
KEPT_BYTES = (8 + 40 * 2) * 2**20


def test_a_reply_fits_its_file() -> None:
    assert nginx("proxy_max_temp_file_size") >= Limits().max_reply_bytes


def test_what_is_open_at_once_fits_the_tmpfs_of_compose() -> None:
    proxy = load("docker-compose.yml")["services"]["proxy"]
    assert "ALL_CONNECTIONS" not in proxy["environment"]
    assert proxy["environment"]["CONNECTIONS"] == int(default("CONNECTIONS"))
    (mount,) = proxy["tmpfs"]
    tmpfs = size(re.search(r"size=(\w+)", mount)[1])  # type: ignore[index]
    waiting = int(default("ALL_CONNECTIONS")) * OPEN_BYTES
    assert waiting + KEPT_BYTES <= tmpfs
    # A tmpfs is memory of the container; 1 MB of each reply is in nginx itself.
    buffers = int(default("ALL_CONNECTIONS")) * 2**20
    assert tmpfs + buffers + 256 * 2**20 <= size(proxy["mem_limit"])


def test_what_is_open_at_once_fits_the_volume_of_a_pod(manifests: list[Manifest]) -> None:
    settings = environment(manifests, "proxy")
    (volume,) = (v for v in pod(manifests)["volumes"] if v["name"] == "proxy-tmp")
    waiting = int(settings["ALL_CONNECTIONS"]) * OPEN_BYTES
    limit = size(volume["emptyDir"]["sizeLimit"])
    assert waiting + KEPT_BYTES <= limit  # a pod that passes it is evicted
    assert limit <= size(container(manifests, "proxy")["resources"]["limits"]["ephemeral-storage"])


def test_one_key_cannot_take_what_all_may_have(manifests: list[Manifest]) -> None:
    settings = environment(manifests, "proxy")
    for some, every in (
        (default("CONNECTIONS"), default("ALL_CONNECTIONS")),
        (settings["CONNECTIONS"], settings["ALL_CONNECTIONS"]),
    ):
        assert 2 * int(some) <= int(every)


def test_the_numbers_that_are_told_are_those() -> None:
    told = f"{OPEN_BYTES / 1e6:.1f} MB"
    for file in (
        "deploy/proxy/nginx.conf",
        "docker-compose.yml",
        "deploy/kubernetes/base/deployment.yaml",
    ):
        assert told in (ROOT / file).read_text(encoding="utf-8")


def test_the_files_of_all_connections_may_be_open() -> None:
    text = (PROXY / "nginx.conf").read_text(encoding="utf-8")
    (connections,) = re.findall(r"^    worker_connections (\d+);", text, re.MULTILINE)
    (files,) = re.findall(r"^worker_rlimit_nofile (\d+);", text, re.MULTILINE)
    # With a connection to TorchServe, which counts as one, come two files for body and reply.
    assert int(files) >= int(connections) + 2 * int(default("ALL_CONNECTIONS"))
    proxy = load("docker-compose.yml")["services"]["proxy"]
    assert proxy["ulimits"]["nofile"] == {"soft": int(files), "hard": int(files)}
