"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def machine() -> str:
    """Processors and memory, such as ``2 x AMD EPYC, 24 GiB``."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if os.name == "posix" else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    memory = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} x {(names or [platform.processor()])[0]}, {memory:.0f} GiB"
