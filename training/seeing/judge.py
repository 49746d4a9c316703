"""The classifier that tells what is on a generated avatar, trained once and kept in a file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from training.classifier import AttributeClassifier, classify, fit
from training.data.avatars import load_avatars
from training.files import atomic_path
from training.seeing.canvas import SeeingError
from training.weights import WeightsInfo, identify

HELD_OUT = 2000  # real pictures that measure the judge and do not train it
EPOCHS = 5
_KEY = "avatar-classifier"


@dataclass(frozen=True)
class Origin:
    """Which avatars a classifier learned; those that the Generator was trained on."""

    image_size: int
    background: str
    seed: int
    pictures: int


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier in eval mode, and its accuracy on real pictures that it has not seen."""

    classifier: AttributeClassifier
    classes: dict[str, int]
    accuracy: dict[str, float]


def origin_of(info: WeightsInfo, path: Path) -> Origin:
    """The avatars that weights were trained on.

    Raises:
        SeeingError: they were trained on something else, which has no labels.
    """
    made = info.provenance
    if made.get("data") != "avatars" or info.channels != 3:
        raise SeeingError(
            f"{path} was trained on {made.get('data')!r} with {info.channels} channels; only RGB "
            "avatars have labels, which the arithmetic is judged by"
        )
    return Origin(
        info.image_size, str(made["background"]), int(made["seed"]), int(made["pictures"])
    )


def load_or_fit(path: Path, origin: Origin) -> Judge:
    """Read the classifier at ``path``; train it and keep it there if there is none.

    Raises:
        SeeingError: the file is something else, or learned other avatars.
        OSError: not writable.
    """
    if path.exists():
        return _load(path, origin)
    print(f"training the classifier, to be kept in {path}", file=sys.stderr)
    pictures = load_avatars(origin.image_size, origin.background, origin.seed, origin.pictures)
    known = max(len(pictures.images) - HELD_OUT, len(pictures.images) // 2)
    labels = {name: values[:known] for name, values in pictures.labels.items()}
    classifier = fit(pictures.images[:known], labels, EPOCHS, seed=0)
    told = classify(classifier, pictures.images[known:])
    accuracy = {
        name: round(float((told[name].argmax(1) == values[known:]).mean()), 4)
        for name, values in pictures.labels.items()
    }
    classes = {name: told[name].shape[1] for name in told}
    about = {"classes": classes, "accuracy": accuracy, "origin": asdict(origin)}
    with atomic_path(path) as beside:
        save_file(classifier.state_dict(), beside, metadata={_KEY: json.dumps(about)})
    return Judge(classifier, classes, accuracy)


def _load(path: Path, origin: Origin) -> Judge:
    try:
        with safe_open(path, framework="pt") as opened:
            about: dict[str, Any] = json.loads((opened.metadata() or {})[_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError):
        what = identify(path) if path.is_file() else "no file"
        raise SeeingError(
            f"--classifier {path} is {what}, or not a classifier that this command kept; give "
            "another path, and it will be trained"
        ) from None
    if about["origin"] != asdict(origin):
        raise SeeingError(
            f"--classifier {path} learned {about['origin']}, the Generator {asdict(origin)}; give "
            "another path, and it will be trained"
        )
    classifier = AttributeClassifier(about["classes"], 3, origin.image_size)
    classifier.load_state_dict(tensors)
    return Judge(classifier.eval(), about["classes"], about["accuracy"])
