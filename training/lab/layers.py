"""The Generator's feature maps, layer by layer, for one latent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from handler.latents import MAX_SEED, from_seeds
from handler.pixels import Images, to_uint8
from training.lab.canvas import rows_of, save_png
from training.lab.usage import UsageError, check_least, check_out
from training.networks import Generator
from training.weights import load_generator

FloatMaps = npt.NDArray[np.float32]  # (maps, h, w)


@dataclass(frozen=True)
class LayersConfig:
    """One row a layer, from 4 x 4 up; the last row is the picture and its channels."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run."""
    out: Path = Path("runs/plots/layers.png")
    """.png."""
    seed: int = 0
    """Seed of the latent."""
    maps: int = 10
    """Feature maps of each layer: those that vary most over the picture."""

    def run(self) -> dict[str, Any]:
        """Write the picture; returns the shape of each layer's output.

        Raises:
            UsageError: a setting is out of range.
            WeightsError, FileNotFoundError: the weights cannot be read.
        """
        check_out(self.out, ".png")
        check_least(maps=(self.maps, 1))
        if not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed is {self.seed}; give 0 to {MAX_SEED}")
        generator, _ = load_generator(self.weights)
        hidden, picture = feature_maps(generator, self.seed)
        size = generator.image_size
        rows = [as_tiles(strongest(maps, self.maps), size) for maps in hidden]
        pixels = to_uint8(picture[None])
        rgb = np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels
        channels = np.repeat(pixels[0].transpose(2, 0, 1)[..., None], 3, axis=3)
        rows.append(np.concatenate([rgb, channels]))
        save_png(self.out, rows_of(rows))
        return {
            "out": str(self.out),
            "seed": self.seed,
            "layers": [maps.shape for maps in (*hidden, picture)],
        }


@torch.no_grad()
def feature_maps(generator: Generator, seed: int) -> tuple[list[FloatMaps], FloatMaps]:
    """Outputs of all ReLUs, float32 (maps, h, w) each >= 0, and the picture in [-1, 1]."""
    value = torch.from_numpy(from_seeds([seed], generator.nz)).view(1, -1, 1, 1)
    hidden = []
    for layer in generator.layers:
        value = layer(value)
        if isinstance(layer, nn.ReLU):
            hidden.append(value[0].numpy().copy())
    return hidden, value[0].numpy()


def strongest(maps: FloatMaps, count: int) -> FloatMaps:
    """The maps with the largest standard deviation over the picture, the largest first."""
    order = np.argsort(-maps.std(axis=(1, 2)), kind="stable")
    return maps[order[:count]]


def as_tiles(maps: FloatMaps, size: int) -> Images:
    """Grey tiles, 0 black and the row's largest value white: uint8 (maps, size, size, 3)."""
    factor = size // maps.shape[1]
    levels = np.rint(maps * (255 / max(float(maps.max()), 1e-12))).astype(np.uint8)
    large = levels.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.repeat(large[..., None], 3, axis=3)
