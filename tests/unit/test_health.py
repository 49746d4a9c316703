"""Each verdict on a planted case, and silence on a healthy run."""

import math

import pytest

from training.health import HEALTHY, WINDOW, HealthMonitor

pytestmark = pytest.mark.unit


def stats(loss_d: float, loss_g: float, d_g_z: float) -> dict[str, float]:
    return {
        "loss_d": loss_d, "loss_g": loss_g, "d_x": 0.9, "d_g_z1": d_g_z, "d_g_z2": d_g_z,
        "grad_d": 3.0, "grad_g": 3.0,
    }  # fmt: skip


def monitor(
    entry: dict[str, float], diversities: list[float], count: int = WINDOW
) -> HealthMonitor:
    watched = HealthMonitor(real_diversity=0.3)
    for _ in range(count):
        watched.add(entry)
    for diversity in diversities:
        watched.add_check(diversity)
    return watched


def test_silent_on_a_healthy_run() -> None:
    assert monitor(stats(0.7, 2.1, 0.2), [0.2, 0.25]).judge() == HEALTHY


def test_d_has_won() -> None:
    verdict = monitor(stats(0.01, 12.0, 0.001), [0.2, 0.2]).judge()
    assert verdict.dead
    assert verdict.words.startswith("D has won")
    assert "--recipe stable" in verdict.words


def test_spikes_do_not_hide_that_d_has_won() -> None:
    watched = monitor(stats(0.01, 12.0, 0.001), [])
    for _ in range(10):
        watched.add(stats(9.0, 40.0, 0.0))
    assert watched.judge().words.startswith("D has won")


def test_a_short_lead_of_d_is_no_verdict() -> None:
    assert monitor(stats(0.01, 12.0, 0.001), [], count=WINDOW - 1).judge() == HEALTHY


def test_samples_that_do_not_differ() -> None:
    verdict = monitor(stats(0.7, 2.1, 0.2), [0.2, 0.001, 0.002]).judge()
    assert verdict.dead
    assert verdict.words.startswith("collapsed")
    assert monitor(stats(0.7, 2.1, 0.2), [0.001, 0.2]).judge() == HEALTHY


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_none_is_seen_at_once(bad: float) -> None:
    verdict = monitor(stats(bad, 2.1, 0.2), [], count=1).judge()
    assert verdict.dead
    assert verdict.words.startswith("diverged")
