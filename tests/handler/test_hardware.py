"""What a program may use of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from handler.hardware import cpu_has_bfloat16, processors


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 64),
        ({"cpu.max": "nonsense"}, 64),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
    ],
)
def test_processors_keep_to_the_quota_of_a_container(
    files: dict[str, str], wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors(tmp_path) == wanted


def test_short_floats_of_this_machine() -> None:
    words = Path("/proc/cpuinfo").read_text().split()
    assert cpu_has_bfloat16() == ("amx_bf16" in words or "avx512_bf16" in words)


def test_a_torch_that_cannot_tell_is_named_and_has_no_unit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A new name in torch must not make serving slow without a word."""
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert cpu_has_bfloat16() is False
    assert f"torch {torch.__version__} does not tell" in caplog.text
