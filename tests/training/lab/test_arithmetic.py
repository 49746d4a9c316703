"""Vector arithmetic, on a Generator and a judge whose concepts are known."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from handler import latents as served
from handler.latents import from_seeds
from handler.pixels import Images
from tests.support.generators import AVATARS, weights
from tests.support.tiny_runs import refused
from training.data.avatars import load_avatars
from training.lab import judge
from training.lab.arithmetic import (
    NAMES,
    Concept,
    Pool,
    add,
    measure,
    parse_concept,
    plan,
    random_directions,
)
from training.lab.commands import UsageError
from training.samples import Latents

HAT = Concept("hat", 1)


def draw(latents: Latents) -> Images:
    """Planted: one pixel, red is value 0 of the latent, green value 1."""
    levels = np.clip(np.rint(latents[:, :2] * 32 + 128), 0, 255).astype(np.uint8)
    return np.concatenate([levels, np.zeros((len(levels), 1), np.uint8)], axis=1)[:, None, None]


def classify(images: Images) -> dict[str, npt.NDArray[np.float32]]:
    """Planted: a hat from value 0 of 0.5 up; large if value 1 is positive."""
    values = (images[:, 0, 0, :2].astype(np.float32) - 128) / 32

    def two(score: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        yes = (1 / (1 + np.exp(-8 * score))).astype(np.float32)
        return np.stack([1 - yes, yes], axis=1)

    return {"hat": two(values[:, 0] - 0.5), "size": two(values[:, 1])}


def judged(latents: Latents) -> dict[str, npt.NDArray[np.float32]]:
    return classify(draw(latents))


def pool(count: int = 400, nz: int = 30) -> Pool:
    latents = from_seeds(range(count), nz)
    return Pool(latents, classify(draw(latents)))


def test_the_terms_are_sure_and_are_no_bases() -> None:
    samples = pool()
    trials, bases = plan(samples, HAT, None, terms=3, trials=4, bases=50)
    assert len(trials) == 4
    assert len(bases) == 50
    having = np.concatenate([trial.having for trial in trials])
    lacking = np.concatenate([trial.lacking for trial in trials])
    assert (samples.seen["hat"][having, 1] >= 0.9).all()
    assert (samples.seen["hat"][[*lacking, *bases], 1] < 0.1).all()
    assert len({*having, *lacking, *bases}) == 12 + 12 + 50


def test_the_direction_is_the_difference_of_means() -> None:
    samples = pool()
    trials, bases = plan(samples, HAT, None, terms=3, trials=1, bases=5)
    base = samples.latents[bases[:1]]
    terms = [
        (1.0, samples.latents[trials[0].having]),
        (-1.0, samples.latents[trials[0].lacking]),
        (1.0, base),
    ]
    here = add(base, trials[0].direction, 1.0)
    assert np.allclose(here, served.mix(terms), atol=1e-5)  # what the server's mix would do


def test_without_is_what_the_others_have() -> None:
    samples = pool()
    seen = {**samples.seen, "hat": np.eye(3, dtype=np.float32)[np.arange(400) % 3]}
    trials, bases = plan(
        Pool(samples.latents, seen), HAT, Concept("hat", 2), terms=3, trials=2, bases=9
    )
    assert {row % 3 for row in trials[1].having} == {1}
    assert {row % 3 for row in [*trials[1].lacking, *bases]} == {2}


def test_the_planted_direction_works_and_a_random_one_does_not() -> None:
    samples = pool(800)
    trials, bases = plan(samples, HAT, None, terms=10, trials=5, bases=200)
    numbers = measure(samples, trials, bases, HAT, judged, partial(add, strength=1))
    found = numbers["has_concept"]
    assert found["before"] == 0
    assert found["after"] > 0.8
    assert found["after_lowest"] <= found["after"] <= found["after_highest"]
    assert found["random_direction"] < 0.15
    assert numbers["kept"].keys() == {"size"}
    assert numbers["kept"]["size"]["after"] > 0.7


def test_nothing_changes_at_strength_zero() -> None:
    samples = pool()
    trials, bases = plan(samples, HAT, None, terms=3, trials=1, bases=50)
    numbers = measure(samples, trials, bases, HAT, judged, partial(add, strength=0))
    assert numbers["has_concept"]["after"] == 0
    assert numbers["kept"]["size"] == {"after": 1.0, "random_direction": 1.0}


def test_random_directions_have_the_length_and_no_favourite() -> None:
    drawn = random_directions(2000, 7.0, 4, seed=0)
    assert np.allclose(np.linalg.norm(drawn, axis=1), 7, atol=1e-4)
    assert np.abs(drawn.mean(axis=0)).max() < 0.4


def test_too_few_samples_are_told() -> None:
    with pytest.raises(UsageError, match=r"of 20 samples are surely with hat:1, 300 are needed"):
        plan(pool(20), HAT, None, terms=30, trials=10, bases=5)


def test_names_are_classes_of_the_avatars() -> None:
    labels = load_avatars(32, "#c8d4e0", 0, 400).labels
    for attribute, names in NAMES.items():
        assert set(names.values()) <= set(labels[attribute].tolist())
        assert len(set(names.values())) == len(names)
    every = [name for names in NAMES.values() for name in names]
    assert len(set(every)) == len(every)  # a name alone says which attribute is meant


def test_concepts_are_read_or_the_nearest_is_named() -> None:
    for name in ("glasses", "bare"):
        assert str(parse_concept(name)) == name
    assert parse_concept("glasses") == Concept("eyes", 12)
    for text, words in (("glases", "did you mean 'glasses'"), ("zzz", "known: maroon")):
        with pytest.raises(UsageError, match=words):
            parse_concept(text)


def test_the_command_keeps_its_judge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "PICTURES", 128)
    monkeypatch.setattr(judge, "KEPT", tmp_path)
    path = tmp_path / "32px-c8d4e0.safetensors"

    def said(more: str = "", **made: Any) -> str:
        places = {"weights": weights(tmp_path, **AVATARS | made), "out": tmp_path / "a.png"}
        return refused(capsys, f"arithmetic --samples 20 {more}", **places)

    # The untrained Generator's pictures are nothing for sure, which the command has to say.
    first = said()
    assert "training the classifier" in first
    assert "of 20 samples are surely with glasses, 30 are needed" in first
    kept = path.read_bytes()
    second = said("--concept glases")
    assert "training" not in second
    assert "did you mean 'glasses'" in second
    assert path.read_bytes() == kept
    assert "training" not in said(seed=1)  # it judges other avatars as well
    path.write_text("{}")
    assert "or not a classifier that this command kept" in said()
    assert "only RGB avatars have labels" in said(data="photos")
