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

from export.onnx import IMAGES, NOISE
from handler.images import to_uint8
from handler.latents import from_seeds
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
    runs = {"torchscript": _torchscript_run(torchscript), "onnx": _onnx_run(onnx)}
    eager = _eager_run(generator)
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
    """What a short float type costs, TorchScript on the CPU against eager float32.

    Args:
        psnr_db: peak signal-to-noise ratio of the grey levels, dB; None when they are equal.
        max_grey_levels: largest difference.
    """

    precision: str
    psnr_db: float | None
    max_grey_levels: int


def measure_quality(generator: Generator, torchscript: Path) -> list[Quality]:
    """Both short types on the largest batch of ``verify``; figures to know, not bounds."""
    noise = from_seeds(range(max(BATCHES)), generator.nz)
    expected = to_uint8(_eager_run(generator)(noise)).astype(np.float64)
    report = []
    for precision in ("bfloat16", "float16"):
        found = to_uint8(_torchscript_run(torchscript, getattr(torch, precision))(noise))
        error = found - expected
        mse = float(np.square(error).mean())
        psnr_db = round(10 * float(np.log10(255**2 / mse)), 1) if mse else None
        report.append(Quality(precision, psnr_db, int(np.abs(error).max())))
    return report


def as_json(report: list[Parity], quality: list[Quality]) -> dict[str, Any]:
    """The parity report, with its bounds."""
    return {
        "short_precision": [asdict(entry) for entry in quality],
        "reference": "eager, float32, CPU",
        "allowed": {
            "max_absolute_error": MAX_ABSOLUTE_ERROR,
            "max_grey_levels": MAX_GREY_LEVELS,
        },
        "measured": [asdict(parity) for parity in report],
    }


def _eager_run(generator: Generator) -> Run:
    def run(noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            images: npt.NDArray[np.float32] = generator(torch.from_numpy(noise)).numpy()
        return images

    return run


def _torchscript_run(path: Path, dtype: torch.dtype = torch.float32) -> Run:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(path, map_location="cpu").eval().to(dtype)

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
