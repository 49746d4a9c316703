"""The judge: a classifier that says what is on a generated avatar, trained once and kept.

It is trained on the labelled real pictures, so it needs no weights from elsewhere. One is
shipped, so that its verdicts and its features are the same everywhere; it knows the avatars of
one size and one background, whichever of them a Generator was trained on.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from handler.pixels import Images
from training.data.avatars import DEFAULT_COUNT, Labels, load_avatars, load_reserved_avatars
from training.data.batches import in_parts, to_pictures
from training.files import atomic_path
from training.lab.commands import UsageError
from training.weights import WeightsInfo, check_numbers, identify

Probabilities = dict[str, npt.NDArray[np.float32]]  # attribute -> (N, classes)

SHIPPED = Path("model_store/judge.safetensors")
SHIPPED_REFEREE = Path("model_store/referee.safetensors")
KEPT = Path("runs/judges")
SEED = 999  # draws the avatars that a judge learns
PICTURES = DEFAULT_COUNT
MEASURED_ON = 2000  # reserved avatars
EPOCHS = 5
SURE = 0.9  # probability from which an attribute counts as recognised
WIDTHS = (32, 64, 96, 128)  # feature maps of a judge's convolutions
REFEREE_SEED, REFEREE_WIDTHS = 998, (24, 48, 96, 160)
TILES = 64  # of the first grid
EASY = 0.99  # share of real pictures on which the judge is sure, from which an attribute counts
USUAL = 0.99  # quantile of the real pictures' distances that a clean tile stays below
BATCH = 64
_KEY = "avatar-classifier-2"  # the first had learned some of the avatars that are now reserved


@dataclass(frozen=True)
class Origin:
    """Which avatars a judge learned; ``seed`` and ``pictures`` as in ``load_avatars``.

    Attributes:
        widths: as of ``AttributeClassifier``.
        without_seed: seed of as many avatars that were left out; None: none were.
        start: draws its first weights.
    """

    image_size: int
    background: str
    seed: int
    pictures: int
    widths: Sequence[int] = WIDTHS
    without_seed: int | None = None
    start: int = 0


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier in eval mode, and its accuracy on real pictures that it has not seen."""

    classifier: AttributeClassifier
    accuracy: dict[str, float]
    origin: Origin

    @torch.no_grad()
    def features(self, images: Images) -> npt.NDArray[np.float32]:
        """The last feature maps, averaged over their places: float32 (N, dimensions)."""
        convolutions = self.classifier.features[:-1]
        parts = [convolutions(part).mean(dim=(2, 3)) for part in in_parts(images)]
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def places(self, images: Images) -> npt.NDArray[np.float32]:
        """What is where: the maps of every layer, each place's numbers scaled to the length 1, as
        LPIPS has them (arXiv:1801.03924, section 3), averaged to 4 x 4: float32 (N, dimensions).

        ``features`` does not see that a picture is two at once; these do.
        """
        parts = []
        for value in in_parts(images):
            layers = []
            for layer in self.classifier.features[:-1]:
                value = layer(value)
                if isinstance(layer, nn.ReLU):
                    layers.append(F.adaptive_avg_pool2d(F.normalize(value), 4).flatten(1))
            parts.append(torch.cat(layers, dim=1))
        return torch.cat(parts).numpy()

    def __str__(self) -> str:
        return f"classifier trained on {self.origin.pictures:,} labelled avatars"


def has_labels(info: WeightsInfo) -> bool:
    """Whether weights were trained on what the judge knows: RGB avatars, on a known background."""
    made = info.provenance
    return made.get("data") == "avatars" and "background" in made and info.channels == 3


def judge_of(info: WeightsInfo, weights: Path) -> Judge:
    """The judge for the pictures of a Generator: the shipped one if it fits, else one in ``KEPT``,
    trained if there is none.

    Args:
        info, weights: the Generator's, and the file that it came from.

    Raises:
        UsageError: the Generator was trained on something without labels, or the file is
            something else.
        WeightsError: the judge holds what no network computes with.
        OSError: not writable.
    """
    if not has_labels(info):
        raise UsageError(
            f"{weights} was trained on {info.provenance.get('data')!r} with {info.channels} "
            "channels; only RGB avatars have labels, which the judge needs"
        )
    wanted = Origin(info.image_size, info.provenance["background"], SEED, PICTURES)
    return _shipped_or_kept(SHIPPED, "", wanted)


def referee_of(judge: Judge) -> Judge:
    """A second opinion on the same avatars: the shipped one, or trained and kept in ``KEPT``.

    What was looked for with a judge may please that judge alone. The referee has nothing in common
    with it: other avatars, another start, other widths.
    """
    size, background = judge.origin.image_size, judge.origin.background
    start, without = REFEREE_SEED, judge.origin.seed
    wanted = Origin(size, background, start, PICTURES, REFEREE_WIDTHS, without, start)
    return _shipped_or_kept(SHIPPED_REFEREE, "referee-", wanted)


def _shipped_or_kept(path: Path, prefix: str, wanted: Origin) -> Judge:
    if path.is_file():
        shipped = _load(path)
        known = shipped.origin
        if (known.image_size, known.background) == (wanted.image_size, wanted.background):
            return shipped
    name = f"{prefix}{wanted.image_size}px-{wanted.background.lstrip('#')}.safetensors"
    return load_or_fit(KEPT / name, wanted)


def load_or_fit(path: Path, wanted: Origin) -> Judge:
    """Read the judge at ``path``; train it and keep it there if there is none.

    Raises:
        UsageError: the file is something else.
        OSError: not writable.
    """
    if path.exists():
        return _load(path)
    print(f"training the classifier, to be kept in {path}", file=sys.stderr)
    classifier = fit(*_avatars(wanted), EPOCHS, wanted.start, wanted.widths)
    reserved = load_reserved_avatars(wanted.image_size, wanted.background, MEASURED_ON)
    found = classifier.classify(reserved.images)
    right = alike(likeliest(found), reserved.labels)
    accuracy = {name: round(share, 4) for name, share in right.items()}
    classes = {name: found[name].shape[1] for name in found}
    about = {"classes": classes, "accuracy": accuracy, "origin": asdict(wanted)}
    with atomic_path(path) as beside:
        tensors = {name: value.contiguous() for name, value in classifier.state_dict().items()}
        beside.write_bytes(save(tensors, {_KEY: json.dumps(about)}))
    return Judge(classifier, accuracy, wanted)


def _avatars(origin: Origin) -> tuple[Images, Labels]:
    size, background = origin.image_size, origin.background
    pictures = load_avatars(size, background, origin.seed, origin.pictures)
    if origin.without_seed is None:
        return pictures.images, pictures.labels
    others = load_avatars(size, background, origin.without_seed, origin.pictures)
    known = {*zip(*others.labels.values(), strict=True)}
    cats = zip(*pictures.labels.values(), strict=True)
    new = np.array([cat not in known for cat in cats])
    return pictures.images[new], {name: values[new] for name, values in pictures.labels.items()}


def _load(path: Path) -> Judge:
    try:
        with safe_open(path, framework="pt") as opened:
            about: dict[str, Any] = json.loads((opened.metadata() or {})[_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        origin = Origin(**about["origin"])
        classifier = AttributeClassifier(about["classes"], 3, origin.image_size, origin.widths)
        classifier.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError):
        what = identify(path) if path.is_file() else "no file"
        raise UsageError(
            f"{path} is {what}, or not a classifier that this command kept; delete it, and it "
            "will be trained"
        ) from None
    check_numbers(str(path), tensors)
    return Judge(classifier.eval(), about["accuracy"], origin)


class AttributeClassifier(nn.Module):
    """Four stride-2 convolutions and one linear head an attribute.

    Args:
        classes: attribute name -> number of classes.
        channels: 1 or 3.
        image_size: height and width, px, a multiple of 16.
        widths: feature maps of the convolutions.
    """

    def __init__(
        self,
        classes: dict[str, int],
        channels: int,
        image_size: int,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((channels, *widths)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        size = widths[-1] * (image_size // 16) ** 2
        self.heads = nn.ModuleDict({name: nn.Linear(size, n) for name, n in classes.items()})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) float in [-1, 1] -> attribute name -> logits (N, classes)."""
        features = self.features(pictures)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def classify(self, images: Images) -> Probabilities:
        """Class probabilities of uint8 (N, H, W, C)."""
        parts = [self(part) for part in in_parts(images)]
        return {k: torch.cat([part[k] for part in parts]).softmax(dim=1).numpy() for k in parts[0]}


def fit(
    images: Images,
    labels: Labels,
    epochs: int,
    seed: int,
    widths: Sequence[int] = WIDTHS,
    classes: dict[str, int] | None = None,
) -> AttributeClassifier:
    """Train on labelled pictures (Adam, cross-entropy summed over the attributes).

    Args:
        images: uint8 (N, H, W, C).
        labels: attribute name -> int64 (N,), classes from 0.
        epochs: times that each picture is seen.
        seed: draws the first weights and the order of the pictures.
        widths: as of ``AttributeClassifier``.
        classes: how many each attribute has; those that occur when omitted.

    Returns:
        the classifier in eval mode.
    """
    torch.manual_seed(seed)
    classes = classes or {name: int(values.max()) + 1 for name, values in labels.items()}
    classifier = AttributeClassifier(classes, images.shape[-1], images.shape[1], widths)
    classifier.to(memory_format=torch.channels_last)  # a third faster on CPUs
    adam = torch.optim.Adam(classifier.parameters(), 1e-3)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            logits = classifier(to_pictures(images[chosen]))
            losses = [
                F.cross_entropy(logits[name], torch.from_numpy(labels[name][chosen]))
                for name in classes
            ]
            adam.zero_grad()
            torch.stack(losses).sum().backward()
            adam.step()
    return classifier.eval()


def likeliest(seen: Probabilities) -> Labels:
    """The classes: attribute -> int64 (N,)."""
    return {name: found.argmax(1) for name, found in seen.items()}


def alike(one: Labels, other: Labels) -> dict[str, float]:
    """For how many of N pictures both say the same, by attribute."""
    return {name: float((found == other[name]).mean()) for name, found in one.items()}


def by_attribute(
    samples: Probabilities, reference: Probabilities, labels: Labels
) -> dict[str, dict[str, Any]]:
    """The judge on samples and on real pictures.

    Args:
        samples, reference: what it sees on each.
        labels: attribute -> the truth about the reference.

    Returns:
        for each attribute its measures, and the classes that samples have most too often and
        most too seldom, each with both shares.
    """
    return {
        name: {
            "accuracy_on_real": float((reference[name].argmax(1) == labels[name]).mean()),
            "sure_on_real": float(_sure(reference[name]).mean()),
            "sure_on_samples": float(_sure(samples[name]).mean()),
            "histogram_distance": histogram_distance(samples[name], reference[name]),
            "classes_seen": len(np.unique(samples[name].argmax(1))),
            "classes": reference[name].shape[1],
            **_farthest(_shares(samples[name]), _shares(reference[name])),
        }
        for name in labels
    }


def histogram_distance(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Total variation distance of the predicted classes: 0 the same, 1 disjoint."""
    return float(np.abs(_shares(a) - _shares(b)).sum() / 2)


def _shares(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of each class among N pictures, (N, classes) -> (classes,)."""
    shares: npt.NDArray[np.float64] = np.bincount(
        probabilities.argmax(1), minlength=probabilities.shape[1]
    ) / len(probabilities)
    return shares


def _farthest(
    samples: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    excess = samples - reference
    return {
        name: {
            "class": index,
            "share_of_samples": round(float(samples[index]), 4),
            "share_of_real": round(float(reference[index]), 4),
        }
        for name, index in (
            ("most_too_often", int(excess.argmax())),
            ("most_too_seldom", int(excess.argmin())),
        )
    }


def clean_tiles(
    samples: Probabilities,
    reference: Probabilities,
    distances: npt.NDArray[np.float32],
    usual: npt.NDArray[np.float32],
) -> dict[str, Any]:
    """Two stand-ins for a person who counts the clean tiles of a grid.

    *Recognised*: the judge is sure of every attribute that it is sure of on nearly all real
    pictures. *Near real*: the distance to the nearest training picture, in the judge's features,
    is below what 99 % of unseen real pictures have; it sees grain and smears that leave the
    attributes readable.

    Args:
        samples, reference: what the judge sees on N samples and on M real pictures.
        distances: float32 (N,) of the samples to their nearest training pictures.
        usual: float32 (M,), the same of real pictures that were not trained on.

    Returns:
        for each: of the first 64 samples how many, and the shares of all samples and of the
        real pictures.
    """
    easy = [name for name, found in reference.items() if _sure(found).mean() >= EASY]
    limit = np.quantile(usual, USUAL)
    clean = {"near_real": (distances <= limit, usual <= limit)}
    if easy:
        clean["recognised"] = (_all_sure(samples, easy), _all_sure(reference, easy))
    return {"recognised_by": easy, "of": min(TILES, len(distances))} | {
        name: {
            "tiles": int(found[:TILES].sum()),
            "share_of_samples": round(float(found.mean()), 3),
            "share_of_real": round(float(real.mean()), 3),
        }
        for name, (found, real) in clean.items()
    }


def _sure(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = probabilities.max(axis=1) >= SURE
    return result


def _all_sure(found: Probabilities, names: list[str]) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = np.all([_sure(found[name]) for name in names], axis=0)
    return result
