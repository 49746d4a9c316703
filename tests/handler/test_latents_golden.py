"""seed -> latent never changes. If a test here fails, mend the code, not the file.

``latents.json`` holds, for nz 100, the first four values of each latent and the SHA-256 of
all of them, as little-endian float32.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest

from handler.latents import MAX_SEED, from_seeds

NZ = 100
GOLDEN = json.loads(Path(__file__).with_name("latents.json").read_text())


def by_hand(seed: int, nz: int) -> bytes:
    """The rule in the docstring of ``handler.latents``, with Python's integers and math."""

    def mix(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    values: list[float] = []
    for j in range((nz + 1) // 2):
        a, b = (
            mix((mix(seed) + (k + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 11
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


@pytest.mark.parametrize("seed", [int(seed) for seed in GOLDEN])
@pytest.mark.parametrize("nz", [1, 7, 100, 128])
def test_latents_are_those_of_the_written_rule(seed: int, nz: int) -> None:
    assert as_bytes(from_seeds([seed], nz)[0]) == by_hand(seed, nz)


def test_the_written_rule_holds_for_many_seeds() -> None:
    seeds = list(range(1000, 1300))
    assert as_bytes(from_seeds(seeds, NZ)) == b"".join(by_hand(seed, NZ) for seed in seeds)


@pytest.mark.parametrize("seeds", [[42, 42], [7, 42, 9], list(range(256)), [MAX_SEED, 0]])
def test_a_latent_does_not_depend_on_its_neighbours(seeds: list[int]) -> None:
    together = from_seeds(seeds, NZ)
    assert together.dtype == np.float32
    for seed, latent in zip(seeds, together, strict=True):
        assert as_bytes(latent) == as_bytes(from_seeds([seed], NZ)[0])


def test_a_shorter_latent_is_the_start_of_a_longer_one() -> None:
    assert as_bytes(from_seeds([5], 7)[0]) == as_bytes(from_seeds([5], 100)[0, :7])


def test_they_are_standard_normal() -> None:
    values = from_seeds(range(2000), NZ).astype(np.float64)
    assert abs(values.mean()) < 0.01  # 4.5 standard errors
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    assert np.abs(np.corrcoef(values.T) - np.eye(NZ)).max() < 0.12


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seeds must be"):
        from_seeds([seed], NZ)
