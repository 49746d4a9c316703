"""Why the guidelines are what they are: short runs, each without one of them, side by side.

The guidelines of the paper (arXiv:1511.06434, section 3): strides in place of pooling, BatchNorm
in all layers but G's last and D's first, no fully connected hidden layers, LeakyReLU in D. The
length of a latent is looked at the same way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from handler.pixels import Images
from training import checkpoint
from training.config import Count, TrainConfig, differences, nearest, recipe_defaults
from training.data.avatars import load_reserved_avatars
from training.data.batches import identity_of
from training.data.decode import Pictures
from training.data.sources import load
from training.distributed import choose_device, choose_precision
from training.health import HEALTHY, pairwise_diversity
from training.journal import entries
from training.lab import distances
from training.lab.commands import Plot, UsageError, rows_of
from training.lab.judge import Judge, judge_of
from training.lab.run_plots import read_stats
from training.loop import DISTANCE_SEEDS, train
from training.networks import Discriminator, DoublingConv2d, Generator, HalvingConv2d, init_weights
from training.samples import generate
from training.sliced import sliced_wasserstein_by_scale
from training.start import SETTINGS, saved_settings, settled_precision, write_start
from training.step import new_networks
from training.weights import WeightsInfo

SAMPLES = 512  # of each variant, and as many real pictures
BATCH = 32  # real pictures an update
WIDTH = 16  # ngf and ndf
COLUMNS = 12  # pictures a row
HIDDEN = 1024  # width of a fully connected layer
Result = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """What is otherwise than in the paper.

    Attributes:
        what: in words.
        change: of new networks, in place.
        nz: length of a latent.
    """

    what: str
    change: Callable[[Generator, Discriminator], None] = lambda _g, _d: None
    nz: int = 100

    def networks(self, config: TrainConfig, channels: int) -> tuple[Generator, Discriminator]:
        """As ``step.new_networks``: what is not changed has the same initial weights."""
        generator, discriminator = new_networks(config, channels)
        self.change(generator, discriminator)
        return generator, discriminator


def _pool(generator: Generator, discriminator: Discriminator) -> None:
    for network in (generator, discriminator):
        for i, layer in enumerate(network.layers):
            if isinstance(layer, HalvingConv2d | DoublingConv2d):
                flat = nn.Conv2d(layer.in_channels, layer.out_channels, 3, 1, 1, bias=False)
                pair = (
                    (flat, nn.MaxPool2d(2))
                    if isinstance(layer, HalvingConv2d)
                    else (nn.Upsample(scale_factor=2), flat)
                )
                network.layers[i] = nn.Sequential(*pair).apply(init_weights)


def _norm_everywhere(generator: Generator, discriminator: Discriminator) -> None:
    *rest, last, tanh = generator.layers
    norm = nn.BatchNorm2d(generator.channels)
    generator.layers = nn.Sequential(*rest, last, norm.apply(init_weights), tanh)
    first, *rest = discriminator.layers
    assert isinstance(first, HalvingConv2d)
    norm = nn.BatchNorm2d(first.out_channels)
    discriminator.layers = nn.Sequential(first, norm.apply(init_weights), *rest)


def _norm_nowhere(generator: Generator, discriminator: Discriminator) -> None:
    """A gain and a bias for each feature map stay, for D would find nothing in grey pictures."""
    for network in (generator, discriminator):
        for i, layer in enumerate(network.layers):
            if isinstance(layer, nn.BatchNorm2d):
                width = layer.num_features
                affine = nn.Conv2d(width, width, 1, groups=width).apply(init_weights)
                nn.init.normal_(affine.weight, 1.0, 0.02)
                network.layers[i] = affine


def _relu_in_d(_generator: Generator, discriminator: Discriminator) -> None:
    for i, layer in enumerate(discriminator.layers):
        if isinstance(layer, nn.LeakyReLU):
            discriminator.layers[i] = nn.ReLU(inplace=True)


def _fully_connected(generator: Generator, discriminator: Discriminator) -> None:
    """One hidden layer more in each, as convolutions that cover all of their input."""
    projection, *rest = generator.layers
    assert isinstance(projection, nn.ConvTranspose2d)
    hidden = [
        nn.Conv2d(generator.nz, HIDDEN, 1, bias=False),
        nn.BatchNorm2d(HIDDEN),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(HIDDEN, projection.out_channels, 4, bias=False),
    ]
    generator.layers = nn.Sequential(*nn.Sequential(*hidden).apply(init_weights), *rest)
    *rest, logit = discriminator.layers
    assert isinstance(logit, nn.Conv2d)
    hidden = [
        nn.Conv2d(logit.in_channels, HIDDEN, 4, bias=False),
        nn.BatchNorm2d(HIDDEN),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(HIDDEN, 1, 1, bias=False),
    ]
    discriminator.layers = nn.Sequential(*rest, *nn.Sequential(*hidden).apply(init_weights))


VARIANTS = {
    "guidelines": Variant("the paper's guidelines"),
    "pooling": Variant("pooling and enlarging in place of strides", _pool),
    "norm-everywhere": Variant("BatchNorm in G's last and D's first layer too", _norm_everywhere),
    "norm-nowhere": Variant("no BatchNorm", _norm_nowhere),
    "relu-in-d": Variant("ReLU in place of LeakyReLU in D", _relu_in_d),
    "fully-connected": Variant("a fully connected hidden layer in G and in D", _fully_connected),
    "nz-2": Variant("2 numbers a latent", nz=2),
    "nz-10": Variant("10 numbers a latent", nz=10),
    "nz-400": Variant("400 numbers a latent", nz=400),
}


@dataclass(frozen=True, kw_only=True)
class Ablations(Plot):
    """Train short runs on avatars, each without one guideline, and put them side by side.

    The recipe is the paper's, but for batch and width, and R1, which holds D back on pictures as
    few as these. A run that is there is not done again, one that was stopped goes on.
    A dead run goes on too: how its samples look is what is wanted.
    """

    out: Path = Path("runs/plots/ablations.png")
    """The picture: a row of real pictures, then one a variant."""
    runs: Path = Path("runs/ablations")
    """Folder of the runs."""
    only: tuple[str, ...] = ()
    """Names of variants; all of them when omitted."""
    max_steps: Count = 600
    """Updates of each run."""

    def check(self) -> None:
        super().check()
        for name in self.only:
            if name not in VARIANTS:
                hint = nearest(name, VARIANTS)
                raise UsageError(f"--only {name}: {hint}known: {', '.join(VARIANTS)}")

    def result(self) -> Result:
        """Train what is missing, write the picture; returns the numbers of each variant."""
        config = settled_precision(
            replace(
                recipe_defaults("paper"),
                max_steps=self.max_steps,
                batch_size=BATCH,
                ngf=WIDTH,
                ndf=WIDTH,
                seed=0,  # the same pictures, and initial weights where nothing is changed
                r1_gamma=1.0,
                precision="auto",
                on_dead="warn",
            )
        )
        pictures = load(config, BATCH)
        real = load_reserved_avatars(config.image_size, config.background, SAMPLES).images
        about = {"data": pictures.source, "background": config.background}
        info = WeightsInfo(config.nz, config.ngf, real.shape[-1], config.image_size, about)
        judge = judge_of(info, self.runs)
        count = min(len(DISTANCE_SEEDS), len(real))
        # As a run logs it.
        apart = sliced_wasserstein_by_scale(pictures.images[:count], real[:count])
        rows = [real[:COLUMNS]]
        found: Result = {
            "real": {
                "diversity": round(pairwise_diversity(real), 3),
                "distance": round(fmean(apart.values()), 1),
                **_of_samples(pictures.images[: len(real)], real, judge),
            }
        }
        for name in self.only or VARIANTS:
            variant = VARIANTS[name]
            samples, said = self._run(
                variant, replace(config, nz=variant.nz, out=self.runs / name), pictures
            )
            rows.append(samples[:COLUMNS])
            found[name] = {"what": variant.what, **said, **_of_samples(samples, real, judge)}
        self.save_png(rows_of(rows))
        return {"out": str(self.out), "steps": self.max_steps, "rows": found}

    def _run(
        self, variant: Variant, config: TrainConfig, pictures: Pictures
    ) -> tuple[Images, Result]:
        """Samples of a run, and what it says of itself; it is done as far as it is missing."""
        out = config.out
        assert out is not None
        if (out / SETTINGS).exists() and (other := differences(saved_settings(out), config)):
            raise UsageError(f"{out} is another run ({'; '.join(other)}); give another --runs")
        out.mkdir(parents=True, exist_ok=True)
        write_start(config, out, identity_of(pictures))
        device = choose_device()
        outcome = train(
            replace(config, resume=checkpoint.exist(out / "checkpoints")),
            pictures,
            out,
            device,
            choose_precision(config.precision, device),
            networks=variant.networks,
        )
        if outcome.ended == "interrupted":
            raise KeyboardInterrupt
        generator, _ = variant.networks(config, pictures.images.shape[-1])
        generator.load_state_dict(load_file(outcome.weights))
        generator.to(memory_format=torch.channels_last).eval()  # as it was trained
        series = read_stats(out)
        said = {
            "verdict": _last_verdict(out),
            "diversity": round(series["diversity"][1][-1], 3),
            "distance": round(series["distance"][1][-1], 1),
        }
        return generate(generator, range(SAMPLES)), said


def _of_samples(samples: Images, real: Images, judge: Judge) -> Result:
    features = (judge.features(x) for x in (samples, real))
    return {
        "ms_ssim": round(distances.mean_pair_similarity(samples), 3),
        "frechet": round(distances.frechet_distance(*features), 2),
    }


def _last_verdict(folder: Path) -> str:
    said = [entry["verdict"] for entry in entries(folder / "stats.jsonl") if "verdict" in entry]
    return str(said[-1]).split(":")[0] if said else HEALTHY.kind
