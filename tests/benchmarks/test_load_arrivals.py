"""When requests are to be sent, and what they ask for."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from benchmarks import engine

Body = dict[str, int]


@pytest.mark.parametrize(
    ("rate_per_s", "duration_s", "count"),
    [(20, 3, 60), (0.5, 4, 2), (1 / 3, 3, 1), (10, 0.25, 3), (0.1, 0.3, 1), (1000, 0.1, 100)],
)
def test_constant_arrivals_are_equally_spaced(
    rate_per_s: float, duration_s: float, count: int
) -> None:
    offsets = engine.constant(rate_per_s, duration_s)
    assert len(offsets) == count
    assert offsets[0] == 0.0
    assert offsets[-1] < duration_s
    np.testing.assert_allclose(np.diff(offsets), 1 / rate_per_s)


def test_poisson_arrivals_have_the_rate_and_exponential_gaps() -> None:
    offsets = engine.poisson(200.0, 100.0, seed=0)
    assert abs(len(offsets) - 20_000) < 5 * np.sqrt(20_000)
    gaps_s = np.diff(offsets)
    assert (gaps_s >= 0).all()
    # An exponential distribution's mean equals its standard deviation.
    assert gaps_s.mean() == pytest.approx(1 / 200, rel=0.04)
    assert gaps_s.std() == pytest.approx(1 / 200, rel=0.06)
    assert offsets[0] >= 0
    assert offsets[-1] < 100.0


def test_the_number_of_poisson_arrivals_varies_as_it_should() -> None:
    counts = [len(engine.poisson(50.0, 1.0, seed=seed)) for seed in range(400)]
    assert np.mean(counts) == pytest.approx(50, abs=2)
    assert np.var(counts) == pytest.approx(50, rel=0.4)


def test_a_seed_gives_the_same_poisson_arrivals_again() -> None:
    first, again, other = (engine.poisson(50.0, 2.0, seed) for seed in ([7, 1], [7, 1], [7, 2]))
    np.testing.assert_array_equal(first, again)
    assert first[:5].tolist() != other[:5].tolist()


def decoded(kind: engine.Kind, count: int, seed: int = 1, grid_share: float = 0.25) -> list[Body]:
    asks = engine.asks(engine.sizes(kind, grid_share, seed), 2**20 * seed)
    return [json.loads(ask.body) for ask in itertools.islice(asks, count)]


@pytest.mark.parametrize("kind", ["image", "grid", "mix"])
def test_no_image_is_asked_for_twice(kind: engine.Kind) -> None:
    asked = [body["seed"] + i for body in decoded(kind, 300) for i in range(body["num_images"])]
    assert len(set(asked)) == len(asked)
    assert min(asked) >= 0
    assert max(asked) < 2**53


def test_kinds_of_work() -> None:
    assert all(body["num_images"] == 1 for body in decoded("image", 20))
    assert all(body["num_images"] == 64 for body in decoded("grid", 20))
    grids = sum(body["num_images"] == 64 for body in decoded("mix", 2000))
    assert 420 < grids < 580


def test_a_seed_gives_the_same_bodies_again() -> None:
    assert decoded("mix", 50) == decoded("mix", 50)
    assert decoded("mix", 50)[0] != decoded("mix", 50, seed=2)[0]
