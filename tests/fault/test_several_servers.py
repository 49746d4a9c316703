"""Three servers behind the proxy, under an open load: one is killed, one is stopped."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import requests

from benchmarks.engine import Limits, Tally, asks, poisson, run, target
from deploy.server import HOST, ROOT, Ports, Server, ask
from tests.support import live
from tests.support.proxies import NEEDS_NGINX

SECONDS, RATE_PER_S = 9.0, 10.0
pytestmark = NEEDS_NGINX


@contextmanager
def proxy(folder: Path, servers: Sequence[Server]) -> Iterator[tuple[str, str]]:
    """deploy/proxy in front of the servers, without TLS (the engine speaks plain HTTP) and
    practically without a rate limit; gives its URL and an API key."""
    settings = shutil.copytree(ROOT / "deploy" / "proxy", folder / "settings")
    script = (settings / "proxy.sh").read_text(encoding="utf-8")
    assert "' ssl http2'" in script
    (settings / "proxy.sh").write_text(script.replace("' ssl http2'", "''"), encoding="utf-8")
    key, ports = secrets.token_hex(32), Ports.free()
    for name in ("secrets", "state"):
        (folder / name).mkdir()
    (folder / "secrets" / "api_keys").write_text(f"load {key}\n", encoding="ascii")
    # Started by root, nginx works as a user who may not enter a private folder.
    own = tempfile.mkdtemp(prefix="dcgan-proxy-")

    def at(name: str) -> str:
        return " ".join(f"{HOST}:{getattr(server.ports, name)}" for server in servers)

    environment = {
        **os.environ, "SECRETS": str(folder / "secrets"), "STATE": str(folder / "state"),
        "RUN": own, "LISTEN": f"{HOST}:{ports.inference}",
        "METRICS_LISTEN": f"{HOST}:{ports.metrics}", "RESOLVER": HOST, "SERVERS": at("inference"),
        "MANAGEMENT_SERVERS": at("management"), "METRICS_SERVERS": at("metrics"),
        "RATE": "10000r/s", "BURST": "10000", "CONNECTIONS": "1000", "ALL_CONNECTIONS": "1000",
        "ACCESS_LOG": str(folder / "access.log"),
    }  # fmt: skip
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen([settings / "proxy.sh"], env=environment, stderr=stderr)
    url = f"http://{HOST}:{ports.inference}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "stderr").read_text(encoding="utf-8")
        try:
            return ask("GET", f"{url}/healthz", timeout=5).ok
        except requests.RequestException:
            return False

    try:
        live.wait(answers)
        yield url, key
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(own)


def test_no_request_is_lost_and_the_last_server_goes_on(tmp_path: Path) -> None:
    """As many requests as the queue of one server holds: a slow machine answers later, but all."""
    servers = [Server(tmp_path / str(i), live.STORE, Ports.free()) for i in range(3)]
    killed_s: list[float] = []
    answered_until_stop: list[int] = []
    with ExitStack() as stack:
        launchers = []
        for server in servers:
            server.folder.mkdir()
            launchers.append(psutil.Process(stack.enter_context(server.running()).pid))
        (tmp_path / "proxy").mkdir()
        url, key = stack.enter_context(proxy(tmp_path / "proxy", servers))

        def progress(passed_s: float, tally: Tally) -> None:
            if not killed_s and passed_s >= SECONDS / 3:
                killed_s.append(passed_s)
                for process in [*launchers[0].children(recursive=True), launchers[0]]:
                    process.kill()
            elif not answered_until_stop and passed_s >= 2 * SECONDS / 3:
                answered_until_stop.append(tally.outcomes["2xx"])
                launchers[1].children()[0].terminate()  # Java, as an init system would

        tally = run(
            target(url, "application/json", (f"X-API-Key: {key}",)),
            poisson(RATE_PER_S, SECONDS, 1), SECONDS, asks(itertools.repeat(1), 0),
            Limits(timeout_s=60), progress,
        )  # fmt: skip
    log = (tmp_path / "proxy" / "access.log").read_text(encoding="utf-8").splitlines()
    assert killed_s
    # Those in flight on the killed server and on the stopped one were sent again.
    assert tally.outcomes == {"2xx": tally.arrivals}
    assert sum("," in json.loads(line)["upstream"] for line in log) >= 1
    assert tally.outcomes["2xx"] > answered_until_stop[0]
