"""What the Discriminator's filters react to, beside random filters (paper, section 6.2, fig. 5)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from handler.pixels import Images
from training.config import ConfigError, TrainConfig, from_mapping
from training.data import sources
from training.data.decode import Pictures
from training.lab import guided
from training.lab.canvas import save_png, side_by_side, tiles
from training.lab.usage import UsageError, check_least, check_out
from training.networks import Discriminator, check_geometry
from training.weights import identify, strip_prefixes

_AGREE = 16  # strongest pictures whose labels are compared


@dataclass(frozen=True)
class FiltersConfig:
    """Strongest patches and guided backpropagation: left random filters, right learned ones.

    One row a filter: the patches of real pictures that it reacts to most, at most one a
    picture, then what of each patch it reacts to (grey is nothing).
    """

    checkpoint: Path
    """A run's checkpoints/step_*.pt, which holds D; or the run's folder, for the newest."""
    out: Path = Path("runs/plots/filters.png")
    """.png."""
    layer: int = 0
    """Which convolution of D, from 1; 0 is the last one before the logit, as in the paper."""
    filters: int = 6
    """The first so many filters of it; none is chosen by hand."""
    patches: int = 4
    """Strongest patches a filter."""
    pictures: int = 2000
    """Real pictures that the patches are looked for in."""
    colours: int = 0
    """Colours in the file, 2 to 256; 0 keeps all."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns how selective the filters are.

        ``labels_agree`` is, averaged over the filters, the largest fraction of one filter's
        16 strongest pictures that share a class of some attribute, and the same for pictures
        drawn by lot (``chance``); null for pictures without labels.

        Raises:
            UsageError: a setting is out of range, or the checkpoint cannot be used.
            DataError: the run's pictures cannot be read.
        """
        check_out(self.out, ".png")
        check_least(
            layer=(self.layer, 0), filters=(self.filters, 1), patches=(self.patches, 1),
            pictures=(self.pictures, 2),
        )  # fmt: skip
        path, config = find_checkpoint(self.checkpoint)
        state = read_discriminator(path)
        pictures = load_pictures(config, state)
        layer = self._layer(config)
        learned, untrained = (new_discriminator(config, pictures.images) for _ in range(2))
        try:
            learned.load_state_dict(state)
        except RuntimeError as error:
            raise UsageError(f"{path} does not fit the settings of its run: {error}") from None
        images = np.array(pictures.images[: self.pictures])  # the cache is not writable
        count = min(self.patches, len(images))
        halves, agree = [], {}
        for name, network in (("random", untrained), ("learned", learned)):
            features = guided.up_to(network, layer)
            filters = min(self.filters, _width(config, layer))
            halves.append(half(features, images, layer, filters, count))
            if pictures.labels and len(images) >= _AGREE:
                width = _width(config, layer)
                found = guided.strongest_places(features, images, width, _AGREE)[0][..., 0]
                agree[name] = agreement(found, pictures.labels)
                drawn = np.random.default_rng(0).integers(len(images), size=found.shape)
                agree["chance"] = agreement(drawn, pictures.labels)
        save_png(self.out, side_by_side(halves[0], halves[1]), self.colours)
        return {
            "out": str(self.out),
            "checkpoint": str(path),
            "layer": layer,
            "patch_px": guided.field_of(layer).size_px,
            "labels_agree": agree or None,
        }

    def _layer(self, config: TrainConfig) -> int:
        layers = check_geometry(config.image_size, 3)
        if self.layer > layers:
            raise UsageError(f"--layer is {self.layer}; this D has layers 1 to {layers}")
        return self.layer or layers


def find_checkpoint(path: Path) -> tuple[Path, TrainConfig]:
    """The checkpoint file, and the settings of its run, from config.json beside ``checkpoints``.

    Raises:
        UsageError: one of them is missing or malformed.
    """
    if path.is_dir():
        found = sorted((path / "checkpoints").glob("step_*.pt"))
        if not found:
            raise UsageError(f"{path} has no checkpoints/step_*.pt; give the folder of a run")
        path = found[-1]
    if not path.is_file():
        raise UsageError(f"--checkpoint {path} does not exist; give a run's checkpoints/step_*.pt")
    settings = path.parent.parent / "config.json"
    try:
        return path, from_mapping(json.loads(settings.read_bytes()), TrainConfig())
    except (OSError, ValueError, ConfigError, AttributeError) as error:
        raise UsageError(
            f"cannot read the settings of the run from {settings} ({error}); leave the checkpoint "
            "in the folder of its run"
        ) from None


def read_discriminator(path: Path) -> dict[str, torch.Tensor]:
    """D's weights from a checkpoint.

    Raises:
        UsageError: it is something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)["discriminator"]
        return strip_prefixes(state)
    except Exception as error:  # noqa: BLE001 - torch raises many kinds for damaged files
        raise UsageError(
            f"{path} is {identify(path)}, which holds no Discriminator "
            f"({type(error).__name__}); give a run's checkpoints/step_*.pt"
        ) from None


def load_pictures(config: TrainConfig, state: dict[str, torch.Tensor]) -> Pictures:
    """The pictures of the run, with as many channels as its D takes.

    Raises:
        DataError: they cannot be read.
    """
    first = next(value for name, value in state.items() if name.startswith("layers.0."))
    return sources.load(
        config.data, data_root=config.data_root, image_size=config.image_size,
        channels="1" if first.dim() == 4 and first.shape[1] == 1 else config.channels,
        background=config.background, seed=config.seed, workers=config.workers, batch_size=2,
        cache=config.cache,
    )  # fmt: skip


def new_discriminator(config: TrainConfig, images: Images) -> Discriminator:
    """D with the weights that training starts from; the random filters."""
    torch.manual_seed(config.seed)
    return Discriminator(
        config.ndf, images.shape[3], config.image_size, config.d_norm, config.d_group
    ).eval()


def half(
    features: torch.nn.Sequential, images: Images, layer: int, filters: int, count: int
) -> Images:
    """A grid, one row a filter: patches, then gradients; uint8 (H, W, 3 or 1)."""
    field = guided.field_of(layer)
    places, _ = guided.strongest_places(features, images, filters, count)
    cells: list[npt.NDArray[np.uint8]] = []
    for index, found in enumerate(places):
        chosen = images[found[:, 0]]
        reacts = guided.gradients(features, chosen, index, found[:, 1:])
        spots = [(int(y), int(x)) for y, x in found[:, 1:]]
        cells += [guided.crop(c, field, s, 255) for c, s in zip(chosen, spots, strict=True)]
        cells += [
            guided.crop(grey_centred(g), field, s, 128) for g, s in zip(reacts, spots, strict=True)
        ]
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


def _width(config: TrainConfig, layer: int) -> int:
    return int(config.ndf * 2 ** (layer - 1))
