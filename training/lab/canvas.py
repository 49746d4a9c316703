"""What all experiments share: latents to pictures, and pictures to files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from handler.pixels import Images, compose_grid, to_uint8
from training.data.decode import DRAWN
from training.files import atomic_path
from training.lab.usage import UsageError, check_least
from training.networks import Generator
from training.samples import WHITE, drawn_here

Latents = npt.NDArray[np.float32]  # (n, nz)

PADDING_PX = 2
MAX_PX = 8192  # of a side; a larger picture is a mistyped number
_HOLD = 5  # the last frame of a finished animation stays for so many frames


@torch.no_grad()
def draw(generator: Generator, latents: Latents) -> Images:
    """Pictures of latents.

    Args:
        generator: in eval mode, on the CPU.
        latents: float32 (n, nz), n >= 1.

    Returns:
        uint8 (n, H, W, C).
    """
    parts = [generator(part).numpy() for part in torch.from_numpy(latents).split(64)]
    return to_uint8(np.concatenate(parts))


def tiles(images: Images, columns: int) -> Images:
    """A white grid, row by row: uint8 (n, H, W, C) -> uint8 (grid H, grid W, C)."""
    return compose_grid(images, columns, PADDING_PX, WHITE)


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


def side_by_side(left: Images, right: Images, gap_px: int = 16) -> Images:
    """Two pictures of one height, uint8 (H, W, C), with white between them."""
    gap = np.full((left.shape[0], gap_px, left.shape[2]), 255, np.uint8)
    return np.concatenate([left, gap, right], axis=1)


def save_png(path: Path, picture: Images, colours: int = 0) -> None:
    """Write uint8 (H, W, C) atomically.

    Args:
        path: ends in .png.
        picture: grey or RGB.
        colours: 2 to 256: the nearest of so many, for a small file; 0 keeps all.

    Raises:
        UsageError: ``colours`` is something else.
        OSError: not writable.
    """
    if colours and not 2 <= colours <= 256:
        raise UsageError(f"--colours is {colours}; give 2 to 256, or 0 to keep all")
    image = _image(picture)
    if colours:
        image = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    with atomic_path(path) as beside:
        image.save(beside, "PNG", optimize=True, pnginfo=drawn_here())


def save_gif(
    path: Path, frames: Sequence[Images], frame_ms: int, colours: int, *, hold: bool
) -> None:
    """Write an endless animation atomically, with one palette, so that colours do not flicker.

    Args:
        path: ends in .gif.
        frames: uint8 (H, W, C) each, of one size. GIF players show equal neighbours as one.
        frame_ms: how long each is shown.
        colours: size of the palette, 2 to 256; 0 is 256.
        hold: the last frame stays longer, as for something that ends.

    Raises:
        UsageError: ``colours`` or ``frame_ms`` is out of range.
        OSError: not writable.
    """
    colours = colours or 256
    if not 2 <= colours <= 256:
        raise UsageError(f"--colours is {colours}; a GIF has 2 to 256")
    check_least(frame_ms=(frame_ms, 10))
    images = [_image(frame).convert("RGB") for frame in frames]
    chosen = images[:: max(1, len(images) // 8)]  # enough to know the colours
    width, height = images[0].size
    strip = Image.new("RGB", (width, height * len(chosen)))
    for i, image in enumerate(chosen):
        strip.paste(image, (0, i * height))
    palette = strip.quantize(colours, dither=Image.Dither.NONE)
    indexed = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    durations = [frame_ms] * len(indexed)
    if hold:
        durations[-1] *= _HOLD
    with atomic_path(path) as beside:
        indexed[0].save(
            beside, "GIF", save_all=True, append_images=indexed[1:], duration=durations, loop=0,
            comment=DRAWN.encode(),
        )  # fmt: skip


def _image(picture: Images) -> Image.Image:
    return Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture)
