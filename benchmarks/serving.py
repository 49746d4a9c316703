"""``python -m benchmarks.serving``: our handler, the stock one, and the ceiling, in one run.

Both servers are up all the time and take turns, so that what the machine does meanwhile falls
on both. Medians over the rounds, with the smallest and the largest; ratios are taken round by
round. Progress goes to stderr, the table to stdout, everything to a JSON file.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
import tyro

from benchmarks import servers
from benchmarks.closed_loop import Load, Work, run
from benchmarks.limit import Limit
from training.files import atomic_path

WORKS = [
    *(Work(f"1 image, {c} connections", (1,), c) for c in (1, 8, 32, 64)),
    *(Work(f"64-image grid, {c} connections", (64,), c) for c in (2, 8)),
    Work("mix of 1, 1, 1 and 64 images, 8 connections", (1, 1, 1, 64), 8),
]


@dataclass(frozen=True)
class ServingConfig:
    """Compare our server with the stock handler and with the in-process ceiling."""

    rounds: int = 5
    """Turns each server gets for each kind of work."""
    seconds: float = 4.0
    """Length of a turn, s."""
    out: Path = Path("docs/performance.json")
    """Where everything measured goes."""


@dataclass(frozen=True)
class Turn:
    """One server's turn: what the clients saw and what it cost."""

    load: Load
    cpu_ms_per_image: float
    worker_rss_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = tyro.cli(ServingConfig, prog="python -m benchmarks.serving", args=arguments)
    result = measure(config)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(config.out) as beside:
        beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result))
    return 0


def measure(config: ServingConfig) -> dict[str, object]:
    """Everything, as JSON values."""
    with tempfile.TemporaryDirectory(prefix="dcgan-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        limit = Limit(servers.STORE / "dcgan.mar", folder / "limit")
        both = {
            "ours": stack.enter_context(servers.ours(folder / "ours")),
            "stock": stack.enter_context(servers.stock(folder / "stock")),
        }
        rows = []
        for work in WORKS:
            turns: dict[str, list[Turn]] = {name: [] for name in both}
            ceilings = []
            for number in range(config.rounds):
                print(f"{work.name}, round {number + 1} of {config.rounds}", file=sys.stderr)
                for name, running in both.items():
                    turns[name].append(_turn(running, work, config.seconds, number))
                if len(work.num_images) == 1:
                    ceilings.append(limit.images_per_s(work.num_images[0], config.seconds / 2))
            rows.append(
                {
                    "work": asdict(work),
                    "limit_images_per_s": ceilings,
                    **{name: [asdict(turn) for turn in of] for name, of in turns.items()},
                }
            )
        return {
            "machine": _machine(),
            "date": time.strftime("%Y-%m-%d"),
            "command": "python -m benchmarks.serving "
            f"--rounds {config.rounds} --seconds {config.seconds}",
            "ready_s": {name: running.ready_s for name, running in both.items()},
            "parts_ms": {
                "32 requests of 1 image": limit.parts_ms(1),
                "2 requests of 64 images": limit.parts_ms(64),
            },
            "rows": rows,
        }


def _turn(running: servers.Running, work: Work, seconds: float, number: int) -> Turn:
    run(running.server.predict_url, work, 0.3)  # the connections and queues come to life
    before = running.cpu_s()
    load = run(running.server.predict_url, work, seconds, first_seed=10_000_000 * (number + 1))
    images = load.images_per_s * seconds
    return Turn(load, 1000 * (running.cpu_s() - before) / max(images, 1.0), running.worker_rss_mb())


def table(result: dict[str, object]) -> str:
    """The result as Markdown."""
    lines = [
        "| work | ours, images/s | stock | ours / stock | ours / ceiling | p50, ms (stock) "
        "| p99, ms (stock) | CPU ms an image (stock) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:  # type: ignore[attr-defined]
        ours, stock = row["ours"], row["stock"]
        rates = [[turn["load"]["images_per_s"] for turn in turns] for turns in (ours, stock)]
        ratios = [a / b for a, b in zip(*rates, strict=True) if b]
        ceiling = row["limit_images_per_s"]
        share = [a / b for a, b in zip(rates[0], ceiling, strict=False)]
        cells = [
            row["work"]["name"], _spread(rates[0], 0), _spread(rates[1], 0), _spread(ratios, 2),
            _spread(share, 2) if share else "",
            *(
                f"{median(t['load'][name] for t in ours):.1f} "
                f"({median(t['load'][name] for t in stock):.1f})"
                for name in ("p50_ms", "p99_ms")
            ),
            f"{median(t['cpu_ms_per_image'] for t in ours):.2f} "
            f"({median(t['cpu_ms_per_image'] for t in stock):.2f})",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _machine() -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if os.name == "posix" else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} x {(names or [platform.processor()])[0]}, {memory:.0f} GiB"


if __name__ == "__main__":
    sys.exit(main())
