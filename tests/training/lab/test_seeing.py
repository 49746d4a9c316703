"""The pictures of what a Generator has learned: paths, maps of latents, files, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handler.latents import from_seeds
from training.__main__ import main
from training.lab.canvas import draw, rows_of, save_gif
from training.lab.enlarge import blend, large_picture, latent_map
from training.lab.layers import feature_maps, strongest
from training.lab.walk import steps_of
from training.networks import Generator, new_generator
from training.samples import save_grid
from training.weights import save_generator

MADE = {"data": "avatars", "pictures": 256, "seed": 999, "background": "#c8d4e0"}


def tiny(channels: int = 3) -> Generator:
    torch.manual_seed(0)
    generator = new_generator(6, 4, channels, 32)
    for layer in generator.layers:
        if isinstance(layer, torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(layer.weight, 0.0, 0.3)  # as initialised, all pictures are grey
    return generator.eval()


@pytest.fixture
def weights(tmp_path: Path) -> str:
    save_generator(tmp_path / "g.safetensors", tiny(), MADE)
    return str(tmp_path / "g.safetensors")


def test_steps_are_differences_of_neighbours() -> None:
    levels = np.array([0, 10, 40], np.uint8).reshape(1, 3, 1, 1, 1)
    assert steps_of(levels) == {"mean_step": 20.0, "largest_step": 30.0, "ends": 40.0}


def test_the_walk_has_a_row_a_leg(weights: str, tmp_path: Path) -> None:
    out = tmp_path / "w.png"
    code = main(
        ["walk", "--weights", weights, "--out", str(out), "--seeds", "1", "2", "3", "--steps", "4"]
    )
    assert code == 0
    with Image.open(out) as image:
        assert image.size == (4 * 34 + 2, 2 * 34 + 2)
        pixels = np.asarray(image)
    ends = draw(tiny(), from_seeds([1, 2, 3], 6))
    assert np.array_equal(pixels[2:34, 2:34], ends[0])
    assert np.array_equal(pixels[2:34, 3 * 34 + 2 : 4 * 34], ends[1])
    assert np.array_equal(pixels[36:68, 2:34], ends[1])
    assert np.array_equal(pixels[36:68, 3 * 34 + 2 : 4 * 34], ends[2])


def test_the_round_has_each_seed_once(weights: str, tmp_path: Path) -> None:
    out = tmp_path / "w.gif"
    code = main(
        ["walk", "--weights", weights, "--out", str(out), "--seeds", "1", "2", "3", "--steps", "5"]
    )
    assert code == 0
    with Image.open(out) as image:
        assert image.n_frames == 3 * 4  # type: ignore[attr-defined]
        assert image.info["loop"] == 0


def test_a_gif_holds_its_last_frame(tmp_path: Path) -> None:
    frames = [np.full((8, 8, 3), level, np.uint8) for level in (0, 100, 200)]
    save_gif(tmp_path / "a.gif", frames, 70, 8, hold=True)
    with Image.open(tmp_path / "a.gif") as image:
        durations = []
        for i in range(3):
            image.seek(i)
            durations.append(image.info["duration"])
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - i * 100).max() <= 4
    assert durations == [70, 70, 350]


def test_few_colours_are_few(weights: str, tmp_path: Path) -> None:
    out = tmp_path / "c.png"
    arguments = ["walk", "--weights", weights, "--out", str(out)]
    assert main([*arguments, "--colours", "8"]) == 0
    with Image.open(out) as image:
        assert len(image.convert("RGB").getcolors(10_000) or []) <= 8


def test_short_rows_are_filled_with_white() -> None:
    grid = rows_of([np.zeros((1, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)])
    assert grid.shape == (14, 14, 3)
    assert grid[2:6, 8:12].min() == 255
    assert grid[8:12, 8:12].max() == 0


def test_a_map_of_one_latent_is_its_picture() -> None:
    latents = from_seeds([7], 6)
    large = large_picture(tiny(), latent_map(latents[None], spacing=4))
    assert np.array_equal(large, draw(tiny(), latents)[0])


def test_latents_four_apart_start_blocks_of_their_own() -> None:
    generator = tiny()
    latents = from_seeds([1, 2], 6)
    first = generator.layers[0]
    with torch.no_grad():
        together = first(torch.from_numpy(latent_map(latents[None], 4))[None])
        apart = [first(torch.from_numpy(row).view(1, 6, 1, 1)) for row in latents]
    assert together.shape[2:] == (4, 8)
    assert torch.allclose(together[..., :4], apart[0], atol=1e-6)
    assert torch.allclose(together[..., 4:], apart[1], atol=1e-6)


def test_the_blend_has_its_corners_and_is_smooth() -> None:
    corners = from_seeds([1, 2, 3, 4], 100)
    latents = blend(corners, 20, 30)
    assert np.array_equal(latents[[0, 0, -1, -1], [0, -1, 0, -1]], corners)
    apart = np.linalg.norm(corners[0] - corners[1])
    assert np.linalg.norm(np.diff(latents, axis=1), axis=2).max() < apart / 15
    assert np.linalg.norm(np.diff(latents, axis=0), axis=2).max() < apart / 10


def test_enlarge_writes_the_size_it_tells(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "e.png"
    code = main(
        ["enlarge", "--weights", weights, "--out", str(out), "--rows", "2", "--columns", "3",
         "--spacing", "3"]
    )  # fmt: skip
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert told["latent_map"] == [6, 4, 7]
    with Image.open(out) as image:
        assert image.size == (10 * 8, 7 * 8)  # (w + 3) * 32 / 4
    assert told["picture_px"] == {"width": 80, "height": 56}


def test_feature_maps_end_in_the_picture() -> None:
    hidden, picture = feature_maps(tiny(), seed=3)
    assert [maps.shape for maps in hidden] == [(16, 4, 4), (8, 8, 8), (4, 16, 16)]
    assert all(maps.min() >= 0 and maps.max() > 0 for maps in hidden)
    again = tiny()(torch.from_numpy(from_seeds([3], 6)))[0].detach().numpy()
    assert np.array_equal(picture, again)


def test_the_strongest_maps_vary_most() -> None:
    maps = np.zeros((3, 2, 2), np.float32)
    maps[0] += 9  # bright, but even
    maps[1, 0, 0], maps[2, 0, 0] = 1, 2
    assert np.array_equal(strongest(maps, 2), maps[[2, 1]])


@pytest.mark.parametrize("channels", [1, 3])
def test_layers_has_a_row_a_layer(channels: int, tmp_path: Path) -> None:
    save_generator(tmp_path / "g.safetensors", tiny(channels), {})
    out = tmp_path / "l.png"
    code = main(
        ["layers", "--weights", str(tmp_path / "g.safetensors"), "--out", str(out), "--maps", "5"]
    )
    assert code == 0
    with Image.open(out) as image:
        assert image.size == (5 * 34 + 2, 4 * 34 + 2)


def test_compare_puts_real_pictures_left(weights: str, tmp_path: Path) -> None:
    reals = tmp_path / "reals"
    reals.mkdir()
    for i in range(5):
        Image.new("RGB", (32, 32), (200, 10, 40 * i)).save(reals / f"{i}.png")
    out = tmp_path / "c.png"
    code = main(
        [
            "compare",
            "--weights",
            weights,
            "--data",
            str(reals),
            "--count",
            "4",
            "--out",
            str(out),
            "--cache",
            str(tmp_path / "cache"),
        ]
    )
    assert code == 0
    with Image.open(out) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (70, 70 + 16 + 70, 3)
    left = pixels[2:34, 2:34].reshape(-1, 3)
    assert (left == left[0]).all()
    assert left[0, 0] == 200
    assert np.array_equal(pixels[2:34, 88:120], draw(tiny(), from_seeds([0], 6))[0])


def test_compare_finds_the_avatars_by_itself(weights: str, tmp_path: Path) -> None:
    out = tmp_path / "c.png"
    assert main(["compare", "--weights", weights, "--count", "1", "--out", str(out)]) == 0
    with Image.open(out) as image:
        corner = np.asarray(image)[2, 33]  # a corner that no cat covers
    assert corner.tolist() == [0xC8, 0xD4, 0xE0]


BAD = [
    (["walk", "--out", "w.bmp"], "ends in '.bmp'; give .png or .gif"),
    (["walk", "--seeds", "1"], "give two or more"),
    (["walk", "--seeds", "1", "-2"], "whole numbers, 0 to"),
    (["walk", "--steps", "1"], "--steps is 1; it must be >= 2"),
    (["walk", "--colours", "1"], "--colours is 1; give 2 to 256"),
    (["walk", "--weights", "absent.safetensors"], "absent.safetensors does not exist"),
    (["enlarge", "--rows", "400"], "8192 is the most"),
    (["layers", "--maps", "0"], "--maps is 0"),
    (["compare", "--data", "avatarz"], "avatars"),
    (["compare", "--count", "257"], "has 256 pictures; lower --count"),
    (["curves", "--run-folder", "absent"], "give the folder of a run"),
    (["animation", "--run-folder", "absent"], "has no step_*.png"),
    (["filters", "--checkpoint", "absent.pt"], "absent.pt does not exist"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_bad_input_is_told(
    arguments: list[str],
    words: str,
    weights: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] in ("walk", "enlarge", "layers", "compare") and "--weights" not in arguments:
        arguments = [*arguments, "--weights", weights]
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert words in told.err
    assert told.out == ""
    assert not (tmp_path / "runs").exists()  # nothing was written


def test_a_file_of_another_kind_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_grid(tmp_path / "g.safetensors", np.zeros((1, 8, 8, 3), np.uint8))
    assert main(["layers", "--weights", str(tmp_path / "g.safetensors")]) == 2
    assert "not a generator.safetensors" in capsys.readouterr().err


def test_an_unknown_flag_is_bad_usage() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["walk", "--stepz", "3"])
    assert stopped.value.code == 2
