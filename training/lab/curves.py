"""Curves of a run: losses, D's probabilities, how the samples differ, how far they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from training.config import TrainConfig
from training.data.decode import DRAWN
from training.files import atomic_path
from training.lab.usage import UsageError, check_out

Series = dict[str, tuple[list[int], list[float]]]  # name -> (steps, values)

OPINION = "D's output"  # a probability for one loss only
PANELS = {
    "loss": {"loss_d": "Loss_D", "loss_g": "Loss_G"},
    OPINION: {"d_x": "D(x)", "d_g_z1": "D(G(z)) before", "d_g_z2": "D(G(z)) after"},
    "diversity": {"diversity": "samples"},
    "distance": {"distance": "samples to real pictures"},
}
_INCHES_PX = 100


@dataclass(frozen=True)
class CurvesConfig:
    """Draw the curves of a run's stats.jsonl."""

    run_folder: Path
    """Folder of the run."""
    out: Path = Path("runs/plots/curves.png")
    """.png."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns the last value of each curve.

        Raises:
            UsageError: there is no usable stats.jsonl.
        """
        check_out(self.out, ".png")
        series = read_stats(self.run_folder)
        with atomic_path(self.out) as beside:
            drawn = figure(series, loss_of(self.run_folder))
            drawn.savefig(beside, format="png", dpi=_INCHES_PX, metadata={"Software": DRAWN})
        last = {name: round(values[-1], 4) for name, (_, values) in series.items()}
        return {"out": str(self.out), "step": series["loss_d"][0][-1], "last": last}


def read_stats(folder: Path) -> Series:
    """The numbers of a run.

    A half line at the end, of a run that was killed or is still running, is left out.

    Raises:
        UsageError: no such file, nothing in it, or a line that is no JSON object.
    """
    path = folder / "stats.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {path} ({error}); give the folder of a run, such as runs/mine"
        ) from None
    names = [name for panel in PANELS.values() for name in panel]
    series: Series = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step = int(entry["step"])
            found = {name: float(entry[name]) for name in names if entry.get(name) is not None}
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise UsageError(
                f"{path}, line {number}, is no statistics of a run: {line[:60]!r}"
            ) from None
        for name, value in found.items():
            steps, values = series.setdefault(name, ([], []))
            steps.append(step)
            values.append(value)
    if "loss_d" not in series:
        raise UsageError(f"{path} has no losses yet; a run writes them every --log-every steps")
    return series


def loss_of(folder: Path) -> str:
    """What config.json says; older runs, and folders without one, have the default."""
    try:
        settings = json.loads((folder / "config.json").read_bytes())
        return str(settings.get("loss", TrainConfig.loss))
    except (OSError, ValueError, AttributeError):
        return TrainConfig.loss


def figure(series: Series, loss: str = TrainConfig.loss) -> Figure:
    """One panel a kind of number, those without data left out, none of their values cut off."""
    panels = {
        title: {name: label for name, label in lines.items() if name in series}
        for title, lines in PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    drawn = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    FigureCanvasAgg(drawn)
    for axes, (title, lines) in zip(drawn.subplots(1, len(panels), squeeze=False)[0],
                                    panels.items(), strict=True):  # fmt: skip
        for name, label in lines.items():
            axes.plot(*series[name], label=label, linewidth=1)
        axes.set_xlabel("updates")
        probability = title == OPINION and loss == TrainConfig.loss
        axes.set_title("probability" if probability else title)
        if min(min(series[name][1]) for name in lines) >= 0:
            axes.set_ylim(bottom=0)
        if probability:
            axes.set_ylim(0, 1)
        axes.legend(fontsize="small")
    return drawn
