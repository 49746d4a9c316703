"""Which backend and which arithmetic, from the settings and the hardware; opened and warm."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from handler.backends.base import Backend
from handler.backends.onnx import OnnxBackend
from handler.backends.packed import PackedBackend
from handler.backends.torch_gpu import TorchGpuBackend, take_gpu
from handler.backends.torchscript import TorchScriptBackend
from handler.hardware import cpu_has_bfloat16
from handler.settings import BackendName, Card, Precision, Settings

logger = logging.getLogger(__name__)


def open_backend(model_dir: Path, card: Card, settings: Settings, gpu_id: int | None) -> Backend:
    """Load the backend that settings and hardware call for, and warm it up.

    The first passes of each batch size are slow (tracing, choice of kernels), so they are
    made here rather than on a client's time.

    Raises:
        RuntimeError: the model cannot be loaded or does not give what the card says, or a GPU
            cannot be used and the CPU is not allowed in its place. (Of all exceptions TorchServe
            reports only this one and MemoryError, and takes any text with "CUDA" in it for a
            lack of memory: our own texts say GPU.)
    """
    reason = ""
    if gpu_id is None and settings.backend == "torch_gpu":
        reason = "TorchServe has given this worker no GPU, which backend: torch_gpu needs"
    elif gpu_id is not None and (cannot := take_gpu(gpu_id)):
        reason = f"this worker was given GPU {gpu_id}, but {cannot}"
    if reason:
        if not settings.allow_cpu_fallback:
            raise RuntimeError(
                f"{reason}; mend that, or serve on the CPU: number_of_gpu=0 in "
                "config.properties, or allow_cpu_fallback: true in model-config.yaml"
            )
        gpu_id = None
        if settings.backend == "torch_gpu":
            settings = settings.model_copy(update={"backend": "auto"})
    backend = _open(model_dir, card, settings, gpu_id)
    if reason:
        backend.warnings["fallback"] = reason
    for kind, sentence in backend.warnings.items():
        logger.warning("%s: %s", kind, sentence)
    return backend


def _open(model_dir: Path, card: Card, settings: Settings, gpu_id: int | None) -> Backend:
    def opened(name: BackendName, precision: Precision) -> Backend:
        file = model_dir / "generator.pt"
        backend: Backend
        match name:
            case "torch_gpu":
                backend = TorchGpuBackend(file, card, settings, f"cuda:{gpu_id}", precision)
            case "packed":
                backend = PackedBackend(file, card, settings, precision)
            case "torchscript":
                backend = TorchScriptBackend(file, card, settings, precision)
            case "onnx":
                backend = OnnxBackend(model_dir / "generator.onnx", card, settings)
        for count in (1, 2, settings.limits.max_batch_images):
            for _ in range(2):
                shape = backend(np.zeros((count, card.nz), np.float32)).shape
            if shape != (count, *card.image_shape):
                raise RuntimeError(
                    f"the model gives images of shape {shape[1:]}, its card says "
                    f"{card.image_shape}; pack the card of this model"
                )
        return backend

    name, precision = choose(settings, gpu_id is not None, has_short_floats(gpu_id))
    try:
        return opened(name, precision)
    except (RuntimeError, AttributeError) as error:  # the second: a torch without the operators
        if name != "packed" or settings.backend != "auto":
            raise
        other: tuple[BackendName, Precision] = (
            ("onnx", "float32") if settings.precision == "auto" else ("torchscript", precision)
        )
        logger.warning("the packed network cannot run here, %s %s takes over: %s", *other, error)
    return opened(*other)


def has_short_floats(gpu_id: int | None) -> bool:
    """Whether there are units for them: on a GPU tensor cores, for float16; on a CPU AMX or
    AVX512-BF16, for bfloat16.

    Args:
        gpu_id: of a GPU that can be used; None without.
    """
    import torch

    if gpu_id is None:
        return cpu_has_bfloat16()
    return torch.cuda.get_device_capability(gpu_id) >= (7, 0)


def choose(settings: Settings, gpu: bool, short_floats: bool) -> tuple[BackendName, Precision]:
    """What to run.

    ``auto``: on a GPU torch's convolutions, in float16 where it has tensor cores; by measurement,
    on a CPU with a unit for bfloat16 the packed network in bfloat16, on any other ONNX Runtime in
    float32.

    Args:
        gpu: run on a GPU, not on a CPU.
        short_floats: as ``has_short_floats`` tells.

    Raises:
        RuntimeError: the settings ask for a pair that does not exist.
    """
    precision: Precision
    if settings.precision != "auto":
        precision = settings.precision
    elif settings.backend == "onnx" or not short_floats:
        precision = "float32"
    else:
        precision = "float16" if gpu else "bfloat16"

    if gpu and settings.backend not in ("auto", "torch_gpu"):
        raise RuntimeError(
            f"the backend {settings.backend} is for CPUs, and this worker was given a GPU; use "
            "backend: auto, or number_of_gpu=0 in config.properties to serve on the CPU"
        )
    if settings.backend == "auto":
        if gpu:
            return "torch_gpu", precision
        if precision == "float32":
            return "onnx", precision
        packed = precision == "bfloat16" and short_floats
        return ("packed" if packed else "torchscript"), precision
    takes = {"onnx": ("float32",), "packed": ("float32", "bfloat16")}.get(settings.backend)
    if takes and precision not in takes:
        raise RuntimeError(
            f"the backend {settings.backend} is for {' or '.join(takes)}, not for {precision}; use "
            "backend: torchscript"
        )
    return settings.backend, precision
