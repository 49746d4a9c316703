"""The comparison of settings: what it refuses, and the table that it writes."""

from __future__ import annotations

import pytest
import yaml

from benchmarks.closed_loop import Load
from benchmarks.settings import VARIANTS, main, table
from deploy.server import ROOT
from handler.limits import Settings


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--variants", "turbo"], "variants: seen 'turbo'; allowed are as shipped, "),
        (["--rounds", "0"], "rounds: seen 0; allowed is 1 to 100"),
        (["--seconds", "nan"], "seconds: seen nan; allowed is 0.1 to 600"),
    ],
)
def test_bad_usage(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_variants_change_settings_that_exist_and_are_other_than_shipped() -> None:
    shipped = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    for name, variant in VARIANTS.items():
        assert set(variant.model) <= set(shipped), name
        Settings.from_yaml({**shipped["handler"], **variant.handler})


def test_ratios_are_taken_round_by_round() -> None:
    first = [Load(100.0, 10, 5.0, 9.0, 10, 0), Load(200.0, 10, 5.0, 9.0, 10, 0)]
    second = [Load(150.0, 10, 4.0, 8.0, 10, 0), Load(400.0, 10, 6.0, 9.0, 10, 0)]
    assert table({"w": {"as shipped": first, "other": second}}).splitlines() == [
        "| variant | w |",
        "| --- | --- |",
        "| as shipped | 1.00 (1.00 to 1.00), 5.0 / 9.0 |",
        "| other | 1.75 (1.50 to 2.00), 5.0 / 8.5 |",
    ]
