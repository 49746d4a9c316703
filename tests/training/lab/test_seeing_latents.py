"""Directions of the latent against planted weights; neighbours of planted copies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handler.latents import from_seeds
from training.__main__ import main
from training.lab.canvas import draw
from training.lab.directions import pixel_change, strongest_directions
from training.networks import Generator, new_generator
from training.samples import generate
from training.weights import save_generator


def lively(nz: int = 6) -> Generator:
    torch.manual_seed(0)
    generator = new_generator(nz, 4, 3, 32)
    for layer in generator.layers:
        if isinstance(layer, torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(layer.weight, 0.0, 0.3)  # as initialised, all pictures are grey
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(layer.weight)
    return generator.eval()


def test_planted_directions_are_found_in_their_order() -> None:
    generator = lively()
    projection = generator.layers[0]
    assert isinstance(projection, torch.nn.ConvTranspose2d)
    with torch.no_grad():
        projection.weight.zero_()
        projection.weight[2, 0, 0, 0] = 5  # dimension 2 is the strongest, then 4, then nothing
        projection.weight[4, 1, 0, 0] = 3
    strengths, vectors = strongest_directions(generator)
    assert np.allclose(strengths, [25, 9, 0, 0, 0, 0], rtol=1e-3, atol=1e-6)
    assert abs(vectors[0, 2]) == pytest.approx(1)
    assert abs(vectors[1, 4]) == pytest.approx(1)
    assert pixel_change(generator, vectors[0]) > pixel_change(generator, vectors[2]) == 0


def test_the_norm_counts() -> None:
    generator = lively()
    projection, norm = generator.layers[0], generator.layers[1]
    assert isinstance(projection, torch.nn.ConvTranspose2d)
    assert isinstance(norm, torch.nn.BatchNorm2d)
    with torch.no_grad():
        projection.weight.zero_()
        projection.weight[2, 0, 0, 0] = 5
        projection.weight[4, 1, 0, 0] = 3
        norm.weight[0] = 0.1  # the channel of dimension 2 is scaled down
    _, vectors = strongest_directions(generator)
    assert abs(vectors[0, 4]) == pytest.approx(1)


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_the_middle_column_is_the_seed(latent: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = new_generator(6, 4, 3, 32, latent)
    save_generator(tmp_path / "g.safetensors", generator, {})
    out = tmp_path / "d.png"
    code = main(
        ["directions", "--weights", str(tmp_path / "g.safetensors"), "--out", str(out),
         "--seed", "3", "--directions", "2", "--steps", "5"]
    )  # fmt: skip
    assert code == 0
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (3 * 34 + 2, 5 * 34 + 2, 3)
    middle = draw(generator.eval(), from_seeds([3], 6))[0]
    for row in range(3):
        top = row * 34 + 2
        assert np.array_equal(pixels[top : top + 32, 70:102], middle)


def test_all_directions_alike_count_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = lively(16)
    projection = generator.layers[0]
    assert isinstance(projection, torch.nn.ConvTranspose2d)
    with torch.no_grad():
        projection.weight.zero_()
        for i in range(16):
            projection.weight[i, i, 0, 0] = 1
    save_generator(tmp_path / "g.safetensors", generator, {})
    flags = ["--weights", str(tmp_path / "g.safetensors"), "--out", str(tmp_path / "d.png")]
    assert main(["directions", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["effective_dimensions"] == 16


def test_neighbours_show_the_copies_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on its own samples of seeds 5 and 9, as it were: these two are copies."""
    generator = lively()
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(generate(generator, range(100, 140))):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    for seed in (5, 9):
        Image.fromarray(generate(generator, range(seed, seed + 1))[0]).save(folder / f"z{seed}.png")
    save_generator(tmp_path / "g.safetensors", generator, {"data": str(folder)})
    out = tmp_path / "n.png"
    code = main(
        ["neighbours", "--weights", str(tmp_path / "g.safetensors"), "--out", str(out),
         "--samples", "20", "--shown", "3", "--nearest", "4"]
    )  # fmt: skip
    assert code == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(told["seeds"][:2]) == [5, 9]
    assert told["columns"] == ["sample", "pixels"]
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (3 * 34 + 2, 36 + 16 + 4 * 34 + 2, 3)
    for row in range(2):
        top = row * 34 + 2
        assert np.array_equal(pixels[top : top + 32, 2:34], pixels[top : top + 32, 54:86])
