"""Parity: the exported files against the eager network, for several batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from export.models import IMAGES, NOISE
from handler.backends.packed import PackedNetwork
from handler.backends.torchscript import layers_of, load_torchscript
from handler.latents import from_seeds
from handler.pixels import to_uint8
from training.networks import Generator

BATCHES = (1, 2, 5, 64)
MAX_ABSOLUTE_ERROR = 1e-4  # in [-1, 1]: 1/80 of a grey level; float32 rounding stays far below
MAX_GREY_LEVELS = 1

Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


class ParityError(RuntimeError):
    """An exported file does not compute what the network computes."""


@dataclass(frozen=True)
class Parity:
    """Largest differences of one artefact from eager, for one batch size."""

    artefact: str
    batch: int
    max_absolute_error: float
    max_grey_levels: int

    @property
    def passed(self) -> bool:
        return (
            self.max_absolute_error <= MAX_ABSOLUTE_ERROR
            and self.max_grey_levels <= MAX_GREY_LEVELS
        )


def verify(generator: Generator, torchscript: Path, onnx: Path) -> list[Parity]:
    """Compare both files with ``generator`` (eval mode, CPU) on seeded noise.

    Raises:
        ParityError: a difference is above the bound, or a picture depends on its neighbours.
    """
    runs = {
        "torchscript": _torch_run(load_torchscript(torchscript)),
        "onnx": _onnx_run(onnx),
    }
    eager = _torch_run(generator)
    noise = from_seeds(range(max(BATCHES)), generator.nz)
    expected = eager(noise)
    report = []
    for artefact, run in runs.items():
        for batch in BATCHES:
            found = run(noise[:batch])
            if found.shape != expected[:batch].shape:
                raise ParityError(
                    f"{artefact} turns a batch of {batch} into shape {found.shape}, "
                    f"not {expected[:batch].shape}"
                )
            levels = to_uint8(found).astype(int) - to_uint8(expected[:batch])
            parity = Parity(
                artefact,
                batch,
                float(np.abs(found - expected[:batch]).max()),
                int(np.abs(levels).max()),
            )
            if not parity.passed:
                raise ParityError(
                    f"{artefact}, batch {batch}: differs from eager by up to "
                    f"{parity.max_absolute_error:.2e} (allowed {MAX_ABSOLUTE_ERROR:.0e}) and "
                    f"{parity.max_grey_levels} grey levels (allowed {MAX_GREY_LEVELS})"
                )
            report.append(parity)
    return report


@dataclass(frozen=True)
class Quality:
    """The grey levels of another arithmetic on the CPU against those of eager float32.

    Args:
        precision: of weights and activations.
        network: what ran it: the backend ``packed``, or ``torchscript``.
        psnr_db: peak signal-to-noise ratio of the grey levels, dB; None when they are equal.
        max_grey_levels: largest difference.
    """

    precision: str
    network: str
    psnr_db: float | None
    max_grey_levels: int


def measure_quality(generator: Generator, torchscript: Path) -> list[Quality]:
    """Packed float32 and both short types, on the largest batch of ``verify``.

    The short types are figures to know, not bounds. Where oneDNN has bfloat16 it is the packed
    network's, which is what a CPU serves; else TorchScript's.

    Raises:
        ParityError: the packed network is farther off in float32 than rounding is.
    """
    noise = from_seeds(range(max(BATCHES)), generator.nz)
    expected = to_uint8(_torch_run(generator)(noise)).astype(np.float64)

    def quality(precision: str, network: str) -> Quality:
        dtype = getattr(torch, precision)
        script = load_torchscript(torchscript)
        if network == "packed":
            layers = layers_of(script.named_parameters(), torchscript.name)
            with torch.inference_mode():
                found = PackedNetwork(layers, dtype)(torch.from_numpy(noise))
        else:
            found = to_uint8(_torch_run(script, dtype)(noise))
        error = found - expected
        mse = float(np.square(error).mean())
        psnr_db = round(10 * float(np.log10(255**2 / mse)), 1) if mse else None
        return Quality(precision, network, psnr_db, int(np.abs(error).max()))

    onednn = torch.backends.mkldnn.is_available()
    report = [quality("float32", "packed")] if onednn else []
    if report and report[0].max_grey_levels > MAX_GREY_LEVELS:
        raise ParityError(
            f"the packed network differs from eager by {report[0].max_grey_levels} grey levels "
            f"(allowed {MAX_GREY_LEVELS})"
        )
    serves_bfloat16 = onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    report.append(quality("bfloat16", "packed" if serves_bfloat16 else "torchscript"))
    return [*report, quality("float16", "torchscript")]


def as_json(report: list[Parity], quality: list[Quality]) -> dict[str, Any]:
    """The parity report, with its bounds."""
    return {
        "other_arithmetic": [asdict(entry) for entry in quality],
        "reference": "eager, float32, CPU",
        "allowed": {
            "max_absolute_error": MAX_ABSOLUTE_ERROR,
            "max_grey_levels": MAX_GREY_LEVELS,
        },
        "measured": [asdict(parity) for parity in report],
    }


def _torch_run(module: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Run:
    module = module.to(dtype)

    def run(noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            images: npt.NDArray[np.float32] = (
                module(torch.from_numpy(noise).to(dtype)).float().numpy()
            )
        return images

    return run


def _onnx_run(path: Path) -> Run:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        images: npt.NDArray[np.float32] = session.run([IMAGES], {NOISE: noise})[0]
        return images

    return run
