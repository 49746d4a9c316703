"""The network straight on oneDNN's convolutions, with weights that are laid out once.

Eager and TorchScript give their weights to oneDNN in torch's layout, and each pass orders them
anew for the kernel; here that is done at load. Two more things make it fast where a processor
has matrix units: ReLU is part of the convolution, and a stride-2 transposed convolution runs as
an ordinary one, for which the kernels are better (``as_convolution``).

The operators are those that torch.compile generates for a CPU. They have no documentation of
their own, so ``handler.backends`` tries the backend once and takes ONNX Runtime when it fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.backends.base import Latents, Slices, need_fallback, to_pixels
from handler.backends.torchscript import load_torchscript
from handler.card import Card
from handler.images import Images
from handler.latents import from_seeds
from handler.limits import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from torch import Tensor

_LEAST_ROWS = 4  # matrix products of fewer rows use other kernels, which round otherwise
_FIRST_PX = 4  # height and width after the projection of the latent
_MOST_GREY_LEVELS = 2.0  # in the mean; bfloat16 stays below a half


class PackedBackend:
    """The weights of ``generator.pt``, run by oneDNN on a CPU.

    Args:
        path: the TorchScript file, with BatchNorm folded.
        card: what the file holds.
        settings: threads, largest batch, and whether a GPU may be missing.
        gpu_id: of a GPU that torch cannot see; None when none was meant.
        precision: float32, or bfloat16 where the processor has it.

    Raises:
        RuntimeError: the file cannot be used, or oneDNN cannot run it on this processor.
    """

    name = "packed"
    device = "cpu"

    def __init__(
        self, path: Path, card: Card, settings: Settings, gpu_id: int | None, precision: str
    ) -> None:
        import torch

        self._torch = torch
        self.fallback = gpu_id is not None
        if gpu_id is not None:
            need_fallback(settings, gpu_id, "torch finds no GPU")
        self.nz, self.image_shape, self.precision = card.nz, card.image_shape, precision
        if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise RuntimeError(
                "oneDNN has no bfloat16 on this processor; use precision: float32 (or auto)"
            )
        self._slices = Slices(settings.threads, lambda: torch.set_num_threads(1))
        network = load_torchscript(path, "cpu")
        layers = layers_of(network.named_parameters(), path.name)
        images = -(-settings.limits.max_batch_images // self._slices.count)
        self._network = PackedNetwork(layers, getattr(torch, precision), images)
        self._compare(network, path.name)

    def __call__(self, latents: Latents) -> Images:
        return self._slices.run(self._forward, latents)

    def free_memory(self) -> None:
        """Nothing to give back: memory of a CPU is not cached."""

    def _compare(self, network: Any, file: str) -> None:
        """Refuse a file that is more than the layers which were taken from it."""
        latents = self._torch.from_numpy(from_seeds(range(4), self.nz))
        with self._torch.inference_mode():
            wanted, found = to_pixels(network(latents)), self._network(latents)
        if found.shape != wanted.shape:
            return  # the warm-up says what is wrong
        difference = (found.float() - wanted.float()).abs().mean().item()
        if difference > _MOST_GREY_LEVELS:
            raise RuntimeError(
                f"the packed network differs from {file} by {difference:.1f} grey levels in the "
                f"mean (allowed {_MOST_GREY_LEVELS:g}); use backend: torchscript"
            )

    def _forward(self, latents: Latents) -> Images:
        with self._torch.inference_mode():
            pixels: Images = self._network(self._torch.from_numpy(latents)).numpy()
        return pixels


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


class PackedNetwork:
    """Latents to pixels.

    Args:
        layers: of the network.
        dtype: of weights and activations.
        images: batch size for which the layouts are chosen; any other works too.
    """

    def __init__(self, layers: Layers, dtype: torch.dtype, images: int) -> None:
        import torch

        self._ops, self._dtype, self._uniform = torch.ops.mkldnn, dtype, layers.uniform
        (projection, bias), *rest = layers.convolutions
        # (C_in, C_out, 4, 4) -> rows in the order of an NHWC picture.
        rows = projection.permute(2, 3, 1, 0).reshape(-1, projection.shape[0])
        self._projection = rows.contiguous().to(dtype), bias.repeat(_FIRST_PX**2).to(dtype)
        self._packed = []
        side = _FIRST_PX
        for weight, bias in rest:
            convolution = as_convolution(weight).to(dtype)
            self._packed.append((
                self._ops._reorder_convolution_weight(
                    convolution.contiguous(memory_format=torch.channels_last),
                    [1, 1], [1, 1], [1, 1], 1, [images, weight.shape[0], side, side],
                ),
                bias.repeat(4).to(dtype),
            ))  # fmt: skip
            side *= 2

    def __call__(self, latents: Tensor) -> Tensor:
        """(N, nz) float32 -> uint8 (N, H, W, C)."""
        import torch
        from torch.nn import functional as F

        count = len(latents)
        if self._uniform:
            latents = torch.erf(latents * 0.5**0.5)
        missing = max(0, _LEAST_ROWS - count)
        rows = F.pad(latents, (0, 0, 0, missing)).to(self._dtype)
        first = F.linear(rows, *self._projection)[:count].relu_()
        pictures = first.view(count, _FIRST_PX, _FIRST_PX, -1).permute(0, 3, 1, 2)
        for weight, bias in self._packed[:-1]:
            pictures = interleave(self._convolve(pictures, weight, bias, "relu"))
        # Pixels before the interleaving: a fourth of the bytes to move.
        last = self._convolve(pictures, *self._packed[-1], "none").float().tanh_()
        levels = last.mul_(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        return interleave(levels).permute(0, 2, 3, 1).contiguous()

    def _convolve(self, pictures: Tensor, weight: Tensor, bias: Tensor, activation: str) -> Tensor:
        convolved: Tensor = self._ops._convolution_pointwise(
            pictures, weight, bias, [1, 1], [1, 1], [1, 1], 1, activation, [], ""
        )
        return convolved


def as_convolution(weight: Tensor) -> Tensor:
    """The weights of an ordinary convolution that gives a transposed one's four phases.

    With kernel 4, stride 2 and padding 1, output row 2i + a has two taps: input row
    i + a - 1 + t through kernel row 3 - a - 2t, for t = 0, 1. So each of the four phases (a, b)
    is a 2x2 convolution, and one convolution with padding 1 and four times the channels gives
    them all (W. Shi et al., "Is the deconvolution layer the same as a convolutional layer?",
    arXiv:1609.07009). Phase (a, b) of row i and column j stands at (i + a, j + b).

    Args:
        weight: of the transposed convolution, (C_in, C_out, 4, 4).

    Returns:
        (4 * C_out, C_in, 2, 2), phases first.
    """
    channels_in, channels_out = weight.shape[:2]
    phases = weight.new_empty(2, 2, channels_out, channels_in, 2, 2)
    for a in (0, 1):
        for b in (0, 1):
            # Rows 3 - a and 1 - a, columns 3 - b and 1 - b of the kernel.
            taps = weight[:, :, [3 - a, 1 - a]][..., [3 - b, 1 - b]]
            phases[a, b] = taps.transpose(0, 1)
    return phases.reshape(4 * channels_out, channels_in, 2, 2)


def interleave(phases: Tensor) -> Tensor:
    """Put the four phases of ``as_convolution`` in their places.

    Args:
        phases: (N, 4 * C, H + 1, W + 1).

    Returns:
        (N, C, 2 * H, 2 * W), channels last in memory.
    """
    count, channels, height, width = phases.shape
    channels, height, width = channels // 4, height - 1, width - 1
    nhwc = phases.permute(0, 2, 3, 1).contiguous()
    images, row, column, _ = nhwc.stride()
    # Output (i, a, j, b) is phase (a, b) at (i + a, j + b): one step of a is a phase and a row.
    view = nhwc.as_strided(
        (count, height, 2, width, 2, channels),
        (images, row, row + 2 * channels, column, column + channels, 1),
    )
    return view.reshape(count, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


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
