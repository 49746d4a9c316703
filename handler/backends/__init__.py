"""The network: latents in, pixels out. Three ways to run it, one rule to choose.

Sameness on the CPU. Measured with torch 2.14 in float32 for batches of 1 to 64 images: with
one thread an image has the same bits alone, in any batch and at any place in it. With more
threads it has not (a generator of ngf 16 differs by 1e-9 in batches of 3 with 2 threads; with
3, 8 or 16 threads one of ngf 64 does too, even in batches of 16), because oneDNN divides the
work by both, and padding to a fixed set of sizes does not mend that. So a forward pass has
one thread here, and the processors are used by cutting the batch into slices that run side by
side. ONNX Runtime showed no difference with 1 or 2 threads and is run the same way. On a GPU
a batch is one pass, and an image is the same to within one grey level in float32.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from handler.backends.base import Backend
from handler.backends.choice import Name, Precision, choose, probe
from handler.backends.onnx import OnnxBackend
from handler.backends.packed import PackedBackend
from handler.backends.torchscript import TorchScriptBackend
from handler.settings import Card, Settings

__all__ = ["Backend", "open_backend"]

logger = logging.getLogger(__name__)


def open_backend(model_dir: Path, card: Card, settings: Settings, gpu_id: int | None) -> Backend:
    """Load the backend that settings and hardware call for, and warm it up.

    The first passes of each batch size are slow (tracing, choice of kernels), so they are
    made here rather than on a client's time.

    Raises:
        RuntimeError: the model cannot be loaded or does not give what the card says. (Of
            all exceptions TorchServe reports only this one and MemoryError, and takes any
            text with "CUDA" in it for a lack of memory: our own texts say GPU.)
    """
    name, precision = choose(settings, probe(gpu_id))
    try:
        return _warm(_load(name, precision, model_dir, card, settings, gpu_id), card, settings)
    except (RuntimeError, AttributeError) as error:  # the second: a torch without the operators
        if name != "packed" or settings.backend != "auto":
            raise
        other: tuple[Name, Precision] = (
            ("onnx", "float32") if settings.precision == "auto" else ("torchscript", precision)
        )
        logger.warning("the packed network cannot run here, %s %s takes over: %s", *other, error)
    return _warm(_load(*other, model_dir, card, settings, gpu_id), card, settings)


def _load(
    name: Name, precision: Precision, model_dir: Path, card: Card, settings: Settings,
    gpu_id: int | None,
) -> Backend:  # fmt: skip
    if name == "packed":
        return PackedBackend(model_dir / "generator.pt", card, settings, gpu_id, precision)
    if name == "torchscript":
        return TorchScriptBackend(model_dir / "generator.pt", card, settings, gpu_id, precision)
    return OnnxBackend(model_dir / "generator.onnx", card, settings, gpu_id)


def _warm(backend: Backend, card: Card, settings: Settings) -> Backend:
    for count in (1, 2, settings.limits.max_batch_images):
        for _ in range(2):
            shape = backend(np.zeros((count, card.nz), np.float32)).shape
        if shape != (count, *card.image_shape):
            raise RuntimeError(
                f"the model gives images of shape {shape[1:]}, its card says {card.image_shape}; "
                "pack the card of this model"
            )
    return backend
