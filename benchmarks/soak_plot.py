"""A soak as a picture: what the server held, how long requests took, what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from training.files import atomic_path

_PANELS = (
    ("memory, MB", ("worker_rss_mb", "java_rss_mb")),
    ("descriptors, sockets", ("worker_fds", "java_fds", "sockets")),
    ("threads", ("worker_threads", "java_threads")),
    ("temporary files", ("temp_files",)),
)


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw every series over time.

    Args:
        result: of ``benchmarks.soak.soak``.
        path: a PNG.
    """
    figure = Figure(figsize=(9, 12), layout="constrained")
    panels = figure.subplots(len(_PANELS) + 1, 1, sharex=True)
    times_s = result["samples"]["time_s"]
    for axes, (label, names) in zip(panels[:-1], _PANELS, strict=True):
        for name in names:
            leaks = result["trends"][name]["leaks"]
            axes.plot(times_s, result["samples"][name], label=name + (" LEAKS" if leaks else ""))
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right")
    latency = panels[-1]
    ends_s = [window["end_s"] for window in result["windows"]]
    for name in ("p50", "p99"):
        latency.plot(ends_s, [w["latency_ms"][name] for w in result["windows"]], ".-", label=name)
    latency.set(yscale="log", ylabel="latency, ms", xlabel="time, s")
    latency.legend(loc="lower right")
    for axes in panels:
        axes.grid(visible=True, alpha=0.25)
        axes.axvspan(times_s[-1] / 2, times_s[-1], color="0.5", alpha=0.08)  # what is judged
    figure.suptitle(
        f"{result['rate_per_s']:.0f} requests/s for {result['seconds']:.0f} s, {result['date']}: "
        + ("; ".join(result["failures"]) or "no leak, no error"),
        fontsize=10,
    )
    with atomic_path(path) as beside:
        figure.savefig(beside, format="png", dpi=100)
