"""``python -m benchmarks.recipes``: what each candidate does to a short run on the avatars.

All candidates start from the same seed, see the same pictures and take the same number of
updates, with half the width of the default networks. Writes a table (Markdown, stdout), a
picture of the samples, one row a candidate, and curves. Exit codes: 0, 2 bad usage, 130
interrupted.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import tyro

from handler.images import Images
from training import data
from training.config import TrainConfig
from training.devices import choose_device, choose_precision
from training.files import atomic_path
from training.loop import train
from training.metrics import pairwise_diversity
from training.samples import generate, save_grid
from training.sliced import sliced_wasserstein_by_scale
from training.weights import load_generator

REGULARISERS: dict[str, dict[str, object]] = {
    "the tutorial's, averaged": {"r1_gamma": 0.0},
    "R1, gamma 1": {},
    "R1, gamma 5": {"r1_gamma": 5.0},
    "smoothing 0.1, noise 0.1, D at 1e-4": {
        "r1_gamma": 0.0, "label_smoothing": 0.1, "instance_noise": 0.1, "lr_d": 1e-4,
    },
    "R1, smoothing 0.1, noise 0.1": {"label_smoothing": 0.1, "instance_noise": 0.1},
    "spectral norm instead of D's BatchNorm": {"r1_gamma": 0.0, "d_norm": "spectral"},
    "R1, gamma 0.1, no norm in D": {"r1_gamma": 0.1, "d_norm": "none"},
    "DiffAugment": {"r1_gamma": 0.0, "diffaugment": True},
    "R1, DiffAugment": {"diffaugment": True},
    "R1, white background": {"background": "#ffffff"},
}  # fmt: skip
LOSSES: dict[str, dict[str, object]] = {
    "R1, gamma 1": {},
    "R1, hinge": {"loss": "hinge"},
    "R1, lsgan": {"loss": "lsgan"},
    "hinge, spectral norm, D at 4e-4, G at 1e-4": {
        "loss": "hinge", "d_norm": "spectral", "r1_gamma": 0.0, "lr_d": 4e-4, "lr_g": 1e-4,
    },
    "R1, D at 4e-4, G at 1e-4": {"lr_d": 4e-4, "lr_g": 1e-4},
    "R1, uniform latents": {"latent": "uniform"},
}  # fmt: skip
PARTS: dict[str, dict[str, object]] = {
    "R1, gamma 1": {},
    "R1, gamma 0.05": {"r1_gamma": 0.05},
    "R1, gamma 1, no norm in D": {"d_norm": "none"},
    "R1, gamma 0.05, no norm in D": {"r1_gamma": 0.05, "d_norm": "none"},
    "no R1, no norm in D": {"r1_gamma": 0.0, "d_norm": "none"},
    "R1, no average": {"ema_decay": 0.0},
    "R1, rates falling over 200 updates": {"lr_decay_steps": 200},
    "smoothing 0.1 alone": {"r1_gamma": 0.0, "label_smoothing": 0.1},
    "noise 0.1 alone": {"r1_gamma": 0.0, "instance_noise": 0.1},
}
HEAD = """\
| candidate | Loss_D | Loss_G | D(x) | D(G(z)) | diversity (real) | distance | by scale | verdict |
|---|---|---|---|---|---|---|---|---|"""
SETS = {"regularisers": REGULARISERS, "losses": LOSSES, "parts": PARTS}


@dataclass(frozen=True)
class RecipesConfig:
    """Compare candidate recipes on the avatars."""

    candidates: Literal["regularisers", "losses", "parts"] = "regularisers"
    """Which of them; losses has learning rates and latents too, parts one change each."""
    steps: int = 800
    """Updates a candidate."""
    image_size: int = 64
    """Height and width, px: 32, 64, 128 or 256."""
    width: int = 32
    """ngf and ndf."""
    picture: Path = Path("docs/recipes.png")
    """Where the samples go, one row a candidate, in the order of the table."""
    curves: Path | None = None
    """Where diversity and distance to real pictures go, over the updates; None draws none."""


@dataclass(frozen=True)
class Measured:
    """Of one candidate: cells of the table, 16 samples, and what was logged."""

    cells: str
    samples: Images
    stats: list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every candidate and print the table."""
    config = tyro.cli(RecipesConfig, prog="python -m benchmarks.recipes", args=arguments)
    print(HEAD)
    measured: dict[str, Measured] = {}
    for name, settings in SETS[config.candidates].items():
        print(name, file=sys.stderr)
        measured[name] = _measure(config, settings)
        print(f"| {name} | {measured[name].cells} |", flush=True)
    save_grid(config.picture, np.concatenate([m.samples for m in measured.values()]), columns=16)
    if config.curves is not None:
        _draw_curves(config.curves, measured)


def _measure(config: RecipesConfig, settings: dict[str, object]) -> Measured:
    """One candidate; losses and opinions are means over the last 100 updates.

    The last distance of the run, and that of more samples by scale, from fine to coarse.
    """
    recipe = replace(
        TrainConfig(
            max_steps=config.steps, image_size=config.image_size, ngf=config.width,
            ndf=config.width, log_every=1, sample_every=50, on_dead="warn",
        ),
        **settings,  # type: ignore[arg-type]
    )  # fmt: skip
    pictures = data.load(
        recipe.data, data_root=recipe.data_root, image_size=recipe.image_size,
        channels=recipe.channels, background=recipe.background, seed=recipe.seed,
        workers=recipe.workers, batch_size=recipe.batch_size,
    )  # fmt: skip
    device = choose_device()
    with tempfile.TemporaryDirectory(prefix="dcgan-recipes-") as folder:
        out = Path(folder)
        outcome = train(recipe, pictures, out, device, choose_precision("auto", device))
        if outcome.ended == "interrupted":  # by Ctrl-C or SIGTERM, which a run takes for its end
            sys.exit(130)
        stats = [json.loads(text) for text in (out / "stats.jsonl").read_text().splitlines()]
        generator, _ = load_generator(outcome.weights)
    samples = generate(generator, range(256))
    last = [entry for entry in stats if "loss_d" in entry][-100:]
    means = [fmean(entry[name] for entry in last) for name in ("loss_d", "loss_g", "d_x", "d_g_z1")]
    distance = [entry["distance"] for entry in stats if "distance" in entry][-1]
    real = pairwise_diversity(pictures.images[:256])
    by_scale = sliced_wasserstein_by_scale(samples, pictures.images[:256])
    cells = " | ".join([
        *(f"{mean:.2f}" for mean in means),
        f"{pairwise_diversity(samples):.2f} ({real:.2f})",
        f"{distance:.0f}",
        ", ".join(f"{value:.0f}" for value in by_scale.values()),
        outcome.verdict.kind,
    ])  # fmt: skip
    return Measured(cells, samples[:16], stats)


def _draw_curves(path: Path, measured: dict[str, Measured]) -> None:
    from matplotlib.figure import Figure  # takes a second, and only curves need it

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = {"diversity": "samples from one another", "distance": "samples from real pictures"}
    for panel, (number, title) in zip(panels, titles.items(), strict=True):
        for name, candidate in measured.items():
            points = [(e["step"], e[number]) for e in candidate.stats if number in e]
            panel.plot(*zip(*points, strict=True), label=name)
        panel.set(title=title, xlabel="update", ylabel=number)
    panels[1].set_yscale("log")
    panels[0].legend(fontsize="small")
    with atomic_path(path) as beside:
        figure.savefig(beside, dpi=90)


if __name__ == "__main__":
    main()
