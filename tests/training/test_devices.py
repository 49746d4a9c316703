"""Which number format ``auto`` takes, told from what the hardware says of itself."""

from __future__ import annotations

import pytest
import torch

from training.distributed import choose_precision


@pytest.mark.parametrize(
    ("native", "precision"), [(True, torch.bfloat16), (False, torch.float32)]
)  # fmt: skip
def test_a_gpu_that_only_emulates_bfloat16_computes_in_float32(
    monkeypatch: pytest.MonkeyPatch, native: bool, precision: torch.dtype
) -> None:
    """Turing and Volta: torch says yes to bfloat16 unless asked for the native one."""

    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("auto", torch.device("cuda")) == precision
    assert choose_precision("bfloat16", torch.device("cuda")) == torch.bfloat16


@pytest.mark.parametrize(
    ("units", "precision"),
    [({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16),
     ({"avx512_bf16": False, "avx2": True}, torch.float32)],
)  # fmt: skip
def test_a_cpu_needs_a_unit_for_bfloat16(
    monkeypatch: pytest.MonkeyPatch, units: dict[str, bool], precision: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    assert choose_precision("auto", torch.device("cpu")) == precision
