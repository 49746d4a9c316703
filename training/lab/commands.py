"""What the commands share: their settings, each with its range beside it, the weights, and how
pictures and tables become files."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Lt
from PIL import Image
from tabulate import tabulate  # type: ignore[import-untyped]

from handler.latents import MAX_SEED
from handler.pixels import Images
from training.config import ConfigError, check
from training.data.decode import DRAWN
from training.files import atomic_path, check_writable
from training.samples import as_image, drawn_here, tiles


class UsageError(ValueError):
    """The command cannot do it with what was given; the message says what to give."""


Seed = Annotated[int, Ge(0), Lt(MAX_SEED + 1)]
_HOLD = 5  # the last frame of a finished animation stays for so many frames


@dataclass(frozen=True, kw_only=True)
class Command(ABC):
    """A command of ``python -m training``; the first line of its docstring is its help."""

    def run(self) -> dict[str, Any]:
        """Do it; returns the result, to be printed.

        Raises:
            UsageError: a setting is out of range, or what it names cannot be used.
            DataError: real pictures cannot be read.
            WeightsError, FileNotFoundError: the weights cannot be read.
            OSError: not writable.
        """
        self.check()
        return self.result()

    @abstractmethod
    def result(self) -> dict[str, Any]:
        """What ``run`` returns, once the settings are checked."""

    def check(self) -> None:
        """Refuse settings that cannot be, before any work.

        Raises:
            UsageError: one is.
        """
        try:
            check(self)
        except ConfigError as error:
            name, why = str(error).split(" ", 1)
            raise UsageError(f"--{name.replace('_', '-')} {why}") from None


def check_place(flag: str, path: Path | None, *endings: str) -> None:
    """Find out before any work whether a file can be written, if one is wanted.

    Raises:
        UsageError: its name ends with none of these.
        OSError: not writable.
    """
    if path is None:
        return
    if path.suffix.lower() not in endings:
        raise UsageError(f"{flag} {path} ends in {path.suffix!r}; give {' or '.join(endings)}")
    check_writable(path)


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    text: str = tabulate(rows, head, tablefmt="github", disable_numparse=True)
    return text


def write_markdown(path: Path | None, name: str, text: str) -> None:
    """Write tables, to stderr if to no file: between ``<!-- name -->`` and ``<!-- /name -->`` where
    it has these lines, else alone.

    Raises:
        OSError: not writable.
    """
    if path is None:
        print(text, file=sys.stderr)
        return
    first, last = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    before, found, rest = (path.read_text("utf-8") if path.is_file() else "").partition(first)
    _, ends, after = rest.partition(last)
    whole = f"{before}{first}{text}\n{last}{after}" if found and ends else f"{text}\n"
    with atomic_path(path) as beside:
        beside.write_text(whole, "utf-8")


@dataclass(frozen=True, kw_only=True)
class OfWeights(Command):
    """A command that draws samples."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""


@dataclass(frozen=True, kw_only=True)
class Plot(Command, ABC):
    """A command that makes one picture, and writes it whole or not at all."""

    endings: ClassVar[tuple[str, ...]] = (".png",)

    out: Path
    """Where the picture goes."""
    colours: Annotated[int, Ge(0), Lt(257)] = 0
    """Colours in the file, at most 256; 0 keeps all (256 in a GIF)."""

    def check(self) -> None:
        super().check()
        check_place("--out", self.out, *self.endings)

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
        # Some eight of the frames are enough to know the colours.
        strip = as_image(np.concatenate(frames[:: max(1, len(frames) // 8)])).convert("RGB")
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
