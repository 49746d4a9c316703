"""Grids and animations as files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handler.pixels import Images
from training.lab.commands import Plot, UsageError, rows_of
from training.lab.evaluate import Evaluate


class Drawing(Plot):
    """A plot whose pictures come from the test."""

    endings = (".png", ".gif")

    def result(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def test_a_gif_holds_its_last_frame(tmp_path: Path) -> None:
    frames = [np.full((8, 8, 3), level, np.uint8) for level in (0, 100, 200)]
    Drawing(out=tmp_path / "a.gif", colours=8).save_gif(frames, 70, hold=True)
    with Image.open(tmp_path / "a.gif") as image:
        durations = []
        for i in range(3):
            image.seek(i)
            durations.append(image.info["duration"])
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - i * 100).max() <= 4
    assert durations == [70, 70, 350]


@pytest.mark.parametrize("colours", [0, 8, 256])
def test_few_colours_are_few(tmp_path: Path, colours: int) -> None:
    picture: Images = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Drawing(out=tmp_path / "c.png", colours=colours).save_png(picture)
    with Image.open(tmp_path / "c.png") as image:
        found = len(image.convert("RGB").getcolors(10_000) or [])
    if colours:
        assert 1 < found <= colours
    else:
        assert found == len(np.unique(picture.reshape(-1, 3), axis=0))


def test_short_rows_are_filled_with_white() -> None:
    grid = rows_of([np.zeros((1, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)])
    assert grid.shape == (14, 14, 3)
    assert grid[2:6, 8:12].min() == 255
    assert grid[8:12, 8:12].max() == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"out": Path("w.bmp")}, r"--out w.bmp ends in '.bmp'; give .png or .gif"),
        ({"out": Path("w.gif"), "colours": 257}, "--colours is 257; it must be less than 257"),
    ],
)
def test_what_no_file_can_hold_is_refused_before_any_work(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Drawing(**settings).run()


@pytest.mark.parametrize("command", ["plot", "evaluate"])
def test_a_place_that_takes_no_file_is_found_before_any_work(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    out, absent = tmp_path / "file" / "out", tmp_path / "absent.safetensors"  # not looked for
    run = {
        "plot": Drawing(out=out.with_suffix(".png")).run,
        "evaluate": Evaluate(weights=absent, markdown=out.with_suffix(".md")).run,
    }
    with pytest.raises(NotADirectoryError, match=re.escape(str(tmp_path / "file"))):
        run[command]()
