"""``python -m benchmarks.settings``: what each of TorchServe's settings is worth.

Every variant changes one thing of what is shipped. All servers are up in one run and take turns,
the others held still meanwhile; ratios are taken round by round against the shipped settings.
Progress goes to stderr, the table to stdout. Exit codes: 0 measured, 1 a server failed, 2 bad
usage, 130 after Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import tyro

from benchmarks import servers
from benchmarks.background import end_on_sigterm
from benchmarks.closed_loop import Load, Work, run
from benchmarks.documents import fill
from benchmarks.machine import machine
from benchmarks.running import Running
from deploy.java import NoJavaError
from deploy.server import LOG_CONFIG, ServerError

_LOG = f"-Dlog4j.configurationFile={LOG_CONFIG.as_uri()}"
_FIRST = "as shipped"
DOCUMENT = Path("docs/performance.md")


@dataclass(frozen=True)
class Variant:
    """What is other than shipped.

    Args:
        model: of model-config.yaml, TorchServe's part.
        handler: of its handler block.
        properties: of config.properties.
        environment: variables.
    """

    model: Mapping[str, int] = field(default_factory=dict)
    handler: Mapping[str, str | int] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


VARIANTS: dict[str, Variant] = {
    _FIRST: Variant(),
    "maxBatchDelay 1 ms": Variant(model={"maxBatchDelay": 1}),
    "maxBatchDelay 2 ms": Variant(model={"maxBatchDelay": 2}),
    "maxBatchDelay 10 ms": Variant(model={"maxBatchDelay": 10}),
    "2 workers of 1 thread": Variant(
        model={"minWorkers": 2, "maxWorkers": 2}, handler={"threads": 1}
    ),
    "batchSize 16": Variant(model={"batchSize": 16}),
    "batchSize 64": Variant(model={"batchSize": 64}),
    "1 front-end thread": Variant(
        properties={"number_of_netty_threads": "1", "netty_client_threads": "1"}
    ),
    "4 front-end threads": Variant(
        properties={"number_of_netty_threads": "4", "netty_client_threads": "4"}
    ),
    "serial collector": Variant(properties={"vmargs": f"{_LOG} -XX:+UseSerialGC"}),
    "parallel collector": Variant(properties={"vmargs": f"{_LOG} -XX:+UseParallelGC"}),
    "log off": Variant(environment={"DCGAN_LOG_LEVEL": "off"}),
    "backend packed": Variant(handler={"backend": "packed"}),
    "backend torchscript": Variant(handler={"backend": "torchscript"}),
}
WORKS = (
    Work("1 image, 1 connection", (1,), 1),
    Work("1 image, 64 connections", (1,), 64),
    Work("64-image grid, 2 connections", (64,), 2),
)


@dataclass(frozen=True)
class SettingsConfig:
    """Compare variants of the settings with what is shipped."""

    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which ones; the shipped settings are always among them."""
    rounds: int = 3
    """Turns of each variant for each kind of work."""
    seconds: float = 3.0
    """Length of a turn, s."""
    update_docs: bool = False
    """Write the table of docs/performance.md."""

    def check(self) -> None:
        """Raises:
        ValueError: a setting is out of its range.
        """
        if unknown := [name for name in self.variants if name not in VARIANTS]:
            raise ValueError(f"variants: seen {unknown[0]!r}; allowed are {', '.join(VARIANTS)}")
        if not 1 <= self.rounds <= 100:
            raise ValueError(f"rounds: seen {self.rounds}; allowed is 1 to 100")
        if not 0.1 <= self.seconds <= 600:
            raise ValueError(f"seconds: seen {self.seconds:g}; allowed is 0.1 to 600")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    config = tyro.cli(SettingsConfig, prog="python -m benchmarks.settings", args=given)
    end_on_sigterm()
    try:
        config.check()
        with tempfile.TemporaryDirectory(prefix="dcgan-settings-") as folder, ExitStack() as stack:
            running = _start(dict.fromkeys((_FIRST, *config.variants)), Path(folder), stack)
            results = {work.name: _measure(running, work, config) for work in WORKS}
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (ServerError, NoJavaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table(results))
    if config.update_docs:
        command = shlex.join(["python", "-m", "benchmarks.settings", *given])
        words = f"`{command}`, {machine()}, {datetime.now(UTC).date().isoformat()}:"
        fill(DOCUMENT, {"settings": f"{words}\n\n{table(results)}"})
    return 0


def table(results: Mapping[str, Mapping[str, Sequence[Load]]]) -> str:
    """Markdown: images/s against the shipped settings, and p50 / p99 in ms, medians of rounds.

    Args:
        results: work -> variant -> one load a round; the first variant is the reference.
    """
    lines = [["variant", *results], ["---"] * (1 + len(results))]
    for name in next(iter(results.values())):
        cells = [_cell(loads[name], next(iter(loads.values()))) for loads in results.values()]
        lines.append([name, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(loads: Sequence[Load], reference: Sequence[Load]) -> str:
    ratios = [a.images_per_s / b.images_per_s for a, b in zip(loads, reference, strict=True)]
    p50_ms, p99_ms = (
        median(getattr(load, name) for load in loads) for name in ("p50_ms", "p99_ms")
    )
    spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return f"{spread}, {p50_ms:.1f} / {p99_ms:.1f}"


def _start(names: Iterable[str], folder: Path, stack: ExitStack) -> dict[str, Running]:
    running = {}
    for number, name in enumerate(names):
        print(f"starting: {name}", file=sys.stderr)
        variant, own = VARIANTS[name], folder / str(number)
        packed = servers.repacked(own / "store", variant.model, variant.handler)
        server = stack.enter_context(
            servers.ours(own / "server", packed, variant.properties, variant.environment)
        )
        stack.callback(server.resume)  # before it is stopped
        server.pause()
        running[name] = server
    return running


def _measure(
    running: Mapping[str, Running], work: Work, config: SettingsConfig
) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {name: [] for name in running}
    for number in range(config.rounds):
        print(f"{work.name}, round {number + 1} of {config.rounds}", file=sys.stderr)
        order = [*running][number % len(running) :] + [*running][: number % len(running)]
        for name in order:
            server = running[name]
            server.resume()
            try:
                run(server.url, work, 0.3)
                loads[name].append(run(server.url, work, config.seconds, 10_000_000 * (number + 1)))
            finally:
                server.pause()
            if not loads[name][-1].requests:
                raise ServerError(f"{name} answered nothing to {work.name}")
    return loads


if __name__ == "__main__":
    sys.exit(main())
