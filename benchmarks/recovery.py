"""``python -m benchmarks.recovery``: how long a server is without its worker once it has died.

Each round one request is under way when the worker gets SIGKILL; then a client asks again and
again. A table goes to stdout. Exit codes: 0 it recovered each time, 1 it did not, or no server.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import tyro

from benchmarks.background import end_on_sigterm
from deploy.java import NoJavaError
from deploy.server import ROOT, Ports, Server, ServerError, ask

_LONG = {"seed": 1, "num_images": 256}


@dataclass(frozen=True)
class RecoveryConfig:
    """Kill the worker of a server of its own, and see how long until it answers again."""

    rounds: int = 5
    """How often."""
    timeout_s: float = 120.0
    """Longest wait for a good answer."""


@dataclass(frozen=True)
class Round:
    """One death.

    Args:
        status: what the request under way was answered with.
        told_s: from the kill until it was.
        served_s: from the kill until another one got its image.
    """

    status: int
    told_s: float
    served_s: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = tyro.cli(RecoveryConfig, prog="python -m benchmarks.recovery", args=arguments)
    end_on_sigterm()
    try:
        rounds = measure(config)
    except (ServerError, NoJavaError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("| what | median | least | most |\n|---|---|---|---|")
    for name in ("told_s", "served_s"):
        values = [getattr(each, name) for each in rounds]
        print(f"| {name} | {median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")
    print(f"\nstatus of the request under way: {', '.join(str(each.status) for each in rounds)}")
    return 0


def measure(config: RecoveryConfig) -> list[Round]:
    """Every round.

    Raises:
        ServerError, NoJavaError: the server cannot start, or did not recover in time.
    """
    with tempfile.TemporaryDirectory(prefix="dcgan-recovery-") as temporary:
        server = Server(Path(temporary), ROOT / "model_store", Ports.free())
        with server.running(), ThreadPoolExecutor(1) as pool:
            return [_round(server, pool, config.timeout_s) for _ in range(config.rounds)]


def _round(server: Server, pool: ThreadPoolExecutor, timeout_s: float) -> Round:
    (described,) = ask("GET", server.describe_url, timeout=30).json()
    worker = psutil.Process(described["workers"][0]["pid"])
    told = pool.submit(_ask, server, timeout_s)
    while worker.cpu_percent(0.05) < 20:  # it waits, so the request is not there yet
        pass
    killed_s = time.monotonic()
    worker.kill()
    status, told_s = told.result()
    while not server.is_ready():
        if time.monotonic() - killed_s > timeout_s:
            raise ServerError(f"not serving {timeout_s:g} s after its worker died")
        time.sleep(0.05)
    found = Round(status, told_s - killed_s, time.monotonic() - killed_s)
    print(f"{status} after {found.told_s:.2f} s, serving after {found.served_s:.2f} s",
          file=sys.stderr)  # fmt: skip
    return found


def _ask(server: Server, timeout_s: float) -> tuple[int, float]:
    status = ask("POST", server.predict_url, json=_LONG, timeout=timeout_s).status_code
    return status, time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
