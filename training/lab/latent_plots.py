"""The latent space in pictures: walks, layers, maps of latents."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge

from handler.latents import Method, from_seeds, walk
from handler.pixels import Images, to_uint8
from training.lab.commands import OfWeights, Plot, Seed, UsageError, rows_of
from training.lab.judge import USUAL, Judge
from training.lab.memorisation import Space, reduced
from training.lab.reals import AgainstReals, Reals
from training.networks import Generator
from training.samples import Latents, draw, tiles
from training.weights import load_generator

FloatMaps = npt.NDArray[np.float32]  # (maps, h, w)
FRAME_MS = 80  # of a GIF
STEPS = (9, 30, 100)  # of a leg, that are compared
UNSEEN = 2000  # real pictures that say how near is usual
SIDE = 6  # latents a side of an enlarged picture
START_PX = 4  # height and width of the first feature maps of one latent
MAPS = 10  # of each layer that are shown: those that vary most over the picture


@dataclass(frozen=True, kw_only=True)
class Walk(AgainstReals, Plot):
    """Walk from seed to seed: a grid (.png, one row a leg) or a closed round (.gif).

    Small steps of z should be small steps of G(z) (paper, section 6.1): a Generator that had
    learned its training pictures by heart would jump from one to the next.
    """

    endings = (".png", ".gif")

    out: Path = Path("runs/plots/walk.png")
    seeds: tuple[Seed, ...] = (1, 2, 3, 4, 5)
    """Two or more; the walk visits them in this order."""
    steps: Annotated[int, Ge(2)] = 10
    """Pictures from one seed to the next, both included."""
    method: Method = "slerp"
    """slerp keeps the length of the latents; linear is the paper's."""
    legs: Annotated[int, Ge(0)] = 0
    """Also walk so many legs beside two impostors: one that knows training pictures by heart, one
    that fades from end to end."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns how far the pictures move, as ``steps_of``, and with ``legs``
        the numbers of ``beside_impostors``."""
        if len(self.seeds) < 2:
            raise UsageError(f"--seeds is {self.seeds}; give two or more")
        generator, info = load_generator(self.weights)
        moving = self.out.suffix.lower() == ".gif"
        seeds = (*self.seeds, self.seeds[0]) if moving else self.seeds
        legs = walk_legs(from_seeds(seeds, generator.nz), self.steps, self.method)
        images = draw(generator, legs.reshape(-1, generator.nz))
        by_leg = images.reshape(len(legs), self.steps, *images.shape[1:])
        result = {
            "out": str(self.out),
            "seeds": self.seeds,
            "method": self.method,
            **steps_of(by_leg),
        }
        if self.legs:
            judge = self.judge(info)
            reals = self.reals(info, UNSEEN, judge)
            result["beside_impostors"] = beside_impostors(
                generator, reals, judge, self.legs, self.method
            )
        if moving:
            frames = by_leg[:, :-1].reshape(-1, *images.shape[1:])  # each seed once
            self.save_gif(list(frames), FRAME_MS, hold=False)
        else:
            self.save_png(tiles(images, self.steps))
        return result


def walk_legs(keys: Latents, steps: int, method: Method) -> Latents:
    """One leg between each two neighbours: float32 (m, nz) -> (m - 1, steps, nz)."""
    return np.stack([walk(np.stack(ends), steps, method) for ends in pairwise(keys)])


def steps_of(legs: Images) -> dict[str, float]:
    """How far the pictures move: uint8 (legs, steps, H, W, C) -> grey levels.

    Returns:
        mean absolute differences, of each the median over the legs: ``mean_step`` and
        ``largest_step`` between neighbours of a leg, ``ends`` between its ends. One step can be
        larger than that: where white fur turns black, and on the way back to white.
    """
    found: dict[str, list[float]] = {"mean_step": [], "largest_step": [], "ends": []}
    for leg in legs:  # one at a time: differences are twice as large as pictures
        signed = leg.astype(np.int16)
        moves = np.abs(np.diff(signed, axis=0)).mean(axis=(1, 2, 3))
        found["mean_step"].append(moves.mean())
        found["largest_step"].append(moves.max())
        found["ends"].append(np.abs(signed[-1] - signed[0]).mean())
    return {name: round(float(np.median(values)), 2) for name, values in found.items()}


def beside_impostors(
    generator: Generator, reals: Reals, judge: Judge | None, legs: int, method: Method
) -> dict[str, Any]:
    """Walks of the Generator, of one who learned by heart, and of one who only fades.

    The *memoriser* shows, for each picture of the Generator, the training picture nearest to it:
    however fine the steps, it jumps. The *fade* mixes the pixels of the ends: it is as smooth as
    can be, and shows two cats at once. Only what has learned to draw does neither.

    Args:
        legs: each of two seeds of its own, 0 and 1, 2 and 3, ...

    Returns:
        ``largest_step``: for each the median over the legs, in grey levels, at each of
        ``steps`` a leg; ``shrinks``: how many times smaller it gets from the first to the last;
        ``near_real`` (avatars): the share of the middle thirds' pictures that is as near to a
        training picture, by ``Judge.places``, as 99 % of unseen real ones are; and of the
        Generator's at the ``ends``, which are its usual samples.
    """
    keys = from_seeds(range(2 * legs), generator.nz).reshape(legs, 2, -1)
    largest: dict[str, list[float]] = {"generator": [], "memoriser": [], "fade": []}
    looked_at: dict[str, Images] = {}
    for steps in STEPS:
        latents = np.concatenate([walk_legs(ends, steps + 1, method) for ends in keys])
        drawn = draw(generator, latents.reshape(-1, generator.nz))
        known = Space(reduced).nearest(drawn, reals, neighbours=1)
        shape = (legs, steps + 1, *drawn.shape[1:])
        walks = {
            "generator": drawn.reshape(shape),
            "memoriser": reals.trained_on[known.index[:, 0]].reshape(shape),
        }
        walks["fade"] = np.stack([faded(leg[0], leg[-1], steps + 1) for leg in walks["generator"]])
        for name, pictures in walks.items():
            largest[name].append(steps_of(pictures)["largest_step"])
            if steps == STEPS[0]:
                middle = pictures[:, steps // 3 : steps + 1 - steps // 3]
                looked_at[name] = middle.reshape(-1, *drawn.shape[1:])
                if name == "generator":
                    looked_at["ends"] = pictures[:, [0, -1]].reshape(-1, *drawn.shape[1:])
    near = None
    if judge is not None:
        space = Space(judge.places)
        limit = np.quantile(space.distances(reals.reference, reals, reals.rows), USUAL)
        near = {"unseen_real": USUAL} | {
            name: round(float((space.distances(pictures, reals) <= limit).mean()), 3)
            for name, pictures in looked_at.items()
        }
    return {
        "legs": legs,
        "steps": STEPS,
        "largest_step": largest,
        "shrinks": {name: round(x[0] / max(x[-1], 0.01), 1) for name, x in largest.items()},
        "near_real": near,
    }


def faded(first: Images, last: Images, count: int) -> Images:
    """From picture to picture by mixing pixels: uint8 (H, W, C) -> (count, H, W, C)."""
    shares = np.linspace(0, 1, count, dtype=np.float32)[:, None, None, None]
    return np.rint((1 - shares) * first + shares * last).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Layers(OfWeights, Plot):
    """Show the Generator's feature maps for one latent, a row a layer, then the picture.

    The last row is the picture and its channels.
    """

    out: Path = Path("runs/plots/layers.png")
    seed: Seed = 0
    """Seed of the latent."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns the shape of each layer's output."""
        generator, _ = load_generator(self.weights)
        hidden, picture = feature_maps(generator, self.seed)
        rows = [as_tiles(strongest(maps, MAPS), generator.image_size) for maps in hidden]
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
    seeds: tuple[Seed, Seed, Seed, Seed] = (7, 26, 6, 37)
    """Top left, top right, bottom left, bottom right."""

    def result(self) -> dict[str, Any]:
        """Write the picture; returns its size and that of the map."""
        generator, _ = load_generator(self.weights)
        corners = from_seeds(self.seeds, generator.nz)
        latents = latent_map(blend(corners, SIDE, SIDE))
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


def latent_map(latents: Latents) -> Latents:
    """Spread latents over a map, ``START_PX`` apart, zeros between them.

    Args:
        latents: float32 (rows, columns, nz).

    Returns:
        float32 (nz, (rows - 1) * START_PX + 1, (columns - 1) * START_PX + 1).
    """
    rows, columns, nz = latents.shape
    spread = np.zeros((nz, (rows - 1) * START_PX + 1, (columns - 1) * START_PX + 1), np.float32)
    spread[:, ::START_PX, ::START_PX] = latents.transpose(2, 0, 1)
    return spread


@torch.no_grad()
def large_picture(generator: Generator, latents: Latents) -> Images:
    """A map float32 (nz, h, w) -> uint8 ((h + 3) * image_size / 4, (w + 3) * ..., C)."""
    picture: Images = to_uint8(generator.layers(torch.from_numpy(latents)[None]).numpy())[0]
    return picture
