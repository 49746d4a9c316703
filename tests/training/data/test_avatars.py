"""The composed cats: reproducible, different from one another, labelled."""

from __future__ import annotations

import numpy as np
import pytest

from training.data.avatars import ATTRIBUTES, load_avatars
from training.data.decode import Pictures, PictureSpec
from training.data.sources import load

SKY = "#c8d4e0"
COUNT = 1500  # more than are composed at once


@pytest.fixture(scope="module")
def cats() -> Pictures:
    return load_avatars(32, SKY, seed=1, count=COUNT)


def test_shape(cats: Pictures) -> None:
    assert cats.images.shape == (COUNT, 32, 32, 3)
    assert cats.images.dtype == np.uint8
    assert cats.skipped == []


def test_same_seed_same_cats(cats: Pictures) -> None:
    again = load_avatars(32, SKY, seed=1, count=COUNT)
    np.testing.assert_array_equal(again.images, cats.images)
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(again.labels[name], cats.labels[name])


def test_other_seed_other_cats(cats: Pictures) -> None:
    other = load_avatars(32, SKY, seed=2, count=COUNT)
    assert (other.images != cats.images).any(axis=(1, 2, 3)).mean() > 0.99


def test_labels_are_in_range_and_all_used(cats: Pictures) -> None:
    assert tuple(cats.labels) == ATTRIBUTES
    for values in cats.labels.values():
        assert values.shape == (COUNT,)
        assert values.dtype == np.int64
        assert values.min() == 0
        assert 9 <= values.max() <= 15
        assert len(np.unique(values)) == values.max() + 1


def test_no_cat_twice(cats: Pictures) -> None:
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


@pytest.mark.parametrize("count", [0, -1, 10**9])
def test_count_out_of_range(count: int) -> None:
    with pytest.raises(ValueError, match=r"choose 1 to \d+"):
        load_avatars(32, SKY, seed=1, count=count)


def test_malformed_colour() -> None:
    with pytest.raises(ValueError, match="#rrggbb"):
        load_avatars(32, "sky", seed=1, count=2)


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
