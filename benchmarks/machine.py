"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def machine() -> str:
    """Processors, memory and GPU, such as ``2 x AMD EPYC, 24 GiB, no GPU``."""
    import torch

    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if os.name == "posix" else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    memory = psutil.virtual_memory().total / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} x {(names or [platform.processor()])[0]}, {memory:.0f} GiB, {gpu}"
