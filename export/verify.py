"""Parity: the exported files against the eager network, for several batch sizes."""

from __future__ import annotations

from collections.abc import Callable
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


def verify(generator: Generator, torchscript: Path, onnx: Path) -> dict[str, Any]:
    """Compare both files with ``generator`` (eval mode, CPU) on seeded noise.

    Returns:
        The parity report, JSON values: the largest differences of each file from eager for each
        batch size, and what ``_quality`` tells of other arithmetic.

    Raises:
        ParityError: a difference is above the bound, or a picture depends on its neighbours.
    """
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    runs: dict[str, Run] = {
        "torchscript": _torch_run(load_torchscript(torchscript)),
        "onnx": lambda noise: session.run([IMAGES], {NOISE: noise})[0],
    }
    noise = from_seeds(range(max(BATCHES)), generator.nz)
    expected = _torch_run(generator)(noise)
    measured = []
    for artefact, run in runs.items():
        for batch in BATCHES:
            found = run(noise[:batch])
            if found.shape != expected[:batch].shape:
                raise ParityError(
                    f"{artefact} turns a batch of {batch} into shape {found.shape}, "
                    f"not {expected[:batch].shape}"
                )
            error = float(np.abs(found - expected[:batch]).max())
            off = np.abs(to_uint8(found).astype(int) - to_uint8(expected[:batch]))
            grey_levels = int(off.max())
            if not (error <= MAX_ABSOLUTE_ERROR and grey_levels <= MAX_GREY_LEVELS):  # NaN too
                raise ParityError(
                    f"{artefact}, batch {batch}: differs from eager by up to "
                    f"{error:.2e} (allowed {MAX_ABSOLUTE_ERROR:.0e}) and "
                    f"{grey_levels} grey levels (allowed {MAX_GREY_LEVELS})"
                )
            largest = {"max_absolute_error": error, "max_grey_levels": grey_levels}
            measured.append({"artefact": artefact, "batch": batch, **largest})
    return {
        "other_arithmetic": _quality(torchscript, noise, to_uint8(expected)),
        "reference": "eager, float32, CPU",
        "allowed": {"max_absolute_error": MAX_ABSOLUTE_ERROR, "max_grey_levels": MAX_GREY_LEVELS},
        "measured": measured,
    }


def _quality(
    torchscript: Path, noise: npt.NDArray[np.float32], expected: npt.NDArray[np.uint8]
) -> list[dict[str, Any]]:
    """Packed float32 and both short types on the CPU, against the grey levels of eager float32.

    The short types are figures to know, not bounds. Where oneDNN has bfloat16 it is the packed
    network's, which is what a CPU serves; else TorchScript's.

    Args:
        expected: uint8 (N, H, W, C), of the noise.

    Returns:
        Of each: ``precision`` of weights and activations; ``network``, what ran it; ``psnr_db``,
        peak signal-to-noise ratio of the grey levels, dB, None when they are equal; and
        ``max_grey_levels``, the largest difference.

    Raises:
        ParityError: the packed network is farther off in float32 than rounding is.
    """

    def quality(precision: str, network: str) -> dict[str, Any]:
        dtype = getattr(torch, precision)
        script = load_torchscript(torchscript)
        if network == "packed":
            layers = layers_of(script.named_parameters(), torchscript.name)
            with torch.inference_mode():
                found = PackedNetwork(layers, dtype)(torch.from_numpy(noise))
        else:
            found = to_uint8(_torch_run(script, dtype)(noise))
        error = found - expected.astype(np.float64)
        mse = float(np.square(error).mean())
        psnr_db = round(10 * float(np.log10(255**2 / mse)), 1) if mse else None
        facts = {"precision": precision, "network": network, "psnr_db": psnr_db}
        return facts | {"max_grey_levels": int(np.abs(error).max())}

    onednn = torch.backends.mkldnn.is_available()
    report = [quality("float32", "packed")] if onednn else []
    if report and report[0]["max_grey_levels"] > MAX_GREY_LEVELS:
        raise ParityError(
            f"the packed network differs from eager by {report[0]['max_grey_levels']} grey levels "
            f"(allowed {MAX_GREY_LEVELS})"
        )
    serves_bfloat16 = onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    report.append(quality("bfloat16", "packed" if serves_bfloat16 else "torchscript"))
    return [*report, quality("float16", "torchscript")]


def _torch_run(module: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Run:
    module = module.to(dtype)

    def run(noise: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            images: npt.NDArray[np.float32] = (
                module(torch.from_numpy(noise).to(dtype)).float().numpy()
            )
        return images

    return run
