"""A Generator that copies its training pictures is found; one that draws new ones is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handler.pixels import Images
from tests.support.generators import lively, weights
from tests.support.tiny_runs import printed
from training.data.avatars import load_avatars
from training.data.batches import first_equal
from training.data.decode import Pictures
from training.lab.memorisation import (
    Nearness,
    blocks,
    compare,
    examine,
    nearness,
    pixels,
    reduced,
    search,
    shifted,
    spaces_of,
    verdict,
)
from training.lab.reals import Reals, unseen_reals
from training.samples import generate

COUNT = 200
TRAINED_ON = 1000


@dataclass(frozen=True)
class World:
    reals: Reals
    honest: Images  # never trained on, as the reference, and other than it
    known: Images  # from the training pictures


def reals_of(train: Images, reference: Images, equal: Any = None) -> Reals:
    return unseen_reals(Pictures(train, "", equal=equal), reference, "unseen")


@pytest.fixture(scope="module")
def world() -> World:
    """Avatars: the hardest case, as a new cat may differ from a known one by a mouth only."""
    images = load_avatars(64, "#c8d4e0", 5, TRAINED_ON + 2 * COUNT).images  # no cat twice
    train, reference, honest = np.split(images, [TRAINED_ON, TRAINED_ON + COUNT])
    known = train[np.random.default_rng(0).permutation(TRAINED_ON)[:COUNT]]
    return World(reals_of(train, reference), honest, known)


def colours(images: Images) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Stand-in for a network: means over 8 x 8 blocks, and how they vary inside."""
    cut = images.reshape(len(images), 8, 8, 8, 8, 3).astype(np.float32)
    return np.concatenate([cut.mean((2, 4)), cut.std((2, 4))], axis=3).reshape(len(images), -1)


def grain(images: Images, amount: float) -> Images:
    noise = np.random.default_rng(1).normal(0, amount, images.shape)
    return np.clip(np.rint(images + noise), 0, 255).astype(np.uint8)


def blurred(images: Images) -> Images:
    return images.reshape(-1, 8, 8, 8, 8, 3).mean((2, 4)).repeat(8, 1).repeat(8, 2).astype(np.uint8)


def average(images: Images) -> Images:
    return np.repeat(images.mean(0, keepdims=True).astype(np.uint8), len(images), axis=0)


COPIES: dict[str, Callable[[World], Images]] = {
    "exact": lambda world: world.known,
    "with a little grain": lambda world: grain(world.known, 4),
    "with grain": lambda world: grain(world.known, 10),
    "one pixel to the right": lambda world: np.roll(world.known, 1, axis=2),
    "two pixels down": lambda world: np.roll(world.known, 2, axis=1),
    "moved, with grain": lambda world: grain(np.roll(world.known, 1, axis=2), 4),
    "one in four": lambda world: np.concatenate([world.known[: COUNT // 4], world.honest])[:COUNT],
}
HONEST: dict[str, Callable[[World], Images]] = {
    "new pictures": lambda world: world.honest,
    "new, with grain": lambda world: grain(world.honest, 10),
    "moved": lambda world: np.roll(world.honest, 1, axis=2),
    "blurred": lambda world: blurred(world.honest),
    "all grey": lambda world: np.full_like(world.honest, 128),
    "the average of all": lambda world: average(world.honest),
    "noise": lambda world: np.random.default_rng(2).integers(
        0, 256, world.honest.shape, dtype=np.uint8
    ),
}


@pytest.fixture(scope="module")
def results(world: World) -> dict[str, dict[str, Any]]:
    """Kind of samples -> what the tests say of them; all in one search, which is faster."""
    kinds = {name: draw(world) for name, draw in (COPIES | HONEST).items()}
    every = np.concatenate([*kinds.values()])
    found: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for space_name, space in spaces_of(colours).items():
        samples, reference = search(space, every, world.reals, len(every))
        for i, name in enumerate(kinds):
            part = samples.part(i * COUNT, (i + 1) * COUNT)
            found[name][space_name] = compare(part.relative, reference.relative)
    return found


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found(results: dict[str, dict[str, Any]], kind: str) -> None:
    found = results[kind]
    assert found["pixels"]["copies"] or found["features"]["copies"], found
    assert verdict(found, COUNT, COUNT).startswith("copies training pictures")


@pytest.mark.parametrize("kind", HONEST)
def test_new_pictures_are_not_taken_for_copies(
    results: dict[str, dict[str, Any]], kind: str
) -> None:
    found = results[kind]
    assert not found["pixels"]["copies"], found
    assert not found["features"]["copies"], found
    assert verdict(found, COUNT, COUNT) == "no copying seen"


def test_training_pictures_serve_as_a_reference(world: World) -> None:
    """Without held-out pictures each is compared with all others, but not with itself."""
    rows = np.arange(0, TRAINED_ON, TRAINED_ON // COUNT)
    train = world.reals.trained_on
    reals = Reals(train, train[rows], np.arange(TRAINED_ON), rows, rows >= 0, "random")
    (space, *_) = spaces_of(None).values()
    honest, reference = search(space, world.honest, reals, COUNT)
    assert (reference.index[:, 0] != rows).all()
    assert not compare(honest.relative, reference.relative)["copies"]
    copied, reference = search(space, world.known, reals, COUNT)
    assert compare(copied.relative, reference.relative)["copies"]


def test_a_reference_that_was_trained_on_clears_nobody(world: World) -> None:
    """Copies are found with it all the same, but what is not found is no acquittal."""
    train = world.reals.trained_on[:600]
    reals = reals_of(train, train[: COUNT // 2])
    _, report = examine(world.honest, reals, None, COUNT)
    assert (report["seen"], report["references"]) == (100, 100)
    assert report["verdict"].startswith("cannot be told: 100 of the 100 real pictures")
    assert examine(train[COUNT:][:COUNT], reals, None, COUNT)[1]["verdict"].startswith("copies")
    half = reals_of(train, np.concatenate([train[:50], world.reals.reference[:50]]))
    assert "with 50 unseen real pictures" in examine(world.honest, half, None, COUNT)[1]["verdict"]


def test_copies_are_found_where_each_picture_stands_twice(world: World) -> None:
    """Before, the reference was as near to its own doubles as copies are to theirs."""
    train = np.repeat(world.reals.trained_on[:600], 2, axis=0)
    equal = first_equal(train)
    assert equal.tolist() == np.repeat(np.arange(600) * 2, 2).tolist()
    different = np.unique(equal)
    rows = different[::4]
    unseen = np.zeros(len(rows), bool)
    reals = Reals(train, train[rows], different, rows, unseen, "held out")
    near, report = examine(train[np.setdiff1d(different, rows)][:COUNT], reals, None, COUNT)
    assert report["trained_on"] == 600
    assert report["verdict"].startswith("copies training pictures, by pixels: 100%")
    assert (near["pixels"][0].index % 2 == 0).all()  # of equal ones the first
    assert examine(world.honest, reals, None, COUNT)[1]["verdict"] == "no copying seen"


def test_what_is_too_few_is_said() -> None:
    none = {"pixels": {"copies": False}}
    assert verdict(none, 100, 100) == "no copying seen"
    few = verdict(none, 20, 100)
    assert "20 samples (give --samples 100 or more)" in few
    assert "real pictures" not in few
    few = verdict(none, 2000, 30)
    assert "30 unseen real pictures (give --held-out with 100 or more)" in few
    assert "--samples" not in few


def test_all_samples_count_where_real_pictures_are_few(world: World) -> None:
    """Fewer would show less."""
    train = world.reals.trained_on
    few = reals_of(train, world.reals.reference[:30])
    samples = np.concatenate([world.known[:120], world.honest[:60]])
    near, report = examine(samples, few, None, 1000)
    assert (report["samples"], report["references"]) == (180, 30)
    assert [len(found.index) for found in near["pixels"]] == [180, 30]
    assert report["pixels"]["copies"]


def test_the_statistics_of_known_ranks() -> None:
    reference = np.arange(1000, dtype=np.float32)
    same = compare(reference, reference)
    assert same == {"c_t": 0.0, "nearer_than_a_tenth": 0.1, "copies": False}
    # All below all: U = 0, so C_T = -(mn / 2) / sqrt(mn (m + n + 1) / 12).
    below = compare(reference - 1000, reference)
    assert below["c_t"] == round(-(10**6 / 2) / np.sqrt(10**6 * 2001 / 12), 1)
    assert below["nearer_than_a_tenth"] == 1
    assert below["copies"]
    assert compare(reference + 1000, reference)["c_t"] == -below["c_t"]


def test_neighbours_by_definition() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    train = rng.integers(0, 256, (4200, 16, 16, 3), dtype=np.uint8)
    train[4150] = images[3]  # a copy, in the second block
    found = nearness(
        [pixels(images)], map(pixels, blocks(train, np.arange(4200))), np.full(5, -1), neighbours=3
    )
    direct = np.sqrt(np.square(pixels(images)[:, None] - pixels(train)[None]).sum(2))
    order = np.argsort(direct, axis=1)[:, :3]
    assert np.array_equal(found.index, order)
    assert np.allclose(found.distances, np.take_along_axis(direct, order, 1), rtol=1e-3, atol=3)
    assert found.index[3, 0] == 4150


def test_a_picture_is_not_its_own_neighbour() -> None:
    train = np.array([[0], [1], [10]], np.float32)
    found = nearness([train], [train[:2], train[2:]], np.array([0, 1, 2]), neighbours=50)
    assert found.index.tolist() == [[1, 2], [0, 2], [1, 0]]
    assert found.distances.tolist() == [[1, 10], [1, 9], [9, 10]]


def test_the_nearest_variant_counts() -> None:
    variants = [np.array([[5]], np.float32), np.array([[9]], np.float32)]
    found = nearness(variants, [np.array([[0], [10]], np.float32)], np.array([-1]), neighbours=50)
    assert found.index.tolist() == [[1, 0]]
    assert found.distances.tolist() == [[1, 5]]


def test_relative_distances() -> None:
    found = Nearness(np.array([[1, 2, 3], [0, 1, 2], [0, 0, 0]], np.float32), np.zeros((3, 3), int))
    assert found.relative.tolist() == [0.5, 0, 0]


@pytest.mark.parametrize("size", [32, 64, 128])
def test_shifts_scale_with_the_picture(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 1), dtype=np.uint8)
    wide = size // 16
    means = images.reshape(2, 16, wide, 16, wide).mean(axis=(2, 4), dtype=np.float32)
    assert np.array_equal(reduced(images), means.reshape(2, -1))
    variants = shifted(images)
    assert len(variants) == (9 if size == 32 else 25)
    assert any(np.array_equal(variant, reduced(images)) for variant in variants)
    step = size // 32
    moved = np.pad(images[:, step:], ((0, 0), (0, step), (0, 0), (0, 0)), mode="edge")
    assert any(np.array_equal(variant, reduced(moved)) for variant in variants)


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
    path = weights(tmp_path, generator, data=str(folder))
    out = tmp_path / "n.png"
    found = printed(capsys, "neighbours --samples 20", weights=path, out=out)
    assert sorted(found["seeds"][:2]) == [5, 9]
    assert found["columns"] == ["sample", "pixels"]
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (8 * 34 + 2, 36 + 16 + 4 * 34 + 2, 3)
    for row in range(2):
        top = row * 34 + 2
        assert np.array_equal(pixels[top : top + 32, 2:34], pixels[top : top + 32, 54:86])
