"""The backend for processors with units for bfloat16: the network straight on oneDNN.

Eager and TorchScript give their weights to oneDNN in torch's layout, and each pass orders them
anew for the kernel; here that is done at load. Three more things make it fast where a processor
has matrix units: ReLU is part of the convolution, a stride-2 transposed convolution runs as an
ordinary one, for which the kernels are better (``as_convolution``), and the first of them sees
all images of the batch as one (``_StackedConvolution``).

The operators are those that torch.compile generates for a CPU. They have no documentation of
their own, so ``handler.backends.choose`` tries the backend once and takes ONNX Runtime when it
fails.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from handler.backends.base import CpuBackend
from handler.backends.torchscript import Layers, grey_levels_off, layers_of, load_torchscript
from handler.latents import Latents
from handler.pixels import Images, grey_levels
from handler.settings import Card, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LEAST_ROWS = 4  # matrix products of fewer rows use other kernels, which round otherwise
_FIRST_PX = 4  # height and width after the projection of the latent
_AT_ONCE = 32  # images; what more of them write in between no longer fits the caches
_MOST_GREY_LEVELS = 2.0  # in the mean; bfloat16 stays below a half


class PackedBackend(CpuBackend):
    """The weights of ``generator.pt``, run by oneDNN on a CPU.

    Args:
        path: the TorchScript file, with BatchNorm folded.
        precision: float32, or bfloat16 where the processor has it.

    Raises:
        RuntimeError: the file cannot be used, or oneDNN cannot run it on this processor.
    """

    name = "packed"

    def __init__(self, path: Path, card: Card, settings: Settings, precision: str) -> None:
        import torch

        super().__init__(card, settings, precision, lambda: torch.set_num_threads(1))
        self._torch = torch
        if precision == "bfloat16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            raise RuntimeError(
                "oneDNN has no bfloat16 on this processor; use precision: float32 (or auto)"
            )
        file = load_torchscript(path)
        layers = layers_of(file.named_parameters(), path.name)
        self._network = PackedNetwork(layers, getattr(torch, precision))
        mean, _ = grey_levels_off(self._forward, file, 4, card.nz)
        if mean > _MOST_GREY_LEVELS:
            raise RuntimeError(
                f"the packed network differs from {path.name} by {mean:.1f} grey levels in the "
                f"mean (allowed {_MOST_GREY_LEVELS:g}); use backend: torchscript"
            )

    def _forward(self, latents: Latents) -> Images:
        with self._torch.inference_mode():
            return self._network(self._torch.from_numpy(latents))


class PackedNetwork:
    """Latents to pixels.

    Args:
        dtype: of weights and activations.
    """

    def __init__(self, layers: Layers, dtype: torch.dtype) -> None:
        import torch

        self._ops, self._dtype, self._uniform = torch.ops.mkldnn, dtype, layers.uniform
        (projection, bias), *rest = layers.convolutions
        # (C_in, C_out, 4, 4) -> rows in the order of an NHWC picture.
        matrix = projection.permute(2, 3, 1, 0).reshape(-1, projection.shape[0]).to(dtype)
        self._projection = self._ops._reorder_linear_weight(matrix.contiguous(), _AT_ONCE)
        self._bias = bias.repeat(_FIRST_PX**2).to(dtype)
        self._layers = []
        side = _FIRST_PX
        for weight, bias in rest:
            kind = _StackedConvolution if side == _FIRST_PX else _Convolution
            weights = as_convolution(weight).to(dtype)
            self._layers.append(kind(weights, bias.repeat(4).to(dtype), side))
            side *= 2

    def __call__(self, latents: Tensor) -> Images:
        """(N, nz) float32 -> uint8 (N, H, W, C)."""
        return np.concatenate([self._pixels(part) for part in latents.split(_AT_ONCE)])

    def _pixels(self, latents: Tensor) -> Images:
        import torch
        from torch.nn import functional as F

        count = len(latents)
        if self._uniform:
            latents = torch.erf(latents * 0.5**0.5)
        missing = max(0, _LEAST_ROWS - count)
        rows = F.pad(latents, (0, 0, 0, missing)).to(self._dtype)
        first = self._ops._linear_pointwise(rows, self._projection, self._bias, "relu", [], "")
        pictures = first[:count].view(count, _FIRST_PX, _FIRST_PX, -1).permute(0, 3, 1, 2)
        *inner, last = self._layers
        for layer in inner:
            pictures = interleave(layer(pictures, "relu"))
        # Pixels before the interleaving: a fourth of the bytes to move.
        values = last(pictures, "none").float().tanh_()
        levels = grey_levels(values, out=values).to(torch.uint8)
        return interleave_pixels(levels.permute(0, 2, 3, 1).numpy())


class _Convolution:
    """A convolution with kernel 2, by oneDNN's kernels for it.

    Args:
        weight: (C_out, C_in, 2, 2).
        bias: (C_out,).
        side: height and width of the pictures.
    """

    def __init__(self, weight: Tensor, bias: Tensor, side: int) -> None:
        self._prepare(weight, bias, [1, 1], [_AT_ONCE, weight.shape[1], side, side])

    def _prepare(self, weight: Tensor, bias: Tensor, padding: list[int], shape: list[int]) -> None:
        import torch

        self._ops, self._bias, self._padding = torch.ops.mkldnn, bias, padding
        weight = weight.contiguous(memory_format=torch.channels_last)
        one = [1, 1]  # stride, dilation
        self._weight = self._ops._reorder_convolution_weight(weight, padding, one, one, 1, shape)

    def __call__(self, pictures: Tensor, activation: str) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H + 1, W + 1), channels last: padding 1."""
        convolved: Tensor = self._ops._convolution_pointwise(
            pictures, self._weight, self._bias, self._padding, [1, 1], [1, 1], 1, activation, [], ""
        )
        return convolved


class _StackedConvolution(_Convolution):
    """The same, with the images as one, one below the other, a row of zeros around each.

    oneDNN reads the weights once an image, and those of a picture of 4 px are some megabytes.
    """

    def __init__(self, weight: Tensor, bias: Tensor, side: int) -> None:
        rows = _AT_ONCE * (side + 1) + 1
        self._prepare(weight, bias, [0, 1], [1, weight.shape[1], rows, side])

    def __call__(self, pictures: Tensor, activation: str) -> Tensor:
        count, channels, height, width = pictures.shape
        rows = count * (height + 1)
        stack = pictures.new_zeros(rows + 1, width, channels)
        stack[:rows].view(count, height + 1, width, channels)[:, 1:] = pictures.permute(0, 2, 3, 1)
        convolved = super().__call__(stack.permute(2, 0, 1)[None], activation)
        separate = convolved.permute(0, 2, 3, 1).view(count, height + 1, width + 1, -1)
        return separate.permute(0, 3, 1, 2)


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


def interleave_pixels(phases: Images) -> Images:
    """``interleave`` for the last layer: runs of 3 bytes, copied channel by channel.

    Args:
        phases: (N, H + 1, W + 1, 4 * C).

    Returns:
        (N, 2 * H, 2 * W, C), C-contiguous.
    """
    count, height, width, channels = phases.shape
    channels, height, width = channels // 4, height - 1, width - 1
    pixels = np.empty((count, height, 2, width, 2, channels), phases.dtype)
    for a, b, channel in np.ndindex(2, 2, channels):
        phase = phases[..., (2 * a + b) * channels + channel]
        pixels[:, :, a, :, b, channel] = phase[:, a : a + height, b : b + width]
    return pixels.reshape(count, 2 * height, 2 * width, channels)
