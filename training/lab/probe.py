"""What the Discriminator knows of pictures, by a linear probe of its features (paper, section 5.1).

D learned without labels. If a linear classifier of its features needs fewer labels than one of raw
pixels, D has learned what is on the pictures; a D as it is before training says how much of that
its architecture alone gives.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from handler.pixels import Images
from training.data.avatars import Labels, load_avatars, load_reserved_avatars
from training.data.batches import in_parts
from training.lab.commands import Command, UsageError
from training.lab.filters import discriminators, find_checkpoint
from training.lab.judge import alike
from training.networks import Discriminator

POOLED_PX = 4
TESTED = 2000  # reserved avatars that are classified
PENALTIES = tuple(10.0**power for power in range(-4, 4))  # times the mean eigenvalue


@dataclass(frozen=True, kw_only=True)
class Probe(Command):
    """Classify labelled avatars linearly by D's features, by pixels, and by an untrained D's.

    Features are the paper's: the output of every activation, max-pooled to 4 x 4, side by side.
    """

    checkpoint: Path
    """A run's checkpoints/step_*.pt, which holds D; or the run's folder, for the newest."""
    labels: tuple[Annotated[int, Ge(10)], ...] = (100, 300, 1000, 3000)
    """Numbers of labelled avatars to learn from."""

    def result(self) -> dict[str, Any]:
        """Shares of tested avatars that are classified rightly, by features and number of labels,
        the mean of the attributes and each of them; ``chance`` is the commonest class's."""
        path, config, state = find_checkpoint(self.checkpoint)
        if config.data != "avatars" or config.channels == "1":
            raise UsageError(f"{path} is of a run on {config.data!r}; only RGB avatars have labels")
        size, background = config.image_size, config.background
        known = load_avatars(size, background, config.seed, max(self.labels))
        tested = load_reserved_avatars(size, background, TESTED)
        learned, untrained = discriminators(path, config, state, 3)
        accuracy: dict[str, dict[str, dict[str, float]]] = {}
        dimensions = {}
        for name, network in (("learned", learned), ("untrained", untrained), ("pixels", None)):
            print(f"features: {name}", file=sys.stderr)
            features = features_of(network, np.concatenate([known.images, tested.images]))
            train, test = features[: len(known.images)], features[len(known.images) :]
            dimensions[name] = features.shape[1]
            accuracy[name] = {}
            for count in self.labels:
                taught = {key: values[:count] for key, values in known.labels.items()}
                right = alike(classify(train[:count], taught, test), tested.labels)
                right = {"mean": float(np.mean([*right.values()])), **right}
                accuracy[name][str(count)] = {key: round(x, 3) for key, x in right.items()}
        return {
            "checkpoint": str(path),
            "tested": TESTED,
            "dimensions": dimensions,
            "accuracy": accuracy,
            "chance": {
                key: round(float(np.bincount(values).max() / len(values)), 3)
                for key, values in tested.labels.items()
            },
        }


@torch.no_grad()
def features_of(network: Discriminator | None, images: Images) -> Tensor:
    """All activations of D, max-pooled, or pixels: uint8 (N, H, W, C) -> float32 (N, numbers)."""
    parts = []
    for value in in_parts(images):
        if network is None:
            parts.append(value.flatten(1))
            continue
        pooled = []
        for layer in network.layers[:-1]:
            value = layer(value)
            if isinstance(layer, nn.LeakyReLU):
                pooled.append(F.adaptive_max_pool2d(value, POOLED_PX).flatten(1))
        parts.append(torch.cat(pooled, dim=1))
    return torch.cat(parts)


def classify(known: Tensor, labels: Labels, unknown: Tensor) -> dict[str, npt.NDArray[np.int64]]:
    """Linear classifiers, one an attribute: ridge regression of one-hot labels.

    Features are scaled to the mean 0 and the deviation 1 of the known ones. The penalty is the one
    with the best accuracy when each known picture is left out in turn, which has a closed form
    (Golub, Heath and Wahba, Technometrics 21, 1979, section 2, with one penalty for all).

    Args:
        known, unknown: float32 (n, numbers) and (m, numbers).
        labels: attribute -> int64 (n,), classes from 0.

    Returns:
        attribute -> int64 (m,), the classes of the unknown.
    """
    mean, spread = known.mean(0), known.std(0).clamp(min=1e-3)
    known, unknown = (known - mean) / spread, (unknown - mean) / spread
    # No more unknowns than pictures: weights are sums of them, by the n x n matrix of products.
    values, vectors = torch.linalg.eigh((known @ known.T).double())
    products = (unknown @ known.T).double() @ vectors
    found = {}
    for name, classes in labels.items():
        truth = torch.from_numpy(classes)
        turned = vectors.T @ F.one_hot(truth).double().sub(F.one_hot(truth).double().mean(0))
        best, chosen = -1.0, torch.empty(0)
        for penalty in PENALTIES:
            inverse = 1 / (values.clamp(min=0) + penalty * values.mean())
            dual = vectors @ (inverse[:, None] * turned)
            left_out = F.one_hot(truth) - dual / (vectors.square() @ inverse)[:, None]
            right = float((left_out.argmax(1) == truth).double().mean())
            if right > best:
                best, chosen = right, products @ (inverse[:, None] * turned)
        found[name] = (chosen + F.one_hot(truth).double().mean(0)).argmax(1).numpy()
    return found
