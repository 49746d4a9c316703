"""Is the run alive? A verdict in plain words from its numbers.

The classic ends of a GAN run: the Discriminator wins and the Generator's gradient carries
nothing (Arjovsky and Bottou, arXiv:1701.04862), all samples become one (mode collapse,
Goodfellow, arXiv:1701.00160, section 5.1.1), or numbers grow until they are none. Before each
there is a warning. A run may also be well and useless: D has learned its few pictures by heart
(Karras et al., arXiv:2006.06676).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, variance

import numpy as np
import numpy.typing as npt

from training.losses import Loss

# Updates that a verdict looks back on; medians, because a lost run has spikes of Loss_D in which
# G gains nothing.
WINDOW = 200
YOUNG = 200  # first updates, of which D's lead says nothing: runs that end well begin so
GAINING = 1.25  # sample diversity above so many times that of the check before: G still learns
ALIKE_RATIO = 0.03  # sample diversity below this part of the real pictures' is collapse,
FALLEN_RATIO = 0.5  # below this part of its own best and of the real pictures' a warning,
CHECKS = 2  # when it is seen so many times in a row: young runs start all alike
BURSTING_WINDOW = 20
BURSTING_LOSS = 100.0  # of D or G; sound runs stay below 10, those that D has won below 50
BURSTING_GRADIENT = 2000.0  # norm; in sound runs below 100, of G in lost ones below 1000
BY_HEART = 0.3  # of ``overfitting``
FEW = 64  # different pictures: with so many D was there after 600 updates (docs/training.md)


@dataclass(frozen=True)
class Level:
    """Medians below both of which D is ahead: Loss_D above its least, D(G(z)) after the update."""

    loss_d: float
    d_g_z: float


WON: dict[Loss, Level] = {
    "non-saturating": Level(0.05, 0.001),
    "hinge": Level(0.005, -1.0),
    "lsgan": Level(0.002, 0.1),
    "relativistic": Level(0.05, 0.001),
}
TOO_STRONG: dict[Loss, Level] = {
    "non-saturating": Level(0.25, 0.02),
    "hinge": Level(0.05, -1.0),
    "lsgan": Level(0.02, 0.1),
    "relativistic": Level(0.25, 0.02),
}


@dataclass(frozen=True)
class Verdict:
    """``dead`` runs do not recover by themselves; ``words`` say what is wrong and what to try."""

    dead: bool
    words: str

    @property
    def kind(self) -> str:
        """The words up to the first colon: healthy, D too strong, collapsed, ..."""
        return self.words.split(":")[0]


HEALTHY = Verdict(False, "healthy")


def diverged(what: str) -> Verdict:
    """Of a run whose numbers are none any more; ``what`` says which."""
    return Verdict(True, f"diverged: {what}. Lower --lr-g and --lr-d, or use --precision float32.")


class HealthMonitor:
    """Collects the numbers of each update and judges them.

    Args:
        real_diversity: mean pairwise distance of real pictures (``pairwise_diversity``).
        loss: which one the run uses; it says what D's numbers mean.
        smoothing: the run's label smoothing, which keeps Loss_D from falling to 0.
        too_few: the number of different pictures, if they are fewer than ``FEW``, of which those
            held out say nothing, or so few that no two could be held out.
        step: updates of the run before those that are recorded here.
    """

    def __init__(
        self,
        real_diversity: float,
        loss: Loss = "non-saturating",
        smoothing: float = 0.0,
        too_few: int | None = None,
        step: int = 0,
    ) -> None:
        self.real_diversity, self.loss, self.too_few = real_diversity, loss, too_few
        self.step = step
        s = smoothing
        self.least_loss_d = -s * math.log(s) - (1 - s) * math.log(1 - s) if s else 0.0
        self._recent: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self._diversities: list[float] = []
        self._overfits: list[float | None] = []

    def add(self, stats: dict[str, float]) -> None:
        """Record one update: the numbers of ``StepStats`` by name."""
        self.step += 1
        self._recent.append(stats)

    def add_check(self, diversity: float, overfit: float | None = None) -> None:
        """Record what the current samples and D's opinions say (``loop.Checks``)."""
        self._diversities.append(diversity)
        self._overfits.append(overfit)

    def judge(self) -> Verdict:
        """What is true of the last ``WINDOW`` updates and the last checks; what is dead first."""
        verdicts = [
            self._not_finite(),
            self._ahead(),
            self._alike(),
            self._bursting(),
            self._by_heart(),
        ]
        found = [verdict for verdict in verdicts if verdict is not None]
        return next((v for v in found if v.dead), found[0] if found else HEALTHY)

    def _not_finite(self) -> Verdict | None:
        for stats in self._recent:
            if not all(math.isfinite(value) for value in stats.values()):
                return diverged(
                    f"Loss_D {stats['loss_d']}, Loss_G {stats['loss_g']}, gradients "
                    f"{stats['grad_d']} (D) and {stats['grad_g']} (G) are no longer numbers"
                )
        return None

    def _bursting(self) -> Verdict | None:
        recent = list(self._recent)[-BURSTING_WINDOW:]
        if len(recent) < BURSTING_WINDOW:
            return None
        loss = median(max(abs(s["loss_d"]), abs(s["loss_g"])) for s in recent)
        norm = median(max(s["grad_d"], s["grad_g"]) for s in recent)
        if loss < BURSTING_LOSS and norm < BURSTING_GRADIENT:
            return None
        return Verdict(
            False,
            f"diverging: the larger loss is {loss:.3g} and the larger gradient {norm:.3g}, medians "
            f"of {BURSTING_WINDOW} updates; in a sound run they are below 10 and 100. "
            "Lower --lr-g and --lr-d.",
        )

    def _ahead(self) -> Verdict | None:
        if len(self._recent) < WINDOW or self.step < YOUNG + WINDOW:
            return None
        loss_d, loss_g, d_g_z = (
            median(stats[name] for stats in self._recent) for name in ("loss_d", "loss_g", "d_g_z2")
        )
        numbers = (
            f"medians of the last {WINDOW} updates are Loss_D {loss_d:.3f}, Loss_G {loss_g:.1f}, "
            f"D(G(z)) {d_g_z:.4f}"
        )
        advice = (
            "Raise --r1-gamma, lower --lr-d, give more pictures, or use --recipe stable if this is "
            "another."
        )
        if not self._gaining() and self._below(WON[self.loss], loss_d, d_g_z):
            return Verdict(
                True, f"D has won: {numbers}; the Generator learns nothing any more. {advice}"
            )
        if self._below(TOO_STRONG[self.loss], loss_d, d_g_z):
            return Verdict(
                False, f"D too strong: {numbers}; the Generator rarely fools it. {advice}"
            )
        return None

    def _gaining(self) -> bool:
        last = self._diversities[-2:]
        return len(last) == 2 and last[1] > GAINING * last[0]

    def _below(self, level: Level, loss_d: float, d_g_z: float) -> bool:
        return loss_d - self.least_loss_d < level.loss_d and d_g_z < level.d_g_z

    def _alike(self) -> Verdict | None:
        last = self._diversities[-CHECKS:]
        if len(last) < CHECKS:
            return None
        best = max(self._diversities)
        numbers = (
            f"samples differ by {last[-1]:.4f} from one another, real pictures by "
            f"{self.real_diversity:.4f} (mean absolute difference in [-1, 1])"
        )
        advice = (
            "Raise --r1-gamma, give more varied pictures, or use --recipe stable if this is "
            "another."
        )
        if max(last) < ALIKE_RATIO * self.real_diversity:
            return Verdict(True, f"collapsed: {numbers}. {advice}")
        if max(last) < FALLEN_RATIO * min(best, self.real_diversity):
            return Verdict(False, f"collapsing: {numbers}, and did by {best:.4f} before. {advice}")
        return None

    def _by_heart(self) -> Verdict | None:
        advice = "Give more pictures; --diffaugment on helps where it is off."
        if self.too_few is not None:
            return Verdict(
                False,
                f"too little data: {self.too_few} different pictures, fewer than {FEW} or too few "
                f"to hold two of them out; D will know them by heart. {advice}",
            )
        last = [overfit for overfit in self._overfits[-CHECKS:] if overfit is not None]
        if len(last) < CHECKS or min(last) < BY_HEART:
            return None
        return Verdict(
            False,
            f"too little data: D puts pictures that it never saw {min(1.0, last[-1]):.0%} of the "
            f"way from those it trains on to generated ones, so it knows them by heart. {advice}",
        )


def overfitting(
    known: Sequence[float], unknown: Sequence[float], generated: Sequence[float]
) -> float | None:
    """How far D takes unknown real pictures for generated ones: 0 not at all, 1 wholly.

    ``(E known - E unknown) / (E known - E generated)``, r_v of Karras et al., arXiv:2006.06676,
    on D's raw outputs for pictures it trains on, real ones it has never seen, generated ones.

    Returns:
        ``None`` when D does not tell known from generated pictures by two standard errors: the
        ratio of two small differences says nothing.
    """
    apart = fmean(known) - fmean(generated)
    if len(known) < 2 or not math.isfinite(apart):
        return None
    error = math.sqrt(variance(known) / len(known) + variance(generated) / len(generated))
    if apart <= 2 * error:
        return None
    return (fmean(known) - fmean(unknown)) / apart


def pairwise_diversity(images: npt.NDArray[np.uint8]) -> float:
    """Mean absolute difference of pictures from one another; 0 when all are the same.

    Picture i is compared with i + s (mod N) for the shifts s = 1, N // 3 and N // 2: no
    picture meets itself, every one is used equally, and nothing is random. Several shifts,
    so that pictures which repeat with one of these periods do not look all the same.

    Args:
        images: uint8 (N, H, W, C), N >= 2.

    Returns:
        in units of the [-1, 1] range, so 0 to 2.
    """
    count = len(images)
    signed = np.asarray(images, np.int16)
    shifts = sorted({1, count // 3, count // 2} - {0})
    differences = [np.abs(signed - np.roll(signed, -s, axis=0)).mean() for s in shifts]
    return float(np.mean(differences)) * 2.0 / 255.0
