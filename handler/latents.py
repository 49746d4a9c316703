"""Seeds to latents. This rule is a promise: seed -> latent never changes.

The rule, complete, so that any language can repeat it bit by bit:

1. ``mix`` is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom
   number generators", OOPSLA 2014) on unsigned 64-bit integers, all arithmetic mod 2^64:
   ``x ^= x >> 30; x *= 0xbf58476d1ce4e5b9; x ^= x >> 27; x *= 0x94d049bb133111eb;
   x ^= x >> 31``.
2. Draw k (k = 0, 1, ...) of a seed is ``mix(mix(seed) + (k + 1) * 0x9e3779b97f4a7c15) >> 11``,
   an integer of 53 bits.
3. Draws 2j and 2j + 1, called a and b, make two normal values (Box and Muller, Ann. Math.
   Statist. 29, 1958) in float64: ``r = sqrt(-2 ln((a + 1) / 2^53))``, ``t = 2 pi b / 2^53``,
   values 2j and 2j + 1 are ``r cos t`` and ``r sin t``, each rounded to float32.

Each image has a seed of its own, so its latent does not depend on how many are drawn with
it. Every draw is integer arithmetic, hence equal on all machines; torch.randn is not used
because its bits depend on the processor and on the shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MAX_SEED = 2**53 - 1  # the largest integer that JSON numbers carry exactly (RFC 8259, section 6)

# No latent that N(0, 1) draws comes near (the rule's largest number is 8.6), and no sum of a few.
# What is beyond is a slip, such as bytes that are of another type than float32.
MAX_LATENT = 100

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def from_seeds(seeds: Sequence[int], nz: int) -> npt.NDArray[np.float32]:
    """One standard normal latent a seed.

    Args:
        seeds: integers 0 to 2^53-1, at least one.
        nz: length of a latent.

    Returns:
        float32 (len(seeds), nz).

    Raises:
        ValueError: a seed is out of range.
    """
    if any(not 0 <= seed <= MAX_SEED for seed in seeds):
        raise ValueError(f"seeds must be 0 to {MAX_SEED}")
    pairs = (nz + 1) // 2
    steps = np.arange(1, 2 * pairs + 1, dtype=np.uint64) * _GAMMA
    state = _mix(np.asarray(seeds, np.uint64))
    draws = (_mix(state[:, None] + steps) >> np.uint64(11)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((draws[:, 0::2] + 1.0) * 2.0**-53))
    angle = (2.0 * np.pi * 2.0**-53) * draws[:, 1::2]
    latents = np.empty((len(seeds), 2 * pairs), np.float32)
    latents[:, 0::2] = radius * np.cos(angle)
    latents[:, 1::2] = radius * np.sin(angle)
    return latents[:, :nz]
