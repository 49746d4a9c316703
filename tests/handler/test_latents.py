"""seed -> latent never changes; walks and weighted sums against their formulas in 50 digits.

If a test of the file fails, mend the code, not the file.

``latents.json`` holds, for nz 100, the first four values of each latent and the SHA-256 of
all of them, as little-endian float32.
"""

import hashlib
import json
import math
import struct
from pathlib import Path

import mpmath
import numpy as np
import pytest

from handler.latents import MAX_SEED, Latents, edit, from_seeds, mix, truncate, walk

NZ = 100
MOST = 100.0
GOLDEN = json.loads(Path(__file__).with_name("latents.json").read_text())


def by_hand(seed: int, nz: int) -> bytes:
    """The rule in the docstring of ``handler.latents``, with Python's integers and math."""

    def splitmix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    values: list[float] = []
    for j in range((nz + 1) // 2):
        a, b = (
            splitmix((splitmix(seed) + (k + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 11
            for k in (2 * j, 2 * j + 1)
        )
        radius = math.sqrt(-2 * math.log((a + 1) / 2**53))
        angle = 2 * math.pi * b / 2**53
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return struct.pack(f"<{nz}f", *values[:nz])


def as_bytes(latent: np.ndarray) -> bytes:
    return latent.astype("<f4").tobytes()


def test_the_file_covers_the_range() -> None:
    assert {"0", "1", "42", "999", str(MAX_SEED)} <= set(GOLDEN)


@pytest.mark.parametrize("seed", [int(seed) for seed in GOLDEN])
def test_latents_are_those_of_the_file(seed: int) -> None:
    data = as_bytes(from_seeds([seed], NZ)[0])
    assert [data[i : i + 4].hex() for i in range(0, 16, 4)] == GOLDEN[str(seed)]["first"]
    assert hashlib.sha256(data).hexdigest() == GOLDEN[str(seed)]["sha256"]


@pytest.mark.parametrize("nz", [1, 7, 100, 128])
def test_latents_are_those_of_the_written_rule(nz: int) -> None:
    """So none depends on its neighbours, and a shorter one is the start of a longer one."""
    seeds = [*map(int, GOLDEN), *range(1000, 1300), 42, 42, MAX_SEED, 0]
    together = from_seeds(seeds, nz)
    assert together.dtype == np.float32
    assert as_bytes(together) == b"".join(by_hand(seed, nz) for seed in seeds)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seeds must be"):
        from_seeds([seed], NZ)


def rows(*rows: list[float]) -> Latents:
    return np.array(rows, np.float32)


def slerp_in_50_digits(a: np.ndarray, b: np.ndarray, t: float) -> np.ndarray:
    """White, arXiv:1609.04468, section 2.1: the angle is that of the directions."""
    with mpmath.workdps(50):
        u, v = (mpmath.matrix([mpmath.mpf(float(x)) for x in row]) for row in (a, b))
        angle = mpmath.acos((u.T * v)[0] / mpmath.norm(u) / mpmath.norm(v))
        t = mpmath.mpf(t)
        mixed = (mpmath.sin((1 - t) * angle) * u + mpmath.sin(t * angle) * v) / mpmath.sin(angle)
        return np.array([float(x) for x in mixed]).astype(np.float32)


def test_slerp_is_the_formula_rounded_to_float32() -> None:
    keys = from_seeds([3, 4], NZ) * np.array([[1], [2.5]], np.float32)
    path = walk(keys, 5, "slerp")
    assert path.dtype == np.float32
    for i in (1, 2, 3):
        expected = slerp_in_50_digits(keys[0], keys[1], i / 4)
        np.testing.assert_array_max_ulp(path[i], expected, maxulp=1)


def test_slerp_turns_at_an_even_speed_and_keeps_the_length() -> None:
    path = walk(rows([1, 0], [0, 1]), 7, "slerp").astype(np.float64)
    assert np.degrees(np.arctan2(path[:, 1], path[:, 0])) == pytest.approx(np.arange(7) * 15)
    assert np.hypot(*path.T) == pytest.approx(np.ones(7))


def test_linear_is_the_straight_line() -> None:
    path = walk(rows([0, 4], [8, 0]), 5, "linear")
    assert path.tolist() == [[0, 4], [2, 3], [4, 2], [6, 1], [8, 0]]


@pytest.mark.parametrize("closed", [False, True])  # a round goes on to where it began
@pytest.mark.parametrize("method", ["slerp", "linear"])
@pytest.mark.parametrize(("count", "steps"), [(2, 2), (2, 9), (3, 3), (4, 10), (5, 64), (64, 65)])
def test_every_key_is_met_bit_by_bit_and_nothing_comes_twice(
    method: str, count: int, steps: int, closed: bool
) -> None:
    keys = from_seeds(range(count), NZ)
    keys[:, 0] = -0.0
    path = walk(keys, steps, method, closed)
    assert path.shape == (steps, NZ)
    rows = [row.tobytes() for row in path]
    places = [rows.index(key.tobytes()) for key in keys]
    assert places[0] == 0
    assert closed or places[-1] == steps - 1
    strides = np.diff([*places, steps] if closed else places)
    assert strides.min() >= 1
    assert strides.max() - strides.min() <= 1
    assert len(set(rows)) == steps


@pytest.mark.parametrize(
    "end", [[2, 4], [-1, -2], [0, 0], [1.00001, 2]], ids=["parallel", "opposite", "zero", "nearly"]
)
def test_where_there_is_no_arc_slerp_is_linear(end: list[float]) -> None:
    keys = rows([1, 2], end)
    assert np.array_equal(walk(keys, 6, "slerp"), walk(keys, 6, "linear"))


def test_just_above_the_threshold_both_ways_agree() -> None:
    angle = 2e-4  # 1 - cos is 2e-8
    keys = rows([1, 0], [np.cos(angle), np.sin(angle)])
    slerp, linear = walk(keys, 9, "slerp"), walk(keys, 9, "linear")
    assert np.abs(slerp - linear).max() < 1e-7


@pytest.mark.parametrize(
    "keys", [([1, 1], [MOST, MOST + 0.01]), ([20, 0], [-10, 0.01])], ids=["a key", "between"]
)
def test_a_walk_stays_among_latents(keys: tuple[list[float], list[float]]) -> None:
    """Between nearly opposite keys of different lengths the arc swings far out."""
    with pytest.raises(OverflowError):
        walk(rows(*keys), 3, "slerp")
    assert walk(rows([MOST, 1], [-MOST, 1]), 3, "linear").max() == MOST


def test_mix_is_the_weighted_sum_of_means() -> None:
    smiling_woman, woman, man = rows([2, 6], [4, 0]), rows([1, 1]), rows([0, -1])
    result = mix([(1, smiling_woman), (-1, woman), (0.5, man)])
    assert result.dtype == np.float32
    assert result.tolist() == [[2, 1.5]]


def test_mix_is_rounded_once() -> None:
    big, small = rows([2.0**30]), rows([1.0])
    assert mix([(1, big), (1, small), (-1, big)]).tolist() == [[1]]


@pytest.mark.parametrize(
    "weights",
    [(50, 51), (-50, -51), (3e38, 3e38), (1e300, 1e300), (1e308, -1e308)],
    ids=["above", "below", "float32", "float64", "nan"],
)
def test_a_mix_stays_among_latents(weights: tuple[float, float]) -> None:
    with pytest.raises(OverflowError):
        mix([(weight, rows([1e30 if weight > MOST else 1.0])) for weight in weights])
    assert mix([(50, rows([1])), (50, rows([1]))]).tolist() == [[MOST]]


def test_truncation_scales_towards_the_mean_of_all_latents() -> None:
    found = truncate(rows([2, -4], [0.1, 0]), 0.7)
    assert found.dtype == np.float32
    assert found.tolist() == [[np.float32(1.4), np.float32(-2.8)], [np.float32(0.7 * 0.1), 0]]
    assert truncate(from_seeds([1], NZ), 1).tobytes() == from_seeds([1], NZ).tobytes()


def test_an_edit_adds_each_step_by_its_strength() -> None:
    steps = {"a": np.array([1.0, 0.5]), "b": np.array([0.0, 2.0]), "c": np.array([9.0, 9.0])}
    found = edit(rows([1, 1], [0, 0]), steps, {"b": -1.5, "a": 2})
    assert found.dtype == np.float32
    assert found.tolist() == [[3, -1], [2, -2]]


def test_an_edit_is_rounded_once_and_in_one_order() -> None:
    steps = {"a": np.array([2.0**30]), "b": np.array([2.0**-20]), "c": np.array([-(2.0**30)])}
    strengths = dict.fromkeys(steps, 1.0)
    turned = dict(reversed(strengths.items()))
    for given in (strengths, turned):
        assert edit(rows([0]), steps, given).tolist() == [[2.0**-20]]


@pytest.mark.parametrize("strengths", [{"a": 101}, {"a": -1e308, "b": 1e308}, {"a": 1e308}])
def test_an_edit_stays_among_latents(strengths: dict[str, float]) -> None:
    steps = {"a": np.array([1.0, 10.0]), "b": np.array([1e38, 1.0])}
    with pytest.raises(OverflowError):
        edit(rows([0, 0]), steps, strengths)
    assert edit(rows([0, 0]), steps, {"a": 10}).max() == MOST
