"""What the Discriminator's filters react to, beside random filters (paper, section 6.2, fig. 5).

For each filter the patches of real pictures that it responds to most, and what of them it
responds to, by guided backpropagation (arXiv:1412.6806, section 3.4): the gradient of the
response with respect to the pixels, where each activation lets only those parts back that were
positive on the way up (as backpropagation does) and are positive on the way down (as a
"deconvnet" does).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from handler.pixels import Images
from training.checkpoint import read_discriminator
from training.config import TrainConfig
from training.data import sources
from training.data.batches import in_parts, to_pictures
from training.lab.commands import Plot, UsageError, side_by_side
from training.networks import Discriminator, check_geometry
from training.samples import tiles
from training.start import saved_settings
from training.step import new_discriminator

SEARCHED = 2000  # pictures, for the patches
FILTERS = 6  # the first ones of a layer; none is chosen by hand
PATCHES = 4  # the strongest of each
_AGREE = 16  # strongest pictures whose labels are compared


@dataclass(frozen=True, kw_only=True)
class Filters(Plot):
    """Show what D's filters react to: left random filters, right learned ones.

    One row a filter: the patches of real pictures that it reacts to most, at most one a
    picture, then what of each patch it reacts to (grey is nothing).
    """

    checkpoint: Path
    """A run's checkpoints/step_*.pt, which holds D; or the run's folder, for the newest."""
    out: Path = Path("runs/plots/filters.png")

    def result(self) -> dict[str, Any]:
        """Write the picture; returns how selective the filters are.

        ``labels_agree`` is, averaged over the filters, the largest fraction of one filter's
        16 strongest pictures that share a class of some attribute, and the same for random
        pictures (``chance``); null for pictures without labels.
        """
        path, config, state = find_checkpoint(self.checkpoint)
        pictures = sources.load(config, 2)
        layer = check_geometry(config.image_size, 3)  # the last one before the logit
        learned, untrained = discriminators(path, config, state, pictures.images.shape[3])
        images = np.array(pictures.images[:SEARCHED])  # the cache is not writable
        count, width = min(PATCHES, len(images)), config.ndf * 2 ** (layer - 1)
        halves, agree = [], {}
        for name, network in (("random", untrained), ("learned", learned)):
            features = up_to(network, layer)
            halves.append(half(features, images, layer, min(FILTERS, width), count))
            if pictures.labels and len(images) >= _AGREE:
                found = strongest_places(features, images, width, _AGREE)[..., 0]
                agree[name] = agreement(found, pictures.labels)
                drawn = np.random.default_rng(0).integers(len(images), size=found.shape)
                agree["chance"] = agreement(drawn, pictures.labels)
        self.save_png(side_by_side(halves[0], halves[1]))
        return {
            "out": str(self.out),
            "checkpoint": str(path),
            "layer": layer,
            "patch_px": field_of(layer).size_px,
            "labels_agree": agree or None,
        }


def find_checkpoint(path: Path) -> tuple[Path, TrainConfig, dict[str, Tensor]]:
    """The checkpoint file, the settings of its run, from config.json beside ``checkpoints``, and
    D's weights.

    Raises:
        UsageError: the folder has none.
        ConfigError: the settings are missing or malformed.
        FileNotFoundError, CheckpointError, WeightsError: as of ``read_discriminator``.
    """
    if path.is_dir():
        found = sorted((path / "checkpoints").glob("step_*.pt"))
        if not found:
            raise UsageError(f"{path} has no checkpoints/step_*.pt; give the folder of a run")
        path = found[-1]
    state = read_discriminator(path)
    return path, saved_settings(path.parent.parent), state


def discriminators(
    path: Path, config: TrainConfig, state: dict[str, Tensor], channels: int
) -> list[Discriminator]:
    """The D of a run, and one with random weights, which are the same each time.

    Raises:
        UsageError: what the checkpoint holds does not fit the settings.
    """
    found = []
    for _ in range(2):
        torch.manual_seed(config.seed)
        found.append(new_discriminator(config, channels).eval())
    try:
        found[0].load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"{path} does not fit the settings of its run: {error}") from None
    return found


def half(features: nn.Sequential, images: Images, layer: int, filters: int, count: int) -> Images:
    """A grid, one row a filter: patches, then gradients; uint8 (H, W, 3 or 1)."""
    field = field_of(layer)
    places = strongest_places(features, images, filters, count)
    cells: list[npt.NDArray[np.uint8]] = []
    for index, found in enumerate(places):
        chosen = images[found[:, 0]]
        reacts = gradients(features, chosen, index, found[:, 1:])
        spots = [(int(y), int(x)) for y, x in found[:, 1:]]
        cells += [crop(c, field, s, 255) for c, s in zip(chosen, spots, strict=True)]
        cells += [crop(grey_centred(g), field, s, 128) for g, s in zip(reacts, spots, strict=True)]
    return tiles(np.stack(cells), 2 * count)


def grey_centred(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """0 -> 128, the largest magnitude -> 1 or 255."""
    largest = max(float(np.abs(values).max()), 1e-12)
    levels: npt.NDArray[np.uint8] = np.rint(values * (127 / largest) + 128).astype(np.uint8)
    return levels


def agreement(rows: npt.NDArray[np.int64], labels: dict[str, npt.NDArray[np.int64]]) -> float:
    """How well the pictures of one filter agree in their best attribute, 0 to 1.

    Args:
        rows: int64 (filters, n), pictures.
        labels: attribute -> classes of all pictures.

    Returns:
        the largest fraction of a row that shares a class, averaged over the filters.
    """
    shares = [
        max(np.bincount(values[row]).max() for values in labels.values()) / len(row) for row in rows
    ]
    return round(float(np.mean(shares)), 3)


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
) -> npt.NDArray[np.int64]:
    """Where each of the first ``filters`` maps responds most, at most once a picture.

    Args:
        features: from ``up_to``.
        images: uint8 (N, H, W, C), N >= count.

    Returns:
        int64 (filters, count, 3): picture, y, x, the strongest first.
    """
    best, places = [], []
    for part in in_parts(images):
        maps = features(part)[:, :filters]
        value, place = maps.flatten(2).max(dim=2)
        best.append(value)
        places.append(torch.stack([place // maps.shape[3], place % maps.shape[3]], dim=2))
    pictures = torch.cat(best).T.topk(count, dim=1).indices  # (filters, count)
    found = torch.cat(places)[pictures, torch.arange(filters)[:, None]]
    return torch.cat([pictures[..., None], found], dim=2).numpy()


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
    pixels = to_pictures(images).requires_grad_()
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
    padded = np.pad(values, ((size, size), (size, size), (0, 0)), constant_values=fill)
    top, left = (size + field.first_px + p * field.stride_px for p in place)
    return padded[top : top + size, left : left + size]
