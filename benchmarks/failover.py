"""``python -m benchmarks.failover``: three servers behind the proxy; one is killed, one stopped.

Requests keep coming, at moments fixed in advance, while the first server gets SIGKILL and the
second SIGTERM. The proxy is nginx with the settings of deploy/proxy, but without TLS: the load
tester speaks plain HTTP. The JSON goes to stdout or -o, progress to stderr. Exit codes: 0 every
request was answered 2xx, 1 one was not, 2 bad usage or no nginx.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import psutil
import requests
import tyro

from benchmarks import arrivals, open_loop, work
from benchmarks.background import end_on_sigterm
from benchmarks.http_connection import target
from benchmarks.points import summarize
from deploy.server import HOST, ROOT, Ports, Server, ServerError, ask
from training.files import atomic_path

STORE = ROOT / "model_store"
SERVERS = 3
_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class FailoverConfig:
    """Load three servers behind the proxy, kill one at a third of the time, stop one at two."""

    rate: float = 40.0
    """Requests/s, one image each, Poisson."""
    seconds: float = 30.0
    """Length of the run."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write the JSON here; stdout by default."""


@dataclass
class Events:
    """What was done, and how much had been answered 2xx then and after each second."""

    killed_s: float | None = None
    stopped_s: float | None = None
    answered_until_stop: int = 0
    answered: list[int] = field(default_factory=list)

    def per_second(self) -> list[int]:
        """Requests answered 2xx in each second."""
        return [b - a for a, b in zip([0, *self.answered], self.answered, strict=False)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(FailoverConfig, prog="python -m benchmarks.failover", args=given)
    end_on_sigterm()
    if shutil.which("nginx") is None:
        print("error: there is no nginx: apt-get install nginx-light", file=sys.stderr)
        return 2
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.failover", *given]),
        "date": time.strftime("%Y-%m-%d"),
        **measure(config),
    }
    text = json.dumps(result, indent=2)
    if config.out is None:
        print(text)
    else:
        with atomic_path(config.out) as beside:
            beside.write_text(text + "\n", encoding="utf-8")
    return 0 if result["outcomes"]["2xx"] == result["arrivals"] else 1


def measure(config: FailoverConfig) -> dict[str, Any]:
    """The run, as JSON values: outcomes and latencies of the requests, ``killed_s`` and
    ``stopped_s``, ``answered_after_stop`` until the end, ``answered_per_s`` by second, and
    ``retried``: how many requests the proxy sent to a second server.

    Raises:
        ServerError: a server or the proxy cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="dcgan-failover-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        servers = [Server(_made(folder / f"{i}"), STORE, Ports.free()) for i in range(SERVERS)]
        launchers = []
        for server in servers:
            print(f"starting {server.predict_url}", file=sys.stderr)
            launchers.append(psutil.Process(stack.enter_context(server.running()).pid))
        url, key = stack.enter_context(proxy(_made(folder / "proxy"), servers))
        events = Events()

        def progress(passed_s: float, tally: open_loop.Tally) -> None:
            events.answered.append(tally.outcomes["2xx"])
            if events.killed_s is None and passed_s >= config.seconds / 3:
                events.killed_s = passed_s
                for process in [*launchers[0].children(recursive=True), launchers[0]]:
                    process.kill()
            elif events.stopped_s is None and passed_s >= 2 * config.seconds / 3:
                events.stopped_s, events.answered_until_stop = passed_s, tally.outcomes["2xx"]
                launchers[1].children()[0].terminate()  # Java, as an init system would
            print(f"{passed_s:.0f} s, answered {tally.outcomes['2xx']}", file=sys.stderr)

        tally = open_loop.run(
            target(f"{url}/predictions/dcgan", "application/json", (f"X-API-Key: {key}",)),
            arrivals.poisson(config.rate, config.seconds, 1), config.seconds,
            work.bodies("image", 0, 1), open_loop.Limits(timeout_s=_TIMEOUT_S), progress,
        )  # fmt: skip
        point = asdict(summarize(config.rate, tally, {}))
        del point["histogram"], point["resources"]
        return {
            **point,
            "killed_s": events.killed_s,
            "stopped_s": events.stopped_s,
            "answered_after_stop": tally.outcomes["2xx"] - events.answered_until_stop,
            "answered_per_s": events.per_second(),
            "retried": _retried(folder / "proxy" / "access.log"),
        }


@contextmanager
def proxy(folder: Path, servers: Sequence[Server]) -> Iterator[tuple[str, str]]:
    """The proxy in front of the servers, without TLS and practically without a rate limit.

    Args:
        folder: an empty one, for its settings, key and access log.

    Yields:
        its base URL, and an API key.

    Raises:
        ServerError: it does not start.
    """
    settings = shutil.copytree(ROOT / "deploy" / "proxy", folder / "settings")
    plain = (settings / "nginx.conf").read_text(encoding="utf-8").replace(" ssl http2;", ";")
    (settings / "nginx.conf").write_text(plain, encoding="utf-8")
    key = secrets.token_hex(32)
    (_made(folder / "secrets") / "api_keys").write_text(f"load {key}\n", encoding="ascii")
    ports = Ports.free()
    # Started by root, nginx works as a user who may not enter a private folder.
    run = tempfile.mkdtemp(prefix="dcgan-proxy-")
    environment = {
        **os.environ, "SECRETS": str(folder / "secrets"), "STATE": str(_made(folder / "state")),
        "RUN": run, "LISTEN": f"{HOST}:{ports.inference}",
        "METRICS_LISTEN": f"{HOST}:{ports.metrics}", "RESOLVER": HOST,
        "SERVERS": " ".join(f"{HOST}:{server.ports.inference}" for server in servers),
        "MANAGEMENT_SERVERS": " ".join(f"{HOST}:{s.ports.management}" for s in servers),
        "METRICS_SERVERS": " ".join(f"{HOST}:{s.ports.metrics}" for s in servers),
        "RATE": "10000r/s", "BURST": "10000", "CONNECTIONS": "1000", "ALL_CONNECTIONS": "1000",
        "ACCESS_LOG": str(folder / "access.log"),
    }  # fmt: skip
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen([settings / "proxy.sh"], env=environment, stderr=stderr)
    url = f"http://{HOST}:{ports.inference}"
    try:
        deadline = time.monotonic() + 30
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > deadline:
                said = (folder / "stderr").read_text(encoding="utf-8")
                raise ServerError(f"the proxy does not start: {said}")
            time.sleep(0.1)
        yield url, key
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(run)


def _answers(url: str) -> bool:
    try:
        return ask("GET", f"{url}/healthz", timeout=5).ok
    except requests.RequestException:
        return False


def _retried(access_log: Path) -> int:
    lines = access_log.read_text(encoding="utf-8").splitlines()
    return sum("," in json.loads(line)["upstream"] for line in lines)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    sys.exit(main())
