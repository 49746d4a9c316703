"""``generator.pt``: how it is read, and the backend that runs it as it is, on a CPU.

TorchScript is deprecated. What needs it here: the file itself, of which the backends ``packed``
and ``torch_gpu`` take the layers; and the CPU where ONNX Runtime and oneDNN cannot do what was
asked for (float16, bfloat16 without a unit for it, a network that is more than those layers).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from handler.backends.base import CpuBackend, need_file, to_pixels
from handler.latents import Latents, from_seeds
from handler.pixels import Images
from handler.settings import Card, Settings

if TYPE_CHECKING:
    from torch import Tensor


class TorchScriptBackend(CpuBackend):
    """``generator.pt``: noise (N, nz) -> (N, C, H, W) in [-1, 1].

    Args:
        precision: float32, bfloat16 or float16.

    Raises:
        RuntimeError: the file cannot be loaded.
    """

    name = "torchscript"

    def __init__(self, path: Path, card: Card, settings: Settings, precision: str) -> None:
        import torch

        # A thread takes its number of OpenMP threads from the first torch call it makes.
        super().__init__(card, settings, precision, lambda: torch.set_num_threads(1))
        self._torch = torch
        self._dtype = getattr(torch, precision)
        self._network = load_torchscript(path).to(self._dtype)

    def _forward(self, latents: Latents) -> Images:
        with self._torch.inference_mode():
            noise = self._torch.from_numpy(latents).to(self._dtype)
            pixels: Images = to_pixels(self._network(noise)).numpy()
        return pixels


def load_torchscript(path: Path) -> Any:
    """A ``torch.jit.ScriptModule`` in eval mode on the CPU.

    Raises:
        RuntimeError: the file is missing or is not a TorchScript file.
    """
    import torch

    need_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated: known
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(f"{path.name} is not a TorchScript file: {error}") from error


@dataclass(frozen=True)
class Layers:
    """A Generator with BatchNorm folded.

    Args:
        uniform: it makes U(-1, 1) of the latents first (``training.networks.UniformLatents``).
        convolutions: (weight, bias) of each transposed convolution, the projection first; weights
            float32 (C_in, C_out, 4, 4).
    """

    uniform: bool
    convolutions: Sequence[tuple[Tensor, Tensor]]


def layers_of(parameters: Iterable[tuple[str, Tensor]], file: str) -> Layers:
    """The layers by their numbers; a zero bias where there is none.

    Of a network that starts with a layer without parameters, that layer is the uniform law.

    Args:
        parameters: (name, tensor) pairs of a Generator with BatchNorm folded.
        file: its name, for errors.

    Raises:
        RuntimeError: there is something else among them.
    """
    import torch

    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in parameters:
        *_, number, kind = key.split(".")
        found.setdefault(int(number), {})[kind] = tensor.detach()
    layers = []
    for _, tensors in sorted(found.items()):
        weight, bias = tensors.get("weight"), tensors.get("bias")
        if weight is None or weight.shape[2:] != (4, 4):
            raise RuntimeError(f"{file} has layers that are no 4x4 convolutions; export it anew")
        layers.append((weight, torch.zeros(weight.shape[1]) if bias is None else bias))
    return Layers(0 not in found, layers)


def grey_levels_off(
    run: Callable[[Latents], Images], network: Any, count: int, nz: int
) -> tuple[float, int]:
    """How far pixels are from those that the file itself gives in float32 on the CPU.

    Args:
        run: float32 (N, nz) -> uint8 (N, H, W, C), of the same weights.
        network: of ``load_torchscript``.
        count: images that are compared.

    Returns:
        grey levels: in the mean, and at most.

    Raises:
        RuntimeError: the pictures have another size: the file is more than its layers.
    """
    import torch

    latents = from_seeds(range(count), nz)
    with torch.inference_mode():
        wanted = to_pixels(network(torch.from_numpy(latents))).numpy()
    found = run(latents)
    if found.shape != wanted.shape:
        raise RuntimeError(
            f"the layers of the file give images of shape {found.shape[1:]}, the file itself "
            f"{wanted.shape[1:]}; use backend: torchscript, on a CPU"
        )
    off = np.abs(found.astype(np.int16) - wanted)
    return float(off.mean()), int(off.max())
