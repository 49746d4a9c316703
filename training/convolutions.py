"""Convolutions of DCGAN's inner layers as matrix products, for CPUs in bfloat16.

A kernel of 4 with stride 2 and padding 1 halves a picture; its transpose doubles one. oneDNN's
convolutions of this shape reach a tenth of what AMX gives a plain product of matrices, least of all
the gradient of the weights, where few positions (4 x 4 to 8 x 8) meet many channels. So each of
their three products (result, gradient of the input, gradient of the weights) is one matrix product
here, on patches gathered side by side ("im2col": Chellapilla et al., 2006). Both layers rest on the
same two functions, ``gather`` and its transpose ``scatter``, as one layer is the other's transpose.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FEWEST_CHANNELS = 128  # of the larger picture; below, gathering costs more than it saves


def gather(pictures: Tensor) -> Tensor:
    """The patch of 4 x 4 under each position of the halved picture.

    Args:
        pictures: (N, C, 2h, 2w); fastest in channels_last.

    Returns:
        (N h w, 16 C), columns ordered (row, column, channel).
    """
    count, channels, height, width = pictures.shape
    padded = F.pad(pictures.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    patches = padded.unfold(1, 4, 2).unfold(2, 4, 2).permute(0, 1, 2, 4, 5, 3)
    return patches.reshape(count * (height // 2) * (width // 2), 16 * channels)


def scatter(patches: Tensor, count: int, height: int, width: int) -> Tensor:
    """Add patches up where they overlap: the transpose of ``gather``.

    Args:
        patches: (N h w, 16 C).
        count, height, width: N, h and w.

    Returns:
        (N, C, 2h, 2w), channels_last.
    """
    channels = patches.shape[1] // 16
    # A row of a patch is 2a + b: two rows b belong to position a.
    blocks = patches.view(count, height, width, 2, 2, 2, 2, channels)
    padded = patches.new_zeros(count, height + 1, 2, width + 1, 2, channels)
    for down in (0, 1):
        for right in (0, 1):
            block = blocks[:, :, :, down, :, right].permute(0, 1, 3, 2, 4, 5)
            padded[:, down : down + height, :, right : right + width].add_(block)
    pictures = padded.view(count, 2 * height + 2, 2 * width + 2, channels)
    return pictures[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


class Halve(Function):
    """Convolution by matrix products; has no second derivative, and says so when asked for one."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, weight: Tensor) -> Tensor:
        """(N, C, 2h, 2w), weight (K, C, 4, 4) of the same dtype -> (N, K, h, w)."""
        count, _, height, width = pictures.shape
        ctx.halved = count, height // 2, width // 2
        patches = gather(pictures)
        ctx.save_for_backward(patches, weight)
        return _as_pictures(patches @ _as_matrix(weight).t(), *ctx.halved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the pictures and of the weight."""
        patches, weight = ctx.saved_tensors
        rows = _as_rows(gradient)
        for_pictures = for_weight = None
        if ctx.needs_input_grad[0]:
            for_pictures = scatter(rows @ _as_matrix(weight), *ctx.halved)
        if ctx.needs_input_grad[1]:
            for_weight = _as_weight(rows.t() @ patches)
        return for_pictures, for_weight


class Double(Function):
    """Transposed convolution by matrix products; ``Halve`` with forward and backward swapped."""

    @staticmethod
    def forward(ctx: Any, pictures: Tensor, weight: Tensor) -> Tensor:
        """(N, K, h, w), weight (K, C, 4, 4) of the same dtype -> (N, C, 2h, 2w)."""
        count, _, height, width = pictures.shape
        rows = _as_rows(pictures)
        ctx.halved = count, height, width
        ctx.save_for_backward(rows, weight)
        return scatter(rows @ _as_matrix(weight), *ctx.halved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the pictures and of the weight."""
        rows, weight = ctx.saved_tensors
        patches = gather(gradient)
        for_pictures = for_weight = None
        if ctx.needs_input_grad[0]:
            for_pictures = _as_pictures(patches @ _as_matrix(weight).t(), *ctx.halved)
        if ctx.needs_input_grad[1]:
            for_weight = _as_weight(rows.t() @ patches)
        return for_pictures, for_weight


class HalvingConv2d(nn.Conv2d):
    """``nn.Conv2d`` with kernel 4, stride 2, padding 1, by whichever way is faster."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=bias)

    def forward(self, pictures: Tensor) -> Tensor:
        """(N, inputs, 2h, 2w) -> (N, outputs, h, w)."""
        if not _by_products(pictures, self.in_channels):
            return super().forward(pictures)
        halved = cast(Tensor, Halve.apply(pictures.bfloat16(), self.weight.bfloat16()))
        return halved if self.bias is None else halved + self.bias.bfloat16()[:, None, None]


class DoublingConv2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with kernel 4, stride 2, padding 1, by whichever way is faster."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, 2, 1, bias=False)

    def forward(self, pictures: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, inputs, h, w) -> (N, outputs, 2h, 2w)."""
        if output_size is not None or not _by_products(pictures, self.out_channels):
            return super().forward(pictures, output_size)
        return cast(Tensor, Double.apply(pictures.bfloat16(), self.weight.bfloat16()))


def _by_products(pictures: Tensor, channels: int) -> bool:
    return (
        channels >= FEWEST_CHANNELS
        and pictures.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
    )


def _as_matrix(weight: Tensor) -> Tensor:
    """(K, C, 4, 4) -> (K, 16 C), without a copy where it is channels_last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _as_weight(matrix: Tensor) -> Tensor:
    """(K, 16 C) -> (K, C, 4, 4), channels_last."""
    return matrix.view(len(matrix), 4, 4, -1).permute(0, 3, 1, 2)


def _as_rows(pictures: Tensor) -> Tensor:
    """(N, C, h, w) -> (N h w, C), without a copy where it is channels_last."""
    return pictures.permute(0, 2, 3, 1).reshape(-1, pictures.shape[1])


def _as_pictures(rows: Tensor, count: int, height: int, width: int) -> Tensor:
    """(N h w, C) -> (N, C, h, w), channels_last."""
    return rows.view(count, height, width, -1).permute(0, 3, 1, 2)
