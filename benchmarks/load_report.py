"""The throughput-latency curve of a load test, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.files import atomic_path

PERCENTILES = {"p50": "p50", "p90": "p90", "p99": "p99", "p99.9": "p99_9"}


def draw(result: dict[str, Any], path: Path) -> None:
    """Latency by offered load, and what became of the requests.

    Args:
        result: of ``benchmarks.load.Measurement.result``.
        path: a PNG.
    """
    figure = Figure(figsize=(8, 9), layout="constrained")
    latency, throughput = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_latency(latency, result["points"])
    _draw_throughput(throughput, result["points"])
    if result["knee"]:
        at = result["points"][result["knee"]["index"]]["offered_per_s"]
        for axes in (latency, throughput):
            axes.axvline(at, color="0.4", linestyle="--", linewidth=1, label="knee")
    for point in result["points"]:
        if point["client_saturated"]:
            latency.axvline(
                point["offered_per_s"], color="tab:red", linestyle=":", label="client saturated"
            )
    for axes in (latency, throughput):
        axes.grid(visible=True, which="both", alpha=0.25)
        axes.legend(loc="upper left")
    figure.suptitle(
        f"{result['work']}, {result['arrivals']} arrivals, {result['date']}\n{result['url']}",
        fontsize=10,
    )
    with atomic_path(path) as beside:
        figure.savefig(beside, format="png", dpi=110)


def _draw_latency(axes: Axes, points: list[dict[str, Any]]) -> None:
    measured = [point for point in points if point["latency_ms"]]
    for name, key in PERCENTILES.items():
        axes.plot(
            [point["offered_per_s"] for point in measured],
            [point["latency_ms"][key] for point in measured],
            marker="o", markersize=4, label=name,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylabel("latency from the intended moment, ms")


def _draw_throughput(axes: Axes, points: list[dict[str, Any]]) -> None:
    offered = [point["offered_per_s"] for point in points]
    axes.plot(offered, offered, color="0.7", linewidth=1, label="offered")
    answered = [point["throughput_per_s"] for point in points]
    axes.plot(offered, answered, marker="o", markersize=4, label="answered 2xx")
    others = [(point["arrivals"] - point["outcomes"]["2xx"]) for point in points]
    lost = [count / point["duration_s"] for count, point in zip(others, points, strict=True)]
    if any(lost):
        axes.plot(offered, lost, marker="x", color="tab:red", label="not answered 2xx")
    axes.set_xlabel("offered load, requests/s")
    axes.set_ylabel("requests/s")
