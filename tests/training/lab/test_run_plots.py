"""Curves and animations of a run's folder; real pictures beside samples."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handler.latents import from_seeds
from tests.support.generators import AVATARS, lively, weights
from tests.support.tiny_runs import printed
from training.config import TrainConfig
from training.lab.commands import UsageError
from training.lab.run_plots import figure, read_stats
from training.losses import Loss
from training.samples import draw, save_grid

Captured = pytest.CaptureFixture[str]
LINES: list[dict[str, object]] = [
    {"step": 10, "loss_d": 1.5, "loss_g": 0.5, "d_x": 0.5, "d_g_z1": 0.4, "d_g_z2": 0.3},
    {"step": 10, "diversity": 0.25, "distance": None, "verdict": "healthy"},
    {"step": 20, "loss_d": 1.0, "loss_g": 2.5, "d_x": 0.9, "d_g_z1": 0.2, "d_g_z2": 0.1},
]


def write(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "stats.jsonl").write_text(text, encoding="utf-8")


def stats(lines: list[dict[str, object]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_the_curves_are_the_numbers(tmp_path: Path) -> None:
    write(tmp_path, stats(LINES))
    axes = figure(read_stats(tmp_path), "relativistic").axes
    drawn = {
        str(line.get_label()): np.asarray(line.get_xydata()).tolist()
        for panel in axes
        for line in panel.get_lines()
    }
    assert drawn == {
        "Loss_D": [[10, 1.5], [20, 1.0]],
        "Loss_G": [[10, 0.5], [20, 2.5]],
        "D(x)": [[10, 0.5], [20, 0.9]],
        "D(G(z)) before": [[10, 0.4], [20, 0.2]],
        "D(G(z)) after": [[10, 0.3], [20, 0.1]],
        "samples": [[10, 0.25]],
    }


def test_distances_have_a_panel_where_there_are_some(tmp_path: Path) -> None:
    write(tmp_path, stats([*LINES, {"step": 20, "distance": 31.5}]))
    *_, last = figure(read_stats(tmp_path), "relativistic").axes
    assert last.get_title() == "distance"
    assert np.asarray(last.get_lines()[0].get_xydata()).tolist() == [[20, 31.5]]


def drawn_between(folder: Path, loss: Loss) -> dict[str, tuple[float, float]]:
    """Title of a panel -> what of its y axis is seen."""
    limits: dict[str, tuple[float, float]] = {}
    for panel in figure(read_stats(folder), loss).axes:
        limits[panel.get_title()] = panel.get_ylim()
        low, high = panel.get_ylim()
        for line in panel.get_lines():
            assert all(low <= value <= high for value in np.asarray(line.get_ydata()))
    return limits


@pytest.mark.parametrize("loss", ["hinge", "lsgan"])
def test_what_is_no_probability_is_not_cut_off(tmp_path: Path, loss: Loss) -> None:
    raw = {"step": 10, "loss_d": 0.2, "loss_g": -1.5, "d_x": 3.5, "d_g_z1": -1.2, "d_g_z2": -0.9}
    write(tmp_path, stats([raw, {**raw, "step": 20, "loss_g": 2.0}]))
    assert set(drawn_between(tmp_path, loss)) == {"loss", "D's output"}


def test_probabilities_have_the_whole_range(tmp_path: Path) -> None:
    write(tmp_path, stats(LINES))
    seen = drawn_between(tmp_path, "non-saturating")
    assert seen["probability"] == (0, 1)
    assert seen["loss"][0] == 0


def test_the_file_is_a_picture_with_lines(tmp_path: Path, capsys: Captured) -> None:
    write(tmp_path, stats(LINES))
    (tmp_path / "config.json").write_text(TrainConfig().to_json())
    out = tmp_path / "c.png"
    found = printed(capsys, "curves", run_folder=tmp_path, out=out)
    assert found["step"] == 20
    assert found["last"]["loss_g"] == 2.5
    with Image.open(out) as image:
        assert image.size == (1200, 300)
        colours = {colour for _, colour in image.convert("RGB").getcolors(100_000) or []}
    assert (0x1F, 0x77, 0xB4) in colours  # matplotlib's first line colour


def test_the_half_line_of_a_killed_run_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, stats(LINES) + '{"step": 30, "loss')
    assert read_stats(tmp_path)["loss_d"] == ([10, 20], [1.5, 1.0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no losses yet"),
        ('{"step": 1, "verdict": "healthy"}\n', "has no losses yet"),
        ("[1]\n" + stats(LINES), "is no statistics of a run"),
        ("step,loss\n1,2\n", "has no losses yet"),
    ],
)
def test_other_files_are_told(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, text)
    with pytest.raises(UsageError, match=words):
        read_stats(tmp_path)


def grids(folder: Path, count: int) -> None:
    for i in range(count):
        images = np.full((4, 16, 16, 3), i * 20, np.uint8)
        images[0] = 255
        save_grid(folder / "samples" / f"step_{i * 50:08d}.png", images)
    save_grid(folder / "samples" / "real.png", np.zeros((4, 16, 16, 3), np.uint8))


def test_a_frame_a_grid_in_their_order(tmp_path: Path, capsys: Captured) -> None:
    grids(tmp_path, 12)
    out = tmp_path / "a.gif"
    assert printed(capsys, "animation", run_folder=tmp_path, out=out)["frames"] == 12
    with Image.open(out) as image:
        assert image.n_frames == 12  # type: ignore[attr-defined]
        assert image.size == (38, 38)
        for i in range(12):
            image.seek(i)
            tile = np.asarray(image.convert("RGB"))[24:30, 24:30].astype(int)
            assert np.abs(tile - i * 20).max() <= 4


def test_frames_and_size_are_bounded(tmp_path: Path, capsys: Captured) -> None:
    grids(tmp_path, 12)
    out = tmp_path / "a.gif"
    printed(capsys, "animation --max-frames 5 --max-px 19", run_folder=tmp_path, out=out)
    with Image.open(out) as image:
        assert image.n_frames == 5  # type: ignore[attr-defined]
        assert image.size == (19, 19)


@pytest.fixture
def weights_file(tmp_path: Path) -> str:
    return str(weights(tmp_path, lively(), **AVATARS))


def test_compare_puts_real_pictures_left(
    weights_file: str, tmp_path: Path, capsys: Captured
) -> None:
    reals = tmp_path / "reals"
    reals.mkdir()
    for i in range(5):
        Image.new("RGB", (32, 32), (200, 10, 40 * i)).save(reals / f"{i}.png")
    out = tmp_path / "c.png"
    given = {"weights": weights_file, "data": reals, "cache": tmp_path / "cache"}
    printed(capsys, "compare --count 4", **given, out=out)
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (70, 70 + 16 + 70, 3)
    left = pixels[2:34, 2:34].reshape(-1, 3)
    assert (left == left[0]).all()
    assert left[0, 0] == 200
    assert np.array_equal(pixels[2:34, 88:120], draw(lively(), from_seeds([0], 6))[0])


def test_compare_finds_the_avatars_by_itself(
    weights_file: str, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "c.png"
    printed(capsys, "compare --count 1", weights=weights_file, out=out)
    with Image.open(out) as image:
        corner = np.asarray(image)[2, 33]  # a corner that no cat covers
    assert corner.tolist() == [0xC8, 0xD4, 0xE0]
