"""The classifier that tells what is on a generated avatar, trained once and kept in a file.

One is shipped, so that its verdicts and its features are the same everywhere; it knows the
avatars of one size and one background, whichever of them a Generator was trained on.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from training.data.avatars import DEFAULT_COUNT, load_avatars
from training.files import atomic_path
from training.lab.classifier import AttributeClassifier, classify, fit
from training.lab.usage import UsageError
from training.weights import WeightsInfo, check_numbers, identify

SHIPPED = Path("model_store/judge.safetensors")
KEPT = Path("runs/judges")
SEED = 999  # draws the avatars that a judge learns
PICTURES = DEFAULT_COUNT
HELD_OUT = 2000  # real pictures that measure the judge and do not train it
EPOCHS = 5
_KEY = "avatar-classifier"


@dataclass(frozen=True)
class Origin:
    """Which avatars a judge learned; ``seed`` and ``pictures`` as in ``load_avatars``."""

    image_size: int
    background: str
    seed: int
    pictures: int

    def shows_as(self, other: Origin) -> bool:
        """Whether both draw an avatar the same way, so that one judge serves for both."""
        return (self.image_size, self.background) == (other.image_size, other.background)


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier in eval mode, and its accuracy on real pictures that it has not seen."""

    classifier: AttributeClassifier
    classes: dict[str, int]
    accuracy: dict[str, float]
    origin: Origin

    def __str__(self) -> str:
        learned = self.origin.pictures - _held_out(self.origin.pictures)
        return f"classifier trained on {learned:,} labelled avatars"


def has_labels(info: WeightsInfo) -> bool:
    """Whether weights were trained on what the judge knows: RGB avatars."""
    return info.provenance.get("data") == "avatars" and info.channels == 3


def judge_of(path: Path | None, info: WeightsInfo, weights: Path) -> Judge:
    """The judge for the pictures of a Generator; trained and kept if there is none.

    Args:
        path: its file; when None the shipped one if it fits, else one in ``KEPT``.
        info, weights: the Generator's, and the file that it came from.

    Raises:
        UsageError: the Generator was trained on something without labels, or the file is
            something else, or knows avatars of another size or background.
        WeightsError: the judge holds what no network computes with.
        OSError: not writable.
    """
    if not has_labels(info):
        raise UsageError(
            f"{weights} was trained on {info.provenance.get('data')!r} with {info.channels} "
            "channels; only RGB avatars have labels, which the judge needs"
        )
    wanted = Origin(info.image_size, str(info.provenance["background"]), SEED, PICTURES)
    if path is None:
        path = KEPT / f"{wanted.image_size}px-{wanted.background.lstrip('#')}.safetensors"
        if SHIPPED.is_file() and (shipped := _load(SHIPPED)).origin.shows_as(wanted):
            return shipped
    return load_or_fit(path, wanted)


def load_or_fit(path: Path, wanted: Origin) -> Judge:
    """Read the judge at ``path``; train it and keep it there if there is none.

    Raises:
        UsageError: the file is something else, or knows avatars that look otherwise.
        OSError: not writable.
    """
    if path.exists():
        judge = _load(path)
        if not judge.origin.shows_as(wanted):
            raise UsageError(
                f"--classifier {path} knows avatars of {judge.origin.image_size} px on "
                f"{judge.origin.background}, the Generator draws them with {wanted.image_size} px "
                f"on {wanted.background}; give another path, and it will be trained"
            )
        return judge
    print(f"training the classifier, to be kept in {path}", file=sys.stderr)
    pictures = load_avatars(wanted.image_size, wanted.background, wanted.seed, wanted.pictures)
    known = len(pictures.images) - _held_out(len(pictures.images))
    labels = {name: values[:known] for name, values in pictures.labels.items()}
    classifier = fit(pictures.images[:known], labels, EPOCHS, seed=0)
    told = classify(classifier, pictures.images[known:])
    accuracy = {
        name: round(float((told[name].argmax(1) == values[known:]).mean()), 4)
        for name, values in pictures.labels.items()
    }
    classes = {name: told[name].shape[1] for name in told}
    about = {"classes": classes, "accuracy": accuracy, "origin": asdict(wanted)}
    with atomic_path(path) as beside:
        beside.write_bytes(save(classifier.state_dict(), {_KEY: json.dumps(about)}))
    return Judge(classifier, classes, accuracy, wanted)


def _held_out(pictures: int) -> int:
    return min(HELD_OUT, pictures // 2)


def _load(path: Path) -> Judge:
    try:
        with safe_open(path, framework="pt") as opened:
            about: dict[str, Any] = json.loads((opened.metadata() or {})[_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        origin = Origin(**about["origin"])
        classifier = AttributeClassifier(about["classes"], 3, origin.image_size)
        classifier.load_state_dict(tensors)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError):
        what = identify(path) if path.is_file() else "no file"
        raise UsageError(
            f"{path} is {what}, or not a classifier that this command kept; give --classifier "
            "another path, and it will be trained"
        ) from None
    check_numbers(str(path), tensors)
    return Judge(classifier.eval(), about["classes"], about["accuracy"], origin)
