"""What a benchmark does on a machine that other work disturbs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from typing import Any
from unittest.mock import Mock

import pytest

from benchmarks.compare import Measurement, ServingConfig


def measured(monkeypatch: pytest.MonkeyPatch, pulses: Iterator[float]) -> tuple[list[int], Any]:
    """Rounds done by each row, and the object, when the machine beats like that."""
    turns = Mock(return_value={})
    monkeypatch.setattr(Measurement, "_pulse", Mock(side_effect=pulses))
    monkeypatch.setattr(Measurement, "_ceiling", Mock(return_value=[]))
    monkeypatch.setattr(Measurement, "_round", turns)
    benchmark = object.__new__(Measurement)  # without its servers
    benchmark.config = ServingConfig(rounds=3)
    benchmark.running, benchmark.rows = {}, []
    benchmark._best_pulse = 100.0
    benchmark.run()
    return [number for (_, number, _), _ in turns.call_args_list], benchmark


def test_a_quiet_machine_needs_no_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, benchmark = measured(monkeypatch, repeat(95.0))
    assert rounds == [0, 1, 2] * len(benchmark.rows)
    assert [row["disturbed_rounds"] for row in benchmark.rows] == [0] * len(benchmark.rows)


def test_a_disturbed_round_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, benchmark = measured(monkeypatch, chain([95.0, 50.0], repeat(95.0)))
    assert rounds[:4] == [0, 0, 1, 2]
    assert benchmark.rows[0]["disturbed_rounds"] == 0


def test_a_machine_that_is_never_quiet_is_measured_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, benchmark = measured(monkeypatch, repeat(50.0))
    works = len(benchmark.rows)
    assert rounds == [0, 0, 0, 1, 1, 1, 2, 2, 2] + [0, 1, 2] * (works - 1)
    assert [row["disturbed_rounds"] for row in benchmark.rows] == [3] * works
