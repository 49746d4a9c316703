"""Which backend and which arithmetic, from the settings and the hardware."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from handler.hardware import cpu_has_bfloat16
from handler.settings import Settings

Name = Literal["torchscript", "onnx", "packed"]
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Hardware:
    """What the worker's hardware is good at.

    Args:
        gpu: the worker has one.
        gpu_float16: it has tensor cores, which are made for float16.
        cpu_bfloat16: the processor has a unit for bfloat16 (AMX or AVX512-BF16).
    """

    gpu: bool
    gpu_float16: bool
    cpu_bfloat16: bool


def probe(gpu_id: int | None) -> Hardware:
    """Look at this machine. A GPU that torch cannot see counts as none."""
    import torch

    gpu = gpu_id is not None and torch.cuda.is_available()
    return Hardware(
        gpu=gpu,
        gpu_float16=gpu and torch.cuda.get_device_capability(gpu_id) >= (7, 0),
        cpu_bfloat16=cpu_has_bfloat16(),
    )


def choose(settings: Settings, hardware: Hardware) -> tuple[Name, Precision]:
    """What to run.

    ``auto`` by measurement: on a GPU TorchScript, in float16 where it has tensor cores; on a
    CPU with a unit for bfloat16 the packed network in bfloat16; on any other ONNX Runtime in
    float32, which was the fastest there.

    Raises:
        RuntimeError: the settings ask for a pair that does not exist.
    """
    precision: Precision
    if settings.precision != "auto":
        precision = settings.precision
    elif settings.backend == "onnx":
        precision = "float32"
    elif hardware.gpu:
        precision = "float16" if hardware.gpu_float16 else "float32"
    else:
        precision = "bfloat16" if hardware.cpu_bfloat16 else "float32"

    if settings.backend == "auto":
        if hardware.gpu or precision == "float16":
            return "torchscript", precision
        if precision == "bfloat16":
            return ("packed" if hardware.cpu_bfloat16 else "torchscript"), precision
        return "onnx", precision
    if settings.backend == "onnx" and precision != "float32":
        raise RuntimeError(
            f"precision {precision} is not for the backend onnx, whose file is float32; "
            "use backend: torchscript"
        )
    if settings.backend == "packed" and (hardware.gpu or precision == "float16"):
        raise RuntimeError(
            "the backend packed is for CPUs, in float32 or bfloat16; use backend: torchscript"
        )
    return settings.backend, precision
