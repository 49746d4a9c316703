"""Is the run alive? A verdict in plain words from its numbers.

The classic ends of a GAN run: the Discriminator wins and the Generator's gradient carries
nothing (Arjovsky and Bottou, arXiv:1701.04862), all samples become one (mode collapse,
Goodfellow, arXiv:1701.00160, section 5.1.1), or a number stops being finite.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from statistics import median

# Updates that a verdict looks back on. Runs that end well can have an almighty D for their first
# 100 updates; medians, because a lost run has spikes of Loss_D in which G gains nothing.
WINDOW = 200
WON_LOSS_D = 0.05
WON_D_G_Z = 0.01
ALIKE_RATIO = 0.03  # sample diversity below this part of the real pictures' is collapse,
ALIKE_CHECKS = 2  # when it is seen so many times in a row: young runs start all alike


@dataclass(frozen=True)
class Verdict:
    """``dead`` runs do not recover by themselves; ``words`` say what is wrong and what to try."""

    dead: bool
    words: str


HEALTHY = Verdict(False, "healthy")


class HealthMonitor:
    """Collects the numbers of each update and judges them.

    Args:
        real_diversity: mean pairwise distance of real pictures (metrics.pairwise_diversity).
    """

    def __init__(self, real_diversity: float) -> None:
        self.real_diversity = real_diversity
        self._recent: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._diversities: deque[float] = deque(maxlen=ALIKE_CHECKS)

    def add(self, stats: dict[str, float]) -> None:
        """Record one update: the numbers of ``StepStats`` by name."""
        self._recent.append(stats)

    def add_diversity(self, diversity: float) -> None:
        """Record the diversity of the current samples."""
        self._diversities.append(diversity)

    def judge(self) -> Verdict:
        """The verdict on the last ``WINDOW`` updates; healthy while there are fewer."""
        bad = [s for s in self._recent if not all(math.isfinite(v) for v in s.values())]
        if bad:
            return Verdict(
                True,
                f"diverged: Loss_D {bad[0]['loss_d']}, Loss_G {bad[0]['loss_g']} are no longer "
                "numbers. Lower --lr-g and --lr-d, or use --precision float32.",
            )
        if len(self._recent) < WINDOW:
            return HEALTHY
        loss_d, loss_g, d_g_z = (
            median(s[name] for s in self._recent) for name in ("loss_d", "loss_g", "d_g_z2")
        )
        if loss_d < WON_LOSS_D and d_g_z < WON_D_G_Z:
            return Verdict(
                True,
                f"D has won: medians of the last {WINDOW} updates are Loss_D {loss_d:.3f}, Loss_G "
                f"{loss_g:.1f}, D(G(z)) {d_g_z:.4f}; the Generator learns nothing any more. "
                "Use --recipe stable, raise --r1-gamma, lower --lr-d, or give more pictures.",
            )
        alike = [d for d in self._diversities if d < ALIKE_RATIO * self.real_diversity]
        if len(alike) == ALIKE_CHECKS:
            return Verdict(
                True,
                f"collapsed: samples differ by {alike[-1]:.4f} from one another, real "
                f"pictures by {self.real_diversity:.4f} (mean absolute difference in [-1, 1]). "
                "Use --recipe stable, raise --r1-gamma, or give more varied pictures.",
            )
        return HEALTHY
