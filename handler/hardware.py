"""What this machine offers to a program: processors, units for short floats; and what its libraries
say when memory runs out or a GPU is lost."""

from __future__ import annotations

import logging
import math
import os
import platform
import re
from pathlib import Path

logger = logging.getLogger(__name__)


def processors(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors this process may use: those it may run on, or a container's quota of time.

    Args:
        cgroup: where a container sees its own control group (Linux, "Control Group v2", cpu.max;
            v1: cpu.cfs_quota_us).
    """
    count = len(os.sched_getaffinity(0))
    return min(count, _quota(cgroup) or count)


def _quota(cgroup: Path) -> int | None:
    """Whole processors' worth of time, rounded up; None without a limit."""
    v1 = cgroup / "cpu"
    for files in ([cgroup / "cpu.max"], [v1 / "cpu.cfs_quota_us", v1 / "cpu.cfs_period_us"]):
        try:
            quota, period = " ".join(file.read_text("ascii") for file in files).split()
            if int(quota) > 0:
                return math.ceil(int(quota) / int(period))
        except (OSError, ValueError):  # no such file, or the word max
            continue
    return None


def processor_name(device: str) -> str:
    """What the arithmetic runs on, for other hardware may give other last bits.

    Args:
        device: ``cpu``, or ``cuda:`` and the index of a GPU.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else platform.machine()  # ARM's have no name there


def cpu_has_bfloat16() -> bool:
    """Whether the processor has a unit for bfloat16 (AMX or AVX512-BF16).

    Without one bfloat16 is emulated, and slower than float32. A torch that cannot tell is named
    in the log, for what is done in float32 then is right but slow.
    """
    import torch

    try:
        have = torch.cpu.get_capabilities()
    except AttributeError:
        logger.warning(
            "torch %s does not tell what the processor can do; it is used in float32",
            torch.__version__,
        )
        return False
    return bool(have.get("amx_bf16") or have.get("avx512_bf16"))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch, ONNX Runtime or Python says that memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    # ONNX Runtime has no class of its own for it, nor has torch on the CPU; cuBLAS and cuDNN
    # tell their status, and C++ the name of its exception. oneDNN and cuDNN do not say why they
    # cannot make or run a kernel, nor why they cannot start; what they cannot do at all has shown
    # in the warm-up.
    words = (
        "out of memory", "failed to allocate memory", "can't allocate memory",
        "status_alloc_failed", "allocation_failed", "bad_alloc",
        "could not create a primitive", "could not execute a primitive",
        "unable to find an engine", "status_not_initialized",
    )  # fmt: skip
    return isinstance(error, Exception) and any(word in str(error).lower() for word in words)


def is_lost(error: BaseException) -> bool:
    """Whether an exception says that this process cannot use its GPU any more.

    After an illegal access, a failed assertion of a kernel or an error of the hardware every
    further call fails, until the process ends (NVIDIA, "CUDA Runtime API", cudaError_t). torch
    has a class for what the runtime says; cuDNN and cuBLAS say it in their own words. What is not
    allowed while a graph is captured is said in that class too, and harms nothing else.
    """
    if is_out_of_memory(error) or "captur" in str(error).lower():
        return False
    words = ("cuda error", "status_execution_failed", "status_internal_error")
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )
