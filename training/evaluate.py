"""``python -m training.evaluate``: numbers for weights that were trained on the avatars.

Nothing here is an FID: the judge is a classifier trained on the labelled avatars, and the
distances are in pixels. Prints one JSON object; progress goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tyro

from handler.images import Images
from training.classifier import classify, fit
from training.data.avatars import ATTRIBUTES, load_avatars
from training.data.pictures import Pictures
from training.metrics import pairwise_diversity
from training.samples import generate, save_grid
from training.weights import WeightsError, load_generator

HELD_OUT = 2000  # real pictures that the classifier does not see
SURE = 0.9  # probability from which an attribute counts as recognised


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a Generator that was trained on the avatars."""

    weights: Path = Path("model_store/generator.safetensors")
    """generator.safetensors of a run on the avatars."""
    samples: int = 2000
    """Generated pictures, of seeds 0, 1, ..."""
    epochs: int = 5
    """Passes of the classifier over the real pictures."""
    neighbours: Path | None = None
    """Also write a picture here: samples beside their nearest real pictures."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    config = tyro.cli(EvaluateConfig, prog="python -m training.evaluate", args=arguments)
    try:
        print(json.dumps(evaluate(config), indent=2))
    except (WeightsError, FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """All numbers.

    Raises:
        ValueError: the weights were trained on something else than the avatars.
    """
    generator, info = load_generator(config.weights)
    made = info.provenance
    if made.get("data") != "avatars":
        raise ValueError(
            f"{config.weights} was trained on {made.get('data')!r}; only avatars have the labels "
            "that these numbers need"
        )
    trained_on = load_avatars(
        info.image_size, made["background"], int(made["seed"]), int(made["pictures"])
    )
    unseen = _unseen(trained_on, info.image_size, made["background"], int(made["seed"]) + 1)
    print("training the classifier on the real pictures", file=sys.stderr)
    classifier = fit(trained_on.images, trained_on.labels, config.epochs, seed=0)
    generated = generate(generator, range(config.samples))
    on_real, on_generated = classify(classifier, unseen.images), classify(classifier, generated)
    nearest, index = nearest_distances(generated, trained_on.images)
    if config.neighbours is not None:
        chosen = slice(0, 16)
        pairs = np.stack([generated[chosen], trained_on.images[index[chosen]]], axis=1)
        save_grid(config.neighbours, pairs.reshape(-1, *generated.shape[1:]), columns=8)
    return {
        "samples": config.samples,
        "reference": f"{len(unseen.images)} unseen avatars",
        "judge": f"classifier trained on {len(trained_on.images)} real avatars, "
        f"{config.epochs} epochs",
        "attributes": {
            name: {
                "accuracy_on_real": float((on_real[name].argmax(1) == unseen.labels[name]).mean()),
                "sure_on_real": _sure(on_real[name]),
                "sure_on_generated": _sure(on_generated[name]),
                "histogram_distance": _distance(on_generated[name], on_real[name]),
                "classes_seen": len(np.unique(on_generated[name].argmax(1))),
                "classes": on_real[name].shape[1],
            }
            for name in ATTRIBUTES
        },
        "diversity": {
            "generated": pairwise_diversity(generated[:512]),
            "real": pairwise_diversity(unseen.images[:512]),
        },
        "nearest_training_picture_rmse": {
            "generated": _quartiles(nearest),
            "unseen_real": _quartiles(nearest_distances(unseen.images, trained_on.images)[0]),
        },
    }


def _unseen(trained_on: Pictures, image_size: int, background: str, seed: int) -> Pictures:
    """HELD_OUT avatars, or a few less, that are not among the training pictures."""
    drawn = load_avatars(image_size, background, seed, HELD_OUT)
    known = set(zip(*(trained_on.labels[name].tolist() for name in ATTRIBUTES), strict=True))
    parts = zip(*(drawn.labels[name].tolist() for name in ATTRIBUTES), strict=True)
    fresh = np.array([combination not in known for combination in parts])
    labels = {name: values[fresh] for name, values in drawn.labels.items()}
    return Pictures(drawn.images[fresh], drawn.source, labels)


def nearest_distances(
    images: Images, reference: Images
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Distance of each image to its nearest reference picture, and which one that is.

    Args:
        images, reference: uint8 (N, H, W, C) and (M, H, W, C).

    Returns:
        root mean square difference in grey levels, float64 (N,), and indices (N,).
    """
    wanted = images.reshape(len(images), -1).astype(np.float32)
    best = np.full(len(wanted), np.inf)
    index = np.zeros(len(wanted), np.intp)
    for start in range(0, len(reference), 2048):
        block = reference[start : start + 2048].reshape(-1, wanted.shape[1]).astype(np.float32)
        squared = (
            np.square(wanted).sum(1)[:, None] - 2.0 * (wanted @ block.T) + np.square(block).sum(1)
        )
        nearest = squared.argmin(1)
        found = squared[np.arange(len(wanted)), nearest]
        closer = found < best
        best[closer], index[closer] = found[closer], start + nearest[closer]
    return np.sqrt(np.maximum(best, 0.0) / wanted.shape[1]), index


def _sure(probabilities: npt.NDArray[np.float32]) -> float:
    return float((probabilities.max(1) >= SURE).mean())


def _distance(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Total variation distance of the predicted classes: 0 the same, 1 disjoint."""
    classes = a.shape[1]
    histograms = [np.bincount(p.argmax(1), minlength=classes) / len(p) for p in (a, b)]
    return float(np.abs(histograms[0] - histograms[1]).sum() / 2)


def _quartiles(values: npt.NDArray[np.float64]) -> dict[str, float]:
    names = ("minimum", "quartile_1", "median", "quartile_3")
    return dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75)).round(2), strict=True))


if __name__ == "__main__":
    sys.exit(main())
