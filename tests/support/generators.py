"""Small Generators with something to show, and pictures that they may have been trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from training.data.avatars import load_avatars
from training.data.batches import digest_of
from training.data.decode import PictureSpec
from training.data.sources import load_folder
from training.networks import Generator, new_generator
from training.weights import save_generator

BACKGROUND = "#c8d4e0"
AVATARS = {"data": "avatars", "pictures": 256, "seed": 999, "background": BACKGROUND}


def trained_on_avatars(count: int) -> dict[str, Any]:
    """The provenance of weights that have learned from so many, of 32 px."""
    images = load_avatars(32, BACKGROUND, 999, count).images
    return AVATARS | {"pictures": count, "digest": digest_of(images)}


def trained_on(folder: Path) -> dict[str, Any]:
    """The same, of the pictures in a folder."""
    spec = PictureSpec(image_size=32, background=BACKGROUND, cache=None)
    images = load_folder(folder, spec).images
    return {"data": str(folder), "pictures": len(images), "digest": digest_of(images)}


def lively(nz: int = 6, channels: int = 3) -> Generator:
    """One of 32 px in eval mode; as initialised, all pictures would be grey."""
    torch.manual_seed(0)
    generator = new_generator(nz, 4, channels, 32)
    for layer in generator.layers:
        if isinstance(layer, torch.nn.ConvTranspose2d):
            torch.nn.init.normal_(layer.weight, 0.0, 0.3)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(layer.weight)
    return generator.eval()


class Colours(torch.nn.Module):
    """Planted: a picture is one colour, its red that of number 0 of the latent, and so on."""

    nz = 6

    def __init__(self, size: int, slope: float = 1.0) -> None:
        super().__init__()
        self.size, self.slope = size, slope
        self.unused = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        levels = torch.tanh(latents[:, :3, None, None] * self.slope)
        return levels.expand(-1, 3, self.size, self.size)


def weights(folder: Path, generator: Generator | None = None, **made: Any) -> Path:
    """Its file; that of a grey one if there is none. ``made`` is its provenance."""
    torch.manual_seed(0)
    path = folder / "g.safetensors"
    provenance = {"background": BACKGROUND, **made}
    save_generator(path, generator or new_generator(6, 2, 3, 32), provenance)
    return path


def photos(folder: Path, count: int, seed: int = 0, mode: str = "RGB", size: int = 40) -> Path:
    """A folder of different pictures."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).convert(mode)
        small.resize((size, size)).save(folder / f"{i}.png")
    return folder
