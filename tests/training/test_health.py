"""Each verdict on a planted series of numbers, and silence on a healthy one."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest

from training.health import (
    CHECKS,
    HEALTHY,
    TOO_STRONG,
    WINDOW,
    WON,
    YOUNG,
    HealthMonitor,
    overfitting,
    pairwise_diversity,
)
from training.losses import Loss


def stats(loss_d: float, loss_g: float, d_g_z: float, grad: float = 3.0) -> dict[str, float]:
    return {
        "loss_d": loss_d, "loss_g": loss_g, "d_x": 0.9, "d_g_z1": d_g_z, "d_g_z2": d_g_z,
        "grad_d": grad, "grad_g": grad,
    }  # fmt: skip


def monitor(
    entry: dict[str, float],
    diversities: list[float],
    count: int = WINDOW,
    loss: Loss = "non-saturating",
    smoothing: float = 0.0,
    step: int = YOUNG,
) -> HealthMonitor:
    watched = HealthMonitor(0.3, loss, smoothing, step=step)
    for _ in range(count):
        watched.add(entry)
    for diversity in diversities:
        watched.add_check(diversity)
    return watched


# Loss, medians of Loss_D, Loss_G and D(G(z)).
MEDIANS: list[tuple[Loss, float, float, float, str]] = [
    # Of healthy runs: the avatars at 32 px and at 64 px, and the shipped weights' own.
    ("non-saturating", 0.7, 2.1, 0.2, HEALTHY.kind),
    ("non-saturating", 0.37, 2.7, 0.07, HEALTHY.kind),
    ("hinge", 0.2, 1.2, -1.2, HEALTHY.kind),
    ("hinge", 1.2, -0.15, 0.15, HEALTHY.kind),
    ("lsgan", 0.05, 0.5, -0.03, HEALTHY.kind),
    ("lsgan", 0.06, 0.27, 0.27, HEALTHY.kind),
    ("relativistic", 0.1, 4.1, 0.088, HEALTHY.kind),
    # Of runs in which D learned a hundred times as fast as G.
    ("non-saturating", 0.0003, 8.8, 0.0002, "D has won"),
    ("hinge", 0.0, 3.8, -3.8, "D has won"),
    ("lsgan", 0.001, 0.5, 0.0, "D has won"),
    ("relativistic", 0.0003, 8.8, 0.0002, "D has won"),
    ("non-saturating", 0.1, 5.0, 0.01, "D too strong"),
    ("hinge", 0.03, 1.7, -1.7, "D too strong"),
    ("lsgan", 0.01, 0.5, 0.0, "D too strong"),
    ("relativistic", 0.1, 5.0, 0.01, "D too strong"),
]


@pytest.mark.parametrize(("loss", "loss_d", "loss_g", "d_g_z", "kind"), MEDIANS)
def test_what_the_numbers_of_a_run_say(
    loss: Loss, loss_d: float, loss_g: float, d_g_z: float, kind: str
) -> None:
    verdict = monitor(stats(loss_d, loss_g, d_g_z), [0.2, 0.25], loss=loss).judge()
    assert verdict.kind == kind
    assert verdict.dead == (kind == "D has won")
    assert "--recipe stable" in verdict.words or not verdict.dead


def test_every_loss_has_levels_and_the_warning_comes_first() -> None:
    assert set(WON) == set(TOO_STRONG) == set(get_args(Loss))
    for loss, won in WON.items():
        assert won.loss_d < TOO_STRONG[loss].loss_d
        assert won.d_g_z <= TOO_STRONG[loss].d_g_z


WON_NOW, SOUND = stats(0.01, 12.0, 0.0001), stats(0.7, 2.1, 0.2)
LOW = stats(0.33, 8.0, 0.0002)


@pytest.mark.parametrize(
    ("run", "kind", "dead"),
    [
        # Loss_D cannot fall below the entropy of its targets: 0.325 for a smoothing of 0.1.
        (monitor(LOW, [], smoothing=0.1), "D has won", True),
        (monitor(LOW, []), "healthy", False),
        # A short lead of D, or one in a young run, which one that is resumed is not.
        (monitor(WON_NOW, [], count=WINDOW - 1), "healthy", False),
        (monitor(WON_NOW, [], step=YOUNG - 1), "healthy", False),
        (monitor(WON_NOW, [], step=5000), "D has won", True),
        # Samples that do not differ; once is no verdict.
        (monitor(SOUND, [0.2, 0.001, 0.002]), "collapsed", True),
        (monitor(SOUND, [0.001, 0.2]), "healthy", False),
        # Samples that differ less and less; once is no trend, a young run never differed more.
        (monitor(SOUND, [0.05, 0.24, 0.1, 0.09]), "collapsing", False),
        (monitor(SOUND, [0.24, 0.2, 0.1]), "healthy", False),
        (monitor(SOUND, [0.05, 0.07]), "healthy", False),
        # A number that is none is seen at once,
        (monitor(stats(math.nan, 2.1, 0.2), [], count=1), "diverged", True),
        (monitor(stats(math.inf, 2.1, 0.2), [], count=1), "diverged", True),
        # numbers that grow after some updates.
        (monitor(stats(640.0, 3.0, 0.5), [], count=20), "diverging", False),
        (monitor(stats(640.0, 3.0, 0.5), [], count=19), "healthy", False),
        (monitor(stats(2.0, -235.0, 235.0), [], count=20), "diverging", False),
        (monitor(stats(2.0, -235.0, 235.0), [], count=19), "healthy", False),
        (monitor(stats(0.7, 2.1, 0.2, grad=1e4), [], count=20), "diverging", False),
        (monitor(stats(0.7, 2.1, 0.2, grad=1e4), [], count=19), "healthy", False),
        (HealthMonitor(0.3, too_few=4), "too little data", False),
    ],
)
def test_verdicts(run: HealthMonitor, kind: str, dead: bool) -> None:
    verdict = run.judge()
    assert (verdict.kind, verdict.dead) == (kind, dead)


def test_verdicts_give_their_numbers() -> None:
    assert "did by 0.2400 before" in monitor(SOUND, [0.05, 0.24, 0.1, 0.09]).judge().words
    assert "4 different pictures" in HealthMonitor(0.3, too_few=4).judge().words


# Every tenth update of a full-width run with --recipe paper and batch 64, up to update 200.
# (Loss_D, Loss_G, D(G(z)) after); D(G(z)) is back at update 160, and the samples ever more varied.
PAPER = [
    (0.203, 7.6, 7e-4), (0.071, 8.9, 2e-4), (0.027, 8.1, 6e-4), (0.033, 9.3, 1e-4),
    (0.030, 10.0, 7e-5), (0.020, 9.5, 1e-4), (0.020, 9.2, 2e-4), (0.006, 11.3, 3e-5),
    (0.011, 8.3, 4e-4), (0.028, 11.0, 2e-5), (0.007, 29.5, 0.0), (0.012, 35.7, 0.0),
    (0.033, 37.6, 0.0), (0.480, 25.2, 0.0), (4.789, 28.6, 0.0), (0.023, 6.5, 5e-3),
    (0.048, 5.1, 1.2e-2), (1.613, 11.5, 3e-5), (0.022, 21.7, 0.0), (0.805, 18.5, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("step", "diversities", "kind"),
    [(0, [0.045], "healthy"), (YOUNG, [0.045, 0.081], "D too strong")],
)
def test_a_run_that_is_young_or_gaining_is_not_dead(
    step: int, diversities: list[float], kind: str
) -> None:
    """Each of the two is enough; without them it is, as it was, found dead."""

    def watched(first: int, seen: list[float]) -> HealthMonitor:
        run = monitor(stats(*PAPER[0]), seen, count=0, step=first)
        for numbers in PAPER:
            for _ in range(10):
                run.add(stats(*numbers))
        return run

    verdict = watched(step, diversities).judge()
    assert (verdict.kind, verdict.dead) == (kind, False)
    assert watched(YOUNG, [0.081, 0.082]).judge().kind == "D has won"


def test_spikes_do_not_hide_that_d_has_won() -> None:
    watched = monitor(WON_NOW, [])
    for _ in range(10):
        watched.add(stats(9.0, 40.0, 0.0))
    assert watched.judge().kind == "D has won"


def test_d_that_knows_its_pictures_by_heart() -> None:
    watched = monitor(SOUND, [])
    watched.add_check(0.2, 0.5)
    assert watched.judge() == HEALTHY
    watched.add_check(0.2, 0.6)
    verdict = watched.judge()
    assert not verdict.dead
    assert verdict.kind == "too little data"
    assert "60% of the way" in verdict.words
    watched.add_check(0.2, 0.1)
    assert watched.judge() == HEALTHY
    for unknown in range(CHECKS):
        watched.add_check(0.2, None)
        assert watched.judge() == HEALTHY, unknown


def test_overfitting_by_hand() -> None:
    known, generated = [1.0, 1.2, 0.8, 1.0], [-1.0, -0.8, -1.2, -1.0]
    assert overfitting(known, [1.0, 1.0], generated) == pytest.approx(0.0)
    assert overfitting(known, [0.5], generated) == pytest.approx(0.25)
    assert overfitting(known, [-1.0, -1.0], generated) == pytest.approx(1.0)
    # Known and generated pictures that D does not tell apart say nothing.
    assert overfitting(known, [0.0], [0.9, 1.3, 0.7, 1.1]) is None
    assert overfitting([1.0], [0.0], [-1.0]) is None
    assert overfitting([math.nan, 1.0], [0.0], generated) is None


@pytest.mark.parametrize("count", [2, 3, 4, 7, 64])
def test_all_the_same_is_zero(count: int) -> None:
    assert pairwise_diversity(np.full((count, 8, 8, 3), 200, np.uint8)) == 0.0


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 12])
def test_one_that_differs_is_noticed_wherever_it_is(count: int) -> None:
    for position in range(count):
        images = np.zeros((count, 4, 4, 1), np.uint8)
        images[position] = 255
        assert pairwise_diversity(images) == pytest.approx(2 * 2 / count)


@pytest.mark.parametrize("period", [2, 3, 4, 6])
def test_repetition_is_not_sameness(period: int) -> None:
    images = np.zeros((12, 4, 4, 1), np.uint8)
    images[::period] = 255
    assert pairwise_diversity(images) > 0.1


def test_noise_has_the_expected_difference() -> None:
    """Two independent uniform values on [-1, 1] differ by 2/3 on average."""
    images = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), np.uint8)
    assert pairwise_diversity(images) == pytest.approx(2 / 3, abs=0.01)
