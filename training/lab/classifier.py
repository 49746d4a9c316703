"""A small classifier of the avatars' attributes: the judge of generated pictures.

It is trained on the labelled real pictures, so it needs no weights from elsewhere.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from handler.pixels import Images

BATCH = 64


class AttributeClassifier(nn.Module):
    """Four stride-2 convolutions and one linear head an attribute.

    Args:
        classes: attribute name -> number of classes.
        channels: 1 or 3.
        image_size: height and width, px, a multiple of 16.
    """

    def __init__(self, classes: dict[str, int], channels: int, image_size: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        size = widths[-1] * (image_size // 16) ** 2
        self.heads = nn.ModuleDict({name: nn.Linear(size, n) for name, n in classes.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) float in [-1, 1] -> attribute name -> logits (N, classes)."""
        features = self.features(pictures)
        return {name: head(features) for name, head in self.heads.items()}


def to_tensor(images: Images) -> Tensor:
    """uint8 (N, H, W, C) -> float32 (N, C, H, W) in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def fit(
    images: Images, labels: dict[str, npt.NDArray[np.int64]], epochs: int, seed: int
) -> AttributeClassifier:
    """Train on labelled pictures (Adam, cross-entropy summed over the attributes).

    Args:
        images: uint8 (N, H, W, C).
        labels: attribute name -> int64 (N,), classes from 0.

    Returns:
        the classifier in eval mode.
    """
    torch.manual_seed(seed)
    classes = {name: int(values.max()) + 1 for name, values in labels.items()}
    classifier = AttributeClassifier(classes, images.shape[-1], images.shape[1])
    adam = torch.optim.Adam(classifier.parameters(), 1e-3)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            logits = classifier(to_tensor(images[chosen]))
            losses = [
                F.cross_entropy(logits[name], torch.from_numpy(labels[name][chosen]))
                for name in classes
            ]
            adam.zero_grad()
            torch.stack(losses).sum().backward()
            adam.step()
    return classifier.eval()


@torch.no_grad()
def classify(classifier: AttributeClassifier, images: Images) -> dict[str, npt.NDArray[np.float32]]:
    """Class probabilities: attribute name -> float32 (N, classes)."""
    parts = [classifier(to_tensor(images[i : i + 256])) for i in range(0, len(images), 256)]
    return {
        name: torch.cat([part[name] for part in parts]).softmax(dim=1).numpy() for name in parts[0]
    }
