"""This training loop beside the usual one, for ``python -m benchmarks.compare training``.

The usual one is written as tutorials and pytorch/examples' dcgan write it: a DataLoader that
decodes every picture again for each epoch, Sigmoid and BCELoss, the default memory layout, Adam
as it comes, losses read at every update. The networks, the pictures, the batch and the number of
threads are the same. The loops take turns, so a machine that slows down slows all; the result is
the median of the turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Generator as Source
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.command import Range, UsageError
from training.config import TrainConfig, recipe_defaults
from training.data.avatars import load_avatars
from training.data.batches import batches, to_pictures
from training.data.sources import load_folder
from training.distributed import arithmetic, choose_device, choose_precision
from training.networks import Discriminator, Generator, init_weights
from training.step import StepStats, Trainer

WIDTH, HEIGHT = 178, 218  # of the files, as CelebA's
BACKGROUND = "#c8d4e0"


@dataclass(frozen=True)
class TrainingConfig:
    """Measure updates a second of this training loop beside the usual one."""

    batch_size: Annotated[int, Range(2, 4096)] = 64
    """Pictures an update."""
    image_size: Literal[32, 64, 128, 256] = 64
    """Height and width, px."""
    width: Annotated[int, Range(1, 512)] = 64
    """ngf and ndf."""
    steps: Annotated[int, Range(1, 10_000)] = 6
    """Updates a turn."""
    rounds: Annotated[int, Range(1, 100)] = 5
    """Turns of each loop."""
    pictures: Annotated[int, Range(1, 200_000)] = 2000
    """JPEG files to train on."""
    workers: Annotated[int, Range(1, 256)] = 2
    """Processes that decode for the usual loop; threads that do, once, for this one."""


class UsualLoop:
    """Networks and optimisers of the usual loop; each turn has DataLoader workers of its own."""

    def __init__(self, config: TrainingConfig, folder: Path, device: torch.device) -> None:
        self.config, self.device = config, device
        size, width = config.image_size, config.width
        steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
        normalize = transforms.Normalize([0.5] * 3, [0.5] * 3)
        self.data = ImageFolder(folder, transforms.Compose([*steps, normalize]))
        self.generator = Generator(100, width, 3, size).apply(init_weights).to(device)
        self.discriminator = Discriminator(width, 3, size)
        self.discriminator.layers.append(nn.Sigmoid())
        self.discriminator.to(device)
        betas = (0.5, 0.999)
        self.adam_g = torch.optim.Adam(self.generator.parameters(), 2e-4, betas)
        self.adam_d = torch.optim.Adam(self.discriminator.parameters(), 2e-4, betas)
        self.criterion = nn.BCELoss()

    def source(self) -> Source[Tensor]:
        loader = DataLoader(
            self.data,
            self.config.batch_size,
            shuffle=True,
            num_workers=self.config.workers,
            drop_last=True,
        )
        while True:
            for images, _ in loader:
                yield images

    def update(self, batch: Tensor) -> None:
        count = len(batch)
        real = batch.to(self.device)
        self.discriminator.zero_grad()
        label = torch.full((count,), 1.0, device=self.device)
        output = self.discriminator(real)
        error_real = self.criterion(output, label)
        error_real.backward()
        d_x = output.mean().item()
        fake = self.generator(torch.randn(count, 100, device=self.device))
        label.fill_(0.0)
        output = self.discriminator(fake.detach())
        error_fake = self.criterion(output, label)
        error_fake.backward()
        d_g_z1 = output.mean().item()
        self.adam_d.step()
        self.generator.zero_grad()
        label.fill_(1.0)
        output = self.discriminator(fake)
        error_g = self.criterion(output, label)
        error_g.backward()
        d_g_z2 = output.mean().item()
        self.adam_g.step()
        self.line = (
            f"Loss_D: {(error_real + error_fake).item():.4f} Loss_G: {error_g.item():.4f} "
            f"D(x): {d_x:.4f} D(G(z)): {d_g_z1:.4f} / {d_g_z2:.4f}"
        )


class OurLoop:
    """``training.loop`` without what is due between updates; numbers are read as often."""

    def __init__(
        self,
        recipe: TrainConfig,
        images: npt.NDArray[np.uint8],
        device: torch.device,
        precision: torch.dtype,
    ) -> None:
        self.config, self.images, self.device = recipe, images, device
        self.trainer = Trainer(recipe, 3, device, precision)
        self.pending: list[StepStats] = []
        self.step = 0

    def source(self) -> Source[Tensor]:
        config, every = self.config, np.arange(len(self.images))
        for images in batches(self.images, every, config.batch_size, config.seed, self.step):
            yield to_pictures(images, self.device)

    def update(self, batch: Tensor) -> None:
        self.pending.append(self.trainer.step(batch, self.step))
        self.step += 1
        if self.step % self.config.log_every == 0:
            torch.stack([stats.loss_d for stats in self.pending]).tolist()
            self.pending.clear()


def take_turn(loop: UsualLoop | OurLoop, steps: int) -> float:
    """Seconds an update. The first one is not counted: workers start, memory is asked for."""
    with ExitStack() as held:
        if isinstance(loop, OurLoop):  # the usual one has what torch does unasked
            held.enter_context(arithmetic(loop.trainer.precision, deterministic=False))
        source = held.enter_context(closing(loop.source()))
        loop.update(next(source))
        _finish(loop.device)
        started = time.perf_counter()
        for _ in range(steps):
            loop.update(next(source))
        _finish(loop.device)
        return (time.perf_counter() - started) / steps


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_pictures(folder: Path, count: int) -> None:
    """Cats as JPEG files of CelebA's size, in a folder of that one class."""
    (folder / "cats").mkdir()
    margin = (HEIGHT - WIDTH) // 2
    for start in range(0, count, 500):
        some = load_avatars(HEIGHT, BACKGROUND, start, min(500, count - start)).images
        for i, image in enumerate(some[:, :, margin:-margin], start):
            Image.fromarray(image).save(folder / "cats" / f"{i:06}.jpg", quality=90)


def compare(config: TrainingConfig) -> dict[str, object]:
    """Medians of the turns of each loop.

    Raises:
        UsageError: too few pictures for a batch.
    """
    if config.pictures < config.batch_size:
        raise UsageError(
            f"pictures: seen {config.pictures}; a batch takes {config.batch_size}, give as many"
        )
    device = choose_device()
    settings: dict[str, Any] = {
        "batch_size": config.batch_size,
        "image_size": config.image_size,
        "ngf": config.width,
        "ndf": config.width,
        "workers": config.workers,
    }
    recipes = {name: replace(recipe_defaults(name), **settings) for name in ("paper", "stable")}
    precisions = {name: choose_precision(of.precision, device) for name, of in recipes.items()}
    with tempfile.TemporaryDirectory(prefix="dcgan-speed-") as name:
        folder = Path(name)
        write_pictures(folder, config.pictures)
        spec = replace(recipes["stable"], channels="3", background=BACKGROUND, cache=None)
        images = load_folder(folder, spec).images
        loops: dict[str, UsualLoop | OurLoop] = {
            "usual": UsualLoop(config, folder, device),
            **{n: OurLoop(recipes[n], images, device, precisions[n]) for n in recipes},
        }
        turns: dict[str, list[float]] = {name: [] for name in loops}
        for number in range(config.rounds):
            for name, loop in loops.items():
                turns[name].append(take_turn(loop, config.steps))
                took = f"{turns[name][-1]:.4f} s an update"
                print(f"turn {number + 1}, {name}: {took}", file=sys.stderr)
    result: dict[str, object] = {
        "device": str(device),
        "precision": str(precisions["stable"]),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "steps_a_turn": config.steps,
        "rounds": config.rounds,
        **settings,
    }
    for name, steps_s in turns.items():
        # Of each round by itself: its turns are neighbours in time.
        ratios = [usual / ours for usual, ours in zip(turns["usual"], steps_s, strict=True)]
        result[name] = {
            "steps_per_s": round(1 / median(steps_s), 3),
            "step_s": round(median(steps_s), 4),
            "slowest_and_fastest_s": [round(max(steps_s), 4), round(min(steps_s), 4)],
            "times_the_usual": round(median(ratios), 2),
        }
    return result
