"""The network, as TorchScript or in ONNX Runtime: latents in, pixels out.

Sameness on the CPU. Measured with torch 2.14 in float32 for batches of 1 to 64 images: with
one thread an image has the same bits alone, in any batch and at any place in it. With more
threads it has not (a generator of ngf 16 differs by 1e-9 in batches of 3 with 2 threads; with
3, 8 or 16 threads one of ngf 64 does too, even in batches of 16), because oneDNN divides the
work by both, and padding to a fixed set of sizes does not mend that. So a forward pass has
one thread here, and the processors are used by cutting the batch into slices that run side by
side. ONNX Runtime showed no difference with 1 or 2 threads and is run the same way. On a GPU
a batch is one pass, and an image is the same to within one grey level.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from handler.card import Card
from handler.images import Images, to_uint8
from handler.limits import Settings, processors

if TYPE_CHECKING:
    from torch import Tensor

Latents = npt.NDArray[np.float32]  # (N, nz)


class Backend(Protocol):
    """What runs the network: (N, nz) float32 -> (N, H, W, C) uint8, N >= 1."""

    name: str
    device: str
    precision: str
    fallback: bool  # a GPU was meant, and the CPU is used
    nz: int
    image_shape: tuple[int, int, int]  # (H, W, C), px

    def __call__(self, latents: Latents) -> Images: ...

    def free_memory(self) -> None:
        """Give cached memory of the device back, after it ran out."""


class TorchScriptBackend:
    """``generator.pt``: noise float32 (N, nz) -> float32 (N, C, H, W) in [-1, 1].

    Args:
        path: the TorchScript file.
        card: what the file holds.
        settings: threads, and whether a GPU may be missing.
        gpu_id: index of the GPU; None for the CPU.

    Raises:
        RuntimeError: the file cannot be loaded, or the GPU cannot be used.
    """

    name = "torchscript"

    def __init__(self, path: Path, card: Card, settings: Settings, gpu_id: int | None) -> None:
        import torch

        self._torch = torch
        self.nz, self.image_shape = card.nz, card.image_shape
        self.fallback = gpu_id is not None and not torch.cuda.is_available()
        if gpu_id is not None and self.fallback:
            _need_fallback(settings, gpu_id, "torch finds no GPU")
            gpu_id = None
        self.device = "cpu" if gpu_id is None else f"cuda:{gpu_id}"
        if gpu_id is not None:
            torch.cuda.set_device(gpu_id)
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        _need_file(path)
        try:
            network = torch.jit.load(str(path), map_location=self.device).eval()
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(f"{path.name} is not a TorchScript file: {error}") from error
        self.precision: str = settings.precision
        self._dtype = getattr(torch, settings.precision)
        self._network = network.to(self._dtype)
        # A thread takes its number of OpenMP threads from the first torch call it makes.
        self._slices = _Slices(settings.threads, lambda: torch.set_num_threads(1))

    def __call__(self, latents: Latents) -> Images:
        if self.device == "cpu":
            return self._slices.run(self._forward, latents)
        return self._forward(latents)

    def free_memory(self) -> None:
        if self.device != "cpu":
            self._torch.cuda.empty_cache()

    def _forward(self, latents: Latents) -> Images:
        with self._torch.inference_mode():
            noise = self._torch.from_numpy(latents).to(self.device, self._dtype)
            pixels: Images = to_pixels(self._network(noise)).cpu().numpy()
        return pixels


class OnnxBackend:
    """``generator.onnx``: the same network, run by ONNX Runtime.

    Args, raises: as ``TorchScriptBackend``.
    """

    name = "onnx"
    precision = "float32"

    def __init__(self, path: Path, card: Card, settings: Settings, gpu_id: int | None) -> None:
        import onnxruntime

        self.nz, self.image_shape = card.nz, card.image_shape
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        providers: list[Any] = ["CPUExecutionProvider"]
        if gpu_id is not None:
            onnxruntime.preload_dlls()
            # Full float32, as on the CPU: TF32 keeps 10 bits of the mantissa.
            choice = {"device_id": gpu_id, "use_tf32": 0}
            providers.insert(0, ("CUDAExecutionProvider", choice))
        _need_file(path)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # its exceptions share no base class
            raise RuntimeError(f"{path.name} is not a usable ONNX file: {error}") from error
        self._input = self._session.get_inputs()[0].name
        # A provider that fails to load is only a warning to ONNX Runtime.
        on_gpu = self._session.get_providers()[0] == "CUDAExecutionProvider"
        self.fallback = gpu_id is not None and not on_gpu
        if gpu_id is not None and not on_gpu:
            _need_fallback(settings, gpu_id, "ONNX Runtime cannot use the GPU")
        self.device = f"cuda:{gpu_id}" if on_gpu else "cpu"
        self._slices = _Slices(settings.threads)

    def __call__(self, latents: Latents) -> Images:
        if self.device == "cpu":
            return self._slices.run(self._forward, latents)
        return self._forward(latents)

    def free_memory(self) -> None:
        """Nothing to give back: ONNX Runtime's arena shrinks with the session only."""

    def _forward(self, latents: Latents) -> Images:
        return to_uint8(self._session.run(None, {self._input: latents})[0])


def open_backend(model_dir: Path, card: Card, settings: Settings, gpu_id: int | None) -> Backend:
    """Load the backend that the settings name, and warm it up.

    The first passes of each batch size are slow (tracing, choice of kernels), so they are
    made here rather than on a client's time.

    Raises:
        RuntimeError: the model cannot be loaded or does not give what the card says. (Of
            all exceptions TorchServe reports only this one and MemoryError, and takes any
            text with "CUDA" in it for a lack of memory: our own texts say GPU.)
    """
    backend: Backend
    short = settings.precision != "float32"
    if settings.backend == "onnx" and short:
        raise RuntimeError(
            f"precision {settings.precision} is not for the backend onnx, whose file is float32; "
            "use backend: torchscript"
        )
    on_gpu = gpu_id is not None
    if settings.backend == "torchscript" or (settings.backend == "auto" and (on_gpu or short)):
        backend = TorchScriptBackend(model_dir / "generator.pt", card, settings, gpu_id)
    else:
        backend = OnnxBackend(model_dir / "generator.onnx", card, settings, gpu_id)
    for count in (1, 2, settings.limits.max_batch_images):
        for _ in range(2):
            shape = backend(np.zeros((count, card.nz), np.float32)).shape
        if shape != (count, *card.image_shape):
            raise RuntimeError(
                f"the model gives images of shape {shape[1:]}, its card says {card.image_shape}; "
                "pack the card of this model"
            )
    return backend


def to_pixels(pictures: Tensor) -> Tensor:
    """``handler.images.to_uint8`` on the tensor's own device, so that one byte a pixel moves.

    Args:
        pictures: float (N, C, H, W), nominally in [-1, 1].

    Returns:
        uint8 (N, H, W, C), contiguous.
    """
    levels = pictures.float().mul(127.5).add(127.5).round().clamp(0, 255)
    return levels.byte().permute(0, 2, 3, 1).contiguous()


class _Slices:
    """Cuts a batch for the processors; each slice is one single-threaded forward pass."""

    def __init__(self, threads: int, initializer: Callable[[], None] | None = None) -> None:
        self._count = threads or processors()
        self._pool = ThreadPoolExecutor(self._count, "forward", initializer=initializer)

    def run(self, forward: Callable[[Latents], Images], latents: Latents) -> Images:
        parts = np.array_split(latents, min(self._count, len(latents)))
        return np.concatenate(list(self._pool.map(forward, parts)))


def _need_file(path: Path) -> None:
    if not path.is_file():
        raise RuntimeError(f"the archive has no {path.name}; pack it or choose the other backend")


def _need_fallback(settings: Settings, gpu_id: int, reason: str) -> None:
    if not settings.allow_cpu_fallback:
        raise RuntimeError(
            f"this worker was given GPU {gpu_id}, but {reason}; mend the driver, or set "
            "allow_cpu_fallback: true in model-config.yaml"
        )
