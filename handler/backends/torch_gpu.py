"""The backend for GPUs: the layers of ``generator.pt`` as torch's convolutions, in a CUDA graph.

TorchScript holds the settings of cuDNN that were in force when a file was traced, TF32 among
them, and ignores those of the process; so the layers are taken out of the file.

A small network spends more time on launching kernels than in them; a graph launches all of
them at once (NVIDIA, "CUDA C++ Programming Guide", section "CUDA Graphs"). A graph has a fixed
shape and fixed addresses: a batch is filled up and goes through buffers that stay where they
are, page-locked on the side of the host.

Sameness. Which kernel cuDNN takes depends on the size of the batch, and another kernel adds in
another order. So there is one size for all batches, cuDNN chooses by rule and not by a race
(``benchmark`` off), and takes no kernel whose sums depend on timing (``deterministic``). What a
kernel does for one image does not depend on the others of its batch, nor on its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handler.backends.base import Warned, to_pixels
from handler.backends.torchscript import Layers, grey_levels_off, layers_of, load_torchscript
from handler.hardware import is_lost, is_out_of_memory, processors
from handler.latents import Latents
from handler.pixels import Images
from handler.settings import Card, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

logger = logging.getLogger(__name__)

Run = Callable[[Latents], Images]

_PASS_IMAGES = 64
_WIDER = {
    "float16": ("float16", "bfloat16", "float32"),
    "bfloat16": ("bfloat16", "float32"),
    "float32": ("float32",),
}
# Grey levels in the mean that the pixels may be off. With the shipped weights and 64 seeds it is
# 0.03 in float16 and 0.19 in bfloat16 when a CPU computes so; what overflows is off by tens.
_MOST_OFF = {"float16": 0.5, "bfloat16": 2.0, "float32": 0.1}
_DRIVERS = {"12": 525, "13": 580}  # of each CUDA that torch's wheels may be made for, the oldest


class TorchGpuBackend:
    """The weights of ``generator.pt`` on a GPU, in passes of one size.

    Args:
        path: the TorchScript file, with BatchNorm folded.
        device: ``cuda:0``, say, after ``take_gpu``.
        precision: the one to try first; a wider one is taken where it does not do.

    Raises:
        RuntimeError: the file cannot be used, or the GPU cannot run it.
    """

    name = "torch_gpu"

    def __init__(
        self, path: Path, card: Card, settings: Settings, device: str, precision: str
    ) -> None:
        import torch

        # What the CPU computes at the start, for the comparison, is this worker's share too.
        torch.set_num_threads(settings.threads or processors())
        cudnn: Any = torch.backends.cudnn
        cudnn.conv.fp32_precision = "ieee"  # not TF32, which keeps 10 bits of the mantissa
        cudnn.benchmark, cudnn.deterministic = False, True
        self._torch = torch
        self.device, self.nz, self.image_shape = device, card.nz, card.image_shape
        self.warnings: dict[Warned, str] = {}
        # A size that the setting rules only where it must: so pictures do not depend on it.
        self._size = min(_PASS_IMAGES, settings.limits.max_batch_images)
        file = load_torchscript(path)
        layers = layers_of(file.named_parameters(), path.name)
        reasons = []
        for self.precision in _WIDER[precision]:
            if reason := self._try(layers, file):
                reasons.append(reason)
                continue
            if reasons:
                self.warnings["precision"] = f"{self.precision} is used: {'; '.join(reasons)}"
            return
        raise RuntimeError(
            f"{path.name} cannot be run on GPU {device}: "
            f"{'; '.join(reasons).replace('CUDA', 'GPU')}. Serve it on the CPU: number_of_gpu=0 in "
            "config.properties"
        )

    def __call__(self, latents: Latents) -> Images:
        return self._run(latents)

    def free_memory(self) -> None:
        self._torch.cuda.empty_cache()

    def _try(self, layers: Layers, file: Any) -> str:
        """Get ready in ``self.precision``; returns what speaks against it."""
        self.warnings.pop("graphs", None)
        self._network = ConvolutionNetwork(
            layers, getattr(self._torch, self.precision), self.device
        )
        try:
            self._run = self._captured()
            mean, most = grey_levels_off(self._run, file, self._size, self.nz)
        except RuntimeError as error:
            if is_lost(error):
                raise
            return f"{self.precision} does not run ({error})"
        allowed = _MOST_OFF[self.precision]
        words = f"{self.precision} is off by {mean:.3g} grey levels in the mean, {most} at most"
        logger.info("%s (allowed %g in the mean), on %s", words, allowed, self.device)
        return "" if mean <= allowed else f"{words} (allowed {allowed:g} in the mean)"

    def _captured(self) -> Run:
        """Passes from a CUDA graph; kernel by kernel, and a warning, where it cannot be made."""
        try:
            run = capture(self._network, self._size, self.nz, self.device)
        except RuntimeError as error:
            if is_lost(error):
                raise
            with suppress(RuntimeError):  # torch up to 2.12 takes it for still being recorded
                self.free_memory()
            self.warnings["graphs"] = f"no CUDA graph, the GPU runs kernel by kernel: {error}"
            return self._kernel_by_kernel
        return lambda latents: in_passes(run, self._size, latents)

    def _kernel_by_kernel(self, latents: Latents) -> Images:
        """In passes of the usual size; of half of it, and so on, where the memory is short."""
        size = self._size
        while True:
            try:
                return in_passes(self._forward, size, latents)
            except Exception as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                self.free_memory()
                size //= 2

    def _forward(self, latents: Latents) -> Images:
        with self._torch.inference_mode():
            noise = self._torch.from_numpy(latents).to(self.device)
            pixels: Images = self._network(noise).cpu().numpy()
        return pixels


class ConvolutionNetwork:
    """Latents to pixels by torch's own operators, on any device.

    Args:
        dtype: of weights and activations.
    """

    def __init__(self, layers: Layers, dtype: torch.dtype, device: str) -> None:
        import torch

        self._uniform, self._dtype, self._most = layers.uniform, dtype, torch.finfo(dtype).max
        self._layers = [
            (
                weight.to(device, dtype, memory_format=torch.channels_last),  # as tensor cores want
                bias.to(device, dtype),
            )
            for weight, bias in layers.convolutions
        ]

    def __call__(self, latents: Tensor) -> Tensor:
        """float32 (N, nz) -> uint8 (N, H, W, C), both on the device."""
        import torch
        from torch.nn import functional as F

        if self._uniform:
            latents = torch.erf(latents * 0.5**0.5)
        pictures = latents.to(self._dtype)[:, :, None, None]
        stride, padding = 1, 0
        for weight, bias in self._layers[:-1]:
            pictures = F.conv_transpose2d(pictures, weight, bias, stride, padding)
            # ReLU with an end: of an infinity the next layer could make NaN.
            pictures.clamp_(0, self._most)
            stride, padding = 2, 1
        weight, bias = self._layers[-1]
        pictures = F.conv_transpose2d(pictures, weight, bias, stride, padding)
        return to_pixels(pictures.float().tanh_())


def in_passes(run: Run, size: int, latents: Latents) -> Images:
    """The images of N >= 1 latents by passes of exactly ``size``, the last one filled up."""
    filled = np.zeros((-(-len(latents) // size) * size, latents.shape[1]), np.float32)
    filled[: len(latents)] = latents
    images = [run(part) for part in np.split(filled, len(filled) // size)]
    return (images[0] if len(images) == 1 else np.concatenate(images))[: len(latents)]


def capture(forward: Callable[[Tensor], Tensor], count: int, nz: int, device: str) -> Run:
    """Record ``forward`` on a GPU for batches of ``count``.

    Args:
        forward: float32 tensor (count, nz) -> uint8 tensor (count, H, W, C), both on the device.
        device: a CUDA device, the current one.

    Raises:
        RuntimeError: the pass cannot be recorded.
    """
    import torch

    with torch.inference_mode():
        noise_host = torch.zeros(count, nz, pin_memory=True)
        noise = noise_host.to(device)
        # The first passes choose kernels and allocate, which a graph must not hold.
        usual, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(usual)
        with torch.cuda.stream(side):
            for _ in range(3):
                forward(noise)
        usual.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                pixels = forward(noise)
        except RuntimeError:
            torch.cuda.set_stream(usual)  # a capture that fails at its end leaves its own
            torch.cuda.synchronize(device)  # raises if it is the GPU that is lost
            raise
        pixels_host = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)

    def run(latents: Latents) -> Images:
        with torch.inference_mode():
            noise_host.numpy()[:] = latents
            noise.copy_(noise_host, non_blocking=True)
            graph.replay()
            pixels_host.copy_(pixels, non_blocking=True)
            torch.cuda.current_stream(device).synchronize()
            return pixels_host.numpy().copy()

    return run


def take_gpu(gpu_id: int) -> str:
    """Make a GPU the one of this process, and run a kernel on it.

    A driver that is too old still lists its cards, and so does torch a card that it has no
    kernels for.

    Returns:
        why it cannot be used; empty when it can.
    """
    import torch

    try:
        torch.cuda.set_device(gpu_id)
        ones = torch.ones(1, 1, 4, 4, device=f"cuda:{gpu_id}")
        torch.nn.functional.conv_transpose2d(ones, ones).sum().item()
    # The second: a torch that is for CPUs only; the third: a card that does not say what it is.
    except (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError) as error:
        return _reason(error, gpu_id)
    return ""


def _reason(error: Exception, gpu_id: int) -> str:
    """What torch says of a GPU that it cannot use, and what it needs. (Not with the word CUDA,
    which TorchServe takes for a lack of memory.)"""
    import torch

    first = str(error).partition("\n")[0].replace("CUDA", "GPU")
    if is_out_of_memory(error):
        return f'its memory is taken, nvidia-smi says by what (torch says "{first}")'
    reason = f'torch says "{first}"'
    if "no kernel image" in first:
        major, minor = torch.cuda.get_device_capability(gpu_id)
        kernels = " ".join(torch.cuda.get_arch_list())
        reason = f"it is sm_{major}{minor}, and torch has kernels for {kernels} only"
    built_for = (torch.version.cuda or "").partition(".")[0]
    if oldest := _DRIVERS.get(built_for):
        return f"{reason} (torch {torch.__version__} needs NVIDIA's driver {oldest} or newer)"
    return f"{reason} (this is torch {torch.__version__})"
