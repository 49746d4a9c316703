"""Directions of the latent against planted Generators and judges, and their file."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from handler.latents import from_seeds
from tests.support.generators import Colours, lively, weights
from tests.support.tiny_runs import printed, refused
from training.data.batches import to_pictures
from training.lab import directions
from training.lab.arithmetic import Concept, Pool
from training.lab.directions import (
    Exam,
    learn,
    pixel_change,
    strong_enough,
    strongest_directions,
)
from training.lab.judge import Probabilities
from training.networks import Generator
from training.samples import draw

Captured = pytest.CaptureFixture[str]
HAT = Concept("hat", 1)


class Sees(torch.nn.Module):
    """Planted: red, and half as much green, make a hat; green is large."""

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        red, green, _ = pictures.mean(dim=(2, 3)).unbind(1)
        hat, large = 12 * (red + green / 2 - 0.2), 12 * green
        return {name: torch.stack([-x, x], 1) for name, x in (("hat", hat), ("size", large))}

    @torch.no_grad()
    def classify(self, images: Any) -> Probabilities:
        return {k: v.softmax(1).numpy() for k, v in self(to_pictures(images)).items()}


GENERATOR: Any = Colours(8, slope=0.5)
JUDGE: Any = Sees()


def learned(keep: float) -> Any:
    """With fewer latents, farther steps and a shorter way than for pictures."""
    latents = from_seeds(range(960), 6)
    pool = Pool(latents, JUDGE.classify(draw(GENERATOR, latents)))
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("LATENTS", 16), ("RATE", 0.2), ("SHORT", 0.01)):
            patched.setattr(directions, name, value)
        return learn(GENERATOR, JUDGE, pool, HAT, keep)


def test_what_is_learned_has_the_concept_and_keeps_the_rest() -> None:
    exam = Exam(GENERATOR, JUDGE, range(5000, 5200))
    kept, careless = learned(keep=1.0), learned(keep=0.0)
    assert np.abs(kept[3:]).max() < 0.1  # which change nothing
    assert kept[0] > 4 * abs(kept[1])
    assert careless[1] > 0.5  # the shorter way
    marks = exam.marks(HAT, kept)
    assert marks["success"] > 0.8
    assert marks["kept"]["size"] > 0.9 > exam.marks(HAT, careless)["kept"]["size"]
    assert exam.marks(HAT, 0 * kept) == {"success": 0.0, "kept": {"size": 1.0}}


def test_no_more_strength_than_it_takes() -> None:
    exam = Exam(GENERATOR, JUDGE, range(5000, 5100))
    far, near = (np.array([x, 0, 0, 0, 0, 0], np.float32) for x in (12, 6))
    for direction in (far, near):
        step, value = strong_enough(exam, HAT, direction)
        assert value == 1
        assert exam.marks(HAT, step)["success"] >= directions.ENOUGH
        shorter = exam.marks(HAT, np.float32(0.75) * step)
        assert np.array_equal(step, 0.5 * direction) or shorter["success"] < directions.ENOUGH
    step, value = strong_enough(exam, HAT, 0.1 * near)
    assert value < 1
    assert np.array_equal(
        step, np.float32(2) * (0.1 * near).astype(np.float32)
    )  # the best there is


def planted(weights: dict[tuple[int, int], float], nz: int = 6) -> Generator:
    """One whose first layer has nothing but these weights, of a latent dimension to a channel."""
    generator = lively(nz)
    projection = generator.layers[0]
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
    norm.weight.data[0] = 0.1  # the channel of dimension 2 is scaled down
    _, vectors = strongest_directions(generator)
    assert abs(vectors[0, 4]) == pytest.approx(1)


def labelled(folder: Path, weights_file: Path) -> Path:
    """The Generator's own pictures, sorted by their red."""
    assert weights_file.is_file()
    images = draw(lively(), from_seeds(range(3000, 3200), 6))
    red = images[..., 0].mean(axis=(1, 2)) - images[..., 2].mean(axis=(1, 2))
    for i, image in enumerate(images):
        sort = folder / ("Very red!" if red[i] > np.median(red) else "blue")
        sort.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(sort / f"{i}.png")
    return folder


def test_the_file_is_what_the_server_reads(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directions, "UPDATES", 30)
    monkeypatch.setattr(directions, "LATENTS", 16)
    monkeypatch.setattr(directions, "LEAST_SUCCESS", 0.0)
    monkeypatch.setattr(directions, "LEAST_KEPT", 0.0)
    path, out, table = weights(tmp_path, lively()), tmp_path / "d.safetensors", tmp_path / "t.md"
    table.write_text("before\n<!-- directions -->\nold\n<!-- /directions -->\nafter\n")
    folder = labelled(tmp_path / "sorted", path)
    few = "--steps 10 --samples 40 --closed-form 2"
    places = {"weights": path, "out": out, "labels": folder, "markdown": table}
    picture = tmp_path / "p.png"
    found = printed(capsys, f"directions {few}", **places, picture=picture)
    with safe_open(out, framework="np") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    about = json.loads(metadata["directions"])
    assert set(about) == set(tensors) == {"very-red", "blue", "direction-1", "direction-2"}
    assert all(re.fullmatch("[a-z][a-z0-9-]{0,39}", name) for name in tensors)
    assert {(x.dtype, x.shape) for x in tensors.values()} == {(np.dtype("float32"), (6,))}
    assert metadata["format"] == "dcgan-directions-1"
    assert metadata["weights_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [about[n]["kind"] for n in ("blue", "direction-1")] == ["learned", "closed-form"]
    assert all(low < 0 < 1 < high for low, high in (x["range"] for x in about.values()))
    assert 0 <= about["very-red"]["success"] <= 1
    assert found["directions"] == about
    assert found["referee_accuracy_on_unseen_real"].keys() == {"class"}
    lines = table.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "`very-red`" in table.read_text()
    assert "old" not in lines
    assert found["left_out"] == {}
    pixels = np.asarray(Image.open(picture))
    assert pixels.shape == (5 * 34 + 2, 9 * 34 + 2, 3)
    assert np.array_equal(pixels[2:34, 2:34], draw(lively(), from_seeds([0], 6))[0])
    middle = pixels[2 + 3 * 34 : 34 + 3 * 34, 2 + 4 * 34 : 34 + 4 * 34]
    assert np.array_equal(middle, pixels[2:34, 2:34])  # a direction without labels, at 0


def test_without_labels_there_are_those_in_closed_form(tmp_path: Path, capsys: Captured) -> None:
    path, out = weights(tmp_path, planted({(2, 0): 5, (4, 1): 3}), data="photos"), "d.safetensors"
    found = printed(capsys, "directions", weights=path, out=tmp_path / out, closed_form=1)
    first = found["directions"]["direction-1"]
    assert first["length"] == directions.STEP
    assert found["directions"]["direction-1"]["share_of_strength"] == pytest.approx(
        25 / 34, abs=0.01
    )
    other = tmp_path / "e.safetensors"
    for more, words in (
        ("--concepts glasses", "has no labels; give --labels"),
        ("--closed-form 0", "0 directions; a file holds 1 to 64"),
    ):
        assert words in refused(capsys, f"directions {more}", weights=path, out=other)
    assert not other.exists()


def test_all_directions_alike_count_all(tmp_path: Path, capsys: Captured) -> None:
    path = weights(tmp_path, planted({(i, i): 1 for i in range(16)}, nz=16))
    found = printed(capsys, "directions", weights=path, out=tmp_path / "d.safetensors")
    assert found["effective_dimensions"] == 16


def test_what_mostly_fails_or_spoils_the_rest_is_told_and_not_kept() -> None:
    cases = {"hat": (0.9, 0.9), "beard": (0.4, 0.9), "smile": (0.9, 0.1)}
    all_of_them = {
        name: directions.Direction(
            "learned", np.ones(6, np.float32), {"success": success, "kept": {"size": kept}}
        )
        for name, (success, kept) in cases.items()
    }
    assert "Not in the file: `beard`, `smile`, with a success" in directions.markdown(all_of_them)
    assert [name for name, d in all_of_them.items() if directions.works(d.numbers)] == ["hat"]
