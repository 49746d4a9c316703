"""The result of ``benchmarks.compare serving`` as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from benchmarks.command import markdown

_BASELINES = ("stock", "blank")  # one of them in each run
_NONE = "-"
_LEAST_FOR_P99 = 200  # requests; of fewer the 99th percentile is little else than the largest


def report(result: dict[str, Any]) -> str:
    """How it was measured, the tables, the parts: as docs/performance.md shows it."""
    parts = result["parts_ms"]
    names = list(next(iter(parts.values())))
    lines = [[batch, *(f"{ms[name]:.1f}" for name in names)] for batch, ms in parts.items()]
    return "\n\n".join(
        [
            f"`{result['command']}`, {result['machine']}, {result['date']}; ours "
            + (f"runs {result['backend']}." if result["network"] == "real" else "has its images."),
            tables(result),
            "Milliseconds of each part of our handler, in one process without a server:",
            markdown(["batch", *names], lines),
        ]
    )


def tables(result: dict[str, Any]) -> str:
    """Throughput and ratios, latency, processor time, the servers, and what went wrong.

    Cells are medians over the rounds, with the smallest and the largest in brackets; ratios are
    taken round by round. A server without a turn has "-".
    """
    servers, rows = result["servers"], result["rows"]
    titles = {server["title"]: name for name, server in servers.items()}

    def by_work(columns: dict[str, Callable[[Any], str]]) -> str:
        lines = [[row["work"]["name"], *(cell(row) for cell in columns.values())] for row in rows]
        return markdown(["work", *columns], lines)

    def by_server(cell: Callable[[str, Any], str]) -> dict[str, Callable[[Any], str]]:
        return {title: partial(cell, name) for title, name in titles.items()}

    peers = {name: title for title, name in titles.items() if name not in ("ours", *_BASELINES)}
    baseline = next(name for name in _BASELINES if name in servers)
    ratios: dict[str, Callable[[Any], str]] = {
        f"ours / {servers[baseline]['title']}": lambda row: _ratio(row, _images(baseline, row))
    }
    if peers:
        ratios["ours / best peer"] = partial(_best, peers)
    ratios["ours / ceiling"] = lambda row: _ratio(row, row["limit_images_per_s"])
    ceiling = {"ceiling": lambda row: _spread(row["limit_images_per_s"], 0)}
    blocks = [
        "Images/s:",
        by_work(by_server(lambda name, row: _spread(_images(name, row), 0)) | ceiling),
        "Ours against the others, by images/s:",
        by_work(ratios),
        "Latency, ms, p50 / p99 (of 200 requests and more):",
        by_work(by_server(_latency)),
        "Processor time, ms an image, of all processes of a server:",
        by_work(by_server(_cpu_ms)),
        "The servers:",
        _servers(rows, servers),
        *(f"{title} is left out: {reason}" for title, reason in result["left_out"].items()),
        *(
            f"{title}, {row['work']['name']}: {failed} of {asked} requests failed"
            for row in rows
            for title, name in titles.items()
            for failed, asked in [_failures(name, row)]
            if failed
        ),
    ]
    return "\n\n".join(blocks)


def _servers(rows: Sequence[Any], servers: dict[str, Any]) -> str:
    lines = []
    for name, server in servers.items():
        held = [turn["memory"] for row in rows for turn in _turns(name, row)]
        peak_mb, private_mb = (
            max((memory[key] for memory in held), default=0)
            for key in ("worker_peak_mb", "private_mb")
        )
        figures = [f"{server['ready_s']:.1f}", f"{peak_mb:.0f}", f"{private_mb:.0f}"]
        lines.append([server["title"], *figures])
    head = ["server", "start to first image, s", "worker, peak MB", "all processes, private MB"]
    return markdown(head, lines)


def _turns(name: str, row: Any) -> list[Any]:
    turns: list[Any] = row["turns"].get(name, [])
    return turns


def _images(name: str, row: Any) -> list[float]:
    return [turn["load"]["images_per_s"] for turn in _turns(name, row)]


def _cpu_ms(name: str, row: Any) -> str:
    answered = [turn for turn in _turns(name, row) if turn["load"]["requests"]]
    return _spread([turn["cpu_ms_per_image"] for turn in answered], 2)


def _latency(name: str, row: Any) -> str:
    pooled = row["latency"].get(name)
    if not pooled or not pooled["requests"]:
        return _NONE
    p99 = f"{pooled['p99_ms']:.1f}" if pooled["requests"] >= _LEAST_FOR_P99 else _NONE
    return f"{pooled['p50_ms']:.1f} / {p99}"


def _failures(name: str, row: Any) -> tuple[int, int]:
    """Requests that failed, and all."""
    loads = [turn["load"] for turn in _turns(name, row)]
    failed = sum(load["failed"] for load in loads)
    return failed, failed + sum(load["requests"] for load in loads)


def _best(peers: dict[str, str], row: Any) -> str:
    best = max(peers, key=lambda name: median(_images(name, row) or [0.0]))
    against = _ratio(row, _images(best, row))
    return against if against == _NONE else f"{against} {peers[best]}"


def _ratio(row: Any, below: Sequence[float]) -> str:
    # A peer that was left out on the way has fewer rounds.
    return _spread([a / b for a, b in zip(_images("ours", row), below, strict=False) if b], 2)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return _NONE
    low, high = min(values), max(values)
    return f"{median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
