"""The samples of a run over time: the same latents at each grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from handler.pixels import Images
from training.lab.canvas import save_gif
from training.lab.usage import UsageError, check_least, check_out


@dataclass(frozen=True)
class AnimationConfig:
    """A GIF of a run's sample grids, in the order of the updates; the last one stays longer."""

    run_folder: Path
    """Folder of the run."""
    out: Path = Path("runs/plots/animation.gif")
    """.gif."""
    max_frames: int = 60
    """At most so many grids, evenly chosen, the first and the last among them."""
    max_px: int = 530
    """Larger grids are scaled down to this height and width."""
    frame_ms: int = 200
    """How long a grid is shown."""
    colours: int = 128
    """Colours in the file, 2 to 256."""

    def run(self) -> dict[str, Any]:
        """Write the GIF; returns how many frames of what size it has.

        Raises:
            UsageError: the run has no sample grids, or one cannot be read.
        """
        check_out(self.out, ".gif")
        check_least(max_frames=(self.max_frames, 2), max_px=(self.max_px, 16))
        paths = evenly(sorted((self.run_folder / "samples").glob("step_*.png")), self.max_frames)
        if not paths:
            raise UsageError(
                f"{self.run_folder / 'samples'} has no step_*.png; give the folder of a run, such "
                "as runs/mine, that has written its first samples"
            )
        frames = [read_frame(path, self.max_px) for path in paths]
        if len({frame.shape for frame in frames}) > 1:
            raise UsageError(f"the grids in {self.run_folder / 'samples'} differ in size")
        save_gif(self.out, frames, self.frame_ms, self.colours, hold=True)
        height, width = frames[0].shape[:2]
        return {
            "out": str(self.out),
            "frames": len(frames),
            "picture_px": {"width": width, "height": height},
        }


def evenly(paths: list[Path], count: int) -> list[Path]:
    """At most ``count`` (>= 2) of the paths, evenly spaced, the first and the last among them."""
    if len(paths) <= count:
        return paths
    return [paths[i * (len(paths) - 1) // (count - 1)] for i in range(count)]


def read_frame(path: Path, max_px: int) -> Images:
    """One grid as uint8 (H, W, 3), neither side longer than ``max_px``.

    Raises:
        UsageError: the file is no picture.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"cannot read {path}: {error}; delete it to leave it out") from None
    image.thumbnail((max_px, max_px), Image.Resampling.BOX)
    return np.asarray(image)
