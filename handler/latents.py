"""Seeds to latents, and latents to latents: walks, weighted sums, truncation, edits.

The rule for seeds is a promise: seed -> latent never changes. Here it is, complete, so that any
language can repeat it bit by bit:

1. ``splitmix`` is the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom
   number generators", OOPSLA 2014) on unsigned 64-bit integers, all arithmetic mod 2^64:
   ``x ^= x >> 30; x *= 0xbf58476d1ce4e5b9; x ^= x >> 27; x *= 0x94d049bb133111eb;
   x ^= x >> 31``.
2. Draw k (k = 0, 1, ...) of a seed is the integer of 53 bits
   ``splitmix(splitmix(seed) + (k + 1) * 0x9e3779b97f4a7c15) >> 11``.
3. Draws 2j and 2j + 1, called a and b, make two normal values (Box and Muller, Ann. Math.
   Statist. 29, 1958) in float64: ``r = sqrt(-2 ln((a + 1) / 2^53))``, ``t = 2 pi b / 2^53``,
   values 2j and 2j + 1 are ``r cos t`` and ``r sin t``, each rounded to float32.

Each image has a seed of its own, so its latent does not depend on how many are drawn with
it. Every draw is integer arithmetic, hence equal on all machines; torch.randn is not used
because its bits depend on the processor and on the shape.

Each of the others is computed in float64 and rounded to float32 once. Dot products are exact sums
(``math.fsum``) of exact products, so a result depends on nothing but its inputs and the last
bit of the C library's sine and arc cosine, which the rounding to float32 hides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

Latents = npt.NDArray[np.float32]  # (n, nz)

Method = Literal["slerp", "linear"]

MAX_SEED = 2**53 - 1  # the largest integer that JSON numbers carry exactly (RFC 8259, section 6)

# No latent that N(0, 1) draws comes near (the rule's largest number is 8.6), and no sum of a few.
# What is beyond is a slip, such as bytes that are of another type than float32.
MAX_LATENT = 100

_GAMMA = np.uint64(0x9E3779B97F4A7C15)

# 1 - |cos| below which the arc is a straight line to float32: they differ by angle^2 / 8 of
# the length at most, 2.5e-9 here, where float32 rounds by 6e-8.
_NO_ANGLE = 1e-8


def _splitmix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def from_seeds(seeds: Sequence[int], nz: int) -> Latents:
    """One standard normal latent a seed.

    Args:
        seeds: integers 0 to 2^53-1, any number of them.
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
    state = _splitmix(np.asarray(seeds, np.uint64))
    draws = (_splitmix(state[:, None] + steps) >> np.uint64(11)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((draws[:, 0::2] + 1.0) * 2.0**-53))
    angle = (2.0 * np.pi * 2.0**-53) * draws[:, 1::2]
    latents = np.empty((len(seeds), 2 * pairs), np.float32)
    latents[:, 0::2] = radius * np.cos(angle)
    latents[:, 1::2] = radius * np.sin(angle)
    return latents[:, :nz]


def walk(keys: Latents, steps: int, method: Method, closed: bool = False) -> Latents:
    """Latents on the path through ``keys``, evenly spaced between each two of them.

    ``slerp`` turns the direction at an even speed (K. Shoemake, "Animating rotation with
    quaternion curves", SIGGRAPH 1985), so that the latents between keep the length that the
    generator was trained on (T. White, "Sampling generative networks", arXiv:1609.04468,
    section 2.1). Between keys that are parallel, opposite or zero no arc is defined, and the
    path is the straight line of ``linear``.

    Args:
        keys: float32 (m, nz), m >= 2, finite.
        steps: latents on the whole path, at least m. Each key is one of them, bit by bit; the
            numbers of steps from key to key differ by at most one.
        method: how to get from one key to the next.
        closed: go on from the last key to the first, which does not come a second time.

    Returns:
        float32 (steps, nz), none beyond MAX_LATENT.

    Raises:
        OverflowError: a number of a latent is beyond MAX_LATENT.
    """
    if closed:
        return walk(np.concatenate([keys, keys[:1]]), steps + 1, method)[:-1]
    points = keys.astype(np.float64)
    places = [j * (steps - 1) // (len(keys) - 1) for j in range(len(keys))]
    path = np.empty((steps, keys.shape[1]))
    for j, (first, last) in enumerate(pairwise(places)):
        start, end = points[j], points[j + 1]
        angle = _angle(start, end) if method == "slerp" else None
        for i in range(first, last):
            a, b = _weights((i - first) / (last - first), angle)
            path[i] = a * start + b * end
    path[places] = points  # the formula would round, and lose the sign of a zero
    return _rounded(path)


def mix(terms: Sequence[tuple[float, Latents]]) -> Latents:
    """The sum of weight times the mean latent of each term.

    This is the vector arithmetic of Radford, Metz and Chintala (DCGAN, arXiv:1511.06434,
    section 6.3.2), which averages several latents of one meaning before adding them up.

    Args:
        terms: weight, and float32 (n, nz), n >= 1; at least one term.

    Returns:
        float32 (1, nz), none beyond MAX_LATENT.

    Raises:
        OverflowError: a number of the sum is beyond MAX_LATENT.
    """
    total = np.zeros((1, terms[0][1].shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):  # _rounded tells
        for weight, rows in terms:
            total += weight * rows.astype(np.float64).mean(axis=0)
    return _rounded(total)


def truncate(rows: Latents, factor: float) -> Latents:
    """Latents scaled towards their mean, which of N(0, I) is zero: less variety, fewer failures.

    The truncation of StyleGAN (T. Karras et al., arXiv:1812.04948, appendix B: the mean plus
    psi times the difference to it), here of the latents themselves; not that of A. Brock et al.
    (arXiv:1809.11096, section 3.1), which draws numbers beyond a threshold once more.

    Args:
        rows: float32 (n, nz).
        factor: 0 < factor <= 1; 1 changes nothing.

    Returns:
        float32 (n, nz).
    """
    return (factor * rows.astype(np.float64)).astype(np.float32)


def edit(
    rows: Latents, steps: Mapping[str, npt.NDArray[np.float64]], strengths: Mapping[str, float]
) -> Latents:
    """Latents moved along named directions: each plus the sum of strength times step.

    Args:
        rows: float32 (n, nz).
        steps: the step of strength 1, (nz,), by name; they are added in the order of ``steps``.
        strengths: for some of the names, finite.

    Returns:
        float32 (n, nz), none beyond MAX_LATENT.

    Raises:
        OverflowError: a number of a latent is beyond MAX_LATENT.
    """
    total = np.zeros(rows.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):  # _rounded tells
        for name, step in steps.items():
            if name in strengths:
                total += strengths[name] * step
        return _rounded(rows + total)


def _weights(t: float, angle: float | None) -> tuple[float, float]:
    """Weights of the two ends at t, 0 to 1; a straight line without an angle."""
    if angle is None:
        return 1 - t, t
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def _angle(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    """Angle between two vectors in radians, or None where it defines no arc."""
    lengths = math.sqrt(math.fsum(a * a)) * math.sqrt(math.fsum(b * b))
    if lengths == 0:
        return None
    cosine = math.fsum(a * b) / lengths
    return None if 1 - abs(cosine) < _NO_ANGLE else math.acos(cosine)


def _rounded(values: npt.NDArray[np.float64]) -> Latents:
    if not (np.abs(values) <= MAX_LATENT).all():  # so that NaN is refused too
        raise OverflowError(f"a number of a latent is beyond {MAX_LATENT}")
    return values.astype(np.float32)
