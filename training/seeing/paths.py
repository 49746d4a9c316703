"""The path between two latents, by the rule that the server's ``walk`` follows."""

from __future__ import annotations

from typing import Literal

import numpy as np

from training.seeing.canvas import Latents

Method = Literal["slerp", "linear"]

_NO_ANGLE = 1e-8  # 1 - |cos| below which an arc is a straight line, or none is defined


def between(start: Latents, end: Latents, steps: int, method: Method) -> Latents:
    """Evenly spaced latents from ``start`` to ``end``, both included exactly.

    ``slerp`` turns the direction at an even speed (K. Shoemake, SIGGRAPH 1985) and keeps the
    length that the generator was trained on (T. White, arXiv:1609.04468, section 2.1); keys
    that are parallel, opposite or zero are joined by the straight line of ``linear``.

    Args:
        start, end: float32 (nz,).
        steps: at least 2.
        method: how to get there.

    Returns:
        float32 (steps, nz).
    """
    a, b = start.astype(np.float64), end.astype(np.float64)
    t = np.linspace(0.0, 1.0, steps)[:, None]
    weight_a, weight_b = 1 - t, t
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = float(a @ b / lengths) if lengths else 1.0
    if method == "slerp" and 1 - abs(cosine) >= _NO_ANGLE:
        angle = np.arccos(cosine)
        weight_a = np.sin((1 - t) * angle) / np.sin(angle)
        weight_b = np.sin(t * angle) / np.sin(angle)
    path: Latents = (weight_a * a + weight_b * b).astype(np.float32)
    return path
