"""Walks, directions of the latent against planted weights, and maps of latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handler.latents import from_seeds
from handler.pixels import to_uint8
from tests.support.generators import AVATARS, lively, weights
from tests.support.tiny_runs import printed
from training.lab.latent_plots import (
    blend,
    feature_maps,
    large_picture,
    latent_map,
    pixel_change,
    random_directions,
    steps_of,
    strongest,
    strongest_directions,
)
from training.networks import Generator, LatentLaw, new_generator
from training.samples import draw

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def weights_file(tmp_path: Path) -> str:
    return str(weights(tmp_path, lively(), **AVATARS))


def test_steps_are_differences_of_neighbours() -> None:
    levels = np.array([0, 10, 40], np.uint8).reshape(1, 3, 1, 1, 1)
    assert steps_of(levels) == {"mean_step": 20.0, "largest_step": 30.0, "ends": 40.0}


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


def planted(weights: dict[tuple[int, int], float], nz: int = 6) -> Generator:
    """One whose first layer has nothing but these weights, of a latent dimension to a channel."""
    generator = lively(nz)
    projection = generator.layers[0]
    assert isinstance(projection, torch.nn.ConvTranspose2d)
    torch.nn.init.zeros_(projection.weight)
    for (dimension, channel), weight in weights.items():
        projection.weight.data[dimension, channel, 0, 0] = weight
    return generator


def test_planted_directions_are_found_in_their_order() -> None:
    generator = planted({(2, 0): 5, (4, 1): 3})
    strengths, vectors = strongest_directions(generator)
    assert np.allclose(strengths, [25, 9, 0, 0, 0, 0], rtol=1e-3, atol=1e-6)
    assert abs(vectors[0, 2]) == pytest.approx(1)
    assert abs(vectors[1, 4]) == pytest.approx(1)
    assert pixel_change(generator, vectors[0]) > pixel_change(generator, vectors[2]) == 0


def test_the_norm_counts() -> None:
    generator = planted({(2, 0): 5, (4, 1): 3})
    norm = generator.layers[1]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    norm.weight.data[0] = 0.1  # the channel of dimension 2 is scaled down
    _, vectors = strongest_directions(generator)
    assert abs(vectors[0, 4]) == pytest.approx(1)


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_the_middle_column_is_the_seed(latent: LatentLaw, tmp_path: Path, capsys: Captured) -> None:
    torch.manual_seed(0)
    generator = new_generator(6, 4, 3, 32, latent)
    path, out = weights(tmp_path, generator), tmp_path / "d.png"
    printed(capsys, "directions --seed 3 --directions 2 --steps 5", weights=path, out=out)
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (3 * 34 + 2, 5 * 34 + 2, 3)
    middle = draw(generator.eval(), from_seeds([3], 6))[0]
    for row in range(3):
        top = row * 34 + 2
        assert np.array_equal(pixels[top : top + 32, 70:102], middle)


def test_all_directions_alike_count_all(tmp_path: Path, capsys: Captured) -> None:
    path = weights(tmp_path, planted({(i, i): 1 for i in range(16)}, nz=16))
    found = printed(capsys, "directions", weights=path, out=tmp_path / "d.png")
    assert found["effective_dimensions"] == 16


def test_random_directions_have_the_length_and_no_favourite() -> None:
    drawn = random_directions(2000, 7.0, 4, seed=0)
    assert np.allclose(np.linalg.norm(drawn, axis=1), 7, atol=1e-4)
    assert np.abs(drawn.mean(axis=0)).max() < 0.4


@pytest.mark.parametrize("channels", [1, 3])
def test_layers_has_a_row_a_layer(channels: int, tmp_path: Path, capsys: Captured) -> None:
    path, out = weights(tmp_path, lively(channels=channels)), tmp_path / "l.png"
    printed(capsys, "layers --maps 5", weights=path, out=out)
    with Image.open(out) as image:
        assert image.size == (5 * 34 + 2, 4 * 34 + 2)


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
    large = large_picture(lively(), latent_map(latents[None], spacing=4))
    assert np.array_equal(large, draw(lively(), latents)[0])


def test_latents_four_apart_start_blocks_of_their_own() -> None:
    generator = lively()
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


def test_enlarge_writes_the_size_it_says(
    weights_file: str, tmp_path: Path, capsys: Captured
) -> None:
    out = tmp_path / "e.png"
    size = "--rows 2 --columns 3 --spacing 3"
    found = printed(capsys, f"enlarge {size}", weights=weights_file, out=out)
    assert found["latent_map"] == [6, 4, 7]
    with Image.open(out) as image:
        assert image.size == (10 * 8, 7 * 8)  # (w + 3) * 32 / 4
    assert found["picture_px"] == {"width": 80, "height": 56}
