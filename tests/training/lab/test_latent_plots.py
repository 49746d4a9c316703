"""Walks, beside planted impostors too, layers, and maps of latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handler.latents import from_seeds
from handler.pixels import to_uint8
from tests.support.generators import AVATARS, Colours, lively, weights
from tests.support.tiny_runs import printed
from training.data.decode import Pictures
from training.lab.latent_plots import (
    beside_impostors,
    blend,
    faded,
    feature_maps,
    large_picture,
    latent_map,
    steps_of,
    strongest,
)
from training.lab.reals import unseen_reals
from training.samples import draw

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def weights_file(tmp_path: Path) -> str:
    return str(weights(tmp_path, lively(), **AVATARS))


def test_steps_are_differences_of_neighbours_and_one_leg_decides_nothing() -> None:
    levels = np.array([0, 10, 40, 0, 10, 40, 0, 250, 0], np.uint8).reshape(3, 3, 1, 1, 1)
    assert steps_of(levels) == {"mean_step": 20.0, "largest_step": 30.0, "ends": 40.0}


def test_the_impostors_are_told_from_what_draws() -> None:
    generator: Any = Colours(32)
    few = draw(generator, from_seeds(range(100, 130), 6))
    reals = unseen_reals(Pictures(few, "colours"), few[:4], "")
    found = beside_impostors(generator, reals, None, 10, "slerp")
    assert found["near_real"] is None
    shrinks = found["shrinks"]
    assert shrinks["generator"] > 5
    assert shrinks["fade"] > 5
    assert shrinks["memoriser"] < 2


def test_a_fade_has_its_ends_and_their_mean() -> None:
    first, last = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 100, np.uint8)
    assert faded(first, last, 5)[:, 0, 0, 0].tolist() == [0, 25, 50, 75, 100]


def test_the_walk_has_a_row_a_leg(weights_file: str, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "w.png"
    printed(capsys, "walk --seeds 1 2 3 --steps 4", weights=weights_file, out=out)
    with Image.open(out) as image:
        assert image.size == (4 * 34 + 2, 2 * 34 + 2)
        pixels = np.asarray(image)
    ends = draw(lively(), from_seeds([1, 2, 3], 6))
    assert np.array_equal(pixels[2:34, 2:34], ends[0])
    assert np.array_equal(pixels[2:34, 3 * 34 + 2 : 4 * 34], ends[1])
    assert np.array_equal(pixels[36:68, 2:34], ends[1])
    assert np.array_equal(pixels[36:68, 3 * 34 + 2 : 4 * 34], ends[2])


def test_the_round_has_each_seed_once(weights_file: str, tmp_path: Path, capsys: Captured) -> None:
    out = tmp_path / "w.gif"
    printed(capsys, "walk --seeds 1 2 3 --steps 5", weights=weights_file, out=out)
    with Image.open(out) as image:
        assert image.n_frames == 3 * 4  # type: ignore[attr-defined]
        assert image.info["loop"] == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_layers_has_a_row_a_layer(channels: int, tmp_path: Path, capsys: Captured) -> None:
    path, out = weights(tmp_path, lively(channels=channels)), tmp_path / "l.png"
    printed(capsys, "layers", weights=path, out=out)
    with Image.open(out) as image:
        assert image.size == (10 * 34 + 2, 4 * 34 + 2)


def test_the_maps_of_layers_are_those_that_vary_most() -> None:
    generator = lively()
    hidden, picture = feature_maps(generator, 3)
    assert [maps.shape[1] for maps in hidden] == [4, 8, 16]
    assert all((maps >= 0).all() for maps in hidden)
    assert np.array_equal(to_uint8(picture[None]), draw(generator, from_seeds([3], generator.nz)))
    spread = strongest(hidden[0], 4).std(axis=(1, 2))
    assert np.all(np.diff(spread) <= 0)
    assert spread[0] == hidden[0].std(axis=(1, 2)).max()


def test_a_map_of_one_latent_is_its_picture() -> None:
    latents = from_seeds([7], 6)
    large = large_picture(lively(), latent_map(latents[None]))
    assert np.array_equal(large, draw(lively(), latents)[0])


def test_latents_four_apart_start_blocks_of_their_own() -> None:
    generator = lively()
    latents = from_seeds([1, 2], 6)
    first = generator.layers[0]
    with torch.no_grad():
        together = first(torch.from_numpy(latent_map(latents[None]))[None])
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


def test_enlarge_writes_the_size_it_says(
    weights_file: str, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "e.png"
    found = printed(capsys, "enlarge", weights=weights_file, out=out)
    assert found["latent_map"] == [6, 21, 21]
    with Image.open(out) as image:
        assert image.size == (24 * 8, 24 * 8)  # (w + 3) * 32 / 4
    assert found["picture_px"] == {"width": 192, "height": 192}
