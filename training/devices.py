"""Which device and which number format a run uses."""

from __future__ import annotations

from typing import Literal

import torch

from handler.hardware import cpu_has_bfloat16


def choose_device(local_rank: int = 0) -> torch.device:
    """A CUDA GPU, each process of a machine another one, or the CPU."""
    return torch.device(f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")


def choose_precision(
    wanted: Literal["auto", "float32", "bfloat16"], device: torch.device
) -> torch.dtype:
    """``auto`` is bfloat16 where matrix units for it exist, else float32.

    On a GPU these are tensor cores from Ampere on, on a CPU AMX and AVX512-BF16; without them
    bfloat16 is emulated and slower. float16 is not on offer: its gradients need a scale that
    changes with them, for R1's second derivative too.
    """
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
