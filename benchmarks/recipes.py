"""``python -m benchmarks.recipes``: what each candidate does to a short run on the avatars.

All candidates start from the same seed, see the same pictures and take the same number of
updates, with half the width of the default networks. Writes a table (Markdown, stdout) and a
picture of the samples, one row a candidate.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tyro

from handler.images import Images
from training import data
from training.config import TrainConfig
from training.devices import choose_device, choose_precision
from training.loop import train
from training.metrics import pairwise_diversity
from training.samples import generate, save_grid
from training.weights import load_generator

CANDIDATES: dict[str, dict[str, object]] = {
    "the tutorial's, averaged": {"r1_gamma": 0.0},
    "R1, gamma 1": {},
    "R1, gamma 5": {"r1_gamma": 5.0},
    "smoothing 0.1, noise 0.1, D at 1e-4": {
        "r1_gamma": 0.0, "label_smoothing": 0.1, "instance_noise": 0.1, "lr_d": 1e-4,
    },
    "R1, smoothing 0.1, noise 0.1": {"label_smoothing": 0.1, "instance_noise": 0.1},
    "spectral norm instead of D's BatchNorm": {"r1_gamma": 0.0, "d_norm": "spectral"},
    "DiffAugment": {"r1_gamma": 0.0, "diffaugment": True},
    "R1, DiffAugment": {"diffaugment": True},
    "R1, white background": {"background": "#ffffff"},
}  # fmt: skip


@dataclass(frozen=True)
class RecipesConfig:
    """Compare candidate recipes on the avatars."""

    steps: int = 800
    """Updates a candidate."""
    width: int = 32
    """ngf and ndf."""
    picture: Path = Path("docs/recipes.png")
    """Where the samples go, one row a candidate, in the order of the table."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every candidate and print the table."""
    config = tyro.cli(RecipesConfig, prog="python -m benchmarks.recipes", args=arguments)
    rows: list[Images] = []
    print("| candidate | Loss_D | Loss_G | D(x) | D(G(z)) | diversity (real) | verdict |")
    print("|---|---|---|---|---|---|---|")
    for name, settings in CANDIDATES.items():
        print(name, file=sys.stderr)
        line, samples = _measure(config, settings)
        print(f"| {name} | {line} |", flush=True)
        rows.append(samples)
    save_grid(config.picture, np.concatenate(rows), columns=16)


def _measure(config: RecipesConfig, settings: dict[str, object]) -> tuple[str, Images]:
    """One candidate's table cells and 16 samples; numbers are means over the last 100 updates."""
    recipe = replace(
        TrainConfig(
            max_steps=config.steps, ngf=config.width, ndf=config.width, log_every=1, on_dead="warn"
        ),
        **settings,  # type: ignore[arg-type]
    )
    pictures = data.load(
        recipe.data, data_root=recipe.data_root, image_size=recipe.image_size,
        channels=recipe.channels, background=recipe.background, seed=recipe.seed,
        workers=recipe.workers, batch_size=recipe.batch_size,
    )  # fmt: skip
    device = choose_device()
    with tempfile.TemporaryDirectory(prefix="dcgan-recipes-") as folder:
        out = Path(folder)
        outcome = train(recipe, pictures, out, device, choose_precision("auto", device))
        stats = [json.loads(text) for text in (out / "stats.jsonl").read_text().splitlines()]
        generator, _ = load_generator(outcome.weights)
    samples = generate(generator, range(256))
    last = [entry for entry in stats if "loss_d" in entry][-100:]
    means = [
        sum(entry[name] for entry in last) / len(last)
        for name in ("loss_d", "loss_g", "d_x", "d_g_z1")
    ]
    numbers = " | ".join(f"{mean:.2f}" for mean in means)
    diversity = pairwise_diversity(samples)
    real = pairwise_diversity(pictures.images[:256])
    verdict = outcome.verdict.words.split(":")[0]
    return f"{numbers} | {diversity:.2f} ({real:.2f}) | {verdict}", samples[:16]


if __name__ == "__main__":
    main()
