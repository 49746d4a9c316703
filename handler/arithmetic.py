"""Latents from latents: walks between them and weighted sums of them.

Everything is computed in float64 and rounded to float32 once. Dot products are exact sums
(``math.fsum``) of exact products, so a result depends on nothing but its inputs and the last
bit of the C library's sine and arc cosine, which the rounding to float32 hides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from handler.latents import MAX_LATENT

Latents = npt.NDArray[np.float32]  # (n, nz)

Method = Literal["slerp", "linear"]

# 1 - |cos| below which the arc is a straight line to float32: they differ by angle^2 / 8 of
# the length at most, 2.5e-9 here, where float32 rounds by 6e-8.
_NO_ANGLE = 1e-8


def walk(keys: Latents, steps: int, method: Method) -> Latents:
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

    Returns:
        float32 (steps, nz), none beyond MAX_LATENT.

    Raises:
        OverflowError: a number of a latent is beyond MAX_LATENT.
    """
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
