"""``python -m benchmarks.log_cost``: what a line of log a request costs.

Three servers that differ in their log only take turns: ours, silent, and TorchServe's own log
settings. Single images, the requests where a line weighs most. A table goes to stdout.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro

from benchmarks.background import end_on_sigterm
from benchmarks.closed_loop import Work, run
from deploy.java import NoJavaError
from deploy.server import ROOT, Ports, Server, ServerError

_WORK = Work("1 image", (1,), 64)
# A TorchServe without the setting of config.properties: some other one has to stand there.
_THEIRS = (("vmargs", "-Ddcgan.log=default"),)


@dataclass(frozen=True)
class LogCostConfig:
    """Compare the throughput of single images with and without the log."""

    rounds: int = 5
    """Turns of each server."""
    seconds: float = 4.0
    """Length of a turn."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = tyro.cli(LogCostConfig, prog="python -m benchmarks.log_cost", args=arguments)
    end_on_sigterm()
    try:
        print(table(measure(config)))
    except (ServerError, NoJavaError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def measure(config: LogCostConfig) -> dict[str, list[tuple[float, float]]]:
    """By log: (images/s, bytes of log an image) of each round.

    Raises:
        ServerError, NoJavaError: a server cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="dcgan-log-cost-") as temporary, ExitStack() as stack:
        servers = {
            "one JSON line a request": _server(Path(temporary) / "info"),
            "DCGAN_LOG_LEVEL=off": _server(
                Path(temporary) / "off", environment=(("DCGAN_LOG_LEVEL", "off"),)
            ),
            "TorchServe's own": _server(Path(temporary) / "theirs", settings=_THEIRS),
        }
        for server in servers.values():
            stack.enter_context(server.running())
            run(server.predict_url, _WORK, 2.0)  # threads and queues come to life
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
        for number in range(config.rounds):
            print(f"round {number + 1} of {config.rounds}", file=sys.stderr)
            for name, server in servers.items():
                before = _logged_bytes(server)
                load = run(server.predict_url, _WORK, config.seconds, 10**6 * (number + 1))
                written = _logged_bytes(server) - before
                turns[name].append((load.images_per_s, written / max(load.requests, 1)))
        return turns


def table(turns: dict[str, list[tuple[float, float]]]) -> str:
    """The result as Markdown."""
    silent = [images for images, _ in turns["DCGAN_LOG_LEVEL=off"]]
    lines = [
        "| log | images/s | by silence, round by round | log, bytes an image |",
        "|---|---|---|---|",
    ]
    for name, rounds in turns.items():
        rates = [images for images, _ in rounds]
        ratios = [rate / other for rate, other in zip(rates, silent, strict=True)]
        lines.append(
            f"| {name} | {median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f}) "
            f"| {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {median(size for _, size in rounds):.0f} |"
        )
    return "\n".join(lines)


def _server(
    folder: Path,
    settings: tuple[tuple[str, str], ...] = (),
    environment: tuple[tuple[str, str], ...] = (),
) -> Server:
    folder.mkdir(parents=True)
    return Server(
        folder, ROOT / "model_store", Ports.free(), settings=settings, environment=environment
    )


def _logged_bytes(server: Server) -> int:
    files = [server.console, *server.log.parent.glob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
