"""When requests are to be sent: fixed in advance, whatever the server does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.float64]


def constant(rate_per_s: float, duration_s: float) -> Offsets:
    """Equally spaced arrivals, the first at 0.

    Returns:
        seconds from the start, float64 (n,), ascending, each in [0, duration_s).
    """
    # A product that is a hair above a whole number must not give one request more.
    return np.arange(np.ceil(rate_per_s * duration_s - 1e-9)) / rate_per_s


def poisson(rate_per_s: float, duration_s: float, seed: int | list[int]) -> Offsets:
    """A Poisson process: independent exponential gaps, as of many independent clients.

    The same seed gives the same arrivals (PCG64).

    Returns:
        seconds from the start, float64 (n,), ascending, each in [0, duration_s); n is random
        with mean and variance rate_per_s * duration_s.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    times: list[Offsets] = []
    last = 0.0
    while last < duration_s:
        block = last + np.cumsum(random.exponential(1.0 / rate_per_s, size=1024))
        times.append(block)
        last = float(block[-1])
    offsets = np.concatenate(times)
    return offsets[offsets < duration_s]
