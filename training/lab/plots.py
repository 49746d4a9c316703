"""Pictures to files: grids and animations, and the settings of the commands that make them."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from handler.pixels import Images
from training.data.decode import DRAWN
from training.files import atomic_path, check_writable
from training.lab.options import Command, UsageError, check_ending
from training.samples import as_image, drawn_here, tiles

_HOLD = 5  # the last frame of a finished animation stays for so many frames


@dataclass(frozen=True, kw_only=True)
class Plot(Command, ABC):
    """A command that makes one picture, and writes it whole or not at all."""

    endings: ClassVar[tuple[str, ...]] = (".png",)

    out: Path
    """Where the picture goes."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all (256 in a GIF)."""

    def check(self) -> None:
        check_ending("--out", self.out, *self.endings)
        super().check()
        if self.colours and not 2 <= self.colours <= 256:
            raise UsageError(f"--colours is {self.colours}; give 2 to 256, or 0 to keep all")
        check_writable(self.out)

    def save_png(self, picture: Images) -> None:
        """As ``write_png``."""
        write_png(self.out, picture, self.colours)

    def save_gif(self, frames: Sequence[Images], frame_ms: int, *, hold: bool) -> None:
        """Write an endless animation, with one palette, so that colours do not flicker.

        Args:
            frames: uint8 (H, W, C) each, of one size. GIF players show equal neighbours as one.
            frame_ms: how long each is shown.
            hold: the last frame stays longer, as for something that ends.

        Raises:
            OSError: not writable.
        """
        images = [as_image(frame).convert("RGB") for frame in frames]
        chosen = images[:: max(1, len(images) // 8)]  # enough to know the colours
        width, height = images[0].size
        strip = Image.new("RGB", (width, height * len(chosen)))
        for i, image in enumerate(chosen):
            strip.paste(image, (0, i * height))
        palette = strip.quantize(self.colours or 256, dither=Image.Dither.NONE)
        indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        durations = [frame_ms] * len(indexed)
        if hold:
            durations[-1] *= _HOLD
        with atomic_path(self.out) as beside:
            indexed[0].save(
                beside,
                "GIF",
                save_all=True,
                append_images=indexed[1:],
                duration=durations,
                loop=0,
                comment=DRAWN.encode(),
            )


def write_png(path: Path, picture: Images, colours: int = 0) -> None:
    """Write uint8 (H, W, 1 or 3), in the nearest of ``colours`` if it is not 0.

    Raises:
        OSError: not writable.
    """
    image = as_image(picture)
    if colours:
        image = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    with atomic_path(path) as beside:
        image.save(beside, "PNG", optimize=True, pnginfo=drawn_here())


def rows_of(rows: Sequence[Images]) -> Images:
    """A grid of rows of different lengths; short ones are filled with white.

    Args:
        rows: uint8 (n_i, H, W, C) each, of one tile size.

    Returns:
        uint8 (grid H, grid W, C).
    """
    columns = max(len(row) for row in rows)
    filled = [
        np.concatenate([row, np.full((columns - len(row), *row.shape[1:]), 255, np.uint8)])
        for row in rows
    ]
    return tiles(np.concatenate(filled), columns)


def side_by_side(left: Images, right: Images) -> Images:
    """Two pictures of one height, uint8 (H, W, C), with 16 px of white between them."""
    gap = np.full((left.shape[0], 16, left.shape[2]), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)
