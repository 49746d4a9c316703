"""Where the results of a load test go: a line on stderr, JSON, a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import load_report
from benchmarks.open_loop import Tally
from benchmarks.points import Point
from training.files import atomic_path


def progress(rate_per_s: float, passed_s: float, tally: Tally) -> None:
    """One line that the next overwrites; nothing unless a person looks."""
    if sys.stderr.isatty():
        answered = tally.outcomes["2xx"]
        others = tally.outcomes.total() - answered
        text = (
            f"{rate_per_s:g}/s: {passed_s:.0f} of {tally.window_s:g} s, "
            f"{answered} answered 2xx, {others} not, of {tally.arrivals}"
        )
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def told(point: Point) -> None:
    """The line that stays of a point."""
    counts = ", ".join(f"{count} {name}" for name, count in point.outcomes.items() if count)
    latency = point.latency_ms
    waits = (
        " ".join(
            f"{name} {latency[key]:.1f}"
            for name, key in (("p50", "p50"), ("p90", "p90"), ("p99", "p99"), ("p99.9", "p99_9"))
        )
        if latency
        else "none"
    )
    late = sum(point.late_sends.values())
    print(
        ("\r\x1b[K" if sys.stderr.isatty() else "") + f"{point.rate_per_s:.4g}/s: "
        f"{point.throughput_per_s:.1f}/s answered, latency ms {waits}; {counts}; "
        f"{late} sent late; client {point.client_cores:.0%} of a core",
        file=sys.stderr,
    )


def write(result: dict[str, Any], out: Path | None, report: Path | None) -> None:
    """JSON to ``out`` or stdout, the curve to ``report``."""
    text = json.dumps(result, indent=2) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        with atomic_path(out) as beside:
            beside.write_text(text, encoding="utf-8")
    if report is not None:
        load_report.draw(result, report)
