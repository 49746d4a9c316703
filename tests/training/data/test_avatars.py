"""The composed cats: reproducible, different from one another, labelled."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handler.pixels import Images
from training.data import avatars
from training.data.avatars import (
    ATTRIBUTES,
    RESERVED_ONE_IN,
    Labels,
    are_reserved,
    load_avatars,
    load_reserved_avatars,
)
from training.data.decode import DataError, Pictures, PictureSpec
from training.data.sources import load
from training.lab import judge

SKY = "#c8d4e0"
COUNT = 1500  # more than are composed at once


@pytest.fixture(scope="module")
def cats() -> Pictures:
    return load_avatars(32, SKY, seed=1, count=COUNT)


def test_same_seed_same_cats_other_seed_other_cats(cats: Pictures) -> None:
    assert cats.images.shape == (COUNT, 32, 32, 3)
    assert cats.images.dtype == np.uint8
    assert cats.skipped == []
    again = load_avatars(32, SKY, seed=1, count=COUNT)
    np.testing.assert_array_equal(again.images, cats.images)
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(again.labels[name], cats.labels[name])
    other = load_avatars(32, SKY, seed=2, count=COUNT)
    assert (other.images != cats.images).any(axis=(1, 2, 3)).mean() > 0.99


def test_labels_are_in_range_and_all_used_and_no_cat_is_there_twice(cats: Pictures) -> None:
    assert tuple(cats.labels) == ATTRIBUTES
    for values in cats.labels.values():
        assert values.shape == (COUNT,)
        assert values.dtype == np.int64
        assert values.min() == 0
        assert 8 <= values.max() <= 15
        assert len(np.unique(values)) == values.max() + 1
    labels = np.stack(list(cats.labels.values()), axis=1)
    assert len(np.unique(labels, axis=0)) == COUNT


def test_labels_say_what_is_drawn(cats: Pictures) -> None:
    """The same parts are the same picture, whichever seed chose them."""
    other = load_avatars(32, SKY, seed=3, count=60_000 // 4)
    ours = {parts: i for i, parts in enumerate(zip(*map(list, cats.labels.values()), strict=True))}
    pairs = [
        (ours[parts], i)
        for i, parts in enumerate(zip(*map(list, other.labels.values()), strict=True))
        if parts in ours
    ]
    assert len(pairs) > 20
    for i, j in pairs:
        np.testing.assert_array_equal(cats.images[i], other.images[j])


def test_background_is_in_the_corner(cats: Pictures) -> None:
    assert (cats.images[:, 0, 0] == (200, 212, 224)).all()
    black = load_avatars(32, "#000000", seed=1, count=5)
    assert (black.images[:, 0, 0] == 0).all()


def test_no_training_is_given_a_reserved_cat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a Generator's nor the judge's, and whatever the seed."""
    for seed in range(5):
        assert not are_reserved(load_avatars(32, SKY, seed, COUNT).labels).any()
    assert not are_reserved(load(PictureSpec(image_size=32)).labels).any()
    learned: list[Labels] = []

    def fit(_: Images, labels: Labels, *__: int, **___: int) -> judge.AttributeClassifier:
        learned.append(labels)
        return judge.AttributeClassifier(dict.fromkeys(labels, 16), 3, 32).eval()

    monkeypatch.setattr(judge, "fit", fit)
    judge.load_or_fit(tmp_path / "judge.safetensors", judge.Origin(32, SKY, 999, COUNT))
    assert len(learned[0]["body"]) == COUNT
    assert not are_reserved(learned[0]).any()


def test_reserved_cats_are_like_the_others() -> None:
    reserved = load_reserved_avatars(32, SKY, 5000)
    assert are_reserved(reserved.labels).all()
    for name, values in reserved.labels.items():
        shares = np.bincount(values) / len(values)
        np.testing.assert_allclose(shares, 1 / len(shares), atol=0.02, err_msg=name)
    with pytest.raises(ValueError, match=r"choose 1 to (\d+)") as caught:
        load_reserved_avatars(32, SKY, 324_000)
    count = int(str(caught.value).split()[-1])
    assert count == pytest.approx(324_000 / RESERVED_ONE_IN, rel=0.03)


def test_which_cats_are_reserved_never_changes_and_neighbours_are_as_often_as_any() -> None:
    """Else every sample would be nearer to some training picture than the reference is."""
    sizes = (15, 9, 15, 10, 16)
    every = np.unravel_index(np.arange(324_000), sizes)
    reserved = are_reserved(dict(zip(ATTRIBUTES, every, strict=True))).reshape(sizes)
    assert hashlib.sha256(np.packbits(reserved).tobytes()).hexdigest()[:16] == "236ff69013c50fad"
    share = reserved.mean()
    for axis in range(5):
        both = (reserved & np.roll(reserved, 1, axis)).mean() / share
        assert both == pytest.approx(share, rel=0.15), ATTRIBUTES[axis]


def test_no_drawing_is_there_twice() -> None:
    """Two files of set4 are: a judge could not tell them apart."""
    for paths in avatars._drawings():
        drawings = {np.asarray(Image.open(path).convert("RGBA")).tobytes() for path in paths}
        assert len(drawings) == len(paths)


@pytest.mark.parametrize(
    ("colour", "count", "words"),
    [(SKY, 0, r"choose 1 to \d+"), (SKY, -1, r"choose 1 to \d+"), (SKY, 10**9, r"choose 1 to \d+"),
     ("sky", 2, "#rrggbb")],
)  # fmt: skip
def test_what_cannot_be_drawn(colour: str, count: int, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_avatars(32, colour, seed=1, count=count)
    assert isinstance(caught.value, DataError) == (colour == SKY)


def test_grey_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "training.data.sources.load_avatars",
        lambda size, colour, seed: load_avatars(size, colour, seed, 8),
    )
    rgb, grey = (load(PictureSpec(image_size=32, channels=c)) for c in ("auto", "1"))
    assert rgb.images.shape == (8, 32, 32, 3)
    assert grey.images.shape == (8, 32, 32, 1)
    expected = rgb.images @ np.array([0.299, 0.587, 0.114])  # Rec. 601
    np.testing.assert_allclose(grey.images[..., 0], expected, atol=1)
    assert set(grey.labels) == set(ATTRIBUTES)
