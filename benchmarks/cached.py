"""``python -m benchmarks.cached``: what the proxy's cache of pictures saves.

Starts our server and the proxy in front of it, without TLS, which would measure the client as well.
Connections are kept busy with addresses that nobody has asked for (misses), with one that is there
(hits) and with the same and its validator (304); then hits come at a constant rate while other
requests keep the server's queue full. The JSON goes to stdout or -o, progress to stderr. Exit
codes: 0 measured, 1 something does not start, 2 bad usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import requests
import tyro

from benchmarks import servers
from benchmarks.command import Range, check, ending, provenance, run_main, write
from benchmarks.engine import Ask, Getting, Limits, Tally, constant, run, saturate, summary_ms
from deploy.server import HOST, ROOT, Ports, ask

_KEY = "benchmark" * 4
_START_S = 20.0
_LIMITS = Limits(connections=16)


@dataclass(frozen=True)
class CachedConfig:
    """Measure misses, hits, 304s, and hits beside a full queue."""

    seconds: Annotated[float, Range(0.5, 600)] = 5.0
    """Length of each measurement."""
    rate: Annotated[float, Range(1, 10_000)] = 100.0
    """Hits/s beside the full queue."""
    queue: Annotated[int, Range(1, 2000)] = 320
    """Connections that keep the queue full; it has 256 places, and a batch 32."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Write the JSON here; stdout by default."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(CachedConfig, prog="python -m benchmarks.cached", args=given)

    def work() -> int:
        check(config)
        with tempfile.TemporaryDirectory() as name:
            found = measure(config, Path(name))
        write({**provenance("cached", given), **found}, config.out)
        return 0

    return ending(work)


def measure(config: CachedConfig, folder: Path) -> dict[str, Any]:
    """Everything, one after the other.

    Returns:
        misses, hits and not_modified by second; hits by misses; the latency of hits, ms, and of
        hits beside the full queue; what became of those hits.

    Raises:
        ServerError, OSError, requests.RequestException: the server, the proxy or the model does not
            start.
        ValueError: there is no archive.
    """
    if shutil.which("nginx") is None:
        raise OSError("there is no nginx; run: make test-tools")
    with (
        servers.ours(folder / "server", servers.archive(folder, {})) as server,
        _proxy(folder / "proxy", server.url) as url,
    ):
        paths = (b"/seed/%d.png" % seed for seed in itertools.count(1))
        version = _get(url, next(paths)).headers["X-Weights-SHA256"][:8]
        one = b"/v/%b%b" % (version.encode(), next(paths))  # there it is not asked about again
        kept = _get(url, one)
        to, copy = _getting(url), _getting(url, f"If-None-Match: {kept.headers['ETag']}")

        def busy(what: str, target: Getting, asked: Iterator[bytes], outcome: str) -> Tally:
            tally = saturate(target, config.seconds, map(Ask, asked), _LIMITS)
            print(f"{what}: {tally.outcomes[outcome] / config.seconds:.0f}/s", file=sys.stderr)
            return tally

        misses = busy("misses", to, paths, "2xx")
        hits = busy("hits", to, itertools.repeat(one), "2xx")
        copies = busy("not modified", copy, itertools.repeat(one), "3xx")
        with _full_queue(config, server.url, folder):
            offsets = constant(config.rate, config.seconds)
            beside = run(to, offsets, config.seconds, itertools.repeat(Ask(one)), _LIMITS)
    per_s = {
        "misses_per_s": misses.outcomes["2xx"] / config.seconds,
        "hits_per_s": hits.outcomes["2xx"] / config.seconds,
        "not_modified_per_s": copies.outcomes["3xx"] / config.seconds,
    }
    return {
        **per_s,
        "hits_by_misses": per_s["hits_per_s"] / max(per_s["misses_per_s"], 1e-9),
        "hits_ms": summary_ms(hits.latency_us),
        "hits_beside_a_full_queue_ms": summary_ms(beside.latency_us),
        "hits_beside_a_full_queue": dict(beside.outcomes),
        "client_cores_at_hits": hits.cpu_s / hits.wall_s,
    }


def without_tls(folder: Path) -> Path:
    """A copy of proxy.sh and its settings that speaks plain HTTP."""
    script = shutil.copytree(ROOT / "deploy" / "proxy", folder) / "proxy.sh"
    text = script.read_text(encoding="utf-8")
    plain = text.replace("' ssl http2'", "''")
    if plain == text:
        raise ValueError("proxy.sh has no ' ssl http2' that could be left out")
    script.write_text(plain, encoding="utf-8")
    return script


def _get(url: str, path: bytes) -> requests.Response:
    reply = ask("GET", url + path.decode(), headers={"X-API-Key": _KEY}, timeout=60)
    reply.raise_for_status()
    return reply


def _getting(url: str, *headers: str) -> Getting:
    parts = urlsplit(url)
    lines = (f"Host: {parts.netloc}", f"X-API-Key: {_KEY}", *headers)
    head = "".join(f"{line}\r\n" for line in lines).encode("ascii")
    return Getting(str(parts.hostname), int(parts.port or 80), head)


@contextlib.contextmanager
def _proxy(folder: Path, predict_url: str) -> Iterator[str]:
    """The proxy as it is shipped, with limits that do not matter here; gives its URL."""
    script, free = without_tls(folder / "settings"), Ports.free()
    url, inference = (
        f"http://{HOST}:{free.inference}",
        predict_url.removesuffix("/predictions/dcgan"),
    )
    for name in ("secrets", "state"):
        (folder / name).mkdir()
    (folder / "secrets" / "api_keys").write_text(f"benchmark {_KEY}\n", encoding="ascii")
    run_folder = tempfile.mkdtemp(prefix="dcgan-proxy-")  # which nginx's own user can enter
    settings = {
        "SECRETS": str(folder / "secrets"), "STATE": str(folder / "state"), "RUN": run_folder,
        "LISTEN": f"{HOST}:{free.inference}", "METRICS_LISTEN": f"{HOST}:{free.metrics}",
        "SETTINGS": str(ROOT / "config.properties"), "GALLERY": "none",
        "INFERENCE": inference, "MANAGEMENT": inference, "METRICS": inference,
        "RESOLVER": HOST, "ACCESS_LOG": str(folder / "access.log"),
        "RATE": "1000000r/s", "BURST": "1000000", "CONNECTIONS": "64",
    }  # fmt: skip
    process = subprocess.Popen([script], env={**os.environ, **settings}, stdout=sys.stderr)
    try:
        deadline = time.monotonic() + _START_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(requests.ConnectionError):
                ask("GET", url, timeout=1)
                break
            time.sleep(0.05)
        else:
            raise OSError("the proxy does not start")
        yield url
    finally:
        process.terminate()
        process.wait(_START_S)
        shutil.rmtree(run_folder, ignore_errors=True)


@contextlib.contextmanager
def _full_queue(config: CachedConfig, predict_url: str, folder: Path) -> Iterator[None]:
    """Another process keeps the server's queue full."""
    begun_s = 4.0
    command = [
        sys.executable, "-m", "benchmarks.load", "--url", predict_url, "--arrivals", "saturate",
        "--connections", str(config.queue), "--duration-s", str(config.seconds + begun_s),
        "--warmup-s", "0", "--timeout-s", "60", "-o", str(folder / "load.json"),
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        time.sleep(begun_s)  # it has started, and the queue is full
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    run_main(main)
