"""Real nginx with its real settings, for the length of a block, and what its errors look like."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from deploy.server import HOST, ROOT, Ports
from handler.errors import CONTENT_TYPE
from tests.support import live

SCRIPT = ROOT / "deploy/proxy/proxy.sh"
JS_MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
NEEDS_NGINX = pytest.mark.skipif(
    shutil.which("nginx") is None or not JS_MODULE.exists(),
    reason="needs nginx: apt-get install nginx-light libnginx-mod-http-js",
)

ALICE, BOB, CAROL = "a" * 32, "b" * 32, "C" * 40

KEYS = f"# who may call\nalice {ALICE}\nbob {BOB}  # a comment\n\ncarol sha256:" + (
    hashlib.sha256(CAROL.encode()).hexdigest() + "\n"
)


@dataclass(frozen=True)
class Proxy:
    """A running proxy; ``certificate`` is what clients have to trust."""

    url: str
    metrics_url: str
    folder: Path
    variables: dict[str, str]

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    @property
    def certificate(self) -> str:
        return str(self.folder / "state" / "tls.crt")

    def call(self, method: str, path: str, key: str = "", **options: object) -> requests.Response:
        headers = {**({"X-API-Key": key} if key else {}), **options.pop("headers", {})}  # type: ignore[dict-item]
        return requests.request(
            method, self.url + path, headers=headers, verify=self.certificate, timeout=60, **options
        )

    def predict(self, key: str = ALICE, **fields: object) -> requests.Response:
        return self.call("POST", "/predictions/dcgan", key, json=fields)

    def answers(self) -> bool:
        """A port that opens is not enough: it does so while nginx tests its settings."""
        with contextlib.suppress(OSError):
            requests.get(f"{self.metrics_url}/anything", timeout=1)
            return True
        return False

    def counted(self) -> dict[str, int]:
        """What the metrics say has been answered, as "status by"; without what never was."""
        text = requests.get(f"{self.metrics_url}/proxy", timeout=10).text
        found = re.findall(
            r'^dcgan_proxy_replies_total{status="(\d+)",by="(\w+)"} (\d+)$', text, re.M
        )
        return {f"{status} {by}": int(count) for status, by, count in found if count != "0"}

    def log(self) -> list[dict[str, str]]:
        """The access log; every line has to be JSON."""
        time.sleep(0.1)
        return [json.loads(x) for x in (self.folder / "access.log").read_text().splitlines()]


def refused(variables: dict[str, str], *command: str) -> str:
    """What proxy.sh, started by this command, says when it does not start for its settings."""
    done = subprocess.run(
        [*command, SCRIPT], env=variables, stderr=subprocess.PIPE, text=True, timeout=30
    )
    assert done.returncode == 2, done.stderr
    return done.stderr


def environment(folder: Path, ports: Ports, **more: str) -> dict[str, str]:
    """What proxy.sh reads, with folders and ports of the test's own."""
    (folder / "state").mkdir(exist_ok=True)
    (folder / "secrets").mkdir(exist_ok=True)
    return {
        **os.environ, "SECRETS": str(folder / "secrets"), "STATE": str(folder / "state"),
        "RUN": str(folder / "run"), "LISTEN": f"{HOST}:0",
        "INFERENCE": f"http://{HOST}:{ports.inference}",
        "MANAGEMENT": f"http://{HOST}:{ports.management}",
        "METRICS": f"http://{HOST}:{ports.metrics}",
        "RESOLVER": HOST, "ACCESS_LOG": str(folder / "access.log"), **more,
    }  # fmt: skip


def several(*servers: Ports) -> dict[str, str]:
    """What puts these servers behind one proxy."""
    kinds = (("", "inference"), ("MANAGEMENT_", "management"), ("METRICS_", "metrics"))
    return {
        f"{prefix}SERVERS": " ".join(f"{HOST}:{getattr(ports, kind)}" for ports in servers)
        for prefix, kind in kinds
    }


@contextlib.contextmanager
def running(
    folder: Path,
    upstream: Ports,
    keys: str = KEYS,
    address: str = f"{HOST}:",
    script: Path = SCRIPT,
    **more: str,
) -> Iterator[Proxy]:
    """Args: ``address`` stands before the ports that it listens on; empty is every address."""
    folder.mkdir(exist_ok=True)
    own = Ports.free()
    port, metrics_port = own.inference, own.metrics
    # Started by root, nginx works as another user, who cannot enter pytest's folders.
    run = tempfile.mkdtemp(prefix="dcgan-proxy-")
    listen = {"LISTEN": f"{address}{port}", "METRICS_LISTEN": f"{address}{metrics_port}"}
    variables = environment(folder, upstream, **listen, RUN=run, **more)
    if keys:
        (folder / "secrets" / "api_keys").write_text(keys)
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen([script], env=variables, stderr=stderr)
    proxy = Proxy(f"https://{HOST}:{port}", f"http://{HOST}:{metrics_port}", folder, variables)
    try:
        live.wait(lambda: process.poll() is not None or proxy.answers(), 20)
        assert process.poll() is None, (folder / "stderr").read_text()
        yield proxy
    finally:
        process.terminate()
        process.wait(20)
        # Again where a reload was under way, which writes there.
        live.wait(lambda: shutil.rmtree(run, ignore_errors=True) or not Path(run).exists(), 10)


def connect(proxy: Proxy) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=proxy.certificate)
    plain = socket.create_connection((HOST, proxy.port), 30)
    return context.wrap_socket(plain, server_hostname=HOST)


def send(proxy: Proxy, raw: bytes) -> bytes:
    """One request, byte for byte, and its whole answer."""
    got = b""
    with connect(proxy) as opened:
        opened.sendall(raw)
        while part := opened.recv(65536):
            got += part
    return got


def check_problem(reply: requests.Response, status: int, slug: str) -> None:
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == CONTENT_TYPE
    assert reply.json()["type"] == f"urn:dcgan:problem:{slug}"
    assert reply.json()["status"] == status
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "no-store" in reply.headers["cache-control"]
