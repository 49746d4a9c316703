"""Labelled pictures of your own: a folder with one folder a class, or a table of attributes."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from handler.pixels import Images
from training.data.avatars import Labels
from training.data.cache import to_grey
from training.data.decode import PictureSpec, UnusablePictureError, decode, reasons
from training.lab.arithmetic import Concept
from training.lab.commands import UsageError

YES_NO = ({"yes", "no"}, {"true", "false"}, {"1", "0"}, {"1", "-1"})
YES = {"yes", "true", "1"}
MOST = 20_000  # pictures that are read: random ones
LEAST = 20  # pictures of a class, below which it is no concept
NAME_LENGTH = 40
FOLDER = "class"  # the attribute of pictures in folders; its classes need no more than their names


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures, and what is on them.

    Attributes:
        images: uint8 (N, H, W, C).
        labels: attribute -> int64 (N,), classes from 0.
        values: attribute -> what the classes are called.
    """

    images: Images
    labels: Labels
    values: dict[str, tuple[str, ...]]

    def concepts(self) -> dict[str, Concept]:
        """By short name: the classes that have enough pictures.

        A class of folders is called as its folder; an attribute of yes and no as the attribute;
        any other ``attribute-value``.
        """
        found: dict[str, Concept] = {}
        for attribute, values in self.values.items():
            counts = np.bincount(self.labels[attribute], minlength=len(values))
            yes_no = attribute != FOLDER and {value.lower() for value in values} in YES_NO
            for index, value in enumerate(values):
                if counts[index] < LEAST or (yes_no and value.lower() not in YES):
                    continue
                words = (value,) if attribute == FOLDER else (attribute, value)
                name = short_name((attribute,) if yes_no else words)
                found.setdefault(name, Concept(attribute, index))
        return found


def short_name(words: Iterable[str]) -> str:
    """``[a-z][a-z0-9-]{0,39}`` made of any text."""
    text = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")
    return (text if text[:1].isalpha() else f"is-{text}")[:NAME_LENGTH].rstrip("-")


def load_labelled(path: Path, spec: PictureSpec) -> Labelled:
    """Pictures of a folder with one folder a class, or of a .csv: ``file`` (seen from the table's
    folder), then one column an attribute.

    Args:
        spec: its size, channels and background.

    Returns:
        those that can be read; the others are named on stderr.

    Raises:
        UsageError: it is neither, or what is in it has no two classes.
    """
    table = _table(path) if path.suffix.lower() == ".csv" else _folders(path)
    if len(table) > MOST:
        table = [table[i] for i in np.random.default_rng(0).permutation(len(table))[:MOST]]
    images, kept = [], []
    for file, values in table:
        try:
            with reasons(), file.open("rb") as opened:
                pixels = decode(opened, spec).pixels
        except UnusablePictureError as error:
            print(f"left out: {file}: {error}", file=sys.stderr)
            continue
        images.append(pixels)
        kept.append(values)
    names = {
        attribute: tuple(sorted({values[attribute] for values in kept}))
        for attribute in (kept[0] if kept else ())
    }
    names = {attribute: values for attribute, values in names.items() if len(values) > 1}
    if not names:
        raise UsageError(
            f"--labels {path}: {len(kept)} pictures, of one class at most; give a folder with a "
            "folder of pictures for each of two classes or more, or a .csv with the columns file "
            "and attributes"
        )
    labels = {
        attribute: np.array([values.index(row[attribute]) for row in kept], np.int64)
        for attribute, values in names.items()
    }
    stacked = np.stack(images)
    return Labelled(to_grey(stacked) if spec.channels == "1" else stacked, labels, names)


def _folders(path: Path) -> list[tuple[Path, dict[str, str]]]:
    if not path.is_dir():
        raise UsageError(f"--labels {path} is no folder and no .csv")
    folders = sorted(f for f in path.iterdir() if f.is_dir() and f.name[0] != ".")
    return [
        (file, {FOLDER: folder.name})
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name[0] != "."
    ]


def _table(path: Path) -> list[tuple[Path, dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            rows = csv.DictReader(opened, restval="")
            attributes = [name for name in rows.fieldnames or () if name != "file"]
            if "file" not in (rows.fieldnames or ()) or not attributes:
                raise UsageError(
                    f"--labels {path} has the columns {rows.fieldnames}; give file and one or more "
                    "attributes"
                )
            return [
                (path.parent / row["file"], {a: row[a].strip() for a in attributes}) for row in rows
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--labels {path} cannot be read as a .csv: {error}") from None
