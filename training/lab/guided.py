"""Guided backpropagation through a Discriminator (arXiv:1412.6806, section 3.4).

What a unit reacts to: the gradient of its response with respect to the pixels, where each
activation lets only those parts back that were positive on the way up (as backpropagation
does) and are positive on the way down (as a "deconvnet" does).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from handler.pixels import Images
from training.lab.classifier import to_tensor
from training.networks import Discriminator


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(value)
        return nn.functional.leaky_relu(value, slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return gradients[0].clamp(min=0) * (value > 0), None


class GuidedLeakyReLU(nn.Module):
    """LeakyReLU on the way up; on the way down nothing through negative values or gradients."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, value: Tensor) -> Tensor:
        """Any shape, float."""
        result: Tensor = _Guided.apply(value, self.slope)
        return result


@dataclass(frozen=True)
class Field:
    """The pixels that one place of a layer's maps can see.

    Place (y, x) sees ``size_px`` rows from ``first_px + y * stride_px`` on, and columns alike;
    those outside the picture are padding.
    """

    first_px: int
    stride_px: int
    size_px: int


def field_of(layer: int) -> Field:
    """Receptive field of D's convolution ``layer``, from 1: kernel 4, stride 2, padding 1 each."""
    first, stride, size = 0, 1, 1
    for _ in range(layer):
        first, size, stride = first - stride, size + 3 * stride, 2 * stride
    return Field(first, stride, size)


def up_to(discriminator: Discriminator, layer: int) -> nn.Sequential:
    """D's first ``layer`` convolutions with norms and guided activations, in eval mode.

    Modules are shared with ``discriminator``. The last one, which gives the logit, is not a
    layer of features.
    """
    kept: list[nn.Module] = []
    for module in discriminator.eval().layers:
        if isinstance(module, nn.LeakyReLU):
            kept.append(GuidedLeakyReLU(module.negative_slope))
            layer -= 1
            if layer == 0:
                break
        else:
            kept.append(module)
    return nn.Sequential(*kept)


@torch.no_grad()
def strongest_places(
    features: nn.Sequential, images: Images, filters: int, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Where each of the first ``filters`` maps responds most, at most once a picture.

    Args:
        features: from ``up_to``.
        images: uint8 (N, H, W, C), N >= count.

    Returns:
        int64 (filters, count, 3): picture, y, x, the strongest first; and the responses,
        float32 (filters, count).
    """
    best, places = [], []
    for start in range(0, len(images), 256):
        maps = features(to_tensor(images[start : start + 256]))[:, :filters]
        value, place = maps.flatten(2).max(dim=2)
        best.append(value)
        places.append(torch.stack([place // maps.shape[3], place % maps.shape[3]], dim=2))
    responses, pictures = torch.cat(best).T.topk(count, dim=1)  # (filters, count)
    rows = torch.arange(filters)[:, None]
    found = torch.cat(places)[pictures, rows]
    return torch.cat([pictures[..., None], found], dim=2).numpy(), responses.numpy()


def gradients(
    features: nn.Sequential, images: Images, filter_index: int, places: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Guided gradients of one map's responses at the given places.

    Args:
        images: uint8 (n, H, W, C).
        places: int64 (n, 2), y and x.

    Returns:
        float32 (n, H, W, C), zero outside the receptive field of the place.
    """
    pixels = to_tensor(images).requires_grad_()
    maps = features(pixels)
    at = torch.from_numpy(places)
    responses = maps[torch.arange(len(images)), filter_index, at[:, 0], at[:, 1]]
    (found,) = torch.autograd.grad(responses.sum(), pixels)
    return found.permute(0, 2, 3, 1).numpy()


def crop(
    values: npt.NDArray[Any], field: Field, place: tuple[int, int], fill: int
) -> npt.NDArray[Any]:
    """The receptive field of a place: (H, W, C) -> (size, size, C), ``fill`` outside of it."""
    size = field.size_px
    height, width = values.shape[:2]
    cut = np.full((size, size, values.shape[2]), fill, values.dtype)
    top, left = (field.first_px + p * field.stride_px for p in place)
    rows = slice(max(top, 0), min(top + size, height))
    columns = slice(max(left, 0), min(left + size, width))
    cut[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = values[
        rows, columns
    ]
    return cut
