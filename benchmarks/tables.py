"""The result of ``benchmarks.compare serving`` as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.command import markdown

Turn = dict[str, Any]
_BASELINES = ("stock", "blank")  # one of them in each run
_NONE = "-"
_LEAST_FOR_P99 = 200  # requests; of fewer the 99th percentile is little else than the largest


def report(result: dict[str, Any]) -> str:
    """How it was measured, the tables, the parts: as docs/performance.md shows it."""
    parts = result["parts_ms"]
    names = list(next(iter(parts.values())))
    lines = [[batch, *(f"{ms[name]:.1f}" for name in names)] for batch, ms in parts.items()]
    passes = result["forward_ms"]
    each = [f"{ms / int(size):.2f}" for size, ms in passes.items()]
    return "\n\n".join(
        [
            f"`{result['command']}`, {result['machine']}, {result['date']}; ours "
            + (f"runs {result['backend']}." if result["network"] == "real" else "has its images."),
            tables(result),
            "Milliseconds of each part of our handler, in one process without a server:",
            markdown(["batch", *names], lines),
            "Milliseconds an image of the forward pass alone, by batch size:",
            markdown(["images", *passes], [["ms an image", *each]]),
        ]
    )


def tables(result: dict[str, Any]) -> str:
    """Throughput and ratios, latency, processor time, the servers, and what went wrong.

    Cells are medians over the rounds, with the smallest and the largest in brackets; ratios are
    taken round by round. A server without a turn has "-".
    """
    servers, rows = result["servers"], result["rows"]
    titles = {name: server["title"] for name, server in servers.items()}
    blocks = [
        "Images/s:\n\n" + _rates(rows, titles),
        "Ours against the others, by images/s:\n\n" + _ratios(rows, titles),
        "Latency, ms, p50 / p99 (of 200 requests and more):\n\n" + _latencies(rows, titles),
        "Processor time, ms an image, of all processes of a server:\n\n"
        + _by_server(rows, titles, lambda turns: _spread(_of(turns, "cpu_ms_per_image"), 2)),
        "The servers:\n\n" + _servers(rows, servers),
        *(f"{title} is left out: {reason}" for title, reason in result["left_out"].items()),
        *_failures(rows, titles),
        *_disturbed(rows),
    ]
    return "\n\n".join(blocks)


def _rates(rows: Sequence[Any], titles: dict[str, str]) -> str:
    lines = []
    for row in rows:
        ceiling = row["limit_images_per_s"]
        cells = [_spread(_images(row, name), 0) for name in titles]
        lines.append([row["work"]["name"], *cells, _spread(ceiling, 0)])
    return markdown(["work", *titles.values(), "ceiling"], lines)


def _ratios(rows: Sequence[Any], titles: dict[str, str]) -> str:
    peers = [name for name in titles if name not in ("ours", *_BASELINES)]
    baseline = next(name for name in _BASELINES if name in titles)
    lines = []
    for row in rows:
        rates = {name: _images(row, name) for name in titles}
        best = max(peers, key=lambda name: median(rates[name] or [0.0]), default=None)
        cells = [_ratio(rates["ours"], rates[baseline])]
        if best is not None:
            against = _ratio(rates["ours"], rates[best])
            cells.append(against if against == _NONE else f"{against} {titles[best]}")
        cells.append(_ratio(rates["ours"], row["limit_images_per_s"]))
        lines.append([row["work"]["name"], *cells])
    best_title = ["ours / best peer"] if peers else []
    return markdown(["work", f"ours / {titles[baseline]}", *best_title, "ours / ceiling"], lines)


def _by_server(
    rows: Sequence[Any], titles: dict[str, str], cell: Callable[[list[Turn]], str]
) -> str:
    lines = [
        [row["work"]["name"], *(cell(row["turns"].get(name, [])) for name in titles)]
        for row in rows
    ]
    return markdown(["work", *titles.values()], lines)


def _servers(rows: Sequence[Any], servers: dict[str, Any]) -> str:
    lines = []
    for name, server in servers.items():
        held = [turn["memory"] for row in rows for turn in row["turns"].get(name, [])]
        lines.append(
            [
                server["title"],
                f"{server['ready_s']:.1f}",
                f"{max((m['worker_peak_mb'] for m in held), default=0):.0f}",
                f"{max((m['private_mb'] for m in held), default=0):.0f}",
                f"{server['idle_cores']:.2f}",
            ]
        )
    head = [
        "server",
        "start to first image, s",
        "worker, peak MB",
        "all processes, private MB",
        "cores when idle",
    ]
    return markdown(head, lines)


def _failures(rows: Sequence[Any], titles: dict[str, str]) -> list[str]:
    found = []
    for row in rows:
        for name, title in titles.items():
            loads = [turn["load"] for turn in row["turns"].get(name, [])]
            if failed := sum(load["failed"] for load in loads):
                asked = failed + sum(load["requests"] for load in loads)
                found.append(f"{title}, {row['work']['name']}: {failed} of {asked} requests failed")
    return found


def _disturbed(rows: Sequence[Any]) -> list[str]:
    return [
        f"{row['work']['name']}: {row['disturbed_rounds']} rounds were disturbed by other work"
        for row in rows
        if row["disturbed_rounds"]
    ]


def _latencies(rows: Sequence[Any], titles: dict[str, str]) -> str:
    lines = []
    for row in rows:
        cells = [_latency(row["latency"].get(name)) for name in titles]
        lines.append([row["work"]["name"], *cells])
    return markdown(["work", *titles.values()], lines)


def _latency(pooled: dict[str, Any] | None) -> str:
    if not pooled or not pooled["requests"]:
        return _NONE
    p99 = f"{pooled['p99_ms']:.1f}" if pooled["requests"] >= _LEAST_FOR_P99 else _NONE
    return f"{pooled['p50_ms']:.1f} / {p99}"


def _images(row: Any, name: str) -> list[float]:
    return [turn["load"]["images_per_s"] for turn in row["turns"].get(name, [])]


def _of(turns: list[Turn], name: str) -> list[float]:
    return [turn[name] for turn in turns if turn["load"]["requests"]]


def _ratio(above: Sequence[float], below: Sequence[float]) -> str:
    # A peer that was left out on the way has fewer rounds.
    return _spread([a / b for a, b in zip(above, below, strict=False) if b], 2)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return _NONE
    low, high = min(values), max(values)
    return f"{median(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
