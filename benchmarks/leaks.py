"""Whether something that was sampled over time grows without end.

The rule looks at the second half of a run only, as caches, thread pools and heaps fill in the
first. Its trend is the median of the slopes between all pairs of samples (Theil and Sen: P. K.
Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968): up to 29 % of the
samples may be outliers. A leak is a trend that, over that half, adds more than a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_MOST_SAMPLES = 500  # 125,000 pairs


@dataclass(frozen=True)
class Bound:
    """How much a trend may add over the second half of a run.

    Args:
        absolute: in the unit of the samples.
        share: of the median of that half; the larger of the two counts.
    """

    absolute: float
    share: float = 0.0


@dataclass(frozen=True)
class Trend:
    """What the second half of a run did.

    Args:
        median: of its samples.
        growth: what its trend adds from its beginning to its end.
        allowed: most growth.
    """

    median: float
    growth: float
    allowed: float

    @property
    def leaks(self) -> bool:
        """Whether it grows by more than it may."""
        return self.growth > self.allowed


def slope(times_s: Sequence[float], values: Sequence[float]) -> float:
    """The Theil-Sen slope, per second; 0 for fewer than two samples."""
    times, samples = np.asarray(times_s, np.float64), np.asarray(values, np.float64)
    if len(times) > _MOST_SAMPLES:
        chosen = np.linspace(0, len(times) - 1, _MOST_SAMPLES).round().astype(int)
        times, samples = times[chosen], samples[chosen]
    first, second = np.triu_indices(len(times), 1)
    apart = times[second] - times[first]
    return float(np.median((samples[second] - samples[first]) / apart)) if len(apart) else 0.0


def trend(times_s: Sequence[float], values: Sequence[float], bound: Bound) -> Trend:
    """The trend of the second half of a run.

    Args:
        times_s: moments of the samples, ascending, s.
        values: the samples, as many.

    Raises:
        ValueError: fewer than 8 samples, which say nothing.
    """
    if len(times_s) < 8:
        raise ValueError(f"{len(times_s)} samples; at least 8 are needed to tell a trend")
    start = next(i for i, t in enumerate(times_s) if t >= (times_s[0] + times_s[-1]) / 2)
    half, samples = times_s[start:], values[start:]
    median = float(np.median(samples))
    growth = slope(half, samples) * (half[-1] - half[0])
    return Trend(median, growth, max(bound.absolute, bound.share * median))
