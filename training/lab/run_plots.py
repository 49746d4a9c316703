"""A run in pictures: its curves, its samples over time, and real pictures beside samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Lt
from matplotlib.figure import Figure
from PIL import Image

from handler.pixels import Images
from training.config import Count
from training.data.decode import DRAWN
from training.files import atomic_path
from training.journal import entries
from training.lab.commands import Command, Plot, UsageError, check_place, side_by_side
from training.lab.reals import OfPictures
from training.losses import LOGITS, Loss
from training.samples import generate, tiles
from training.start import saved_settings
from training.weights import load_generator

Series = dict[str, tuple[list[int], list[float]]]  # name -> (steps, values)

OPINION = "D's output"  # a probability for some losses only
PANELS = {
    "loss": {"loss_d": "Loss_D", "loss_g": "Loss_G"},
    OPINION: {"d_x": "D(x)", "d_g_z1": "D(G(z)) before", "d_g_z2": "D(G(z)) after"},
    "diversity": {"diversity": "samples"},
    "distance": {"distance": "samples to real pictures"},
}
_INCHES_PX = 100
FRAME_MS = 200  # of an animation


@dataclass(frozen=True, kw_only=True)
class Curves(Command):
    """Draw the curves of a run: losses, D's output, how the samples differ, how far they are."""

    run_folder: Path
    """Folder of the run."""
    out: Path = Path("runs/plots/curves.png")
    """Where the picture goes."""

    def check(self) -> None:
        super().check()
        check_place("--out", self.out, ".png")

    def result(self) -> dict[str, Any]:
        """Write the picture; returns the last value of each curve."""
        series = read_stats(self.run_folder)
        with atomic_path(self.out) as beside:
            drawn = figure(series, saved_settings(self.run_folder).loss)
            drawn.savefig(beside, format="png", dpi=_INCHES_PX, metadata={"Software": DRAWN})
        last = {name: round(values[-1], 4) for name, (_, values) in series.items()}
        return {"out": str(self.out), "step": series["loss_d"][0][-1], "last": last}


def read_stats(folder: Path) -> Series:
    """The numbers of a run's stats.jsonl.

    Raises:
        UsageError: no such file, nothing in it, or something else.
    """
    path = folder / "stats.jsonl"
    names = [name for panel in PANELS.values() for name in panel]
    series: Series = {}
    try:
        for entry in entries(path):
            for name in names:
                if entry.get(name) is not None:
                    steps, values = series.setdefault(name, ([], []))
                    steps.append(int(entry["step"]))
                    values.append(float(entry[name]))
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no statistics of a run: {error}") from None
    if "loss_d" not in series:
        raise UsageError(
            f"{path} has no losses yet; give the folder of a run, such as runs/mine, which writes "
            "them every --log-every steps"
        )
    return series


def figure(series: Series, loss: Loss) -> Figure:
    """One panel a kind of number, those without data left out, none of their values cut off."""
    panels = {
        title: {name: label for name, label in lines.items() if name in series}
        for title, lines in PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    drawn = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    all_axes = drawn.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        for name, label in lines.items():
            axes.plot(*series[name], label=label, linewidth=1)
        axes.set_xlabel("updates")
        probability = title == OPINION and loss in LOGITS
        axes.set_title("probability" if probability else title)
        if min(min(series[name][1]) for name in lines) >= 0:
            axes.set_ylim(bottom=0)
        if probability:
            axes.set_ylim(0, 1)
        axes.legend(fontsize="small")
    return drawn


@dataclass(frozen=True, kw_only=True)
class Animation(Plot):
    """Make a GIF of a run's sample grids, in their order; the last one stays longer."""

    endings = (".gif",)

    run_folder: Path
    """Folder of the run."""
    out: Path = Path("runs/plots/animation.gif")
    max_frames: Annotated[int, Ge(2)] = 60
    """At most so many grids, evenly chosen, the first and the last among them."""
    max_px: Annotated[int, Ge(16)] = 530
    """Larger grids are scaled down to this height and width."""
    colours: Annotated[int, Ge(0), Lt(257)] = 128

    def result(self) -> dict[str, Any]:
        """Write the GIF; returns how many frames of what size it has."""
        samples = self.run_folder / "samples"
        paths = sorted(samples.glob("step_*.png"))
        if not paths:
            raise UsageError(
                f"{samples} has no step_*.png; give the folder of a run, such as runs/mine, that "
                "has written its first samples"
            )
        chosen = np.linspace(0, len(paths) - 1, min(len(paths), self.max_frames)).astype(int)
        frames = [read_frame(paths[index], self.max_px) for index in chosen]
        self.save_gif(frames, FRAME_MS, hold=True)
        height, width = frames[0].shape[:2]
        return {
            "out": str(self.out),
            "frames": len(frames),
            "picture_px": {"width": width, "height": height},
        }


def read_frame(path: Path, max_px: int) -> Images:
    """One grid as uint8 (H, W, 3), neither side longer than ``max_px``."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((max_px, max_px), Image.Resampling.BOX)
    return np.asarray(image)


@dataclass(frozen=True, kw_only=True)
class Compare(OfPictures, Plot):
    """Put samples of seeds 0, 1, ... beside as many real pictures; none is chosen by hand."""

    out: Path = Path("runs/plots/compare.png")
    count: Count = 64
    """Pictures of each."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns what is on it."""
        generator, info = load_generator(self.weights)
        real = self.pictures(info)
        found = len(real.images)
        if found < self.count:
            raise UsageError(f"{real.source} has {found} pictures; lower --count to that")
        chosen = np.random.default_rng(0).choice(found, self.count, replace=False)
        samples = generate(generator, range(self.count))
        self.save_png(side_by_side(tiles(real.images[chosen]), tiles(samples)))
        return {
            "out": str(self.out),
            "left": f"{self.count} of {real.source}",
            "right": "generated",
        }
