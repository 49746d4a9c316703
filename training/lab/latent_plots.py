"""The latent space in pictures: walks, the directions that change most, layers, maps of latents."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Lt

from handler.latents import MAX_SEED, Method, from_seeds, walk
from handler.pixels import Images, to_uint8
from training.config import Count
from training.lab.options import OfWeights, Seed, UsageError
from training.lab.plots import Plot, rows_of
from training.networks import Generator
from training.samples import Latents, draw, tiles

FloatMaps = npt.NDArray[np.float32]  # (maps, h, w)
MAX_PX = 8192  # of a side; a larger picture is a mistyped number
START_PX = 4  # height and width of the first feature maps of one latent


@dataclass(frozen=True, kw_only=True)
class Walk(OfWeights, Plot):
    """Walk from seed to seed: a grid (.png, one row a leg) or a closed round (.gif).

    Small steps of z should be small steps of G(z) (paper, section 6.1): a Generator that had
    learned its training pictures by heart would jump from one to the next.
    """

    endings = (".png", ".gif")

    out: Path = Path("runs/plots/walk.png")
    seeds: Annotated[tuple[int, ...], Ge(0), Lt(MAX_SEED + 1)] = (1, 2, 3, 4, 5)
    """Two or more; the walk visits them in this order."""
    steps: Annotated[int, Ge(2)] = 10
    """Pictures from one seed to the next, both included."""
    method: Method = "slerp"
    """slerp keeps the length of the latents; linear is the paper's."""
    frame_ms: Annotated[int, Ge(10)] = 80
    """GIF: how long a picture is shown."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns how even the steps are.

        ``largest_step`` and ``mean_step`` are mean absolute differences between neighbours on
        the path in grey levels, ``ends`` those between the two ends of a leg.
        """
        if len(self.seeds) < 2:
            raise UsageError(f"--seeds is {self.seeds}; give two or more")
        generator, _ = self.load()
        moving = self.out.suffix.lower() == ".gif"
        seeds = (*self.seeds, self.seeds[0]) if moving else self.seeds
        legs = walk_legs(from_seeds(seeds, generator.nz), self.steps, self.method)
        images = draw(generator, legs.reshape(-1, generator.nz))
        by_leg = images.reshape(len(legs), self.steps, *images.shape[1:])
        if moving:
            frames = by_leg[:, :-1].reshape(-1, *images.shape[1:])  # each seed once
            self.save_gif(list(frames), self.frame_ms, hold=False)
        else:
            self.save_png(tiles(images, self.steps))
        return {
            "out": str(self.out),
            "seeds": self.seeds,
            "method": self.method,
            **steps_of(by_leg),
        }


def walk_legs(keys: Latents, steps: int, method: Method) -> Latents:
    """One leg between each two neighbours: float32 (m, nz) -> (m - 1, steps, nz)."""
    return np.stack([walk(np.stack(ends), steps, method) for ends in pairwise(keys)])


def steps_of(legs: Images) -> dict[str, float]:
    """How far the pictures move: uint8 (legs, steps, H, W, C) -> grey levels."""
    signed = legs.astype(np.int16)
    moves = np.abs(np.diff(signed, axis=1)).mean(axis=(2, 3, 4))
    ends = np.abs(signed[:, -1] - signed[:, 0]).mean()
    return {
        "mean_step": round(float(moves.mean()), 2),
        "largest_step": round(float(moves.max()), 2),
        "ends": round(float(ends), 2),
    }


@dataclass(frozen=True, kw_only=True)
class Directions(OfWeights, Plot):
    """Move one picture along the directions of the latent that change most, one row each.

    The directions are those that the Generator's first layer answers to most strongly.
    """

    out: Path = Path("runs/plots/directions.png")
    seed: Seed = 0
    """Seed of the latent in the middle column."""
    directions: Count = 8
    """The strongest so many, and one row more: a random direction."""
    steps: Annotated[int, Ge(2)] = 9
    """Pictures in a row."""
    reach: float = 4.0
    """Distance of the first and the last picture from the middle one, as latents have it."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns how strong the directions are.

        ``effective_dimensions`` is the participation ratio (sum e)^2 / sum e^2 of the strengths
        e: nz if all directions count the same, 1 if only one does. ``pixel_change`` is the
        mean absolute change of pictures, in grey levels, for a step of length 1 along each
        direction, over 64 latents.
        """
        generator, _ = self.load()
        strengths, vectors = strongest_directions(generator)
        count = min(self.directions, generator.nz)
        shown = np.concatenate([vectors[:count], random_directions(1, 1.0, generator.nz, seed=0)])
        places = np.linspace(-self.reach, self.reach, self.steps, dtype=np.float32)[:, None]
        middle = from_seeds([self.seed], generator.nz)
        self.save_png(rows_of([draw(generator, middle + places * d) for d in shown]))
        changes = [pixel_change(generator, direction) for direction in shown]
        return {
            "out": str(self.out),
            "seed": self.seed,
            "nz": generator.nz,
            "effective_dimensions": round(float(strengths.sum() ** 2 / (strengths**2).sum()), 1),
            "share_of_strength": [round(float(s / strengths.sum()), 4) for s in strengths[:count]],
            "pixel_change": {"directions": changes[:-1], "random": changes[-1]},
        }


def strongest_directions(generator: Generator) -> tuple[npt.NDArray[np.float64], Latents]:
    """Unit vectors by how much the first layer answers to them, the strongest first.

    That layer is linear in the latent, so they are eigenvectors of its weights (Shen and Zhou,
    arXiv:2007.06600, section 3.1); BatchNorm after it, which is a fixed scale in a trained
    network, is part of these weights here.

    Returns:
        squared lengths of the answers, float64 (nz,), and the directions, float32 (nz, nz).
    """
    projection = next(m for m in generator.layers if isinstance(m, torch.nn.ConvTranspose2d))
    norm = next(m for m in generator.layers if isinstance(m, torch.nn.BatchNorm2d))
    variance = torch.ones(1) if norm.running_var is None else norm.running_var
    scale = norm.weight.detach() / torch.sqrt(variance + norm.eps)
    weights = (projection.weight.detach() * scale[:, None, None]).double()  # (nz, maps, 4, 4)
    flat = weights.flatten(1).numpy()
    values, vectors = np.linalg.eigh(flat @ flat.T)
    return values[::-1], np.ascontiguousarray(vectors[:, ::-1].T, dtype=np.float32)


def random_directions(count: int, length: float, nz: int, seed: int) -> Latents:
    """Evenly distributed directions of one length, the same each time: float32 (count, nz)."""
    drawn = np.random.default_rng(seed).standard_normal((count, nz))
    drawn *= length / np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def pixel_change(generator: Generator, direction: Latents) -> float:
    """Mean absolute change in grey levels for a step of length 1, over the seeds 0 to 63."""
    start = from_seeds(range(64), generator.nz)
    before, after = (draw(generator, z).astype(np.int16) for z in (start, start + direction))
    return round(float(np.abs(after - before).mean()), 2)


@dataclass(frozen=True, kw_only=True)
class Layers(OfWeights, Plot):
    """Show the Generator's feature maps for one latent, a row a layer, then the picture.

    The last row is the picture and its channels.
    """

    out: Path = Path("runs/plots/layers.png")
    seed: Seed = 0
    """Seed of the latent."""
    maps: Count = 10
    """Feature maps of each layer: those that vary most over the picture."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns the shape of each layer's output."""
        generator, _ = self.load()
        hidden, picture = feature_maps(generator, self.seed)
        rows = [as_tiles(strongest(maps, self.maps), generator.image_size) for maps in hidden]
        pixels = to_uint8(picture[None])
        rgb = np.repeat(pixels, 3, axis=3) if pixels.shape[3] == 1 else pixels
        channels = np.repeat(pixels[0].transpose(2, 0, 1)[..., None], 3, axis=3)
        self.save_png(rows_of([*rows, np.concatenate([rgb, channels])]))
        shapes = [maps.shape for maps in (*hidden, picture)]
        return {"out": str(self.out), "seed": self.seed, "layers": shapes}


@torch.no_grad()
def feature_maps(generator: Generator, seed: int) -> tuple[list[FloatMaps], FloatMaps]:
    """Outputs of all ReLUs, float32 (maps, h, w) each >= 0, and the picture in [-1, 1]."""
    value = torch.from_numpy(from_seeds([seed], generator.nz)).view(1, -1, 1, 1)
    hidden = []
    for layer in generator.layers:
        value = layer(value)
        if isinstance(layer, torch.nn.ReLU):
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


@dataclass(frozen=True, kw_only=True)
class Enlarge(OfWeights, Plot):
    """Draw one larger picture than those trained on; its latents blend from corner to corner.

    The Generator has no fully connected layer, so a map (nz, h, w) in the place of one latent
    is a larger picture; soumith/dcgan.torch does so under the name imsize. One latent starts a
    4 x 4 block of the first feature maps, so latents 4 apart in the map start blocks side by
    side, which is what the Generator was trained on.
    """

    out: Path = Path("runs/plots/enlarge.png")
    seeds: Annotated[tuple[int, int, int, int], Ge(0), Lt(MAX_SEED + 1)] = (7, 26, 6, 37)
    """Top left, top right, bottom left, bottom right."""
    rows: Annotated[int, Ge(2)] = 6
    """Latents from top to bottom."""
    columns: Annotated[int, Ge(2)] = 6
    """Latents from left to right."""
    spacing: Literal[1, 2, 3, 4] = 4
    """Distance of latents in the map; 4 is side by side, less overlaps, and blocks add up."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns its size and that of the map."""
        generator, _ = self.load()
        scale = generator.image_size // START_PX
        height, width = (
            ((count - 1) * self.spacing + START_PX) * scale for count in (self.rows, self.columns)
        )
        if max(height, width) > MAX_PX:
            raise UsageError(
                f"the picture would be {width} x {height} px, {MAX_PX} is the most; lower --rows, "
                "--columns or --spacing"
            )
        corners = from_seeds(self.seeds, generator.nz)
        latents = latent_map(blend(corners, self.rows, self.columns), self.spacing)
        picture = large_picture(generator, latents)
        self.save_png(picture)
        return {
            "out": str(self.out),
            "latent_map": latents.shape,
            "picture_px": {"width": picture.shape[1], "height": picture.shape[0]},
        }


def blend(corners: Latents, rows: int, columns: int) -> Latents:
    """Latents between four corners, slerp along the sides and then across.

    Args:
        corners: float32 (4, nz): top left, top right, bottom left, bottom right.

    Returns:
        float32 (rows, columns, nz).
    """
    left = walk(corners[[0, 2]], rows, "slerp")
    right = walk(corners[[1, 3]], rows, "slerp")
    across = [walk(np.stack(ends), columns, "slerp") for ends in zip(left, right, strict=True)]
    return np.stack(across)


def latent_map(latents: Latents, spacing: int) -> Latents:
    """Spread latents over a map, zeros between them.

    Args:
        latents: float32 (rows, columns, nz).

    Returns:
        float32 (nz, (rows - 1) * spacing + 1, (columns - 1) * spacing + 1).
    """
    rows, columns, nz = latents.shape
    spread = np.zeros((nz, (rows - 1) * spacing + 1, (columns - 1) * spacing + 1), np.float32)
    spread[:, ::spacing, ::spacing] = latents.transpose(2, 0, 1)
    return spread


@torch.no_grad()
def large_picture(generator: Generator, latents: Latents) -> Images:
    """A map float32 (nz, h, w) -> uint8 ((h + 3) * image_size / 4, (w + 3) * ..., C)."""
    picture: Images = to_uint8(generator.layers(torch.from_numpy(latents)[None]).numpy())[0]
    return picture
